//! Lists, tag filters, `/tags`.

use super::*;

fn ids(page: &Page) -> Vec<u128> {
    page.entities.iter().map(|entity| entity.id.as_u128()).collect()
}

fn size(size: usize) -> PageSize {
    PageSize::parse(Some(&size.to_string())).unwrap()
}

#[test]
fn lists_come_in_pages_without_gaps_or_repeats() {
    let mut world = World::new();
    for tags in [json!(["a"]), json!(["a", "b"]), json!(null), json!(["b"]), json!(["c", "a"])] {
        world.ok("POST /services", json!({"host": "h", "tags": tags}));
    }
    for (name, filter, want) in [
        ("all", None, vec![1, 2, 3, 4, 5]),
        ("one tag", Some("a"), vec![1, 2, 5]),
        ("all of", Some("a,b"), vec![2]),
        ("any of", Some("b/c"), vec![2, 4, 5]),
        ("unknown", Some("x"), vec![]),
    ] {
        let filter = filter.map(|filter| TagFilter::parse(filter).unwrap());
        for per_page in 1..=6 {
            let (mut got, mut offset) = (Vec::new(), None);
            loop {
                let page = world
                    .config
                    .page(Kind::Service, size(per_page), offset.as_deref(), filter.as_ref())
                    .unwrap();
                assert!(page.entities.len() <= per_page);
                got.extend(ids(&page));
                offset = page.offset;
                if offset.is_none() {
                    break;
                }
            }
            assert_eq!(got, want, "{name} by {per_page}");
        }
    }
    let page = world.config.page(Kind::Service, size(2), None, None).unwrap();
    // Unpadded base64 of `["<id>"]`.
    assert_eq!(page.offset.as_deref(), Some("WyIwMDAwMDAwMC0wMDAwLTAwMDAtMDAwMC0wMDAwMDAwMDAwMDIiXQ"));
}

#[test]
fn a_filter_of_several_tags_finds_what_looking_at_each_finds() {
    let mut world = World::new();
    // Every entity has another mix, so that each tag leads the others on.
    for number in 1..=60_u32 {
        let tags = [(2, "two"), (3, "three"), (5, "five")].into_iter();
        let tags: Vec<_> = tags.filter(|(of, _)| number % of == 0).map(|(_, tag)| tag).collect();
        world.ok("POST /services", json!({"host": "h", "tags": tags}));
    }
    for (filter, of) in
        [("two,three", 6), ("three,two", 6), ("five,three,two", 30), ("five,five", 5), ("two,none", 100)]
    {
        let filter = TagFilter::parse(filter).unwrap();
        for after in 0..60 {
            let before = (after > 0)
                .then(|| world.config.page(Kind::Service, size(after), None, None).unwrap().offset.unwrap());
            let offset = before;
            let page = world.config.page(Kind::Service, size(100), offset.as_deref(), Some(&filter)).unwrap();
            let want: Vec<_> = (after as u128 + 1..=60).filter(|number| number % of == 0).collect();
            assert_eq!(ids(&page), want, "{filter:?} after {after}");
        }
    }
}

#[test]
fn children_come_in_pages_targets_newest_first() {
    let mut world = world();
    for n in 0..3 {
        world.ok("POST /upstreams/u/targets", json!({"target": format!("t{n}")}));
        world.ok("POST /services/s/routes", json!({"paths": ["/"]}));
    }
    let targets = |size, offset| {
        world.config.page_of_children(Kind::Target, "upstream", Uuid::from_u128(3), size, offset).unwrap()
    };
    let first = targets(size(3), None);
    assert_eq!((ids(&first), first.offset.as_deref()), (vec![9, 7, 5], Some("3")));
    let last = targets(size(3), Some("3"));
    assert_eq!((ids(&last), last.offset), (vec![4], None));
    let all = world.config.children(Kind::Target, "upstream", Uuid::from_u128(3));
    assert_eq!(all.iter().map(|entity| entity.id.as_u128()).collect::<Vec<_>>(), [4, 5, 7, 9]);
    let routes = |offset: Option<&str>| {
        world.config.page_of_children(Kind::Route, "service", Uuid::from_u128(1), size(2), offset).unwrap()
    };
    let first = routes(None);
    assert_eq!(ids(&first), [2, 6]);
    assert_eq!(ids(&routes(first.offset.as_deref())), [8, 10]);
}

