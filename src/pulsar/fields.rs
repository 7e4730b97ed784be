//! Walks the top level of a protobuf message and writes single fields. Knows no message: what a number
//! means, and that a known number of another wire type is an unknown field (as LightProto has it, which
//! compares whole tags), is the caller's business. Groups are refused, as LightProto does.
//!
//! ```text
//! [ tag varint = number << 3 | wire type | value ]*     value: varint | 8 bytes | len varint, bytes | 4 bytes
//! ```

use std::ops::Range;

/// Why the bytes are no sequence of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// They end inside a field.
    #[error("field at byte {at} is cut short")]
    Truncated {
        /// Where the field begins.
        at: usize,
    },
    /// A varint longer than ten bytes, or a tag beyond 32 bits or numbered 0.
    #[error("field at byte {at} has a malformed number")]
    Malformed {
        /// Where the field begins.
        at: usize,
    },
    /// A wire type that Pulsar's own decoder refuses (groups, 6, 7).
    #[error("field at byte {at} has wire type {wire_type}")]
    WireType {
        /// Where the field begins.
        at: usize,
        /// The wire type.
        wire_type: u8,
    },
}

/// A field's value, where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(&'a [u8]),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(&'a [u8]),
}

/// One field: its number, its value, the bytes it takes with its tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The number.
    pub number: u32,
    /// The value.
    pub value: Value<'a>,
    /// Tag and value in the message.
    pub span: Range<usize>,
}

/// Iterates over a message's fields; ends after the first error.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// The fields of this message.
    pub fn of(message: &'a [u8]) -> Self {
        Self { message, at: 0 }
    }

    fn read(&mut self) -> Result<Field<'a>, FieldError> {
        let start = self.at;
        let tag = self.varint(start)?;
        let tag = u32::try_from(tag).map_err(|_| FieldError::Malformed { at: start })?;
        let number = tag >> 3;
        if number == 0 {
            return Err(FieldError::Malformed { at: start });
        }
        let value = match tag & 7 {
            0 => Value::Varint(self.varint(start)?),
            1 => Value::Fixed64(self.take(8, start)?),
            2 => {
                let len = self.varint(start)?;
                let len = usize::try_from(len).map_err(|_| FieldError::Truncated { at: start })?;
                Value::Bytes(self.take(len, start)?)
            }
            5 => Value::Fixed32(self.take(4, start)?),
            other => {
                let wire_type = other as u8;
                return Err(FieldError::WireType { at: start, wire_type });
            }
        };
        let span = start..self.at;
        Ok(Field { number, value, span })
    }

    fn varint(&mut self, start: usize) -> Result<u64, FieldError> {
        let rest = self.message.get(self.at..).unwrap_or_default();
        let mut value = 0;
        for (index, byte) in rest.iter().take(VARINT_LEN_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.at += index + 1;
                return Ok(value);
            }
        }
        let is_cut = rest.len() < VARINT_LEN_MAX;
        Err(if is_cut { FieldError::Truncated { at: start } } else { FieldError::Malformed { at: start } })
    }

    fn take(&mut self, len: usize, start: usize) -> Result<&'a [u8], FieldError> {
        let rest = self.message.get(self.at..).unwrap_or_default();
        let taken = rest.get(..len).ok_or(FieldError::Truncated { at: start })?;
        self.at += len;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, FieldError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.len() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.at = self.message.len();
        }
        Some(field)
    }
}

/// Appends a varint field.
pub fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number) << 3);
    varint(out, value);
}

/// Appends a length-delimited field.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// 64 bits in groups of 7.
const VARINT_LEN_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn all(message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, FieldError> {
        Fields::of(message).map(|field| field.map(|field| (field.number, field.value))).collect()
    }

    #[test]
    fn every_wire_type_is_read_where_it_lies() {
        let message = b"\x08\x96\x01\x12\x02hi\x1d\x01\x02\x03\x04\x21\x01\x02\x03\x04\x05\x06\x07\x08";
        let expected = vec![
            (1, Value::Varint(150)),
            (2, Value::Bytes(b"hi")),
            (3, Value::Fixed32(&[1, 2, 3, 4])),
            (4, Value::Fixed64(&[1, 2, 3, 4, 5, 6, 7, 8])),
        ];
        assert_eq!(all(message), Ok(expected));
        let spans: Vec<_> = Fields::of(message).map(|field| field.unwrap().span).collect();
        assert_eq!(spans, [0..3, 3..7, 7..12, 12..21]);
    }

    #[test]
    fn what_is_cut_short_or_malformed_is_named_and_ends_the_walk() {
        let cases: [(&[u8], FieldError); 7] = [
            (b"\x08", FieldError::Truncated { at: 0 }),
            (b"\x08\x01\x12\x05hi", FieldError::Truncated { at: 2 }),
            (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", FieldError::Truncated { at: 0 }),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", FieldError::Malformed { at: 0 }),
            (b"\x00\x01", FieldError::Malformed { at: 0 }),
            (b"\x0b\x01\x0c", FieldError::WireType { at: 0, wire_type: 3 }),
            (b"\x0f", FieldError::WireType { at: 0, wire_type: 7 }),
        ];
        for (message, error) in cases {
            assert_eq!(all(message), Err(error), "{message:02x?}");
            assert!(Fields::of(message).count() <= 2);
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut message = Vec::new();
            put_varint(&mut message, 24, value);
            put_bytes(&mut message, 536_870_911, &[7; 200]);
            let expected = vec![(24, Value::Varint(value)), (536_870_911, Value::Bytes(&[7; 200]))];
            assert_eq!(all(&message), Ok(expected));
        }
    }
}
