//! Entries cut, read and re-headed; hex vectors are written out field by field.

use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .flat_map(|line| line.split("//").next().unwrap_or_default().chars())
        .filter_map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// What a Java producer with properties, a key and a schema stores, plus a transaction and a field of the
/// future.
const GOLDEN_METADATA: &str = "
    0a 05 70726f6431         // 1 producer_name prod1
    10 07                    // 2 sequence_id 7
    18 b9 e8 f0 a2 b9 33     // 3 publish_time 1767720629305
    22 06 0a016b 120176      // 4 properties k=v
    2a 02 6e79               // 5 replicated_from ny
    32 03 6b6579             // 6 partition_key key
    3a 02 6c64               // 7 replicate_to ld
    82 01 08 0000000000000003 // 16 schema_version 3
    90 01 2a                 // 18 as a varint: another wire type, so an unknown field
    b0 01 01                 // 22 txnid_least_bits 1
    b8 01 02                 // 23 txnid_most_bits 2
    c0 01 ffffffffffffffffff01 // 24 highest_sequence_id 2^64-1
    82 02 03 616263          // 32 (schema_id of later brokers) abc
";
const GOLDEN_PAYLOAD: &[u8] = b"hello bridge";
/// CRC-32C over metadata length, metadata and payload, computed bit by bit outside this crate.
const GOLDEN_CRC: u32 = 0x0d57_8d22;
/// The same entry after `heading()`.
const GOLDEN_REHEADED: &str = "
    0e01 e713ee1f            // checksum
    0000003f                 // metadata length
    0a 08 6272696467652f78   // 1 producer_name bridge/x
    10 81808080 10           // 2 sequence_id 16 << 28 | 1
    18 b9 e8 f0 a2 b9 33     // 3 publish_time
    22 06 0a016b 120176      // 4 properties
    32 03 6b6579             // 6 partition_key
    90 01 2a                 // unknown
    82 02 03 616263          // 32
    82 01 08 0000000000000005 // 16 schema_version 5
    c0 01 85808080 10        // 24 highest_sequence_id 16 << 28 | 5
";

const HEADING: Heading<'_> = Heading {
    producer_name: "bridge/x",
    sequence_id: 16 << 28 | 1,
    highest_sequence_id: Some(16 << 28 | 5),
    schema_version: SchemaVersion::Set(&[0, 0, 0, 0, 0, 0, 0, 5]),
};

fn golden() -> Vec<u8> {
    let metadata = hex(GOLDEN_METADATA);
    let mut stored = hex("0e01");
    stored.put_u32(GOLDEN_CRC);
    stored.put_u32(metadata.len() as u32);
    stored.extend_from_slice(&metadata);
    stored.extend_from_slice(GOLDEN_PAYLOAD);
    stored
}

fn parse(stored: &[u8]) -> Result<Entry, EntryError> {
    Entry::parse(Bytes::copy_from_slice(stored))
}

/// An entry of this metadata and payload, with its right checksum.
fn stored(metadata: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut stored = CHECKSUM_MAGIC.to_vec();
    stored.put_u32(crc::of(&[&len_prefix(metadata), metadata, payload]));
    stored.put_u32(metadata.len() as u32);
    stored.extend_from_slice(metadata);
    stored.extend_from_slice(payload);
    stored
}

fn reparse(entry: &Entry, heading: &Heading<'_>) -> Entry {
    let whole = [&entry.rehead(heading)[..], &entry.payload()[..]].concat();
    parse(&whole).unwrap()
}

#[test]
fn a_golden_entry_is_read_field_by_field() {
    let entry = parse(&golden()).unwrap();
    assert_eq!((entry.checksum(), entry.checksum_holds()), (Some(GOLDEN_CRC), true));
    assert_eq!(entry.payload(), GOLDEN_PAYLOAD);
    assert_eq!(entry.stored_len(), golden().len());
    let expected = Facts {
        producer_name: Some(Bytes::from_static(b"prod1")),
        sequence_id: 7,
        highest_sequence_id: Some(u64::MAX),
        publish_time: 1_767_720_629_305,
        properties: true,
        has_txn: true,
        schema_version: Some(Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 3])),
        replicated_from: Some(Bytes::from_static(b"ny")),
        replicate_to: true,
        partition_key: Some(Bytes::from_static(b"key")),
        unknown: true,
        ..Facts::default()
    };
    assert_eq!(entry.facts(), &expected);
}

