//! Reading what a client got.

/// One answer, interim ones included.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// With its empty line.
    pub(crate) head: String,
    /// Whether its body is there to its end.
    pub(crate) is_whole: bool,
}

impl Answer {
    /// Values of a header, in lower case.
    pub(crate) fn values(&self, name: &str) -> Vec<String> {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        let values = lines.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        values.map(|(_, value)| value.trim().to_ascii_lowercase()).collect()
    }
}

/// Takes answers apart. Bytes that are no answer are an error; of an incomplete head nothing is said.
///
/// # Errors
/// Says what is wrong with the bytes.
pub(crate) fn answers(bytes: &[u8], first_is_head: bool, has_ended: bool) -> Result<Vec<Answer>, String> {
    let mut found: Vec<Answer> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if has_ended { Err("a head without an end".to_owned()) } else { Ok(found) };
        };
        let (head, after) = rest.split_at(end + 4);
        let head = std::str::from_utf8(head).map_err(|_| "a head that is not UTF-8".to_owned())?;
        let mut answer = read_head(head)?;
        let is_bodyless = matches!(answer.status, 100..200 | 204 | 304)
            || (first_is_head && found.iter().all(|before| before.status < 200));
        rest = if answer.status == 101 {
            found.push(answer);
            return Ok(found);
        } else if is_bodyless {
            answer.is_whole = true;
            after
        } else {
            body(&mut answer, after, has_ended)?
        };
        let is_whole = answer.is_whole;
        found.push(answer);
        if !is_whole {
            break;
        }
    }
    Ok(found)
}

fn read_head(head: &str) -> Result<Answer, String> {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| format!("no status line: {first:?}"))?;
    for line in lines {
        let is_line = line.split_once(':').is_some_and(|(name, _)| !name.is_empty() && !name.contains(' '));
        if !is_line || line.contains(['\r', '\n', '\0']) {
            return Err(format!("no header line: {line:?}"));
        }
    }
    Ok(Answer { status, head: head.to_owned(), is_whole: false })
}

/// Looks for the end of a body; gives what follows.
fn body<'a>(answer: &mut Answer, after: &'a [u8], has_ended: bool) -> Result<&'a [u8], String> {
    let lengths = answer.values("content-length");
    let codings = answer.values("transfer-encoding");
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => {
            answer.is_whole = has_ended;
            Ok(&[])
        }
        ([length], []) => {
            let length: usize = length.parse().map_err(|_| format!("Content-Length {length:?}"))?;
            answer.is_whole = after.len() >= length;
            Ok(after.get(length..).unwrap_or_default())
        }
        ([], [coding]) if coding == "chunked" => chunks(answer, after),
        _ => Err(format!("an ambiguous answer: {:?}", answer.head)),
    }
}

fn chunks<'a>(answer: &mut Answer, mut after: &'a [u8]) -> Result<&'a [u8], String> {
    loop {
        let Some(end) = after.windows(2).position(|window| window == b"\r\n") else { return Ok(&[]) };
        let size = std::str::from_utf8(&after[..end]).unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(|_| format!("chunk size {size:?}"))?;
        if size == 0 {
            let last = &after[end..];
            let Some(end) = last.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(&[]) };
            answer.is_whole = true;
            return Ok(&last[end + 4..]);
        }
        match after.get(end + 2 + size..) {
            Some([b'\r', b'\n', rest @ ..]) => after = rest,
            Some([] | [b'\r']) | None => return Ok(&[]),
            Some(_) => return Err("a chunk without its line end".to_owned()),
        }
    }
}

#[test]
fn answers_are_told_apart_and_half_ones_known() {
    let statuses = |text: &str, ended| {
        answers(text.as_bytes(), false, ended)
            .map(|found| found.iter().map(|answer| (answer.status, answer.is_whole)).collect::<Vec<_>>())
    };
    let two = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 400 Bad\r\n\
               Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    assert_eq!(statuses(two, true), Ok(vec![(100, true), (200, true), (400, true)]));
    assert_eq!(statuses(&two[..two.len() - 1], true), Ok(vec![(100, true), (200, true), (400, false)]));
    assert_eq!(statuses("HTTP/1.1 200 OK\r\n\r\nabc", true), Ok(vec![(200, true)]));
    assert_eq!(statuses("HTTP/1.1 200 OK\r\n\r\nabc", false), Ok(vec![(200, false)]));
    assert_eq!(statuses("HTTP/1.1 200 OK\r\n", false), Ok(vec![]));
    for wrong in [
        "HTTP/1.1 200 OK\r\n",
        "hello\r\n\r\n",
        "HTTP/1.1 204 No\r\nX\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "HTTP/1.1 204 No\r\nA: b\nC: d\r\n\r\n",
    ] {
        assert!(statuses(wrong, true).is_err(), "{wrong}");
    }
}
