//! Files that are there, missing, too open, or made by two at once.

use super::*;

const SETTING: &str = "store.encryption_key_file";

fn beside_of(directory: &Path) -> KeySource {
    KeySource::Beside { directory: directory.to_owned(), setting: SETTING }
}

fn nothing_sealed() -> io::Result<Option<PathBuf>> {
    Ok(None)
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_key_is_made_once_beside_the_directory_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("deep/data");
    let source = beside_of(&data);
    source.check().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a check makes nothing");
    let made = source.open(nothing_sealed).unwrap();
    let path = dir.path().join("deep/data.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path().join("deep")).unwrap().count(), 1, "nothing else is left");
    assert_eq!(source.open(|| panic!("the key is there")).unwrap(), made);
    source.check().unwrap();
}

#[test]
fn of_many_that_start_at_once_all_have_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let source = beside_of(&dir.path().join("data"));
    let keys: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| source.open(nothing_sealed).unwrap())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    let kept = source.open(nothing_sealed).unwrap();
    assert!(keys.iter().all(|key| *key == kept));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_key_that_is_lost_is_never_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let source = beside_of(&dir.path().join("data"));
    let sealed = dir.path().join("data/journal");
    let error = source.open(|| Ok(Some(sealed.clone()))).unwrap_err().to_string();
    for part in ["data.key", "data/journal", SETTING] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_its_setting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let source = KeySource::File { path: path.clone(), setting: SETTING };
    let (one, two) = ("0a".repeat(32), "0b".repeat(32));
    let says = |want: &str| {
        for error in [source.open(nothing_sealed).unwrap_err(), source.check().unwrap_err()] {
            let error = error.to_string();
            assert!([want, "keys", SETTING].iter().all(|part| error.contains(part)), "{error}");
            assert!(!error.contains("0a0a"), "{error}");
        }
    };
    says("no such file");
    write(&path, &one, 0o644);
    says("644");
    write(&path, "", 0o600);
    says("no key");
    write(&path, &format!("{one}\n{two}0"), 0o600);
    says("key 2");
    for mode in [0o600, 0o440] {
        write(&path, &format!("{two}\n{one}\n"), mode);
        source.check().unwrap();
        let keys = source.open(|| panic!("it is not looked for")).unwrap();
        assert_eq!(
            keys,
            SealKeys::parse(&format!("{two},{one}"), &format!("{} ({SETTING})", path.display())).unwrap()
        );
    }
}

#[test]
fn a_directory_named_by_a_dot_has_its_key_beside_it_too() {
    let mut want = std::env::current_dir().unwrap().into_os_string();
    want.push(".key");
    assert_eq!(beside(Path::new("."), SETTING).unwrap(), PathBuf::from(want));
    assert_eq!(beside(Path::new("a/b"), SETTING).unwrap(), Path::new("a/b.key"));
    assert!(matches!(beside(Path::new("/"), SETTING), Err(KeyError::Nameless { .. })));
    assert!(matches!(beside(Path::new("a/.."), SETTING), Err(KeyError::Nameless { .. })));
}
