//! Messages as brokers store them, with the metadata that official clients write. Sends nothing.

use bytes::{BufMut, Bytes, BytesMut};
use pulsar_bridge::pulsar::{crc, fields};

/// A message alone, with a property and a key. Its payload does not compress.
pub fn stored(sequence_id: u64, size: usize) -> Bytes {
    let mut metadata = Vec::new();
    fields::put_bytes(&mut metadata, PRODUCER_NAME, b"standalone-12-34567");
    fields::put_varint(&mut metadata, SEQUENCE_ID, sequence_id);
    fields::put_varint(&mut metadata, PUBLISH_TIME, 1_767_720_629_305);
    fields::put_bytes(&mut metadata, PROPERTIES, b"\x0a\x05trace\x12\x08deadbeef");
    fields::put_bytes(&mut metadata, PARTITION_KEY, b"experiment-42");
    let len = (metadata.len() as u32).to_be_bytes();
    let payload: Vec<u8> = (0..size).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut stored = BytesMut::new();
    stored.put_u16(CHECKSUM_MAGIC);
    stored.put_u32(crc::of(&[&len, &metadata, &payload]));
    stored.put_slice(&len);
    stored.put_slice(&metadata);
    stored.put_slice(&payload);
    stored.freeze()
}

/// `Commands.magicCrc32c`.
const CHECKSUM_MAGIC: u16 = 0x0e01;
// Field numbers of PulsarApi.proto's MessageMetadata.
const PRODUCER_NAME: u32 = 1;
const SEQUENCE_ID: u32 = 2;
const PUBLISH_TIME: u32 = 3;
const PROPERTIES: u32 = 4;
const PARTITION_KEY: u32 = 6;
