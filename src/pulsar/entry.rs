//! An entry as a broker stores it: cut into metadata and payload, read where it lies, and re-headed for
//! another topic. Never decodes a payload, never changes one, keeps every metadata field it does not own.
//!
//! ```text
//! stored:  [ 0x0e02 u16 | len u32 | broker metadata ]?      only where a broker exposes it; dropped here
//!          [ 0x0e01 u16 | crc32c u32 ]?                     over everything that follows it
//!          metadata_len u32 | MessageMetadata | payload     payload: one message, or a batch, perhaps packed
//! ```

use bytes::{Buf, BufMut, Bytes};

use super::crc;
use super::fields::{self, FieldError, Fields, Value};

/// Why bytes are no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The entry ends before its own heading does.
    #[error("entry of {len} bytes is cut short inside its {part}")]
    Truncated {
        /// All that there is.
        len: usize,
        /// Where it ends.
        part: &'static str,
    },
    /// The metadata is no protobuf message.
    #[error("entry's metadata: {0}")]
    Metadata(#[from] FieldError),
    /// A field without which no broker hands an entry on.
    #[error("entry's metadata lacks {0}")]
    Missing(&'static str),
}

/// One stored entry: a message, or a batch of them. Cloning copies no payload.
#[derive(Clone, Debug)]
pub struct Entry {
    stored: Bytes,
    metadata: Bytes,
    payload: Bytes,
    checksum: Option<u32>,
    facts: Facts,
}

/// The same where it lies: for what is read once and copied. Shares no memory, and so costs little.
#[derive(Clone, Debug)]
pub struct EntryRef<'a> {
    whole: &'a Bytes,
    stored: &'a [u8],
    metadata: &'a [u8],
    payload: &'a [u8],
    checksum: Option<u32>,
    facts: Facts<&'a [u8]>,
}

impl<'a> EntryRef<'a> {
    /// Cuts what a broker's MESSAGE carries behind its command. Tolerates both magic numbers missing
    /// (org.apache.pulsar.common.protocol.Commands reads it so).
    pub fn parse(whole: &'a Bytes) -> Result<Self, EntryError> {
        let cut = |part| EntryError::Truncated { len: whole.len(), part };
        let mut rest = &whole[..];
        if rest.starts_with(&BROKER_METADATA_MAGIC) {
            rest.advance(BROKER_METADATA_MAGIC.len());
            let skipped = rest.try_get_u32().map_err(|_| cut("broker metadata"))? as usize;
            rest = rest.get(skipped..).ok_or(cut("broker metadata"))?;
        }
        let stored = rest;
        let checksum = if rest.starts_with(&CHECKSUM_MAGIC) {
            rest.advance(CHECKSUM_MAGIC.len());
            Some(rest.try_get_u32().map_err(|_| cut("checksum"))?)
        } else {
            None
        };
        let metadata_len = rest.try_get_u32().map_err(|_| cut("metadata length"))? as usize;
        let (metadata, payload) = rest.split_at_checked(metadata_len).ok_or(cut("metadata"))?;
        let facts = Facts::read(metadata)?;
        Ok(Self { whole, stored, metadata, payload, checksum, facts })
    }

    /// What the metadata says.
    pub fn facts(&self) -> &Facts<&'a [u8]> {
        &self.facts
    }

    /// Everything behind the metadata, as its producer packed it.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The metadata's wire bytes.
    pub fn metadata(&self) -> &'a [u8] {
        self.metadata
    }

    /// How many bytes it has from its checksum on.
    pub fn stored_len(&self) -> usize {
        self.stored.len()
    }

    /// Whether the checksum is that of the bytes, or there is none. Reads the whole payload.
    pub fn checksum_holds(&self) -> bool {
        self.checksum
            .is_none_or(|sum| sum == crc::of(&[&len_prefix(self.metadata), self.metadata, self.payload]))
    }

    /// What the metadata says, to be kept.
    pub fn own_facts(&self) -> Facts {
        self.facts.map(|value| self.whole.slice_ref(value))
    }

    /// To be kept: shares the memory that it lies in.
    pub fn own(&self) -> Entry {
        let share = |part: &[u8]| self.whole.slice_ref(part);
        Entry {
            stored: share(self.stored),
            metadata: share(self.metadata),
            payload: share(self.payload),
            checksum: self.checksum,
            facts: self.own_facts(),
        }
    }
}

