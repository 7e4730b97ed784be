//! What a route that joins waits for, and what its compressed batches hold.

use std::time::Duration;

use pulsar_bridge::pulsar::entry::Entry;
use pulsar_bridge::pulsar::packing::Compression;
use pulsar_bridge::pulsar::proto::kind;
use pulsar_bridge::relay::batching::Limits;

use crate::broker::{Answer, Order};
use crate::journal::{acks, commands};
use crate::pair::{LEDGER, Pair};

/// One entry is on its way, and nothing is confirmed.
async fn busy(limits: Limits) -> Pair {
    let pair = Pair::start_as(true, Some(limits)).await;
    pair.sink.with(|state| state.script = Box::new(|_| Answer::StoreLater));
    pair.append(0..1);
    pair.connect().await;
    pair.journal.until_command("sink", kind::SEND, 1).await;
    pair
}

#[tokio::test]
async fn what_comes_behind_something_on_its_way_waits_for_company_until_that_is_confirmed() {
    let pair = busy(Limits { delay: Duration::from_secs(3600), ..Limits::DEFAULT }).await;
    for nth in 1..6 {
        pair.append(nth..nth + 1);
        // Answered behind what was delivered before: there was time to send it.
        let pongs = commands(&pair.journal.events(), "source", kind::PONG);
        pair.source.order(Order::Ping);
        pair.journal.until_command("source", kind::PONG, pongs + 1).await;
    }
    assert_eq!(commands(&pair.journal.events(), "sink", kind::SEND), 1);
    pair.sink.with(|state| state.script = Box::new(|_| Answer::Store));
    pair.sink.release(|_| true);
    pair.finish_joined().await;
}

#[tokio::test]
async fn a_wait_for_company_ends_though_nothing_is_confirmed() {
    let pair = busy(Limits { delay: Duration::from_millis(5), ..Limits::DEFAULT }).await;
    pair.append(1..2);
    pair.journal.until_command("sink", kind::SEND, 2).await;
    pair.sink.with(|state| state.script = Box::new(|_| Answer::Store));
    pair.sink.release(|_| true);
    pair.finish_joined().await;
}

#[tokio::test]
async fn a_compressed_batch_arrives_with_all_its_messages() {
    let pair = Pair::start_as(true, Some(Limits { compression: Compression::Zstd, ..Limits::DEFAULT })).await;
    pair.append(0..500);
    pair.connect().await;
    let last = Some((LEDGER, 499));
    pair.journal.until("everything is acknowledged", |events| acks(events).last().copied() == last).await;
    let stored = pair.sink.with(|state| state.stored.clone());
    let mut codecs = stored.into_iter().map(|(_, stored)| Entry::parse(stored).unwrap().facts().compression);
    assert!(codecs.any(|codec| codec == 3));
    pair.finish_joined().await;
}
