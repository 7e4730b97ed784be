//! Joining against a list model of the broker's deduplication (MessageDeduplication.isDuplicate and
//! recordMessagePersisted; PersistentTopic resets what was pushed to what was persisted when a write fails).
//! Random operations, then healing: the destination must hold the source's entries, in order, each once.
//! Rules that are known to lose must be seen losing, else the model proves nothing.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::tests::single;
use super::*;
use crate::pulsar::fields::{self, Fields, Value};

const ENTRIES: usize = 40;
const LIMITS: Limits = Limits { messages: 4, bytes: 10_000, ..Limits::DEFAULT };

/// What the world and the writers obey.
#[derive(Clone, Copy)]
struct Rules {
    /// The broker lets one producer of a name live: opening one ends the other (AbstractTopic).
    name_lock: bool,
    /// Units in flight per writer.
    in_flight_max: usize,
    /// Mutation: joins below the boundary too.
    shifted_boundaries: bool,
    /// Mutation: takes every duplicate receipt for an acknowledgement.
    trusting: bool,
    /// A joined unit larger than all that were stored in the session goes alone (`Publishing::next_step`).
    alone: bool,
    /// Entries in the largest joined unit that the topic stores; it refuses others before deduplication.
    stores_max: u32,
}

const DESIGNED: Rules = Rules {
    name_lock: true,
    in_flight_max: 100,
    shifted_boundaries: false,
    trusting: false,
    alone: true,
    stores_max: LIMITS.messages,
};

#[derive(Clone, Copy, Debug)]
enum Op {
    /// A writer creates its producer.
    Open(usize),
    /// It reads some entries from the source and sends what it may.
    Send(usize, usize),
    /// Some of its frames reach the broker.
    Arrive(usize, usize),
    /// Some pending writes are persisted.
    Persist(usize),
    /// A writer reads some answers.
    Answer(usize, usize),
    /// Its connection breaks; some frames still arrive, no answer does.
    Cut(usize, usize),
    /// Its process dies, or another replica takes over: it begins at the source's mark-delete position.
    Restart(usize),
    /// The topic is unloaded, or a write fails, or the broker dies: some of what is pending is persisted.
    Unload(usize),
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Exact,
    Lost,
    Repeated,
    Stuck,
}

#[derive(Clone)]
struct Frame {
    session: u32,
    unit: Unit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stored,
    Duplicate,
    CannotDetermine,
    Refused,
}

struct Answer {
    session: u32,
    last: u64,
    entries: u32,
    fate: Fate,
}

struct Writer {
    /// What it joins at most: less after a refusal.
    limits: Limits,
    batching: Batching,
    boundary: Boundary,
    session: Option<u32>,
    /// Lowest entry without a receipt, and the next to read.
    base: usize,
    read: usize,
    /// Unconfirmed units in order: last id, entry after it, confirmed.
    sent: VecDeque<(u64, usize, bool)>,
    /// Frames on their way to the broker, answers on their way back.
    wire: VecDeque<Frame>,
    answers: VecDeque<Answer>,
    /// Entries in the largest joined unit that was stored in this session.
    stored_max: u32,
    /// The last id of a unit behind which nothing is sent.
    alone: Option<u64>,
}

struct World {
    rules: Rules,
    mark_delete: usize,
    writers: [Writer; 2],
    log: Vec<usize>,
    pushed: Option<u64>,
    persisted: Option<u64>,
    pending: VecDeque<(usize, Frame)>,
    /// The live producer of each writer.
    live: [Option<u32>; 2],
    sessions: u32,
}

/// Ledgers of seven entries.
fn id(index: usize) -> u64 {
    ((5 + index as u64 / 7) << 28) | (index as u64 % 7)
}

fn entry(index: usize) -> Entry {
    single(&[index as u8], |metadata| {
        if index % 6 == 5 {
            fields::put_varint(metadata, 8, 1);
        }
    })
}

