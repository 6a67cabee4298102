//! Private keys of a process on disk: texts in PEM, sealed under the keys of their directory.
//!
//! A file that is not sealed yet, or with a key that is not the first any more, is sealed anew when it is read.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::path::Path;

use aws_lc_rs::rand::fill;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::files::{pem, read, write_private};
use crate::seal::{BrokenSeal, NONCE_BYTES, SALT_BYTES, SealKeyId, SealKeys, UnknownKey};

/// What a sealed file says of itself.
const LABEL: &str = "EQUIPOISE ENCRYPTED FILE";

/// How it begins.
const BEGIN: &str = "-----BEGIN EQUIPOISE ENCRYPTED FILE-----";

/// What is sealed is bound to this and to the file's name.
const PLACE: &[u8] = b"equipoise private file";

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SealedFileError {
    /// It cannot be read, or not be sealed anew.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Its key is missing.
    #[error(transparent)]
    Key(#[from] UnknownKey),
    /// It is cut short, altered, or another file under this name.
    #[error("it does not open with its key: it was altered, or is another file's")]
    Broken(#[from] BrokenSeal),
}

/// Replaces a file by `text`, sealed with the first of `keys`; as [`write_private`].
///
/// # Errors
/// When it cannot be written.
pub fn write_sealed(path: &Path, keys: &SealKeys, text: &str) -> io::Result<()> {
    let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_BYTES]);
    fill(&mut salt).and_then(|()| fill(&mut nonce)).map_err(io::Error::other)?;
    let key = keys.seals(salt);
    let sealed = key.seal(nonce, &[PLACE, name(path)], text.as_bytes()).map_err(io::Error::other)?;
    let bytes = [key.id().as_bytes().as_slice(), &salt, &sealed].concat();
    write_private(path, pem(LABEL, &bytes).as_bytes())
}

/// Reads a file; `None`: there is none.
///
/// # Errors
/// Why it cannot be used.
pub fn read_sealed(path: &Path, keys: &SealKeys) -> Result<Option<String>, SealedFileError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let Some(body) = text.trim_start().strip_prefix(BEGIN) else {
        // What is no PEM is nobody's key, and is left as it is for people to look at.
        if text.contains("-----BEGIN ") {
            write_sealed(path, keys, &text)?;
        }
        return Ok(Some(text));
    };
    let body: String = body.split("-----").next().unwrap_or_default().split_whitespace().collect();
    let bytes = STANDARD.decode(body).map_err(|_| BrokenSeal)?;
    let (id, rest) = bytes.split_first_chunk::<8>().ok_or(BrokenSeal)?;
    let (salt, sealed) = rest.split_first_chunk::<SALT_BYTES>().ok_or(BrokenSeal)?;
    let id = SealKeyId::from_bytes(*id);
    let opened = keys.opens(id, *salt)?.open(&[PLACE, name(path)], sealed)?;
    let text = String::from_utf8(opened).map_err(|_| BrokenSeal)?;
    if id != keys.first() {
        write_sealed(path, keys, &text)?;
    }
    Ok(Some(text))
}

/// Whether a file is there, and sealed.
///
/// # Errors
/// When it cannot be read.
pub fn is_sealed(path: &Path) -> io::Result<bool> {
    let mut begin = [0; BEGIN.len()];
    match std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut begin)) {
        Ok(()) => Ok(begin == *BEGIN.as_bytes()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn name(path: &Path) -> &[u8] {
    path.file_name().map(OsStr::as_encoded_bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SECRET: &str = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";

    fn keys(bytes: &[&str]) -> SealKeys {
        let text: Vec<_> = bytes.iter().map(|byte| byte.repeat(32)).collect();
        SealKeys::parse(&text.join("\n"), "the test").unwrap()
    }

    fn id_of(path: &Path) -> Vec<u8> {
        let text = fs::read_to_string(path).unwrap();
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        STANDARD.decode(body).unwrap()[..8].to_vec()
    }

    #[test]
    fn a_text_that_was_in_clear_or_under_an_older_key_is_sealed_anew_when_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        assert_eq!(read_sealed(&path, &keys(&["01"])).unwrap(), None);
        assert!(!is_sealed(&path).unwrap());
        fs::write(&path, SECRET).unwrap();
        for list in [&["01"][..], &["02", "01"], &["02"]] {
            let keys = keys(list);
            assert_eq!(read_sealed(&path, &keys).unwrap().as_deref(), Some(SECRET), "{list:?}");
            assert!(is_sealed(&path).unwrap());
            assert!(!fs::read_to_string(&path).unwrap().contains("c2VjcmV0"));
            assert_eq!(id_of(&path), keys.first().as_bytes(), "{list:?}");
        }
    }

    #[test]
    fn another_key_another_name_and_any_change_are_refused_and_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_sealed(&path, &keys(&["01"]), SECRET).unwrap();
        let before = fs::read(&path).unwrap();
        let unknown = read_sealed(&path, &keys(&["02"])).unwrap_err();
        assert!(matches!(unknown, SealedFileError::Key(_)), "{unknown}");
        assert_eq!(fs::read(&path).unwrap(), before);
        let other = dir.path().join("other.pem");
        fs::copy(&path, &other).unwrap();
        assert!(matches!(read_sealed(&other, &keys(&["01"])), Err(SealedFileError::Broken(_))));
        for at in BEGIN.len()..before.len() - 60 {
            let mut bytes = before.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let read = read_sealed(&path, &keys(&["01"]));
            // A line end or padding that is written otherwise says the same.
            assert!(read.is_err() || read.is_ok_and(|text| text.as_deref() == Some(SECRET)), "byte {at}");
        }
    }

    #[test]
    fn what_is_no_pem_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        fs::write(&path, "nonsense").unwrap();
        assert_eq!(read_sealed(&path, &keys(&["01"])).unwrap().as_deref(), Some("nonsense"));
        assert_eq!(fs::read(&path).unwrap(), b"nonsense");
    }
}
