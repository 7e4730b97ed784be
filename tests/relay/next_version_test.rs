//! A peer of the next version, which has a field and a frame that ours does not know: the field is passed over, the
//! frame ends the lane by name. And one of an earlier version, that would pass over what it has to know.

use prost::Message;
use pulsar_bridge::policy::{Policy, Renaming};
use pulsar_bridge::pulsar::frame::encode_before;
use pulsar_bridge::relay::context::RouteSpec;
use pulsar_bridge::relay::status::{End, PartitionStatus, State};
use pulsar_bridge::tunnel::features::FEATURES;

use crate::broker::Broker;
use crate::journal::Journal;
use crate::pair::{Side, TOPIC, entry, id, receiving, route};
use crate::peer::{Peer, entry_head, open, readiness, unknown_kind};
use crate::said::Said;

/// What may carry a field more: on the wire, bytes are what a message is.
#[derive(Clone, PartialEq, Message)]
struct NextFrame {
    #[prost(bytes = "vec", optional, tag = "1")]
    open: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    entry: Option<Vec<u8>>,
    /// No version so far has it.
    #[prost(string, tag = "200")]
    news: String,
}

#[derive(Clone, PartialEq, Message)]
struct News {
    #[prost(string, tag = "200")]
    news: String,
}

/// The message, and a field that only the next version knows.
fn next(message: &impl Message) -> Option<Vec<u8>> {
    let news = News { news: "something new".into() };
    Some([message.encode_to_vec(), news.encode_to_vec()].concat())
}

async fn tell(peer: &mut Peer, frame: NextFrame, entry: &[u8]) {
    let frame = NextFrame { news: "something new".into(), ..frame };
    let head = encode_before(&frame, entry.len());
    assert!(peer.write(&head).await && peer.write(entry).await);
}

#[tokio::test]
async fn fields_of_the_next_version_are_passed_over_and_a_frame_of_it_ends_the_lane_by_name() {
    let (said, listening) = Said::listen();
    let broker = Broker::start("sink", Journal::new()).await;
    let bank = Side::start("bank", &broker, Vec::new(), receiving(), true);
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    tell(&mut peer, NextFrame { open: next(&open()), ..NextFrame::default() }, b"").await;
    assert!(peer.hear().await.unwrap().ready.is_some());
    let head = entry_head(id(0)).entry.unwrap();
    tell(&mut peer, NextFrame { entry: next(&head), ..NextFrame::default() }, &entry(0)).await;
    assert_eq!(peer.hear().await.unwrap().receipts.unwrap().marked.len(), 1);
    assert_eq!(broker.with(|state| state.stored.len()), 1);
    peer.write(&unknown_kind()).await;
    peer.until_ended().await;
    bank.stop().await;
    drop(listening);
    let said = said.text();
    assert!(said.contains("unknown kind of relay frame") && said.contains("peer=riskfuel"), "{said}");
}

#[tokio::test]
async fn a_peer_that_would_pass_over_another_name_is_sent_nothing() {
    let there = "persistent://bank/in/orders";
    let mut renaming = Renaming::default();
    renaming.add(TOPIC, there).unwrap();
    let source = Broker::start("source", Journal::new()).await;
    let riskfuel = || {
        let declared = vec![RouteSpec { renaming: renaming.clone(), ..route() }];
        Side::start("riskfuel", &source, declared, Policy::default(), true)
    };
    let older = riskfuel();
    let mut peer = Peer::meet_of(&older, "bank", 0).await;
    let told = |row: &PartitionStatus| row.reason.as_deref() == Some("peer_too_old");
    older.until(End::Source, "the version is named", told).await;
    peer.ended.cancel();
    assert_eq!(peer.hear().await, None);
    older.stop().await;
    let newer = riskfuel();
    let mut peer = Peer::meet_of(&newer, "bank", FEATURES).await;
    let opened = peer.hear().await.unwrap().open.unwrap();
    assert_eq!(opened.destination, there);
    peer.tell(readiness(&opened), b"").await;
    newer.until(End::Source, "it runs with a newer one", |row| row.state == State::Running).await;
    newer.stop().await;
}
