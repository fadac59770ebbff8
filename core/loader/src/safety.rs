//! Who may change the code that is about to run?

use std::path::Path;
use tetlo_core::{Error, Result};

/// Refuses a file that everyone can write, or that lies in a folder in which everyone can replace it.
///
/// # Errors
/// The message names the file or folder, and the flag that allows it.
pub(crate) fn check(file: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    for path in [Some(file), file.parent()].into_iter().flatten() {
        let metadata = std::fs::metadata(path)
            .map_err(|e| Error::io(format!("cannot look at {}", path.display()), e))?;
        let (by_everyone, sticky) = (metadata.mode() & 0o002 != 0, metadata.mode() & 0o1000 != 0);
        if by_everyone && !(sticky && path != file) {
            return Err(Error::config_hint(
                format!(
                    "`{}` can be written by every user of this machine, who could run code as you \
                     through it",
                    path.display()
                ),
                format!(
                    "`chmod o-w {}`, or allow it with `--allow-unsafe-plugins`",
                    path.display()
                ),
            ));
        }
    }
    Ok(())
}
