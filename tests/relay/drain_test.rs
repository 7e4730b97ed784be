//! What is left unconfirmed when a source is told to stop: finished where that can be, else counted, whenever and
//! however the link went.

use std::time::{Duration, Instant};

use pulsar_bridge::policy::{Policies, Policy};
use pulsar_bridge::pulsar::proto::kind;
use pulsar_bridge::relay::drained;
use pulsar_bridge::relay::ruling::Ruling;
use pulsar_bridge::relay::status::{End, PartitionStatus, State};

use crate::broker::Answer;
use crate::journal::{acks, commands};
use crate::pair::{LEDGER, Pair};
use crate::said::Said;

/// Five entries are stored at the destination, and no receipt has come.
async fn unanswered() -> Pair {
    let pair = Pair::start().await;
    pair.append(0..5);
    pair.sink.with(|state| state.script = Box::new(|_| Answer::StoreLater));
    pair.connect().await;
    pair.journal.until_command("sink", kind::SEND, 5).await;
    pair.riskfuel.until(End::Source, "all are on their way", |row| row.in_flight == 5).await;
    pair
}

fn waits(row: &PartitionStatus) -> bool {
    row.state == State::Waiting && row.reason.as_deref() == Some("link_down")
}

/// What the source's side says of its run at the end.
async fn left(pair: Pair) -> u64 {
    let board = pair.riskfuel.board.clone();
    pair.stop().await;
    drained::tell(&board.rows())
}

#[tokio::test]
async fn a_drain_waits_for_what_is_on_its_way_and_leaves_nothing() {
    let pair = unanswered().await;
    pair.riskfuel.begin_stop();
    pair.sink.release(|_| true);
    assert_eq!(left(pair).await, 0);
}

#[tokio::test]
async fn a_link_that_goes_during_the_drain_leaves_what_is_unconfirmed() {
    let pair = unanswered().await;
    pair.riskfuel.begin_stop();
    pair.cut();
    assert_eq!(left(pair).await, 5);
}

#[tokio::test]
async fn a_link_that_went_before_the_drain_leaves_what_is_unconfirmed() {
    let pair = unanswered().await;
    pair.cut();
    let row = pair.riskfuel.until(End::Source, "the link is missed", waits).await;
    assert_eq!(row.in_flight, 5);
    assert_eq!(left(pair).await, 5);
}

#[tokio::test]
async fn what_an_earlier_session_left_is_confirmed_by_a_later_one() {
    let pair = unanswered().await;
    pair.cut();
    pair.riskfuel.until(End::Source, "the link is missed", waits).await;
    pair.sink.with(|state| state.script = Box::new(|_| Answer::Store));
    pair.connect().await;
    let settled = |row: &PartitionStatus| row.state == State::Running && row.in_flight == 0;
    pair.riskfuel.until(End::Source, "everything is confirmed", settled).await;
    assert_eq!(left(pair).await, 0);
}

#[tokio::test]
async fn a_clean_stop_says_nothing_alarming() {
    let (said, _listening) = Said::listen();
    let pair = Pair::start().await;
    pair.append(0..5);
    pair.connect().await;
    pair.journal.until("all acknowledged", |events| acks(events).last() == Some(&(LEDGER, 4))).await;
    let Pair { riskfuel, bank, lane, .. } = pair;
    riskfuel.stop().await;
    bank.stop().await;
    lane.into_inner().unwrap().unwrap().cancel();
    tokio::task::yield_now().await;
    let log = said.text();
    assert!(log.contains("route runs"), "{log}");
    let alarming: Vec<_> =
        log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    assert!(alarming.is_empty(), "{alarming:#?}");
}

#[tokio::test]
async fn a_route_that_is_no_longer_allowed_ends_within_two_seconds_though_nobody_confirms() {
    let pair = unanswered().await;
    let since = Instant::now();
    pair.riskfuel.rulings.replace(Ruling { declared: vec![], policies: Policies::One(Policy::default()) });
    pair.append(5..10);
    let gone = async {
        while pair.riskfuel.row(End::Source).is_some() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!(commands(&pair.journal.events(), "sink", kind::SEND), 5, "nothing left after it");
    assert!(acks(&pair.journal.events()).is_empty(), "what nobody confirmed is not acknowledged");
    pair.stop().await;
}