#[test]
fn a_golden_entry_is_reheaded_byte_for_byte() {
    let entry = parse(&golden()).unwrap();
    assert_eq!(entry.rehead(&HEADING), hex(GOLDEN_REHEADED));
    assert!(reparse(&entry, &HEADING).checksum_holds());
}

#[test]
fn broker_metadata_is_dropped_and_a_missing_checksum_is_computed() {
    let plain = golden()[6..].to_vec();
    let dressed = [&hex("0e02 00000003 aabbcc")[..], &golden()].concat();
    assert_eq!(parse(&dressed).unwrap().stored(), &golden());
    let bare = parse(&plain).unwrap();
    assert_eq!((bare.checksum(), bare.checksum_holds()), (None, true));
    assert_eq!(bare.rehead(&HEADING), hex(GOLDEN_REHEADED));
}

#[test]
fn a_damaged_payload_keeps_a_checksum_that_does_not_hold() {
    let mut damaged = golden();
    *damaged.last_mut().unwrap() ^= 0x10;
    let entry = parse(&damaged).unwrap();
    assert!(!entry.checksum_holds());
    assert!(!reparse(&entry, &HEADING).checksum_holds());
}

#[test]
fn an_entry_cut_before_its_payload_is_refused_by_name() {
    let whole = [&hex("0e02 00000003 aabbcc")[..], &golden()].concat();
    let head_len = whole.len() - GOLDEN_PAYLOAD.len();
    for len in 2..head_len {
        let error = parse(&whole[..len]).unwrap_err();
        let part = match len {
            ..9 => "broker metadata",
            9..11 => "metadata length",
            11..15 => "checksum",
            15..19 => "metadata length",
            _ => "metadata",
        };
        assert_eq!(error, EntryError::Truncated { len, part });
    }
    for len in head_len..whole.len() {
        assert!(!parse(&whole[..len]).unwrap().checksum_holds());
    }
}

#[test]
fn metadata_that_ends_inside_a_field_or_lacks_its_time_is_refused() {
    let torn = parse(&stored(&hex("18 01 0a 05 70"), b"")).unwrap_err();
    assert_eq!(torn, EntryError::Metadata(FieldError::Truncated { at: 2 }));
    let timeless = parse(&stored(&hex("0a 01 70 10 01"), b"")).unwrap_err();
    assert_eq!(timeless, EntryError::Missing("publish_time"));
}

#[test]
fn a_claimed_count_never_leaves_what_permits_can_hold() {
    let cases = [
        ("", 1),
        ("58 01", 1),
        ("58 e807", 1000),
        ("58 00", 1),
        ("58 ffffffffffffffffff01", 1),
        ("58 ffffffff07", i32::MAX.unsigned_abs()),
    ];
    for (claim, messages) in cases {
        let entry = parse(&stored(&hex(&format!("18 01 {claim}")), b"")).unwrap();
        assert_eq!(entry.facts().messages(), messages, "{claim}");
        assert_eq!(entry.facts().num_messages_in_batch.is_some(), !claim.is_empty());
    }
}

#[test]
fn the_author_s_wish_to_stay_local_survives_and_cluster_names_do_not() {
    let local = "3a 09 5f5f6c6f63616c5f5f";
    let cases = [
        (local.to_owned(), true, true),
        (format!("{local} 3a 02 6c64"), false, true),
        ("3a 02 6c64".to_owned(), false, true),
        (String::new(), false, false),
    ];
    for (targets, local_only, replicate_to) in cases {
        let entry = parse(&stored(&hex(&format!("18 01 {targets}")), b"")).unwrap();
        assert_eq!(entry.facts().local_only, local_only, "{targets}");
        assert_eq!(entry.facts().replicate_to, replicate_to, "{targets}");
        assert_eq!(reparse(&entry, &HEADING).facts().replicate_to, local_only);
    }
}

