//! Tables in error messages, written as Lua writes them: clients and people compare these texts.

use serde_json::{Map, Value};

/// Words that Lua does not take as bare keys.
const KEYWORDS: [&str; 22] = [
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local",
    "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
];

/// One line: `{key="value",other={id="…"}}`, keys ascending.
pub(super) fn line(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, None);
    out
}

/// The parts of the message of a schema violation: `@entity` first, then two levels of keys, ascending.
pub(super) fn pieces(errors: &Map<String, Value>) -> Vec<String> {
    let mut pieces = Vec::new();
    if let Some(Value::Array(checks)) = errors.get("@entity") {
        pieces.extend(checks.iter().filter_map(Value::as_str).map(str::to_owned));
    }
    for (key, error) in sorted(errors) {
        if key == "@entity" {
            continue;
        }
        match error {
            Value::Object(below) => {
                pieces.extend(sorted(below).into_iter().map(|(sub, error)| piece(key, sub, error)));
            }
            Value::Array(below) => pieces.extend(
                below
                    .iter()
                    .enumerate()
                    .filter(|(_, error)| !error.is_null())
                    .map(|(at, error)| piece(key, &(at + 1).to_string(), error)),
            ),
            leaf => pieces.push(format!("{key}: {}", text(leaf))),
        }
    }
    pieces
}

fn piece(key: &str, sub: &str, error: &Value) -> String {
    let mut out = format!("{key}.{sub}: ");
    match error {
        Value::Object(_) | Value::Array(_) => write(&mut out, error, Some(0)),
        leaf => out.push_str(&text(leaf)),
    }
    out
}

fn text(leaf: &Value) -> String {
    leaf.as_str().map_or_else(|| leaf.to_string(), str::to_owned)
}

/// By key, whatever order the map keeps.
fn sorted(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

/// `indent` is the depth of a multi-line dump; `None` writes one line.
fn write(out: &mut String, value: &Value, indent: Option<usize>) {
    let entries: Vec<(Option<String>, &Value)> = match value {
        Value::Null => return out.push_str("null"),
        Value::Bool(_) | Value::Number(_) => return out.push_str(&value.to_string()),
        Value::String(string) => return quote(out, string),
        Value::Array(items) => {
            // Up to the first hole a Lua table is a list; what comes after has its position as key.
            let listed = items.iter().position(Value::is_null).unwrap_or(items.len());
            let key = |at: usize| (at >= listed).then(|| format!("[{}]", at + 1));
            items.iter().enumerate().filter(|(_, v)| !v.is_null()).map(|(at, v)| (key(at), v)).collect()
        }
        Value::Object(map) => sorted(map).into_iter().map(|(key, v)| (Some(bare(key)), v)).collect(),
    };
    let below = indent.map(|depth| depth + 1);
    out.push('{');
    for (at, (key, value)) in entries.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        newline(out, below);
        if let Some(key) = key {
            out.push_str(key);
            out.push_str(if indent.is_some() { " = " } else { "=" });
        }
        write(out, value, below);
    }
    if !entries.is_empty() {
        newline(out, indent);
    }
    out.push('}');
}

fn newline(out: &mut String, indent: Option<usize>) {
    if let Some(depth) = indent {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    }
}

fn bare(key: &str) -> String {
    let identifier = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !KEYWORDS.contains(&key);
    if identifier {
        return key.to_owned();
    }
    let mut out = "[".to_owned();
    quote(&mut out, key);
    out.push(']');
    out
}

fn quote(out: &mut String, string: &str) {
    out.push('"');
    for c in string.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\\n"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\000"),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_line_dumps_look_as_lua_writes_them() {
        for (name, value, want) in [
            ("string", json!({"name": "u"}), r#"{name="u"}"#),
            ("sorted", json!({"b": {"id": "x"}, "a": null}), r#"{a=null,b={id="x"}}"#),
            ("not an identifier", json!({"x-y": 1}), r#"{["x-y"]=1}"#),
            ("keyword", json!({"end": true}), r#"{["end"]=true}"#),
            ("list", json!({"services": [{"host": "h"}]}), r#"{services={{host="h"}}}"#),
            ("hole", json!([null, "b"]), r#"{[2]="b"}"#),
            ("quotes", json!({"a": "b\"c\\"}), r#"{a="b\"c\\"}"#),
        ] {
            assert_eq!(line(&value), want, "{name}");
        }
    }

    #[test]
    fn the_third_level_is_dumped_over_several_lines() {
        let errors =
            json!({"a": {"b": {"c": "bad", "@entity": ["both"]}, "d": "worse"}, "@entity": ["first"]});
        let want =
            ["first", "a.b: {\n  [\"@entity\"] = {\n    \"both\"\n  },\n  c = \"bad\"\n}", "a.d: worse"];
        assert_eq!(pieces(errors.as_object().unwrap()), want);
    }
}
