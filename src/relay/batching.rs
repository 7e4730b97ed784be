//! Decides which neighbouring entries leave as one. Holds no socket and no clock: it joins what is there
//! when the lane is ready for more, and never waits for company.
//!
//! What the destination may have seen already is never cut anew: the broker's deduplication looks at a
//! batch's first sequence id only (MessageDeduplication.isDuplicate), so a batch with one old and one new
//! message would be answered "duplicate" and dropped whole. Up to the session's `last_sequence_id`
//! everything goes singly; joining starts above it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::refused::Refused;
use crate::pulsar::batch::Batch;
use crate::pulsar::entry::{Entry, Facts};

/// How far joining may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages in one batch.
    pub messages: u32,
    /// Stored bytes of the entries in one batch; at most what the destination takes as one message.
    pub bytes: usize,
    /// Join also what has different keys: for topics that nobody reads with Key_Shared.
    pub any_key: bool,
}

/// What is sent under one sequence id: an entry as it was, or several joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The first entry's sequence id.
    pub first: u64,
    /// The last entry's; the same for an entry on its own.
    pub last: u64,
    /// How many source entries it stands for.
    pub entries: u32,
    /// How many messages it claims to hold.
    pub messages: u32,
    /// The stored form, without broker metadata.
    pub stored: Bytes,
}

impl Unit {
    /// Whether it was joined here and needs a `highest_sequence_id`.
    pub fn is_joined(&self) -> bool {
        self.entries > 1
    }
}

/// An entry came with a sequence id that does not lie above its predecessor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sequence id {id} does not follow {previous}: the source's positions went back")]
pub struct NotAscending {
    /// The offender.
    pub id: u64,
    /// The one before.
    pub previous: u64,
}

/// Entries of one topic-partition on their way to the lane. Bounded by the window of whoever pushes.
#[derive(Debug)]
pub struct Batching {
    limits: Option<Limits>,
    boundary: Boundary,
    /// What was refused before goes as it is: one refusal, one entry.
    apart: Refused,
    previous: Option<u64>,
    waiting: VecDeque<Waiting>,
    waiting_len: usize,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    entry: Entry,
    /// May share a batch with a neighbour of the same kind.
    joins: bool,
}

impl Batching {
    /// Joins within these limits; without any, every entry goes singly.
    pub fn new(limits: Option<Limits>) -> Self {
        Self {
            limits,
            boundary: Boundary::default(),
            apart: Refused::default(),
            previous: None,
            waiting: VecDeque::new(),
            waiting_len: 0,
        }
    }

    /// A session with the destination begins: what waited is forgotten, the caller pushes again from the
    /// lowest entry without a receipt.
    pub fn begin(&mut self, boundary: Boundary) {
        *self = Self { boundary, ..Self::new(self.limits) };
    }

    /// Joins none of these with anything.
    pub fn keep_apart(&mut self, apart: &Refused) {
        self.apart.merge(apart);
    }

    /// Queues an entry behind the others.
    pub fn push(&mut self, id: u64, entry: Entry) -> Result<(), NotAscending> {
        if let Some(previous) = self.previous.filter(|previous| *previous >= id) {
            return Err(NotAscending { id, previous });
        }
        // Joining recomputes the checksum: a damaged entry must go as it is, or it would be blessed.
        let joins = self.limits.is_some()
            && self.boundary.is_above(id)
            && !self.apart.holds(id)
            && is_joinable(entry.facts())
            && entry.checksum_holds();
        self.previous = Some(id);
        self.waiting_len += entry.stored_len();
        self.waiting.push_back(Waiting { id, entry, joins });
        Ok(())
    }

    /// Nothing of what waits is to be sent.
    pub fn forget_waiting(&mut self) {
        self.waiting.clear();
        self.waiting_len = 0;
    }

