//! A peer that was let in and then does what it may not: each is refused by name, and costs nobody else anything.

use pulsar_bridge::policy::{Policy, TopicRules};
use pulsar_bridge::pulsar::fields;
use pulsar_bridge::pulsar::proto::kind;
use pulsar_bridge::relay::status::End;

use crate::broker::{Answer, Broker};
use crate::journal::{Event, Journal, commands};
use crate::pair::{LEDGER, Side, TOPIC, entry, id, metadata, receiving, stored};
use crate::peer::{
    LaneFrame, Open, Peer, Receipts, SchemaAnswer, Stop, declaration, entry_head, open, opening, readiness,
    unknown_kind,
};
use crate::said::Said;

async fn bank() -> (Side, Broker) {
    let broker = Broker::start("sink", Journal::new()).await;
    let side = Side::start("bank", &broker, Vec::new(), receiving(), true);
    (side, broker)
}

#[tokio::test]
async fn a_session_that_may_not_be_is_refused_before_the_broker_hears_of_it() {
    let topic = |text: &str| Open { topic: text.into(), ..open() };
    let cases = [
        topic("persistent://public/default/salaries"),
        topic("persistent://public/default/orders2"),
        topic("persistent://public/default/orders-partition-0/../salaries"),
        // The same topic in another spelling would be another producer name and another lock.
        topic("orders"),
        topic("public/default/orders"),
        // Ordinary topics for a broker, whatever they look like.
        topic("persistent://public/default/orders-partition-00"),
        topic("persistent://public/default/orders-partition--1"),
        topic("non-persistent://public/default/orders"),
        topic("persistent://public/default/orders\nforged log line"),
        topic(""),
        topic(&format!("persistent://public/default/{}", "x".repeat(60_000))),
        Open { route: "forged\nlog line".into(), ..open() },
        Open { route: "x".repeat(300), ..open() },
        Open { from: "another-bank".into(), ..open() },
        Open { from: "bank".into(), to: "riskfuel".into(), ..open() },
        Open { to: "another-bank".into(), ..open() },
    ];
    let (bank, broker) = bank().await;
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    for case in cases {
        let shown: String = case.topic.chars().take(80).collect();
        let what = format!("{} → {}, {shown:?}", case.from, case.to);
        peer.tell(opening(case), b"").await;
        let answer = peer.hear().await.unwrap();
        let code = answer.stop.map(|stop| stop.code);
        assert_eq!(code.as_deref(), Some("refused_by_policy"), "{what}");
    }
    assert_eq!(broker.with(|state| state.connections), 0, "the broker was troubled");
    assert_eq!(bank.board.rows(), []);
    // The lane still serves what may be.
    peer.tell(opening(open()), b"").await;
    assert!(peer.hear().await.unwrap().ready.is_some());
    bank.stop().await;
}

#[tokio::test]
async fn a_partition_that_the_topic_cannot_have_is_refused_before_the_broker_hears_of_it() {
    let (bank, broker) = bank().await;
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    for (topic, partitions) in [("-partition-0", 0), ("-partition-4", 4), ("", 4)] {
        let topic = format!("{TOPIC}{topic}");
        peer.tell(opening(Open { topic, partitions, ..open() }), b"").await;
        assert_eq!(peer.hear().await.unwrap().stop.unwrap().code, "partition_mismatch");
    }
    assert_eq!(broker.with(|state| state.connections), 0);
    bank.stop().await;
}

#[tokio::test]
async fn a_partition_has_one_row_however_often_its_route_is_renamed() {
    let (bank, _broker) = bank().await;
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    for session in 0..40 {
        let route = format!("name-{session}");
        let renamed = Open { route, session, ..open() };
        peer.tell(opening(renamed), b"").await;
        while peer.hear().await.unwrap().ready.is_none_or(|ready| ready.session != session) {}
        assert_eq!(bank.board.rows().len(), 1);
    }
    bank.stop().await;
}

