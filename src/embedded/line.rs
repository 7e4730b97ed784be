//! What a connection shares with the topics its clients use: answers that wait to be written, and the consumers that
//! have something to take. Plain data behind a lock that is held for a few instructions; never waits on a socket.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::commands::{Answer, Nothing, kind};
use super::delivery::Key;
use super::topic::Topic;
use super::wire;

/// One connection, as others see it.
#[derive(Debug)]
pub struct Line {
    /// Where the client reached us: what a lookup answers is reachable by the same way.
    pub reached_at: SocketAddr,
    /// It ends, or has ended.
    pub closed: CancellationToken,
    /// It has let go of its producers and consumers.
    pub gone: CancellationToken,
    desk: Mutex<Desk>,
    wake: Notify,
    written: Notify,
    heard: Notify,
    /// Its sends wait for room, so nothing is read: silence says nothing.
    paused: AtomicBool,
}

#[derive(Debug, Default)]
struct Desk {
    answers: BytesMut,
    ready: Vec<Arc<Feed>>,
}

/// The way from a topic to one of its consumers.
#[derive(Debug)]
pub struct Feed {
    pub topic: Arc<Topic>,
    pub subscription: String,
    pub key: Key,
    /// Its number on its connection.
    pub consumer_id: u64,
    pub line: Arc<Line>,
    queued: AtomicBool,
}

impl Feed {
    /// Nothing to take yet.
    pub fn new(topic: Arc<Topic>, subscription: String, key: Key, consumer_id: u64, line: Arc<Line>) -> Self {
        Self { topic, subscription, key, consumer_id, line, queued: AtomicBool::new(false) }
    }

    /// The consumer has something to take.
    pub fn wake(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.line.desk().ready.push(self.clone());
            self.line.wake.notify_one();
        }
    }

    /// It is about to take: what comes from now on wakes it again.
    pub fn begin(&self) {
        self.queued.store(false, Ordering::Release);
    }
}

impl Line {
    /// A connection's beginning.
    pub fn new(reached_at: SocketAddr, closed: CancellationToken) -> Self {
        Self {
            reached_at,
            closed,
            gone: CancellationToken::new(),
            desk: Mutex::default(),
            wake: Notify::new(),
            written: Notify::new(),
            heard: Notify::new(),
            paused: AtomicBool::new(false),
        }
    }

    /// Puts an answer down to be written. Others cause these, so who leaves too much of it unread is closed.
    pub fn say(&self, answer: &Answer) {
        let mut desk = self.desk();
        wire::put(answer, &mut desk.answers);
        if desk.answers.len() > DESK_LEN_MAX {
            self.closed.cancel();
        }
        drop(desk);
        self.wake.notify_one();
    }

    /// Puts frames down to be written, and empties `frames`.
    pub fn say_all(&self, frames: &mut BytesMut) {
        if frames.is_empty() {
            return;
        }
        let mut desk = self.desk();
        if desk.answers.is_empty() {
            std::mem::swap(&mut desk.answers, frames);
        } else {
            desk.answers.extend_from_slice(frames);
            frames.clear();
        }
        drop(desk);
        self.wake.notify_one();
    }

    /// Asks the client for a sign of life.
    pub fn ping(&self) {
        self.say(&Answer { r#type: kind::PING, ping: Some(Nothing {}), ..Answer::default() });
    }

    /// Whether the client answers, or may be excused for not doing so (`ServerCnx.checkConnectionLiveness`).
    pub async fn is_alive(&self) -> bool {
        let heard = self.heard.notified();
        self.ping();
        if self.paused.load(Ordering::Relaxed) {
            return true;
        }
        // Losing the race loses nothing: nothing is taken by waiting.
        tokio::select! {
            biased;
            () = self.closed.cancelled() => false,
            () = heard => true,
            () = tokio::time::sleep(LIVENESS_DEADLINE) => self.paused.load(Ordering::Relaxed),
        }
    }

    /// Something was read.
    pub fn heard(&self) {
        self.heard.notify_waiters();
    }

    /// Nothing is read until there is room, or it is again.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// More answers wait than a client leaves unread that means well.
    pub fn is_backed_up(&self) -> bool {
        self.desk().answers.len() > ANSWERS_LEN_MAX
    }

    /// Completes when answers were taken to be written.
    pub async fn written(&self) {
        self.written.notified().await;
    }

    /// Takes all that waits. The writer alone does this.
    pub fn take(&self, ready: &mut Vec<Arc<Feed>>) -> Bytes {
        let mut desk = self.desk();
        ready.append(&mut desk.ready);
        let answers = desk.answers.split().freeze();
        drop(desk);
        self.written.notify_one();
        answers
    }

    /// Completes when something waits, or did.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Lets go of the consumers that wait: they hold their topics, and those hold them.
    pub fn forget(&self) {
        *self.desk() = Desk::default();
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `connectionLivenessCheckTimeoutMillis`.
const LIVENESS_DEADLINE: Duration = Duration::from_secs(5);
/// A hundred thousand receipts.
pub const ANSWERS_LEN_MAX: usize = 4 << 20;
/// Twice that, and the largest answer: all schemas together have 16 MiB.
const DESK_LEN_MAX: usize = 32 << 20;
