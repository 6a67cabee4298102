//! Numbers: in text, as Lua reads them; in JSON, whole ones in one form.

use serde_json::Value;

/// Decimal, exponent or `0x…`, with spaces around; `None` for anything else.
pub(super) fn number(text: &str) -> Option<Value> {
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        let is_hex = !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        return is_hex.then(|| i64::from_str_radix(hex, 16).ok()).flatten().map(|n| (sign * n).into());
    }
    // Also keeps out `inf` and `nan`, which the standard library would read.
    let is_decimal = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    if !is_decimal {
        return None;
    }
    match text.parse::<i64>() {
        Ok(whole) => Some(whole.into()),
        Err(_) => {
            let number = Value::Number(serde_json::Number::from_f64(text.parse().ok()?)?);
            Some(whole(&number).map_or(number, Value::from))
        }
    }
}

/// A number without fraction, however it was written (`80.0`, `8e1`); `None` past 2^53, where not every reader
/// of JSON stays exact.
pub(super) fn whole(value: &Value) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if let Some(whole) = value.as_i64() {
        return Some(whole);
    }
    let number = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= EXACT_MAX)?;
    #[expect(clippy::cast_possible_truncation, reason = "no fraction, and far below i64::MAX")]
    Some(number as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_read_as_lua_reads_them() {
        for (text, want) in [
            ("80", Some(json!(80))),
            (" 5", Some(json!(5))),
            ("-5", Some(json!(-5))),
            ("1e2", Some(json!(100))),
            ("0x10", Some(json!(16))),
            ("3.5", Some(json!(3.5))),
            ("80.0", Some(json!(80))),
            ("", None),
            ("x", None),
            ("inf", None),
            ("nan", None),
            ("1e999", None),
            ("0x", None),
            ("1 2", None),
            ("--1", None),
            ("0x-1", None),
            ("0xffffffffffffffffff", None),
        ] {
            assert_eq!(number(text), want, "{text}");
        }
    }
}
