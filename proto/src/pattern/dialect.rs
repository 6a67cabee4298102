//! From PCRE's text to that of the `regex` crate, where both have the construct but write it differently.
//!
//! Source: table 1.7 of `proxy.md`. Not bridged, since the reference does not either: possessive quantifiers,
//! which are read as a repetition of a repetition.

use std::iter::Peekable;
use std::str::Chars;

use regex_syntax::ast::ErrorKind;

type Text<'a> = Peekable<Chars<'a>>;

/// Rewrites `pcre`: a `{` that begins no quantifier is a literal; in a class, `[`, `&`, `~` and a hyphen that
/// makes no range are literals, and `\b` is a backspace. Errors name a construct that this dialect has not.
pub(super) fn translate(pcre: &str) -> Result<String, &'static str> {
    let mut text = pcre.chars().peekable();
    let mut out = String::with_capacity(pcre.len() + 8);
    while let Some(next) = text.next() {
        match next {
            '\\' => escape(&mut text, &mut out)?,
            '[' => class(&mut text, &mut out)?,
            '{' => brace(&text, &mut out)?,
            '(' => {
                flags(&text)?;
                out.push('(');
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

/// Whether a quantifier is followed by a `+`: possessive in PCRE, a repetition of a repetition here, which may match more.
pub(super) fn is_possessive(pcre: &str) -> bool {
    let mut text = pcre.chars().peekable();
    let mut after_quantifier = false;
    let mut in_braces = false;
    while let Some(next) = text.next() {
        let was_quantifier = std::mem::replace(&mut after_quantifier, matches!(next, '*' | '+' | '?'));
        match next {
            '\\' => drop(text.next()),
            '[' => drop(class(&mut text, &mut String::new())),
            // Behind a group's bracket it is none.
            '(' if text.peek() == Some(&'?') => drop(text.next()),
            '{' => in_braces = matches!(brace_of(&text), Brace::Quantifier),
            '}' => after_quantifier = std::mem::take(&mut in_braces),
            '+' if was_quantifier => return true,
            '?' if was_quantifier => after_quantifier = false,
            _ => {}
        }
    }
    false
}

/// Whether PCRE would take what the parser stumbled over.
pub(super) fn is_pcre(error: &ErrorKind) -> bool {
    matches!(
        error,
        ErrorKind::UnsupportedBackreference
            | ErrorKind::UnsupportedLookAround
            | ErrorKind::EscapeUnrecognized
            | ErrorKind::FlagUnrecognized
            | ErrorKind::UnicodeClassInvalid
            | ErrorKind::ClassEscapeInvalid
            | ErrorKind::GroupNameInvalid
            | ErrorKind::NestLimitExceeded(_)
            | ErrorKind::CaptureLimitExceeded
    )
}

/// After a backslash outside a class.
fn escape(text: &mut Text<'_>, out: &mut String) -> Result<(), &'static str> {
    let Some(next) = text.next() else {
        out.push('\\');
        return Ok(());
    };
    refuse_escape(next)?;
    match next {
        'K' | 'G' => return Err("\\K and \\G are not supported"),
        'X' | 'C' => return Err("\\X and \\C are not supported"),
        // Literals in PCRE, word boundaries in the crate.
        '<' | '>' => out.push(next),
        other if !other.is_ascii() => out.push(other),
        other => out.extend(['\\', other]),
    }
    // Or `\x{41}` would become `\x\{41}`.
    if next == 'x' && text.peek() == Some(&'{') {
        out.push('{');
        text.next();
    }
    Ok(())
}

/// Escapes that mean something else to the crate, or nothing.
fn refuse_escape(letter: char) -> Result<(), &'static str> {
    match letter {
        'Q' | 'E' => Err("\\Q...\\E quoting is not supported"),
        'h' | 'H' | 'v' | 'V' | 'N' => Err("\\h, \\v and \\N are not supported, write a class"),
        'R' => Err("\\R is not supported"),
        'Z' => Err("\\Z is not supported, use \\z or $"),
        'e' | 'c' | 'o' => Err("\\e, \\c and \\o are not supported, use \\x"),
        'g' | 'k' | '0'..='9' => Err("backreferences and octal escapes are not supported"),
        'u' | 'U' | 'L' | 'l' => Err("\\u, \\U, \\l and \\L are not supported, use \\x"),
        _ => Ok(()),
    }
}

/// `(?R)` is a recursion in PCRE and a flag in the crate; `u` would bring Unicode back, `x` comments, of which
/// the rest of this module knows nothing.
fn flags(text: &Text<'_>) -> Result<(), &'static str> {
    let mut ahead = text.clone();
    if ahead.next() != Some('?') {
        return Ok(());
    }
    let flags: String =
        ahead.by_ref().take_while(|next| next.is_ascii_alphabetic() || *next == '-').collect();
    // `take_while` took what ended them: go again for it.
    let end = text.clone().nth(1 + flags.chars().count());
    match end {
        Some(')' | ':') if flags.contains('R') => Err("recursion is not supported"),
        Some(')' | ':') if flags.contains('u') => Err("the flag u is not supported"),
        Some(')' | ':') if flags.contains('x') => Err("the flag x is not supported"),
        _ => Ok(()),
    }
}

/// A `{` outside a class; what follows it stays in `text`.
fn brace(text: &Text<'_>, out: &mut String) -> Result<(), &'static str> {
    match brace_of(text) {
        Brace::WithoutLeast => return Err("{,n} is not supported, write {0,n}"),
        Brace::Quantifier => out.push('{'),
        Brace::Literal => out.push_str("\\{"),
    }
    Ok(())
}

/// What a `{` begins.
enum Brace {
    /// `{,3}`
    WithoutLeast,
    /// `{1}`, `{1,}`, `{1,2}`
    Quantifier,
    /// Nothing.
    Literal,
}

fn brace_of(text: &Text<'_>) -> Brace {
    let inside: String = text.clone().take_while(|next| *next != '}').collect();
    let is_closed = text.clone().nth(inside.chars().count()) == Some('}');
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let (from, to) = inside.split_once(',').map_or((&*inside, None), |(from, to)| (from, Some(to)));
    if is_closed && from.is_empty() && to.is_some_and(is_number) {
        Brace::WithoutLeast
    } else if is_closed && is_number(from) && to.is_none_or(|to| to.is_empty() || is_number(to)) {
        Brace::Quantifier
    } else {
        Brace::Literal
    }
}

/// One thing in a class.
enum Item {
    /// Can begin or end a range.
    One(String),
    /// A shorthand or a POSIX class.
    Many(String),
}

/// After the `[` of a class, to its end.
fn class(text: &mut Text<'_>, out: &mut String) -> Result<(), &'static str> {
    out.push('[');
    if text.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    // A `]` in first place is one of the class.
    if text.next_if_eq(&']').is_some() {
        out.push_str("\\]");
    }
    while let Some(next) = text.next() {
        if next == ']' {
            out.push(']');
            return Ok(());
        }
        let from = match item(next, text)? {
            Item::One(from) => from,
            Item::Many(many) => {
                out.push_str(&many);
                continue;
            }
        };
        out.push_str(&from);
        let mut ahead = text.clone();
        if ahead.next() == Some('-') && ahead.peek().is_some_and(|next| *next != ']') {
            text.next();
            let Some(next) = text.next() else { continue };
            match item(next, text)? {
                Item::One(to) => out.extend(["-", &to]),
                Item::Many(many) => out.extend(["\\-", &many]),
            }
        }
    }
    Ok(())
}

fn item(first: char, text: &mut Text<'_>) -> Result<Item, &'static str> {
    Ok(match first {
        '\\' => return class_escape(text),
        '[' if text.peek() == Some(&':') => match posix(text) {
            Some(name) => {
                for _ in 0..name.chars().count() - 1 {
                    text.next();
                }
                Item::Many(name)
            }
            None => Item::One("\\[".to_owned()),
        },
        '[' | '&' | '~' | '-' => Item::One(format!("\\{first}")),
        other => Item::One(other.to_string()),
    })
}

/// `[:alpha:]`, if that is what stands here.
fn posix(text: &Text<'_>) -> Option<String> {
    let mut ahead = text.clone().skip(1);
    let name: String = ahead.by_ref().take_while(|next| *next != ':').collect();
    let is_name = name.strip_prefix('^').unwrap_or(&name).bytes().all(|byte| byte.is_ascii_lowercase());
    (is_name && ahead.next() == Some(']')).then(|| format!("[:{name}:]"))
}

fn class_escape(text: &mut Text<'_>) -> Result<Item, &'static str> {
    let Some(next) = text.next() else { return Ok(Item::One("\\".to_owned())) };
    refuse_escape(next)?;
    Ok(match next {
        'd' | 'D' | 'w' | 'W' | 's' | 'S' => Item::Many(format!("\\{next}")),
        'b' => Item::One("\\x08".to_owned()),
        '<' | '>' => Item::One(next.to_string()),
        'x' if text.peek() == Some(&'{') => {
            let mut hex: String = text.by_ref().take_while(|next| *next != '}').collect();
            hex.push('}');
            Item::One(format!("\\x{hex}"))
        }
        'x' => Item::One(format!("\\x{}", text.by_ref().take(2).collect::<String>())),
        other if !other.is_ascii() => Item::One(other.to_string()),
        other => Item::One(format!("\\{other}")),
    })
}
