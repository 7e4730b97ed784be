//! Healthy means progress: a route that idles or waits for what is healthy to wait for does not stall, and one that
//! leaves something unconfirmed does, at whatever moment somebody looks.

use std::time::Duration;

use pulsar_bridge::relay::status::{Board, End, PartitionStatus, State};

use crate::broker::Answer;
use crate::journal::acks;
use crate::pair::{LEDGER, Pair};

const BEAT: Duration = Duration::from_millis(700);

/// Nothing is written into the row while this passes.
async fn look_after_a_while(board: &Board, end: End) -> PartitionStatus {
    tokio::time::sleep(BEAT).await;
    board.rows().into_iter().find(|row| row.end == end).unwrap()
}

#[tokio::test]
async fn an_idle_route_does_not_stall() {
    let pair = Pair::start().await;
    pair.append(0..5);
    pair.connect().await;
    pair.journal.until("all acknowledged", |events| acks(events).last() == Some(&(LEDGER, 4))).await;
    for (side, end) in [(&pair.riskfuel, End::Source), (&pair.bank, End::Sink)] {
        let row = look_after_a_while(&side.board, end).await;
        assert_eq!((row.state, row.stalled_ms), (State::Running, 0), "{row:#?}");
    }
    pair.finish().await;
}

#[tokio::test]
async fn a_route_whose_link_is_down_stalls_for_as_long_as_it_is() {
    let pair = Pair::start().await;
    pair.append(0..5);
    pair.sink.with(|state| state.script = Box::new(|_| Answer::StoreLater));
    pair.connect().await;
    pair.riskfuel.until(End::Source, "all are on their way", |row| row.in_flight == 5).await;
    pair.cut();
    let down = |row: &PartitionStatus| row.reason.as_deref() == Some("link_down");
    let before = pair.riskfuel.until(End::Source, "the link is missed", down).await.stalled_ms;
    let row = look_after_a_while(&pair.riskfuel.board, End::Source).await;
    assert!(row.stalled_ms >= before + BEAT.as_millis() as u64, "{row:#?}");
    pair.sink.with(|state| state.script = Box::new(|_| Answer::Store));
    pair.connect().await;
    let healthy = |row: &PartitionStatus| row.state == State::Running && row.stalled_ms == 0;
    pair.riskfuel.until(End::Source, "it gets on again", healthy).await;
    pair.finish().await;
}
