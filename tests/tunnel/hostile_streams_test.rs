//! An edge with a key of its own that opens, declares and floods more than any bridge does: it hurts nobody but itself.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use prost::Message;
use pulsar_bridge::policy::{Policies, Policy};
use pulsar_bridge::tunnel::{HubKeys, TunnelMetrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::compat::TokioAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;

use crate::bridge::{Keys, Side, in_time};
use crate::forwarding::{EDGE, End, HUB, Ours, echo, forward, reaching, says_back, silent};
use crate::stranger::{Certified, HELLO, Hello, LaneAsked, RawEdge, WELCOME};

/// A hub with forwards that lets the bank do something, and `other` nothing; and an honest bank.
struct Scene {
    hub: End,
    address: SocketAddr,
    keys: Keys,
    listen: SocketAddr,
    _bank: End,
}

impl Scene {
    async fn new() -> Self {
        Self::that_allows(Policy::default()).await
    }

    /// The same, but `other` may do this.
    async fn that_allows(policy: Policy) -> Self {
        let keys = Keys::new();
        let (stop, metrics) = (CancellationToken::new(), TunnelMetrics::default());
        let (streams, forwarded) = mpsc::channel(4);
        let hub = HubKeys::load(&keys.hub_tunnel(), HUB).unwrap().with_streams(streams).bind().await.unwrap();
        let address = hub.local_addr().unwrap();
        let (events, received) = mpsc::channel(64);
        let board = pulsar_bridge::tunnel::status::Board::default();
        let task = tokio::spawn(hub.serve(board.clone(), metrics.clone(), events, stop.clone()));
        let target = echo().await;
        let mut rules =
            Ours { declared: vec![forward("app", HUB, EDGE, target)], ..Ours::default() }.rules(HUB);
        rules.policies = Policies::Each(BTreeMap::from([
            (EDGE.to_owned(), Policy::default()),
            ("other".to_owned(), policy),
        ]));
        let hub = End::new(Side { board, metrics, events: received, stop, task }, rules, forwarded);
        let bank = keys.edge(address, Ours { policy: reaching(&[target]), ..Ours::default() });
        let listen = hub.listening("app").await;
        Self { hub, address, keys, listen, _bank: bank }
    }

    async fn honest_edge_is_served(&self) {
        let mut client = in_time(tokio::net::TcpStream::connect(self.listen)).await.unwrap();
        says_back(&mut client, b"undisturbed").await;
    }

    async fn link_of_other(&self) -> RawEdge {
        self.link_of_other_again(1).await
    }

    /// In place of the one before, whether the hub has noticed its end or not.
    async fn link_of_other_again(&self, attempt: u32) -> RawEdge {
        let certified = Certified::of_token(&self.keys.token("other"));
        let mut control = RawEdge::connect(self.address, certified, &[b"bridge/1"]).await;
        // With streams: the features of this version.
        let mut hello = Hello::of("other");
        hello.lane = hello.lane.map(|lane| LaneAsked { attempt, ..lane });
        let hello = [hello.encode_to_vec(), vec![0x10, 3]].concat();
        control.say(HELLO, &hello).await;
        assert_eq!(control.hear().await.unwrap().0, WELCOME);
        control
    }
}

/// A frame of a stream's head, as `src/tunnel/streams.rs` draws it.
fn head(kind: u8, words: &[u8]) -> Vec<u8> {
    let message = [&[8, kind, 18, u8::try_from(words.len()).unwrap()][..], words].concat();
    let len = u32::try_from(message.len() + 1).unwrap();
    [&len.to_be_bytes()[..], &[32], &message].concat()
}

type Mux =
    yamux::Connection<tokio_util::compat::Compat<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>>;

/// Its yamux by the library, with the control stream open; the rest is the caller's.
async fn mux(control: RawEdge) -> (Mux, yamux::Stream) {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(4000);
    config.set_max_connection_receive_window(None);
    let mut mux = yamux::Connection::new(control.tls.compat(), config, yamux::Mode::Client);
    let mut stream = poll_fn(|cx| mux.poll_new_outbound(cx)).await.unwrap();
    // A ping, so that the hub knows the control stream.
    stream.write_all(&[0, 0, 0, 2, 16, 7]).await.unwrap();
    (mux, stream)
}

/// Opens streams that say this, while the connection is driven.
async fn open(mux: &mut Mux, count: usize, words: &[u8]) -> Vec<yamux::Stream> {
    let mut streams = Vec::new();
    while streams.len() < count {
        let opened = poll_fn(|cx| {
            _ = mux.poll_next_inbound(cx);
            mux.poll_new_outbound(cx)
        });
        let mut stream = in_time(opened).await.unwrap();
        stream.write_all(words).await.unwrap();
        streams.push(stream);
    }
    streams
}

async fn drive(mux: &mut Mux, until: impl Future<Output = ()>) {
    let driven = poll_fn(|cx| -> std::task::Poll<()> {
        while mux.poll_next_inbound(cx).is_ready() {}
        std::task::Poll::Pending
    });
    tokio::select! {
        () = driven => {}
        () = in_time(until) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_never_say_what_for_keep_a_few_places_and_the_rest_are_reset() {
    let scene = Scene::new().await;
    let (mut mux, _control) = mux(scene.link_of_other().await).await;
    // A frame is announced, and no more.
    let streams = open(&mut mux, 200, &[0, 0, 0, 100]).await;
    let dropped = async {
        while scene.hub.side.metrics.streams_dropped.get() < 200 - 16 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    drive(&mut mux, dropped).await;
    assert_eq!(scene.hub.side.metrics.streams_dropped.get(), 200 - 16);
    scene.honest_edge_is_served().await;
    drop(streams);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_what_nobody_allowed_are_refused_one_by_one_however_many() {
    let scene = Scene::new().await;
    let (mut mux, _control) = mux(scene.link_of_other().await).await;
    let asked = [&[10, 1, b'x', 18, 6][..], b"kube:1"].concat();
    for _ in 0..4 {
        for mut stream in open(&mut mux, 200, &head(1, &asked)).await {
            let mut answer = [0; 4];
            drive(&mut mux, async {
                // ANSWER, target_not_allowed
                stream.read_exact(&mut answer).await.unwrap();
            })
            .await;
            assert_eq!(answer, [0x12, 0, 0, 1]);
        }
    }
    assert!(scene.hub.board.rows().iter().all(|row| row.peer != "other"));
    scene.honest_edge_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_ends_when_its_bytes_come_one_by_one() {
    let (target, _held) = silent().await;
    let scene = Scene::that_allows(reaching(&[target])).await;
    let (mut mux, _control) = mux(scene.link_of_other().await).await;
    let text = target.to_string();
    let asked = [&[10, 1, b'x', 18, u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
    let mut stream = open(&mut mux, 1, &head(1, &asked)).await.remove(0);
    let mut answer = [0; 4];
    let flooding = async {
        // The multiplexer makes a frame of each write; the hub may end it at any of them.
        for _ in 0..20_000 {
            if stream.write_all(b"x").await.is_err() {
                break;
            }
        }
        stream.read_exact(&mut answer).await.unwrap();
    };
    let since = std::time::Instant::now();
    drive(&mut mux, flooding).await;
    // ANSWER, malformed: before the target would have been given up for its silence.
    assert_eq!(answer, [0x12, 0, 0, 9], "{:?}", since.elapsed());
    scene.honest_edge_is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_declares_on_one_stream_and_a_second_is_reset() {
    let scene = Scene::new().await;
    let (mut mux, _control) = mux(scene.link_of_other().await).await;
    let mut first = open(&mut mux, 1, &head(2, b"")).await.remove(0);
    // An empty declaration is answered.
    first.write_all(&[0x13, 0, 0, 0]).await.unwrap();
    let mut answer = [0; 4];
    drive(&mut mux, async { first.read_exact(&mut answer).await.unwrap() }).await;
    assert_eq!(answer, [0x13, 0, 0, 0]);
    for mut more in open(&mut mux, 50, &head(2, b"")).await {
        let ended = async {
            let read = more.read(&mut [0; 4]).await;
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        };
        drive(&mut mux, ended).await;
    }
    scene.honest_edge_is_served().await;
}

/// `[ version 0 | type | flags u16 | stream u32 | length u32 ]`, yamux' header.
fn yamux_frame(kind: u8, flags: u16, stream: u32, value: u32, body: &[u8]) -> Vec<u8> {
    let head = [&[0, kind][..], &flags.to_be_bytes(), &stream.to_be_bytes(), &value.to_be_bytes()].concat();
    [head, body.to_vec()].concat()
}

const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const PING: u8 = 2;
const SYN: u16 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_window_updates_and_pings_end_no_other_link() {
    let scene = Scene::new().await;
    for (attempt, (what, frame)) in (1..).zip([
        ("updates", yamux_frame(WINDOW_UPDATE, 0, 1, 1, &[])),
        ("updates of no stream", yamux_frame(WINDOW_UPDATE, 0, 77, u32::MAX, &[])),
        ("pings", yamux_frame(PING, SYN, 0, 7, &[])),
        ("data of no length", yamux_frame(DATA, 0, 1, 0, &[])),
    ]) {
        let RawEdge { mut tls } = scene.link_of_other_again(attempt).await;
        tls.write_all(&yamux_frame(DATA, SYN, 1, 6, &[0, 0, 0, 2, 16, 7])).await.unwrap();
        let flood = frame.repeat(10_000);
        let (mut read, mut write) = tokio::io::split(tls);
        let flooding = async {
            for _ in 0..20 {
                // It may be thrown out.
                if write.write_all(&flood).await.is_err() {
                    return;
                }
            }
        };
        let mut heard = [0; 4096];
        let reading = async { while let Ok(1..) = read.read(&mut heard).await {} };
        let served = async {
            for _ in 0..5 {
                scene.honest_edge_is_served().await;
            }
        };
        in_time(async {
            tokio::select! {
                ((), ()) = async { tokio::join!(flooding, served) } => {}
                () = reading => panic!("{what}: the link ended"),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_a_lane_can_have_end_their_link_and_no_other() {
    let scene = Scene::new().await;
    let RawEdge { mut tls } = scene.link_of_other().await;
    tls.write_all(&yamux_frame(DATA, SYN, 1, 6, &[0, 0, 0, 2, 16, 7])).await.unwrap();
    let opened: Vec<u8> =
        (1..10_000).flat_map(|n| yamux_frame(WINDOW_UPDATE, SYN, 2 * n + 1, 0, &[])).collect();
    let (mut read, mut write) = tokio::io::split(tls);
    _ = in_time(write.write_all(&opened)).await;
    let mut heard = [0; 4096];
    let other = |row: &pulsar_bridge::tunnel::status::LinkStatus| row.peer == "other";
    // Either it is told to go, or every stream beyond the bound was reset.
    let settled = async {
        loop {
            tokio::select! {
                got = read.read(&mut heard) => if !matches!(got, Ok(1..)) { return },
                () = tokio::time::sleep(Duration::from_millis(5)) => {
                    if scene.hub.side.metrics.streams_dropped.get() > 9000 { return }
                }
            }
        }
    };
    in_time(settled).await;
    assert!(scene.hub.side.board.rows().iter().any(other));
    scene.honest_edge_is_served().await;
}