/// All rows, page by page.
fn rows(page: impl Fn(Option<&str>) -> Page<TagRow>) -> Vec<Value> {
    let (mut rows, mut offset) = (Vec::new(), None::<String>);
    loop {
        let got = page(offset.as_deref());
        rows.extend(got.entities.iter().map(TagRow::to_json));
        offset = got.offset;
        if offset.is_none() {
            return rows;
        }
    }
}

#[test]
fn tags_are_listed_by_entity_and_by_tag() {
    let mut world = World::new();
    world.ok("POST /services", json!({"host": "h", "tags": ["b", "a"]}));
    world.ok("POST /upstreams", json!({"name": "u", "tags": ["a"]}));
    // Another kind may have the same id.
    world.ok("POST /upstreams", json!({"name": "v", "id": id(1), "tags": ["a", "c"]}));
    let row = |n, entity: &str, tag: &str| json!({"entity_name": entity, "entity_id": id(n), "tag": tag});
    for per_page in 1..=6 {
        let config = &world.config;
        assert_eq!(
            rows(|offset| config.page_of_tags(size(per_page), offset).unwrap()),
            [
                row(1, "services", "b"),
                row(1, "services", "a"),
                row(1, "upstreams", "a"),
                row(1, "upstreams", "c"),
                row(2, "upstreams", "a")
            ],
            "{per_page}"
        );
        assert_eq!(
            rows(|offset| config.page_of_tag("a", size(per_page), offset).unwrap()),
            [row(1, "services", "a"), row(1, "upstreams", "a"), row(2, "upstreams", "a")],
            "{per_page}"
        );
    }
    let refusal = world.config.page_of_tag("a,b", size(1), None).unwrap_err().to_json();
    assert_eq!((&refusal["code"], &refusal["name"]), (&json!(10), &json!("invalid unique tag")));
}

#[test]
fn arguments_of_lists_are_judged() {
    let text = |result: Result<(), Refusal>| match result {
        Ok(()) => "ok".to_owned(),
        Err(refusal) => refusal.to_json()["message"].as_str().unwrap().to_owned(),
    };
    const RANGE: &str = "size must be an integer between 1 and 1000";
    for (size, want) in [
        ("1", "ok"),
        ("1000", "ok"),
        ("1e2", "ok"),
        ("0", RANGE),
        ("-1", RANGE),
        ("1001", RANGE),
        ("1.5", RANGE),
        ("x", "size must be a number"),
        ("", "size must be a number"),
    ] {
        assert_eq!(text(PageSize::parse(Some(size)).map(drop)), want, "{size}");
    }
    for (given, want) in [("0", 1), ("5000", 1000), ("7", 7), ("-3", 1)] {
        assert_eq!(PageSize::parse_lenient(Some(given)).unwrap().get(), want, "{given}");
    }
    for (tags, want) in [
        ("a", "ok"),
        ("a b,ü", "ok"),
        ("a,b,c,d,e", "ok"),
        ("", "invalid option (tags: cannot be null)"),
        ("a,b/c", "invalid option (tags: invalid filter syntax)"),
        ("a,,b", "invalid option (tags: invalid filter syntax)"),
        ("a\n", "invalid option (tags: invalid filter syntax)"),
        ("a,b,c,d,e,f", "invalid option (tags: cannot query more than 5 tags)"),
    ] {
        assert_eq!(text(TagFilter::parse(tags).map(drop)), want, "{tags}");
    }
    let config = Config::default();
    for (offset, want) in [
        ("x", "'x' is not a valid offset: bad base64 encoding"),
        ("eA", "'eA' is not a valid offset: bad json encoding"),
        ("WzVd", "'WzVd' is not a valid offset: bad json encoding"),
    ] {
        let got = config.page(Kind::Service, PageSize::DEFAULT, Some(offset), None).map(drop);
        assert_eq!(text(got), want, "{offset}");
    }
    let got = config.page_of_children(Kind::Target, "upstream", Uuid::nil(), PageSize::DEFAULT, Some("-1"));
    assert_eq!(text(got.map(drop)), "'-1' is not a valid offset: bad base64 encoding");
}