impl Entry {
    /// As [`EntryRef::parse`].
    pub fn parse(stored: Bytes) -> Result<Self, EntryError> {
        Ok(EntryRef::parse(&stored)?.own())
    }

    /// Where it lies.
    pub fn by_ref(&self) -> EntryRef<'_> {
        EntryRef {
            whole: &self.stored,
            stored: &self.stored,
            metadata: &self.metadata,
            payload: &self.payload,
            checksum: self.checksum,
            facts: self.facts.map(|value| &value[..]),
        }
    }

    /// What the metadata says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Everything behind the metadata, as its producer packed it.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The metadata's wire bytes.
    pub fn metadata(&self) -> &Bytes {
        &self.metadata
    }

    /// The checksum the entry came with. It is not checked.
    pub fn checksum(&self) -> Option<u32> {
        self.checksum
    }

    /// Whether the checksum is that of the bytes, or there is none. Reads the whole payload.
    pub fn checksum_holds(&self) -> bool {
        self.by_ref().checksum_holds()
    }

    /// The entry from its checksum on, without broker metadata.
    pub fn stored(&self) -> &Bytes {
        &self.stored
    }

    /// How many bytes that is.
    pub fn stored_len(&self) -> usize {
        self.stored.len()
    }

    /// A new head for the same payload, to be sent right before [`Entry::payload`]. The source's word
    /// about its own cluster goes (transaction, schema version, replication), the rest stays byte for byte.
    /// The checksum is carried over, not computed anew: what was damaged stays visibly damaged.
    pub fn rehead(&self, heading: &Heading<'_>) -> Bytes {
        let mut head = Vec::with_capacity(HEAD_LEN_EXTRA + heading.producer_name.len() + self.metadata.len());
        head.extend_from_slice(&CHECKSUM_MAGIC);
        head.put_u32(0); // checksum, below
        head.put_u32(0); // metadata length, below
        self.put_metadata(heading, &mut head);
        let (frame, metadata) = head.split_at_mut(HEAD_LEN_FIXED);
        let prefix = len_prefix(metadata);
        let new = crc::of(&[&prefix, metadata]);
        let sum = match self.checksum {
            Some(sum) => {
                let old = crc::of(&[&len_prefix(&self.metadata), &self.metadata]);
                crc::replace_head(sum, old, new, self.payload.len())
            }
            None => crc::of(&[&prefix, metadata, &self.payload]),
        };
        frame[2..6].copy_from_slice(&sum.to_be_bytes());
        frame[6..].copy_from_slice(&prefix);
        head.into()
    }

    fn put_metadata(&self, heading: &Heading<'_>, out: &mut Vec<u8>) {
        fields::put_bytes(out, tag::PRODUCER_NAME, heading.producer_name.as_bytes());
        fields::put_varint(out, tag::SEQUENCE_ID, heading.sequence_id);
        // Neighbouring fields that stay are copied as one piece. `parse` has walked these bytes before,
        // so the walk cannot end early.
        let mut kept = 0..0;
        for field in Fields::of(&self.metadata).flatten() {
            if self.facts.is_rewritten(field.number, &field.value) {
                out.extend_from_slice(&self.metadata[kept]);
                kept = field.span.end..field.span.end;
            } else {
                kept.end = field.span.end;
            }
        }
        out.extend_from_slice(&self.metadata[kept]);
        if let SchemaVersion::Set(version) = heading.schema_version {
            fields::put_bytes(out, tag::SCHEMA_VERSION, version);
        }
        if let Some(highest) = heading.highest_sequence_id {
            fields::put_varint(out, tag::HIGHEST_SEQUENCE_ID, highest);
        }
    }
}

