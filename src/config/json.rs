//! A configuration file's text as JSON. Refuses keys that stand twice in one object: the first would vanish.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::problem::{Place, Problem, Refusal};

/// The file's text.
pub(super) fn read(path: &Path) -> Result<String, Vec<Problem>> {
    let refused =
        |message: String, remedy: &str| vec![Place::default().problem(Refusal::new(message, remedy))];
    let cannot = |error: std::io::Error| {
        refused(format!("cannot be read: {error}"), "name a file that this user may read")
    };
    let len = fs::metadata(path).map_err(cannot)?.len();
    if len > FILE_LEN_MAX {
        return Err(refused(
            format!("{len} bytes are too many"),
            "name the configuration, a small JSON file",
        ));
    }
    fs::read_to_string(path).map_err(cannot)
}

/// The value of a JSON text, and the keys in it that stand twice.
pub(super) fn parse(text: &str) -> Result<(Value, Vec<Problem>), Vec<Problem>> {
    let mut twice = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let node = Node { place: Place::default(), twice: &mut twice };
    let parsed = node.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    match parsed {
        Ok(value) => {
            let refusal = Refusal::new("this key stands twice", "remove one of them");
            let problems = twice.iter().map(|place| place.problem(refusal.clone()));
            Ok((value, problems.collect()))
        }
        Err(error) => {
            let refusal =
                Refusal::new(format!("not JSON: {error}"), "look for a comma, quote or bracket there");
            Err(vec![Place::default().problem(refusal)])
        }
    }
}

/// One value, and where it stands.
struct Node<'a> {
    place: Place,
    twice: &'a mut Vec<Place>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let place = self.place.key(&key);
            let node = Node { place: place.clone(), twice: &mut *self.twice };
            let value = access.next_value_seed(node)?;
            if map.insert(key, value).is_some() {
                self.twice.push(place);
            }
        }
        Ok(Value::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let node = Node { place: self.place.item(items.len()), twice: &mut *self.twice };
            let Some(item) = access.next_element_seed(node)? else {
                break;
            };
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// Far above any configuration, far below what would hurt.
const FILE_LEN_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let problems = parse(text).map_or_else(|problems| problems, |(_, twice)| twice);
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn json_comes_out_as_it_went_in() {
        let text = r#"{"a":[1,-2,1.5,true,null,"x\n",{}],"b":{"c":[]}}"#;
        assert_eq!(parse(text).unwrap(), (text.parse::<Value>().unwrap(), Vec::new()));
    }

    #[test]
    fn a_syntax_error_names_its_line_and_column() {
        assert_eq!(
            told("{\n  \"a\": 1\n  \"b\": 2\n}"),
            ["not JSON: expected `,` or `}` at line 3 column 3; look for a comma, quote or bracket there"]
        );
        assert_eq!(told("{} x").len(), 1);
        assert_eq!(told("").len(), 1);
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_wherever_it_is() {
        assert_eq!(
            told(r#"{"a": 1, "b": [{"c": 1, "c": 2}], "a": 3}"#),
            [
                "b[0].c: this key stands twice; remove one of them",
                "a: this key stands twice; remove one of them",
            ]
        );
    }

    #[test]
    fn nesting_has_an_end() {
        let deep = "[".repeat(10_000);
        assert!(told(&deep)[0].contains("recursion limit exceeded"), "{:?}", told(&deep));
    }
}
