//! The parsers of this room, each as a function that takes anything and panics where what it understood does not hold
//! together. For fuzzing, and for the replay of what fuzzing found.

use std::path::Path;

use super::credential::{EdgeKey, JoinToken};
use super::url::{LinkUrl, ServiceUrl};
use super::{check, json};

/// A parser, by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 4] = [("token", token), ("edge_key", edge_key), ("url", url), ("config", config)];

/// Inputs to begin with, by target.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = vec![
        ("url", b"tls://hub.example.com:8001".to_vec()),
        ("url", b"pulsar+ssl://a:1,[::1]:2".to_vec()),
        ("config", include_bytes!("../../bridge-config/hub.json").to_vec()),
        ("config", include_bytes!("../../bridge-config/edge.json").to_vec()),
    ];
    // Nobody's: a seed and a pin of one byte.
    if let Ok(token) = JoinToken::new("hub", "bank", [1; 32], vec![[2; 32], [3; 32]]) {
        seeds.push(("token", token.encode().expose().as_bytes().to_vec()));
    }
    let key = EdgeKey { edge: "bank".into(), spki_sha256: [4; 32] };
    seeds.push(("edge_key", key.to_string().into_bytes()));
    seeds
}

/// A join token: what is understood is written again as it was.
fn token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(token) = JoinToken::parse(&text) {
        assert!(token.encode().expose() == text.trim());
    }
}

/// An edge's public half, likewise.
fn edge_key(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(key) = EdgeKey::parse(&text) {
        assert!(key.to_string() == text.trim());
    }
}

/// URLs: what is understood reads back as itself.
fn url(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(url) = LinkUrl::parse(&text) {
        assert!(LinkUrl::parse(&url.to_string()).is_ok_and(|again| again == url));
    }
    if let Ok(url) = ServiceUrl::parse(&text) {
        assert!(ServiceUrl::parse(&url.to_string()).is_ok_and(|again| again == url));
    }
}

/// A configuration: accepted, or refused with at least one problem.
fn config(bytes: &[u8]) {
    let Ok((value, problems)) = json::parse(&String::from_utf8_lossy(bytes)) else {
        return;
    };
    if let Err(others) = check::check(value, Path::new(""), &|_| None) {
        assert!(problems.len() + others.len() > 0, "refused without a reason");
    }
}
