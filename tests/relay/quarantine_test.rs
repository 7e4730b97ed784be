//! A route with a quarantine goes on behind what the destination refuses: the marker first, then the record, once, then
//! the successors, in order; and never with anything that the broker would take for a duplicate.

use pulsar_bridge::policy::Policy;
use pulsar_bridge::pulsar::entry::Entry;
use pulsar_bridge::pulsar::proto::{ServerError, kind};
use pulsar_bridge::pulsar::topic::TopicName;
use pulsar_bridge::relay::batching::Limits;
use pulsar_bridge::relay::context::RouteSpec;
use pulsar_bridge::relay::record::Record;
use pulsar_bridge::relay::status::{End, PartitionStatus};

use crate::broker::{Answer, Broker};
use crate::journal::{Event, Journal, acks, commands};
use crate::pair::{
    LEDGER, Pair, QUARANTINE, Side, TOPIC, entry, id, metadata, quarantine_receiving, receiving, route,
    stored as stored_entry,
};
use crate::peer::{Open, Peer, open, opening, readiness};
use crate::said::Said;

const NOT_THIS: Answer = Answer::Refuse(ServerError::NotAllowed, "not this one");

/// The destination refuses these, however often they come.
fn refuse(pair: &Pair, refused: &'static [u64]) {
    pair.sink.with(|state| {
        state.script = Box::new(|sent| match refused.iter().any(|nth| id(*nth) == sent) {
            true => NOT_THIS,
            false => Answer::Store,
        });
    });
}

async fn until_all_acknowledged(pair: &Pair) {
    let last = pair.log().last().copied();
    pair.journal.until("everything is acknowledged", |events| acks(events).last().copied() == last).await;
}

fn ids(entries: impl IntoIterator<Item = u64>) -> Vec<u64> {
    entries.into_iter().map(id).collect()
}

fn stored(pair: &Pair) -> Vec<u64> {
    pair.sink.with(|state| state.stored.iter().map(|(id, _)| *id).collect())
}

fn quarantined(pair: &Pair) -> Vec<u64> {
    pair.sink.with(|state| state.quarantined.iter().map(|(id, _)| *id).collect())
}

fn marker(pair: &Pair) -> Vec<(String, u64)> {
    pair.source.with(|state| crate::journal::marker(&state.properties))
}

/// Everything but the refused is at the destination, once and in order; these are in the quarantine, once; nothing is
/// marked any more.
async fn finish(pair: Pair, refused: &[u64]) {
    until_all_acknowledged(&pair).await;
    pair.journal.hold_the_law(&pair.log());
    let due = pair.log().into_iter().map(|(_, nth)| nth).filter(|nth| !refused.contains(nth));
    assert_eq!(stored(&pair), ids(due));
    assert_eq!(quarantined(&pair), ids(refused.iter().copied()));
    assert_eq!(marker(&pair), []);
    pair.stop().await;
}

#[tokio::test]
async fn a_refused_entry_goes_to_the_quarantine_and_its_successors_arrive_in_order() {
    for error in [ServerError::Checksum, ServerError::NotAllowed, ServerError::Metadata] {
        let pair = Pair::quarantining(None).await;
        pair.append(0..10);
        pair.sink.with(|state| {
            state.script = Box::new(move |sent| match sent == id(4) {
                true => Answer::Refuse(error, "not this one"),
                false => Answer::Store,
            });
        });
        pair.connect().await;
        until_all_acknowledged(&pair).await;
        let counted = |row: &PartitionStatus| row.quarantined == 1;
        pair.riskfuel.until(End::Source, "the source counts it", counted).await;
        pair.bank.until(End::Sink, "the sink counts it", counted).await;
        let (_, message) = pair.sink.with(|state| state.quarantined[0].clone());
        let message = Entry::parse(message).unwrap();
        assert!(message.checksum_holds());
        assert_eq!(message.facts().sequence_id, id(4));
        let name = format!("bridge/riskfuel/bank/{TOPIC}/1/quarantine");
        assert_eq!(message.facts().producer_name.as_deref(), Some(name.as_bytes()));
        let (record, held) = Record::read(&message).unwrap();
        assert_eq!(held.stored(), &entry(4));
        let said = (&*record.reason, &*record.route, record.position.to_string(), record.messages);
        assert_eq!(said, ("poison", "orders", format!("{LEDGER}:4"), 1));
        assert_eq!((record.topic.to_string(), record.destination.to_string()), (TOPIC.into(), TOPIC.into()));
        pair.append(10..20);
        finish(pair, &[4]).await;
    }
}

