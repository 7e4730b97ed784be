//! What both brokers saw and said, in one order: the record that the laws are held against.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

/// One thing that happened at a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A command was read: which broker, its kind.
    Command(&'static str, i32),
    /// Permits were granted before the subscription stood; a real broker drops them without a word.
    EarlyFlow,
    /// A receipt was written.
    Receipt { sequence_id: u64, duplicate: bool },
    /// A refusal was written.
    Refused { sequence_id: u64 },
    /// A cumulative acknowledgement was read, with its properties.
    Acked { at: (u64, u64), properties: Vec<(String, u64)> },
}

/// The record. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    events: Arc<Mutex<Vec<Event>>>,
    changed: watch::Sender<()>,
}

impl Journal {
    pub fn new() -> Self {
        Self { events: Arc::default(), changed: watch::Sender::new(()) }
    }

    pub fn note(&self, event: Event) {
        self.lock().push(event);
        self.changed.send_replace(());
    }

    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap()
    }

    /// Waits until the record is as wanted; fails with the record.
    pub async fn until(&self, what: &str, wanted: impl Fn(&[Event]) -> bool) {
        let mut changed = self.changed.subscribe();
        let found = async {
            while !wanted(&self.lock()) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, found).await.is_err() {
            panic!("never: {what}; {:#?}", self.events());
        }
    }

    /// Waits for the `count`th of such commands at a broker.
    pub async fn until_command(&self, broker: &'static str, kind: i32, count: usize) {
        let what = format!("{count} × command {kind} at {broker}");
        self.until(&what, |events| commands(events, broker, kind) >= count).await;
    }

    /// The first law: nothing acknowledged before its receipt, nor anything before it. `log` holds the source's
    /// positions in order.
    pub fn hold_the_law(&self, log: &[(u64, u64)]) {
        let mut confirmed = BTreeSet::new();
        for (nth, event) in self.events().iter().enumerate() {
            match event {
                Event::Receipt { sequence_id, .. } => {
                    confirmed.insert(*sequence_id);
                }
                Event::Acked { at, .. } => {
                    // At a broker's −1 nothing is acknowledged.
                    let at_end = at.0 > i64::MAX as u64;
                    for position in log.iter().filter(|position| *position <= at && !at_end) {
                        let id = position.0 << 28 | position.1;
                        assert!(
                            confirmed.contains(&id),
                            "event {nth} acknowledges {at:?}, but {position:?} has no receipt: {:#?}",
                            self.events()
                        );
                    }
                }
                Event::Command(..) | Event::EarlyFlow | Event::Refused { .. } => {}
            }
        }
    }
}

pub fn commands(events: &[Event], broker: &str, kind: i32) -> usize {
    let such = |event: &&Event| matches!(event, Event::Command(at, of) if *at == broker && *of == kind);
    events.iter().filter(such).count()
}

pub fn receipts(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Receipt { .. })).count()
}

pub fn acks(events: &[Event]) -> Vec<(u64, u64)> {
    let at = |event: &Event| match event {
        Event::Acked { at, .. } => Some(*at),
        Event::Command(..) | Event::EarlyFlow | Event::Receipt { .. } | Event::Refused { .. } => None,
    };
    events.iter().filter_map(at).collect()
}

/// Of the properties of an acknowledgement those that mark refused entries; every one says where it stands beside that.
pub fn marker(properties: &[(String, u64)]) -> Vec<(String, u64)> {
    properties.iter().filter(|(key, _)| key.starts_with("bridge.hole.")).cloned().collect()
}

/// Longer than anything here may take; shorter than nobody's patience.
pub const PATIENCE: Duration = Duration::from_secs(20);
