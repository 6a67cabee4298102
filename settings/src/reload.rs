//! Settings read again while the process runs: what was put in force, and what needs a restart.

use std::ffi::OsString;
use std::fmt;

use clap::ArgMatches;
use tracing::{error, info, warn};

use crate::keys::{self, Key, Process};
use crate::source::{Problem, Settings};
use crate::{cli, logs};

/// What every process puts in force.
const OF_ALL: &[&Key] = &[&keys::LOG_LEVEL];

/// Reads the settings again, from the same sources. Problems are in the log, each by itself, and nothing has changed then.
pub fn read<T>(
    matches: &ArgMatches,
    process: Process,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    typed: impl FnOnce(&Settings) -> Result<T, Problem>,
) -> Option<(Settings, T)> {
    let read = cli::reread(matches, process, environment, typed);
    read.inspect_err(|problems| {
        problems.iter().for_each(refused);
    })
    .ok()
}

/// Says why nothing has changed.
pub fn refused(problem: &impl fmt::Display) {
    // With all causes: how `anyhow` prints the whole chain.
    error!(problem = format!("{problem:#}"), "settings were not reloaded: all stays as it was");
}

/// Puts the level of logs in force, and says of each setting that changed what became of it. `applied` are those that the
/// process has put in force; `in_force` becomes what is.
pub fn report(in_force: &mut Settings, new: &Settings, applied: &[&'static Key]) {
    logs::reload(new);
    let changed: Vec<_> = in_force.changed(new).collect();
    for key in &changed {
        let (setting, value) = (key.name, new.shown(key));
        if applied.contains(key) || OF_ALL.contains(key) {
            info!(setting, value, "changed");
            in_force.adopt(new, key);
        } else {
            warn!(setting, value, "needs a restart");
        }
    }
    for warning in &new.warnings {
        warn!("{warning}");
    }
    info!(changed = changed.len(), "settings were read again");
}
