//! What leaves a topic for a consumer in one go. Knows no socket.

use bytes::Bytes;

use super::log::{Position, Stored};

/// A consumer's number, unique in the broker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

/// An entry for a consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub position: Position,
    pub bytes: Bytes,
    pub redeliveries: u32,
    /// Which messages of a batch are not acknowledged; empty for all.
    pub ack_set: Vec<i64>,
    pub epoch: Option<u64>,
}

/// As much as one consumer is given at once, so that the topic's lock is held shortly and nothing is taken that the
/// socket cannot take soon.
#[derive(Debug)]
pub struct Haul {
    pub deliveries: Vec<Delivery>,
    pub messages: u64,
    bytes_left: usize,
}

impl Haul {
    /// Room for `bytes_max`, or one entry.
    pub fn new(bytes_max: usize) -> Self {
        Self { deliveries: Vec::new(), messages: 0, bytes_left: bytes_max }
    }

    /// Empty again.
    pub fn clear(&mut self, bytes_max: usize) {
        self.deliveries.clear();
        self.messages = 0;
        self.bytes_left = bytes_max;
    }

    /// One more entry may go in.
    pub fn has_room(&self) -> bool {
        self.bytes_left > 0 && self.deliveries.len() < DELIVERIES_MAX
    }

    /// Puts an entry in.
    pub fn push(
        &mut self,
        position: Position,
        stored: &Stored,
        redeliveries: u32,
        ack_set: &[i64],
        epoch: Option<u64>,
    ) {
        self.bytes_left = self.bytes_left.saturating_sub(stored.bytes.len());
        self.messages += u64::from(stored.messages());
        let bytes = stored.bytes.clone();
        self.deliveries.push(Delivery { position, bytes, redeliveries, ack_set: ack_set.to_vec(), epoch });
    }
}

/// About 40 µs under the topic's lock.
const DELIVERIES_MAX: usize = 1000;
