//! One ordinary message as a client sends it: unbatched, uncompressed. Decides nothing about its content.

use bytes::Bytes;

use super::crc;
use super::entry::CHECKSUM_MAGIC;
use super::publisher::Outbound;

/// What metadata and payload are on the wire (`Commands.serializeMetadataAndPayload`).
pub fn outbound(sequence_id: u64, messages: u32, metadata: &[u8], payload: Bytes) -> Outbound {
    let len = (metadata.len() as u32).to_be_bytes();
    let sum = crc::of(&[&len, metadata, &payload]);
    let mut head = Vec::with_capacity(10 + metadata.len());
    head.extend_from_slice(&CHECKSUM_MAGIC);
    head.extend_from_slice(&sum.to_be_bytes());
    head.extend_from_slice(&len);
    head.extend_from_slice(metadata);
    Outbound { sequence_id, highest_sequence_id: None, messages, head: head.into(), payload }
}
