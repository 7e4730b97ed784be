//! Writes a set of files for their owner alone. Looks at all of them before it writes the first, and never
//! opens one that exists.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::InitError;

/// Files to be written.
pub struct Files {
    folder: PathBuf,
    texts: Vec<(PathBuf, String)>,
}

impl Files {
    /// None yet.
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), texts: Vec::new() }
    }

    /// Adds one, by its path in the folder.
    pub fn add(&mut self, path: &str, text: String) {
        self.texts.push((self.folder.join(path), text));
    }

    /// The first path of a numbered series that is free.
    pub fn first_free(&self, path: impl Fn(u32) -> String) -> Result<String, InitError> {
        let free = (2..=NUMBER_MAX).map(&path).find(|path| !self.folder.join(path).exists());
        free.ok_or_else(|| InitError::Exists(self.folder.join(path(NUMBER_MAX))))
    }

    /// Writes all, or nothing when one of them exists.
    pub fn write(self) -> Result<Vec<PathBuf>, InitError> {
        for (path, _) in &self.texts {
            // A dangling link counts: writing would follow it.
            if path.symlink_metadata().is_ok() {
                return Err(InitError::Exists(path.clone()));
            }
        }
        let mut written = Vec::new();
        for (path, text) in self.texts {
            write_one(&path, &text).map_err(|source| {
                // Of a folder's place it means that a file stands there.
                if source.kind() == std::io::ErrorKind::AlreadyExists && path.symlink_metadata().is_ok() {
                    return InitError::Exists(path.clone());
                }
                InitError::Io { file: path.clone(), source }
            })?;
            written.push(path);
        }
        Ok(written)
    }
}

fn write_one(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Keys of one edge that were ever made here.
const NUMBER_MAX: u32 = 99;