#[test]
fn what_a_bridge_wrote_is_known_by_its_name() {
    let source = parse(&golden()).unwrap();
    assert!(!source.facts().written_by_bridge());
    assert!(reparse(&source, &HEADING).facts().written_by_bridge());
}

#[test]
fn a_bridges_name_says_from_which_site_an_entry_was_brought() {
    for (name, from) in [
        ("bridge/bank/hub/persistent://a/b/c/1", Some("bank")),
        ("bridge/bank-2/hub/persistent://a/b/c/1", Some("bank-2")),
        ("bridge/bank", None),
        ("bridge//hub", None),
        ("bridge/a b/hub", None),
        ("bridge/123456789012345678901234567890123/hub", None),
        ("x/bridge/bank/hub/", None),
    ] {
        let heading = Heading { producer_name: name, ..HEADING };
        assert_eq!(reparse(&parse(&golden()).unwrap(), &heading).facts().brought_from(), from, "{name}");
    }
    assert_eq!(parse(&golden()).unwrap().facts().brought_from(), None);
}

/// Fields as `MessageMetadata` may have them, and some it may not.
fn metadata() -> impl Strategy<Value = Vec<u8>> {
    let field = (1u32..40, any::<bool>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..20));
    prop::collection::vec(field, 0..25).prop_map(|list| {
        let mut metadata = Vec::new();
        fields::put_varint(&mut metadata, tag::PUBLISH_TIME, 1);
        for (number, as_bytes, value, text) in list {
            if as_bytes {
                fields::put_bytes(&mut metadata, number, &text);
            } else {
                fields::put_varint(&mut metadata, number, value);
            }
        }
        metadata
    })
}

proptest! {
    #[test]
    fn any_bytes_are_an_entry_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(entry) = parse(&bytes) {
            entry.rehead(&HEADING);
        }
    }

    #[test]
    fn a_mutated_entry_never_panics(
        metadata in metadata(), at in any::<prop::sample::Index>(), to in any::<u8>(), len in 0usize..400,
    ) {
        let mut bytes = stored(&metadata, b"payload");
        *at.get_mut(&mut bytes) = to;
        bytes.truncate(len);
        if let Ok(entry) = parse(&bytes) {
            prop_assert_eq!(&entry.rehead(&HEADING)[..2], &CHECKSUM_MAGIC);
        }
    }

    #[test]
    fn a_new_head_keeps_every_foreign_field_in_order(
        metadata in metadata(), payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let entry = parse(&stored(&metadata, &payload)).unwrap();
        let reheaded = reparse(&entry, &HEADING);
        prop_assert!(reheaded.checksum_holds());
        prop_assert_eq!(reheaded.payload(), &payload);
        let span = |from: &[u8], field: &fields::Field<'_>| from[field.span.clone()].to_vec();
        let kept: Vec<_> = Fields::of(&metadata)
            .map(|field| field.unwrap())
            .filter(|field| !entry.facts().is_rewritten(field.number, &field.value))
            .map(|field| span(&metadata, &field))
            .collect();
        let written = reheaded.metadata();
        let all: Vec<_> = Fields::of(written).map(|field| span(written, &field.unwrap())).collect();
        prop_assert_eq!(&all[2..all.len() - 2], &kept[..]);
        let facts = reheaded.facts();
        prop_assert_eq!(facts.producer_name.as_deref(), Some(HEADING.producer_name.as_bytes()));
        prop_assert_eq!((facts.sequence_id, facts.highest_sequence_id), (16 << 28 | 1, Some(16 << 28 | 5)));
        prop_assert!(!facts.has_txn && facts.replicated_from.is_none());
        // Once more gives the same: nothing of an older heading is left behind.
        prop_assert_eq!(reheaded.rehead(&HEADING), entry.rehead(&HEADING));
    }
}
