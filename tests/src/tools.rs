//! Programs of others that a test needs. Where one is missing the test is skipped and says so; with `CI` in the environment
//! that is a failure, since `.ci/run` installs them.

use std::path::{Path, PathBuf};

/// A tool, among those that no distribution has or in the path.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    first(name, std::iter::once(own_tools()).chain(std::env::split_paths(&path)))
}

/// Where `.ci/run` puts tools that no distribution has.
///
/// # Panics
/// When this package is not in a workspace.
pub fn own_tools() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace");
    root.join("target/deploy-tools/bin")
}

/// The tool of this name in the first of these directories that has it.
///
/// # Panics
/// When there is none, in CI.
pub fn first(name: &str, dirs: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let found = dirs.into_iter().map(|dir| dir.join(name)).find(|path| path.exists());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{name} is missing, and in CI nothing is skipped: see .ci/run"
        );
        eprintln!("skipped: {name} is not installed (.ci/run installs it)");
    }
    found
}
