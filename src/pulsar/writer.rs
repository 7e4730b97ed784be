//! The writing half of a broker connection: one task that owns the socket's write side. Answers a PING ahead
//! of everything queued, and sends a PING of its own at a fixed beat, whatever the reading half is doing.

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Duration, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::frame;
use super::proto::{BaseCommand, Empty, kind};
use super::write_queue::WriteQueue;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// A whole frame.
    Command(Bytes),
    /// A frame in three slices: its head, the entry's head, the payload.
    Entry([Bytes; 3]),
}

/// Writes until the connection is closed or breaks; then closes it.
pub(super) async fn run<W: AsyncWrite + Unpin>(
    mut socket: W,
    mut queued: mpsc::Receiver<Outgoing>,
    mut pong_asked: mpsc::Receiver<()>,
    closed: CancellationToken,
) {
    let mut beat = tokio::time::interval(PING_BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut queue = WriteQueue::default();
    loop {
        // Losing the race loses nothing: a channel's `recv` and a tick take nothing before they complete.
        tokio::select! {
            biased;
            () = closed.cancelled() => break,
            Some(()) = pong_asked.recv() => queue.push(pong()),
            _ = beat.tick() => queue.push(ping()),
            outgoing = queued.recv() => match outgoing {
                Some(outgoing) => enqueue(&mut queue, outgoing),
                None => break,
            },
        }
        while !queue.is_full() {
            let Ok(outgoing) = queued.try_recv() else { break };
            enqueue(&mut queue, outgoing);
        }
        let written = tokio::select! {
            () = closed.cancelled() => break,
            written = queue.write_to(&mut socket) => written,
        };
        if written.is_err() {
            break;
        }
    }
    closed.cancel();
    // A clean end for the broker where the socket still takes it.
    let _ = tokio::time::timeout(SHUTDOWN_DEADLINE, socket.shutdown()).await;
}

fn enqueue(queue: &mut WriteQueue, outgoing: Outgoing) {
    match outgoing {
        Outgoing::Command(frame) => queue.push(frame),
        Outgoing::Entry(slices) => slices.into_iter().for_each(|slice| queue.push(slice)),
    }
}

fn ping() -> Bytes {
    frame::encode(&BaseCommand { r#type: kind::PING, ping: Some(Empty {}), ..BaseCommand::default() })
}

fn pong() -> Bytes {
    frame::encode(&BaseCommand { r#type: kind::PONG, pong: Some(Empty {}), ..BaseCommand::default() })
}

/// Half of a broker's 30 s keepalive (`PulsarHandler.handleKeepAliveTimeout`), so that one may be late.
const PING_BEAT: Duration = Duration::from_secs(15);
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);
