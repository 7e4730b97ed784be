//! A relay lane: one task that reads frames and hands them to the sources and sinks they are for, one that
//! writes. The reader never waits for any of them: what a partition may have on its way is bounded by its window,
//! and a peer that exceeds it loses the lane. Frames of control go ahead of entries.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::frames::{
    self, Keepalive, Kind, LANE_FRAME_LEN_MAX, LaneFrameError, Open, Ready, Receipts, SchemaAnswer,
};
use super::frames::{EntryHead, SchemaAsk, Stop};
use crate::pulsar::frame::FrameSplitter;
use crate::pulsar::write_queue::WriteQueue;
use crate::tunnel::KEEPALIVE;
use crate::tunnel::budget::{Budget, Class};
use crate::tunnel::link::{LaneStream, Link, RelayLane};

/// What a source hears from its sink.
#[derive(Debug)]
pub enum FromSink {
    /// Entries may come.
    Ready(Ready),
    /// Answers of the destination broker.
    Receipts(Receipts),
    /// Which schema?
    SchemaAsk(SchemaAsk),
    /// The session is over.
    Stop(Stop),
}

/// What a sink hears from its source.
#[derive(Debug)]
pub enum FromSource {
    /// An entry.
    Entry(EntryHead, Bytes),
    /// A schema.
    SchemaAnswer(SchemaAnswer),
    /// The session is over.
    Stop(Stop),
}

/// Starts a sink for a session that the other side opened; what is for it comes through the channel.
pub type OpenSink = Arc<dyn Fn(LaneHandle, Open, Arc<Allowance>, mpsc::Receiver<FromSource>) + Send + Sync>;

/// A lane that is up. Cheap to clone.
#[derive(Clone)]
pub struct LaneHandle {
    inner: Arc<Inner>,
}

struct Inner {
    link: Arc<Link>,
    index: u16,
    urgent: mpsc::Sender<Bytes>,
    bulk: mpsc::Sender<Outgoing>,
    table: Mutex<Table>,
    numbers: AtomicU32,
    sessions: Arc<Semaphore>,
    ended: CancellationToken,
}

/// An entry that is to leave: its frame in two slices.
pub struct Outgoing {
    /// How urgent it is, where the link has a budget.
    pub class: Class,
    /// Head and entry.
    pub slices: [Bytes; 2],
    /// Set when its topic may no longer go out: then it does not leave.
    pub withheld: Arc<AtomicBool>,
}

/// What is on its way to a sink.
struct SinkInbox {
    session: u64,
    sender: mpsc::Sender<FromSource>,
    allowance: Arc<Allowance>,
}

/// A sink's window, as the reader of the lane holds it against the source.
#[derive(Debug)]
pub struct Allowance {
    granted: AtomicUsize,
    unconfirmed: AtomicUsize,
    entries: AtomicUsize,
    schema_asked: AtomicBool,
    /// Its place among the sessions of the lane, as long as anything of it is left.
    _place: OwnedSemaphorePermit,
}

impl Allowance {
    fn new(place: OwnedSemaphorePermit) -> Self {
        Self {
            granted: AtomicUsize::new(0),
            unconfirmed: AtomicUsize::new(0),
            entries: AtomicUsize::new(0),
            schema_asked: AtomicBool::new(false),
            _place: place,
        }
    }

    /// The sink grants this many bytes.
    pub fn grant(&self, bytes: usize) {
        self.granted.store(bytes, Ordering::Relaxed);
    }

    /// An entry of this length was confirmed.
    pub fn confirmed(&self, entry_len: usize) {
        self.unconfirmed.fetch_sub(entry_len, Ordering::Relaxed);
        self.entries.fetch_sub(1, Ordering::Relaxed);
    }

    /// The sink asks for a schema: one answer may come.
    pub fn asks_schema(&self) {
        self.schema_asked.store(true, Ordering::Relaxed);
    }

    /// An entry arrived; `false` when the window was full before it.
    fn arrived(&self, entry_len: usize) -> bool {
        let before = self.unconfirmed.fetch_add(entry_len, Ordering::Relaxed);
        let entries_before = self.entries.fetch_add(1, Ordering::Relaxed);
        before < self.granted.load(Ordering::Relaxed) && entries_before < WINDOW_ENTRIES as usize
    }
}

#[derive(Default)]
struct Table {
    sources: HashMap<u32, mpsc::Sender<FromSink>>,
    sinks: HashMap<u32, SinkInbox>,
}

