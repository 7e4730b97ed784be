//! SIGHUP, and files of keys that changed: another configuration in the place of the running one, or a word on why not.
//! The configuration itself is read at SIGHUP only; keys and certificates are looked at twice a second.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pulsar_bridge::config::{self, ConfigErrors, Problem, Setup};
use pulsar_bridge::site::Part;
use pulsar_bridge::stack::Hands;
use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// What a reload needs.
#[derive(Clone)]
pub struct Reloader {
    /// The file; without one there is nothing to read again.
    pub file: Option<PathBuf>,
    /// `--topics`.
    pub topics: Vec<String>,
    /// The running sites.
    pub hands: Hands,
    /// The files of their keys as they were before they were read.
    pub keys: Keys,
}

impl Reloader {
    /// Reloads whenever it is told to, or finds other keys, until `stop`.
    pub async fn run(mut self, mut hangup: Signal, stop: CancellationToken) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Losing the race loses nothing: a signal and a tick stay until they are taken.
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = hangup.recv() => {
                    self.in_background(|it| {
                        // Before they are read: what changes meanwhile is seen later.
                        it.keys = Keys::look(&it.hands.key_files());
                        it.again();
                        it.keys.follow(it.hands.key_files());
                    }).await;
                }
                _ = looks.tick() => self.in_background(|it| {
                    let now = Keys::look(&it.hands.key_files());
                    // Only once it stays: who copies a file writes it bit by bit.
                    if it.keys.settled(now) {
                        tracing::info!("keys or certificates changed: reading them again");
                        it.keys_again();
                    }
                }).await,
            }
        }
    }

    /// Files are looked at and read on a thread of their own: one that hangs holds up nothing else.
    async fn in_background(&mut self, reload: fn(&mut Self)) {
        let mut it = self.clone();
        let done = spawn_blocking(move || {
            reload(&mut it);
            it.keys
        });
        match done.await {
            Ok(keys) => self.keys = keys,
            Err(panicked) => {
                self.keys.changed = false;
                tracing::error!(%panicked, "the reload ended by itself");
            }
        }
    }

    /// Reads the file again.
    fn again(&self) {
        let Some(file) = &self.file else {
            return tracing::warn!("SIGHUP: the built-in demonstration has no file to read again");
        };
        tracing::info!(file = %file.display(), "SIGHUP: reading the configuration again");
        let once =
            |_: &str, _: &[String], _: &_| Err("temporary keys are made once, at the start".to_owned());
        let setup = config::load_setup(file, &once).and_then(|mut setup| {
            let kept = if self.topics.is_empty() { Ok(()) } else { setup.keep_topics(&self.topics) };
            kept.map(|()| setup).map_err(|error| {
                let remedy = "have the file carry what --topics names, or restart without it".into();
                let problem = Problem { path: "routes".into(), message: error.to_string(), remedy };
                ConfigErrors { file: file.clone(), problems: vec![problem], files_opened: false }
            })
        });
        match setup {
            // Only the files that it names can be wrong, and are found again when keys change.
            Ok(setup) if self.hands.run_by(&setup) => {
                self.hands.refused(&[], Part::Whole);
                self.take(setup, Part::Whole, Part::Keys);
            }
            Ok(setup) => self.take(setup, Part::Whole, Part::Whole),
            Err(errors) => self.refused(&errors.problems, Part::Whole),
        }
    }

    /// Opens the files of keys again, by the configuration that runs.
    fn keys_again(&self) {
        self.take(self.hands.running(), Part::Keys, Part::Keys);
    }

    fn take(&self, setup: Setup, right: Part, wrong: Part) {
        if let Err(problems) = self.hands.take(setup, right) {
            self.refused(&problems, wrong);
        }
    }

    fn refused(&self, problems: &[Problem], wrong: Part) {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let file = self.file.as_ref().map(|file| file.display().to_string());
        let named = |problem: &String| match &file {
            Some(file) => format!("{file}: {problem}"),
            None => problem.clone(),
        };
        // Whoever reads the line finds the status as it says.
        self.hands.refused(&problems.iter().map(named).collect::<Vec<_>>(), wrong);
        tracing::error!(
            file,
            count = problems.len(),
            problems = problems.join("\n  "),
            "the configuration is refused, nothing of it was taken over: the one before goes on"
        );
    }
}