#[tokio::test]
async fn the_marker_stands_before_the_record_is_written() {
    let pair = Pair::quarantining(None).await;
    pair.append(0..3);
    refuse(&pair, &[0]);
    pair.connect().await;
    until_all_acknowledged(&pair).await;
    let events = pair.journal.events();
    let marked = |event: &Event| matches!(event, Event::Acked { properties, .. } if !crate::journal::marker(properties).is_empty());
    let recorded = Event::Receipt { sequence_id: id(0), duplicate: false };
    let at = |wanted: &dyn Fn(&Event) -> bool| events.iter().position(wanted).unwrap();
    assert!(at(&marked) < at(&|event| *event == recorded), "{events:#?}");
    finish(pair, &[0]).await;
}

#[tokio::test]
async fn all_that_one_window_refuses_goes_at_once() {
    let pair = Pair::quarantining(None).await;
    pair.append(0..50);
    refuse(&pair, &[0, 3, 4, 20, 49]);
    pair.connect().await;
    until_all_acknowledged(&pair).await;
    let sessions = commands(&pair.journal.events(), "sink", kind::PRODUCER);
    // Two producers in each session with a quarantine; how much one window holds is the scheduler's choice.
    assert!(sessions <= 2 * 5 + 1, "{sessions} producers for five refused entries");
    finish(pair, &[0, 3, 4, 20, 49]).await;
}

#[tokio::test]
async fn the_record_is_written_once_whatever_is_cut() {
    let pair = Pair::quarantining(None).await;
    pair.append(0..10);
    refuse(&pair, &[4]);
    // It is written, and the word of it does not come through; twice.
    pair.sink.with(|state| state.quarantine_script = Box::new(|_| Answer::StoreLater));
    pair.connect().await;
    until_quarantined(&pair, 1).await;
    pair.cut();
    let waits = |row: &PartitionStatus| row.reason.as_deref() == Some("link_down");
    pair.riskfuel.until(End::Source, "the link is missed", waits).await;
    assert_ne!(marker(&pair), []);
    pair.connect().await;
    finish(pair, &[4]).await;
}

