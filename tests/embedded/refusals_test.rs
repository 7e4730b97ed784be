//! What the broker refuses, closes, or lets wait: on raw sockets, as no decent client would ask for it.

use std::time::Instant;

use pulsar_bridge::embedded::Settings;
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
