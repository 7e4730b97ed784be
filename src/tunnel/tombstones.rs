//! Keys of edges that a reload took out of the configuration, in a file beside the issuer: an old configuration that is
//! restored does not let them in again. Only an operator takes a line away. Another identity that takes the place of a
//! running one's gets the lines too; at a start nothing is known but what the file says.
//!
//! ```text
//! bk1.bank.<SHA-256 of its public key>.<crc32> 2026-11-23T00:30:00Z
//! ```
//! `#` begins a comment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
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
    /// Whether there was none.
    is_missing: bool,
    /// Each key's line.
    lines: BTreeMap<SpkiHash, String>,
    /// Those among them that are not in the file yet.
    carried: BTreeSet<SpkiHash>,
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
                "give the edge a new key (`bridge init --rotate {edge}` here, or `bridge init --own-key` with another --out there if it makes its own), write `\"keys\": []` to shut it out, or take the line away if this key may join again"
            ),
        }
    }
}

impl Tombstones {
    /// Reads the file in an identity's directory; none is an empty one.
    pub fn read(dir: &Path) -> Result<Self, TombstoneError> {
        let file = dir.join(FILE);
        let (text, is_missing) = match read(&file) {
            Ok(text) => (text, false),
            Err(source) if source.kind() == ErrorKind::NotFound => (String::new(), true),
            Err(source) => return Err(TombstoneError::Unreadable { file, source }),
        };
        let lines = match lines_of(&text) {
            Ok(lines) => lines,
            Err(line) => return Err(TombstoneError::Malformed { file, line }),
        };
        Ok(Self { file, is_missing, lines, carried: BTreeSet::new() })
    }

    /// Takes over what the ones before it know, where this is another file than theirs, or theirs is gone.
    pub fn carry(&mut self, before: &Self) {
        if self.file == before.file && !self.is_missing {
            return;
        }
        // Written since they were read, most likely.
        let now = read(&before.file).ok().and_then(|text| lines_of(&text).ok());
        for (key, line) in now.as_ref().unwrap_or(&before.lines) {
            if !self.lines.contains_key(key) {
                self.lines.insert(*key, line.clone());
                self.carried.insert(*key);
            }
        }
    }

    /// Whether there is no file: then none was ever written here, or the directory came without it.
    pub fn is_missing(&self) -> bool {
        self.is_missing && !self.file.exists()
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

    /// Writes down the keys that are in one configuration's edges and not in the next one's, and what was taken over;
    /// how many lines that were.
    pub fn bury(
        &self,
        before: &BTreeSet<EdgeKey>,
        after: &BTreeSet<EdgeKey>,
        now: SystemTime,
    ) -> std::io::Result<usize> {
        let hashes: BTreeSet<_> = after.iter().map(|key| key.spki_sha256).collect();
        let gone: Vec<_> = before.iter().filter(|key| !hashes.contains(&key.spki_sha256)).collect();
        if gone.is_empty() && self.carried.is_empty() {
            return Ok(0);
        }
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.file)?;
        // Another process of this hub may share the directory, and does the same now. Where locks are not known, a
        // line may stand there twice.
        _ = file.lock();
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let known = lines_of(&text).unwrap_or_default();
        let now = OffsetDateTime::from(now);
        let (date, hour, minute, second) = (now.date(), now.hour(), now.minute(), now.second());
        let gone = gone
            .into_iter()
            .map(|key| (&key.spki_sha256, format!("{key} {date}T{hour:02}:{minute:02}:{second:02}Z")));
        let carried = self.carried.iter().filter_map(|key| Some((key, self.lines.get(key)?.clone())));
        let written: BTreeMap<_, _> =
            carried.chain(gone).filter(|(key, _)| !known.contains_key(*key)).collect();
        if written.is_empty() {
            return Ok(0);
        }
        let mut added = match text.is_empty() {
            true => HEAD.to_owned(),
            // An editor may have left the last line open.
            false => if text.ends_with('\n') { "" } else { "\n" }.to_owned(),
        };
        written.values().for_each(|line| added += &format!("{line}\n"));
        file.write_all(added.as_bytes())?;
        file.sync_all()?;
        Ok(written.len())
    }

    /// Where they lie.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// Each key's line; otherwise the line, from 1, that begins with none.
fn lines_of(text: &str) -> Result<BTreeMap<SpkiHash, String>, usize> {
    let mut lines = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let Some(key) = line.split_whitespace().next().filter(|word| !word.starts_with('#')) else {
            continue;
        };
        let key = EdgeKey::parse(key).map_err(|_| index + 1)?;
        lines.insert(key.spki_sha256, line.to_owned());
    }
    Ok(lines)
}

fn read(file: &Path) -> std::io::Result<String> {
    if fs::metadata(file)?.len() > LEN_MAX {
        return Err(std::io::Error::other(format!("longer than {LEN_MAX} bytes")));
    }
    fs::read_to_string(file)
}

/// Its name, in the identity's directory.
pub const FILE: &str = "revoked";
/// What it begins with.
pub const HEAD: &str = "# Keys of edges that were taken out of the configuration: none of them joins again. Delete a line to let \
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

    fn taken(before: &[&EdgeKey], from: &Tombstones) -> usize {
        let keys = before.iter().map(|key| (*key).clone()).collect();
        from.bury(&keys, &BTreeSet::new(), SystemTime::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn two_processes_that_share_the_file_write_a_key_once_and_an_open_line_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (Tombstones::read(dir.path()).unwrap(), Tombstones::read(dir.path()).unwrap());
        assert!(one.is_missing());
        assert_eq!([taken(&[&key("bank", 1)], &one), taken(&[&key("bank", 1)], &other)], [1, 0]);
        let text = fs::read_to_string(one.file()).unwrap();
        assert_eq!(text.matches("bk1.bank").count(), 1, "{text}");
        fs::write(one.file(), text.trim_end()).unwrap();
        assert_eq!(taken(&[&key("bank", 2)], &one), 1);
        let now = Tombstones::read(dir.path()).unwrap();
        assert!(!now.is_missing() && now.lines.len() == 2);
    }

    #[test]
    fn another_identity_takes_the_keys_over_and_a_line_that_was_deleted_stays_deleted() {
        let [old, new] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let before = Tombstones::read(old.path()).unwrap();
        taken(&[&key("bank", 1), &key("fund", 2)], &before);
        let mut now = Tombstones::read(new.path()).unwrap();
        now.carry(&before);
        assert!(now.judge(&listed(&[key("bank", 1)])).is_err(), "before it is written, too");
        assert_eq!(taken(&[], &now), 2);
        let again = Tombstones::read(new.path()).unwrap();
        assert!(again.judge(&listed(&[key("bank", 1)])).is_err());
        // The folder was put in the place of the other, without the file.
        fs::remove_file(again.file()).unwrap();
        let mut replaced = Tombstones::read(new.path()).unwrap();
        replaced.carry(&again);
        assert_eq!(taken(&[], &replaced), 2);
        fs::write(new.path().join(FILE), HEAD).unwrap();
        let mut deleted = Tombstones::read(new.path()).unwrap();
        deleted.carry(&again);
        deleted.judge(&listed(&[key("bank", 1)])).unwrap();
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "# a\n\nbk1.bank.short 2026\n").unwrap();
        let error = Tombstones::read(dir.path()).unwrap_err();
        assert!(matches!(error, TombstoneError::Malformed { line: 3, .. }), "{error}");
    }
}
