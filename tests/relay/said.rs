//! What the agents log, where all of a test runs on one thread.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// What was logged on this thread.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    /// Hears what this thread logs, until the guard goes.
    pub fn listen() -> (Self, DefaultGuard) {
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
