//! What lies in a quarantine is brought back once, each entry under a name of its own; what is refused again stays.

use std::sync::Arc;

use pulsar_bridge::pulsar::client::Client;
use pulsar_bridge::pulsar::entry::Entry;
use pulsar_bridge::pulsar::proto::ServerError;
use pulsar_bridge::pulsar::topic::TopicName;
use pulsar_bridge::pulsar::transport::{Address, Dialer};
use pulsar_bridge::relay::record::Record;
use pulsar_bridge::relay::replay::{Outcome, Replay, Summary, Told};
use pulsar_bridge::relay::window::Position;

use crate::broker::{Answer, Broker};
use crate::journal::Journal;
use crate::pair::{LEDGER, QUARANTINE, TOPIC, entry, id, stored};

/// Records of these entries, as a sink writes them.
async fn with_records(entries: &[u64]) -> Broker {
    let broker = Broker::start("bank", Journal::new()).await;
    for (nth, number) in entries.iter().enumerate() {
        let metadata = record(*number).metadata(id(*number), 1_700_000_000_000);
        broker.with(|state| state.log.push(((77, nth as u64), stored(&metadata, &entry(*number)))));
    }
    broker
}

fn record(number: u64) -> Record {
    Record {
        reason: "poison".into(),
        from: "riskfuel".into(),
        to: "bank".into(),
        route: "orders".into(),
        topic: TopicName::parse(TOPIC).unwrap(),
        destination: TopicName::parse(TOPIC).unwrap(),
        position: Position { ledger: LEDGER, entry: number },
        generation: 1,
        messages: 1,
        publish_time: 1_700_000_000_000,
        schema_version: None,
    }
}

fn replay(broker: &Broker) -> Replay<'static> {
    Replay {
        client: Client::new(
            vec![Address::parse(&broker.url()).unwrap()],
            Dialer::default(),
            Arc::new(|| Ok(None)),
        ),
        quarantine: TopicName::parse(QUARANTINE).unwrap(),
        route: "orders".into(),
        from: "riskfuel".into(),
        to: "bank".into(),
        allows: Box::new(|record| record.destination.to_string() == TOPIC),
        position: None,
        limit: u64::MAX,
        dry_run: false,
    }
}

/// What each record's entry became.
async fn run(replay: &Replay<'_>) -> (Vec<(u64, Outcome)>, Summary) {
    let mut told = Vec::new();
    let summary = replay.run(|news| match news {
        Told::Record { record, outcome, .. } => told.push((record.position.entry, outcome.clone())),
        Told::Other(problem) => panic!("{problem}"),
    });
    let summary = summary.await.unwrap();
    (told, summary)
}

#[tokio::test]
async fn a_record_is_brought_back_once_also_when_a_later_one_went_first() {
    let broker = with_records(&[4, 7]).await;
    broker.with(|state| {
        state.script = Box::new(|sent| match sent == id(4) {
            true => Answer::Refuse(ServerError::NotAllowed, "still too large"),
            false => Answer::Store,
        });
    });
    let (told, summary) = run(&replay(&broker)).await;
    let again = Outcome::RefusedAgain("still too large".into());
    assert_eq!(told, [(4, again), (7, Outcome::Replayed)]);
    assert_eq!(summary, Summary { records: 2, replayed: 1, refused: 1 });
    broker.with(|state| state.script = Box::new(|_| Answer::Store));
    let (told, _) = run(&replay(&broker)).await;
    assert_eq!(told, [(4, Outcome::Replayed)]);
    let (told, summary) = run(&replay(&broker)).await;
    assert_eq!((told, summary), (Vec::new(), Summary::default()));
    let arrived = broker.with(|state| state.stored.clone());
    assert_eq!(arrived.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(7), id(4)]);
    for ((_, arrived), nth) in arrived.into_iter().zip([7, 4]) {
        let (arrived, sent) = (Entry::parse(arrived).unwrap(), Entry::parse(entry(nth)).unwrap());
        assert!(arrived.checksum_holds());
        assert_eq!(arrived.payload(), sent.payload());
        let name = format!("bridge/riskfuel/bank/{TOPIC}/1/replay/{LEDGER}:{nth}");
        assert_eq!(arrived.facts().producer_name.as_deref(), Some(name.as_bytes()));
    }
}

#[tokio::test]
async fn what_was_replayed_and_not_acknowledged_is_not_stored_again() {
    let broker = with_records(&[4]).await;
    run(&replay(&broker)).await;
    broker.with(|state| state.acked.clear());
    assert_eq!(run(&replay(&broker)).await.0, [(4, Outcome::There)]);
    assert_eq!(broker.with(|state| state.stored.len()), 1);
}

#[tokio::test]
async fn a_list_changes_nothing_and_a_choice_leaves_the_others() {
    let broker = with_records(&[4, 5, 6]).await;
    let (told, _) = run(&Replay { dry_run: true, ..replay(&broker) }).await;
    assert_eq!(told, [4, 5, 6].map(|nth| (nth, Outcome::Listed)));
    assert_eq!(broker.with(|state| (state.stored.len(), state.acked.len())), (0, 0));
    let position = Some(Position { ledger: LEDGER, entry: 5 });
    assert_eq!(run(&Replay { position, ..replay(&broker) }).await.0, [(5, Outcome::Replayed)]);
    assert_eq!(run(&Replay { limit: 1, ..replay(&broker) }).await.0, [(4, Outcome::Replayed)]);
    assert_eq!(run(&replay(&broker)).await.0, [(6, Outcome::Replayed)]);
}

#[tokio::test]
async fn a_record_cannot_name_a_topic_that_its_route_may_not_write() {
    let broker = with_records(&[]).await;
    let forged = Record { destination: TopicName::parse("public/default/salaries").unwrap(), ..record(4) };
    let metadata = forged.metadata(id(4), 1_700_000_000_000);
    let others = Record { route: "others".into(), ..record(5) }.metadata(id(5), 1_700_000_000_000);
    broker.with(|state| {
        state.log.push(((77, 0), stored(&metadata, &entry(4))));
        state.log.push(((77, 1), stored(&others, &entry(5))));
    });
    let (told, summary) = run(&replay(&broker)).await;
    assert_eq!(told, [(4, Outcome::NotAllowed)]);
    assert_eq!(summary, Summary { records: 1, replayed: 0, refused: 1 });
    assert_eq!(broker.with(|state| (state.stored.len(), state.acked.len())), (0, 0));
}

#[tokio::test]
async fn a_broker_that_never_says_where_the_topic_ends_was_not_read_to_its_end() {
    let broker = with_records(&[4]).await;
    broker.with(|state| state.mute = true);
    // Once it was told, nothing more is to come over the socket: only the clock has to go on.
    let outcome = replay(&broker).run(|_| tokio::time::pause()).await;
    assert!(outcome.is_err_and(|error| error.to_string().contains("where the quarantine topic ends")));
}
