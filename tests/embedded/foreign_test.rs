//! A foreign client, the `pulsar` crate: it connects, looks up, batches and shares by rules of its own.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use pulsar::consumer::InitialPosition;
use pulsar::{Consumer, ConsumerOptions, ProducerOptions, Pulsar, SubType, TokioExecutor};
use pulsar_bridge::embedded::Settings;

use crate::stage::{PATIENCE, Stage, topic, until};

async fn pulsar(stage: &Stage) -> Pulsar<TokioExecutor> {
    Pulsar::builder(&stage.url, TokioExecutor).build().await.unwrap()
}

async fn consumer(pulsar: &Pulsar<TokioExecutor>, sub_type: SubType) -> Consumer<Vec<u8>, TokioExecutor> {
    let options = ConsumerOptions::default().with_initial_position(InitialPosition::Earliest);
    pulsar
        .consumer()
        .with_topic("persistent://public/default/t")
        .with_subscription("sub")
        .with_subscription_type(sub_type)
        .with_options(options)
        .build()
        .await
        .unwrap()
}

async fn publish(pulsar: &Pulsar<TokioExecutor>, options: ProducerOptions, range: std::ops::Range<u32>) {
    let is_batching = options.batch_size.is_some();
    let mut producer = pulsar
        .producer()
        .with_topic("persistent://public/default/t")
        .with_options(options)
        .build()
        .await
        .unwrap();
    let mut sent = Vec::new();
    for number in range {
        sent.push(producer.send_non_blocking(number.to_string().into_bytes()).await.unwrap());
    }
    if is_batching {
        producer.send_batch().await.unwrap();
    }
    for receipt in sent {
        receipt.await.unwrap();
    }
}

#[tokio::test]
async fn single_messages_and_batches_arrive_in_order() {
    let stage = Stage::start(Settings::default()).await;
    let pulsar = pulsar(&stage).await;
    let mut consumer = consumer(&pulsar, SubType::Exclusive).await;
    publish(&pulsar, ProducerOptions::default(), 0..50).await;
    let batched = ProducerOptions { batch_size: Some(10), ..ProducerOptions::default() };
    publish(&pulsar, batched, 50..150).await;
    for number in 0..150_u32 {
        let message = tokio::time::timeout(PATIENCE, consumer.try_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(message.payload.data, number.to_string().into_bytes());
        consumer.ack(&message).await.unwrap();
    }
    until("all is acknowledged", || stage.stats.backlog(&topic("t"), "sub") == Some(0)).await;
    let counts = stage.stats.counts(&topic("t")).unwrap();
    assert_eq!((counts.entries_in, counts.messages_in), (60, 150));
}

#[tokio::test]
async fn two_that_share_have_everything_between_them_and_what_one_leaves_goes_to_the_other() {
    let stage = Stage::start(Settings::default()).await;
    let (leaving, staying) = (pulsar(&stage).await, pulsar(&stage).await);
    let mut first = consumer(&leaving, SubType::Shared).await;
    let mut second = consumer(&staying, SubType::Shared).await;
    publish(&staying, ProducerOptions::default(), 0..100).await;
    let mut shares = [BTreeSet::new(), BTreeSet::new()];
    while shares[0].len() + shares[1].len() < 100 {
        let (from, message) = tokio::select! {
            message = first.try_next() => (0, message.unwrap().unwrap()),
            message = second.try_next() => (1, message.unwrap().unwrap()),
            () = tokio::time::sleep(PATIENCE) => panic!("{shares:?}"),
        };
        assert!(shares[from].insert(message.payload.data.clone()));
    }
    assert!(shares[0].is_disjoint(&shares[1]) && shares.iter().all(|share| share.len() > 20));
    drop((first, leaving));
    for _ in 0..shares[0].len() {
        let message = tokio::time::timeout(PATIENCE, second.try_next()).await.unwrap().unwrap().unwrap();
        assert!(shares[0].remove(&message.payload.data));
    }
}
