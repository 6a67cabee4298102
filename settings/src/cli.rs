//! Flags made from the keys, and the steps every binary starts with.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::keys::{self, Process};
use crate::source::{Layers, Problem, Settings};

/// What a binary is to do after its command line was read.
pub enum Start<T> {
    /// Run with these settings, as they stand and as the process reads them; the matches tell the subcommand.
    Run(Box<Settings>, Box<T>, ArgMatches),
    /// Look into what the settings name, as a start does, and say by [`checked`] what came of it (`--check`).
    Check(Box<T>),
    /// Nothing more: help, version, `--print-settings`, or problems that were printed.
    Exit(ExitCode),
}

/// Exit code for settings that cannot be used, as `sysexits.h` has it.
const EX_CONFIG: u8 = 78;

/// Reads command line, file and environment. `command` gives name, about and subcommands; the flags are added
/// for the keys that mean something to `process`. Keys of other planes stay allowed in files and the environment, so
/// that one file can serve all processes of a machine. `typed` makes of the settings what the process starts with;
/// what it refuses is refused by `--check` as well.
pub fn start<T>(
    command: Command,
    process: Process,
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    typed: impl FnOnce(&Settings) -> Result<T, Problem>,
) -> Start<T> {
    let command = with_flags(command, process);
    let matches = match command.try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Fails only when standard output or error is closed; there is nobody left to tell then.
            drop(error.print());
            return Start::Exit(if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS });
        }
    };
    let settings = match read(&matches, process, environment) {
        Ok(settings) => settings,
        Err(problems) => return refused(&problems),
    };
    if matches.get_flag("print-settings") {
        to_stdout(|out| print(out, &settings));
        return Start::Exit(ExitCode::SUCCESS);
    }
    for warning in &settings.warnings {
        to_stderr(format_args!("warning: {warning}"));
    }
    let plane = match typed(&settings) {
        Ok(plane) => plane,
        Err(problem) => return refused(&[problem]),
    };
    if matches.get_flag("check") {
        return Start::Check(Box::new(plane));
    }
    Start::Run(Box::new(settings), Box::new(plane), matches)
}

/// Reads file and environment again, with the flags that the process was started with; nothing else comes of it.
///
/// # Errors
/// All that is wrong with them.
pub fn reread<T>(
    matches: &ArgMatches,
    process: Process,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    typed: impl FnOnce(&Settings) -> Result<T, Problem>,
) -> Result<(Settings, T), Vec<Problem>> {
    let settings = read(matches, process, environment)?;
    let typed = typed(&settings).map_err(|problem| vec![problem])?;
    Ok((settings, typed))
}

fn refused<T>(problems: &[Problem]) -> Start<T> {
    for problem in problems {
        to_stderr(format_args!("error: {problem}"));
    }
    Start::Exit(ExitCode::from(EX_CONFIG))
}

fn with_flags(command: Command, process: Process) -> Command {
    let path = |name: &'static str, what: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("FILE")
            .help(what)
            .global(true)
            .value_parser(clap::value_parser!(PathBuf))
    };
    let fact = |name: &'static str, what: &'static str| {
        Arg::new(name).long(name).help(what).global(true).action(ArgAction::SetTrue)
    };
    let command = command
        .arg(path("settings", "Settings file (TOML); default: equipoise.toml if it is there"))
        .arg(path("kong-conf", "A file in the reference's `key = value` format"))
        .arg(fact("check", "Check the settings and exit"))
        .arg(fact("print-settings", "Print the settings in force and where each comes from, and exit"));
    keys::ALL.iter().filter(|key| key.plane.means(process)).fold(command, |command, key| {
        let help = if key.default.is_empty() {
            key.what.to_owned()
        } else {
            format!("{} [default: {}]", key.what, key.default)
        };
        let flag = Arg::new(key.name)
            .long(key.flag())
            .value_name("VALUE")
            .help(help)
            .help_heading("Settings")
            .allow_hyphen_values(true);
        // A short name may mean something else to a subcommand.
        command.arg(match key.alias() {
            Some(alias) => flag.visible_alias(alias),
            None => flag.global(true),
        })
    })
}

/// Tells people and scripts where everything listens; `ready` is the last line.
pub fn announce(title: &str, listeners: &[(&str, SocketAddr)]) {
    to_stdout(|out| {
        writeln!(out, "{title}")?;
        for (name, address) in listeners {
            let scheme = match *name {
                "cluster" | "stream" | "stream tls" | "stream udp" => "",
                "proxy tls" => "https://",
                _ => "http://",
            };
            writeln!(out, "  {name:<9} {scheme}{address}")?;
        }
        writeln!(out, "ready")
    });
}

