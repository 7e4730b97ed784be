//! A refused entry as it lies in a quarantine topic: one ordinary message whose payload is the stored entry, untouched,
//! and whose properties say where it came from and why it is here. Makes such messages and reads them; sends nothing.

use bytes::Bytes;

use super::window::Position;
use crate::pulsar::entry::{Entry, tag};
use crate::pulsar::fields::{self, Fields, Value};
use crate::pulsar::topic::TopicName;

/// What the properties say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The code of the refusal.
    pub reason: String,
    /// The source site.
    pub from: String,
    /// The destination site.
    pub to: String,
    /// The route's name.
    pub route: String,
    /// The source topic-partition.
    pub topic: TopicName,
    /// The topic-partition that refused it.
    pub destination: TopicName,
    /// Where it lies at the source.
    pub position: Position,
    /// The route's generation.
    pub generation: u32,
    /// How many messages it claims to hold.
    pub messages: u32,
    /// Milliseconds since 1970, by its producer's clock.
    pub publish_time: u64,
    /// Its schema's version as the destination counts it, where that was known.
    pub schema_version: Option<Bytes>,
}

/// Why a message is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a record of a refused entry: {0} is missing or cannot be read")]
pub struct NoRecord(&'static str);

impl Record {
    /// Who writes it. A bridge publishes what peers send under names of its own, so that no peer can take this one.
    pub fn producer_name(&self) -> String {
        producer_name(&self.from, &self.to, &self.topic.to_string(), self.generation)
    }

    /// Metadata of the message.
    pub fn metadata(&self, sequence_id: u64, now_ms: u64) -> Vec<u8> {
        let mut metadata = Vec::new();
        fields::put_bytes(&mut metadata, tag::PRODUCER_NAME, self.producer_name().as_bytes());
        fields::put_varint(&mut metadata, tag::SEQUENCE_ID, sequence_id);
        fields::put_varint(&mut metadata, tag::PUBLISH_TIME, now_ms);
        let numbers = [
            (POSITION, self.position.to_string()),
            (GENERATION, self.generation.to_string()),
            (MESSAGES, self.messages.to_string()),
            (PUBLISH_TIME, self.publish_time.to_string()),
            (TOPIC, self.topic.to_string()),
            (DESTINATION, self.destination.to_string()),
        ];
        let texts = [(REASON, &self.reason), (FROM, &self.from), (TO, &self.to), (ROUTE, &self.route)];
        let mut put = |key: &str, value: &str| {
            let mut pair = Vec::with_capacity(key.len() + value.len() + 8);
            fields::put_bytes(&mut pair, 1, key.as_bytes());
            fields::put_bytes(&mut pair, 2, value.as_bytes());
            fields::put_bytes(&mut metadata, tag::PROPERTIES, &pair);
        };
        texts.iter().for_each(|(key, value)| put(key, value));
        numbers.iter().for_each(|(key, value)| put(key, value));
        if let Some(version) = &self.schema_version {
            put(SCHEMA_VERSION, &hex(version));
        }
        metadata
    }

    /// Reads a message of a quarantine topic: what it says, and the entry that it holds. Whoever may publish there on the
    /// cluster itself may have written it; a peer may not, for it cannot choose its producer's name.
    pub fn read(message: &Entry) -> Result<(Self, Entry), NoRecord> {
        let facts = message.facts();
        if facts.num_messages_in_batch.is_some() || facts.compression != 0 || facts.encrypted || facts.chunked
        {
            return Err(NoRecord("its plain payload"));
        }
        let text = |name: &'static str| property(message, name).ok_or(NoRecord(name));
        let topic = |name| TopicName::parse(text(name)?).map_err(|_| NoRecord(name));
        let (ledger, entry) = text(POSITION)?.split_once(':').ok_or(NoRecord(POSITION))?;
        let record = Self {
            reason: text(REASON)?.to_owned(),
            from: text(FROM)?.to_owned(),
            to: text(TO)?.to_owned(),
            route: text(ROUTE)?.to_owned(),
            topic: topic(TOPIC)?,
            destination: topic(DESTINATION)?,
            position: Position { ledger: number(ledger, POSITION)?, entry: number(entry, POSITION)? },
            generation: number(text(GENERATION)?, GENERATION)?,
            messages: number(text(MESSAGES)?, MESSAGES)?,
            publish_time: number(text(PUBLISH_TIME)?, PUBLISH_TIME)?,
            schema_version: property(message, SCHEMA_VERSION).and_then(unhex),
        };
        let sequence_id = record.position.sequence_id().ok_or(NoRecord(POSITION))?;
        if facts.producer_name.as_deref() != Some(record.producer_name().as_bytes()) {
            return Err(NoRecord("the name of the producer that writes it"));
        }
        if facts.sequence_id != sequence_id {
            return Err(NoRecord("its sequence id"));
        }
        let held =
            Entry::parse(message.payload().clone()).map_err(|_| NoRecord("the entry in its payload"))?;
        Ok((record, held))
    }
}

/// The producer of a route's records of one source topic-partition.
pub fn producer_name(from: &str, to: &str, topic: &str, generation: u32) -> String {
    format!("bridge/{from}/{to}/{topic}/{generation}/quarantine")
}

fn number<T: std::str::FromStr>(text: &str, name: &'static str) -> Result<T, NoRecord> {
    text.parse().map_err(|_| NoRecord(name))
}

/// The value of a message's property: of several the last, as clients have it.
fn property<'a>(message: &'a Entry, name: &str) -> Option<&'a str> {
    let mut found = None;
    for field in Fields::of(message.metadata()).flatten() {
        let (tag::PROPERTIES, Value::Bytes(pair)) = (field.number, field.value) else {
            continue;
        };
        let (mut key, mut value) = (None, None);
        for part in Fields::of(pair).flatten() {
            match (part.number, part.value) {
                (1, Value::Bytes(text)) => key = std::str::from_utf8(text).ok(),
                (2, Value::Bytes(text)) => value = std::str::from_utf8(text).ok(),
                (_, _) => {}
            }
        }
        if key == Some(name) {
            found = value;
        }
    }
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Bytes> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |c: u8| char::from(c).to_digit(16);
    let bytes = pairs.iter().map(|&[high, low]| Some((digit(high)? << 4 | digit(low)?) as u8));
    rest.is_empty().then(|| bytes.collect::<Option<Vec<u8>>>())?.map(Bytes::from)
}

