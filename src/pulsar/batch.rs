//! Joins single messages into one Pulsar batch, as an official producer would have written it. Chooses
//! nothing: which entries may share a batch, and whether it is compressed, is the relay's decision.
//!
//! ```text
//! payload:  [ metadata_len u32 | SingleMessageMetadata | message ]*     perhaps compressed as a whole
//! ```

use bytes::{BufMut, Bytes};

use super::crc;
use super::entry::{CHECKSUM_MAGIC, EntryRef, Facts, tag};
use super::fields::{self, Fields, Value};
use super::packing::Compression;

/// A batch in the making; never empty.
#[derive(Clone, Debug)]
pub struct Batch {
    /// With the keys that all have.
    first: Facts,
    messages: u32,
    /// Stored length of the largest of them.
    largest: usize,
    /// Room for the head, then the payload: what is written once need not be moved.
    bytes: Vec<u8>,
    head_room: usize,
}

impl Batch {
    /// A batch of this one message, with room for a payload of `payload_len`.
    pub fn new(first: &EntryRef<'_>, payload_len: usize) -> Self {
        let facts = first.own_facts();
        let head_room = head_len_max(&facts);
        let mut bytes = Vec::with_capacity(head_room + payload_len.max(first.stored_len()));
        bytes.resize(head_room, 0);
        let mut batch = Self { first: facts, messages: 0, largest: 0, bytes, head_room };
        batch.push(first);
        batch
    }

    /// Appends a single message with its properties, keys, event time and sequence id. Its publish time is
    /// lost: a batch has one, the first message's.
    pub fn push(&mut self, single: &EntryRef<'_>) {
        let (first, facts) = (&mut self.first, single.facts());
        if (facts.partition_key, facts.partition_key_b64)
            != (first.partition_key.as_deref(), first.partition_key_b64)
        {
            (first.partition_key, first.partition_key_b64) = (None, false);
        }
        if facts.ordering_key != first.ordering_key.as_deref() {
            first.ordering_key = None;
        }
        let at = self.bytes.len();
        self.bytes.put_u32(0);
        put_single_metadata(single, &mut self.bytes);
        let metadata_len = self.bytes.len() - at - 4;
        // Shorter than the entry's own metadata and head, whose length came from 32 bits.
        self.bytes[at..at + 4].copy_from_slice(&(metadata_len as u32).to_be_bytes());
        self.bytes.extend_from_slice(single.payload());
        self.messages += 1;
        self.largest = self.largest.max(single.stored_len());
    }

    /// How many messages it holds.
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Bytes of its payload, as it is not compressed.
    pub fn payload_len(&self) -> usize {
        self.bytes.len() - self.head_room
    }

    /// The stored form, checksum first; compressed where that makes it smaller, and not smaller than one of its messages
    /// alone: a topic that takes the batch must not refuse the message for its size when it comes again. Producer name and sequence id are the
    /// first message's: the publisher gives every entry its own heading.
    pub fn finish(mut self, compression: Compression) -> Bytes {
        let packed = compression.pack(&self.bytes[self.head_room..]);
        match packed.filter(|payload| payload.len() >= self.largest) {
            None => {
                let metadata = self.metadata(Compression::None);
                put_head(&metadata, &mut self.bytes, self.head_room)
            }
            Some(payload) => {
                let metadata = self.metadata(compression);
                // As long as it is, and no longer: it waits for its receipt.
                let mut bytes = Vec::with_capacity(self.head_room + payload.len());
                bytes.resize(self.head_room, 0);
                bytes.extend_from_slice(&payload);
                put_head(&metadata, &mut bytes, self.head_room)
            }
        }
    }

    fn metadata(&self, compression: Compression) -> Vec<u8> {
        let first = &self.first;
        let mut metadata = Vec::with_capacity(self.head_room);
        fields::put_bytes(
            &mut metadata,
            tag::PRODUCER_NAME,
            first.producer_name.as_deref().unwrap_or_default(),
        );
        fields::put_varint(&mut metadata, tag::SEQUENCE_ID, first.sequence_id);
        fields::put_varint(&mut metadata, tag::PUBLISH_TIME, first.publish_time);
        // Key_Shared looks for the key here only; without it one key would reach several consumers. And clients may take
        // it for that of a message without one, so it is only here if all have it.
        if let Some(key) = &first.partition_key {
            fields::put_bytes(&mut metadata, tag::PARTITION_KEY, key);
        }
        if compression != Compression::None {
            // Never negative.
            fields::put_varint(&mut metadata, tag::COMPRESSION, compression.codec() as u64);
        }
        fields::put_varint(&mut metadata, tag::UNCOMPRESSED_SIZE, self.payload_len() as u64);
        fields::put_varint(&mut metadata, tag::NUM_MESSAGES_IN_BATCH, self.messages.into());
        if let Some(version) = &first.schema_version {
            fields::put_bytes(&mut metadata, tag::SCHEMA_VERSION, version);
        }
        if first.partition_key_b64 {
            fields::put_varint(&mut metadata, tag::PARTITION_KEY_B64, 1);
        }
        if let Some(key) = &first.ordering_key {
            fields::put_bytes(&mut metadata, tag::ORDERING_KEY, key);
        }
        metadata
    }
}

