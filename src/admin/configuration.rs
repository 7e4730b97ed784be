//! What the status and the metrics tell of the configuration: which one is loaded, since when, and what of a later one
//! was refused. Reads no file.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

/// The configuration that a process runs by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// SHA-256 of the file, hex.
    pub digest: String,
    /// When it was loaded, Unix seconds.
    pub loaded_at: u64,
    /// What is wrong with what was to be loaded since, if anything; the loaded one goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// What was to be loaded: each is refused, and taken, for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A configuration, with all that it names.
    Whole,
    /// Files of keys, by the configuration that runs.
    Keys,
}

/// The hand of whoever loads it. Cheap to clone; all clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    state: Arc<Mutex<State>>,
    failed: Gauge,
    loads: Counter,
    at: Gauge,
}

#[derive(Debug, Default)]
struct State {
    digest: String,
    loaded_at: u64,
    /// What is wrong with the last configuration that was to be loaded.
    refused: Vec<String>,
    /// What is wrong with files of keys that changed since.
    keys_refused: Vec<String>,
}

impl State {
    fn is_wrong(&self) -> i64 {
        i64::from(!self.refused.is_empty() || !self.keys_refused.is_empty())
    }
}

impl Configuration {
    /// Another one is loaded, or the same one with other keys.
    pub fn loaded(&self, digest: &str, part: Part) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let loaded_at = since.unwrap_or_default().as_secs();
        self.loads.inc();
        self.at.set(i64::try_from(loaded_at).unwrap_or(i64::MAX));
        let mut state = self.lock();
        digest.clone_into(&mut state.digest);
        state.loaded_at = loaded_at;
        state.keys_refused.clear();
        // Good keys say nothing of a file that is still wrong.
        if part == Part::Whole {
            state.refused.clear();
        }
        self.failed.set(state.is_wrong());
    }

    /// Another one was refused, and why; of a part that is right again, nothing.
    pub fn refused(&self, mut problems: Vec<String>, part: Part) {
        problems.truncate(PROBLEMS_SHOWN_MAX);
        let mut state = self.lock();
        match part {
            Part::Whole => state.refused = problems,
            Part::Keys => state.keys_refused = problems,
        }
        self.failed.set(state.is_wrong());
    }

    /// As it is now.
    pub fn now(&self) -> Loaded {
        let state = self.lock();
        let refused = [state.refused.as_slice(), &state.keys_refused].concat();
        Loaded { digest: state.digest.clone(), loaded_at: state.loaded_at, refused }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "1 while the last configuration that was to be loaded, or a file of keys or of another secret, is refused";
        registry.register("bridge_config_reload_failed", help, self.failed.clone());
        let help = "Configurations loaded, the first included";
        registry.register("bridge_config_loads", help, self.loads.clone());
        let help = "When the configuration was loaded";
        registry.register("bridge_config_loaded_timestamp_seconds", help, self.at.clone());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole values: a panicking writer cannot leave half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of each part; the log has them all.
const PROBLEMS_SHOWN_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_keys_do_not_excuse_a_wrong_configuration_and_it_excuses_them() {
        let configuration = Configuration::default();
        let told = || (configuration.now().refused, configuration.failed.get());
        let problem = |text: &str| vec![text.to_owned()];
        configuration.loaded("a", Part::Whole);
        assert_eq!(told(), (vec![], 0));
        configuration.refused(problem("half a file"), Part::Whole);
        configuration.refused(problem("no token"), Part::Keys);
        assert_eq!(told(), ([problem("half a file"), problem("no token")].concat(), 1));
        configuration.loaded("a", Part::Keys);
        assert_eq!(told(), (problem("half a file"), 1));
        configuration.refused(problem("no token"), Part::Keys);
        configuration.loaded("b", Part::Whole);
        assert_eq!(told(), (vec![], 0));
        configuration.refused(problem("no token"), Part::Keys);
        configuration.refused(problem("half a file"), Part::Whole);
        configuration.refused(Vec::new(), Part::Whole);
        assert_eq!(told(), (problem("no token"), 1));
        configuration.loaded("b", Part::Keys);
        assert_eq!(told(), (vec![], 0));
    }
}
