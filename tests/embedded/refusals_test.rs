//! What the broker refuses, closes, or lets wait: on raw sockets, as no decent client would ask for it.

use std::time::Instant;

use pulsar_bridge::embedded::Settings;
use pulsar_bridge::pulsar::fields;
use pulsar_bridge::pulsar::proto::{self, BaseCommand, ServerError, kind};

use crate::raw::Raw;
use crate::stage::{Stage, topic, until};

/// Runs blocking sockets beside the broker.
async fn beside<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.unwrap()
}

fn refusal(raw: &mut Raw) -> (ServerError, String) {
    loop {
        let command = raw.next().decode().unwrap();
        if let Some(error) = command.error {
            return (ServerError::try_from(error.error).unwrap(), error.message);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_has_no_part_in_is_refused_in_words() {
    let stage = Stage::start(Settings::default()).await;
    let mut raw = Raw::connect(&stage.url);
    beside(move || {
        raw.ask_for_producer("non-persistent://public/default/t", 1);
        assert_eq!(refusal(&mut raw).0, ServerError::NotAllowed);
        raw.ask_for_producer("persistent://one", 2);
        assert_eq!(refusal(&mut raw).0, ServerError::InvalidTopicName);
        let key_shared = proto::Subscribe {
            topic: "t".into(),
            subscription: "sub".into(),
            sub_type: 3,
            request_id: 3,
            ..Default::default()
        };
        raw.say(kind::SUBSCRIBE, |command| command.subscribe = Some(key_shared));
        assert!(refusal(&mut raw).1.contains("Key_Shared"));
        // CONSUMER_STATS, request 7, consumer 1; SEEK, consumer 1, request 8, time 0.
        raw.say_fields(25, &[0x08, 7, 0x20, 1]);
        assert_eq!(refusal(&mut raw).0, ServerError::NotAllowed);
        raw.say_fields(28, &[0x08, 1, 0x10, 8, 0x20, 0]);
        assert_eq!(refusal(&mut raw), (ServerError::Metadata, "Consumer not found".into()));
        raw.subscribe("t", 1);
        // SUBSCRIBE: topic t, subscription sub, Exclusive, consumer 2, request 9, not durable.
        raw.say_fields(4, b"\x0a\x01t\x12\x03sub\x18\x00\x20\x02\x28\x09\x40\x00");
        assert_eq!(refusal(&mut raw).0, ServerError::NotAllowed);
        // TC_CLIENT_CONNECT_REQUEST (62), request 7.
        raw.write(&[0, 0, 0, 11, 0, 0, 0, 7, 0x08, 62, 0xf2, 0x03, 2, 0x08, 7]);
        assert_eq!(refusal(&mut raw), (ServerError::NotAllowed, "this broker has no transactions".into()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_the_rules_are_closed() {
    let stage = Stage::start(Settings::default()).await;
    let url = stage.url.clone();
    beside(move || {
        let mut unconnected = Raw::dial(&url);
        unconnected.ask_for_producer("t", 1);
        assert!(unconnected.try_next().is_none());
        let mut unknown = Raw::connect(&url);
        unknown.send(9, 0, 10);
        assert!(unknown.try_next().is_none(), "a send for a producer that is not there");
        let mut long = Raw::connect(&url);
        long.write(&((5 << 20) + 10 * 1024 + 1_u32).to_be_bytes());
        assert!(long.try_next().is_none(), "a frame longer than any message");
        let mut noise = Raw::dial(&url);
        noise.write(b"GET / HTTP/1.1\r\n\r\n");
        assert!(noise.try_next().is_none());
        let mut stranger = Raw::dial(&url);
        stranger.write(&(16 * 1024 + 1_u32).to_be_bytes());
        assert!(stranger.try_next().is_none(), "a long frame before CONNECT");
        // Half a million message ids of two bytes each, which would be sixty when decoded.
        let mut many = Raw::connect(&url);
        many.say_fields(20, &[0x12, 0].repeat(520 * 1024));
        assert!(many.try_next().is_none(), "a command longer than any that is needed");
    })
    .await;
    until("nothing is held", || stage.stats.memory_held() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_taken_from_a_holder_that_does_not_answer() {
    let stage = Stage::start(Settings::default()).await;
    let url = stage.url.clone();
    beside(move || {
        let mut dead = Raw::connect(&url);
        dead.create_producer("t", 1);
        let mut heir = Raw::connect(&url);
        let began = Instant::now();
        heir.create_producer("t", 1);
        // `connectionLivenessCheckTimeoutMillis` is 5 s.
        assert!(began.elapsed().as_millis() >= 4900);
        dead.await_kind(kind::PING);
        assert!(dead.try_next().is_none());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_is_closed_while_it_waits_for_a_name_does_not_get_it() {
    let stage = Stage::start(Settings::default()).await;
    let url = stage.url.clone();
    beside(move || {
        let mut dead = Raw::connect(&url);
        dead.create_producer("t", 1);
        let mut gone = Raw::connect(&url);
        gone.ask_for_producer("t", 1);
        let close = proto::CloseProducer { producer_id: 1, request_id: 9 };
        gone.say(kind::CLOSE_PRODUCER, |command| command.close_producer = Some(close));
        assert_eq!(gone.await_kind(kind::SUCCESS).success.unwrap().request_id, 9);
        // After the dead one there is nobody.
        while dead.try_next().is_some() {}
        let mut heir = Raw::connect(&url);
        let began = Instant::now();
        heir.create_producer("t", 1);
        assert!(began.elapsed().as_millis() < 4900, "somebody had the name");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_that_wait_for_room_do_not_hold_up_what_frees_it() {
    let settings = Settings { memory_max: 8 << 20, max_message_size: 1 << 20, ..Settings::default() };
    let stage = Stage::start(settings).await;
    let mut raw = Raw::connect(&stage.url);
    let stats = stage.stats.clone();
    beside(move || {
        raw.create_producer("t", 1);
        raw.subscribe("t", 2);
        raw.permit(2, 1000);
        // 5.5 MiB, of which 4.6 fit; the rest waits, and with it on the same connection come the acknowledgements.
        for id in 0..88 {
            raw.send(1, id, 64 * 1024);
        }
        let (mut receipts, mut seen) = (0, 0);
        while receipts < 88 {
            let BaseCommand { message, send_receipt, .. } = raw.next().decode().unwrap();
            if let Some(receipt) = send_receipt {
                assert_eq!(receipt.sequence_id, receipts);
                receipts += 1;
            }
            if let Some(message) = message {
                assert_eq!(message.message_id.entry, seen);
                seen += 1;
                if receipts > 70 || seen == 70 {
                    assert!(receipts > 70 || stats.memory_parked() > 0, "nothing waits");
                    raw.ack(2, message.message_id);
                }
            }
        }
    })
    .await;
    until("nothing waits any more", || stage.stats.memory_parked() == 0).await;
    assert!(stage.stats.counts(&topic("t")).unwrap().entries_in == 88);
}

/// Stays below what the topic may hold, and gives the room back in the end.
fn fill(url: &str, topic: &str) -> Raw {
    let mut raw = Raw::connect(url);
    raw.subscribe(topic, 1);
    raw.create_producer(topic, 1);
    raw
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_topic_holds_up_nobody_who_sends_to_another() {
    let settings = Settings { memory_max: 8 << 20, max_message_size: 1 << 20, ..Settings::default() };
    let stage = Stage::start(settings).await;
    let url = stage.url.clone();
    let stats = stage.stats.clone();
    beside(move || {
        let mut raw = fill(&url, "full");
        raw.create_producer("other", 2);
        for id in 0..80 {
            raw.send(1, id, 64 * 1024);
        }
        raw.send(2, 0, 100);
        let receipt = loop {
            let receipt = raw.await_kind(kind::SEND_RECEIPT).send_receipt.unwrap();
            if receipt.producer_id == 2 {
                break receipt;
            }
        };
        assert_eq!(receipt.sequence_id, 0);
        assert!(stats.memory_parked() > 0, "the topic has room");
        // A close is answered when what was sent before it is stored.
        let close = proto::CloseProducer { producer_id: 1, request_id: 77 };
        raw.say(kind::CLOSE_PRODUCER, |command| command.close_producer = Some(close));
        raw.permit(1, 1000);
        let mut receipts = stats.counts(&topic("full")).unwrap().entries_in;
        loop {
            let command = raw.next().decode().unwrap();
            if let Some(message) = command.message {
                raw.ack(1, message.message_id);
            }
            receipts = receipts.max(command.send_receipt.map_or(0, |receipt| receipt.sequence_id + 1));
            if command.success.is_some_and(|success| success.request_id == 77) {
                break;
            }
        }
        assert_eq!(receipts, 80);
    })
    .await;
    assert_eq!(stage.stats.counts(&topic("full")).unwrap().entries_in, 80);
    until("nothing waits any more", || stage.stats.memory_parked() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_behind_more_sends_than_may_wait_are_read_all_the_same() {
    let settings = Settings { memory_max: 8 << 20, max_message_size: 1 << 20, ..Settings::default() };
    let stage = Stage::start(settings).await;
    let url = stage.url.clone();
    let stats = stage.stats.clone();
    beside(move || {
        let mut raw = fill(&url, "t");
        // 15 MiB, of which 4.6 fit and 1 may wait.
        let send_from = |raw: &mut Raw, first: u64| (first..240).for_each(|id| raw.send(1, id, 64 * 1024));
        send_from(&mut raw, 0);
        raw.permit(1, 1000);
        let (mut next, mut closed) = (0, 0);
        while next < 240 {
            let command = raw.next().decode().unwrap();
            if let Some(message) = command.message {
                raw.ack(1, message.message_id);
            }
            if let Some(receipt) = command.send_receipt {
                assert!(receipt.sequence_id <= next, "{} before {next}", receipt.sequence_id);
                next = next.max(receipt.sequence_id + 1);
            }
            // As clients do: the producer anew, and then everything without a receipt.
            if command.close_producer.is_some() {
                closed += 1;
                raw.ask_for_producer("t", 1);
            }
            if command.producer_success.is_some() {
                send_from(&mut raw, next);
            }
        }
        assert!((1..20).contains(&closed), "closed {closed} times");
        until_blocking(|| stats.backlog(&topic("t"), "sub") == Some(0), &mut raw);
    })
    .await;
    assert_eq!(stage.stats.counts(&topic("t")).unwrap().entries_in, 240);
    until("nothing waits any more", || stage.stats.memory_parked() == 0).await;
}

/// Acknowledges what comes until it holds.
fn until_blocking(holds: impl Fn() -> bool, raw: &mut Raw) {
    while !holds() {
        let Some(message) = raw.next().decode().unwrap().message else { continue };
        raw.ack(1, message.message_id);
    }
}

/// A reader's subscription, which is not durable.
fn read_latest(raw: &mut Raw) {
    let subscribe = proto::Subscribe {
        topic: "t".into(),
        subscription: "reader".into(),
        consumer_id: 5,
        request_id: 5,
        durable: Some(false),
        ..Default::default()
    };
    raw.say(kind::SUBSCRIBE, |command| command.subscribe = Some(subscribe));
    raw.await_kind(kind::SUCCESS);
    raw.permit(5, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_seeks_finds_its_cursor_again_and_one_that_leaves_does_not() {
    let stage = Stage::start(Settings { retain: true, ..Settings::default() }).await;
    let mut raw = Raw::connect(&stage.url);
    let stats = stage.stats.clone();
    beside(move || {
        raw.create_producer("t", 1);
        for id in 0..5 {
            raw.send(1, id, 10);
            raw.await_kind(kind::SEND_RECEIPT);
        }
        let entry = |raw: &mut Raw| raw.await_kind(kind::MESSAGE).message.unwrap().message_id.entry;
        // From the latest on; then everything since 1 ms after the third was written.
        read_latest(&mut raw);
        let seek = |raw: &mut Raw| {
            // Consumer 5, request 9.
            let mut seek = vec![0x08, 5, 0x10, 9];
            fields::put_varint(&mut seek, 4, 1_800_000_000_003);
            raw.say_fields(28, &seek);
            raw.await_kind(kind::SUCCESS);
        };
        seek(&mut raw);
        read_latest(&mut raw);
        assert_eq!((entry(&mut raw), entry(&mut raw)), (3, 4));
        seek(&mut raw);
        assert!(stats.backlog(&topic("t"), "reader").is_some());
        let close = proto::CloseConsumer { consumer_id: 5, request_id: 10 };
        raw.say(kind::CLOSE_CONSUMER, |command| command.close_consumer = Some(close));
        raw.await_kind(kind::SUCCESS);
        assert_eq!(stats.backlog(&topic("t"), "reader"), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_producer_fences_others_off_whatever_their_name() {
    let stage = Stage::start(Settings::default()).await;
    let mut raw = Raw::connect(&stage.url);
    beside(move || {
        // PRODUCER: topic t, producer and request id as given, access mode; no name.
        let ask = |raw: &mut Raw, id: u8, mode: u8| {
            raw.say_fields(5, &[0x0a, 1, b't', 0x10, id, 0x18, id, 0x50, mode]);
        };
        ask(&mut raw, 1, 1);
        raw.await_kind(kind::PRODUCER_SUCCESS);
        ask(&mut raw, 2, 1);
        assert_eq!(refusal(&mut raw).0, ServerError::ProducerFenced);
        ask(&mut raw, 3, 0);
        assert_eq!(refusal(&mut raw).0, ServerError::ProducerBusy);
        let close = proto::CloseProducer { producer_id: 1, request_id: 9 };
        raw.say(kind::CLOSE_PRODUCER, |command| command.close_producer = Some(close));
        raw.await_kind(kind::SUCCESS);
        ask(&mut raw, 4, 0);
        raw.await_kind(kind::PRODUCER_SUCCESS);
        ask(&mut raw, 5, 1);
        assert_eq!(refusal(&mut raw).0, ServerError::ProducerFenced);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seek_to_a_batch_that_is_gone_takes_nothing_off_the_next_entry() {
    let stage = Stage::start(Settings::default()).await;
    let mut raw = Raw::connect(&stage.url);
    let stats = stage.stats.clone();
    beside(move || {
        raw.subscribe("t", 1);
        raw.permit(1, 10);
        raw.create_producer("t", 1);
        (0..2).for_each(|id| raw.send(1, id, 10));
        let first = raw.await_kind(kind::MESSAGE).message.unwrap().message_id;
        raw.ack(1, first.clone());
        // Consumer 1, request 9, and the first entry with an ack set of 0: none of its messages is left.
        let (mut id, mut seek) = (Vec::new(), vec![0x08, 1, 0x10, 9]);
        fields::put_varint(&mut id, 1, first.ledger);
        fields::put_varint(&mut id, 2, first.entry);
        fields::put_varint(&mut id, 5, 0);
        fields::put_bytes(&mut seek, 3, &id);
        raw.say_fields(28, &seek);
        while raw.await_kind(kind::SUCCESS).success.unwrap().request_id != 9 {}
        assert_eq!(stats.backlog(&topic("t"), "sub"), Some(1));
    })
    .await;
}
