//! One topic: its entries, who writes and who reads them, behind one lock that is held for a batch of entries at a
//! time and never across an await. Tells connections what concerns them; writes to none.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dedup::{Dedup, Ids, Record, Verdict};
use super::delivery::{Haul, Key};
use super::ledgers::Ledgers;
use super::line::{Feed, Line};
use super::log::{Log, Position, Stored};
use super::memory::Memory;
use super::subscription::Subscription;
use crate::pulsar::proto::ServerError;
use crate::pulsar::topic::TopicName;

/// A topic, or a partition of one.
#[derive(Debug)]
pub struct Topic {
    name: TopicName,
    rules: Arc<Rules>,
    state: Mutex<State>,
}

/// What all topics of a broker share.
#[derive(Debug)]
pub struct Rules {
    pub memory: Memory,
    pub ledgers: Ledgers,
    pub deduplication: bool,
    /// Acknowledged entries stay until their room is needed.
    pub retain: bool,
}

#[derive(Debug)]
pub(super) struct State {
    pub log: Log,
    /// What the entries hold of the broker's memory.
    pub held: usize,
    pub subscriptions: BTreeMap<String, Subscription>,
    pub feeds: HashMap<Key, Arc<Feed>>,
    pub producers: HashMap<String, Registered>,
    pub dedup: Dedup,
    pub counts: Counts,
    /// Where the last entry is that is no marker, and how many messages it said it holds.
    pub last: Option<(Position, Option<u32>)>,
    /// It was said why publishers wait.
    pub has_warned: bool,
}

/// What went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries stored, or dropped at once because nobody subscribes.
    pub entries_in: u64,
    /// The messages they say they hold.
    pub messages_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Sends that were there already.
    pub duplicates: u64,
    /// Entries given to consumers, each time anew.
    pub entries_out: u64,
    /// The messages they say they hold.
    pub messages_out: u64,
}

/// A producer's name is a lock: this is its holder.
#[derive(Debug)]
pub(super) struct Registered {
    pub key: Key,
    pub line: Arc<Line>,
    pub producer_id: u64,
    pub epoch: u64,
    pub is_exclusive: bool,
}

/// A producer, as its connection knows it.
#[derive(Debug)]
pub struct Seat {
    pub topic: Arc<Topic>,
    pub name: String,
    pub key: Key,
}

/// A send that was read and checked.
#[derive(Debug)]
pub struct Incoming {
    pub ids: Ids,
    /// As the client gave it.
    pub highest: Option<u64>,
    pub stored: Stored,
    pub is_marker: bool,
    /// What keeping it costs.
    pub cost: usize,
}

/// What became of a send.
#[derive(Debug)]
pub enum Outcome {
    Stored(Position),
    /// It was there: answered with −1:−1.
    Duplicate,
    /// Its producer was closed by us, which the client will read: no answer (`ServerCnx.handleSend`).
    Ignored,
}

/// Why a producer or consumer is not let in.
#[derive(Debug)]
pub struct Refused {
    pub error: ServerError,
    pub message: String,
    /// Who is in the way, if asking it may help.
    pub holder: Option<Arc<Line>>,
}

impl Refused {
    /// For good.
    pub fn new(error: ServerError, message: impl Into<String>) -> Self {
        Self { error, message: message.into(), holder: None }
    }
}

impl Topic {
    /// An empty one.
    pub fn new(name: TopicName, rules: Arc<Rules>) -> Self {
        let state = State {
            log: Log::new(rules.ledgers.next()),
            held: 0,
            subscriptions: BTreeMap::new(),
            feeds: HashMap::new(),
            producers: HashMap::new(),
            dedup: Dedup::default(),
            counts: Counts::default(),
            last: None,
            has_warned: false,
        };
        Self { name, rules, state: Mutex::new(state) }
    }

    /// Its name.
    pub fn name(&self) -> &TopicName {
        &self.name
    }

    /// Its partition number, as message ids carry it.
    pub fn partition(&self) -> Option<i32> {
        self.name.partition_index().and_then(|index| i32::try_from(index).ok())
    }

    /// Takes a producer's sends, and notes what becomes of each. Ends early, and says so, at one that there is no
    /// room for.
    pub fn publish(
        &self,
        seat: &Seat,
        queue: &mut VecDeque<Incoming>,
        outcomes: &mut Vec<(Incoming, Outcome)>,
    ) -> bool {
        let mut state = self.lock();
        let is_registered = state.producers.get(&seat.name).is_some_and(|holder| holder.key == seat.key);
        // A copy, so that the name is looked up once for all of them.
        let mut record = *state.record(&seat.name);
        let mut has_room = true;
        while let Some(mut send) = queue.pop_front() {
            if !is_registered {
                outcomes.push((send, Outcome::Ignored));
                continue;
            }
            match self.accept(&mut state, &mut record, &mut send) {
                Some(outcome) => outcomes.push((send, outcome)),
                None => {
                    queue.push_front(send);
                    has_room = false;
                    self.explain_wait(&mut state);
                    break;
                }
            }
        }
        *state.record(&seat.name) = record;
        self.offer_all(&mut state);
        has_room
    }