async fn until_quarantined(pair: &Pair, count: usize) {
    let what = format!("{count} in the quarantine");
    let look = async {
        while quarantined(pair).len() < count {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(crate::journal::PATIENCE, look).await.expect(&what);
}

#[tokio::test]
async fn a_restart_that_finds_the_marker_goes_on_with_the_record_also_when_the_cause_is_gone() {
    // What lies at the cursor is lost when the broker crashes (it is written once a second at most).
    for crashes in [false, true] {
        let pair = refused_and_stopped(&[4]).await;
        assert_ne!(marker(&pair), []);
        if crashes {
            pair.source.with(|state| state.properties.clear());
        }
        finish(started_again(pair).await, &[4]).await;
    }
}

#[tokio::test]
async fn what_an_operator_skips_leaves_the_other_refused_entries_marked() {
    let pair = refused_and_stopped(&[4, 8]).await;
    pair.source.with(|state| {
        state.mark_delete = Some((LEDGER, 4));
        state.properties.clear();
    });
    let pair = started_again(pair).await;
    until_all_acknowledged(&pair).await;
    assert_eq!((stored(&pair), quarantined(&pair)), (ids([0, 1, 2, 3, 5, 6, 7, 9]), ids([8])));
    pair.stop().await;
}

/// These of ten entries are refused and marked, and both bridges stopped before the quarantine took them.
async fn refused_and_stopped(refused: &'static [u64]) -> Pair {
    let pair = Pair::quarantining(None).await;
    pair.append(0..10);
    refuse(&pair, refused);
    pair.sink.with(|state| {
        let busy = Answer::Refuse(ServerError::ServiceNotReady, "not now");
        state.quarantine_script = Box::new(move |_| busy);
    });
    pair.connect().await;
    let tried = |events: &[Event]| events.contains(&Event::Refused { sequence_id: id(refused[0]) });
    pair.journal.until("the quarantine was tried", tried).await;
    let waits = |row: &PartitionStatus| row.reason.as_deref() == Some("destination_retry");
    pair.riskfuel.until(End::Source, "it is tried again", waits).await;
    pair.cut();
    pair.riskfuel.begin_stop();
    pair.bank.begin_stop();
    pair
}

/// Both begin anew, and the destination would now take what it refused: as a duplicate, because of its successors.
async fn started_again(pair: Pair) -> Pair {
    let Pair { riskfuel, bank, source, sink, journal, lane } = pair;
    riskfuel.stop().await;
    bank.stop().await;
    let riskfuel = Pair::quarantining_source(&source, None).await;
    let bank = Side::start("bank", &sink, Vec::new(), quarantine_receiving(), true);
    let pair = Pair { riskfuel, bank, source, sink, journal, lane };
    refuse(&pair, &[]);
    pair.sink.with(|state| state.quarantine_script = Box::new(|_| Answer::Store));
    pair.connect().await;
    pair
}

#[tokio::test]
async fn an_acknowledgement_before_the_refused_entry_keeps_the_marker() {
    let pair = Pair::quarantining(None).await;
    pair.append(0..10);
    refuse(&pair, &[4]);
    pair.sink.with(|state| state.quarantine_script = Box::new(|_| Answer::StoreLater));
    pair.connect().await;
    until_quarantined(&pair, 1).await;
    let marked = marker(&pair);
    pair.cut();
    let waits = |row: &PartitionStatus| row.reason.as_deref() == Some("link_down");
    pair.riskfuel.until(End::Source, "the link is missed", waits).await;
    // The source broker forgot a second of acknowledgements, as a crash of it does; the record's receipt is still out.
    pair.source.with(|state| state.mark_delete = Some((LEDGER, 0)));
    let name = format!("bridge/riskfuel/bank/{TOPIC}/1/quarantine");
    pair.sink.with(|state| {
        state.pushed.remove(&name);
        state.quarantined.clear();
    });
    let before = acks(&pair.journal.events()).len();
    pair.connect().await;
    let again = |events: &[Event]| acks(events).get(before..).is_some_and(|acks| acks.contains(&(LEDGER, 3)));
    pair.journal.until("its predecessors are acknowledged again", again).await;
    assert_eq!(marker(&pair), marked);
    pair.sink.release(|_| true);
    finish(pair, &[4]).await;
}

#[tokio::test]
async fn a_joined_batch_with_successors_at_the_destination_goes_to_the_quarantine_entry_by_entry() {
    let limits = Limits { messages: 5, bytes: 1 << 17, ..Limits::DEFAULT };
    let pair = Pair::quarantining(Some(limits)).await;
    // Larger than any batch of the others, so that none of those goes alone.
    let large = stored_entry(&metadata(0), &[b'x'; 1000]);
    pair.source.with(|state| state.log.push(((LEDGER, 0), large)));
    let mut later = Some(Answer::RefuseLater(ServerError::NotAllowed, "too large together"));
    pair.sink.with(|state| state.joined_script = Box::new(move || later.take()));
    pair.connect().await;
    until_all_acknowledged(&pair).await;
    pair.append(1..60);
    // When a batch is joined is the scheduler's choice; the refusal waits until something has followed it.
    let followed = |events: &[Event]| {
        let first = pair.sink.with(|state| state.held.first().map(|held| held.sequence_id));
        let is_behind = |event: &Event| matches!(event, Event::Receipt { sequence_id, .. } if first.is_some_and(|first| *sequence_id > first));
        events.iter().any(is_behind)
    };
    pair.journal.until("something followed the refused batch", followed).await;
    pair.sink.release(|_| true);
    until_all_acknowledged(&pair).await;
    let aside = quarantined(&pair);
    assert!((2..=5).contains(&aside.len()), "{aside:?}");
    assert!(aside.windows(2).all(|two| two[0] + 1 == two[1]), "{aside:?}");
    let arrived = arrived(&pair);
    let due: Vec<u64> = (1..60).filter(|nth| !aside.contains(&id(*nth))).collect();
    assert_eq!(arrived, due);
    assert_eq!(marker(&pair), []);
    pair.stop().await;
}

#[tokio::test]
async fn a_joined_batch_that_went_alone_goes_again_smaller_and_at_last_singly_and_is_not_set_aside() {
    let limits = Limits { messages: 1000, bytes: 1 << 13, ..Limits::DEFAULT };
    let pair = Pair::quarantining(Some(limits)).await;
    pair.append(0..200);
    pair.sink.with(|state| state.joined_script = Box::new(|| Some(NOT_THIS)));
    pair.connect().await;
    let refusals =
        |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Refused { .. })).count() >= 2;
    pair.journal.until("smaller batches were refused as well", refusals).await;
    until_all_acknowledged(&pair).await;
    assert_eq!(arrived(&pair), (0..200).collect::<Vec<u64>>());
    assert_eq!(quarantined(&pair).len(), 0);
    assert_eq!(marker(&pair), []);
    pair.stop().await;
}