#[tokio::test]
async fn a_changed_declaration_waits_for_what_it_replaces() {
    let journal = Journal::new();
    let broker = Broker::start("source", journal.clone()).await;
    let policy = Policy { send: TopicRules::parse(&[TOPIC.into()]).unwrap(), ..Policy::default() };
    let riskfuel = Side::start("riskfuel", &broker, Vec::new(), policy, true);
    let said = riskfuel.give_link("bank").await;
    let mut bank = Peer::meet(&riskfuel, "bank").await;
    said.send(declaration("bank", 1)).await.unwrap();
    let first = bank.hear().await.unwrap().open.unwrap();
    bank.tell(readiness(&first), b"").await;
    broker.with(|state| state.log.push(((LEDGER, 0), entry(0))));
    let sent = bank.hear().await.unwrap().entry.unwrap();
    said.send(declaration("bank", 2)).await.unwrap();
    said.send(declaration("bank", 3)).await.unwrap();
    // Another peer's route goes all its way; by then this one would have gone as far.
    let mut partner = Peer::meet(&riskfuel, "partner").await;
    let partner_said = riskfuel.give_link("partner").await;
    partner_said.send(declaration("partner", 1)).await.unwrap();
    assert!(partner.hear().await.unwrap().open.is_some());
    let marked = vec![sent.sequence_id << 1];
    let receipts = Receipts { number: first.number, session: first.session, marked };
    bank.tell(LaneFrame { receipts: Some(receipts), ..LaneFrame::default() }, b"").await;
    let last = loop {
        if let Some(open) = bank.hear().await.unwrap().open {
            break open;
        }
    };
    // The second was over before its turn came.
    assert_eq!((first.generation, last.generation), (1, 3));
    let events = journal.events();
    let is_acknowledged = |event: &Event| matches!(event, Event::Acked { at: (LEDGER, 0), .. });
    let acknowledged = events.iter().position(is_acknowledged).unwrap();
    // A subscription's creation and its consumer's, for each peer.
    assert_eq!(commands(&events[..acknowledged], "source", kind::SUBSCRIBE), 4);
    drop((bank, partner));
    riskfuel.stop().await;
}

#[tokio::test]
async fn more_sessions_than_a_lane_carries_end_it() {
    let (bank, broker) = bank().await;
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    // All for one partition, and their answers are never read: each would wait to be told that it is superseded.
    let mut session = 0;
    while !peer.ended.is_cancelled() {
        let next = Open { session, ..open() };
        peer.tell(opening(next), b"").await;
        session += 1;
        assert!(session < 30_000, "the lane lives on");
    }
    assert!(broker.with(|state| state.connections) < 200);
    bank.stop().await;
}

#[tokio::test]
async fn control_that_is_longer_than_any_honest_one_ends_the_lane() {
    let (bank, _broker) = bank().await;
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    let long = Open { route: "x".repeat(70_000), ..open() };
    peer.tell(opening(long), b"").await;
    peer.until_ended().await;
    bank.stop().await;
}

#[tokio::test]
async fn a_schema_that_nobody_asked_for_ends_the_lane() {
    let (bank, _broker) = bank().await;
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    peer.tell(opening(open()), b"").await;
    assert!(peer.hear().await.unwrap().ready.is_some());
    let unasked =
        LaneFrame { schema_answer: Some(SchemaAnswer { number: 1, session: 9 }), ..LaneFrame::default() };
    peer.tell(unasked, b"").await;
    peer.until_ended().await;
    bank.stop().await;
}

#[tokio::test]
async fn another_peers_policy_is_nobodys() {
    let (bank, broker) = bank().await;
    let mut peer = Peer::meet(&bank, "stranger").await;
    peer.tell(opening(open()), b"").await;
    assert_eq!(peer.hear().await.unwrap().stop.unwrap().code, "refused_by_policy");
    assert_eq!(broker.with(|state| state.connections), 0);
    bank.stop().await;
}

#[tokio::test]
async fn frames_that_no_version_sends_end_the_lane_by_name() {
    let announced = |len: u32| [len.to_be_bytes().as_slice(), b"\0\0\0\x02"].concat();
    let cases: [(&str, Vec<u8>); 4] = [
        ("2147483647 bytes was announced", announced(0x7fff_ffff)),
        ("4294967295 bytes was announced", announced(u32::MAX)),
        ("unknown kind of relay frame", unknown_kind().to_vec()),
        ("could not be decoded", b"\0\0\0\x06\0\0\0\x02\x0a\x7f".to_vec()),
    ];
    for (name, bytes) in cases {
        let (said, listening) = Said::listen();
        let (bank, broker) = bank().await;
        let mut peer = Peer::meet(&bank, "riskfuel").await;
        peer.write(&bytes).await;
        peer.until_ended().await;
        assert_eq!(peer.hear().await, None, "the stream stays open");
        bank.stop().await;
        drop(listening);
        let said = said.text();
        assert!(said.contains(name) && said.contains("peer=riskfuel"), "{name} in {said}");
        assert_eq!(broker.with(|state| state.connections), 0);
    }
}

