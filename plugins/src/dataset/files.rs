//! Reading files of data, packed by gzip or not.

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use tetlo_core::{Error, Result};

/// An error about a file.
pub(super) fn bad(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::Data(format!("`{}`: {what}", path.display()))
}

fn raw(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| bad(path, format_args!("cannot be read: {e}")))
}

/// The content, unpacked where the file is gzip (told by its first bytes, not its name).
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = raw(path)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    unpack(&bytes).map_err(|e| bad(path, format_args!("the gzip data are damaged or cut off: {e}")))
}

/// Unpacks gzip data.
pub(super) fn unpack(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    MultiGzDecoder::new(bytes).read_to_end(&mut content)?;
    Ok(content)
}

/// SHA-256 over the bytes of the files as stored, one after another, in hex.
pub(super) fn hash<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<String> {
    let mut hasher = Sha256::new();
    for path in paths {
        hasher.update(raw(path)?);
    }
    let mut hex = String::new();
    for byte in hasher.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(hex)
}

/// The file of one of these names in `folder`, plain or with `.gz`; the first that exists.
pub(super) fn find(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    let candidates = names.iter().flat_map(|n| [folder.join(n), folder.join(format!("{n}.gz"))]);
    candidates.into_iter().find(|p| p.is_file())
}

/// Checks that `folder` is one.
pub(super) fn folder(folder: &Path) -> Result<()> {
    match std::fs::metadata(folder) {
        Ok(m) if m.is_dir() => Ok(()),
        Ok(_) => Err(bad(folder, "`path` must be a folder, this is a file")),
        Err(e) => Err(bad(folder, format_args!("cannot be read: {e}"))),
    }
}
