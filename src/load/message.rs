//! Messages as a client sends them, unbatched and uncompressed, and the messages in what it receives.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};

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
/// `None` where it is compressed, encrypted, or no batch though it says so.
pub fn payloads(entry: &Entry) -> Option<Vec<Bytes>> {
    let facts = entry.facts();
    if facts.compression != 0 || facts.encrypted || facts.chunked {
        return None;
    }
    let mut rest = entry.payload().clone();
    let Some(count) = facts.num_messages_in_batch else {
        return Some(vec![rest]);
    };
    let mut payloads = Vec::new();
    for _ in 0..count {
        let metadata_len = rest.try_get_u32().ok()? as usize;
        if metadata_len > rest.len() {
            return None;
        }
        let metadata = rest.split_to(metadata_len);
        let len = Fields::of(&metadata).find_map(|field| match field {
            Ok(field) if field.number == single_tag::PAYLOAD_SIZE => match field.value {
                Value::Varint(len) => Some(len as usize),
                Value::Bytes(_) | Value::Fixed32(_) | Value::Fixed64(_) => None,
            },
            Ok(_) | Err(_) => None,
        })?;
        if len > rest.len() {
            return None;
        }
        payloads.push(rest.split_to(len));
    }
    Some(payloads)
}

/// The clock of publish times, in milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulsar::batch::Batch;

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
        let mut batch = Batch::new(&single(1));
        batch.push(&single(2));
        let stored = batch.finish();
        let wanted = vec![Bytes::from_static(&[1]), Bytes::from_static(&[2, 2])];
        assert_eq!(payloads(&Entry::parse(stored.clone()).unwrap()), Some(wanted));
        let cut = stored.slice(..stored.len() - 1);
        assert_eq!(payloads(&Entry::parse(cut).unwrap()), None);
    }
}
