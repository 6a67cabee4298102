//! Private files that are whole or absent, and PEM.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Largest file that is read.
const BYTES_MAX: u64 = 1024 * 1024;

/// Replaces a file so that a crash leaves the old or the new one: mode 0600, synced with its directory.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, 0o600, &[bytes])
}

/// The same of a file in `parts`, with this mode whatever the process's mask is.
///
/// # Errors
/// When it cannot be written; what was written beside it is removed.
pub fn replace(path: &Path, mode: u32, parts: &[&[u8]]) -> io::Result<()> {
    // Beside it, under the whole of its name: others of a like name are not touched.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = Path::new(&new);
    // A left-over of a crash may have another mode.
    match fs::remove_file(new) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let written = write_new(new, mode, parts).and_then(|()| fs::rename(new, path));
    if let Err(error) = written {
        // What is left of it would take the room that is missing. Whether that goes well changes nothing.
        drop(fs::remove_file(new));
        return Err(error);
    }
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn write_new(path: &Path, mode: u32, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()
}

/// Reads a file of bounded size; `None`: there is none.
///
/// # Errors
/// When it cannot be read or is too large.
pub fn read(path: &Path) -> io::Result<Option<String>> {
    read_up_to(path, BYTES_MAX)
}

/// The same of a file that may have so many bytes.
///
/// # Errors
/// When it cannot be read or is larger.
pub fn read_up_to(path: &Path, bytes_max: u64) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > bytes_max => {
            let rule = format!("{} is larger than {bytes_max} bytes", path.display());
            Err(io::Error::new(io::ErrorKind::InvalidData, rule))
        }
        Ok(_) => fs::read_to_string(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether `path` still leads to the open `file`. Two calls of the system that do not reach the disk: a few
/// microseconds, where a sync takes hundreds.
///
/// # Errors
/// When neither can be told.
pub fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let named = match fs::metadata(path) {
        Ok(named) => named,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let open = file.metadata()?;
    Ok((named.dev(), named.ino()) == (open.dev(), open.ino()))
}

/// RFC 7468.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        // Base64 is ASCII.
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_private_and_replaces_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        assert_eq!(read(&path).unwrap(), None);
        fs::write(dir.path().join("key.pem.new"), "left over").unwrap();
        fs::write(dir.path().join("key.new"), "somebody else's").unwrap();
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(fs::read(dir.path().join("key.new")).unwrap(), b"somebody else's");
    }
}