/// What the destination's entry says instead of the source's.
#[derive(Clone, Copy, Debug)]
pub struct Heading<'a> {
    /// The name under which the publisher is registered: broker deduplication replays it from here.
    pub producer_name: &'a str,
    /// The same as in CommandSend.
    pub sequence_id: u64,
    /// The last sequence id of a joined batch; `None` for everything else.
    pub highest_sequence_id: Option<u64>,
    /// The schema version as the destination counts it.
    pub schema_version: SchemaVersion<'a>,
}

/// What becomes of the schema version: it is an index of one topic in one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaVersion<'a> {
    /// The entry carries none.
    Remove,
    /// The destination's version.
    Set(&'a [u8]),
}

/// What an entry's metadata says, read in one walk. Later occurrences of a field win.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts<B = Bytes> {
    /// Who wrote it.
    pub producer_name: Option<B>,
    /// Its producer's sequence id.
    pub sequence_id: u64,
    /// A joined or ordinary batch's last one.
    pub highest_sequence_id: Option<u64>,
    /// Milliseconds since 1970, by its producer's clock.
    pub publish_time: u64,
    /// Presence makes the payload a batch, also with 1.
    pub num_messages_in_batch: Option<i32>,
    /// Whether message properties stand in the metadata.
    pub properties: bool,
    /// 0 is none.
    pub compression: i32,
    /// Encryption keys, algorithm or parameter are there.
    pub encrypted: bool,
    /// It belongs to a transaction.
    pub has_txn: bool,
    /// Set on what brokers write to each other; never delivered.
    pub marker_type: Option<i32>,
    /// Big-endian index of the source topic's schema.
    pub schema_version: Option<B>,
    /// The cluster it was copied from.
    pub replicated_from: Option<B>,
    /// Its producer named clusters to replicate to.
    pub replicate_to: bool,
    /// It named only its own (`__local__`): do not replicate.
    pub local_only: bool,
    /// The key of compaction, and of Key_Shared where there is no ordering key.
    pub partition_key: Option<B>,
    /// The key is base64 of bytes.
    pub partition_key_b64: bool,
    /// The key is null, as a KeyValue schema may have it.
    pub null_partition_key: bool,
    /// The key of Key_Shared.
    pub ordering_key: Option<B>,
    /// The application's time.
    pub event_time: Option<u64>,
    /// To be delivered later.
    pub deliver_at: bool,
    /// A tombstone.
    pub null_value: bool,
    /// A piece of a larger message.
    pub chunked: bool,
    /// There are fields this bridge has no name for. They pass through whole entries untouched.
    pub unknown: bool,
}

/// The site from which the bridge of this producer name brings what it writes.
pub fn bridged_from(producer_name: &str) -> Option<&str> {
    let (from, _) = producer_name.strip_prefix(BRIDGE_NAME_PREFIX)?.split_once('/')?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (!from.is_empty() && from.len() <= SITE_LEN_MAX && from.chars().all(is_plain)).then_some(from)
}

impl<B: AsRef<[u8]>> Facts<B> {
    /// How many messages the entry claims to hold: what the broker takes off a consumer's permits.
    /// At least 1, at most what a permit counter holds, whatever it claims.
    pub fn messages(&self) -> u32 {
        self.num_messages_in_batch.map_or(1, |claimed| claimed.max(1).unsigned_abs())
    }

    /// Whether a bridge wrote it, by the name that bridges register.
    pub fn written_by_bridge(&self) -> bool {
        let begins = |name: &B| name.as_ref().starts_with(BRIDGE_NAME_PREFIX.as_bytes());
        self.producer_name.as_ref().is_some_and(begins)
    }

    /// The site from which a bridge brought it, by the name that bridges register: `bridge/<from>/<to>/…`.
    pub fn brought_from(&self) -> Option<&str> {
        bridged_from(std::str::from_utf8(self.producer_name.as_ref()?.as_ref()).ok()?)
    }

