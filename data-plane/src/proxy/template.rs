//! Bodies of the gateway's own answers: as the reference writes them, or as an operator does.
//!
//! Source: Kong 3.10 (`proxy.md` 7.2).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::settings::ErrorType;

/// Largest file of a template.
const TEMPLATE_BYTES_MAX: u64 = 64 * 1024;

const JSON: &str = "{\n  \"message\":\"%s\",\n  \"request_id\":\"%s\"\n}";
const PLAIN: &str = "%s\nrequest_id: %s\n";
const HTML: &str = "<!doctype html>\n<html>\n  <head>\n    <meta charset=\"utf-8\">\n    <title>Error</title>\n  </head>\n  \
                    <body>\n    <h1>Error</h1>\n    <p>%s.</p>\n    <p>request_id: %s</p>\n  </body>\n</html>\n";
const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<error>\n  <message>%s</message>\n  \
                   <requestid>%s</requestid>\n</error>\n";

/// Files in place of the reference's bodies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateFiles {
    /// For `application/json`.
    pub json: Option<PathBuf>,
    /// For `text/plain`.
    pub plain: Option<PathBuf>,
    /// For `text/html`.
    pub html: Option<PathBuf>,
    /// For `application/xml`.
    pub xml: Option<PathBuf>,
}

/// Why a file is no template.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It cannot be read, or is no text.
    #[error("cannot read the template of error bodies {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is too large.
    #[error("the template of error bodies {} is larger than {TEMPLATE_BYTES_MAX} bytes", path.display())]
    Size {
        /// Which.
        path: PathBuf,
    },
    /// It has more than two places to fill.
    #[error("the template of error bodies {} has more than two %s: the message and the request id", path.display())]
    Places {
        /// Which.
        path: PathBuf,
    },
}

/// What the bodies look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templates {
    json: Template,
    plain: Template,
    html: Template,
    xml: Template,
}

impl Default for Templates {
    fn default() -> Self {
        Self { json: built_in(JSON), plain: built_in(PLAIN), html: built_in(HTML), xml: built_in(XML) }
    }
}

fn built_in(text: &str) -> Template {
    Template::parse(text).expect("it has two places")
}

impl Templates {
    /// Reads the files; what has none stays the reference's.
    ///
    /// # Errors
    /// When one cannot be used.
    pub fn load(files: &TemplateFiles) -> Result<Self, TemplateError> {
        let or = |file: &Option<PathBuf>, otherwise| file.as_deref().map_or(Ok(otherwise), load);
        let Self { json, plain, html, xml } = Self::default();
        Ok(Self {
            json: or(&files.json, json)?,
            plain: or(&files.plain, plain)?,
            html: or(&files.html, html)?,
            xml: or(&files.xml, xml)?,
        })
    }

    /// A body of this type. The message is escaped, so that it cannot break out of its place.
    pub fn body(&self, kind: ErrorType, message: &str, id: &str) -> String {
        let (template, message) = match kind {
            ErrorType::Json => (&self.json, escape_json(message)),
            ErrorType::Plain => (&self.plain, message.to_owned()),
            ErrorType::Html => (&self.html, escape_markup(message)),
            ErrorType::Xml => (&self.xml, escape_markup(message)),
            ErrorType::Grpc => return String::new(),
        };
        template.fill(&message, id)
    }
}

fn load(path: &Path) -> Result<Template, TemplateError> {
    let unreadable = |source| TemplateError::File { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    // One byte more than may be, so that a larger one is seen.
    file.take(TEMPLATE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > TEMPLATE_BYTES_MAX {
        return Err(TemplateError::Size { path: path.to_owned() });
    }
    Template::parse(&text).ok_or_else(|| TemplateError::Places { path: path.to_owned() })
}

/// Text with two places, either of which may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Template {
    before: Box<str>,
    /// Behind the message, if that has a place.
    between: Option<Box<str>>,
    /// Behind the request id, if that has one.
    after: Option<Box<str>>,
}

impl Template {
    /// The first `%s` is the message's place, the second that of the request id; `%%` is a percent sign, and so is one that
    /// stands for itself.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = vec![String::new()];
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            let (plain, mark) = rest.split_at(at);
            let place = mark.starts_with("%s");
            if let Some(part) = parts.last_mut() {
                part.push_str(plain);
                if !place {
                    part.push('%');
                }
            }
            if place {
                parts.push(String::new());
            }
            let length = if place || mark.starts_with("%%") { 2 } else { 1 };
            rest = mark.get(length..).unwrap_or_default();
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(rest);
        }
        let mut parts = parts.into_iter().map(String::into_boxed_str);
        let template =
            Self { before: parts.next().unwrap_or_default(), between: parts.next(), after: parts.next() };
        parts.next().is_none().then_some(template)
    }

    fn fill(&self, message: &str, id: &str) -> String {
        let mut body = String::from(&*self.before);
        for (filling, behind) in [(message, &self.between), (id, &self.after)] {
            if let Some(behind) = behind {
                body.push_str(filling);
                body.push_str(behind);
            }
        }
        body
    }
}

fn escape_json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
}

/// Only what breaks markup: the built-in messages come out as the reference writes them, apostrophes and all.
fn escape_markup(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_break_out_of_its_body() {
        let (templates, message) = (Templates::default(), "a \"b\" <c> & 'd'");
        let body = |kind| templates.body(kind, message, "I");
        assert!(body(ErrorType::Json).contains("\"message\":\"a \\\"b\\\" <c> & 'd'\""));
        assert!(body(ErrorType::Html).contains("<p>a \"b\" &lt;c&gt; &amp; 'd'.</p>"));
        assert!(body(ErrorType::Xml).contains("<message>a \"b\" &lt;c&gt; &amp; 'd'</message>"));
    }

    #[test]
    fn the_places_are_filled_in_their_order() {
        for (text, want) in [
            ("no place", Some("no place")),
            ("", Some("")),
            ("%s", Some("M")),
            ("%s%s", Some("MI")),
            ("<%s> [%s].", Some("<M> [I].")),
            ("width: 100%; %d %%s %s", Some("width: 100%; %d %s M")),
            ("%", Some("%")),
            ("é%sé", Some("éMé")),
            ("%s %s %s", None),
        ] {
            let filled = Template::parse(text).map(|template| template.fill("M", "I"));
            assert_eq!(filled.as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn files_take_the_place_of_what_they_are_for() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let html = write("a.html", b"<b>%s</b> %s");
        let templates = Templates::load(&TemplateFiles { html, ..TemplateFiles::default() }).unwrap();
        assert_eq!(templates.body(ErrorType::Html, "a<b", "I"), "<b>a&lt;b</b> I");
        assert_eq!(templates.body(ErrorType::Plain, "a<b", "I"), "a<b\nrequest_id: I\n");
        let large = vec![b'x'; usize::try_from(TEMPLATE_BYTES_MAX).unwrap() + 1];
        for (path, wanted) in [
            (Some(directory.path().join("nowhere")), "cannot read"),
            (write("latin1", b"\xe4"), "cannot read"),
            (write("large", &large), "larger than"),
            (write("three", b"%s %s %s"), "more than two %s"),
        ] {
            let files = TemplateFiles { json: path.clone(), ..TemplateFiles::default() };
            let error = Templates::load(&files).unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains(path.unwrap().to_str().unwrap()), "{error}");
        }
    }
}
