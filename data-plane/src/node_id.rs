//! The node's id: made once, kept beside its cache, so that a restart is the same node.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use equipoise_proto::NodeId;
use uuid::Uuid;

/// File in the cache directory.
const FILE: &str = "node-id";

/// Reads the id, or makes one and keeps it.
///
/// # Errors
/// When the file cannot be read or written, or holds something else than a UUID.
pub(crate) fn load(directory: &Path) -> io::Result<NodeId> {
    let path = directory.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Uuid::parse_str(text.trim()).map(NodeId::new).map_err(|_| {
            let rule = format!("{} does not hold a UUID; delete it to get a new one", path.display());
            io::Error::new(io::ErrorKind::InvalidData, rule)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(directory)?;
            let id = Uuid::new_v4();
            let mut file = fs::File::create_new(&path)?;
            writeln!(file, "{id}")?;
            file.sync_all()?;
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
}
