//! An edge with a key of its own that wants to be more than it is; and frames that lie about their length.

use std::future::poll_fn;

use futures::{AsyncReadExt, AsyncWriteExt};
use prost::Message;
use rcgen::{KeyPair, PKCS_ED25519};
use tokio::net::TcpStream;
use tokio_rustls::client;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use crate::bridge::{Keys, edge, hub, in_time};
use crate::forwarding::{Ours, Pair, held, reaching};
use crate::stranger::{Certified, HELLO, Hello, LaneAsked, RELAY, RawEdge, WELCOME, framed};

const BRIDGE: &[&[u8]] = &[b"bridge/1"];
/// The first frame of a stream beside the control stream.
const STREAM_HEAD: u8 = 32;
const PING: u8 = 16;

async fn raw(keys: &Keys, edge: &str, hub: std::net::SocketAddr) -> RawEdge {
    RawEdge::connect(hub, Certified::of_token(&keys.token(edge)), BRIDGE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_calls_itself_by_another_edges_name_is_refused() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut other = raw(&keys, "other", address).await;
    assert_eq!(other.refusal_of(&Hello::of("bank")).await, 3);
    assert!(hub.events.try_recv().is_err(), "nothing came of it");
    hub.row(|row| row.peer == "other" && row.reason.as_deref() == Some("refused_site_mismatch")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_cannot_attach_to_another_edges_link() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut bank = edge(keys.edge_tunnel("bank", address, 2), "bank");
    let (at_hub, _at_bank) = (hub.link_up().await, bank.link_up().await);
    let lanes = (hub.relay_lane().await, hub.relay_lane().await);
    // It knows everything that can be known: the link and even the process.
    let hello = Hello {
        instance: at_hub.link.instance.to_vec(),
        lane: Some(LaneAsked {
            link: at_hub.link.id,
            kind: RELAY,
            attempt: u32::MAX,
            ..LaneAsked::default()
        }),
        ..Hello::of("other")
    };
    let mut other = raw(&keys, "other", address).await;
    assert_eq!(other.refusal_of(&hello).await, 5);
    assert!(hub.events.try_recv().is_err());
    assert!(
        !lanes.0.ended.is_cancelled() && !lanes.1.ended.is_cancelled() && !at_hub.link.ended.is_cancelled()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_cannot_take_lanes_that_it_was_not_told_to_dial() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut control = raw(&keys, "other", address).await;
    control.say(HELLO, &Hello::of("other").encode_to_vec()).await;
    assert_eq!(control.hear().await.unwrap().0, WELCOME);
    let link = hub.link_up().await.link;
    assert_eq!(link.relay_lanes, 1);
    let beyond = |index, kind| Hello {
        lane: Some(LaneAsked { link: link.id, index, kind, attempt: 9, relay_lanes: 0 }),
        ..Hello::of("other")
    };
    for (index, kind) in [(1, RELAY), (70_000, RELAY), (0, 0), (0, 77)] {
        let mut lane = raw(&keys, "other", address).await;
        assert_eq!(lane.refusal_of(&beyond(index, kind)).await, 7, "{index} {kind}");
    }
    assert!(!link.ended.is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_hub_does_not_list_is_refused_and_the_edge_is_told_which() {
    let (keys, strangers) = (Keys::new(), Keys::new());
    let mut cfg = keys.hub_tunnel();
    cfg.edges.retain(|entry| entry.name != "bank");
    let (hub, address) = hub(&cfg).await;
    let bank = edge(keys.edge_tunnel("bank", address, 1), "bank");
    let row = bank.reason("refused_unknown_key").await;
    assert!(row.remedy.unwrap().contains("tunnel.edges[].keys"));
    // The same name with another key is just as unknown.
    let stranger = Certified::of_token(&strangers.token("other"));
    let mut raw = RawEdge::connect(address, stranger, BRIDGE).await;
    let error = raw.hear().await.unwrap_err().to_string();
    assert!(error.contains("AccessDenied"), "{error}");
    assert!(hub.board.rows().iter().all(|row| row.link.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_only_claims_to_be_an_edges_is_refused() {
    let keys = Keys::new();
    let (_hub, address) = hub(&keys.hub_tunnel()).await;
    let mut certified = Certified::of_token(&keys.token("bank"));
    // The bank's certificate is public once seen; CertificateVerify needs its private half.
    let other_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    certified.key = rustls::pki_types::PrivateKeyDer::try_from(other_key.serialize_der()).unwrap();
    let refused = std::panic::AssertUnwindSafe(RawEdge::connect(address, certified, BRIDGE));
    let joined = tokio::spawn(async move { refused.0.await.hear().await }).await;
    assert!(!matches!(joined, Ok(Ok(_))), "no frame of the hub's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_announces_two_gigabytes_ends_its_connection_and_no_other() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut bank = edge(keys.edge_tunnel("bank", address, 1), "bank");
    let (at_hub, at_bank) = (hub.link_up().await, bank.link_up().await);
    let mut other = raw(&keys, "other", address).await;
    let announced = [&0x8000_0000_u32.to_be_bytes()[..], &[HELLO]].concat();
    tokio::io::AsyncWriteExt::write_all(&mut other.tls, &announced).await.unwrap();
    assert!(other.hear().await.is_err());
    hub.row(|row| row.peer == "other" && row.reason.as_deref() == Some("malformed")).await;
    assert!(!at_hub.link.ended.is_cancelled() && !at_bank.link.ended.is_cancelled());
}

type Mux = yamux::Connection<Compat<client::TlsStream<TcpStream>>>;

/// A link of an edge by hand, with its control stream open.
async fn raw_control(keys: &Keys, edge: &str, address: std::net::SocketAddr) -> (Mux, yamux::Stream) {
    let mut control = raw(keys, edge, address).await;
    control.say(HELLO, &Hello { features: u64::MAX, ..Hello::of(edge) }.encode_to_vec()).await;
    assert_eq!(control.hear().await.unwrap().0, WELCOME);
    let mut mux = yamux::Connection::new(control.tls.compat(), yamux::Config::default(), yamux::Mode::Client);
    let stream = poll_fn(|cx| mux.poll_new_outbound(cx)).await.unwrap();
    (mux, stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn control_frames_that_the_protocol_does_not_have_end_their_link_and_no_other() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut bank = edge(keys.edge_tunnel("bank", address, 1), "bank");
    let (at_hub, at_bank) = (hub.link_up().await, bank.link_up().await);
    let _lanes = (hub.relay_lane().await, bank.relay_lane().await);
    // Two gigabytes announced; no type at all; a type of nobody's; a ping that wants megabytes back.
    let two_gigabytes = [0x80, 0, 0, 0, 18].to_vec();
    let large_ping = [&[0, 0, 0, 100, 16][..], &[0; 99]].concat();
    for frame in [two_gigabytes, vec![0; 4], vec![0, 0, 0, 2, 77, 0], large_ping] {
        let (mut mux, mut stream) = raw_control(&keys, "other", address).await;
        let hostile = hub.link_up().await;
        stream.write_all(&frame).await.unwrap();
        let pumping = poll_fn(|cx| mux.poll_next_inbound(cx));
        tokio::select! {
            _ = pumping => {}
            () = in_time(hostile.link.ended.cancelled()) => {}
        }
        in_time(hostile.link.ended.cancelled()).await;
        hub.row(|row| row.peer == "other" && row.reason.as_deref() == Some("malformed")).await;
    }
    assert!(!at_hub.link.ended.is_cancelled() && !at_bank.link.ended.is_cancelled());
}

/// The first frame of a stream that asks for a forward's target.
fn asks_for(target: std::net::SocketAddr) -> Vec<u8> {
    let text = |tag: u8, text: &str| [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let open = [text(0x0a, "git"), text(0x12, &target.to_string())].concat();
    let head = [&[0x08, 1, 0x12, u8::try_from(open.len()).unwrap()][..], &open].concat();
    framed(STREAM_HEAD, &head)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_reaches_no_target_that_another_edge_may_reach() {
    let (target, mut accepted) = held().await;
    let ours = Ours { policy: reaching(&[target]), ..Ours::default() };
    let pair = Pair::new(ours, Ours::default()).await;
    // The hub's word to the bank; the same frame of another edge that was let in.
    for (edge, answer, connections) in [("bank", [0x12, 0, 0, 0], 1), ("other", [0x12, 0, 0, 1], 0)] {
        let (mut mux, mut control) = raw_control(&pair.keys, edge, pair.wire.address).await;
        let mut stream = poll_fn(|cx| mux.poll_new_outbound(cx)).await.unwrap();
        let heard = async {
            // The first stream that the hub sees is the control stream: it answers there before there is another.
            control.write_all(&framed(PING, b"now")).await.unwrap();
            control.read_exact(&mut [0; 8]).await.unwrap();
            stream.write_all(&asks_for(target)).await.unwrap();
            let mut heard = [0; 4];
            stream.read_exact(&mut heard).await.unwrap();
            heard
        };
        let pumping = async {
            // The hub has streams of its own.
            let mut theirs = Vec::new();
            loop {
                theirs.push(poll_fn(|cx| mux.poll_next_inbound(cx)).await.unwrap().unwrap());
            }
        };
        let heard = tokio::select! {
            heard = in_time(heard) => heard,
            () = pumping => unreachable!(),
        };
        assert_eq!(heard, answer, "{edge}");
        // Whatever came before our own connection was the hub's.
        let ours = TcpStream::connect(target).await.unwrap().local_addr().unwrap();
        let mut reached = 0;
        while in_time(accepted.recv()).await.unwrap().peer_addr().unwrap() != ours {
            reached += 1;
        }
        assert_eq!(reached, connections, "{edge}");
    }
}
