//! Losses that the relay does not cause are noticed, counted and told once, and nothing else is taken for one. The
//! source broker moves its cursor as expiry does (the properties stay) or as `skip` does (they go).

use pulsar_bridge::policy::{Policy, Renaming, TopicRules};
use pulsar_bridge::pulsar::fields;
use pulsar_bridge::pulsar::proto::kind;
use pulsar_bridge::relay::context::RouteSpec;
use pulsar_bridge::relay::status::{End, PartitionStatus};

use crate::admin;
use crate::broker::{Broker, Order};
use crate::journal::{Event, Journal, acks, commands};
use crate::pair::{LEDGER, Pair, Side, TOPIC, id, receiving, route, stored};
use crate::said::Said;

/// The broker moves the cursor as an operator's `skip` does.
fn skip(broker: &Broker, through: u64) {
    broker.with(|state| {
        state.mark_delete = Some((LEDGER, through));
        state.properties.clear();
    });
}

/// And as expiry does.
fn expire(broker: &Broker, through: u64) {
    broker.with(|state| state.mark_delete = Some((LEDGER, through)));
}

async fn until_acknowledged(pair: &Pair, entry: u64) {
    let what = format!("{entry} is acknowledged");
    pair.journal.until(&what, |events| acks(events).last() == Some(&(LEDGER, entry))).await;
}

fn arrived(pair: &Pair) -> Vec<u64> {
    pair.sink.with(|state| state.stored.iter().map(|(id, _)| *id).collect())
}

fn ids(entries: impl IntoIterator<Item = u64>) -> Vec<u64> {
    entries.into_iter().map(id).collect()
}

/// The source's row, once it counts so many.
async fn until_skipped(side: &Side, count: u64) -> PartitionStatus {
    side.until(End::Source, "it is counted", |row| row.source_skipped == count).await
}

async fn until_link_down(pair: &Pair) {
    let waits = |row: &PartitionStatus| row.reason.as_deref() == Some("link_down");
    pair.riskfuel.until(End::Source, "the link is missed", waits).await;
}

/// A pair whose source may ask an admin API; its agent can be started anew.
async fn watched() -> Pair {
    let journal = Journal::new();
    let source = Broker::start("source", journal.clone()).await;
    let sink = Broker::start("sink", journal.clone()).await;
    let riskfuel = watching(&source).await;
    let bank = Side::start("bank", &sink, Vec::new(), receiving(), true);
    Pair { journal, source, sink, riskfuel, bank, lane: None.into() }
}

async fn watching(source: &Broker) -> Side {
    watching_as(source, route()).await
}

async fn watching_as(source: &Broker, route: RouteSpec) -> Side {
    let rest = Some(admin::serve(source).await);
    Side::start_with("riskfuel", &source.url(), vec![route], Policy::default(), true, rest)
}

/// Another process in the place of the source's.
async fn restart(pair: Pair) -> Pair {
    restart_as(pair, route()).await
}

async fn restart_as(pair: Pair, route: RouteSpec) -> Pair {
    pair.cut();
    let Pair { journal, source, sink, riskfuel, bank, lane } = pair;
    riskfuel.stop().await;
    let riskfuel = watching_as(&source, route).await;
    Pair { journal, source, sink, riskfuel, bank, lane }
}

/// Looks at the topic have come to their end.
async fn until_looked(pair: &Pair, times: usize) {
    let what = format!("a reader has looked {times} times");
    pair.journal.until(&what, |events| commands(events, "source", kind::CLOSE_CONSUMER) >= times).await;
}

