//! An access log in a directory of its own.

use std::path::PathBuf;

use equipoise_access_log::{AccessLog, Destination, Format, Plan};
use serde_json::Value;

use super::harness::eventually;

/// One of JSON.
pub(crate) struct LogFile {
    pub(crate) log: AccessLog,
    pub(crate) path: PathBuf,
    _directory: tempfile::TempDir,
}

impl LogFile {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let destination = Destination::File(path.clone());
        let plan = Plan { destination, format: Format::Json, buffer_bytes: 1 << 20 };
        let log = AccessLog::start(plan).unwrap();
        Self { log, path, _directory: directory }
    }

    /// All lines, which are to be `count`, once these are there: within a tick of the worker.
    pub(crate) fn lines(&self, count: usize) -> Vec<Value> {
        let read = || std::fs::read_to_string(&self.path).unwrap_or_default();
        eventually("the lines", || read().lines().count() >= count);
        let lines: Vec<_> = read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }
}

/// What of `line` is under these names; null where there is nothing.
pub(crate) fn part(line: &Value, names: &[&str]) -> Value {
    let one = |name: &&str| ((*name).to_owned(), line[*name].clone());
    names.iter().map(one).collect::<serde_json::Map<_, _>>().into()
}