/// The source entries whose messages a stored unit holds.
fn indexes(unit: &Unit) -> Vec<usize> {
    let entry = Entry::parse(unit.stored.clone()).unwrap();
    let mut rest = &entry.payload()[..];
    if entry.facts().num_messages_in_batch.is_none() {
        return vec![rest[0].into()];
    }
    let mut indexes = Vec::new();
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let (metadata, tail) = tail.split_at(u32::from_be_bytes(*len) as usize);
        let payload_len = Fields::of(metadata).find_map(|field| match field.unwrap() {
            fields::Field { number: 3, value: Value::Varint(len), .. } => Some(len as usize),
            _ => None,
        });
        let (message, tail) = tail.split_at(payload_len.unwrap());
        indexes.push(message[0].into());
        rest = tail;
    }
    indexes
}

impl Writer {
    fn new() -> Self {
        Self {
            limits: LIMITS,
            batching: Batching::new(Some(LIMITS)),
            boundary: Boundary::default(),
            session: None,
            base: 0,
            read: 0,
            sent: VecDeque::new(),
            wire: VecDeque::new(),
            answers: VecDeque::new(),
            stored_max: 1,
            alone: None,
        }
    }

    fn confirm(&mut self, last: u64) {
        let unit = self.sent.iter_mut().find(|(sent, ..)| *sent == last).unwrap();
        unit.2 = true;
        while let Some((_, end, true)) = self.sent.front() {
            self.base = *end;
            self.sent.pop_front();
        }
    }
}

impl World {
    fn new(rules: Rules) -> Self {
        Self {
            rules,
            mark_delete: 0,
            writers: [Writer::new(), Writer::new()],
            log: Vec::new(),
            pushed: None,
            persisted: None,
            pending: VecDeque::new(),
            live: [None; 2],
            sessions: 0,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Open(who) => self.open(who),
            Op::Send(who, count) => self.send(who, count),
            Op::Arrive(who, count) => self.arrive(who, count),
            Op::Persist(count) => self.persist(count),
            Op::Answer(who, count) => self.answer(who, count),
            Op::Cut(who, arriving) => self.cut(who, arriving),
            Op::Restart(who) => {
                self.cut(who, 0);
                self.writers[who].base = self.mark_delete;
            }
            Op::Unload(persisted) => {
                self.persist(persisted);
                self.pending.clear();
                self.pushed = self.persisted;
                self.live = [None; 2];
                self.writers.iter_mut().for_each(|writer| {
                    writer.session = None;
                    writer.wire.clear();
                });
            }
        }
    }

    fn open(&mut self, who: usize) {
        self.cut(who, 0);
        if self.rules.name_lock {
            self.live = [None; 2];
        }
        self.sessions += 1;
        self.live[who] = Some(self.sessions);
        let writer = &mut self.writers[who];
        writer.session = Some(self.sessions);
        writer.boundary = Boundary::new(self.pushed.map_or(-1, |pushed| pushed as i64));
        let known = if self.rules.shifted_boundaries { Boundary::default() } else { writer.boundary };
        writer.batching = Batching::new(Some(writer.limits));
        writer.batching.begin(known);
        writer.read = writer.base;
        writer.sent.clear();
        (writer.stored_max, writer.alone) = (1, None);
    }

    fn send(&mut self, who: usize, count: usize) {
        let writer = &mut self.writers[who];
        let Some(session) = writer.session else { return };
        let end = ENTRIES.min(writer.read + count);
        for index in writer.read..end {
            writer.batching.push(id(index), &entry(index).by_ref()).unwrap();
        }
        writer.read = end;
        while writer.sent.len() < self.rules.in_flight_max && writer.alone.is_none() {
            let Some(unit) = writer.batching.take() else { break };
            if self.rules.alone && unit.entries > writer.stored_max {
                writer.alone = Some(unit.last);
            }
            let start = writer.sent.back().map_or(writer.base, |(_, end, _)| *end);
            writer.sent.push_back((unit.last, start + unit.entries as usize, false));
            writer.wire.push_back(Frame { session, unit });
        }
    }

