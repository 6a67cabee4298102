//! The cases, as the data has them.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use toml::Table;

use crate::bytes::{Step, bytes, steps};
use crate::frames::{self, Scheme};

/// One raw input, and what is required.
#[derive(Debug)]
pub(crate) struct Case {
    /// The file it is in.
    pub(crate) area: String,
    pub(crate) name: String,
    /// The address it is sent from: by that, what reaches the upstream is told apart.
    pub(crate) client: Ipv4Addr,
    pub(crate) port: Port,
    /// What the client shows of itself where it speaks TLS.
    pub(crate) shows: Shows,
    pub(crate) send: Vec<Step>,
    /// Whether that is HTTP/2, and read as such.
    pub(crate) is_frames: bool,
    /// What the upstream says to it; `None`: a good answer.
    pub(crate) reply: Option<Vec<Step>>,
    /// Whether a connection that carried this reply may carry another request.
    pub(crate) is_reusable: bool,
    pub(crate) want: Want,
    /// What may reach the upstream: whole requests, as [`crate::upstream`] writes them down.
    pub(crate) upstream: Vec<Vec<u8>>,
    /// How the one request begins that reaches the upstream in part: how far it comes is chance.
    pub(crate) upstream_begins: Option<Vec<u8>>,
    /// What is somewhere in the answer.
    pub(crate) says: Option<Vec<u8>>,
    /// What is nowhere in the answer.
    pub(crate) hides: Option<Vec<u8>>,
    /// Whether the client reads only once it has sent everything.
    pub(crate) reads_late: bool,
}

/// Where a case is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    Clear,
    Tls,
    /// Behind a header of the PROXY protocol.
    Proxied,
    /// In clear, where HTTP/2 is spoken by prior knowledge.
    Http2,
    /// Within TLS.
    Within,
    /// Within TLS, where both ends have agreed on HTTP/2.
    WithinHttp2,
}

/// What a client shows of itself: the node asks for a certificate, and lets those in who have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Shows {
    Nothing,
    /// A certificate that has run out.
    Late,
    /// One that is not good yet.
    Early,
    /// One that vouches for itself.
    Itself,
    /// One of an authority that nobody trusts.
    Strange,
    /// The same, of an authority that is called like the right one.
    Forged,
    /// One over more intermediates than may be.
    Far,
}

/// Whether cases are run as they say, or within TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    AsSaid,
    /// Those that say `clear` or `http2`; others are left out.
    Tls,
}

/// What the client has to see.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) statuses: Vec<u16>,
    /// Of HTTP/2, as [`frames::events`] writes them: one of each list.
    pub(crate) events: Vec<Vec<String>>,
    pub(crate) end: End,
}

/// How it has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The connection closes.
    Close,
    /// The connection closes in the middle of the last answer.
    Cut,
    /// The connection is reset.
    Reset,
    /// The connection carries another request.
    Open,
    /// TLS tells why, and the connection closes.
    Alert,
    /// The client does not look any further.
    Any,
}

impl Want {
    fn read(text: &str) -> Result<Self, String> {
        let mut want = Self { statuses: Vec::new(), events: Vec::new(), end: End::Any };
        for word in text.split_whitespace() {
            match word {
                "close" => want.end = End::Close,
                "cut" => want.end = End::Cut,
                "reset" => want.end = End::Reset,
                "open" => want.end = End::Open,
                "alert" => want.end = End::Alert,
                "any" => want.end = End::Any,
                events if events.contains([':', '|']) => {
                    want.events.push(events.split('|').map(ToOwned::to_owned).collect());
                }
                status => match status.parse() {
                    Ok(status) => want.statuses.push(status),
                    Err(_) => return Err(format!("`want` knows no `{status}`")),
                },
            }
        }
        Ok(want)
    }
}

/// Reads every file of these directories beside this one.
///
/// # Errors
/// Names file, case and rule.
pub(crate) fn read_all(dirs: &[&str], carrier: Carrier) -> Result<Vec<Case>, String> {
    let mut paths = Vec::new();
    for dir in dirs {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile").join(dir);
        let entries = fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        paths.extend(entries.flatten().map(|entry| entry.path()));
    }
    paths.sort();
    let mut cases = Vec::new();
    let mut names = BTreeSet::new();
    for path in paths {
        let area = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).map_err(|error| format!("{area}: {error}"))?;
        let file: Table = text.parse().map_err(|error| format!("{area}: {error}"))?;
        let found = file.get("case").and_then(|cases| cases.as_array());
        for case in found.ok_or_else(|| format!("{area}: no `[[case]]`"))? {
            let case = case.as_table().ok_or_else(|| format!("{area}: a case is a table"))?;
            let name = case.get("name").and_then(|name| name.as_str()).unwrap_or("without name");
            let read = read(&area, case, address(cases.len()), carrier);
            let read = read.map_err(|error| format!("{area}: {name}: {error}"))?;
            let Some(read) = read else { continue };
            if !names.insert((area.clone(), read.name.clone())) {
                return Err(format!("{area}: {name}: stands there twice"));
            }
            cases.push(read);
        }
    }
    Ok(cases)
}

