//! The parsers of a stranger's and a peer's bytes of this room, each as a function that takes anything and panics where
//! what it understood does not hold together. For fuzzing, and for the replay of what fuzzing found.

use bytes::Bytes;
use futures::FutureExt;
use prost::Message;
use tokio::io::AsyncReadExt;

use super::forwarded::{self, Caller};
use super::handshake::{self, Lane};
use super::meter::Meter;
use super::websocket::ByteStream;
use super::wire::{Frame, HANDSHAKE_LEN_MAX, HELLO, Limits, REFUSED, Refused, WELCOME, Welcome, frame_len};
use super::{egress, heard, upgrade};
use crate::config::{LinkScheme, LinkUrl};

/// A parser, by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 9] = [
    ("hello", hello),
    ("answer", answer),
    ("frame_len", prefix),
    ("upgrade", upgrade_request),
    ("upgrade_answer", upgrade_answer),
    ("connect_answer", connect_answer),
    ("proxy_header", proxy_header),
    ("websocket", websocket),
    ("websocket_frames", heard::fuzzed),
];

/// Inputs to begin with, by target.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let framed = |kind: u8, message: Vec<u8>| [vec![kind], message].concat();
    let lanes = [Lane::Control { relay_lanes: 2, renews: None }, Lane::Relay { link: 5, index: 1 }];
    let hellos = lanes.map(|lane| {
        (
            "hello",
            framed(HELLO, handshake::hello(("bank", "riskfuel"), [7; 16], &lane, 3, 40, 1).encode_to_vec()),
        )
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
    seeds.extend(seeds_of_transports());
    seeds
}

/// A first frame, from somebody whose key is the bank's.
fn hello(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    let frame = Frame { kind: *kind, body: Bytes::copy_from_slice(body) };
    if let Ok(asked) = handshake::judge_hello(&frame, "bank", "riskfuel") {
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
    match handshake::judge_answer(&frame, "hub", &Lane::Control { relay_lanes: 2, renews: None }) {
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

fn seeds_of_transports() -> Vec<(&'static str, Vec<u8>)> {
    let url = LinkUrl { scheme: LinkScheme::Wss, host: "hub".into(), port: 443, path: "/bridge".into() };
    let request = upgrade::request(&url, &upgrade::Key::sample());
    let answer = upgrade::judge_request(request.as_bytes()).map(|asked| asked.answer).unwrap_or_default();
    let forwarded = request.replace("User-Agent: ", "X-Forwarded-For: 192.0.2.1, 10.0.0.1\r\nUser-Agent: ");
    let refusal =
        b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=\"x\"\r\nProxy-Authenticate: NTLM\r\n\r\n";
    let version_2 =
        [&forwarded::V2_SIGNATURE[..], b"\x21\x11\0\x0c\xc6\x33\x64\x07\x0a\0\0\x01\x13\x88\x1f\x41"];
    // A ping, a short frame, one of 200 bytes, an end without its payload.
    let frames = [&b"\x89\x01p\x02\x01a\x80\x7e\0\xc8"[..], &[b'x'; 200], b"\x82\x7f\0\0\0\0\0\x01\0\0"];
    vec![
        ("websocket_frames", frames.concat()),
        ("upgrade", forwarded.into_bytes()),
        ("upgrade_answer", answer.into_bytes()),
        ("connect_answer", refusal.to_vec()),
        ("proxy_header", b"PROXY TCP4 192.0.2.1 10.0.0.1 5000 443\r\n".to_vec()),
        ("proxy_header", version_2.concat()),
        // Two frames of one message, a ping, a close; masked with zeros.
        ("websocket", b"\x02\x81\0\0\0\0a\x80\x82\0\0\0\0bc\x89\x81\0\0\0\0p\x88\x80\0\0\0\0".to_vec()),
    ]
}

/// A request to the hub's port, and the header that tells who calls.
fn upgrade_request(bytes: &[u8]) {
    if let Ok(asked) = upgrade::judge_request(bytes) {
        assert!(asked.answer.starts_with("HTTP/1.1 101 ") && asked.answer.ends_with("\r\n\r\n"));
        assert_eq!(asked.answer.matches("\r\n").count(), 6, "nothing of the request breaks a line");
        let via = std::net::SocketAddr::from(([10, 0, 0, 9], 1));
        let trusted = [ipnet::IpNet::from(via.ip())];
        let caller = Caller::of(via).forwarded_for(&asked.forwarded_for, &trusted, via);
        assert!(!caller.to_string().is_empty());
    }
}

/// What an ingress answers.
fn upgrade_answer(bytes: &[u8]) {
    _ = upgrade::judge_answer(bytes, &upgrade::Key::sample());
}

/// What an egress proxy answers; nothing of it is repeated.
fn connect_answer(bytes: &[u8]) {
    if let Err(reason) = egress::judge_connect(bytes) {
        assert!(reason.to_string().len() < 200);
    }
}

/// What stands before TLS, in either form.
fn proxy_header(bytes: &[u8]) {
    _ = forwarded::version_1(bytes);
    if let Some((head, rest)) = bytes.split_first_chunk()
        && let Ok(len) = forwarded::version_2_len(head)
        && let Some(rest) = rest.get(..len)
    {
        _ = forwarded::version_2(head, rest);
    }
}

/// Frames of a WebSocket: never more bytes come out than went in.
fn websocket(bytes: &[u8]) {
    let socket = tokio::io::join(bytes, tokio::io::sink());
    let Some(mut stream) = ByteStream::of_server(socket, Meter::new(u64::MAX)).now_or_never() else {
        return;
    };
    let (mut taken, mut buffer) = (0, [0; 512]);
    while let Some(Ok(len @ 1..)) = stream.read(&mut buffer).now_or_never() {
        taken += len;
        assert!(taken <= bytes.len());
    }
}