    /// Stores one send; `None` when there is no room for it. Duplicates need none.
    fn accept(&self, state: &mut State, record: &mut Record, send: &mut Incoming) -> Option<Outcome> {
        let judged = self.rules.deduplication && !send.is_marker;
        let ids = send.ids;
        if judged {
            match record.judge(ids) {
                Verdict::New => {}
                Verdict::Duplicate => {
                    state.counts.duplicates += 1;
                    return Some(Outcome::Duplicate);
                }
            }
        }
        let is_kept = self.rules.retain || !state.subscriptions.is_empty();
        let cost = send.cost;
        if is_kept && !self.rules.memory.admit(cost, state.held) {
            return None;
        }
        if judged {
            record.pushed(ids);
        }
        let counts = &mut state.counts;
        counts.entries_in += 1;
        counts.messages_in += u64::from(send.stored.messages());
        counts.bytes_in += send.stored.bytes.len() as u64;
        if state.log.wants_ledger() {
            state.log.open_ledger(self.rules.ledgers.next());
        }
        let batch = send.stored.batch;
        if !is_kept {
            let position = state.log.pass();
            state.note_last(position, batch, send.is_marker);
            return Some(Outcome::Stored(position));
        }
        state.held += cost;
        let mut stored = send.stored.clone();
        (stored.bytes, stored.sliced) = self.rules.memory.keep(std::mem::take(&mut send.stored.bytes));
        let offset = state.log.end();
        let position = state.log.append(stored);
        state.note_last(position, batch, send.is_marker);
        if send.is_marker {
            state.log.note_marker(offset);
            state.subscriptions.values_mut().for_each(|subscription| subscription.ack(offset, &[]));
            self.trim(state);
        }
        Some(Outcome::Stored(position))
    }

    /// Says, once, that publishers wait because of a subscription that nobody consumes.
    fn explain_wait(&self, state: &mut State) {
        if state.has_warned {
            return;
        }
        let oldest = state.subscriptions.iter().min_by_key(|(_, subscription)| subscription.cursor().mark());
        let Some((name, subscription)) = oldest else { return };
        if subscription.consumers().is_empty() && subscription.cursor().mark() < state.log.end() {
            let (topic, bytes) = (&self.name, state.held);
            // By this target it is shown beside the live view too.
            tracing::warn!(
                target: "embedded", %topic, subscription = %name, bytes,
                "publishers wait: nobody consumes this subscription; consume it, or unsubscribe"
            );
            state.has_warned = true;
        }
    }

    /// Gives a consumer what it may have now.
    pub fn take(&self, feed: &Feed, haul: &mut Haul) {
        let mut state = self.lock();
        let State { log, subscriptions, feeds, counts, .. } = &mut *state;
        if !feeds.contains_key(&feed.key) {
            return;
        }
        let subscription = subscriptions.get_mut(&feed.subscription);
        let may_offer = subscription.is_some_and(|subscription| subscription.take(feed.key, log, haul));
        counts.entries_out += haul.deliveries.len() as u64;
        counts.messages_out += haul.messages;
        if may_offer {
            self.offer(&mut state, &feed.subscription);
        }
    }

    /// Drops entries that everybody has acknowledged, though they may be retained, until `wanted` bytes are free.
    pub fn evict(&self, wanted: usize) -> usize {
        let mut state = self.lock();
        self.drop_acked(&mut state, wanted)
    }

    /// Whether so much can be stored at once, or as much as may be asked for.
    pub fn has_room(&self, wanted: usize) -> bool {
        let held = self.lock().held;
        let memory = &self.rules.memory;
        held == 0 || memory.would_admit(wanted.min(2 * memory.to_evict()), held)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Lets go of what nobody has to read any more; of what is retained, only as much as somebody waits for.
    pub(super) fn trim(&self, state: &mut State) {
        if !self.rules.retain {
            self.drop_acked(state, usize::MAX);
        } else if self.rules.memory.is_awaited() {
            self.drop_acked(state, self.rules.memory.to_evict());
        }
    }

    fn drop_acked(&self, state: &mut State, wanted: usize) -> usize {
        if state.subscriptions.is_empty() && state.held == 0 {
            // The last one may have gone: nothing has to be kept any more, so nobody has to wait.
            self.rules.memory.wake();
        }
        let marks = state.subscriptions.values().map(|subscription| subscription.cursor().mark());
        let keep_from = marks.min().unwrap_or(state.log.end());
        let mut freed = 0;
        while state.log.first() < keep_from && freed < wanted {
            let Some(stored) = state.log.pop() else { break };
            freed += stored.cost();
            if stored.sliced {
                self.rules.memory.unslice(stored.bytes.len());
            }
        }
        if freed > 0 {
            state.held -= freed;
            self.rules.memory.release(freed);
        }
        freed
    }

    fn offer_all(&self, state: &mut State) {
        let State { log, subscriptions, feeds, .. } = state;
        for subscription in subscriptions.values_mut() {
            for key in subscription.offer(log) {
                if let Some(feed) = feeds.get(&key) {
                    feed.wake();
                }
            }
        }
    }

    /// Wakes those of one subscription who can be given something.
    pub(super) fn offer(&self, state: &mut State, subscription: &str) {
        let State { log, subscriptions, feeds, .. } = state;
        let Some(subscription) = subscriptions.get_mut(subscription) else { return };
        for key in subscription.offer(log) {
            if let Some(feed) = feeds.get(&key) {
                feed.wake();
            }
        }
    }
}

impl State {
    fn note_last(&mut self, position: Position, batch: Option<u32>, is_marker: bool) {
        if !is_marker {
            self.last = Some((position, batch));
        }
    }

    fn record(&mut self, name: &str) -> &mut Record {
        let Self { dedup, producers, .. } = self;
        dedup.record(name, |name| producers.contains_key(name))
    }
}

/// A topic that goes gives its room back.
impl Drop for Topic {
    fn drop(&mut self) {
        let held = self.lock().held;
        self.rules.memory.release(held);
    }
}
