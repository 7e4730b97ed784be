//! Keys of edges that a reload took out of the configuration, in a file beside the issuer: an old configuration that is
//! restored does not let them in again. Only an operator takes a line away.
//!
//! ```text
//! bk1.bank.<SHA-256 of its public key>.<crc32> 2026-11-23T00:30:00Z
//! ```
//! `#` begins a comment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use time::OffsetDateTime;

use super::key::SpkiHash;
use crate::config::EdgeEntry;
use crate::config::credential::EdgeKey;

/// The file, as it was read.
#[derive(Debug)]
pub struct Tombstones {
    file: PathBuf,
    /// Each key's line.
    lines: BTreeMap<SpkiHash, String>,
}

/// Why a hub does not run by a configuration.
#[derive(Debug, thiserror::Error)]
pub enum TombstoneError {
    /// The file is there and cannot be read.
    #[error("{file}: {source}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{file}: line {line} begins with no edge key")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Where, from 1.
        line: usize,
    },
    /// The configuration lists a key that was taken away.
    #[error("`{key}` of `{edge}` was taken away before, as {file} says")]
    Revoked {
        /// The key, public.
        key: EdgeKey,
        /// Its edge.
        edge: String,
        /// The file.
        file: PathBuf,
    },
}

impl TombstoneError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Unreadable { .. } => "let the bridge's user read it".into(),
            Self::Malformed { .. } => "write each line as `bk1.… TIME`, or take it away".into(),
            Self::Revoked { edge, .. } => format!(
                "give the edge a new key (`bridge init --rotate {edge}`), write `\"keys\": []` to shut it out, or take the line away if this key may join again"
            ),
        }
    }
}

impl Tombstones {
    /// Reads the file in an identity's directory; none is an empty one.
    pub fn read(dir: &Path) -> Result<Self, TombstoneError> {
        let file = dir.join(FILE);
        let text = match read(&file) {
            Ok(text) => text,
            Err(source) if source.kind() == ErrorKind::NotFound => String::new(),
            Err(source) => return Err(TombstoneError::Unreadable { file, source }),
        };
        let mut lines = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let Some(key) = line.split_whitespace().next().filter(|word| !word.starts_with('#')) else {
                continue;
            };
            let Ok(key) = EdgeKey::parse(key) else {
                return Err(TombstoneError::Malformed { file, line: index + 1 });
            };
            lines.insert(key.spki_sha256, line.to_owned());
        }
        Ok(Self { file, lines })
    }

    /// Whether none of these edges' keys lies here.
    pub fn judge(&self, edges: &[EdgeEntry]) -> Result<(), TombstoneError> {
        let mut listed = edges.iter().flat_map(|edge| edge.keys.iter().map(move |key| (edge, key)));
        match listed.find(|(_, key)| self.lines.contains_key(&key.spki_sha256)) {
            Some((edge, key)) => Err(TombstoneError::Revoked {
                key: key.clone(),
                edge: edge.name.clone(),
                file: self.file.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Writes down the keys that are in one configuration's edges and not in the next one's.
    pub fn bury(
        &self,
        before: &BTreeSet<EdgeKey>,
        after: &BTreeSet<EdgeKey>,
        now: SystemTime,
    ) -> std::io::Result<usize> {
        let hashes: BTreeSet<_> = after.iter().map(|key| key.spki_sha256).collect();
        let gone: Vec<_> = before.iter().filter(|key| !hashes.contains(&key.spki_sha256)).collect();
        if gone.is_empty() {
            return Ok(0);
        }
        let (now, text) = (OffsetDateTime::from(now), fs::metadata(&self.file).is_err());
        let mut text = if text { HEAD.to_owned() } else { String::new() };
        for key in &gone {
            let (date, hour, minute, second) = (now.date(), now.hour(), now.minute(), now.second());
            text += &format!("{key} {date}T{hour:02}:{minute:02}:{second:02}Z\n");
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.file)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(gone.len())
    }

    /// Where they lie.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

fn read(file: &Path) -> std::io::Result<String> {
    if fs::metadata(file)?.len() > LEN_MAX {
        return Err(std::io::Error::other(format!("longer than {LEN_MAX} bytes")));
    }
    fs::read_to_string(file)
}

/// Its name, in the identity's directory.
const FILE: &str = "revoked";
const HEAD: &str = "# Keys of edges that were taken out of the configuration: none of them joins again. Delete a line to let \
                    its key in.\n";
/// Thousands of keys.
const LEN_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    fn key(edge: &str, n: u8) -> EdgeKey {
        EdgeKey { edge: edge.into(), spki_sha256: [n; 32] }
    }

    fn listed(keys: &[EdgeKey]) -> Vec<EdgeEntry> {
        vec![EdgeEntry {
            name: "bank".into(),
            keys: keys.to_vec(),
            cert_name: None,
            policy: Policy::default(),
            max_instances: 1,
            budget_mbit_s: 0,
        }]
    }

    #[test]
    fn a_key_that_was_taken_away_is_refused_until_its_line_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new, other) = (key("bank", 1), key("bank", 2), key("fund", 3));
        let keys = |keys: &[&EdgeKey]| keys.iter().map(|key| (*key).clone()).collect::<BTreeSet<_>>();
        let none = Tombstones::read(dir.path()).unwrap();
        none.judge(&listed(&[old.clone(), new.clone()])).unwrap();
        let bury = |before, after| none.bury(&before, &after, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(bury(keys(&[&old]), keys(&[&old, &new])), 0);
        assert!(!none.file().exists(), "nothing was taken away");
        assert_eq!(bury(keys(&[&old, &new]), keys(&[&new])), 1);
        assert_eq!(bury(keys(&[&new, &other]), keys(&[&new])), 1);
        let text = fs::read_to_string(none.file()).unwrap();
        assert!(text.ends_with(&format!("\n{old} 1970-01-01T00:00:00Z\n{other} 1970-01-01T00:00:00Z\n")));
        assert_eq!(text.matches('#').count(), 1, "one head");

        let two = Tombstones::read(dir.path()).unwrap();
        two.judge(&listed(std::slice::from_ref(&new))).unwrap();
        let error = two.judge(&listed(&[new, old.clone()])).unwrap_err();
        assert!(matches!(&error, TombstoneError::Revoked { key, .. } if *key == old), "{error}");
        assert!(error.to_string().contains("revoked") && error.remedy().contains("--rotate bank"));
        let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("bk1.bank")).collect();
        fs::write(two.file(), kept.join("\n")).unwrap();
        Tombstones::read(dir.path()).unwrap().judge(&listed(&[old])).unwrap();
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "# a\n\nbk1.bank.short 2026\n").unwrap();
        let error = Tombstones::read(dir.path()).unwrap_err();
        assert!(matches!(error, TombstoneError::Malformed { line: 3, .. }), "{error}");
    }
}