#[tokio::test]
async fn more_entries_than_the_window_end_the_lane() {
    // Small ones by their number, large ones by their bytes.
    for payload_len in [10, 1 << 20] {
        let (bank, broker) = bank().await;
        broker.with(|state| state.script = Box::new(|_| Answer::StoreLater));
        let mut peer = Peer::meet(&bank, "riskfuel").await;
        peer.tell(opening(open()), b"").await;
        let ready = peer.hear().await.unwrap().ready.unwrap();
        let entry = stored(&metadata(0), &vec![7; payload_len]);
        let allowed = u64::from(ready.window_entries).min(ready.window_bytes.div_ceil(entry.len() as u64));
        for nth in 0..allowed {
            assert!(peer.tell(entry_head(id(nth)), &entry).await);
        }
        broker.until_stored(allowed as usize).await;
        assert!(!peer.ended.is_cancelled(), "ended within the window of {allowed}");
        for nth in allowed..allowed + 2 {
            peer.tell(entry_head(id(nth)), &entry).await;
        }
        peer.until_ended().await;
        assert!(broker.with(|state| state.stored.len()) <= allowed as usize + 1);
        bank.stop().await;
    }
}

#[tokio::test]
async fn entries_that_wait_for_a_schema_that_never_comes_stay_within_the_window() {
    let (bank, _broker) = bank().await;
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    peer.tell(opening(open()), b"").await;
    let ready = peer.hear().await.unwrap().ready.unwrap();
    let mut metadata = metadata(0);
    fields::put_bytes(&mut metadata, 16, &7_u64.to_be_bytes());
    let entry = stored(&metadata, &vec![7; 1 << 20]);
    let allowed = ready.window_bytes.div_ceil(entry.len() as u64);
    let mut taken = 0;
    while taken <= allowed + 2 && !peer.ended.is_cancelled() {
        peer.tell(entry_head(id(taken)), &entry).await;
        taken += 1;
    }
    peer.until_ended().await;
    assert!(peer.hear().await.unwrap().schema_ask.is_some());
    bank.stop().await;
}

#[tokio::test]
async fn frames_of_a_session_that_is_over_are_dropped() {
    let (bank, broker) = bank().await;
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    peer.tell(opening(open()), b"").await;
    assert!(peer.hear().await.unwrap().ready.is_some());
    let newer = Open { session: 10, ..open() };
    peer.tell(opening(newer), b"").await;
    peer.tell(entry_head(id(0)), &entry(0)).await;
    let answer = loop {
        let said = peer.hear().await.unwrap();
        if let Some(ready) = said.ready {
            break ready;
        }
        assert!(said.receipts.is_none(), "an entry of the older session was published");
    };
    assert_eq!((answer.session, answer.last_sequence_id), (10, -1));
    assert_eq!(broker.with(|state| state.stored.len()), 0);
    bank.stop().await;
}

#[tokio::test]
async fn an_entry_that_is_none_stops_the_session_and_nothing_else() {
    let (bank, broker) = bank().await;
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    peer.tell(opening(open()), b"").await;
    assert!(peer.hear().await.unwrap().ready.is_some());
    peer.tell(entry_head(id(0)), b"\x0e\x01no entry").await;
    let stop = peer.hear().await.unwrap().stop.unwrap();
    let due = Stop { number: 1, session: 9, code: "entry_malformed".into() };
    assert_eq!(stop, due);
    assert_eq!(broker.with(|state| state.stored.len()), 0);
    assert!(bank.row(End::Sink).is_some_and(|row| row.topic == TOPIC));
    peer.tell(opening(Open { session: 10, ..open() }), b"").await;
    assert!(peer.hear().await.unwrap().ready.is_some(), "the lane is of no more use");
    bank.stop().await;
}

#[tokio::test]
async fn answers_to_nobody_are_dropped() {
    let (bank, _broker) = bank().await;
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    let receipts = crate::peer::Receipts { number: 77, session: 5, marked: vec![1, 2, 3] };
    let stray = LaneFrame { receipts: Some(receipts), ..LaneFrame::default() };
    for _ in 0..3000 {
        assert!(peer.tell(stray.clone(), b"").await);
    }
    peer.tell(opening(open()), b"").await;
    assert!(peer.hear().await.unwrap().ready.is_some());
    bank.stop().await;
}
