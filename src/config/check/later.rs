//! Keys that are not of this version: those that a later one will know, and those that are mistyped.

use schemars::SchemaGenerator;

use crate::config::problem::{Refusal, shown};
use crate::config::raw::Keys;

/// Why the object has no such key, and which one was meant.
pub(super) fn refusal<T: Keys>(key: &str) -> (Refusal, Option<String>) {
    let later = LATER.iter().find(|(object, name, _)| *object == T::OBJECT && *name == key);
    if let Some((_, _, instead)) = later {
        return (Refusal::new("not in this version", *instead), None);
    }
    let known = known_keys::<T>();
    let closest = known.iter().min_by_key(|name| strsim::osa_distance(name, key));
    let meant = closest.filter(|name| strsim::osa_distance(name, key) <= TYPING_MISTAKES_MAX);
    let remedy = match meant {
        Some(name) => format!("did you mean {}?", shown(name)),
        None => format!("known here: {}", known.join(", ")),
    };
    (Refusal::new("unknown key", remedy), meant.cloned())
}

fn known_keys<T: Keys>() -> Vec<String> {
    let schema = SchemaGenerator::default().into_root_schema_for::<T>();
    let properties = schema.get("properties").and_then(|properties| properties.as_object());
    properties.into_iter().flat_map(|properties| properties.keys().cloned()).collect()
}

const TYPING_MISTAKES_MAX: usize = 3;

/// Object, key, and what to do without it.
const LATER: &[(&str, &str, &str)] = &[
    ("", "gateways", "leave it out: only topics and forwarded ports cross the link"),
    ("policy", "gateway", "leave it out: only topics and forwarded ports cross the link"),
    ("routes[]", "join", "leave it out: messages of one key are joined"),
];