/// Writes an entry's head right before the payload that lies in `bytes` behind `head_room`; gives both.
fn put_head(metadata: &[u8], bytes: &mut Vec<u8>, head_room: usize) -> Bytes {
    let begin = head_room - HEAD_LEN_FIXED - metadata.len();
    let head = &mut bytes[begin..head_room];
    head[6..10].copy_from_slice(&(metadata.len() as u32).to_be_bytes());
    head[10..].copy_from_slice(metadata);
    let sum = crc::of(&[&bytes[begin + 6..]]);
    bytes[begin..begin + 2].copy_from_slice(&CHECKSUM_MAGIC);
    bytes[begin + 2..begin + 6].copy_from_slice(&sum.to_be_bytes());
    if bytes.capacity() > 2 * bytes.len() {
        // It waits for its receipt, and is counted by its length.
        bytes.shrink_to_fit();
    }
    Bytes::from(std::mem::take(bytes)).slice(begin..)
}

/// The longest head of a batch that begins with this message.
fn head_len_max(first: &Facts) -> usize {
    let values = [&first.producer_name, &first.partition_key, &first.schema_version, &first.ordering_key];
    let values: usize = values.into_iter().flatten().map(Bytes::len).sum();
    HEAD_LEN_FIXED + values + 4 * BYTES_FIELD_EXTRA + 6 * VARINT_FIELD_MAX
}

fn put_single_metadata(single: &EntryRef<'_>, out: &mut Vec<u8>) {
    let facts = single.facts();
    if facts.properties {
        // A property is the same KeyValue message in both places.
        for field in Fields::of(single.metadata()).flatten() {
            if let (tag::PROPERTIES, Value::Bytes(property)) = (field.number, field.value) {
                fields::put_bytes(out, single_tag::PROPERTIES, property);
            }
        }
    }
    if let Some(key) = &facts.partition_key {
        fields::put_bytes(out, single_tag::PARTITION_KEY, key);
    }
    fields::put_varint(out, single_tag::PAYLOAD_SIZE, single.payload().len() as u64);
    if let Some(time) = facts.event_time {
        fields::put_varint(out, single_tag::EVENT_TIME, time);
    }
    if facts.partition_key_b64 {
        fields::put_varint(out, single_tag::PARTITION_KEY_B64, 1);
    }
    if let Some(key) = &facts.ordering_key {
        fields::put_bytes(out, single_tag::ORDERING_KEY, key);
    }
    fields::put_varint(out, single_tag::SEQUENCE_ID, facts.sequence_id);
    if facts.null_value {
        fields::put_varint(out, single_tag::NULL_VALUE, 1);
    }
    if facts.null_partition_key {
        fields::put_varint(out, single_tag::NULL_PARTITION_KEY, 1);
    }
}

/// Field numbers of PulsarApi.proto's SingleMessageMetadata.
pub(crate) mod single_tag {
    pub const PROPERTIES: u32 = 1;
    pub const PARTITION_KEY: u32 = 2;
    pub const PAYLOAD_SIZE: u32 = 3;
    pub const EVENT_TIME: u32 = 5;
    pub const PARTITION_KEY_B64: u32 = 6;
    pub const ORDERING_KEY: u32 = 7;
    pub const SEQUENCE_ID: u32 = 8;
    pub const NULL_VALUE: u32 = 9;
    pub const NULL_PARTITION_KEY: u32 = 10;
}