    /// The same with values of another kind.
    fn map<'s, C>(&'s self, value: impl Fn(&'s B) -> C) -> Facts<C> {
        let of = |field: &'s Option<B>| field.as_ref().map(&value);
        Facts {
            producer_name: of(&self.producer_name),
            sequence_id: self.sequence_id,
            highest_sequence_id: self.highest_sequence_id,
            publish_time: self.publish_time,
            num_messages_in_batch: self.num_messages_in_batch,
            properties: self.properties,
            compression: self.compression,
            encrypted: self.encrypted,
            has_txn: self.has_txn,
            marker_type: self.marker_type,
            schema_version: of(&self.schema_version),
            replicated_from: of(&self.replicated_from),
            replicate_to: self.replicate_to,
            local_only: self.local_only,
            partition_key: of(&self.partition_key),
            partition_key_b64: self.partition_key_b64,
            null_partition_key: self.null_partition_key,
            ordering_key: of(&self.ordering_key),
            event_time: self.event_time,
            deliver_at: self.deliver_at,
            null_value: self.null_value,
            chunked: self.chunked,
            unknown: self.unknown,
        }
    }

    fn read_number(&mut self, number: u32, value: u64) {
        // int32 fields are the low half of the varint.
        let int32 = value as i32;
        match number {
            tag::SEQUENCE_ID => self.sequence_id = value,
            tag::COMPRESSION => self.compression = int32,
            tag::NUM_MESSAGES_IN_BATCH => self.num_messages_in_batch = Some(int32),
            tag::EVENT_TIME => self.event_time = Some(value),
            tag::PARTITION_KEY_B64 => self.partition_key_b64 = value != 0,
            tag::DELIVER_AT => self.deliver_at = true,
            tag::MARKER_TYPE => self.marker_type = Some(int32),
            tag::TXN_LEAST | tag::TXN_MOST => self.has_txn = true,
            tag::HIGHEST_SEQUENCE_ID => self.highest_sequence_id = Some(value),
            tag::NULL_VALUE => self.null_value = value != 0,
            tag::NUM_CHUNKS | tag::TOTAL_CHUNK_LEN | tag::CHUNK_ID => self.chunked = true,
            tag::NULL_PARTITION_KEY => self.null_partition_key = value != 0,
            tag::UNCOMPRESSED_SIZE => {}
            _ => self.unknown = true,
        }
    }

    fn read_presence(&mut self, number: u32) {
        match number {
            tag::PROPERTIES => self.properties = true,
            tag::ENCRYPTION_KEYS | tag::ENCRYPTION_ALGORITHM | tag::ENCRYPTION_PARAMETER => {
                self.encrypted = true;
            }
            tag::UUID => self.chunked = true,
            _ => self.unknown = true,
        }
    }

    /// Whether a field does not survive a new heading. A txn id would pin the destination's read position
    /// for ever (TopicTransactionBuffer), the source's highest sequence id would poison its deduplication
    /// (MessageDeduplication replays the larger of both), and cluster names and schema versions mean
    /// something else there; only `__local__` means the same everywhere.
    fn is_rewritten(&self, number: u32, value: &Value<'_>) -> bool {
        match value {
            Value::Varint(_) => {
                matches!(number, tag::SEQUENCE_ID | tag::HIGHEST_SEQUENCE_ID | tag::TXN_LEAST | tag::TXN_MOST)
            }
            Value::Bytes(_) => match number {
                tag::PRODUCER_NAME | tag::REPLICATED_FROM | tag::SCHEMA_VERSION => true,
                tag::REPLICATE_TO => !self.local_only,
                _ => false,
            },
            Value::Fixed32(_) | Value::Fixed64(_) => false,
        }
    }
}

