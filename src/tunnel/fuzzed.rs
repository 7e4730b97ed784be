//! The parsers of a stranger's and a peer's bytes of this room, each as a function that takes anything and panics where
//! what it understood does not hold together. For fuzzing, and for the replay of what fuzzing found.

use bytes::Bytes;
use prost::Message;

use super::handshake::{self, Lane};
use super::wire::{Frame, HANDSHAKE_LEN_MAX, HELLO, Limits, REFUSED, Refused, WELCOME, Welcome, frame_len};

/// A parser, by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 3] = [("hello", hello), ("answer", answer), ("frame_len", prefix)];

/// Inputs to begin with, by target.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let framed = |kind: u8, message: Vec<u8>| [vec![kind], message].concat();
    let lanes = [Lane::Control { relay_lanes: 2 }, Lane::Relay { link: 5, index: 1 }];
    let hellos = lanes.map(|lane| {
        ("hello", framed(HELLO, handshake::hello("bank", [7; 16], &lane, 3, 40, 1).encode_to_vec()))
    });
    let limits = Some(Limits { relay_lanes: 2, control_message_len: 1, budget_mbit_s: 3 });
    let welcome = Welcome {
        version: 1,
        site: "hub".into(),
        instance: vec![7; 16],
        link: 5,
        limits,
        ..Welcome::default()
    };
    let refused = Refused { code: 4, retry_after_ms: 9, instance: vec![3; 16] };
    let mut seeds = hellos.to_vec();
    seeds.push(("answer", framed(WELCOME, welcome.encode_to_vec())));
    seeds.push(("answer", framed(REFUSED, refused.encode_to_vec())));
    seeds.push(("frame_len", vec![0, 0, 16, 0]));
    seeds
}

/// A first frame, from somebody whose key is the bank's.
fn hello(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    let frame = Frame { kind: *kind, body: Bytes::copy_from_slice(body) };
    if let Ok(asked) = handshake::judge_hello(&frame, "bank") {
        assert!(handshake::VERSIONS.contains(&asked.version));
        assert!(asked.features & !super::features::FEATURES == 0);
    }
}

/// An answer, from somebody who has the hub's key.
fn answer(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    let frame = Frame { kind: *kind, body: Bytes::copy_from_slice(body) };
    match handshake::judge_answer(&frame, "hub", &Lane::Control { relay_lanes: 2 }) {
        Ok(agreed) => assert!(agreed.link != 0 && agreed.relay_lanes <= 2),
        Err(declined) => assert!(declined.retry_after_ms <= handshake::RETRY_AFTER_MS_MAX),
    }
}

/// An announced length.
fn prefix(bytes: &[u8]) {
    if let Some(prefix) = bytes.first_chunk::<4>()
        && let Ok(len) = frame_len(*prefix, HANDSHAKE_LEN_MAX)
    {
        assert!((1..=HANDSHAKE_LEN_MAX as usize).contains(&len));
    }
}
