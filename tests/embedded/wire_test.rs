//! The bridge's own client: entries, positions, deduplication, failover, partitions.

use pulsar_bridge::embedded::Settings;
use pulsar_bridge::pulsar::connection::{ConnectionError, ConsumerEvent, ProducerEvent};
use pulsar_bridge::pulsar::proto::ServerError;
use pulsar_bridge::pulsar::publisher::{Outbound, Publisher};

use crate::stage::{Stage, next_entry, next_event, options, outbound, receipt, send, topic, until};

#[tokio::test]
async fn entries_come_out_as_they_went_in_and_acknowledged_ones_do_not_come_again() {
    let stage = Stage::start(Settings::default()).await;
    // First, as the bridge makes no topic by subscribing to it.
    let mut publisher = stage.publisher("t", "p").await;
    let mut subscription = stage.subscription("t", "c", 0).await;
    for id in 0..20 {
        assert_eq!(send(&mut publisher, outbound("p", id, format!("m{id}"))).await, receipt(id, false));
    }
    let mut last = None;
    for id in 0..20 {
        let (position, text) = next_entry(&mut subscription).await;
        assert_eq!((position.entry, text), (id, format!("m{id}")));
        if id == 11 {
            last = Some(position);
        }
    }
    assert_eq!(stage.stats.backlog(&topic("t"), "sub"), Some(20));
    let answer = subscription.acknowledge_surely(last.unwrap(), Vec::new()).await.unwrap();
    answer.await.unwrap();
    assert_eq!(stage.stats.backlog(&topic("t"), "sub"), Some(8));
    subscription.close().await;
    let mut again = stage.subscription("t", "c", 0).await;
    for id in 12..20 {
        assert_eq!(next_entry(&mut again).await.1, format!("m{id}"));
    }
    let counts = stage.stats.counts(&topic("t")).unwrap();
    assert_eq!((counts.entries_in, counts.messages_in, counts.entries_out), (20, 20, 28));
}

#[tokio::test]
async fn what_everybody_has_acknowledged_leaves_the_memory_and_unread_data_without_readers_never_enters_it() {
    let stage = Stage::start(Settings::default()).await;
    let mut publisher = stage.publisher("t", "p").await;
    send(&mut publisher, outbound("p", 0, vec![0; 1 << 20])).await;
    assert_eq!(stage.stats.memory_held(), 0);
    let mut subscription = stage.subscription("t", "c", 0).await;
    send(&mut publisher, outbound("p", 1, vec![0; 1 << 20])).await;
    assert!(stage.stats.memory_held() > 1 << 20);
    let (position, _) = next_entry(&mut subscription).await;
    assert_eq!(position.entry, 1);
    subscription.acknowledge(position, Vec::new()).await.unwrap();
    until("the memory is free", || stage.stats.memory_held() == 0).await;
}

#[tokio::test]
async fn repeated_ids_are_confirmed_as_duplicates_also_for_a_new_session() {
    let stage = Stage::start(Settings { retain: true, ..Settings::default() }).await;
    let mut publisher = stage.publisher("t", "p").await;
    assert_eq!(publisher.last_sequence_id(), -1);
    for (id, duplicate) in [(5, false), (7, false), (5, true), (6, true), (7, true), (8, false)] {
        assert_eq!(send(&mut publisher, outbound("p", id, "x")).await, receipt(id, duplicate), "{id}");
    }
    let batch = Outbound { highest_sequence_id: Some(12), ..outbound("p", 9, "x") };
    assert_eq!(send(&mut publisher, batch.clone()).await, receipt(9, false));
    publisher.close().await;
    let mut publisher = stage.publisher("t", "p").await;
    assert_eq!(publisher.last_sequence_id(), 12);
    assert_eq!(send(&mut publisher, batch).await, receipt(9, true));
    let straddling = Outbound { highest_sequence_id: Some(15), ..outbound("p", 11, "x") };
    assert_eq!(send(&mut publisher, straddling).await, receipt(11, true));
    assert_eq!(send(&mut publisher, outbound("p", 13, "x")).await, receipt(13, false));
    let counts = stage.stats.counts(&topic("t")).unwrap();
    assert_eq!((counts.entries_in, counts.duplicates), (5, 5));
}

#[tokio::test]
async fn a_damaged_entry_is_refused_and_its_successors_are_stored() {
    let stage = Stage::start(Settings::default()).await;
    let mut publisher = stage.publisher("t", "p").await;
    let damaged = Outbound { payload: "damaged".into(), ..outbound("p", 3, "x") };
    let refused = ProducerEvent::SendError {
        sequence_id: 3,
        error: ServerError::Checksum,
        message: "Checksum failed on the broker".into(),
    };
    assert_eq!(send(&mut publisher, damaged).await, refused);
    assert_eq!(send(&mut publisher, outbound("p", 4, "x")).await, receipt(4, false));
    // The same trap as with a real broker: sent again, the refused one counts as known.
    assert_eq!(send(&mut publisher, outbound("p", 3, "x")).await, receipt(3, true));
}

