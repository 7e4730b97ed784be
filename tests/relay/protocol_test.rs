//! The order of words with a broker: permits after the subscription stands, an active flag whenever it comes.

use pulsar_bridge::pulsar::proto::kind;

use crate::broker::Manner;
use crate::journal::{Event, commands};
use crate::pair::Pair;

#[tokio::test]
async fn permits_never_precede_the_subscriptions_success() {
    let pair = Pair::start().await;
    pair.source.with(|state| state.manner = Manner::Slow);
    pair.append(0..50);
    pair.connect().await;
    pair.journal.until_command("source", kind::FLOW, 1).await;
    let events = pair.journal.events();
    assert!(
        !events.contains(&Event::EarlyFlow),
        "a real broker would drop it, and send nothing for ever"
    );
    // The broker answers a subscription only after a PONG, so it would have read an earlier FLOW.
    assert!(commands(&events, "source", kind::PONG) >= 1);
    pair.finish().await;
}

#[tokio::test]
async fn an_active_flag_may_come_early_and_twice() {
    let pair = Pair::start_as(false, None).await;
    pair.source.with(|state| state.manner = Manner::Talkative);
    pair.append(0..50);
    pair.connect().await;
    pair.finish().await;
}

#[tokio::test]
async fn an_active_flag_that_comes_after_the_success_is_waited_for() {
    let pair = Pair::start_as(false, None).await;
    pair.source.with(|state| state.manner = Manner::Slow);
    pair.append(0..50);
    pair.connect().await;
    pair.finish().await;
}