    /// Takes the next to send, joined with what waits right behind it where that is allowed.
    pub fn take(&mut self) -> Option<Unit> {
        let first = self.pop()?;
        let mut unit = Unit {
            first: first.id,
            last: first.id,
            entries: 1,
            messages: first.entry.facts().messages(),
            stored: first.entry.stored().clone(),
        };
        let Some(limits) = self.limits else {
            return Some(unit);
        };
        let mut len = first.entry.stored_len();
        let mut batch: Option<Batch> = None;
        while unit.entries < limits.messages
            && let Some(next) = self.pop_if(|next| {
                let fits = len.saturating_add(next.entry.stored_len()) <= limits.bytes;
                fits && first.joins && next.joins && limits.together(first.entry.facts(), next.entry.facts())
            })
        {
            len += next.entry.stored_len();
            batch.get_or_insert_with(|| Batch::new(&first.entry)).push(&next.entry);
            unit.last = next.id;
            unit.entries += 1;
        }
        if let Some(batch) = batch {
            unit.messages = batch.messages();
            unit.stored = batch.finish();
        }
        Some(unit)
    }

    /// The id of the entry that is next to be taken.
    pub fn first_waiting(&self) -> Option<u64> {
        self.waiting.front().map(|waiting| waiting.id)
    }

    /// Stored bytes that wait.
    pub fn waiting_len(&self) -> usize {
        self.waiting_len
    }

    fn pop(&mut self) -> Option<Waiting> {
        self.pop_if(|_| true)
    }

    fn pop_if(&mut self, wanted: impl FnOnce(&Waiting) -> bool) -> Option<Waiting> {
        if !wanted(self.waiting.front()?) {
            return None;
        }
        let waiting = self.waiting.pop_front()?;
        self.waiting_len -= waiting.entry.stored_len();
        Some(waiting)
    }
}

impl Limits {
    /// After a batch was refused, most likely for its size; `None`: what is so small goes singly.
    pub fn smaller(self) -> Option<Self> {
        let bytes = self.bytes / 4;
        (bytes >= SMALLEST_BATCH).then_some(Self { bytes, ..self })
    }

    /// Whether two joinable entries may share a batch: one schema version and one sticky key (a broker reads
    /// the ordering key, else the partition key, from the batch's metadata).
    fn together(&self, one: &Facts, other: &Facts) -> bool {
        one.schema_version == other.schema_version && (self.any_key || sticky_key(one) == sticky_key(other))
    }
}

fn sticky_key(facts: &Facts) -> (Option<&Bytes>, Option<(&Bytes, bool)>, bool) {
    let partition_key = facts.partition_key.as_ref().map(|key| (key, facts.partition_key_b64));
    match &facts.ordering_key {
        Some(key) => (Some(key), None, false),
        None => (None, partition_key, facts.null_partition_key),
    }
}

/// A plain single message; everything about it has a place in a batch.
fn is_joinable(facts: &Facts) -> bool {
    facts.num_messages_in_batch.is_none()
        && facts.compression == 0
        && facts.marker_type.is_none()
        && !(facts.encrypted || facts.chunked || facts.deliver_at || facts.has_txn)
        && !(facts.replicate_to || facts.unknown)
}

/// What the destination had been sent under our producer name when this session's producer was created.
/// Taken anew from every ProducerSuccess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boundary {
    last: Option<u64>,
}

impl Boundary {
    /// From ProducerSuccess; negative is "nothing known".
    pub fn new(last_sequence_id: i64) -> Self {
        Self { last: u64::try_from(last_sequence_id).ok() }
    }

    /// The highest id that the destination had been sent.
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// Whether this id is news to the destination, so that its neighbours may be chosen freely.
    pub fn is_above(&self, id: u64) -> bool {
        self.last.is_none_or(|last| id > last)
    }

    /// What a receipt for a unit that ends with `last` is worth.
    pub fn judge(&self, last: u64, duplicate: bool) -> Judgement {
        if duplicate && self.is_above(last) { Judgement::OtherWriter } else { Judgement::Confirmed }
    }
}

/// What a receipt is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The destination has it.
    Confirmed,
    /// A duplicate of something that this session was the first to send: another writer holds our name, and
    /// perhaps only part of the unit is there. No acknowledgement: close the producer, take the boundary
    /// anew, begin at the lowest entry without a receipt.
    OtherWriter,
}

/// A batch of less saves nothing.
const SMALLEST_BATCH: usize = 1024;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