#[tokio::test]
async fn a_producer_name_is_a_lock_while_its_holder_lives() {
    let stage = Stage::start(Settings::default()).await;
    let first = stage.publisher("t", "p").await;
    let connection = stage.connection("t").await;
    let refused = Publisher::create(connection.clone(), &topic("t"), "p").await.err().unwrap();
    assert_eq!(refused.server_error(), Some(ServerError::ProducerBusy));
    first.close().await;
    Publisher::create(connection, &topic("t"), "p").await.unwrap();
}

#[tokio::test]
async fn a_failover_consumer_takes_over_and_is_told_so() {
    let stage = Stage::start(Settings::default()).await;
    let mut publisher = stage.publisher("t", "p").await;
    let mut first = stage.subscription("t", "m", 0).await;
    let mut second = stage.subscription("t", "a", 1).await;
    assert!(matches!(next_event(&mut first).await, ConsumerEvent::Active(true)));
    assert!(matches!(next_event(&mut second).await, ConsumerEvent::Active(false)));
    for id in 0..3 {
        send(&mut publisher, outbound("p", id, format!("m{id}"))).await;
    }
    let (position, _) = next_entry(&mut first).await;
    first.acknowledge(position, Vec::new()).await.unwrap();
    until("one is acknowledged", || stage.stats.backlog(&topic("t"), "sub") == Some(2)).await;
    first.connection().close();
    assert!(matches!(next_event(&mut second).await, ConsumerEvent::Active(true)));
    assert_eq!(next_entry(&mut second).await.1, "m1");
    let end = second.last_message_id().await.unwrap().await.unwrap();
    assert_eq!((end.last_message_id.entry, end.consumer_mark_delete_position.unwrap().entry), (2, 0));
}

#[tokio::test]
async fn a_failover_consumer_that_another_s_coming_makes_active_is_given_the_backlog() {
    let settings = Settings { retain: true, ..Settings::default() };
    let stage = Stage::with_partitions(settings, &[("parts", 2)]).await;
    let name = "parts-partition-1";
    let mut publisher = stage.publisher(name, "p").await;
    for id in 0..3 {
        send(&mut publisher, outbound("p", id, format!("m{id}"))).await;
    }
    // Of equals, the one whose turn by name is the partition's number is active: b, then c, then b again.
    let mut b = stage.subscription(name, "b", 0).await;
    assert_eq!(next_entry(&mut b).await.1, "m0");
    let mut c = stage.subscription(name, "c", 0).await;
    assert_eq!(next_entry(&mut c).await.1, "m0");
    let _a = stage.subscription(name, "a", 0).await;
    while next_entry(&mut b).await.1 != "m0" {}
    assert_eq!(next_entry(&mut b).await.1, "m1");
}

#[tokio::test]
async fn an_exclusive_subscription_refuses_a_second_consumer() {
    let stage = Stage::start(Settings::default()).await;
    let exclusive =
        pulsar_bridge::pulsar::subscription::SubscribeOptions { exclusive: true, ..options("t", "c", 0) };
    // Nobody is to make topics by subscribing, unless they want to.
    let _publisher = stage.publisher("t", "p").await;
    let open = async || {
        let connection = stage.connection("t").await;
        pulsar_bridge::pulsar::subscription::Subscription::open(connection, &exclusive).await
    };
    let _first = open().await.unwrap();
    let refused: ConnectionError = open().await.err().unwrap();
    assert_eq!(refused.server_error(), Some(ServerError::ConsumerBusy));
}

#[tokio::test]
async fn partitions_are_told_and_looking_creates_nothing() {
    let stage = Stage::with_partitions(Settings::default(), &[("parts", 3)]).await;
    let client = stage.client();
    assert_eq!(client.partitions(&topic("parts")).await.unwrap(), Some(3));
    assert_eq!(client.partitions(&topic("nowhere")).await.unwrap(), None);
    let mut publisher = stage.publisher("parts-partition-2", "p").await;
    assert_eq!(send(&mut publisher, outbound("p", 0, "x")).await, receipt(0, false));
    assert_eq!(client.partitions(&topic("parts-partition-2")).await.unwrap(), Some(0));
    let connection = stage.connection("parts").await;
    for wrong in ["parts", "parts-partition-3"] {
        let refused = Publisher::create(connection.clone(), &topic(wrong), "p").await.err().unwrap();
        assert_eq!(refused.server_error(), Some(ServerError::NotAllowed), "{wrong}");
    }
    assert_eq!(stage.stats.topics(), 3);
}
