//! The node's id: made once, kept beside its cache, so that a restart is the same node.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use equipoise_proto::NodeId;
use uuid::Uuid;

/// File in the cache directory.
const FILE: &str = "node-id";

/// What it is called until it is whole.
const FILE_NEW: &str = "node-id.new";

/// Reads the id, or makes one and keeps it. Nobody else may do so at the same time: whoever calls it holds the lock
/// of the cache, which has the same directory.
///
/// # Errors
/// When the file cannot be read or written, or holds something else than a UUID.
pub fn load(directory: &Path) -> io::Result<NodeId> {
    let path = directory.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Uuid::parse_str(text.trim()).map(NodeId::new).map_err(|_| {
            let rule = format!("{} does not hold a UUID; delete it to get a new one", path.display());
            io::Error::new(io::ErrorKind::InvalidData, rule)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(directory)?;
            let id = Uuid::new_v4();
            // A power cut leaves all of it or nothing.
            let whole = directory.join(FILE_NEW);
            let mut file = fs::File::create(&whole)?;
            writeln!(file, "{id}")?;
            file.sync_all()?;
            fs::rename(whole, path)?;
            fs::File::open(directory)?.sync_all()?;
            Ok(NodeId::new(id))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_the_same_node() {
        let dir = tempfile::tempdir().unwrap();
        let id = load(dir.path()).unwrap();
        assert_eq!(load(dir.path()).unwrap(), id);
        fs::write(dir.path().join(FILE), "nonsense").unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains("UUID"));
    }

    #[test]
    fn an_id_that_was_not_written_whole_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NEW), "3f2").unwrap();
        let id = load(dir.path()).unwrap();
        assert_eq!(load(dir.path()).unwrap(), id);
        assert!(!dir.path().join(FILE_NEW).exists());
    }
}
