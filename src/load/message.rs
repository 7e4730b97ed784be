//! Messages as a client sends them, unbatched and uncompressed, and the messages in what it receives.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};

use super::unpacking::unpack;
use crate::pulsar::batch::single_tag;
use crate::pulsar::entry::{Entry, tag};
use crate::pulsar::fields::{self, Fields, Value};
use crate::pulsar::message;
use crate::pulsar::publisher::Outbound;

/// A message of a producer.
pub struct Message<'a> {
    /// The producer's name, as registered.
    pub producer: &'a str,
    /// Its sequence id.
    pub sequence_id: u64,
    /// Its key.
    pub key: Option<&'a str>,
    /// Its payload.
    pub payload: Bytes,
}

impl Message<'_> {
    /// The stored form, published now.
    pub fn outbound(self) -> Outbound {
        let mut metadata = Vec::with_capacity(64 + self.producer.len());
        fields::put_bytes(&mut metadata, tag::PRODUCER_NAME, self.producer.as_bytes());
        fields::put_varint(&mut metadata, tag::SEQUENCE_ID, self.sequence_id);
        fields::put_varint(&mut metadata, tag::PUBLISH_TIME, now_ms());
        if let Some(key) = self.key {
            fields::put_bytes(&mut metadata, tag::PARTITION_KEY, key.as_bytes());
        }
        message::outbound(self.sequence_id, 1, &metadata, self.payload)
    }
}

/// The payloads of an entry's messages: of a batch, each one's (`Commands.deSerializeSingleMessageInBatch`).
/// `None` where it is encrypted, compressed other than by zstd, or no batch though it says so.
pub fn payloads(entry: &Entry) -> Option<Vec<Bytes>> {
    let payload = unpacked(entry)?;
    let places = places(&payload, entry.facts().num_messages_in_batch)?;
    Some(places.into_iter().map(|place| payload.slice(place)).collect())
}

/// An entry's payload as its producer had it before it was compressed.
pub fn unpacked(entry: &Entry) -> Option<Bytes> {
    let facts = entry.facts();
    match facts.compression {
        _ if facts.encrypted || facts.chunked => None,
        0 => Some(entry.payload().clone()),
        codec => unpack(codec, entry.payload(), UNPACKED_LEN_MAX).map(Bytes::from),
    }
}

/// Where the messages of a payload are: of so many, if it is a batch.
pub fn places(payload: &[u8], batch: Option<i32>) -> Option<Vec<Range<usize>>> {
    let Some(count) = batch else {
        return Some(std::iter::once(0..payload.len()).collect());
    };
    let (mut places, mut rest) = (Vec::new(), payload);
    for _ in 0..count {
        let metadata_len = rest.try_get_u32().ok()? as usize;
        let (metadata, behind) = rest.split_at_checked(metadata_len)?;
        let len = Fields::of(metadata).find_map(|field| match field {
            Ok(field) if field.number == single_tag::PAYLOAD_SIZE => match field.value {
                Value::Varint(len) => Some(len as usize),
                Value::Bytes(_) | Value::Fixed32(_) | Value::Fixed64(_) => None,
            },
            Ok(_) | Err(_) => None,
        })?;
        let at = payload.len() - behind.len();
        rest = behind.get(len..)?;
        places.push(at..at + len);
    }
    Some(places)
}

/// What is unpacked at most: `maxMessageSize` of a broker, and a batch that was several times that.
const UNPACKED_LEN_MAX: usize = 32 << 20;

/// The clock of publish times, in milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulsar::batch::Batch;
    use crate::pulsar::packing::Compression;

    #[test]
    fn a_message_is_an_entry_whose_checksum_holds() {
        let message = Message {
            producer: "p",
            sequence_id: 7,
            key: Some("k"),
            payload: Bytes::from_static(b"payload"),
        };
        let outbound = message.outbound();
        let stored = [&outbound.head[..], &outbound.payload].concat();
        let entry = Entry::parse(stored.into()).unwrap();
        assert!(entry.checksum_holds());
        assert_eq!(entry.facts().sequence_id, 7);
        assert_eq!(entry.facts().partition_key.as_deref(), Some(&b"k"[..]));
        assert_eq!(payloads(&entry), Some(vec![Bytes::from_static(b"payload")]));
    }

    #[test]
    fn a_batch_is_taken_apart() {
        let single = |nth: u8| {
            let payload = Bytes::from(vec![nth; usize::from(nth)]);
            let outbound = Message { producer: "p", sequence_id: nth.into(), key: None, payload }.outbound();
            Entry::parse([&outbound.head[..], &outbound.payload].concat().into()).unwrap()
        };
        let stored = |compression| {
            let mut batch = Batch::new(&single(1).by_ref(), 0);
            (2..200).for_each(|nth| batch.push(&single(nth).by_ref()));
            batch.finish(compression)
        };
        let wanted: Vec<Bytes> = (1..200).map(|nth| Bytes::from(vec![nth; usize::from(nth)])).collect();
        for compression in [Compression::None, Compression::Zstd] {
            let stored = stored(compression);
            assert_eq!(payloads(&Entry::parse(stored.clone()).unwrap()).as_ref(), Some(&wanted));
            let cut = stored.slice(..stored.len() - 1);
            assert_eq!(payloads(&Entry::parse(cut).unwrap()), None);
        }
    }
}
