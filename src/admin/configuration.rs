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

/// The hand of whoever loads it. Cheap to clone; all clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    state: Arc<Mutex<Loaded>>,
    failed: Gauge,
    loads: Counter,
    at: Gauge,
}

impl Configuration {
    /// Another one is loaded.
    pub fn loaded(&self, digest: &str) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let loaded_at = since.unwrap_or_default().as_secs();
        self.failed.set(0);
        self.loads.inc();
        self.at.set(i64::try_from(loaded_at).unwrap_or(i64::MAX));
        *self.lock() = Loaded { digest: digest.to_owned(), loaded_at, refused: Vec::new() };
    }

    /// Another one was refused, and why.
    pub fn refused(&self, mut problems: Vec<String>) {
        problems.truncate(PROBLEMS_SHOWN_MAX);
        self.failed.set(1);
        self.lock().refused = problems;
    }

    /// As it is now.
    pub fn now(&self) -> Loaded {
        self.lock().clone()
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "1 while the last configuration that was to be loaded is refused";
        registry.register("bridge_config_reload_failed", help, self.failed.clone());
        let help = "Configurations loaded, the first included";
        registry.register("bridge_config_loads", help, self.loads.clone());
        let help = "When the configuration was loaded";
        registry.register("bridge_config_loaded_timestamp_seconds", help, self.at.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        // Whole values: a panicking writer cannot leave half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log has them all.
const PROBLEMS_SHOWN_MAX: usize = 20;
