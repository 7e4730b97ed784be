//! A peer of the next version, which has a field and a frame that ours does not know: the field is passed over, the
//! frame ends the lane by name.

use prost::Message;
use pulsar_bridge::pulsar::frame::encode_before;

use crate::broker::Broker;
use crate::journal::Journal;
use crate::pair::{Side, entry, id, receiving};
use crate::peer::{Peer, entry_head, open, unknown_kind};
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
