//! A JSON value on its way to a type: present, missing or of the wrong kind. Reading never fails at the
//! first mistake; who checks the fields reports them all. Shows no value, because it may be a secret.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::Value;

/// The value of a key.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    /// The key is not there, or null.
    #[default]
    Missing,
    /// A value of the right kind.
    Present(T),
    /// Something else: its JSON kind.
    WrongKind(&'static str),
}

/// What a type looks like in JSON, for messages.
pub(super) trait Kind {
    /// With its article: `a string`.
    const EXPECTED: &'static str;
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // An `Option`, so that serde takes a missing key for `None` and not for an error.
        let Some(value) = Option::<Value>::deserialize(deserializer)? else {
            return Ok(Self::Missing);
        };
        let kind = kind_of(&value);
        Ok(serde_json::from_value(value).map_or(Self::WrongKind(kind), Self::Present))
    }
}

impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A string, or where to find it.
#[derive(Debug, serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Text {
    /// As it stands.
    Plain(String),
    /// In the environment.
    Env(FromEnv),
    /// In a file.
    File(FromFile),
}

/// `{"env": "NAME"}`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FromEnv {
    pub(super) env: String,
}

/// `{"file": "path"}`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FromFile {
    pub(super) file: String,
}

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let from = |key: &str| {
            json_schema!({
                "type": "object",
                "properties": { key: { "type": "string" } },
                "required": [key],
                "additionalProperties": false
            })
        };
        json_schema!({
            "description": "A string, or where to find it: an environment variable, or a file.",
            "anyOf": [{ "type": "string" }, from("env"), from("file")]
        })
    }
}

impl Kind for Text {
    const EXPECTED: &'static str = r#"a string, {"env": "NAME"} or {"file": "path"}"#;
}

impl Kind for bool {
    const EXPECTED: &'static str = "true or false";
}

impl Kind for u32 {
    const EXPECTED: &'static str = "a whole number";
}

impl<T> Kind for Vec<T> {
    const EXPECTED: &'static str = "a list";
}

impl<T> Kind for BTreeMap<String, T> {
    const EXPECTED: &'static str = "an object";
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