    fn arrive(&mut self, who: usize, count: usize) {
        for _ in 0..count {
            let Some(frame) = self.writers[who].wire.pop_front() else {
                break;
            };
            if self.live[who] != Some(frame.session) {
                continue;
            }
            let first = Some(frame.unit.first);
            if frame.unit.entries > self.rules.stores_max {
                self.tell(who, &frame, Fate::Refused);
            } else if first > self.pushed {
                self.pushed = Some(frame.unit.last);
                self.pending.push_back((who, frame));
            } else if first <= self.persisted {
                self.tell(who, &frame, Fate::Duplicate);
            } else {
                self.tell(who, &frame, Fate::CannotDetermine);
            }
        }
    }

    fn tell(&mut self, who: usize, frame: &Frame, fate: Fate) {
        if self.live[who] == Some(frame.session) {
            let Unit { last, entries, .. } = frame.unit;
            let answer = Answer { session: frame.session, last, entries, fate };
            self.writers[who].answers.push_back(answer);
        }
    }

    fn persist(&mut self, count: usize) {
        for _ in 0..count {
            let Some((who, frame)) = self.pending.pop_front() else {
                break;
            };
            self.log.extend(indexes(&frame.unit));
            self.persisted = Some(frame.unit.last);
            self.tell(who, &frame, Fate::Stored);
        }
    }

    fn answer(&mut self, who: usize, count: usize) {
        for _ in 0..count {
            let writer = &mut self.writers[who];
            let Some(answer) = writer.answers.pop_front() else {
                break;
            };
            if writer.session != Some(answer.session) {
                continue;
            }
            let duplicate = answer.fate == Fate::Duplicate;
            let trusted = self.rules.trusting && duplicate;
            let judged = writer.boundary.judge(answer.last, duplicate);
            if answer.fate == Fate::Refused {
                writer.limits.messages = 1.max(writer.limits.messages / 2);
            }
            let ends = matches!(answer.fate, Fate::CannotDetermine | Fate::Refused);
            if ends || (judged == Judgement::OtherWriter && !trusted) {
                // Closes in order: what was sent before is processed first.
                self.cut(who, usize::MAX);
            } else {
                writer.alone.take_if(|last| *last == answer.last);
                if !duplicate {
                    writer.stored_max = writer.stored_max.max(answer.entries);
                }
                writer.confirm(answer.last);
                self.mark_delete = self.mark_delete.max(writer.base);
            }
        }
        self.send(who, 0);
    }

    fn cut(&mut self, who: usize, arriving: usize) {
        self.arrive(who, arriving.min(self.writers[who].wire.len()));
        self.live[who] = None;
        self.writers[who].session = None;
        self.writers[who].wire.clear();
    }

    /// The second writer goes for good; the first one finishes.
    fn heal(&mut self) -> Outcome {
        self.cut(1, 0);
        for _ in 0..4 * ENTRIES {
            if self.writers[0].base == ENTRIES {
                break;
            }
            // An evicted session hears nothing any more: its keepalive ends it.
            if self.live[0].is_none() || self.live[0] != self.writers[0].session {
                self.open(0);
            }
            self.send(0, ENTRIES);
            self.arrive(0, ENTRIES);
            self.persist(ENTRIES);
            self.answer(0, ENTRIES);
        }
        let missing = (0..ENTRIES).any(|index| !self.log.contains(&index));
        match () {
            () if self.writers[0].base != ENTRIES => Outcome::Stuck,
            () if missing => Outcome::Lost,
            () if !self.log.iter().copied().eq(0..ENTRIES) => Outcome::Repeated,
            () => Outcome::Exact,
        }
    }
}

fn outcome(rules: Rules, ops: &[Op]) -> Outcome {
    let mut world = World::new(rules);
    ops.iter().for_each(|op| world.apply(*op));
    world.heal()
}

