//! Which neighbours leave together.

use bytes::BufMut;

use super::*;
use crate::pulsar::{crc, fields};

const LIMITS: Limits = Limits { messages: 3, bytes: 1000, ..Limits::DEFAULT };

/// An unbatched entry; `extra` is written into its metadata.
pub(super) fn single(payload: &[u8], extra: impl FnOnce(&mut Vec<u8>)) -> Entry {
    let mut metadata = Vec::new();
    fields::put_bytes(&mut metadata, 1, b"app");
    fields::put_varint(&mut metadata, 2, 0);
    fields::put_varint(&mut metadata, 3, 1);
    extra(&mut metadata);
    let prefix = (metadata.len() as u32).to_be_bytes();
    let mut stored = vec![0x0e, 0x01];
    stored.put_u32(crc::of(&[&prefix, &metadata, payload]));
    stored.extend_from_slice(&[&prefix[..], &metadata, payload].concat());
    Entry::parse(stored.into()).unwrap()
}

fn plain() -> Entry {
    single(b"payload", |_| {})
}

fn keyed(number: u32, key: &'static [u8]) -> Entry {
    single(b"payload", |metadata| fields::put_bytes(metadata, number, key))
}

/// First and last id of every unit that these entries, numbered from 1, leave as.
fn cut(limits: Option<Limits>, last_sequence_id: i64, entries: &[Entry]) -> Vec<(u64, u64)> {
    let mut batching = Batching::new(limits);
    batching.begin(Boundary::new(last_sequence_id));
    for (id, entry) in (1..).zip(entries) {
        batching.push(id, &entry.by_ref()).unwrap();
    }
    let units = std::iter::from_fn(|| batching.take()).map(|unit| (unit.first, unit.last)).collect();
    assert_eq!(batching.waiting_len(), 0);
    units
}

#[test]
fn what_waits_is_joined_up_to_the_limits() {
    let plains = vec![plain(); 7];
    assert_eq!(cut(Some(LIMITS), -1, &plains), [(1, 3), (4, 6), (7, 7)]);
    let two_fit = Limits { bytes: 2 * plain().stored_len(), ..LIMITS };
    assert_eq!(cut(Some(two_fit), -1, &plains[..3]), [(1, 2), (3, 3)]);
    let none_fit = Limits { bytes: 1, ..LIMITS };
    assert_eq!(cut(Some(none_fit), -1, &plains[..2]), [(1, 1), (2, 2)]);
    assert_eq!(cut(None, -1, &plains[..2]), [(1, 1), (2, 2)]);
}

#[test]
fn joining_starts_above_what_the_destination_has_been_sent() {
    assert_eq!(cut(Some(LIMITS), 3, &vec![plain(); 6]), [(1, 1), (2, 2), (3, 3), (4, 6)]);
    assert_eq!(cut(Some(LIMITS), 99, &vec![plain(); 2]), [(1, 1), (2, 2)]);
}

#[test]
fn only_what_has_one_sticky_key_goes_together() {
    let (partition_key, ordering_key) = (6, 18);
    let entries = [
        keyed(partition_key, b"a"),
        keyed(partition_key, b"a"),
        keyed(partition_key, b"b"),
        plain(),
        plain(),
        keyed(ordering_key, b"b"),
    ];
    assert_eq!(cut(Some(LIMITS), -1, &entries), [(1, 2), (3, 3), (4, 5), (6, 6)]);
    let any_key = Limits { any_key: true, ..LIMITS };
    assert_eq!(cut(Some(any_key), -1, &entries), [(1, 3), (4, 6)]);
    // The ordering key decides where there is one, whatever the partition keys.
    let ordered = |key: &'static [u8]| {
        single(b"x", |metadata| {
            fields::put_bytes(metadata, ordering_key, b"o");
            fields::put_bytes(metadata, partition_key, key);
        })
    };
    assert_eq!(cut(Some(LIMITS), -1, &[ordered(b"a"), ordered(b"b")]), [(1, 2)]);
}

#[test]
fn what_has_no_place_in_a_batch_goes_singly() {
    let numbers = [(8, 1), (11, 1), (19, 5), (20, 1), (22, 1), (29, 0), (40, 1)];
    let bytes = [7, 13, 26, 32];
    let mut odd: Vec<Entry> = Vec::new();
    odd.extend(numbers.map(|(number, value)| single(b"x", |m| fields::put_varint(m, number, value))));
    odd.extend(bytes.map(|number| single(b"x", |m| fields::put_bytes(m, number, b"y"))));
    for entry in odd {
        let facts = entry.facts().clone();
        let units = cut(Some(LIMITS), -1, &[plain(), entry, plain(), plain()]);
        assert_eq!(units, [(1, 1), (2, 2), (3, 4)], "{facts:?}");
    }
    let version = |value: &'static [u8]| keyed(16, value);
    assert_eq!(cut(Some(LIMITS), -1, &[version(b"1"), version(b"2")]), [(1, 1), (2, 2)]);
}

