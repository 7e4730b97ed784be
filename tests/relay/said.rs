//! What the agents log, where all of a test runs on one thread.

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};

use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, NoSubscriber as Nobody};
use tracing_subscriber::fmt::MakeWriter;

/// What was logged on this thread.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    /// Hears what this thread logs, until the guard goes.
    pub fn listen() -> (Self, DefaultGuard) {
        // While there is but one subscriber, a callsite that another thread meets first asks that thread's own, finds none,
        // and is off for good (`tracing_core::callsite::dispatchers::Rebuilder::JustOne`).
        static OTHERS: LazyLock<[Dispatch; 2]> =
            LazyLock::new(|| [Dispatch::new(Nobody::new()), Dispatch::new(Nobody::new())]);
        LazyLock::force(&OTHERS);
        let said = Self::default();
        let subscriber = tracing_subscriber::fmt().with_writer(said.clone()).finish();
        (said, tracing::subscriber::set_default(subscriber))
    }

    /// Without the colours.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        let mut plain = String::new();
        let mut coded = false;
        for c in text.chars() {
            match c {
                '\x1b' => coded = true,
                'm' if coded => coded = false,
                _ if coded => {}
                c => plain.push(c),
            }
        }
        plain
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Said {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
