//! Layering of the sources: default < file < environment < flag.
//!
//! Pure: texts of files, the environment and the flags are arguments.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::keys::{self, Key, Process};
use crate::kong::{self, Treatment};
use crate::listen::Listen;
use crate::stream::StreamListen;
use crate::value::{Value, did_you_mean};

/// Where a value comes from, lowest first: a later one wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Built in.
    Default,
    /// A file in the reference's `key = value` format, with its line.
    KongFile(PathBuf, usize),
    /// Our own file.
    File(PathBuf),
    /// The reference's variable.
    KongEnvironment(String),
    /// Our own variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::KongFile(path, line) => write!(f, "{}:{line}", path.display()),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::KongEnvironment(name) | Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong: which key, where it stands, and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}: {what}")]
pub struct Problem {
    /// Where.
    pub source_name: String,
    /// Which key breaks which rule.
    pub what: String,
}

impl Problem {
    fn new(source: &Source, what: String) -> Self {
        Self { source_name: source.to_string(), what }
    }
}

/// The settings in force, each with its source.
#[derive(Debug, Clone)]
pub struct Settings {
    process: Process,
    values: BTreeMap<&'static str, (Value, Source)>,
    /// Things to say once at start: keys of the reference that have no effect here, or that nobody knows.
    pub warnings: Vec<String>,
}

/// Collects values from all sources, then [`Layers::resolve`]s them.
#[derive(Debug, Default)]
pub struct Layers {
    texts: BTreeMap<&'static str, (String, Source)>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Layers {
    /// Adds our own file (TOML, tables by area).
    pub fn file(&mut self, path: &Path, text: &str) {
        let source = Source::File(path.to_owned());
        let tables: toml::Table = match text.parse() {
            Ok(tables) => tables,
            Err(error) => {
                return self
                    .problems
                    .push(Problem::new(&source, format!("is not TOML: {}", error.message())));
            }
        };
        for (section, table) in tables {
            let toml::Value::Table(table) = table else {
                self.unknown(&source, &section);
                continue;
            };
            for (name, value) in table {
                let full = format!("{section}.{name}");
                let Some(key) = keys::find(&full) else {
                    self.unknown(&source, &full);
                    continue;
                };
                match toml_text(&value) {
                    Some(text) => self.put(key, text, source.clone()),
                    None => self.problems.push(Problem::new(
                        &source,
                        format!(
                            "`{full}` must be a string, a whole number, a boolean or an array of strings"
                        ),
                    )),
                }
            }
        }
    }

