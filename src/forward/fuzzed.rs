//! The parsers of a peer's bytes of this room, each as a function that takes anything and panics where what it
//! understood does not hold together. For fuzzing, and for the replay of what fuzzing found.

use prost::Message;

use super::frames::{self, CHUNK_LEN_MAX, FORWARD, HEADER_LEN, Open, Said, States, WORDS_LEN_MAX};
use super::reason::Reason;
use super::rules::ForwardSpec;
use crate::policy::{CONNECTIONS_MAX, FORWARDS_MAX, ForwardLimits, Target};
use crate::tunnel::streams::StreamHead;

/// A parser, by its name.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [FuzzTarget; 4] = [
    ("stream_head", stream_head),
    ("forward_words", words),
    ("forward_declaration", declaration),
    ("forward_states", states),
];

/// Inputs to begin with, by target.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let open = Open { forward: "kube-api".into(), target: "kube.svc:443".into() }.encode_to_vec();
    let head = |kind, head: Vec<u8>| StreamHead { kind, head: head.into() }.encode_to_vec();
    let words = [
        &Said::Opened.header()[..],
        &Said::Data(3).header(),
        b"abc",
        &Said::Moved.header(),
        &Said::Alive.header(),
        &Said::End.header(),
        &Said::Refused(Reason::TargetNotAllowed).header(),
        &frames::words(&States { states: vec![0, 6], number: 0 }).unwrap_or_default(),
    ];
    let targets = ["kube.svc:443", "10.0.0.7:22", "[2001:db8::7]:22"].map(Target::parse);
    let specs = targets.into_iter().flatten().enumerate().map(|(number, target)| ForwardSpec {
        name: format!("forward-{number}"),
        from: "bank".into(),
        listen: ([127, 0, 0, 1], 6443).into(),
        to: "hub".into(),
        target,
        limits: ForwardLimits { connections: 7, rate: Some(3) },
    });
    let specs: Vec<_> = specs.collect();
    vec![
        ("stream_head", head(FORWARD, open)),
        ("stream_head", head(frames::DECLARATION, Vec::new())),
        ("forward_words", words.concat()),
        ("forward_declaration", frames::declaration(specs.iter(), 0).encode_to_vec()),
        ("forward_states", States { states: vec![0, 6, 7, u32::MAX], number: 0 }.encode_to_vec()),
    ]
}

/// The first frame of a stream, and what a forward asks for in it: only what has the one form that we checked.
fn stream_head(bytes: &[u8]) {
    let Ok(StreamHead { kind: FORWARD, head }) = StreamHead::decode(bytes) else {
        return;
    };
    if let Ok((forward, target)) = frames::check_open(&head) {
        let again = Open { forward: forward.clone(), target: target.to_string() }.encode_to_vec();
        assert!(frames::check_open(&again) == Ok((forward, target)), "a head that is no head");
    }
}

/// What is said on a forward's stream, word after word, as both of its sides read it.
fn words(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER_LEN>() {
        let Ok(said) = Said::parse(*header) else {
            return;
        };
        assert!(Said::parse(said.header()) == Ok(said) || said == Said::Refused(Reason::PeerTooOld));
        let len = match said {
            Said::Data(len) => {
                assert!((1..=CHUNK_LEN_MAX).contains(&len));
                len
            }
            Said::Words(len) => {
                assert!(len <= WORDS_LEN_MAX);
                len
            }
            Said::End | Said::Opened | Said::Refused(_) | Said::Moved | Said::Alive => 0,
        };
        rest = behind.get(len..).unwrap_or_default();
    }
}

/// What a peer declares: what is accepted can be declared again, and is accepted again as the same.
fn declaration(bytes: &[u8]) {
    let Ok(declared) = frames::check(bytes, "bank", "hub") else {
        return;
    };
    let specs = &declared.forwards;
    assert!(specs.len() <= FORWARDS_MAX);
    let within = |spec: &ForwardSpec| (1..=CONNECTIONS_MAX).contains(&spec.limits.connections);
    assert!(specs.iter().all(within));
    let again = frames::declaration(specs.iter(), declared.number);
    assert!(frames::words(&again).is_some(), "what fitted does not fit");
    assert!(
        frames::check(&again.encode_to_vec(), "bank", "hub") == Ok(declared),
        "a declaration that is none"
    );
}

/// What became of our own declaration, by the peer's word: a reason of our catalogue, whatever the number.
fn states(bytes: &[u8]) {
    if let Ok(States { states, .. }) = States::decode(bytes) {
        for number in states {
            let reason = Reason::from_wire(number);
            assert!(reason.wire() == number || reason == Reason::Unknown);
        }
    }
}