/// Magic, checksum, metadata length.
const HEAD_LEN_FIXED: usize = 10;
/// Tag and length of a field of bytes whose length came from 32 bits.
const BYTES_FIELD_EXTRA: usize = 2 + 5;
/// Tag and value of a number.
const VARINT_FIELD_MAX: usize = 2 + 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulsar::entry::Entry;

    const PUBLISH_TIME: u64 = 1_767_720_629_305;

    /// A message with everything that survives joining.
    fn dressed(sequence_id: u64, payload: &'static [u8]) -> Entry {
        let mut metadata = Vec::new();
        fields::put_bytes(&mut metadata, tag::PRODUCER_NAME, b"app");
        fields::put_varint(&mut metadata, tag::SEQUENCE_ID, sequence_id);
        fields::put_varint(&mut metadata, tag::PUBLISH_TIME, PUBLISH_TIME + sequence_id);
        fields::put_bytes(&mut metadata, tag::PROPERTIES, b"\x0a\x01k\x12\x01v");
        fields::put_bytes(&mut metadata, tag::PARTITION_KEY, b"a2V5");
        fields::put_bytes(&mut metadata, tag::PROPERTIES, b"\x0a\x01l\x12\x01w");
        fields::put_varint(&mut metadata, tag::EVENT_TIME, 99);
        fields::put_bytes(&mut metadata, tag::SCHEMA_VERSION, &[0, 0, 0, 0, 0, 0, 0, 2]);
        fields::put_varint(&mut metadata, tag::PARTITION_KEY_B64, 1);
        fields::put_bytes(&mut metadata, tag::ORDERING_KEY, b"order");
        Entry::parse(stored(&metadata, payload)).unwrap()
    }

    /// An entry's stored form from its two halves.
    fn stored(metadata: &[u8], payload: &[u8]) -> Bytes {
        let mut bytes = vec![0; HEAD_LEN_FIXED + metadata.len()];
        let head_room = bytes.len();
        bytes.extend_from_slice(payload);
        put_head(metadata, &mut bytes, head_room)
    }

    /// A batch of these.
    fn joined(singles: &[Entry]) -> Batch {
        let mut batch = Batch::new(&singles[0].by_ref(), 0);
        singles[1..].iter().for_each(|single| batch.push(&single.by_ref()));
        batch
    }

    fn tombstone() -> Entry {
        let mut metadata = Vec::new();
        fields::put_varint(&mut metadata, tag::SEQUENCE_ID, 8);
        fields::put_varint(&mut metadata, tag::PUBLISH_TIME, 1);
        fields::put_varint(&mut metadata, tag::NULL_VALUE, 1);
        fields::put_varint(&mut metadata, tag::NULL_PARTITION_KEY, 1);
        Entry::parse(stored(&metadata, b"")).unwrap()
    }

    #[test]
    fn a_batch_reads_as_a_producer_would_have_written_it() {
        let batch = joined(&[dressed(7, b"one"), tombstone()]);
        assert_eq!(batch.messages(), 2);
        let entry = Entry::parse(batch.finish(Compression::None)).unwrap();
        assert!(entry.checksum_holds());
        let facts = Facts {
            producer_name: Some(Bytes::from_static(b"app")),
            sequence_id: 7,
            publish_time: PUBLISH_TIME + 7,
            num_messages_in_batch: Some(2),
            schema_version: Some(Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 2])),
            ..Facts::default()
        };
        assert_eq!(entry.facts(), &facts, "not all have the keys");
        let alike = joined(&[dressed(7, b"one"), dressed(8, b"two")]).finish(Compression::None);
        let with_keys = Facts {
            partition_key: Some(Bytes::from_static(b"a2V5")),
            partition_key_b64: true,
            ordering_key: Some(Bytes::from_static(b"order")),
            ..facts
        };
        assert_eq!(Entry::parse(alike).unwrap().facts(), &with_keys);
        let payload: &[u8] = b"\0\0\0\x25\
            \x0a\x06\x0a\x01k\x12\x01v\x0a\x06\x0a\x01l\x12\x01w\
            \x12\x04a2V5\x18\x03\x28\x63\x30\x01\x3a\x05order\x40\x07one\
            \0\0\0\x08\x18\x00\x40\x08\x48\x01\x50\x01";
        assert_eq!(entry.payload(), payload);
    }

    #[test]
    fn a_batch_is_never_larger_than_the_entries_it_joins() {
        let singles = [dressed(1, b""), dressed(2, b"0123456789"), tombstone()];
        let apart: usize = singles.iter().map(Entry::stored_len).sum();
        assert!(joined(&singles).finish(Compression::None).len() <= apart);
    }

    #[test]
    fn a_compressed_batch_says_so_and_holds_the_same() {
        let singles: Vec<Entry> = (1..100).map(|nth| dressed(nth, b"much the same")).collect();
        let plain = Entry::parse(joined(&singles).finish(Compression::None)).unwrap();
        let packed = Entry::parse(joined(&singles).finish(Compression::Zstd)).unwrap();
        assert!(packed.checksum_holds() && packed.stored_len() * 4 < plain.stored_len());
        assert_eq!(packed.facts(), &Facts { compression: 3, ..plain.facts().clone() });
        let size = Fields::of(packed.metadata()).flatten().find(|it| it.number == tag::UNCOMPRESSED_SIZE);
        assert_eq!(size.unwrap().value, Value::Varint(plain.payload().len() as u64));
        let unpacked = zstd::bulk::decompress(packed.payload(), plain.payload().len()).unwrap();
        assert_eq!(unpacked, plain.payload()[..]);
    }

    #[test]
    fn the_longest_head_finds_its_room() {
        let mut metadata = Vec::new();
        for number in [tag::PRODUCER_NAME, tag::PARTITION_KEY, tag::SCHEMA_VERSION, tag::ORDERING_KEY] {
            fields::put_bytes(&mut metadata, number, &[b'x'; 1 << 16]);
        }
        for number in [tag::SEQUENCE_ID, tag::PUBLISH_TIME, tag::PARTITION_KEY_B64] {
            fields::put_varint(&mut metadata, number, u64::MAX);
        }
        let long = Entry::parse(stored(&metadata, b"payload")).unwrap();
        let batch = joined(&[long.clone(), long]).finish(Compression::Zstd);
        assert_eq!(Entry::parse(batch).unwrap().facts().sequence_id, u64::MAX);
    }
}
