//! `key-auth`: who calls, by a key in a header or in the query.
//!
//! Source: Kong 3.10's plugin.

use equipoise_proto::query;

use super::KeyHash;
use super::answer::Answer;
use super::run::At;

/// What is asked.
#[derive(Debug, Default)]
pub struct KeyAuth {
    /// Names of headers, whatever their case, and of arguments, whose case counts; the first that is there is looked at.
    pub key_names: Box<[Box<str>]>,
    /// Whether the upstream does not see the key.
    pub hides: bool,
    /// Id or username of the consumer who stands for whoever shows no good key.
    pub anonymous: Option<Box<str>>,
    /// Whether headers are looked at.
    pub in_header: bool,
    /// Whether the query is.
    pub in_query: bool,
    /// Whether OPTIONS is asked for a key.
    pub on_preflight: bool,
    /// `WWW-Authenticate`.
    pub challenge: Box<str>,
}

impl KeyAuth {
    /// What tells a client to show a key, with the realm that the operator wrote.
    pub fn challenge(realm: Option<&str>) -> Box<str> {
        realm.map_or_else(|| "Key".into(), |realm| format!("Key realm=\"{}\"", quoted(realm)).into())
    }
}

/// Text for between quotation marks.
///
/// Source: RFC 9110 5.6.4.
pub(super) fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Where a key was found.
enum Found {
    Nothing,
    Twice,
    Key(Vec<u8>),
}

pub(super) fn run(config: &KeyAuth, at: &mut At<'_>) -> Option<Answer> {
    if !config.on_preflight && at.asked.head.method == "OPTIONS" {
        return None;
    }
    // One proof is enough where several plugins let everybody pass.
    if config.anonymous.is_some() && at.is_proven() {
        return None;
    }
    let refuse = |text| Answer::unauthorized(text, &config.challenge);
    let found = config.key_names.iter().map(|name| (name, find(config, name, at)));
    let found = found.into_iter().find(|(_, found)| !matches!(found, Found::Nothing));
    let refusal = match found {
        None | Some((_, Found::Nothing)) => refuse("No API key found in request"),
        Some((_, Found::Twice)) => refuse("Duplicate API key found"),
        Some((name, Found::Key(key))) => {
            if config.hides {
                hide(name, at);
            }
            let caller = at.callers.by_key(&KeyHash::of(&key), at.asked.now.as_secs());
            match caller {
                _ if key.is_empty() => refuse("No API key found in request"),
                None => refuse("Unauthorized"),
                Some((consumer, credential)) => {
                    let id = credential.id;
                    at.authenticate(&std::sync::Arc::clone(consumer), Some((id, &id.to_string())));
                    return None;
                }
            }
        }
    };
    at.unproven(config.anonymous.as_deref(), refusal)
}

fn find(config: &KeyAuth, name: &str, at: &At<'_>) -> Found {
    let in_header = config.in_header.then(|| one(at.header(name).map(<[u8]>::to_vec)));
    match in_header {
        None | Some(Found::Nothing) if config.in_query => {
            let arguments = query::arguments(at.query().unwrap_or_default());
            // One without `=` has no value.
            one(arguments
                .filter(|argument| argument.name == name.as_bytes())
                .filter_map(|argument| argument.value))
        }
        None => Found::Nothing,
        Some(found) => found,
    }
}

fn one(mut values: impl Iterator<Item = Vec<u8>>) -> Found {
    match (values.next(), values.next()) {
        (None, _) => Found::Nothing,
        (Some(key), None) => Found::Key(key),
        (Some(_), Some(_)) => Found::Twice,
    }
}

fn hide(name: &str, at: &mut At<'_>) {
    at.passed.request.remove(name.to_owned());
    if let Some(query) = at.query()
        && let Some(rest) = query::without(query, name.as_bytes())
    {
        at.passed.query = Some((!rest.is_empty()).then_some(rest));
    }
}