    /// Adds a file in the reference's `key = value` format.
    pub fn kong_file(&mut self, path: &Path, text: &str) {
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let source = Source::KongFile(path.to_owned(), at + 1);
            match line.split_once('=') {
                Some((name, value)) => self.kong(name.trim(), unquote(value.trim()), source),
                None => self.problems.push(Problem::new(&source, format!("`{line}` is not `key = value`"))),
            }
        }
    }

    /// Adds the environment: `EQUIPOISE_<SECTION>_<KEY>`, and the reference's `KONG_<KEY>`.
    /// A variable that Kubernetes makes for a Service (`EQUIPOISE_SERVICE_HOST`) is none of ours.
    pub fn environment(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            if !name.starts_with("EQUIPOISE_") && !name.starts_with("KONG_") {
                continue;
            }
            let Ok(value) = value.into_string() else {
                self.problems.push(Problem {
                    source_name: format!("environment {name}"),
                    what: "must be UTF-8".to_owned(),
                });
                continue;
            };
            if is_service_link(&name, &value) {
                self.warnings.push(format!("environment {name}: made for a Kubernetes Service, and ignored"));
            } else if let Some(rest) = name.strip_prefix("EQUIPOISE_") {
                let source = Source::Environment(name.clone());
                match keys::ALL.iter().find(|key| key.environment() == name) {
                    Some(key) => self.put(key, value, source),
                    None => {
                        let near = keys::ALL.iter().map(|key| key.environment()).collect::<Vec<_>>();
                        let hint = did_you_mean(&name, near.iter().map(String::as_str));
                        self.problems.push(Problem::new(
                            &source,
                            format!("unknown setting `{}`{hint}", rest.to_ascii_lowercase()),
                        ));
                    }
                }
            } else if let Some(rest) = name.strip_prefix("KONG_") {
                let source = Source::KongEnvironment(name.clone());
                self.kong(&rest.to_ascii_lowercase(), &value, source);
            }
        }
    }

    /// Adds a flag.
    pub fn flag(&mut self, key: &'static Key, value: String) {
        self.put(key, value, Source::Flag(format!("--{}", key.flag())));
    }

    /// Checks every value, also of keys that mean nothing to `process` (one file serves all), and keeps those that
    /// do.
    ///
    /// # Errors
    /// All problems of all sources, in the order in which they were met.
    pub fn resolve(mut self, process: Process) -> Result<Settings, Vec<Problem>> {
        let mut values = BTreeMap::new();
        for key in keys::ALL {
            let (text, source) =
                self.texts.remove(key.name).unwrap_or_else(|| (key.default.to_owned(), Source::Default));
            match key.kind.parse(&text) {
                Ok(value) if key.plane.means(process) => {
                    let listens: Vec<_> = match &value {
                        Value::Listen(listens) => listens.iter().collect(),
                        Value::StreamListen(streams) => streams.iter().map(|one| &one.listen).collect(),
                        _ => Vec::new(),
                    };
                    let said = listens.into_iter().find_map(Listen::without_effect);
                    self.warnings.extend(said.map(|said| format!("{source}: `{}`: {said}", key.name)));
                    values.insert(key.name, (value, source));
                }
                Ok(_) => {}
                Err(rule) => {
                    // Whoever wrote the reference's name should be told about that name.
                    let name = match (&source, key.kong) {
                        (Source::KongFile(..) | Source::KongEnvironment(_), Some(kong)) => kong,
                        _ => key.name,
                    };
                    self.problems.push(Problem::new(&source, format!("`{name}` = `{text}`: {rule}")));
                }
            }
        }
        if self.problems.is_empty() {
            Ok(Settings { process, values, warnings: self.warnings })
        } else {
            Err(self.problems)
        }
    }

    fn put(&mut self, key: &'static Key, text: String, source: Source) {
        match self.texts.get(key.name) {
            Some((_, earlier)) if *earlier > source => {}
            _ => {
                self.texts.insert(key.name, (text, source));
            }
        }
    }

    fn kong(&mut self, name: &str, value: &str, source: Source) {
        if let Some(key) = keys::ALL.iter().find(|key| key.kong == Some(name)) {
            return self.put(key, value.to_owned(), source);
        }
        match kong::treatment(name, value) {
            Treatment::NoEffect(why) => {
                self.warnings.push(format!("{source}: `{name}` has no effect here: {why}"));
            }
            Treatment::Refused(why) => self.problems.push(Problem::new(&source, format!("`{name}`: {why}"))),
            Treatment::Unknown => self.warnings.push(format!("{source}: `{name}` is not known, and ignored")),
        }
    }

    fn unknown(&mut self, source: &Source, name: &str) {
        let hint = did_you_mean(name, keys::ALL.iter().map(|key| key.name));
        self.problems.push(Problem::new(source, format!("unknown setting `{name}`{hint}")));
    }
}