/// What the destination's topic holds, by the payloads.
fn arrived(pair: &Pair) -> Vec<u64> {
    let mut arrived = Vec::new();
    for (_, stored) in pair.sink.with(|state| state.stored.clone()) {
        let stored = Entry::parse(stored).unwrap();
        let text = String::from_utf8_lossy(stored.payload()).into_owned();
        arrived.extend(text.match_indices("order ").map(|(at, _)| {
            let digits = text[at + 6..].chars().take_while(char::is_ascii_digit);
            digits.collect::<String>().parse::<u64>().unwrap()
        }));
    }
    arrived
}

#[tokio::test]
async fn what_the_quarantine_refuses_as_well_stops_the_route_with_the_marker() {
    let pair = Pair::quarantining(None).await;
    pair.append(0..10);
    refuse(&pair, &[4]);
    pair.sink.with(|state| state.quarantine_script = Box::new(|_| NOT_THIS));
    pair.connect().await;
    pair.until_stopped("poison").await;
    assert_ne!(marker(&pair), []);
    assert!(acks(&pair.journal.events()).iter().all(|at| *at <= (LEDGER, 3)));
    assert_eq!(quarantined(&pair).len(), 0);
    pair.stop().await;
}

#[tokio::test]
async fn without_an_admin_api_at_the_source_a_refused_entry_stops_the_route() {
    let quarantine = Some(TopicName::parse(QUARANTINE).unwrap());
    let journal = Journal::new();
    let (source, sink) =
        (Broker::start("source", journal.clone()).await, Broker::start("sink", journal.clone()).await);
    let declared = vec![RouteSpec { quarantine, ..route() }];
    let riskfuel = Side::start("riskfuel", &source, declared, Policy::default(), true);
    let bank = Side::start("bank", &sink, Vec::new(), quarantine_receiving(), true);
    let pair = Pair { journal, source, sink, riskfuel, bank, lane: std::sync::Mutex::new(None) };
    pair.append(0..10);
    refuse(&pair, &[4]);
    pair.connect().await;
    pair.until_stopped("poison").await;
    assert_eq!(quarantined(&pair).len(), 0);
    pair.stop().await;
}

#[tokio::test]
async fn more_than_may_go_at_once_stops_the_route() {
    let pair = Pair::quarantining(None).await;
    pair.append(0..1000);
    pair.sink.with(|state| {
        // Nothing is refused before all are there.
        state.script = Box::new(|_| Answer::RefuseLater(ServerError::NotAllowed, "none of these"));
    });
    pair.connect().await;
    pair.journal.until_command("sink", kind::SEND, 1000).await;
    pair.sink.release(|_| true);
    pair.until_stopped("poison").await;
    assert_eq!(quarantined(&pair).len(), 0);
    // Without names: a restart does not go on either.
    assert_eq!(marker(&pair).len(), 3);
    pair.stop().await;
}

