//! As many records on one lane as AES-GCM may have under one key (RFC 8446 §5.5): the key is updated, and nothing stalls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::bridge::{Keys, edge, hub, in_time};
use crate::stranger::{Certified, HELLO, Hello, LaneAsked, RELAY, RawEdge, WELCOME};

/// What a wire carried towards the hub.
#[derive(Default)]
struct Records {
    /// Of our own length.
    data: AtomicU64,
    /// As long as a KeyUpdate: 4 bytes of head, one of content, one of type, 16 of the tag.
    key_updates: AtomicU64,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "half a minute with optimisation: cargo test --release --test tunnel records -- --ignored --nocapture"]
async fn a_lane_of_sixteen_million_records_updates_its_key_and_stalls_nowhere() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    // An honest edge keeps the link alive; its relay lane is ours.
    let mut bank = edge(keys.edge_tunnel("bank", first_only(address).await, 1), "bank");
    let (at_hub, _at_bank) = (hub.link_up().await, bank.link_up().await);
    let (tapped, records) = tap(address).await;
    let token = Certified::of_token(&keys.token("bank"));
    let mut raw = RawEdge::connect_in_pieces(tapped, token, &[b"bridge/1"], Some(RECORD_LEN)).await;
    let lane = LaneAsked { link: at_hub.link.id, kind: RELAY, attempt: 1000, ..LaneAsked::default() };
    let hello = Hello { instance: at_hub.link.instance.to_vec(), lane: Some(lane), ..Hello::of("bank") };
    raw.say(HELLO, &hello.encode_to_vec()).await;
    assert_eq!(raw.hear().await.unwrap().0, WELCOME);
    let mut lane = hub.relay_lane().await;
    let reading = tokio::spawn(async move {
        let (mut read, mut longest, mut since) = (0, Duration::ZERO, Instant::now());
        let mut buffer = vec![0; 1 << 16];
        while read < RECORDS * PIECE_LEN as u64 {
            read += in_time(lane.stream.read(&mut buffer)).await.unwrap() as u64;
            longest = longest.max(since.elapsed());
            since = Instant::now();
        }
        lane.stream.write_all(b"all").await.unwrap();
        lane.stream.flush().await.unwrap();
        (lane, longest)
    });
    let began = Instant::now();
    let pieces = vec![7; PIECES * PIECE_LEN];
    for _ in 0..RECORDS / PIECES as u64 {
        in_time(raw.tls.write_all(&pieces)).await.unwrap();
        in_time(raw.tls.flush()).await.unwrap();
    }
    let mut heard = [0; 3];
    in_time(raw.tls.read_exact(&mut heard)).await.unwrap();
    let (_lane, longest) = in_time(reading).await.unwrap();
    let (data, key_updates) =
        (records.data.load(Ordering::Relaxed), records.key_updates.load(Ordering::Relaxed));
    eprintln!(
        "{data} records, {key_updates} key updates in {:?}, longest pause {longest:?}",
        began.elapsed()
    );
    // The handshake is cut into pieces too.
    assert!((RECORDS..RECORDS + 1000).contains(&data) && &heard == b"all");
    assert!(key_updates >= 1 && longest < Duration::from_secs(5));
    assert!(!at_hub.link.ended.is_cancelled());
}

/// Carries the first connection and refuses the others.
async fn first_only(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(target).await.unwrap();
        drop(listener);
        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
    });
    address
}

/// Carries one connection and counts its records towards the target by their length.
async fn tap(target: SocketAddr) -> (SocketAddr, Arc<Records>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let records = Arc::new(Records::default());
    let seen = records.clone();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(target).await.unwrap();
        let ((mut from, mut back), (mut answers, mut to)) = (near.into_split(), far.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await.ok() });
        let (mut buffer, mut held) = (vec![0; 1 << 18], 0);
        loop {
            let len = from.read(&mut buffer[held..]).await.unwrap_or(0);
            if len == 0 || to.write_all(&buffer[held..held + len]).await.is_err() {
                return;
            }
            held += len;
            let mut at = 0;
            // [ type u8 | version u16 | length u16 | … ]
            while let Some([_, _, _, high, low]) = buffer[at..held].first_chunk::<5>().copied() {
                let body = usize::from(u16::from_be_bytes([high, low]));
                if at + 5 + body > held {
                    break;
                }
                match body {
                    DATA_LEN => _ = seen.data.fetch_add(1, Ordering::Relaxed),
                    KEY_UPDATE_LEN => _ = seen.key_updates.fetch_add(1, Ordering::Relaxed),
                    _ => {}
                }
                at += 5 + body;
            }
            buffer.copy_within(at..held, 0);
            held -= at;
        }
    });
    (address, records)
}

const RECORDS: u64 = (1 << 24) + PIECES as u64 * 8;
/// The least that rustls makes.
const RECORD_LEN: usize = 32;
/// What of it is payload.
const PIECE_LEN: usize = RECORD_LEN - 5;
/// Written at once: less than what rustls buffers, so that no record is shorter.
const PIECES: usize = 1024;
/// Payload, its type, the tag.
const DATA_LEN: usize = PIECE_LEN + 1 + 16;
const KEY_UPDATE_LEN: usize = 5 + 1 + 16;