impl<'a> Facts<&'a [u8]> {
    fn read(metadata: &'a [u8]) -> Result<Self, EntryError> {
        let mut facts = Self::default();
        let mut published = false;
        let (mut targets, mut local_targets) = (0usize, 0usize);
        for field in Fields::of(metadata) {
            let field = field?;
            match (field.number, field.value) {
                (tag::PRODUCER_NAME, Value::Bytes(name)) => facts.producer_name = Some(name),
                (tag::PUBLISH_TIME, Value::Varint(time)) => {
                    facts.publish_time = time;
                    published = true;
                }
                (tag::REPLICATED_FROM, Value::Bytes(cluster)) => facts.replicated_from = Some(cluster),
                (tag::PARTITION_KEY, Value::Bytes(key)) => facts.partition_key = Some(key),
                (tag::REPLICATE_TO, Value::Bytes(cluster)) => {
                    targets += 1;
                    local_targets += usize::from(cluster == LOCAL_CLUSTER);
                }
                (tag::SCHEMA_VERSION, Value::Bytes(version)) => facts.schema_version = Some(version),
                (tag::ORDERING_KEY, Value::Bytes(key)) => facts.ordering_key = Some(key),
                (number, Value::Varint(value)) => facts.read_number(number, value),
                (number, Value::Bytes(_)) => facts.read_presence(number),
                (_, Value::Fixed32(_) | Value::Fixed64(_)) => facts.unknown = true,
            }
        }
        facts.replicate_to = targets > 0;
        facts.local_only = facts.replicate_to && targets == local_targets;
        if !published {
            return Err(EntryError::Missing("publish_time"));
        }
        Ok(facts)
    }
}

fn len_prefix(metadata: &[u8]) -> [u8; 4] {
    // An entry's lengths come from 32-bit prefixes; a head of our own adds less than HEAD_LEN_EXTRA and a name.
    (metadata.len() as u32).to_be_bytes()
}

/// Every bridge registers producer names that begin so.
pub const BRIDGE_NAME_PREFIX: &str = "bridge/";
/// As long as a site's name may be.
const SITE_LEN_MAX: usize = 32;

const BROKER_METADATA_MAGIC: [u8; 2] = [0x0e, 0x02];
/// `Commands.magicCrc32c`.
pub(crate) const CHECKSUM_MAGIC: [u8; 2] = [0x0e, 0x01];
/// Magic, checksum, metadata length.
const HEAD_LEN_FIXED: usize = 10;
/// What a new head may add besides the producer name: tags, two sequence ids, a schema version of 8 bytes.
const HEAD_LEN_EXTRA: usize = HEAD_LEN_FIXED + 64;
/// What TypedMessageBuilder.disableReplication writes into `replicate_to`.
const LOCAL_CLUSTER: &[u8] = b"__local__";

/// Field numbers of PulsarApi.proto's MessageMetadata.
pub(crate) mod tag {
    pub const PRODUCER_NAME: u32 = 1;
    pub const SEQUENCE_ID: u32 = 2;
    pub const PUBLISH_TIME: u32 = 3;
    pub const PROPERTIES: u32 = 4;
    pub const REPLICATED_FROM: u32 = 5;
    pub const PARTITION_KEY: u32 = 6;
    pub const REPLICATE_TO: u32 = 7;
    pub const COMPRESSION: u32 = 8;
    pub const UNCOMPRESSED_SIZE: u32 = 9;
    pub const NUM_MESSAGES_IN_BATCH: u32 = 11;
    pub const EVENT_TIME: u32 = 12;
    pub const ENCRYPTION_KEYS: u32 = 13;
    pub const ENCRYPTION_ALGORITHM: u32 = 14;
    pub const ENCRYPTION_PARAMETER: u32 = 15;
    pub const SCHEMA_VERSION: u32 = 16;
    pub const PARTITION_KEY_B64: u32 = 17;
    pub const ORDERING_KEY: u32 = 18;
    pub const DELIVER_AT: u32 = 19;
    pub const MARKER_TYPE: u32 = 20;
    pub const TXN_LEAST: u32 = 22;
    pub const TXN_MOST: u32 = 23;
    pub const HIGHEST_SEQUENCE_ID: u32 = 24;
    pub const NULL_VALUE: u32 = 25;
    pub const UUID: u32 = 26;
    pub const NUM_CHUNKS: u32 = 27;
    pub const TOTAL_CHUNK_LEN: u32 = 28;
    pub const CHUNK_ID: u32 = 29;
    pub const NULL_PARTITION_KEY: u32 = 30;
}

#[cfg(test)]
mod tests;