#[tokio::test]
async fn a_peer_without_quarantine_is_not_sent_what_was_refused() {
    let journal = Journal::new();
    let source = Broker::start("source", journal.clone()).await;
    let marker = [
        ("generation".to_owned(), 1),
        ("ledger".into(), LEDGER),
        ("entry".into(), 0),
        (id(0).to_string(), id(0)),
    ];
    let marker = marker.into_iter().map(|(key, value)| (format!("bridge.hole.{key}"), value)).collect();
    source.with(|state| {
        state.properties = marker;
        state.log.push(((LEDGER, 0), entry(0)));
    });
    let riskfuel = Pair::quarantining_source(&source, None).await;
    let mut bank = Peer::meet(&riskfuel, "bank").await;
    let opened = bank.hear().await.unwrap().open.unwrap();
    assert_eq!((opened.quarantine.as_deref(), &opened.refused[..]), (Some(QUARANTINE), &[id(0), id(0)][..]));
    // An earlier version does not say that it quarantines.
    bank.tell(readiness(&opened), b"").await;
    let said = bank.hear().await.unwrap();
    assert!(said.entry.is_none() && said.stop.is_some(), "{said:?}");
    let stopped = |row: &PartitionStatus| row.reason.as_deref() == Some("hole_marker");
    riskfuel.until(End::Source, "it stays stopped", stopped).await;
    riskfuel.stop().await;
}

#[tokio::test]
async fn a_quarantine_that_policy_does_not_allow_is_refused_by_name() {
    let (said, _listening) = Said::listen();
    let broker = Broker::start("sink", Journal::new()).await;
    let bank = Side::start("bank", &broker, Vec::new(), receiving(), true);
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    peer.tell(opening(Open { quarantine: Some(QUARANTINE.into()), ..open() }), b"").await;
    assert_eq!(peer.hear().await.unwrap().stop.unwrap().code, "refused_by_policy");
    assert_eq!(broker.with(|state| state.connections), 0, "the broker was troubled");
    bank.stop().await;
    let log = said.text();
    assert!(log.contains(&format!("add {QUARANTINE} to `policy.receive` here")), "{log}");
}

#[tokio::test]
async fn a_quarantine_or_a_list_that_cannot_be_is_refused_before_the_broker_hears_of_it() {
    let quarantine = |text: &str| Open { quarantine: Some(text.into()), ..open() };
    let refused = |ids: &[u64]| Open { refused: ids.to_vec(), ..quarantine(QUARANTINE) };
    let many: Vec<u64> = (0..400).collect();
    let cases = [
        quarantine("persistent://public/default/salaries"),
        quarantine("refused"),
        quarantine(&format!("{QUARANTINE}-partition-0")),
        quarantine("non-persistent://public/default/refused"),
        quarantine("persistent://public/default/refused\nforged"),
        quarantine(TOPIC),
        refused(&[1]),
        refused(&[2, 1]),
        refused(&[1, 1 << 63]),
        refused(&many),
        Open { refused: vec![1, 1], ..open() },
    ];
    let broker = Broker::start("sink", Journal::new()).await;
    let bank = Side::start("bank", &broker, Vec::new(), quarantine_receiving(), true);
    let mut peer = Peer::meet(&bank, "riskfuel").await;
    for case in cases {
        let what = format!("{:?}, {} ids", case.quarantine, case.refused.len());
        peer.tell(opening(case), b"").await;
        let code = peer.hear().await.unwrap().stop.map(|stop| stop.code);
        assert_eq!(code.as_deref(), Some("refused_by_policy"), "{what}");
    }
    assert_eq!(broker.with(|state| state.connections), 0, "the broker was troubled");
    peer.tell(opening(quarantine(QUARANTINE)), b"").await;
    assert!(peer.hear().await.unwrap().ready.is_some());
    bank.stop().await;
}