fn op() -> impl Strategy<Value = Op> {
    let (who, few) = (0usize..2, 0usize..8);
    prop_oneof![
        3 => who.clone().prop_map(Op::Open),
        6 => (who.clone(), 1usize..12).prop_map(|(who, count)| Op::Send(who, count)),
        6 => (who.clone(), few.clone()).prop_map(|(who, count)| Op::Arrive(who, count)),
        5 => few.clone().prop_map(Op::Persist),
        5 => (who.clone(), few.clone()).prop_map(|(who, count)| Op::Answer(who, count)),
        2 => (who.clone(), few.clone()).prop_map(|(who, count)| Op::Cut(who, count)),
        1 => who.prop_map(Op::Restart),
        1 => few.prop_map(Op::Unload),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 0..80)
}

/// Whether one of some thousand histories, the same ones every time, loses an entry.
fn loses(rules: Rules) -> bool {
    let mut runner = TestRunner::deterministic();
    let mut histories = (0..3000).map(|_| ops().new_tree(&mut runner).unwrap().current());
    histories.any(|ops| outcome(rules, &ops) == Outcome::Lost)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn whatever_happens_the_destination_gets_the_source_s_list(ops in ops()) {
        prop_assert_eq!(outcome(DESIGNED, &ops), Outcome::Exact);
    }

    #[test]
    fn a_topic_that_refuses_batches_for_their_size_gets_the_list_all_the_same(ops in ops(), stores_max in 1u32..4) {
        prop_assert_eq!(outcome(Rules { stores_max, ..DESIGNED }, &ops), Outcome::Exact);
    }

    #[test]
    fn one_unit_in_flight_is_safe_even_where_two_producers_hold_one_name(ops in ops()) {
        let rules = Rules { name_lock: false, in_flight_max: 1, ..DESIGNED };
        prop_assert_eq!(outcome(rules, &ops), Outcome::Exact);
    }
}

#[test]
fn the_model_joins_and_repeats_at_all() {
    let mut world = World::new(DESIGNED);
    let sent = |world: &World, who: usize| -> Vec<_> {
        world.writers[who].wire.iter().map(|frame| indexes(&frame.unit)).collect()
    };
    world.apply(Op::Open(0));
    world.apply(Op::Send(0, 12));
    // A first batch goes alone.
    assert_eq!(sent(&world, 0), [[0, 1, 2, 3]]);
    for op in [Op::Arrive(0, 1), Op::Persist(9), Op::Answer(0, 1), Op::Arrive(0, 1), Op::Persist(9)] {
        world.apply(op);
    }
    world.apply(Op::Open(1));
    world.apply(Op::Send(1, 12));
    // 0..4 and 4 were stored; the second writer repeats them singly and joins above.
    assert_eq!(world.log, [0, 1, 2, 3, 4]);
    let expected: [&[usize]; 7] = [&[0], &[1], &[2], &[3], &[4], &[5], &[6, 7, 8, 9]];
    assert_eq!(sent(&world, 1), expected);
}

#[test]
fn batches_that_do_not_go_alone_are_seen_losing_where_a_topic_refuses_them() {
    let mutated = Rules { alone: false, stores_max: 2, ..DESIGNED };
    assert!(loses(mutated));
}

#[test]
fn boundaries_that_shift_are_seen_losing() {
    let mutated = Rules { shifted_boundaries: true, trusting: true, ..DESIGNED };
    assert!(loses(mutated));
}

#[test]
fn joining_below_the_boundary_is_seen_losing_even_by_one_who_doubts_duplicates() {
    // Where none goes alone: it would take more histories.
    let mutated = Rules { shifted_boundaries: true, alone: false, ..DESIGNED };
    assert!(loses(mutated));
}

#[test]
fn trusting_every_duplicate_is_seen_losing_where_two_producers_hold_one_name() {
    let mutated = Rules { name_lock: false, in_flight_max: 1, trusting: true, ..DESIGNED };
    assert!(loses(mutated));
}

#[test]
fn many_joined_units_in_flight_lean_on_the_broker_s_name_lock() {
    let rules = Rules { name_lock: false, alone: false, ..DESIGNED };
    assert!(loses(rules));
}
