//! Where lines go.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Access, OFlags, access, fcntl_getfl, fcntl_setfl};

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, which is appended to, or a pipe with a name.
    File(PathBuf),
}

/// Text that names no place for lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDestination {
    /// A format behind the path, as nginx and Kong have it.
    #[error("must be `off`, `stdout`, `stderr` or the path of a file, without a format behind it")]
    WithFormat,
    /// A log server.
    #[error(
        "`syslog:` is not supported: name `stdout` or a file, and let the system's log take it from there"
    )]
    Syslog,
}

/// Mode of a file that is made: clients' addresses and targets are nobody's business but the operator's.
const MODE: u32 = 0o640;

impl FromStr for Destination {
    type Err = InvalidDestination;

    /// The two devices are taken by name: what stands behind them need not be a file that can be opened.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "stdout" | "/dev/stdout" | "/proc/self/fd/1" => Ok(Self::Stdout),
            "stderr" | "/dev/stderr" | "/proc/self/fd/2" => Ok(Self::Stderr),
            _ if text.starts_with("syslog:") => Err(InvalidDestination::Syslog),
            _ if text.is_empty() || text.contains(char::is_whitespace) => Err(InvalidDestination::WithFormat),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl Destination {
    /// Opens it.
    ///
    /// # Errors
    /// When the file can neither be opened nor made, or is a pipe that nobody reads.
    pub fn open(&self) -> io::Result<File> {
        // The descriptor itself: Rust's own standard output would keep what it could not write.
        match self {
            Self::Stdout => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
            Self::Stderr => Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
            Self::File(path) => open(path),
        }
    }

    /// Whether it can be opened, as far as that can be told without making a file.
    ///
    /// # Errors
    /// As with [`Self::open`].
    pub fn check(&self) -> io::Result<()> {
        let Self::File(path) = self else { return Ok(()) };
        if path.try_exists()? {
            return open_with(OpenOptions::new().append(true), path).map(drop);
        }
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok(access(directory.unwrap_or(Path::new(".")), Access::WRITE_OK | Access::EXEC_OK)?)
    }

    /// Whether it leads somewhere else than to `file` by now: that was moved or removed.
    pub fn has_left(&self, file: &File) -> bool {
        let Self::File(path) = self else { return false };
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let Ok(own) = file.metadata() else { return false };
        std::fs::metadata(path).map(identity).ok() != Some(identity(own))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::Stderr => f.write_str("standard error"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().append(true).create(true).mode(MODE), path)
}

fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // Without waiting: a pipe that nobody reads would hold up the start.
    let no_wait = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = options.custom_flags(no_wait).open(path)?;
    // Writes may wait: their thread has nothing else to do.
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(file.as_fd(), flags - OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_check_finds_what_opening_would_and_makes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| Destination::File(directory.path().join(name));
        for (place, is_good) in [(at("a.log"), true), (at("none/a.log"), false), (at(""), false)] {
            assert_eq!(place.check().is_ok(), is_good, "{place}");
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{place}");
            assert_eq!(place.open().is_ok(), is_good, "{place}");
            drop(std::fs::remove_file(directory.path().join("a.log")));
        }
        std::fs::write(directory.path().join("b.log"), "old").unwrap();
        at("b.log").check().unwrap();
        assert_eq!(std::fs::read(directory.path().join("b.log")).unwrap(), b"old");
        Destination::Stdout.check().unwrap();
        Destination::File("a.log".into()).check().unwrap();
    }

    #[test]
    fn what_settings_say_is_a_place() {
        let file = |path: &str| Ok(Destination::File(path.into()));
        for (text, want) in [
            ("stdout", Ok(Destination::Stdout)),
            ("/dev/stdout", Ok(Destination::Stdout)),
            ("/dev/stderr", Ok(Destination::Stderr)),
            ("logs/access.log", file("logs/access.log")),
            ("/var/log/a.log", file("/var/log/a.log")),
            ("/var/log/a.log basic", Err(InvalidDestination::WithFormat)),
            ("syslog:server=10.0.0.1", Err(InvalidDestination::Syslog)),
            ("", Err(InvalidDestination::WithFormat)),
        ] {
            assert_eq!(text.parse(), want, "{text:?}");
        }
    }

    #[test]
    fn a_file_is_appended_to_and_its_move_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, "old\n").unwrap();
        let destination = Destination::File(path.clone());
        let mut file = destination.open().unwrap();
        file.write_all(b"new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\nnew\n");
        assert!(!destination.has_left(&file));
        std::fs::rename(&path, directory.path().join("access.log.1")).unwrap();
        assert!(destination.has_left(&file));
        std::fs::write(&path, "").unwrap();
        assert!(destination.has_left(&file));
    }

    #[test]
    fn what_cannot_be_opened_is_an_error_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Destination::File(directory.path().join("no/access.log"));
        assert_eq!(missing.open().unwrap_err().kind(), io::ErrorKind::NotFound);
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        assert!(Destination::File(pipe).open().is_err(), "nobody reads it");
    }
}