impl LaneHandle {
    /// Starts both tasks of a lane.
    pub fn start(lane: RelayLane, open_sink: OpenSink) -> Self {
        let (urgent, urgent_queued) = mpsc::channel(URGENT_LEN);
        let (bulk, bulk_queued) = mpsc::channel(BULK_LEN);
        let RelayLane { link, index, stream, ended } = lane;
        let inner = Inner {
            link,
            index,
            urgent,
            bulk,
            table: Mutex::default(),
            numbers: AtomicU32::new(1),
            sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
            ended,
        };
        let handle = Self { inner: Arc::new(inner) };
        let (read_half, write_half) = tokio::io::split(stream);
        tokio::spawn(handle.clone().read(read_half, open_sink));
        let queued = Queued { urgent: urgent_queued, bulk: bulk_queued, next: None };
        let budget = handle.inner.link.budget.clone();
        tokio::spawn(write(write_half, queued, budget, handle.inner.ended.clone()));
        handle
    }

    /// Its link.
    pub fn link(&self) -> &Arc<Link> {
        &self.inner.link
    }

    /// Its index in the link.
    pub fn index(&self) -> u16 {
        self.inner.index
    }

    /// Cancelled when the lane is gone.
    pub fn ended(&self) -> &CancellationToken {
        &self.inner.ended
    }

    /// Sends a frame of control.
    pub async fn tell(&self, kind: Kind) {
        // A lane that has ended is noticed by its `ended`.
        let _ = self.inner.urgent.send(frames::encode(kind)).await;
    }

