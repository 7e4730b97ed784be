//! What a broker reads of an entry that is sent to it: the checksum, and the few metadata fields that it acts on.
//! Changes nothing.
//!
//! ```text
//! [ 0x0e01 u16 | crc32c u32 ]?   over everything that follows it (`Commands.java` of pulsar-common)
//! metadata_len u32 | MessageMetadata | payload
//! ```

use crate::pulsar::crc;
use crate::pulsar::fields::{Fields, Value};

/// What the broker acts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heading {
    /// Milliseconds since 1970, by the producer's clock.
    pub publish_time: u64,
    /// How many messages the entry says it holds; `None` when it is no batch.
    pub batch: Option<u32>,
    /// A piece of a larger message, and not its last.
    pub is_part: bool,
    /// Written by brokers for each other: never delivered (`AbstractBaseDispatcher.filterEntriesForConsumer`).
    pub is_marker: bool,
}

/// Why a broker refuses an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Its checksum is not that of its bytes.
    Checksum,
    /// There is no metadata to read.
    Metadata,
}

/// Reads an entry as it was sent.
pub fn read(stored: &[u8]) -> Result<Heading, Damage> {
    let mut rest = stored;
    if let Some(summed) = rest.strip_prefix(&CHECKSUM_MAGIC) {
        let (sum, covered) = summed.split_first_chunk::<4>().ok_or(Damage::Checksum)?;
        if u32::from_be_bytes(*sum) != crc::of(&[covered]) {
            return Err(Damage::Checksum);
        }
        rest = covered;
    }
    let (len, rest) = rest.split_first_chunk::<4>().ok_or(Damage::Metadata)?;
    let metadata = rest.get(..u32::from_be_bytes(*len) as usize).ok_or(Damage::Metadata)?;
    let mut heading = Heading::default();
    let (mut chunk, mut chunks) = (None, None);
    for field in Fields::of(metadata) {
        let field = field.map_err(|_| Damage::Metadata)?;
        match (field.number, field.value) {
            (PUBLISH_TIME, Value::Varint(time)) => heading.publish_time = time,
            // An int32: the low half of the varint.
            (NUM_MESSAGES_IN_BATCH, Value::Varint(count)) => {
                heading.batch = Some((count as i32).max(1).unsigned_abs());
            }
            (MARKER_TYPE, Value::Varint(_)) => heading.is_marker = true,
            (NUM_CHUNKS, Value::Varint(count)) => chunks = Some(count as i32),
            (CHUNK_ID, Value::Varint(id)) => chunk = Some(id as i32),
            _ => {}
        }
    }
    heading.is_part = matches!((chunk, chunks), (Some(id), Some(count)) if id != count.wrapping_sub(1));
    Ok(heading)
}

const CHECKSUM_MAGIC: [u8; 2] = [0x0e, 0x01];
/// Field numbers of `MessageMetadata`.
const PUBLISH_TIME: u32 = 3;
const NUM_MESSAGES_IN_BATCH: u32 = 11;
const MARKER_TYPE: u32 = 20;
const NUM_CHUNKS: u32 = 27;
const CHUNK_ID: u32 = 29;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(metadata: &[u8], payload: &[u8]) -> Vec<u8> {
        let len = (metadata.len() as u32).to_be_bytes();
        let sum = crc::of(&[&len, metadata, payload]).to_be_bytes();
        [&CHECKSUM_MAGIC[..], &sum, &len, metadata, payload].concat()
    }

    #[test]
    fn time_batch_chunks_and_markers_are_read() {
        // producer_name "p", sequence_id 1, publish_time 300, num_messages_in_batch 7
        let batch = entry(b"\x0a\x01p\x10\x01\x18\xac\x02\x58\x07", b"payload");
        let expected = Heading { publish_time: 300, batch: Some(7), ..Heading::default() };
        assert_eq!(read(&batch), Ok(expected));
        assert_eq!(read(&batch[6..]), Ok(expected), "a checksum may be missing");
        // num_chunks_from_msg 3, chunk_id 1 and 2
        assert!(read(&entry(b"\xd8\x01\x03\xe8\x01\x01", b"")).unwrap().is_part);
        assert!(!read(&entry(b"\xd8\x01\x03\xe8\x01\x02", b"")).unwrap().is_part);
        assert!(read(&entry(b"\xa0\x01\x0a", b"")).unwrap().is_marker);
    }

    #[test]
    fn damage_is_told_apart() {
        let whole = entry(b"\x18\x01", b"payload");
        for at in 6..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert_eq!(read(&damaged), Err(Damage::Checksum), "byte {at}");
        }
        for len in 0..12 {
            assert!(read(&whole[6..][..len.min(5)]).is_err());
        }
        assert_eq!(read(&entry(b"\x18", b"")), Err(Damage::Metadata));
    }
}