/// An address of loopback for each case.
fn address(number: usize) -> Ipv4Addr {
    let [.., high, low] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// Keys that a case may have.
const KEYS: &[&str] = &[
    "name",
    "source",
    "port",
    "shows",
    "send",
    "frames",
    "reply",
    "reusable",
    "want",
    "upstream",
    "upstream_begins",
    "says",
    "hides",
    "reads_late",
];

/// `None`: it cannot be run by this carrier.
fn read(area: &str, case: &Table, client: Ipv4Addr, carrier: Carrier) -> Result<Option<Case>, String> {
    if let Some(unknown) = case.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(format!("unknown key `{unknown}`"));
    }
    let text = |key: &str| match case.get(key) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| format!("`{key}` is a string")),
    };
    let needed = |key: &str| text(key)?.ok_or_else(|| format!("`{key}` is missing"));
    let flag = |key: &str| match case.get(key) {
        None => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| format!("`{key}` is true or false")),
    };
    if needed("source")?.trim().is_empty() {
        return Err("`source` is empty".to_owned());
    }
    let raw = |key: &str| text(key)?.map(|text| bytes(text, client)).transpose();
    let reply = text("reply")?.map(|text| steps(text, client)).transpose()?;
    let upstream = match case.get("upstream") {
        // Whoever asks for a hostile reply reaches the upstream.
        None if reply.is_some() => vec![b"GET /reply HTTP/1.1\r\n\r\n".to_vec()],
        None => Vec::new(),
        Some(value) => {
            let lines = value.as_array().ok_or("`upstream` is a list")?;
            let line = |line: &toml::Value| bytes(line.as_str().ok_or("`upstream` lists strings")?, client);
            lines.iter().map(line).collect::<Result<_, _>>()?
        }
    };
    let port = match text("port")? {
        None | Some("clear") => Port::Clear,
        Some("tls") => Port::Tls,
        Some("proxied") => Port::Proxied,
        Some("http2") => Port::Http2,
        Some("within") => Port::Within,
        Some("within_http2") => Port::WithinHttp2,
        Some(other) => return Err(format!("no port `{other}`")),
    };
    let port = match (carrier, port) {
        (Carrier::Tls, Port::Clear) => Port::Within,
        // HTTP/1 is agreed on, too.
        (Carrier::Tls, Port::Http2) if case.contains_key("send") => Port::Within,
        (Carrier::Tls, Port::Http2) => Port::WithinHttp2,
        (Carrier::Tls, Port::Tls | Port::Proxied) => return Ok(None),
        (Carrier::Tls, Port::Within | Port::WithinHttp2) | (Carrier::AsSaid, _) => port,
    };
    let scheme = if port == Port::WithinHttp2 { Scheme::Https } else { Scheme::Http };
    Ok(Some(Case {
        area: area.to_owned(),
        name: needed("name")?.to_owned(),
        client,
        port,
        shows: match text("shows")? {
            None => Shows::Nothing,
            Some("late") => Shows::Late,
            Some("early") => Shows::Early,
            Some("itself") => Shows::Itself,
            Some("strange") => Shows::Strange,
            Some("forged") => Shows::Forged,
            Some("far") => Shows::Far,
            Some(other) => return Err(format!("nobody shows `{other}`")),
        },
        send: match (text("send")?, text("frames")?) {
            (Some(send), None) => steps(send, client)?,
            (None, Some(frames)) => frames::steps(frames, client, scheme)?,
            (None, None) if reply.is_some() => steps(r"GET /reply HTTP/1.1\r\nHost: a.com\r\n\r\n", client)?,
            _ => return Err("either `send` or `frames`".to_owned()),
        },
        is_frames: text("frames")?.is_some(),
        reply,
        is_reusable: flag("reusable")?,
        want: Want::read(needed("want")?)?,
        upstream,
        upstream_begins: raw("upstream_begins")?,
        says: raw("says")?,
        hides: raw("hides")?,
        reads_late: flag("reads_late")?,
    }))
}
