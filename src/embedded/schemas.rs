//! The schemas of a topic, in their versions. A new one is taken when it is of the type of those before it: whether
//! one can read what another wrote, a real broker's rules decide, and this one's do not.

use std::collections::HashMap;

use bytes::Bytes;

use super::commands::{KeyValue, Schema};
use crate::pulsar::proto::ServerError;
use crate::pulsar::topic::TopicName;

/// The schemas of all topics; partitions share those of their topic (`TopicName.getSchemaName`).
#[derive(Debug, Default)]
pub struct Schemas {
    topics: HashMap<TopicName, Vec<Schema>>,
    bytes: usize,
}

/// Why a schema is not taken.
pub type SchemaRefusal = (ServerError, &'static str);

impl Schemas {
    /// The version of this schema, which is a new one unless the topic has it.
    pub fn add(&mut self, topic: &TopicName, schema: &Schema) -> Result<Bytes, SchemaRefusal> {
        let known = self.topics.get(&topic.base()).map_or(&[][..], Vec::as_slice);
        let same = |other: &Schema| other.r#type == schema.r#type && other.schema_data == schema.schema_data;
        if let Some(index) = known.iter().position(same) {
            return Ok(version(index));
        }
        if known.last().is_some_and(|last| last.r#type != schema.r#type) {
            return Err((ServerError::IncompatibleSchema, "the topic's schema is of another type"));
        }
        let len = schema_len(schema);
        if schema.properties.len() > PROPERTIES_MAX {
            return Err((ServerError::NotAllowed, "a schema has at most 1000 properties"));
        }
        if known.len() >= VERSIONS_MAX || self.bytes + len > BYTES_MAX {
            return Err((ServerError::NotAllowed, "this broker keeps no more schemas"));
        }
        let index = known.len();
        self.bytes += len;
        self.topics.entry(topic.base()).or_default().push(schema.clone());
        Ok(version(index))
    }

    /// A version, or the newest; and which it is.
    pub fn get(&self, topic: &TopicName, version_wanted: Option<&[u8]>) -> Option<(Schema, Bytes)> {
        let known = self.topics.get(&topic.base())?;
        let index = match version_wanted.filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => usize::try_from(u64::from_be_bytes(bytes.try_into().ok()?)).ok()?,
            None => known.len().checked_sub(1)?,
        };
        Some((known.get(index)?.clone(), version(index)))
    }
}

/// Big-endian, 8 bytes (`LongSchemaVersion`).
fn version(index: usize) -> Bytes {
    Bytes::copy_from_slice(&(index as u64).to_be_bytes())
}

fn schema_len(schema: &Schema) -> usize {
    let cost = |pair: &KeyValue| pair.key.len() + pair.value.len() + size_of::<KeyValue>();
    let properties: usize = schema.properties.iter().map(cost).sum();
    schema.name.len() + schema.schema_data.len() + properties + SCHEMA_EXTRA
}

/// A schema's records besides its bytes.
const SCHEMA_EXTRA: usize = 256;
/// Of one schema; clients write two.
const PROPERTIES_MAX: usize = 1000;
const VERSIONS_MAX: usize = 1000;
/// All topics' schemas; a large one has some 10 KiB.
const BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(r#type: i32, text: &'static str) -> Schema {
        let schema_data = Bytes::from_static(text.as_bytes());
        Schema { name: "name".into(), schema_data, r#type, properties: Vec::new() }
    }

    #[test]
    fn versions_count_up_and_the_same_schema_keeps_its_own() {
        let mut schemas = Schemas::default();
        let topic = TopicName::parse("a/b/c").unwrap();
        let add = |schemas: &mut Schemas, text| schemas.add(&topic.partition(3), &schema(2, text)).unwrap();
        assert_eq!(add(&mut schemas, "one"), &[0; 8][..]);
        assert_eq!(add(&mut schemas, "two"), &[0, 0, 0, 0, 0, 0, 0, 1][..]);
        assert_eq!(add(&mut schemas, "one"), &[0; 8][..]);
        assert_eq!(schemas.get(&topic, None).unwrap().0.schema_data, "two");
        assert_eq!(schemas.get(&topic, Some(&[0; 8])).unwrap().0.schema_data, "one");
        assert_eq!(schemas.get(&topic, Some(&[9; 8])), None);
        assert_eq!(schemas.get(&TopicName::parse("a/b/d").unwrap(), None), None);
        assert_eq!(schemas.add(&topic, &schema(4, "one")).unwrap_err().0, ServerError::IncompatibleSchema);
    }

    #[test]
    fn their_bytes_are_bounded() {
        let mut schemas = Schemas::default();
        let large = Schema { schema_data: vec![0; 1 << 20].into(), ..schema(2, "") };
        let taken = (0..100).filter(|number| {
            let topic = TopicName::parse(&format!("a/b/{number}")).unwrap();
            schemas.add(&topic, &large).is_ok()
        });
        assert_eq!(taken.count(), 15);
    }

    #[test]
    fn empty_properties_count_as_well() {
        let mut schemas = Schemas::default();
        let with = |count| Schema { properties: vec![KeyValue::default(); count], ..schema(2, "") };
        let mut add = |number: usize, count| {
            let topic = TopicName::parse(&format!("a/b/{number}")).unwrap();
            schemas.add(&topic, &with(count)).is_ok()
        };
        assert!(!add(0, PROPERTIES_MAX + 1));
        let taken = (0..1000).filter(|number| add(*number, PROPERTIES_MAX)).count();
        assert_eq!(taken, BYTES_MAX / (PROPERTIES_MAX * size_of::<KeyValue>() + "name".len() + SCHEMA_EXTRA));
    }
}
