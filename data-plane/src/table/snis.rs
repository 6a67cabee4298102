//! Which certificate is shown for which name: one look-up a handshake, whatever the number of names.

use std::sync::Arc;

use equipoise_proto::{SniPattern, SniShape};
use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;
use rustls::sign::CertifiedKey;

/// What is shown for a name: at least one, best first.
pub type Shown = Arc<[Arc<CertifiedKey>]>;

type Map = GenericHashMap<Box<str>, Shown, foldhash::fast::RandomState, DefaultSharedPtr>;

/// All names. A clone shares everything.
#[derive(Debug, Clone, Default)]
pub struct Snis {
    exact: Map,
    /// By what follows `*`.
    suffixes: Map,
    /// By what is before `*`.
    prefixes: Map,
    /// `*`: whatever the name, and where there is none.
    any: Option<Shown>,
}

impl Snis {
    /// Shows something else for a name, or nothing any more.
    pub fn set(&mut self, name: &SniPattern, shown: Option<Shown>) {
        let (map, key) = match name.shape() {
            SniShape::Exact(name) => (&mut self.exact, name),
            SniShape::Suffix("") | SniShape::Prefix("") => {
                self.any = shown;
                return;
            }
            SniShape::Suffix(suffix) => (&mut self.suffixes, suffix),
            SniShape::Prefix(prefix) => (&mut self.prefixes, prefix),
        };
        match shown {
            Some(shown) => map.insert(key.into(), shown),
            None => map.remove(key),
        };
    }

    /// What is shown to a client that asks for `name` (lower case, without trailing dot), or for none: the name itself,
    /// then `*.example.com`, then `www.example.*`, then `*`. A wildcard stands for one label or a part of it; of several
    /// the longest counts.
    ///
    /// Source: Kong 3.10, `runloop/certificate`; in which a wildcard for a part of a label is accepted, and never found.
    pub fn find(&self, name: Option<&str>) -> Option<&Shown> {
        name.and_then(|name| self.named(name)).or(self.any.as_ref())
    }

    fn named(&self, name: &str) -> Option<&Shown> {
        let exact = self.exact.get(name);
        let by_suffix = || {
            // A wildcard is at least one character.
            let end = name.find('.').unwrap_or(name.len());
            (1..=end).find_map(|at| self.suffixes.get(name.get(at..)?))
        };
        let by_prefix = || {
            let start = name.rfind('.').map_or(0, |dot| dot + 1);
            (start..name.len()).rev().find_map(|at| self.prefixes.get(name.get(..at)?))
        };
        exact
            .or_else(|| (!self.suffixes.is_empty()).then(by_suffix).flatten())
            .or_else(|| (!self.prefixes.is_empty()).then(by_prefix).flatten())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tls::fixture;

    fn snis(names: &[&str]) -> (Snis, Vec<(String, Shown)>) {
        let mut snis = Snis::default();
        let pair = fixture::self_signed(&["a.test"]).certified();
        // The same for all: which one it is, is told by the list.
        let listed = names.iter().map(|name| ((*name).to_owned(), Shown::from([Arc::clone(&pair)])));
        let listed: Vec<_> = listed.collect();
        for (name, shown) in &listed {
            snis.set(&SniPattern::parse(name).unwrap(), Some(Arc::clone(shown)));
        }
        (snis, listed)
    }

    fn found(snis: &Snis, listed: &[(String, Shown)], name: Option<&str>) -> Option<String> {
        let shown = snis.find(name)?;
        listed.iter().find(|(_, one)| Arc::ptr_eq(one, shown)).map(|(name, _)| name.clone())
    }

    #[test]
    fn the_name_itself_goes_before_wildcards_and_the_left_one_before_the_right_one() {
        let names = ["www.a.com", "*.a.com", "www.a.*", "*", "*api.b.com", "*.c.com", "x.*", "x.y*"];
        let (mut snis, listed) = snis(&names);
        let cases = [
            (Some("www.a.com"), "www.a.com"),
            (Some("x.a.com"), "*.a.com"),
            (Some("www.a.org"), "www.a.*"),
            (Some("a.com"), "*"),
            // A wildcard stands for one label, as in certificates.
            (Some("y.x.a.com"), "*"),
            (Some("www.a.co.uk"), "*"),
            (Some("my-api.b.com"), "*api.b.com"),
            (Some("api.b.com"), "*"),
            (Some("c.com"), "*"),
            (Some(".c.com"), "*"),
            (Some("x.com"), "x.*"),
            (Some("x.yy"), "x.y*"),
            (Some("x.y"), "x.*"),
            (Some(""), "*"),
            (None, "*"),
        ];
        for (name, want) in cases {
            assert_eq!(found(&snis, &listed, name).as_deref(), Some(want), "{name:?}");
        }
        snis.set(&SniPattern::parse("*").unwrap(), None);
        assert_eq!(found(&snis, &listed, None), None);
        snis.set(&SniPattern::parse("www.a.com").unwrap(), None);
        assert_eq!(found(&snis, &listed, Some("www.a.com")).as_deref(), Some("*.a.com"));
    }

    proptest! {
        #[test]
        fn what_is_found_matches_and_an_exact_name_is_always_found(
            names in proptest::collection::btree_set("[*]?[ab.]{1,5}|[ab.]{1,5}[*]", 0..8),
            name in "[ab.]{0,6}",
        ) {
            let names: Vec<_> = names.iter().map(String::as_str).filter(|name| SniPattern::parse(name).is_ok()).collect();
            let (snis, listed) = snis(&names);
            let found = found(&snis, &listed, Some(&name));
            if let Some(found) = &found {
                prop_assert!(SniPattern::parse(found).unwrap().matches(&name), "{found} {name}");
            }
            if names.contains(&&*name) && !name.is_empty() {
                let exact = SniPattern::parse(&name).unwrap().to_string();
                let got = found.map(|found| SniPattern::parse(&found).unwrap().to_string());
                prop_assert!(name.ends_with('.') || got == Some(exact));
            }
        }
    }
}
