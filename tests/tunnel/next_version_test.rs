//! The next version, which has fields and frames that ours does not know, and speaks ours too: fields are passed over,
//! frames refused by name, and a version that nobody offered is none.

use prost::Message;

use crate::bridge::{Keys, edge, hub};
use crate::downgrade_test::true_hub;
use crate::stranger::{
    Certified, HELLO, Hello, Limits, REFUSED, RawEdge, Refused, WELCOME, Welcome, framed, play_hub_that_says,
};

const OURS: u32 = 1;
const NEXT: u32 = 2;
/// `tunnel::refusal`: what cannot be understood.
const MALFORMED: u32 = 1;

/// What only the next version has in its messages.
#[derive(Clone, PartialEq, Message)]
struct News {
    #[prost(string, tag = "200")]
    news: String,
}

fn with_news(message: &impl Message) -> Vec<u8> {
    [message.encode_to_vec(), News { news: "something new".into() }.encode_to_vec()].concat()
}

fn welcome(version: u32) -> Vec<u8> {
    let (instance, limits) = (vec![1; 16], Some(Limits { relay_lanes: 0 }));
    framed(WELCOME, &with_news(&Welcome { version, site: "riskfuel".into(), instance, link: 7, limits }))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_of_the_next_version_is_welcomed_in_ours() {
    let keys = Keys::new();
    let (side, address) = hub(&keys.hub_tunnel()).await;
    let certified = Certified::of_token(&keys.token("bank"));
    let mut raw = RawEdge::connect(address, certified, &[b"bridge/1"]).await;
    let hello = Hello { versions: vec![OURS, NEXT], ..Hello::of("bank") };
    raw.say(HELLO, &with_news(&hello)).await;
    let (kind, body) = raw.hear().await.unwrap();
    assert_eq!((kind, Welcome::decode(&body[..]).unwrap().version), (WELCOME, OURS));
    side.row(|row| row.state == "up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_frame_that_only_the_next_version_has_is_refused_by_name() {
    let keys = Keys::new();
    let (_side, address) = hub(&keys.hub_tunnel()).await;
    let certified = Certified::of_token(&keys.token("bank"));
    let mut raw = RawEdge::connect(address, certified, &[b"bridge/1"]).await;
    raw.say(200, &News { news: "something new".into() }.encode_to_vec()).await;
    let (kind, body) = raw.hear().await.unwrap();
    assert_eq!((kind, Refused::decode(&body[..]).unwrap().code), (REFUSED, MALFORMED));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_of_the_next_version_that_answers_in_ours_is_understood() {
    let keys = Keys::new();
    let words = welcome(OURS);
    let (address, _) = play_hub_that_says(true_hub(&keys), &[b"bridge/1"], words.leak()).await;
    let mut edge = edge(keys.edge_tunnel("bank", address, 1), "bank");
    assert_eq!(edge.link_up().await.link.instance, [1; 16]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_answers_in_a_version_that_was_not_offered_is_refused_by_name() {
    let keys = Keys::new();
    let words = welcome(NEXT);
    let (address, _) = play_hub_that_says(true_hub(&keys), &[b"bridge/1"], words.leak()).await;
    edge(keys.edge_tunnel("bank", address, 1), "bank").reason("version").await;
}
