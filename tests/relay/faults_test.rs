//! Whatever closes, at whatever moment: the route resumes, everything arrives once and in order, and no
//! acknowledgement overtakes its receipt.

use pulsar_bridge::pulsar::proto::kind;
use pulsar_bridge::relay::batching::Limits;

use crate::broker::{Answer, Order};
use crate::journal::{acks, receipts};
use crate::pair::{Pair, id};

/// When it happens.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The consumer subscribes.
    Subscribing,
    /// The producer is being created.
    CreatingProducer,
    /// Entries are stored, and no receipt has gone out.
    Unanswered,
    /// Receipts have gone out.
    Confirmed,
    /// The first acknowledgement was read.
    Acknowledged,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Fault {
    CloseConsumer,
    ResetSource,
    CloseProducer,
    ResetSink,
    CutLane,
}

const MOMENTS: [Moment; 5] = [
    Moment::Subscribing,
    Moment::CreatingProducer,
    Moment::Unanswered,
    Moment::Confirmed,
    Moment::Acknowledged,
];
const FAULTS: [Fault; 5] =
    [Fault::CloseConsumer, Fault::ResetSource, Fault::CloseProducer, Fault::ResetSink, Fault::CutLane];

#[tokio::test]
async fn a_route_resumes_after_each_fault_at_each_moment() {
    for moment in MOMENTS {
        for fault in FAULTS {
            resumes(fault, moment, None).await;
        }
    }
}

#[tokio::test]
async fn a_route_that_joins_resumes_as_well() {
    let joining = Limits { messages: 4, bytes: 1 << 16, ..Limits::DEFAULT };
    for fault in FAULTS {
        resumes(fault, Moment::Unanswered, Some(joining)).await;
    }
}

async fn resumes(fault: Fault, moment: Moment, joining: Option<Limits>) {
    let pair = Pair::start_as(true, joining).await;
    pair.append(0..10);
    if matches!(moment, Moment::Unanswered) {
        pair.sink.with(|state| state.script = Box::new(|_| Answer::StoreLater));
    }
    pair.connect().await;
    let journal = &pair.journal;
    match moment {
        // The first subscription only creates; the second is the consumer's.
        Moment::Subscribing => journal.until_command("source", kind::SUBSCRIBE, 2).await,
        Moment::CreatingProducer => journal.until_command("sink", kind::PRODUCER, 1).await,
        // A first batch goes alone.
        Moment::Unanswered if joining.is_some() => journal.until_command("sink", kind::SEND, 1).await,
        Moment::Unanswered => journal.until_command("sink", kind::SEND, 3).await,
        Moment::Confirmed => journal.until("receipts", |events| receipts(events) > 0).await,
        Moment::Acknowledged => journal.until("an ack", |events| !acks(events).is_empty()).await,
    }
    match fault {
        Fault::CloseConsumer => pair.source.order(Order::CloseConsumer),
        Fault::ResetSource => pair.source.order(Order::Reset),
        Fault::CloseProducer => pair.sink.order(Order::CloseProducer),
        Fault::ResetSink => pair.sink.order(Order::Reset),
        Fault::CutLane => {
            pair.cut();
            pair.connect().await;
        }
    }
    pair.sink.with(|state| state.script = Box::new(|_| Answer::Store));
    pair.sink.release(|_| true);
    pair.append(10..20);
    match joining {
        None => pair.finish().await,
        Some(_) => pair.finish_joined().await,
    }
}

#[tokio::test]
async fn a_route_survives_one_fault_after_the_other() {
    let pair = Pair::start().await;
    pair.connect().await;
    for round in 0..30 {
        pair.append(round * 20..(round + 1) * 20);
        pair.journal
            .until("the round has begun to arrive", |events| {
                let begun = |event: &crate::journal::Event| {
                    matches!(event, crate::journal::Event::Receipt { sequence_id, .. } if *sequence_id >= id(round * 20))
                };
                events.iter().any(begun)
            })
            .await;
        match FAULTS[round as usize * 7 % FAULTS.len()] {
            Fault::CloseConsumer => pair.source.order(Order::CloseConsumer),
            Fault::ResetSource => pair.source.order(Order::Reset),
            Fault::CloseProducer => pair.sink.order(Order::CloseProducer),
            Fault::ResetSink => pair.sink.order(Order::Reset),
            Fault::CutLane => {
                pair.cut();
                pair.connect().await;
            }
        }
    }
    pair.finish().await;
}