/// Writes to standard output. Nobody may read it any more (`| head`), which is no reason to end a process.
pub fn to_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    let mut out = io::stdout().lock();
    drop(write(&mut out).and_then(|()| out.flush()));
}

/// Writes a line to standard error, which nobody may read any more either.
fn to_stderr(line: fmt::Arguments<'_>) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// Says whether the settings can be used.
pub fn checked<E: fmt::Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => {
            to_stderr(format_args!("settings are valid"));
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error, ExitCode::from(EX_CONFIG)),
    }
}

/// Says why a process could not start or go on, with all causes, as one sentence.
pub fn exit_code<E: fmt::Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, ExitCode::FAILURE),
    }
}

fn failed(error: &impl fmt::Display, code: ExitCode) -> ExitCode {
    // `{:#}` is how `anyhow` prints the whole chain.
    to_stderr(format_args!("error: {error:#}"));
    code
}

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "equipoise.toml";

fn read(
    matches: &ArgMatches,
    process: Process,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Settings, Vec<Problem>> {
    let mut layers = Layers::default();
    if let Some(path) = matches.get_one::<PathBuf>("kong-conf") {
        layers.kong_file(path, &read_file(path)?);
    }
    match matches.get_one::<PathBuf>("settings") {
        Some(path) => layers.file(path, &read_file(path)?),
        None if Path::new(DEFAULT_FILE).exists() => {
            layers.file(Path::new(DEFAULT_FILE), &read_file(Path::new(DEFAULT_FILE))?);
        }
        None => {}
    }
    layers.environment(environment);
    for key in keys::ALL {
        if let Ok(Some(value)) = matches.try_get_one::<String>(key.name) {
            layers.flag(key, value.clone());
        }
    }
    layers.resolve(process)
}

fn read_file(path: &Path) -> Result<String, Vec<Problem>> {
    std::fs::read_to_string(path).map_err(|error| {
        vec![Problem { source_name: path.display().to_string(), what: format!("cannot be read: {error}") }]
    })
}

fn print(out: &mut dyn Write, settings: &Settings) -> io::Result<()> {
    let mut section = "";
    for key in keys::ALL {
        let Some((value, source)) = settings.get(key) else { continue };
        let (area, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if area != section {
            writeln!(out, "{}[{area}]", if section.is_empty() { "" } else { "\n" })?;
            section = area;
        }
        writeln!(out, "{name} = \"{value}\"  # {source}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Start<()> {
        let arguments = std::iter::once("test").chain(arguments.iter().copied()).map(OsString::from);
        start(Command::new("test"), Process::Standalone, arguments, [], |_| Ok(()))
    }

    #[test]
    fn a_flag_of_every_key_reaches_its_setting() {
        let Start::Run(settings, ..) = run(&["--admin-listen", "127.0.0.1:7", "--proxy-workers=3"]) else {
            panic!("valid flags must run");
        };
        assert_eq!(settings.listen(&keys::ADMIN_LISTEN)[0].address.port(), 7);
        assert_eq!(settings.int(&keys::PROXY_WORKERS), Some(3));
    }

    #[test]
    fn what_is_wrong_does_not_run() {
        for arguments in
            [&["--no-such-flag", "1"][..], &["--proxy-workers", "none"], &["--settings", "/no/such"]]
        {
            assert!(
                matches!(run(arguments), Start::Exit(code) if code != ExitCode::SUCCESS),
                "{arguments:?}"
            );
        }
    }

    #[test]
    fn what_the_process_refuses_does_not_pass_the_check() {
        let arguments = ["test", "--check"].map(OsString::from);
        let started = start(Command::new("test"), Process::Standalone, arguments, [], |settings| {
            Err::<(), _>(settings.problem(&keys::NODE_ID, "must be a UUID"))
        });
        assert!(matches!(started, Start::Exit(code) if code == ExitCode::from(EX_CONFIG)));
    }

    #[test]
    fn a_file_is_read_and_its_path_is_named_in_problems() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, "[admin]\nlisten = \"127.0.0.1:9\"").unwrap();
        let Start::Run(settings, ..) = run(&["--settings", path.to_str().unwrap()]) else {
            panic!("a valid file must run");
        };
        assert_eq!(settings.listen(&keys::ADMIN_LISTEN)[0].address.port(), 9);
    }
}
