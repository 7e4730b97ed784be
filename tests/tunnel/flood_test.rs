//! Strangers on the hub's port: silent, slow, many, or speaking something else. Honest edges do not notice.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pulsar_bridge::config::TunnelLimits;
use pulsar_bridge::tunnel::metrics::BoundLabel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::bridge::{Keys, Side, edge, hub, in_time};

async fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    in_time(socket.connect(to)).await.unwrap()
}

fn displaced(hub: &Side, bound: &'static str) -> u64 {
    hub.metrics.displaced.get_or_create(&BoundLabel { bound }).get()
}

async fn until(what: impl Fn() -> bool) {
    in_time(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_silent_sockets_of_one_address_keep_sixteen_places_and_no_edge_out() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(connect_from([127, 0, 0, 1], address).await);
    }
    until(|| displaced(&hub, "address") == 300 - 16).await;
    assert_eq!(hub.metrics.unauthenticated.get(), 16);
    let since = Instant::now();
    let _bank = edge(keys.edge_tunnel("bank", address, 1), "bank");
    hub.link_up().await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    // Those that had to go were closed, not forgotten.
    let mut first = silent.swap_remove(0);
    assert!(matches!(in_time(first.read(&mut [0; 8])).await, Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_sockets_of_many_addresses_keep_the_bound_of_all_and_no_edge_out() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut silent = Vec::new();
    for n in 0..400_u32 {
        let source = 2 + u8::try_from(n % 25).unwrap();
        silent.push(connect_from([127, 0, 1, source], address).await);
    }
    until(|| displaced(&hub, "sockets") == 400 - 256).await;
    assert_eq!(hub.metrics.unauthenticated.get(), 256);
    let _bank = edge(keys.edge_tunnel("bank", address, 1), "bank");
    hub.link_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_strange_protocols_are_closed_by_name_and_the_link_lives_on() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut bank = edge(keys.edge_tunnel("bank", address, 1), "bank");
    let (at_hub, _at_bank) = (hub.link_up().await, bank.link_up().await);
    let garbage: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nhost: hub\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0; 4096],
        &[0xff; 4096],
        &[22, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff],
    ];
    let count = garbage.len();
    for bytes in garbage {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good an end as any.
        _ = in_time(socket.read_to_end(&mut answer)).await;
        let alert_or_status = answer.len() <= 7 || answer.starts_with(b"HTTP/1.1 426 Upgrade Required\r\n");
        assert!(alert_or_status, "{answer:?}");
    }
    let ended = |reason| {
        let label = pulsar_bridge::tunnel::metrics::ReasonLabel { reason };
        hub.metrics.ended.get_or_create(&label).get()
    };
    until(|| ended("not_a_bridge") + ended("peer_closed") == count as u64).await;
    assert!(ended("not_a_bridge") >= 4, "{}", ended("not_a_bridge"));
    assert!(!at_hub.link.ended.is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_at_a_time_does_not_stretch_the_time_for_a_handshake() {
    let keys = Keys::new();
    let mut cfg = keys.hub_tunnel();
    assert_eq!(cfg.limits.handshake_timeout, Duration::from_secs(10), "the default");
    cfg.limits = TunnelLimits { handshake_timeout: Duration::from_millis(500), ..cfg.limits };
    let (_hub, address) = hub(&cfg).await;
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let dripping = tokio::spawn(async move {
        // The head of a TLS record of 16 KiB, then its body, slowly.
        for byte in [22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc].into_iter().chain(std::iter::repeat(0)) {
            if write.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let since = Instant::now();
    assert!(matches!(in_time(read.read(&mut [0; 8])).await, Ok(0) | Err(_)));
    let lived = since.elapsed();
    assert!(lived >= Duration::from_millis(400) && lived < Duration::from_secs(5), "{lived:?}");
    dripping.abort();
}
