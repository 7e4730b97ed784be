//! What a refusal says, to the operator who has to act: at the site that refused, and at the source.

use std::time::Duration;

use pulsar_bridge::policy::Policy;
use pulsar_bridge::relay::status::{End, PartitionStatus};

use crate::broker::Broker;
use crate::journal::{Journal, acks};
use crate::pair::{LEDGER, Pair, Side, TOPIC, receiving, route};
use crate::peer::{LaneFrame, Open, Peer, Stop, open, opening};
use crate::said::Said;

/// What the bank logs when it refuses the last of these.
async fn refused(policy: Policy, opened: &[Open], code: &str) -> String {
    let (said, _listening) = Said::listen();
    let broker = Broker::start("sink", Journal::new()).await;
    let bank = Side::start("bank", &broker, Vec::new(), policy, true);
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    for open in opened {
        peer.tell(opening(open.clone()), b"").await;
    }
    while peer.hear().await.unwrap().stop.is_none_or(|stop| stop.code != code) {}
    bank.stop().await;
    said.text()
}

#[tokio::test]
async fn a_generation_that_is_behind_is_told_with_both_numbers() {
    let ahead = Open { generation: 2, session: 8, ..open() };
    let log = refused(receiving(), &[ahead, open()], "generation_behind").await;
    assert!(log.contains("this route says 1, the destination has seen 2"), "{log}");
    assert!(log.contains("give every replica that number"), "{log}");
}

#[tokio::test]
async fn a_topic_that_our_policy_lacks_is_told_with_the_place_to_add_it() {
    let log = refused(Policy::default(), &[open()], "refused_by_policy").await;
    assert!(log.contains(&format!("add {TOPIC} to `policy.receive` here")), "{log}");
    assert!(log.contains(&format!("peer=riskfuel route=orders topic={TOPIC} ")), "{log}");
}

#[tokio::test]
async fn a_source_names_the_site_that_refused_it_and_whose_log_says_more() {
    let (said, _listening) = Said::listen();
    let broker = Broker::start("source", Journal::new()).await;
    let riskfuel = Side::start("riskfuel", &broker, vec![route()], Policy::default(), true);
    let down = |row: &PartitionStatus| row.reason.as_deref() == Some("link_down");
    riskfuel.until(End::Source, "it has no lane", down).await;
    let mut bank = Peer::meet(&riskfuel, "bank").await;
    let Open { number, session, .. } = bank.hear().await.unwrap().open.unwrap();
    let stop = Stop { number, session, code: "refused_by_policy".into() };
    bank.tell(LaneFrame { stop: Some(stop), ..LaneFrame::default() }, b"").await;
    let refused = |row: &PartitionStatus| row.reason.as_deref() == Some("refused_by_policy");
    let row = riskfuel.until(End::Source, "it is refused", refused).await;
    let remedy = row.remedy.unwrap();
    assert_eq!(remedy, format!("have {TOPIC} added to the policy (`receive`) of bank, whose log says more"));
    riskfuel.stop().await;
    let log = said.text();
    assert!(log.contains("refused by bank: its log has the detail"), "{log}");
    let line = log.lines().find(|line| line.contains("no lane to the destination")).unwrap();
    assert!(!line.contains("session="), "there is no session yet: {line}");
}

#[tokio::test]
async fn a_route_whose_lane_comes_up_after_it_does_not_say_that_the_link_is_down() {
    let (said, _listening) = Said::listen();
    // A clock that moves on only when nobody has anything left to do, however long this machine takes for that.
    tokio::time::pause();
    let pair = Pair::start().await;
    pair.append(0..5);
    pair.riskfuel.until(End::Source, "it is begun", |_| true).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    pair.connect().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    tokio::time::resume();
    pair.journal.until("all acknowledged", |events| acks(events).last() == Some(&(LEDGER, 4))).await;
    let log = said.text();
    pair.finish().await;
    assert!(log.contains("route runs") && !log.contains("link_down"), "{log}");
}

#[tokio::test]
async fn a_route_into_a_site_without_a_cluster_says_so_and_not_that_the_link_is_down() {
    let pair = Pair::start().await;
    pair.append(0..5);
    let (ended, _said) = pair.riskfuel.give_bare_link("bank").await;
    let says = |code| move |row: &PartitionStatus| row.reason.as_deref() == Some(code);
    pair.riskfuel.until(End::Source, "there is no cluster", says("refused_by_policy")).await;
    ended.cancel();
    pair.riskfuel.until(End::Source, "there is no link", says("link_down")).await;
    // It has got one.
    pair.connect().await;
    pair.journal.until("all acknowledged", |events| acks(events).last() == Some(&(LEDGER, 4))).await;
    pair.finish().await;
}