    /// A place in the queue of entries.
    pub async fn entry_place(&self) -> Option<mpsc::Permit<'_, Outgoing>> {
        self.inner.bulk.reserve().await.ok()
    }

    /// The same, if there is one now.
    pub fn try_entry_place(&self) -> Option<mpsc::Permit<'_, Outgoing>> {
        self.inner.bulk.try_reserve().ok()
    }

    /// Registers a source under a new number; it hears from its sink until the registration is dropped.
    pub fn register_source(&self) -> (SourceRegistration, mpsc::Receiver<FromSink>) {
        let number = self.inner.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(FROM_SINK_LEN);
        self.lock().sources.insert(number, sender);
        let uses = self.link().retiring.user();
        (SourceRegistration { lane: self.clone(), number, _uses: uses }, receiver)
    }

    /// Forgets a sink, if it is still this session's.
    pub fn forget_sink(&self, number: u32, session: u64) {
        let mut table = self.lock();
        if table.sinks.get(&number).is_some_and(|inbox| inbox.session == session) {
            table.sinks.remove(&number);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(self, mut socket: ReadHalf<Box<dyn LaneStream>>, open_sink: OpenSink) {
        let ended = self.inner.ended.clone();
        // First, because what we close ourselves also fails to be read.
        let outcome = tokio::select! {
            biased;
            () = ended.cancelled() => Ok(()),
            outcome = self.read_frames(&mut socket, &open_sink) => outcome,
        };
        if let Err(problem) = outcome {
            let link = format!("{:016x}", self.link().id);
            let (lane, peer) = (self.index(), &self.link().peer);
            match problem {
                // Restarts and broken networks; the routes that miss it say so.
                LaneError::Closed | LaneError::Socket(_) => {
                    tracing::info!(%link, lane, %peer, %problem, "relay lane ended");
                }
                LaneError::Frame(_)
                | LaneError::WindowExceeded
                | LaneError::TooManySessions
                | LaneError::NotAsked
                | LaneError::ControlTooLong { .. } => {
                    tracing::warn!(%link, lane, %peer, %problem, "relay lane ended");
                }
            }
        }
        ended.cancel();
        let mut table = self.lock();
        table.sources.clear();
        table.sinks.clear();
    }

    async fn read_frames(
        &self,
        socket: &mut ReadHalf<Box<dyn LaneStream>>,
        open_sink: &OpenSink,
    ) -> Result<(), LaneError> {
        let mut splitter = FrameSplitter::new(LANE_FRAME_LEN_MAX);
        loop {
            while let Some(frame) = splitter.next_frame().map_err(LaneFrameError::from)? {
                // Before it is decoded: a decoded frame is many times its length.
                let is_schema = frame.command.first() == Some(&frames::SCHEMA_ANSWER_TAG);
                if frame.command.len() > CONTROL_LEN_MAX && !is_schema {
                    return Err(LaneError::ControlTooLong { len: frame.command.len() });
                }
                match frames::decode(&frame)? {
                    Kind::Keepalive(_) => {}
                    Kind::Open(open) => self.open(open, open_sink)?,
                    Kind::Entry(head) => {
                        // A small entry would keep the whole buffer that it was read into.
                        let bytes = match frame.rest.len() {
                            0..=COPIED_LEN_MAX => Bytes::copy_from_slice(&frame.rest),
                            _ => frame.rest,
                        };
                        self.to_sink(head.number, head.session, FromSource::Entry(head, bytes))?;
                    }
                    Kind::SchemaAnswer(answer) => {
                        self.to_sink(answer.number, answer.session, FromSource::SchemaAnswer(answer))?;
                    }
                    Kind::Stop(stop) if stop.by_source => {
                        self.to_sink(stop.number, stop.session, FromSource::Stop(stop))?;
                    }
                    Kind::Stop(stop) => self.to_source(stop.number, FromSink::Stop(stop))?,
                    Kind::Ready(ready) => self.to_source(ready.number, FromSink::Ready(ready))?,
                    Kind::Receipts(receipts) => {
                        if receipts.marked.len() > WINDOW_ENTRIES as usize {
                            return Err(LaneError::WindowExceeded);
                        }
                        self.to_source(receipts.number, FromSink::Receipts(receipts))?
                    }
                    Kind::SchemaAsk(ask) if ask.version.len() > SCHEMA_VERSION_LEN_MAX => {
                        return Err(LaneError::ControlTooLong { len: ask.version.len() });
                    }
                    Kind::SchemaAsk(ask) => self.to_source(ask.number, FromSink::SchemaAsk(ask))?,
                }
            }
            if socket.read_buf(splitter.inlet()).await.map_err(LaneError::Socket)? == 0 {
                return Err(LaneError::Closed);
            }
        }
    }

    fn open(&self, open: Open, open_sink: &OpenSink) -> Result<(), LaneError> {
        let (sender, receiver) = mpsc::channel(FROM_SOURCE_LEN);
        let place = self.inner.sessions.clone().try_acquire_owned();
        let place = place.map_err(|_| LaneError::TooManySessions)?;
        let allowance = Arc::new(Allowance::new(place));
        {
            let mut table = self.lock();
            // A newer session of the same partition: the older one hears it by its channel's end.
            let inbox = SinkInbox { session: open.session, sender, allowance: allowance.clone() };
            table.sinks.insert(open.number, inbox);
        }
        open_sink(self.clone(), open, allowance, receiver);
        Ok(())
    }

    fn to_sink(&self, number: u32, session: u64, event: FromSource) -> Result<(), LaneError> {
        let table = self.lock();
        // Frames of a session that is over are dropped: their source will send them again.
        let Some(inbox) = table.sinks.get(&number).filter(|inbox| inbox.session == session) else {
            return Ok(());
        };
        match &event {
            FromSource::Entry(_, stored) if !inbox.allowance.arrived(stored.len()) => {
                return Err(LaneError::WindowExceeded);
            }
            FromSource::SchemaAnswer(_) if !inbox.allowance.schema_asked.swap(false, Ordering::Relaxed) => {
                return Err(LaneError::NotAsked);
            }
            FromSource::Entry(..) | FromSource::SchemaAnswer(_) | FromSource::Stop(_) => {}
        }
        match inbox.sender.try_send(event) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(LaneError::WindowExceeded),
        }
    }

    fn to_source(&self, number: u32, event: FromSink) -> Result<(), LaneError> {
        let table = self.lock();
        let Some(sender) = table.sources.get(&number) else {
            return Ok(());
        };
        match sender.try_send(event) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(LaneError::WindowExceeded),
        }
    }
}

/// A source's number on a lane; forgotten when dropped.
pub struct SourceRegistration {
    lane: LaneHandle,
    /// Its number.
    pub number: u32,
    /// Its link is in use.
    _uses: TaskTrackerToken,
}

impl Drop for SourceRegistration {
    fn drop(&mut self) {
        self.lane.lock().sources.remove(&self.number);
    }
}

/// The error without the address of the TLS library's manual.
fn without_address(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split_once(": https://").map_or(text.as_str(), |(said, _)| said).to_owned()
}

