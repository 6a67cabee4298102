//! Flags made from the keys, and the steps every binary starts with.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::keys::{self, Plane};
use crate::source::{Layers, Problem, Settings};

/// What a binary is to do after its command line was read.
pub enum Start {
    /// Run with these settings; the matches tell the subcommand.
    Run(Box<Settings>, ArgMatches),
    /// Nothing more: help, version, `--check`, `--print-settings`, or problems that were printed.
    Exit(ExitCode),
}

/// Exit code for settings that cannot be used, as `sysexits.h` has it.
const EX_CONFIG: u8 = 78;

/// Reads command line, file and environment. `command` gives name, about and subcommands; the flags are added
/// for the keys that `means` accepts. Keys of other planes stay allowed in files and the environment, so that
/// one file can serve all processes of a machine.
pub fn start(
    command: Command,
    means: impl Fn(Plane) -> bool,
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Start {
    let command = with_flags(command, means);
    let matches = match command.try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Fails only when standard output or error is closed; there is nobody left to tell then.
            drop(error.print());
            return Start::Exit(if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS });
        }
    };
    let settings = match read(&matches, environment) {
        Ok(settings) => settings,
        Err(problems) => {
            for problem in problems {
                eprintln!("error: {problem}");
            }
            return Start::Exit(ExitCode::from(EX_CONFIG));
        }
    };
    if matches.get_flag("print-settings") {
        print(&settings);
        return Start::Exit(ExitCode::SUCCESS);
    }
    for warning in &settings.warnings {
        eprintln!("warning: {warning}");
    }
    if matches.get_flag("check") {
        eprintln!("settings are valid");
        return Start::Exit(ExitCode::SUCCESS);
    }
    Start::Run(Box::new(settings), matches)
}

fn with_flags(command: Command, means: impl Fn(Plane) -> bool) -> Command {
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
    keys::ALL.iter().filter(|key| means(key.plane)).fold(command, |command, key| {
        let help = if key.default.is_empty() {
            key.what.to_owned()
        } else {
            format!("{} [default: {}]", key.what, key.default)
        };
        command.arg(
            Arg::new(key.name)
                .long(key.flag())
                .value_name("VALUE")
                .help(help)
                .help_heading("Settings")
                .global(true)
                .allow_hyphen_values(true),
        )
    })
}

/// Tells people and scripts where everything listens; `ready` is the last line.
#[allow(clippy::print_stdout, reason = "the one thing a starting process has to say to whoever started it")]
pub fn announce(title: &str, listeners: &[(&str, SocketAddr)]) {
    println!("{title}");
    for (name, address) in listeners {
        let scheme = if *name == "cluster" { "" } else { "http://" };
        println!("  {name:<8} {scheme}{address}");
    }
    println!("ready");
}

/// Says why a process could not start or go on, with all causes, as one sentence.
pub fn exit_code<E: fmt::Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` is how `anyhow` prints the whole chain.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "equipoise.toml";

fn read(
    matches: &ArgMatches,
    environment: impl IntoIterator<Item = (String, String)>,
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
    layers.resolve()
}

fn read_file(path: &Path) -> Result<String, Vec<Problem>> {
    std::fs::read_to_string(path).map_err(|error| {
        vec![Problem { source_name: path.display().to_string(), what: format!("cannot be read: {error}") }]
    })
}

#[allow(clippy::print_stdout, reason = "printing is what `--print-settings` is for")]
fn print(settings: &Settings) {
    let mut section = "";
    for key in keys::ALL {
        let (area, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if area != section {
            println!("{}[{area}]", if section.is_empty() { "" } else { "\n" });
            section = area;
        }
        let (value, source) = settings.get(key);
        println!("{name} = \"{value}\"  # {source}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Start {
        let arguments = std::iter::once("test").chain(arguments.iter().copied()).map(OsString::from);
        start(Command::new("test"), |_| true, arguments, [])
    }

    #[test]
    fn a_flag_of_every_key_reaches_its_setting() {
        let Start::Run(settings, _) = run(&["--admin-listen", "127.0.0.1:7", "--proxy-workers=3"]) else {
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
    fn a_file_is_read_and_its_path_is_named_in_problems() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        std::fs::write(&path, "[admin]\nlisten = \"127.0.0.1:9\"").unwrap();
        let Start::Run(settings, _) = run(&["--settings", path.to_str().unwrap()]) else {
            panic!("a valid file must run");
        };
        assert_eq!(settings.listen(&keys::ADMIN_LISTEN)[0].address.port(), 9);
    }
}
