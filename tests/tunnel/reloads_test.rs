//! What happens to a link beside a renewal that is cut, and to a hub whose trust is replaced at an awkward moment.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use prost::Message;
use pulsar_bridge::tunnel::status::Board;
use pulsar_bridge::tunnel::{HubKeys, HubTrust, TunnelMetrics};
use tokio_util::sync::CancellationToken;

use crate::bridge::{Keys, edge, hub, in_time, row_of};
use crate::stranger::{Certified, HELLO, Hello, LaneAsked, RELAY, RawEdge, WELCOME, proxy};

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_is_cut_is_tried_again_soon_and_not_when_a_new_link_would_be_due() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let way = proxy(vec![address]).await;
    let mut cfg = keys.edge_tunnel("bank", way.address, 1);
    cfg.lane_age = Duration::from_secs(2);
    let mut bank = edge(cfg, "bank");
    let (first, at_bank) = (hub.link_up().await, bank.link_up().await);
    let _uses = at_bank.link.retiring.user();
    let _lanes = (hub.relay_lane().await, bank.relay_lane().await);
    // The third connection is the renewing link's; its relay lane, and what follows, finds nobody who speaks.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = mute.local_addr().unwrap();
    *way.targets.lock().unwrap() = (0..16).map(|turn| if turn == 2 { address } else { nobody }).collect();
    hub.link_up().await.link.ended.cancel();
    let since = Instant::now();
    let told = row_of(|| bank.board.warnings(), |_| true).await;
    let whose =
        format!("link {:016x} to riskfuel is to be renewed at tls://{}, ", first.link.id, way.address);
    assert!(told.starts_with(&whose) && told.contains("goes on as it is"), "{told}");
    *way.targets.lock().unwrap() = vec![address];
    drop(mute);
    hub.link_up().await;
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    assert!(!first.link.ended.is_cancelled());
    quiet(&bank.board).await;
    let id = Some(format!("{:016x}", first.link.id));
    assert!(bank.board.rows().iter().any(|row| row.link == id), "it did not take its warning along");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_another_process_of_its_hub_refuses_is_told_of_as_long_as_that_does() {
    let keys = Keys::new();
    let (_hub, address) = hub(&keys.hub_tunnel()).await;
    let mut without = keys.hub_tunnel();
    without.edges.iter_mut().for_each(|edge| edge.keys.clear());
    let other = HubKeys::load(&without, "riskfuel").unwrap();
    let trust = other.trust();
    let other = other.bind().await.unwrap();
    let behind = other.local_addr().unwrap();
    let (events, _received) = tokio::sync::mpsc::channel(16);
    let stop = CancellationToken::new();
    tokio::spawn(other.serve(Board::default(), TunnelMetrics::default(), events, stop.clone()));
    let way = proxy(vec![address]).await;
    let mut cfg = keys.edge_tunnel("bank", way.address, 0);
    cfg.lane_age = Duration::from_secs(1);
    let mut bank = edge(cfg, "bank");
    bank.link_up().await;
    *way.targets.lock().unwrap() = vec![behind];
    let told = row_of(|| bank.board.warnings(), |told| told.contains("tunnel.edges[].keys")).await;
    assert!(told.contains("goes on as it is") && !told.contains("from before"), "one key: {told}");
    // It gets to know the key, and still does not have the link.
    trust.replace(HubTrust::load(&keys.hub_tunnel(), "riskfuel", None).unwrap());
    quiet(&bank.board).await;
    stop.cancel();
}

/// Waits until no link has a warning.
async fn quiet(board: &Board) {
    in_time(async {
        while !board.warnings().is_empty() {
            // The board tells no changes; looking again is all there is.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_joins_is_judged_by_the_bounds_of_now_and_not_of_its_handshakes_begin() {
    const NO_SUCH_LINK: u32 = 5;
    const TOO_MANY_INSTANCES: u32 = 4;
    let keys = Keys::new();
    let mut cfg = keys.hub_tunnel();
    let keys_of_hub = HubKeys::load(&cfg, "riskfuel").unwrap();
    let trust = keys_of_hub.trust();
    let listener = keys_of_hub.bind().await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let (events, _received) = tokio::sync::mpsc::channel(16);
    tokio::spawn(listener.serve(Board::default(), TunnelMetrics::default(), events, stop.clone()));
    let raw = async || {
        let certified = Certified::of_token(&keys.token("bank"));
        RawEdge::connect(address, certified, &[b"bridge/1"]).await
    };
    let mut first = raw().await;
    first.say(HELLO, &Hello::of("bank").encode_to_vec()).await;
    assert_eq!(first.hear().await.unwrap().0, WELCOME);
    let process = |lane| Hello { instance: vec![7; 16], lane: Some(lane), ..Hello::of("bank") };
    let elsewhere = LaneAsked { link: 99, kind: RELAY, attempt: 1, ..LaneAsked::default() };
    let mut second = raw().await;
    assert_eq!(second.refusal_of(&process(elsewhere)).await, NO_SUCH_LINK);
    cfg.edges.iter_mut().for_each(|edge| edge.max_instances = 1);
    trust.replace(HubTrust::load(&cfg, "riskfuel", None).unwrap());
    let own = Hello::of("bank").lane.unwrap();
    assert_eq!(second.refusal_of(&process(own)).await, TOO_MANY_INSTANCES);
    stop.cancel();
}

#[test]
fn a_hub_that_starts_while_its_trust_is_replaced_comes_up_all_the_same() {
    const EDGES: usize = 200;
    let keys = Keys::new();
    let mut cfg = keys.hub_tunnel();
    let known = cfg.edges[0].clone();
    let absent = |nth| {
        let mut edge = known.clone();
        edge.name = format!("edge-{nth}");
        edge.keys.clear();
        edge
    };
    cfg.edges = (0..EDGES).map(absent).collect();
    let keys_of_hub = HubKeys::load(&cfg, "riskfuel").unwrap();
    let trust = keys_of_hub.trust();
    let replacements: Vec<_> = (0..20).map(|_| HubTrust::load(&cfg, "riskfuel", None).unwrap()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (board, stop) = (Board::default(), CancellationToken::new());
    let listener = runtime.block_on(keys_of_hub.bind()).unwrap();
    let (events, _received) = tokio::sync::mpsc::channel(16);
    let serving = listener.serve(board.clone(), TunnelMetrics::default(), events, stop.clone());
    let serving = runtime.spawn(serving);
    let (replaced, done) = mpsc::channel();
    let begun = board.clone();
    thread::spawn(move || {
        // Whenever the hub has got further, so that it is in the midst of it.
        for (nth, next) in replacements.into_iter().enumerate() {
            while begun.rows().len() <= nth {
                thread::yield_now();
            }
            trust.replace(next);
        }
        replaced.send(()).unwrap();
    });
    let replaced = done.recv_timeout(Duration::from_secs(20));
    stop.cancel();
    // Not waited for by the runtime's own end, which would hang with it.
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), serving).await });
    runtime.shutdown_background();
    assert!(replaced.is_ok() && ended.is_ok(), "each waits for the other");
    assert_eq!(board.rows().len(), EDGES);
}