/// What the files of keys look like: another file by the same name, as Kubernetes' `..data` links lead to, looks
/// other than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    seen: Vec<(PathBuf, Option<Look>)>,
    /// It looked otherwise than what is loaded, and once so far.
    changed: bool,
}

/// Device, file, mode, when what is in it changed and when its mode or owner did, and size.
type Look = (u64, u64, u32, [(i64, i64); 2], u64);

impl Keys {
    /// As they are now.
    pub fn look(files: &[PathBuf]) -> Self {
        let seen = files.iter().map(|file| (file.clone(), look(file))).collect();
        Self { seen, changed: false }
    }

    /// Other files may be meant from now on. When those were read is not known, so that they are read once more.
    fn follow(&mut self, files: Vec<PathBuf>) {
        let before = std::mem::take(&mut self.seen);
        let look =
            |file: &PathBuf| before.iter().find(|(known, _)| known == file).and_then(|(_, look)| *look);
        self.seen = files.into_iter().map(|file| (file.clone(), look(&file))).collect();
    }

    /// Takes another look; whether it differs from what was loaded, and has stayed so for two looks.
    fn settled(&mut self, now: Self) -> bool {
        if now.seen != self.seen {
            *self = Self { changed: true, ..now };
            return false;
        }
        std::mem::take(&mut self.changed)
    }
}

fn look(file: &Path) -> Option<Look> {
    let seen = fs::metadata(file).ok()?;
    let changed = [(seen.mtime(), seen.mtime_nsec()), (seen.ctime(), seen.ctime_nsec())];
    Some((seen.dev(), seen.ino(), seen.mode(), changed, seen.size()))
}

/// Two looks after a change it is taken over: within a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_change_is_taken_once_when_it_has_stayed() {
        let dir = tempfile::tempdir().unwrap();
        let files = [dir.path().join("token"), dir.path().join("missing")];
        fs::write(&files[0], "one").unwrap();
        let mut keys = Keys::look(&files);
        assert!(!keys.settled(Keys::look(&files)));
        fs::write(&files[0], "other").unwrap();
        assert!(!keys.settled(Keys::look(&files)), "it may still be written");
        assert!(keys.settled(Keys::look(&files)));
        assert!(!keys.settled(Keys::look(&files)));
        // Another file in its place, of equal size and time, is another one.
        fs::write(dir.path().join("next"), "other").unwrap();
        fs::rename(dir.path().join("next"), &files[0]).unwrap();
        assert!(!keys.settled(Keys::look(&files)) && keys.settled(Keys::look(&files)));
        // As the error asks for: `chmod 0600`.
        fs::set_permissions(&files[0], PermissionsExt::from_mode(0o600)).unwrap();
        assert!(!keys.settled(Keys::look(&files)) && keys.settled(Keys::look(&files)));
        fs::remove_file(&files[0]).unwrap();
        assert!(!keys.settled(Keys::look(&files)) && keys.settled(Keys::look(&files)));
    }

    #[test]
    fn a_file_that_is_named_anew_is_read_once_more_and_the_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = [dir.path().join("token"), dir.path().join("other")];
        for file in &files {
            fs::write(file, "one").unwrap();
        }
        let mut keys = Keys::look(&files[..1]);
        keys.follow(files[..1].to_vec());
        assert!((0..3).all(|_| !keys.settled(Keys::look(&files[..1]))));
        keys.follow(files.to_vec());
        let read: Vec<bool> = (0..4).map(|_| keys.settled(Keys::look(&files))).collect();
        assert_eq!(read, [false, true, false, false]);
    }
}