/// Why a lane ended.
#[derive(Debug, thiserror::Error)]
enum LaneError {
    #[error(transparent)]
    Frame(#[from] LaneFrameError),
    #[error("{}", without_address(.0))]
    Socket(std::io::Error),
    #[error("closed by the other side")]
    Closed,
    #[error("the other side sent more than its window")]
    WindowExceeded,
    #[error("the other side opened more than {SESSIONS_MAX} sessions on one lane")]
    TooManySessions,
    #[error("the other side sent a schema that it was not asked for")]
    NotAsked,
    #[error("a frame of control has {len} bytes, at most {CONTROL_LEN_MAX} are allowed")]
    ControlTooLong {
        /// Its length.
        len: usize,
    },
}

/// What waits for the writer.
struct Queued {
    urgent: mpsc::Receiver<Bytes>,
    bulk: mpsc::Receiver<Outgoing>,
    /// The entry that is the next to leave, once the budget lets it.
    next: Option<Outgoing>,
}

impl Queued {
    /// Fills a write with what may leave now.
    fn fill(&mut self, queue: &mut WriteQueue, budget: &Budget) {
        while !queue.is_full() {
            if let Ok(frame) = self.urgent.try_recv() {
                queue.push(frame);
                continue;
            }
            if self.next.is_none() {
                self.next = self.bulk.try_recv().ok();
            }
            match self.next.take_if(|next| budget.turn(next.class).now_or_never().is_some()) {
                Some(entry) => push_entry(queue, entry, budget),
                None => break,
            }
        }
    }
}

fn push_entry(queue: &mut WriteQueue, entry: Outgoing, budget: &Budget) {
    if entry.withheld.load(Ordering::Relaxed) {
        return;
    }
    budget.sent(entry.slices.iter().map(Bytes::len).sum());
    entry.slices.into_iter().for_each(|slice| queue.push(slice));
}

async fn write(
    mut socket: WriteHalf<Box<dyn LaneStream>>,
    mut queued: Queued,
    budget: Budget,
    ended: CancellationToken,
) {
    let mut queue = WriteQueue::default();
    let mut beat = tokio::time::interval(KEEPALIVE);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Losing the race loses nothing: `recv` and a tick take nothing before they complete.
        tokio::select! {
            biased;
            () = ended.cancelled() => break,
            frame = queued.urgent.recv() => match frame { Some(frame) => queue.push(frame), None => break },
            entry = queued.bulk.recv(), if queued.next.is_none() => match entry {
                Some(entry) => queued.next = Some(entry),
                None => break,
            },
            () = turn(&budget, &queued.next), if queued.next.is_some() => {
                if let Some(entry) = queued.next.take() {
                    push_entry(&mut queue, entry, &budget);
                }
            }
            _ = beat.tick() => queue.push(frames::encode(Kind::Keepalive(Keepalive {}))),
        }
        queued.fill(&mut queue, &budget);
        let written = tokio::select! {
            () = ended.cancelled() => break,
            written = queue.write_to(&mut socket) => written,
        };
        if written.is_err() {
            break;
        }
    }
    ended.cancel();
    let _ = tokio::time::timeout(SHUTDOWN_DEADLINE, socket.shutdown()).await;
}

async fn turn(budget: &Budget, next: &Option<Outgoing>) {
    if let Some(entry) = next {
        budget.turn(entry.class).await;
    }
}

/// Entries that a sink may have on its way; what `Ready` grants.
pub const WINDOW_ENTRIES: u32 = 2000;
/// A window of entries and a few answers; beyond it the peer has exceeded its window.
const FROM_SOURCE_LEN: usize = WINDOW_ENTRIES as usize + 64;
/// Receipts come in groups, so never more than entries; and a few others.
const FROM_SINK_LEN: usize = WINDOW_ENTRIES as usize + 64;
/// Frames of control waiting for the writer.
const URGENT_LEN: usize = 256;
/// Entries waiting for the writer, of all partitions; few, so that none waits long behind another's.
const BULK_LEN: usize = 32;
/// Sessions of one lane: its partitions, and those that are being taken over.
const SESSIONS_MAX: usize = 20_000;
/// The longest that an honest side sends are a window's receipts, some 20 KB; schemas are asked for singly.
const CONTROL_LEN_MAX: usize = 64 * 1024;
/// An entry below this is copied out of the buffer it was read into.
const COPIED_LEN_MAX: usize = 32 * 1024;
/// A schema version is eight bytes (`LongSchemaVersion`); others' are not much longer.
const SCHEMA_VERSION_LEN_MAX: usize = 64;
const SHUTDOWN_DEADLINE: std::time::Duration = std::time::Duration::from_secs(1);