#[test]
fn a_damaged_entry_goes_as_it_is_so_that_the_destination_refuses_it() {
    let mut damaged = plain().stored().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let damaged = Entry::parse(damaged.into()).unwrap();
    let mut batching = Batching::new(Some(LIMITS));
    for (id, entry) in (1..).zip([plain(), damaged.clone(), plain()]) {
        batching.push(id, &entry.by_ref()).unwrap();
    }
    batching.take().unwrap();
    let unit = batching.take().unwrap();
    assert_eq!((unit.first, unit.last, unit.is_joined()), (2, 2, false));
    assert_eq!(&unit.stored, damaged.stored());
}

#[test]
fn a_joined_unit_carries_its_messages_in_order() {
    let mut batching = Batching::new(Some(LIMITS));
    for id in [10, 12, 20] {
        batching.push(id, &single(format!("<{id}>").as_bytes(), |_| {}).by_ref()).unwrap();
    }
    let unit = batching.take().unwrap();
    assert_eq!((unit.first, unit.last, unit.entries, unit.messages), (10, 20, 3, 3));
    let entry = Entry::parse(unit.stored).unwrap();
    assert_eq!(entry.facts().num_messages_in_batch, Some(3));
    let payload = String::from_utf8_lossy(entry.payload()).into_owned();
    let order: Vec<_> = ["<10>", "<12>", "<20>"].map(|text| payload.find(text)).into();
    assert!(order[0] < order[1] && order[1] < order[2] && order[0].is_some(), "{order:?}");
}

#[test]
fn only_what_may_still_get_company_waits_for_it() {
    let mut batching = Batching::new(Some(LIMITS));
    let push = |batching: &mut Batching, id, entry: Entry| {
        batching.push(id, &entry.by_ref()).unwrap();
        batching.may_grow()
    };
    let delay = Some(LIMITS.delay);
    assert_eq!(batching.may_grow(), None);
    assert_eq!(push(&mut batching, 1, plain()), delay);
    assert_eq!(push(&mut batching, 2, plain()), delay);
    assert_eq!(push(&mut batching, 3, plain()), None, "it has all the messages that it may");
    assert_eq!(batching.take().map(|unit| unit.last), Some(3));
    assert_eq!(push(&mut batching, 4, plain()), delay);
    assert_eq!(push(&mut batching, 5, keyed(6, b"another")), None, "what follows is of another key");
    assert_eq!(batching.take().map(|unit| unit.last), Some(4));
    assert_eq!(batching.may_grow(), delay);
    assert_eq!(push(&mut batching, 6, single(b"x", |metadata| fields::put_varint(metadata, 8, 1))), None);
    batching.forget_waiting();
    assert_eq!((batching.may_grow(), batching.waiting_len()), (None, 0));
    let large = Limits { bytes: plain().stored_len() + 1, ..LIMITS };
    for limits in [None, Some(Limits { delay: Duration::ZERO, ..LIMITS }), Some(large)] {
        assert_eq!(push(&mut Batching::new(limits), 1, plain()), None, "{limits:?}");
    }
}

#[test]
fn a_batch_is_compressed_where_that_makes_it_smaller() {
    let packed = Limits { compression: Compression::Zstd, messages: 100, bytes: 100_000, ..LIMITS };
    let mut batching = Batching::new(Some(packed));
    (1..=200).for_each(|id| batching.push(id, &plain().by_ref()).unwrap());
    let unit = batching.take().unwrap();
    let entry = Entry::parse(unit.stored).unwrap();
    assert_eq!((unit.messages, entry.facts().compression, entry.facts().messages()), (100, 3, 100));
    assert!(entry.stored_len() < 10 * plain().stored_len());
    assert_eq!(unit.source_len, 100 * plain().stored_len(), "what would come again, one by one");
}

#[test]
fn a_batch_is_not_made_smaller_than_one_of_its_messages() {
    let packed = Limits { compression: Compression::Zstd, messages: 3, bytes: 100_000, ..LIMITS };
    let mut batching = Batching::new(Some(packed));
    let large = single(&[b'x'; 2000], |_| {});
    (1..=3).for_each(|id| batching.push(id, &large.by_ref()).unwrap());
    let entry = Entry::parse(batching.take().unwrap().stored).unwrap();
    assert_eq!((entry.facts().compression, entry.facts().messages()), (0, 3));
}

#[test]
fn ids_that_go_back_are_refused_until_a_new_session() {
    let mut batching = Batching::new(Some(LIMITS));
    batching.push(5, &plain().by_ref()).unwrap();
    assert_eq!(batching.push(5, &plain().by_ref()), Err(NotAscending { id: 5, previous: 5 }));
    batching.begin(Boundary::new(5));
    assert_eq!(batching.push(3, &plain().by_ref()), Ok(()));
    assert_eq!(batching.waiting_len(), plain().stored_len());
}

#[test]
fn a_duplicate_of_what_was_news_is_never_an_acknowledgement() {
    let boundary = Boundary::new(10);
    assert_eq!(boundary.judge(10, true), Judgement::Confirmed);
    assert_eq!(boundary.judge(11, true), Judgement::OtherWriter);
    assert_eq!(boundary.judge(11, false), Judgement::Confirmed);
    assert_eq!(Boundary::new(-1).judge(0, true), Judgement::OtherWriter);
}
