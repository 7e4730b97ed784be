//! What may be acknowledged when the destination or the source answers strangely.

use std::collections::BTreeSet;

use pulsar_bridge::pulsar::proto::{ServerError, kind};
use pulsar_bridge::relay::status::{End, PartitionStatus};

use crate::broker::Answer;
use crate::journal::{Event, acks, commands, receipts};
use crate::pair::{LEDGER, Pair, entry, id, metadata, stored};

#[tokio::test]
async fn entries_arrive_in_order_once_and_unchanged() {
    let pair = Pair::start().await;
    pair.append(0..500);
    pair.connect().await;
    pair.finish().await;
}

#[tokio::test]
async fn an_entry_that_the_source_delivers_twice_in_a_row_is_sent_once() {
    let pair = Pair::start().await;
    pair.append(0..3);
    pair.source.with(|state| state.log.push(((LEDGER, 2), entry(2))));
    pair.append(3..6);
    pair.connect().await;
    let is_over = |events: &[Event]| acks(events).last() == Some(&(LEDGER, 5));
    pair.journal.until("the last entry's acknowledgement", is_over).await;
    let sent = pair.sink.with(|state| state.stored.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert_eq!(sent, (0..6).map(id).collect::<Vec<_>>());
    pair.stop().await;
}

#[tokio::test]
async fn a_ledger_beyond_its_bits_stops_the_route_with_what_came_before_it_delivered() {
    let pair = Pair::start().await;
    pair.append(0..3);
    pair.source.with(|state| state.log.push(((1 << 35, 0), entry(3))));
    pair.connect().await;
    pair.until_stopped("position_overflow").await;
    pair.journal.hold_the_law(&pair.log());
    assert!(acks(&pair.journal.events()).iter().all(|at| *at <= (LEDGER, 2)));
    pair.stop().await;
}

#[tokio::test]
async fn metadata_that_is_cut_short_stops_the_route_and_is_never_acknowledged() {
    let whole = metadata(3);
    let cut = stored(&whole[..whole.len() - 1], b"");
    let beyond = stored(&whole, b"").slice(..12);
    for malformed in [cut, beyond] {
        let pair = Pair::start().await;
        pair.append(0..3);
        pair.source.with(|state| state.log.push(((LEDGER, 3), malformed)));
        pair.append(4..6);
        pair.connect().await;
        let row = pair.until_stopped("entry_malformed").await;
        assert!(row.remedy.is_some());
        pair.journal.hold_the_law(&pair.log());
        assert!(acks(&pair.journal.events()).iter().all(|at| *at <= (LEDGER, 2)));
        pair.stop().await;
    }
}

#[tokio::test]
async fn a_refused_entry_stops_the_route_behind_its_predecessors_and_leaves_the_marker() {
    for error in [ServerError::Checksum, ServerError::NotAllowed, ServerError::Metadata] {
        let pair = Pair::start().await;
        pair.append(0..10);
        pair.sink.with(|state| {
            state.script = Box::new(move |sent| match sent == id(4) {
                true => Answer::RefuseLater(error, "not this one"),
                false => Answer::StoreLater,
            });
        });
        pair.connect().await;
        pair.journal.until_command("sink", kind::SEND, 10).await;
        // A refusal is judged before anything is stored, so it comes ahead of its predecessors' receipts.
        pair.sink.release(|held| held.sequence_id == id(4));
        pair.sink.release(|_| true);
        pair.until_stopped("poison").await;
        let events = pair.journal.events();
        assert_eq!(receipts(&events), 9, "the successors' receipts were not collected");
        pair.journal.hold_the_law(&pair.log());
        let marker = ["generation", "ledger", "entry"].map(|key| format!("bridge.hole.{key}"));
        let mut marker: BTreeSet<_> = marker.into_iter().zip([1, LEDGER, 4]).collect();
        // And everything that was refused, by first and last id.
        marker.insert((format!("bridge.hole.{}", id(4)), id(4)));
        let marked = events.iter().find_map(|event| match event {
            Event::Acked { at, properties } => {
                Some((*at, crate::journal::marker(properties))).filter(|(_, marker)| !marker.is_empty())
            }
            Event::Command(..) | Event::EarlyFlow | Event::Receipt { .. } | Event::Refused { .. } => None,
        });
        let (at, properties) = marked.expect("no hole marker was left");
        assert_eq!((at, properties.into_iter().collect()), ((LEDGER, 3), marker));
        assert_eq!(acks(&events).iter().max(), Some(&(LEDGER, 3)));
        pair.stop().await;
    }
}

#[tokio::test]
async fn a_refused_first_entry_is_marked_at_the_place_where_the_subscription_stood() {
    let pair = Pair::start().await;
    pair.append(0..3);
    pair.source.with(|state| state.mark_delete = Some((LEDGER, 0)));
    pair.sink
        .with(|state| state.script = Box::new(|_| Answer::Refuse(ServerError::Checksum, "not this one")));
    pair.connect().await;
    pair.until_stopped("poison").await;
    assert_eq!(acks(&pair.journal.events()), [(LEDGER, 0)]);
    pair.stop().await;
}

#[tokio::test]
async fn what_the_broker_cannot_determine_yet_is_sent_again_and_not_acknowledged_early() {
    let pair = Pair::start().await;
    pair.append(0..10);
    pair.sink.with(|state| {
        let doubt =
            Answer::Refuse(ServerError::Persistence, "Cannot determine whether the message is a duplicate");
        let mut tried = 0;
        // What comes behind the doubtful one is as doubtful.
        state.script = Box::new(move |sent| {
            tried += usize::from(sent == id(4));
            if sent >= id(4) && tried <= 3 { doubt } else { Answer::Store }
        });
    });
    pair.connect().await;
    pair.journal.until("three doubts", |events| refused(events, id(4)) == 3).await;
    assert!(acks(&pair.journal.events()).iter().all(|at| *at <= (LEDGER, 3)));
    pair.finish().await;
}

fn refused(events: &[Event], id: u64) -> usize {
    events.iter().filter(|event| **event == Event::Refused { sequence_id: id }).count()
}

#[tokio::test]
async fn a_duplicate_that_this_session_was_the_first_to_send_reopens_it_without_an_acknowledgement() {
    let pair = Pair::start().await;
    pair.append(0..6);
    pair.sink.with(|state| {
        state.script = Box::new(|sent| match sent == id(2) {
            true => Answer::Anothers,
            false => Answer::StoreLater,
        });
    });
    pair.connect().await;
    // The duplicate is the only receipt of the first session: nothing of it may count.
    pair.journal.until_command("sink", kind::PRODUCER, 2).await;
    let before = pair.journal.events();
    let reopened = before.iter().rposition(|event| *event == Event::Command("sink", kind::PRODUCER));
    assert_eq!(acks(&before[..reopened.unwrap()]), []);
    pair.sink.with(|state| state.script = Box::new(|_| Answer::Store));
    pair.finish().await;
}

#[tokio::test]
async fn source_ids_that_went_back_stop_the_route_before_any_acknowledgement() {
    // The destination has had ids from a life of the source topic in which they were higher.
    let pair = Pair::start().await;
    pair.append(0..6);
    let name = format!("bridge/riskfuel/bank/{}/1", crate::pair::TOPIC);
    pair.sink.with(|state| state.pushed.insert(name, (LEDGER + 9) as i64 * (1 << 28)));
    pair.connect().await;
    let row = pair.until_stopped("duplicate_run").await;
    assert!(row.remedy.is_some_and(|remedy| remedy.contains("generation")));
    assert_eq!(acks(&pair.journal.events()), []);
    assert_eq!(pair.sink.with(|state| state.stored.len()), 0);
    pair.stop().await;
}

#[tokio::test]
async fn a_source_that_lacks_the_entry_the_destination_had_last_stops_the_route() {
    // The topic reaches beyond that id, so only reading shows that another entry never bore it.
    let pair = Pair::start().await;
    pair.append(0..6);
    pair.source.with(|state| state.log.push(((LEDGER + 9, 5), entry(7))));
    let name = format!("bridge/riskfuel/bank/{}/1", crate::pair::TOPIC);
    let last = (LEDGER + 9) as i64 * (1 << 28) + 3;
    pair.sink.with(|state| state.pushed.insert(name, last));
    pair.connect().await;
    pair.until_stopped("duplicate_run").await;
    assert_eq!(acks(&pair.journal.events()), []);
    assert_eq!(pair.sink.with(|state| state.stored.len()), 0);
    pair.stop().await;
}

#[tokio::test]
async fn what_expires_while_catching_up_is_no_sign_that_ids_went_back() {
    let pair = Pair::start().await;
    pair.append(0..3);
    pair.append(9..11);
    pair.source.with(|state| state.expires = Some((LEDGER, 8)));
    let name = format!("bridge/riskfuel/bank/{}/1", crate::pair::TOPIC);
    pair.sink.with(|state| state.pushed.insert(name, id(5) as i64));
    pair.connect().await;
    pair.journal.until("the rest is relayed", |events| acks(events).last() == Some(&(LEDGER, 10))).await;
    let stored: Vec<u64> = pair.sink.with(|state| state.stored.iter().map(|(id, _)| *id).collect());
    assert_eq!(stored, [id(9), id(10)]);
    assert!(commands(&pair.journal.events(), "source", kind::SUBSCRIBE) >= 2);
    pair.stop().await;
}

#[tokio::test]
async fn a_destination_that_takes_and_never_answers_is_seen_as_a_stall() {
    let pair = Pair::start().await;
    pair.append(0..5);
    pair.sink.with(|state| state.script = Box::new(|_| Answer::StoreLater));
    pair.connect().await;
    let stalls = |row: &PartitionStatus| row.in_flight == 5 && row.stalled_ms >= 1000;
    pair.riskfuel.until(End::Source, "the source stalls", stalls).await;
    pair.bank.until(End::Sink, "the sink stalls", stalls).await;
    pair.sink.release(|_| true);
    let settled = |row: &PartitionStatus| row.in_flight == 0 && row.confirmed == 5 && row.stalled_ms < 1000;
    pair.riskfuel.until(End::Source, "it is over", settled).await;
    pair.bank.until(End::Sink, "it is over", settled).await;
    pair.finish().await;
}

#[tokio::test]
async fn what_the_destination_has_already_is_acknowledged_without_being_stored_again() {
    let pair = Pair::start().await;
    pair.append(0..8);
    pair.connect().await;
    pair.journal.until("all stored", |events| receipts(events) == 8).await;
    pair.journal.until("all acknowledged", |events| acks(events).last() == Some(&(LEDGER, 7))).await;
    // The source broker forgot a second of acknowledgements, as a crash of it does.
    pair.source.with(|state| state.mark_delete = Some((LEDGER, 2)));
    pair.source.order(crate::broker::Order::Reset);
    pair.journal.until("five duplicates", |events| receipts(events) == 13).await;
    pair.riskfuel.until(End::Source, "duplicates are counted", |row| row.duplicates == 5).await;
    assert!(commands(&pair.journal.events(), "source", kind::SUBSCRIBE) >= 2);
    pair.append(8..12);
    pair.finish().await;
}