fn toml_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(fact) => Some(fact.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// Whether Kubernetes made this variable for a Service whose name begins like ours.
///
/// Source: Kubernetes, "Accessing the Service: environment variables" (`{NAME}_SERVICE_HOST`, `{NAME}_SERVICE_PORT`
/// with or without a port's name, `{NAME}_PORT=tcp://...`, `{NAME}_PORT_80_TCP` with `_PROTO`, `_PORT`, `_ADDR`).
fn is_service_link(name: &str, value: &str) -> bool {
    let has_scheme = || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && has_scheme()
        || name.split_once("_PORT_").is_some_and(|(_, port)| {
            let (number, protocol) = port.split_once('_').unwrap_or((port, ""));
            let protocol = protocol.split('_').next().unwrap_or_default();
            number.bytes().all(|byte| byte.is_ascii_digit()) && ["TCP", "UDP", "SCTP"].contains(&protocol)
        })
}

fn unquote(text: &str) -> &str {
    ['"', '\''].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(text)
}

impl Settings {
    /// Which program they are of.
    pub const fn process(&self) -> Process {
        self.process
    }

    /// The value of a key and where it came from; `None` if the key means nothing to this process.
    pub fn get(&self, key: &Key) -> Option<&(Value, Source)> {
        self.values.get(key.name)
    }

    /// The keys whose values differ in `other`, in the order of the table.
    pub fn changed<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'static Key> + 'a {
        keys::ALL.iter().copied().filter(|key| self.value(key) != other.value(key))
    }

    /// Takes the value of a key from `other`.
    pub fn adopt(&mut self, other: &Self, key: &Key) {
        if let Some((name, value)) = other.values.get_key_value(key.name) {
            self.values.insert(name, value.clone());
        }
    }

    /// The value of a key as text, for people: never a secret.
    pub fn shown(&self, key: &Key) -> String {
        self.value(key).to_string()
    }

    /// Whether nobody set this key.
    pub fn is_default(&self, key: &Key) -> bool {
        self.get(key).is_none_or(|(_, source)| *source == Source::Default)
    }

    /// What is in force, under the reference's names.
    pub fn by_kong_name(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        keys::ALL.iter().filter_map(|key| Some((key.kong?, &self.get(key)?.0)))
    }

    fn value(&self, key: &Key) -> &Value {
        self.get(key).map_or(&Value::Unset, |(value, _)| value)
    }

    /// Of a [`crate::value::Kind::Bool`] key.
    pub fn bool(&self, key: &Key) -> bool {
        matches!(self.value(key), Value::Bool(true))
    }

    /// Of an `Int` key; `None` for `auto`.
    pub fn int(&self, key: &Key) -> Option<u64> {
        match self.value(key) {
            Value::Int(number) | Value::Size(number) => Some(*number),
            _ => None,
        }
    }

    /// Of an `Int` or `Size` key without `auto`, whose range fits the caller's type.
    pub fn number<T: TryFrom<u64>>(&self, key: &Key) -> T {
        self.int(key)
            .and_then(|number| T::try_from(number).ok())
            .expect("the key's range fits the type that reads it")
    }

    /// Of a `Duration` key.
    pub fn duration(&self, key: &Key) -> Duration {
        match self.value(key) {
            Value::Duration(time) => *time,
            _ => Duration::ZERO,
        }
    }

    /// Of a `Text` or `OneOf` key; `None` when not set.
    pub fn text(&self, key: &Key) -> Option<&str> {
        match self.value(key) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Of a `Secret` key, in clear; `None` when not set.
    pub fn secret(&self, key: &Key) -> Option<&str> {
        match self.value(key) {
            Value::Secret(secret) => Some(secret.reveal()),
            _ => None,
        }
    }

    /// Of a `List` key.
    pub fn list(&self, key: &Key) -> &[String] {
        match self.value(key) {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Of a `Listen` key; empty for `off`.
    pub fn listen(&self, key: &Key) -> &[Listen] {
        match self.value(key) {
            Value::Listen(addresses) => addresses,
            _ => &[],
        }
    }

    /// Of a `StreamListen` key; empty for `off`.
    pub fn stream_listen(&self, key: &Key) -> &[StreamListen] {
        match self.value(key) {
            Value::StreamListen(addresses) => addresses,
            _ => &[],
        }
    }

    /// Where this machine itself reaches the first address of a `Listen` key; `None` when that is off.
    pub fn local_address(&self, key: &Key) -> Option<SocketAddr> {
        self.listen(key).first().map(Listen::local)
    }

    /// Of a `Path` key; `None` when not set.
    pub fn path(&self, key: &Key) -> Option<&Path> {
        match self.value(key) {
            Value::Path(path) => Some(path),
            _ => None,
        }
    }

    /// A problem found by whoever reads a key more closely than its kind does.
    pub fn problem(&self, key: &Key, rule: impl fmt::Display) -> Problem {
        let source = self.get(key).map_or(&Source::Default, |(_, source)| source);
        Problem::new(source, format!("`{}` = `{}`: {rule}", key.name, self.value(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{ADMIN_LISTEN, LOG_LEVEL, PROXY_LISTEN};

    fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn resolve(layers: Layers) -> Result<Settings, Vec<Problem>> {
        layers.resolve(Process::Standalone)
    }

    fn text(settings: &Settings, key: &Key) -> String {
        settings.value(key).to_string()
    }

    #[test]
    fn later_sources_win() {
        let mut layers = Layers::default();
        layers.flag(&ADMIN_LISTEN, "127.0.0.1:4".into());
        layers.environment(env(&[
            ("EQUIPOISE_ADMIN_LISTEN", "127.0.0.1:3"),
            ("KONG_PROXY_LISTEN", "127.0.0.1:2"),
            ("KONG_LOG_LEVEL", "debug"),
        ]));
        layers.file(Path::new("a.toml"), "[proxy]\nlisten = \"127.0.0.1:1\"\n[log]\nlevel = \"warn\"");
        let settings = resolve(layers).unwrap();
        assert_eq!(text(&settings, &ADMIN_LISTEN), "127.0.0.1:4");
        assert_eq!(text(&settings, &PROXY_LISTEN), "127.0.0.1:2");
        assert_eq!(settings.get(&LOG_LEVEL).unwrap().1.to_string(), "environment KONG_LOG_LEVEL");
    }

    #[test]
    fn our_variable_beats_the_references() {
        let mut layers = Layers::default();
        layers.environment(env(&[
            ("EQUIPOISE_ADMIN_LISTEN", "127.0.0.1:3"),
            ("KONG_ADMIN_LISTEN", "127.0.0.1:2"),
        ]));
        assert_eq!(text(&resolve(layers).unwrap(), &ADMIN_LISTEN), "127.0.0.1:3");
    }

    #[test]
    fn every_problem_is_reported_with_its_place_and_the_nearest_key() {
        let mut layers = Layers::default();
        layers.file(Path::new("a.toml"), "[admin]\nlisen = \"x\"\n[proxy]\nlisten = 5.5");
        layers.environment(env(&[("EQUIPOISE_PROXY_LISEN", "y"), ("EQUIPOISE_LOG_LEVEL", "loud")]));
        let problems = resolve(layers).unwrap_err();
        let text: Vec<_> = problems.iter().map(Problem::to_string).collect();
        assert_eq!(
            text,
            [
                "a.toml: unknown setting `admin.lisen`; did you mean `admin.listen`?",
                "a.toml: `proxy.listen` must be a string, a whole number, a boolean or an array of strings",
                "environment EQUIPOISE_PROXY_LISEN: unknown setting `proxy_lisen`; did you mean \
                 `EQUIPOISE_PROXY_LISTEN`?",
                "environment EQUIPOISE_LOG_LEVEL: `log.level` = `loud`: must be one of debug, info, notice, \
                 warn, error, crit, alert, emerg",
            ]
        );
    }

    #[test]
    fn variables_of_kubernetes_services_are_ignored_with_a_warning() {
        let made = env(&[
            ("EQUIPOISE_SERVICE_HOST", "10.0.0.1"),
            ("EQUIPOISE_SERVICE_PORT", "8001"),
            ("EQUIPOISE_SERVICE_PORT_ADMIN", "8001"),
            ("EQUIPOISE_PORT", "tcp://10.0.0.1:8001"),
            ("EQUIPOISE_NODE_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
            ("EQUIPOISE_NODE_PORT_8000_TCP_ADDR", "10.0.0.1"),
            ("KONG_PROXY_PORT_80_TCP_PROTO", "tcp"),
        ]);
        let count = made.len();
        let mut layers = Layers::default();
        layers.environment(made);
        assert_eq!(resolve(layers).unwrap().warnings.len(), count);
        let mut layers = Layers::default();
        layers.environment(env(&[("EQUIPOISE_PORT", "8001"), ("EQUIPOISE_NODE_PORT_X_TCP", "y")]));
        assert_eq!(resolve(layers).unwrap_err().len(), 2, "these nobody else made");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_not_utf_8_stops_the_start_only_under_our_names() {
        use std::os::unix::ffi::OsStringExt;
        let broken = || OsString::from_vec(vec![0xff]);
        let mut layers = Layers::default();
        layers.environment([(broken(), broken()), ("LS_COLORS".into(), broken())]);
        layers.environment([("EQUIPOISE_NODE_ZONE".into(), broken())]);
        let problems: Vec<_> = resolve(layers).unwrap_err().iter().map(Problem::to_string).collect();
        assert_eq!(problems, ["environment EQUIPOISE_NODE_ZONE: must be UTF-8"]);
    }

    #[test]
    fn keys_of_other_processes_are_checked_and_not_in_force() {
        let file = |text: &str| {
            let mut layers = Layers::default();
            layers.file(Path::new("a.toml"), text);
            layers
        };
        let settings = resolve(file("[cluster]\nlisten = \"0.0.0.0:8005\"")).unwrap();
        assert_eq!(settings.get(&keys::CLUSTER_LISTEN), None);
        assert!(settings.listen(&keys::CLUSTER_LISTEN).is_empty());
        assert!(resolve(file("[cluster]\nlisten = \"nowhere\"")).is_err());
        let apart = file("[cluster]\nlisten = \"127.0.0.1:1\"").resolve(Process::ControlPlane).unwrap();
        assert_eq!(text(&apart, &keys::CLUSTER_LISTEN), "127.0.0.1:1");
    }

    #[test]
    fn the_references_file_is_read_and_its_own_names_are_used_in_problems() {
        let mut layers = Layers::default();
        let text = "# comment\nadmin_listen = 127.0.0.1:9 # here\nlog_level = 'loud'\nnonsense\n\
                    mem_cache_size = 128m\nrouter_flavor = expressions\nwhatever = 1";
        layers.kong_file(Path::new("kong.conf"), text);
        assert_eq!(layers.warnings.len(), 2, "{:?}", layers.warnings);
        let problems: Vec<_> = resolve(layers).unwrap_err().iter().map(Problem::to_string).collect();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert_eq!(problems[0], "kong.conf:4: `nonsense` is not `key = value`");
        assert!(problems.iter().any(|p| p.starts_with("kong.conf:3: `log_level` = `loud`")), "{problems:?}");
        assert!(problems.iter().any(|p| p.starts_with("kong.conf:6: `router_flavor`")), "{problems:?}");
    }
}