#[tokio::test]
async fn every_acknowledgement_says_where_it_stands_and_what_is_confirmed() {
    let pair = Pair::start().await;
    pair.append(0..50);
    pair.connect().await;
    until_acknowledged(&pair, 49).await;
    for event in pair.journal.events() {
        let Event::Acked { at, properties } = event else { continue };
        let said = |key: &str| properties.iter().find(|(name, _)| name == key).map(|(_, value)| *value);
        assert_eq!((said("bridge.at.ledger"), said("bridge.at.entry")), (Some(at.0), Some(at.1)));
        let confirmed = properties.iter().find(|(name, _)| name.starts_with("bridge.confirmed.1."));
        assert!(confirmed.is_some_and(|(_, confirmed)| *confirmed >= id(at.1)), "{properties:?}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn what_was_skipped_while_the_link_was_down_is_counted_and_the_rest_arrives() {
    let pair = Pair::start().await;
    pair.append(0..10);
    pair.connect().await;
    until_acknowledged(&pair, 9).await;
    pair.cut();
    until_link_down(&pair).await;
    pair.append(10..30);
    skip(&pair.source, 19);
    pair.connect().await;
    let row = until_skipped(&pair.riskfuel, 10).await;
    let told = row.noticed.unwrap();
    assert_eq!(told.code, "source_skipped");
    assert!(told.detail.starts_with("10 entries from 5:10 to before 5:20"), "{}", told.detail);
    assert!(told.remedy.contains("TTL"));
    until_acknowledged(&pair, 29).await;
    assert_eq!(arrived(&pair), ids((0..10).chain(20..30)));
    pair.stop().await;
}

#[tokio::test]
async fn a_backlog_that_is_cleared_under_a_running_route_is_noticed_though_nothing_comes() {
    let pair = Pair::start().await;
    pair.append(0..10);
    pair.connect().await;
    until_acknowledged(&pair, 9).await;
    // Both at once: nothing of it is delivered.
    pair.source.with(|state| {
        let more = (10..25).map(|nth| ((LEDGER, nth), crate::pair::entry(nth)));
        state.log.extend(more);
        state.mark_delete = Some((LEDGER, 24));
        state.properties.clear();
    });
    until_skipped(&pair.riskfuel, 15).await;
    pair.append(25..30);
    until_acknowledged(&pair, 29).await;
    assert_eq!(arrived(&pair), ids((0..10).chain(25..30)));
    assert_eq!(pair.riskfuel.row(End::Source).unwrap().source_skipped, 15);
    pair.stop().await;
}

#[tokio::test]
async fn what_expired_while_the_bridge_was_down_is_told_by_the_next_process_and_not_by_the_one_after() {
    let pair = watched().await;
    pair.append(0..10);
    pair.connect().await;
    until_acknowledged(&pair, 9).await;
    let pair = restart(pair).await;
    pair.append(10..30);
    expire(&pair.source, 29);
    pair.connect().await;
    let told = until_skipped(&pair.riskfuel, 20).await.noticed.unwrap();
    assert!(told.detail.starts_with("20 entries from 5:10 to before 5:30"), "{}", told.detail);
    // The cursor says so from then on, though nothing came.
    until_acknowledged(&pair, 29).await;
    let looks = commands(&pair.journal.events(), "source", kind::SUBSCRIBE);
    let pair = restart(pair).await;
    pair.connect().await;
    pair.append(30..31);
    until_acknowledged(&pair, 30).await;
    assert_eq!(pair.riskfuel.row(End::Source).unwrap().source_skipped, 0);
    // It subscribed twice, to make sure of the subscription and to read, and looked at nothing.
    assert_eq!(commands(&pair.journal.events(), "source", kind::SUBSCRIBE), looks + 2);
    pair.stop().await;
}

#[tokio::test]
async fn behind_a_raised_generation_or_a_cursor_without_a_trace_no_count_is_exact() {
    let pair = watched().await;
    pair.append(0..10);
    pair.connect().await;
    until_acknowledged(&pair, 9).await;
    // Somebody skips: what the acknowledgement left is gone.
    let pair = restart(pair).await;
    pair.append(10..30);
    skip(&pair.source, 29);
    pair.connect().await;
    let told = until_skipped(&pair.riskfuel, 20).await.noticed.unwrap();
    assert!(told.detail.starts_with("at most 20 entries from 5:10 to before 5:30"), "{}", told.detail);
    until_acknowledged(&pair, 29).await;
    // The next generation does not know what was stored under the one before.
    let pair = restart_as(pair, RouteSpec { generation: 2, ..route() }).await;
    pair.append(30..35);
    expire(&pair.source, 34);
    pair.connect().await;
    let told = until_skipped(&pair.riskfuel, 5).await.noticed.unwrap();
    assert!(told.detail.starts_with("at most 5 entries from 5:30 to before 5:35"), "{}", told.detail);
    pair.stop().await;
}

#[tokio::test]
async fn a_destination_of_another_name_forgot_nothing_and_neither_did_the_first_when_it_is_gone_back_to() {
    let elsewhere = "persistent://public/default/elsewhere";
    let mut renaming = Renaming::default();
    renaming.add(TOPIC, elsewhere).unwrap();
    let journal = Journal::new();
    let source = Broker::start("source", journal.clone()).await;
    let sink = Broker::start("sink", journal.clone()).await;
    let riskfuel = watching(&source).await;
    let receive = TopicRules::parse(&[TOPIC.into(), elsewhere.into()]).unwrap();
    let bank = Side::start("bank", &sink, Vec::new(), Policy { receive, ..Policy::default() }, true);
    let pair = Pair { journal, source, sink, riskfuel, bank, lane: None.into() };
    pair.append(0..10);
    pair.connect().await;
    until_acknowledged(&pair, 9).await;
    // One producer name, two topics: the scripted broker is told which knows what.
    let known = pair.sink.with(|state| std::mem::take(&mut state.pushed));
    let pair = restart_as(pair, RouteSpec { renaming, ..route() }).await;
    pair.append(10..15);
    pair.connect().await;
    until_acknowledged(&pair, 14).await;
    let row = pair.riskfuel.row(End::Source).unwrap();
    assert_eq!((row.destination_forgotten, row.source_skipped), (0, 0));
    pair.sink.with(|state| state.pushed = known);
    let pair = restart(pair).await;
    pair.append(15..20);
    pair.connect().await;
    until_acknowledged(&pair, 19).await;
    let row = pair.riskfuel.row(End::Source).unwrap();
    assert_eq!((row.destination_forgotten, row.source_skipped), (0, 0));
    pair.stop().await;
}

#[tokio::test]
async fn what_a_broker_never_delivers_is_no_loss() {
    let pair = Pair::start().await;
    pair.append(0..10);
    pair.connect().await;
    until_acknowledged(&pair, 9).await;
    let before = commands(&pair.journal.events(), "source", kind::CLOSE_CONSUMER);
    // 10 to 12 are markers, which the broker acknowledges by itself; the ledger ends after 15.
    expire(&pair.source, 12);
    pair.append(13..16);
    pair.source.with(|state| state.log.push(((LEDGER + 1, 0), crate::pair::entry(16))));
    until_looked(&pair, before + 2).await;
    pair.append(16..16);
    let row = pair.riskfuel.until(End::Source, "all is confirmed", |row| row.confirmed == 14).await;
    assert_eq!((row.source_skipped, row.noticed), (0, None));
    pair.stop().await;
}

#[tokio::test]
async fn entries_that_a_bridge_wrote_are_not_missed() {
    let pair = Pair::start().await;
    pair.append(0..3);
    pair.connect().await;
    until_acknowledged(&pair, 2).await;
    pair.cut();
    until_link_down(&pair).await;
    let before = commands(&pair.journal.events(), "source", kind::CLOSE_CONSUMER);
    pair.source.with(|state| {
        for nth in 3..6 {
            let mut metadata = Vec::new();
            fields::put_bytes(&mut metadata, 1, b"bridge/bank/riskfuel/persistent://public/default/orders/1");
            fields::put_varint(&mut metadata, 2, nth);
            fields::put_varint(&mut metadata, 3, 1_700_000_000_000);
            state.log.push(((LEDGER, nth), stored(&metadata, b"an echo")));
        }
    });
    skip(&pair.source, 5);
    pair.append(6..8);
    pair.connect().await;
    until_acknowledged(&pair, 7).await;
    until_looked(&pair, before + 1).await;
    pair.append(8..9);
    until_acknowledged(&pair, 8).await;
    assert_eq!(pair.riskfuel.row(End::Source).unwrap().source_skipped, 0);
    pair.stop().await;
}

#[tokio::test]
async fn a_destination_that_forgot_is_told_of_once_and_gets_what_comes() {
    let pair = watched().await;
    pair.append(0..10);
    pair.connect().await;
    until_acknowledged(&pair, 9).await;
    let pair = restart(pair).await;
    pair.sink.with(|state| {
        state.pushed.clear();
        state.stored.clear();
    });
    pair.connect().await;
    let forgotten = |row: &PartitionStatus| row.destination_forgotten == 1;
    let row = pair.riskfuel.until(End::Source, "it is told", forgotten).await;
    let told = row.noticed.unwrap();
    assert_eq!(told.code, "destination_forgotten");
    assert!(told.detail.starts_with("5:9 was confirmed, and bank knows nothing"), "{}", told.detail);
    // The cursor no longer says that it was confirmed: neither the next session tells it again, nor the next process.
    let stale = |events: &[Event]| {
        let last = events.iter().rev().find_map(|event| match event {
            Event::Acked { properties, .. } => Some(properties.clone()),
            Event::Command(..) | Event::EarlyFlow | Event::Receipt { .. } | Event::Refused { .. } => None,
        });
        last.unwrap().iter().any(|(key, _)| key.starts_with("bridge.confirmed."))
    };
    pair.journal.until("the cursor says what holds", |events| !stale(events)).await;
    pair.source.order(Order::Reset);
    let pair = restart(pair).await;
    pair.connect().await;
    pair.append(10..20);
    until_acknowledged(&pair, 19).await;
    assert_eq!(arrived(&pair), ids(10..20));
    let row = pair.riskfuel.row(End::Source).unwrap();
    assert_eq!((row.destination_forgotten, row.source_skipped), (0, 0));
    pair.stop().await;
}

#[tokio::test]
async fn a_subscription_that_was_rewound_while_the_bridge_was_down_is_told_and_a_restart_is_none() {
    let (said, _listening) = Said::listen();
    let pair = watched().await;
    pair.append(0..10);
    pair.connect().await;
    until_acknowledged(&pair, 9).await;
    let pair = restart(pair).await;
    pair.connect().await;
    pair.append(10..25);
    until_acknowledged(&pair, 24).await;
    assert!(!said.text().contains("the subscription went back"));
    let pair = restart(pair).await;
    // As `reset-cursor` does.
    pair.source.with(|state| {
        state.mark_delete = None;
        state.properties.clear();
    });
    pair.connect().await;
    until_acknowledged(&pair, 24).await;
    pair.riskfuel.until(End::Source, "all came again", |row| row.duplicates == 25).await;
    let told = said.text();
    assert_eq!(told.matches("the subscription went back").count(), 1, "{told}");
    assert!(told.contains("bank has 5:0 already"), "{told}");
    assert_eq!(arrived(&pair), ids(0..25));
    pair.stop().await;
}

#[tokio::test]
async fn a_new_generation_and_breaks_of_all_kinds_are_no_forgetting() {
    let pair = Pair::start().await;
    pair.append(0..10);
    pair.connect().await;
    until_acknowledged(&pair, 9).await;
    for (nth, order) in [(10, Order::Reset), (11, Order::CloseConsumer)] {
        pair.source.order(order);
        pair.sink.order(Order::CloseProducer);
        pair.append(nth..nth + 1);
        until_acknowledged(&pair, nth).await;
    }
    pair.cut();
    pair.connect().await;
    pair.append(12..13);
    until_acknowledged(&pair, 12).await;
    let row = pair.riskfuel.row(End::Source).unwrap();
    assert_eq!((row.destination_forgotten, row.source_skipped), (0, 0));
    pair.stop().await;
}