const REASON: &str = "bridge.reason";
const FROM: &str = "bridge.from";
const TO: &str = "bridge.to";
const ROUTE: &str = "bridge.route";
const TOPIC: &str = "bridge.topic";
const DESTINATION: &str = "bridge.destination";
const POSITION: &str = "bridge.position";
const GENERATION: &str = "bridge.generation";
const MESSAGES: &str = "bridge.messages";
const PUBLISH_TIME: &str = "bridge.publish_time";
const SCHEMA_VERSION: &str = "bridge.schema_version";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulsar::message;

    const ID: u64 = 12 << 28 | 34;

    fn record() -> Record {
        Record {
            reason: "poison".into(),
            from: "riskfuel".into(),
            to: "bank".into(),
            route: "orders".into(),
            topic: TopicName::parse("a/b/c-partition-3").unwrap(),
            destination: TopicName::parse("d/b/c-partition-3").unwrap(),
            position: Position { ledger: 12, entry: 34 },
            generation: 2,
            messages: 5,
            publish_time: 1_700_000_000_000,
            schema_version: Some(Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 255])),
        }
    }

    fn read(metadata: &[u8], payload: Bytes) -> Result<Record, NoRecord> {
        Record::read(&message(metadata, payload)).map(|(record, _)| record)
    }

    fn message(metadata: &[u8], payload: Bytes) -> Entry {
        let outbound = message::outbound(7, 1, metadata, payload);
        Entry::parse([&outbound.head[..], &outbound.payload].concat().into()).unwrap()
    }

    fn stored() -> Bytes {
        let mut metadata = Vec::new();
        fields::put_varint(&mut metadata, tag::PUBLISH_TIME, 5);
        message(&metadata, Bytes::from_static(b"payload")).stored().clone()
    }

    #[test]
    fn a_record_reads_back_with_the_entry_as_it_was() {
        for record in [record(), Record { schema_version: None, ..record() }] {
            let (read, held) = Record::read(&message(&record.metadata(ID, 9), stored())).unwrap();
            assert_eq!(read, record);
            assert_eq!(held.stored(), &stored());
        }
    }

    #[test]
    fn what_is_no_record_is_told_by_what_it_lacks() {
        let whole = record().metadata(ID, 9);
        let mut batch = whole.clone();
        fields::put_varint(&mut batch, tag::NUM_MESSAGES_IN_BATCH, 1);
        assert_eq!(read(&batch, stored()), Err(NoRecord("its plain payload")));
        let held = read(&whole, Bytes::from_static(b"no entry"));
        assert_eq!(held, Err(NoRecord("the entry in its payload")));
        // What a peer sends into the same topic has the name that the sink gives to it.
        let mut forged = whole.clone();
        fields::put_bytes(&mut forged, tag::PRODUCER_NAME, b"bridge/other/bank/a/b/c-partition-3/2");
        assert_eq!(read(&forged, stored()), Err(NoRecord("the name of the producer that writes it")));
        assert_eq!(read(&record().metadata(ID + 1, 9), stored()), Err(NoRecord("its sequence id")));
        let mut plain = Vec::new();
        fields::put_varint(&mut plain, tag::PUBLISH_TIME, 5);
        assert!(read(&plain, stored()).is_err());
        for (key, value) in
            [(POSITION, "1:2:3"), (POSITION, "99999999999:0"), (TOPIC, "x/y"), (GENERATION, "-1")]
        {
            let mut pair = Vec::new();
            fields::put_bytes(&mut pair, 1, key.as_bytes());
            fields::put_bytes(&mut pair, 2, value.as_bytes());
            let mut metadata = whole.clone();
            fields::put_bytes(&mut metadata, tag::PROPERTIES, &pair);
            assert_eq!(read(&metadata, stored()), Err(NoRecord(key)), "{value}");
        }
    }
}
