//! The order of words with a broker: permits after the subscription stands, an active flag whenever it comes.

use std::sync::Arc;

use pulsar_bridge::pulsar::connection::{Connection, ConsumerEvent, Credentials};
use pulsar_bridge::pulsar::proto::kind;
use pulsar_bridge::pulsar::subscription::{SubscribeOptions, Subscription};
use pulsar_bridge::pulsar::topic::TopicName;
use pulsar_bridge::pulsar::transport::{Address, Dialer};

use crate::broker::{Broker, Manner, Order};
use crate::journal::{Event, Journal, commands};
use crate::pair::{LEDGER, Pair, TOPIC, entry};

#[tokio::test]
async fn permits_never_precede_the_subscriptions_success() {
    let pair = Pair::start().await;
    pair.source.with(|state| state.manner = Manner::Slow);
    pair.append(0..50);
    pair.connect().await;
    pair.journal.until_command("source", kind::FLOW, 1).await;
    let events = pair.journal.events();
    assert!(!events.contains(&Event::EarlyFlow), "a real broker would drop it, and send nothing for ever");
    // The broker answers a subscription only after a PONG, so it would have read an earlier FLOW.
    assert!(commands(&events, "source", kind::PONG) >= 1);
    pair.finish().await;
}

#[tokio::test]
async fn an_active_flag_may_come_early_and_twice() {
    let pair = Pair::start_as(false, None).await;
    pair.source.with(|state| state.manner = Manner::Talkative);
    pair.append(0..50);
    pair.connect().await;
    pair.finish().await;
}

#[tokio::test]
async fn an_active_flag_that_comes_after_the_success_is_waited_for() {
    let pair = Pair::start_as(false, None).await;
    pair.source.with(|state| state.manner = Manner::Slow);
    pair.append(0..50);
    pair.connect().await;
    pair.finish().await;
}

#[tokio::test]
async fn a_consumer_that_reads_nothing_for_minutes_still_says_that_it_lives() {
    let journal = Journal::new();
    let broker = Broker::start("source", journal.clone()).await;
    broker.with(|state| state.log.extend((0..10).map(|nth| ((LEDGER, nth), entry(nth)))));
    let address = Address::parse(&broker.url()).unwrap();
    let credentials: Credentials = Arc::new(|| Ok(None));
    let dialer = Dialer::default();
    let connection = Connection::open(&dialer, &address, &credentials, None).await.unwrap();
    let options = SubscribeOptions {
        topic: TopicName::parse(TOPIC).unwrap(),
        subscription: "slow".into(),
        consumer_name: "slow".into(),
        metadata: Vec::new(),
        exclusive: true,
        earliest: true,
        priority: 0,
        // The first entry fills it; the socket is not read further.
        create_topic: false,
        inbox_bytes: 1,
    };
    let mut subscription = Subscription::open(connection.clone(), &options).await.unwrap();
    journal.until_command("source", kind::FLOW, 1).await;
    broker.order(Order::Ping);
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    for beat in 2..12 {
        journal.until_command("source", kind::PING, beat).await;
    }
    assert!(began.elapsed().as_secs() >= 120);
    tokio::time::resume();
    assert!(!connection.is_closed());
    assert_eq!(commands(&journal.events(), "source", kind::PONG), 0, "the socket was read after all");
    for nth in 0..10 {
        let Some(ConsumerEvent::Entry(delivery)) = subscription.next().await else {
            panic!("no entry {nth}");
        };
        assert_eq!((delivery.id.ledger, delivery.id.entry), (LEDGER, nth));
    }
    journal.until_command("source", kind::PONG, 1).await;
}
