//! Decides which neighbouring entries leave as one. Holds no socket and no clock: it joins what is there when it is
//! asked for the next unit; whoever asks may wait for company as long as [`Batching::may_grow`].
//!
//! What the destination may have seen already is never cut anew: the broker's deduplication looks at a
//! batch's first sequence id only (MessageDeduplication.isDuplicate), so a batch with one old and one new
//! message would be answered "duplicate" and dropped whole. Up to the session's `last_sequence_id`
//! everything goes singly; joining starts above it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::refused::Refused;
use crate::pulsar::batch::Batch;
use crate::pulsar::entry::{Entry, EntryRef, Facts};
use crate::pulsar::packing::Compression;

/// How far joining may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages in one batch.
    pub messages: u32,
    /// Stored bytes of the entries in one batch; at most what the destination takes as one message.
    pub bytes: usize,
    /// Join also what has different keys: for topics that nobody reads with Key_Shared.
    pub any_key: bool,
    /// How long something may wait for company while something else is on its way.
    pub delay: Duration,
    /// How a batch is compressed, where that makes it smaller.
    pub compression: Compression,
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
    /// Stored length of these entries: what would be sent again after a lost link, one by one and not compressed.
    pub source_len: usize,
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
    complete: VecDeque<Unit>,
    /// The last, which what comes next may still join.
    open: Option<Open>,
    waiting_len: usize,
    /// How large the last batch became: about as much room the next one needs.
    payload_len: usize,
}

/// A unit in the making.
#[derive(Debug)]
struct Open {
    /// The entry that it began with.
    single: Entry,
    /// It, and those that joined it.
    batch: Option<Batch>,
    first: u64,
    last: u64,
    entries: u32,
    /// Stored length of its entries.
    len: usize,
}

impl Open {
    fn new(id: u64, entry: &EntryRef<'_>) -> Self {
        let (single, len) = (entry.own(), entry.stored_len());
        Self { single, batch: None, first: id, last: id, entries: 1, len }
    }

    /// Whether the entry may join. One schema version and one sticky key (a broker reads the ordering key, else the
    /// partition key, from the batch's metadata).
    fn takes(&self, entry: &EntryRef<'_>, limits: &Limits) -> bool {
        let (one, other) = (self.single.facts(), entry.facts());
        self.len.saturating_add(entry.stored_len()) <= limits.bytes
            && one.schema_version.as_deref() == other.schema_version
            && (limits.any_key || sticky_key(one) == sticky_key(other))
    }

    fn push(&mut self, id: u64, entry: &EntryRef<'_>, payload_len: usize) {
        let begun = || Batch::new(&self.single.by_ref(), payload_len);
        self.batch.get_or_insert_with(begun).push(entry);
        (self.last, self.entries, self.len) = (id, self.entries + 1, self.len + entry.stored_len());
    }

    /// Another entry like these would not fit.
    fn is_full(&self, limits: &Limits) -> bool {
        let each = self.len / self.entries as usize;
        self.entries >= limits.messages || self.len.saturating_add(each) > limits.bytes
    }

    fn finish(self, compression: Compression) -> Unit {
        let Self { single, batch, first, last, entries, len } = self;
        let (messages, stored) = match batch {
            Some(batch) => (batch.messages(), batch.finish(compression)),
            None => (single.facts().messages(), single.stored().clone()),
        };
        Unit { first, last, entries, messages, source_len: len, stored }
    }
}

impl Batching {
    /// Joins within these limits; without any, every entry goes singly.
    pub fn new(limits: Option<Limits>) -> Self {
        Self {
            limits,
            boundary: Boundary::default(),
            apart: Refused::default(),
            previous: None,
            complete: VecDeque::new(),
            open: None,
            waiting_len: 0,
            payload_len: 0,
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
    pub fn push(&mut self, id: u64, entry: &EntryRef<'_>) -> Result<(), NotAscending> {
        if let Some(previous) = self.previous.filter(|previous| *previous >= id) {
            return Err(NotAscending { id, previous });
        }
        self.previous = Some(id);
        self.waiting_len += entry.stored_len();
        // Joining recomputes the checksum: a damaged entry must go as it is, or it would be blessed.
        let joins = self.limits.is_some()
            && self.boundary.is_above(id)
            && !self.apart.holds(id)
            && is_joinable(entry.facts())
            && entry.checksum_holds();
        let limits = self.limits.filter(|_| joins);
        match (&mut self.open, limits) {
            (Some(open), Some(limits)) if open.takes(entry, &limits) => {
                open.push(id, entry, self.payload_len)
            }
            (_, _) => {
                self.complete();
                self.open = Some(Open::new(id, entry));
            }
        }
        if self.open.as_ref().is_some_and(|open| limits.is_none_or(|limits| open.is_full(&limits))) {
            self.complete();
        }
        Ok(())
    }

    /// Nothing of what waits is to be sent.
    pub fn forget_waiting(&mut self) {
        (self.complete, self.open, self.waiting_len) = (VecDeque::new(), None, 0);
    }

    /// Takes the next to send, joined with what came right behind it where that is allowed.
    pub fn take(&mut self) -> Option<Unit> {
        if self.complete.is_empty() {
            self.complete();
        }
        let unit = self.complete.pop_front()?;
        self.waiting_len -= unit.source_len;
        Some(unit)
    }

    /// How long the next to send may wait for company; `None` where it is complete, or there is none.
    pub fn may_grow(&self) -> Option<Duration> {
        let is_open = self.complete.is_empty() && self.open.is_some();
        self.limits.filter(|limits| is_open && !limits.delay.is_zero()).map(|limits| limits.delay)
    }

    /// The id of the entry that is next to be taken.
    pub fn first_waiting(&self) -> Option<u64> {
        let open = self.open.as_ref().map(|open| open.first);
        self.complete.front().map(|unit| unit.first).or(open)
    }

    /// Stored bytes that wait.
    pub fn waiting_len(&self) -> usize {
        self.waiting_len
    }

    /// Nothing more joins the last unit.
    fn complete(&mut self) {
        let Some(open) = self.open.take() else { return };
        if let Some(batch) = &open.batch {
            self.payload_len = batch.payload_len();
        }
        let compression = self.limits.map_or(Compression::None, |limits| limits.compression);
        self.complete.push_back(open.finish(compression));
    }
}

impl Limits {
    /// What a route that joins has where it says nothing else. A wait of a millisecond is the least that timers keep.
    pub const DEFAULT: Self = Self {
        messages: 1000,
        bytes: 128 << 10,
        any_key: false,
        delay: Duration::from_millis(1),
        compression: Compression::None,
    };

    /// After a batch was refused, most likely for its size; `None`: what is so small goes singly.
    pub fn smaller(self) -> Option<Self> {
        let bytes = self.bytes / 4;
        (bytes >= SMALLEST_BATCH).then_some(Self { bytes, ..self })
    }
}

/// The key that decides, whether it is base64, and whether it is null.
type StickyKey<'a> = (Option<&'a [u8]>, Option<(&'a [u8], bool)>, bool);

fn sticky_key<B: AsRef<[u8]>>(facts: &Facts<B>) -> StickyKey<'_> {
    let partition_key = facts.partition_key.as_ref().map(|key| (key.as_ref(), facts.partition_key_b64));
    match &facts.ordering_key {
        Some(key) => (Some(key.as_ref()), None, false),
        None => (None, partition_key, facts.null_partition_key),
    }
}

/// A plain single message; everything about it has a place in a batch.
fn is_joinable<B>(facts: &Facts<B>) -> bool {
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
