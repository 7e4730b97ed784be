//! Reads files that hold secrets: opened once, then judged on the descriptor, so that nobody swaps the file
//! between look and read. Never shows what is in them.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::secret::Secret;

/// Why a secret file is not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Not there, not ours, not a file of text.
    #[error("{file}: {source}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A directory or device.
    #[error("{file}: not a file")]
    NotAFile {
        /// What was named.
        file: PathBuf,
    },
    /// Others may read or change it.
    #[error("{file}: mode {mode:04o}: {whom}")]
    TooOpen {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Who can do what.
        whom: &'static str,
        /// The mode to give it.
        advised: u32,
    },
    /// Longer than any secret of ours.
    #[error("{file}: longer than {max} bytes")]
    TooLong {
        /// The file.
        file: PathBuf,
        /// The bound.
        max: u64,
    },
}

impl SecretFileError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Unreadable { .. } => "put the file there, readable for this user".into(),
            Self::NotAFile { .. } => "name the file itself".into(),
            Self::TooOpen { file, advised, .. } => format!("run `chmod {advised:04o} {}`", file.display()),
            Self::TooLong { .. } => "name another file: no secret is so long".into(),
        }
    }
}

/// Reads a secret file of at most `len_max` bytes, following links (Kubernetes' `..data`).
pub fn read(file: &Path, len_max: u64) -> Result<Secret, SecretFileError> {
    let unreadable = |source| SecretFileError::Unreadable { file: file.to_owned(), source };
    let opened = File::open(file).map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SecretFileError::NotAFile { file: file.to_owned() });
    }
    match judge(&Seen::of(&opened, &metadata)) {
        Verdict::Fine => {}
        Verdict::WorldReadableMount => tracing::warn!(
            file = %file.display(),
            "everybody on this machine can read this secret; its mount is read-only: mount it with a mode of 0440"
        ),
        Verdict::TooOpen { whom, advised } => {
            return Err(SecretFileError::TooOpen {
                file: file.to_owned(),
                mode: metadata.mode() & PERMISSION_BITS,
                whom,
                advised,
            });
        }
    }
    let mut text = String::new();
    let read = opened.take(len_max + 1).read_to_string(&mut text).map_err(unreadable)?;
    if read as u64 > len_max {
        return Err(SecretFileError::TooLong { file: file.to_owned(), max: len_max });
    }
    Ok(Secret::new(text))
}

/// What the descriptor tells.
#[derive(Clone, Copy, Debug)]
struct Seen {
    mode: u32,
    group_is_ours: bool,
    read_only_mount: bool,
}

impl Seen {
    fn of(opened: &File, metadata: &Metadata) -> Self {
        let read_only_mount = rustix::fs::fstatvfs(opened)
            .is_ok_and(|mount| mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        let ours = |gid: u32| {
            rustix::process::getegid().as_raw() == gid
                || rustix::process::getgroups()
                    .is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
        };
        Self { mode: metadata.mode() & PERMISSION_BITS, group_is_ours: ours(metadata.gid()), read_only_mount }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// World-readable, but on a mount whose modes the operator often cannot choose.
    WorldReadableMount,
    TooOpen {
        whom: &'static str,
        advised: u32,
    },
}

fn judge(seen: &Seen) -> Verdict {
    let too_open = |whom, advised| Verdict::TooOpen { whom, advised };
    if seen.mode & 0o022 != 0 && !seen.read_only_mount {
        return too_open("its group or everybody can change it", 0o600);
    }
    if seen.mode & 0o004 != 0 {
        return match seen.read_only_mount {
            true => Verdict::WorldReadableMount,
            false => too_open("everybody can read it", 0o600),
        };
    }
    if seen.mode & 0o040 != 0 && !seen.group_is_ours {
        return too_open("a group that is not ours can read it", 0o600);
    }
    Verdict::Fine
}

const PERMISSION_BITS: u32 = 0o7777;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn seen(mode: u32) -> Seen {
        Seen { mode, group_is_ours: false, read_only_mount: false }
    }

    #[test]
    fn modes_are_judged_as_written() {
        let refused = [0o644, 0o604, 0o660, 0o620, 0o602, 0o640, 0o777];
        for mode in refused {
            assert!(matches!(judge(&seen(mode)), Verdict::TooOpen { .. }), "{mode:o}");
        }
        for mode in [0o600, 0o400, 0o700] {
            assert_eq!(judge(&seen(mode)), Verdict::Fine, "{mode:o}");
        }
        let fs_group = Seen { group_is_ours: true, ..seen(0o440) };
        assert_eq!(judge(&fs_group), Verdict::Fine);
        let compose = Seen { read_only_mount: true, ..seen(0o444) };
        assert_eq!(judge(&compose), Verdict::WorldReadableMount);
    }

    #[test]
    fn a_world_readable_secret_is_refused_with_the_command_to_run() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "canary-551").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        let error = read(&file, 100).unwrap_err();
        assert_eq!(error.remedy(), format!("run `chmod 0600 {}`", file.display()));
        assert!(!error.to_string().contains("canary"), "{error}");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(read(&file, 100).unwrap().expose(), "canary-551");
        assert!(matches!(read(&file, 5), Err(SecretFileError::TooLong { .. })));
        assert!(matches!(read(dir.path(), 5), Err(SecretFileError::NotAFile { .. })));
        let missing = read(&dir.path().join("none"), 5);
        assert!(matches!(missing, Err(SecretFileError::Unreadable { .. })));
    }

    #[test]
    fn a_link_as_kubernetes_makes_it_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("..data");
        std::fs::create_dir(&real).unwrap();
        std::fs::write(real.join("token"), "x").unwrap();
        std::fs::set_permissions(real.join("token"), PermissionsExt::from_mode(0o400)).unwrap();
        std::os::unix::fs::symlink("..data/token", dir.path().join("token")).unwrap();
        assert_eq!(read(&dir.path().join("token"), 100).unwrap().expose(), "x");
    }
}
