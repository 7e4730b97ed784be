//! The reading half of a connection: cuts frames, stores what is sent, and hands everything else to `questions.rs`.
//! Sends that find no room wait here, in their order, while everything else on the connection goes on; when too much
//! waits, nothing is read until there is room.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::commands::{Answer, Question, SendError, SendQuestion, kind};
use super::dedup::Ids;
use super::heading::{self, Damage};
use super::line::{Feed, Line};
use super::log::{self, Stored};
use super::topic::{Incoming, Outcome, Seat};
use super::{wire, writer};
use crate::pulsar::frame::{Frame, FrameError, FrameSplitter};
use crate::pulsar::proto::ServerError;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("the socket broke: {0}")]
    Socket(#[from] std::io::Error),
    #[error("closed by the client")]
    Client,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("command {0} before CONNECT")]
    NotConnected(i32),
    #[error("a send for producer {0}, which is not there")]
    NoProducer(u64),
    #[error("more than {0} producers and consumers")]
    TooMany(usize),
    #[error("silent for {} s", SILENCE_MAX.as_secs())]
    Silent,
}

/// One connection's side of things.
pub(super) struct Connection {
    pub cluster: Arc<Cluster>,
    pub line: Arc<Line>,
    pub seats: HashMap<u64, Seat>,
    pub feeds: HashMap<u64, Arc<Feed>>,
    /// Answers to what was read last.
    pub frames: BytesMut,
    /// Questions that are asked again, after it turned out that whoever was in the way is dead.
    pub again: mpsc::Sender<Question>,
    pub is_connected: bool,
    queue: VecDeque<Incoming>,
    /// How many at the front of the queue are on the account of those that wait, and for how many bytes.
    parked: usize,
    parked_cost: usize,
    outcomes: Vec<(Incoming, Outcome)>,
}

/// Serves a connection to its end.
pub async fn serve(cluster: Arc<Cluster>, socket: TcpStream, closed: CancellationToken) {
    let Ok(reached_at) = socket.local_addr() else { return };
    // Only a hint, and writes are large already.
    let _ = socket.set_nodelay(true);
    let (read_half, write_half) = socket.into_split();
    let line = Arc::new(Line::new(reached_at, closed));
    let writing = tokio::spawn(writer::run(write_half, line.clone()));
    let (again, asked_again) = mpsc::channel(AGAIN_LEN);
    let mut connection = Connection {
        cluster,
        line: line.clone(),
        seats: HashMap::new(),
        feeds: HashMap::new(),
        frames: BytesMut::new(),
        again,
        is_connected: false,
        queue: VecDeque::new(),
        parked: 0,
        parked_cost: 0,
        outcomes: Vec::new(),
    };
    let outcome = connection.run(read_half, asked_again).await;
    if let Err(end) = outcome {
        tracing::debug!(%end, "a client's connection ended");
    }
    line.say_all(&mut connection.frames);
    connection.leave();
    line.closed.cancel();
    // It ends by itself: it was told, and has a deadline for the rest.
    let _ = writing.await;
    line.forget();
}

impl Connection {
    async fn run(
        &mut self,
        mut socket: OwnedReadHalf,
        mut asked_again: mpsc::Receiver<Question>,
    ) -> Result<(), End> {
        let line = self.line.clone();
        let cluster = self.cluster.clone();
        let mut splitter = FrameSplitter::new(cluster.max_message_size.saturating_add(FRAME_MARGIN));
        loop {
            self.digest(&mut splitter)?;
            let waiting = (!self.queue.is_empty()).then(|| cluster.rules.memory.wait());
            let mut freed = std::pin::pin!(waiting.as_ref().map(|waiting| waiting.freed()));
            let mut may_read = true;
            if let Some(freed) = freed.as_mut().as_pin_mut() {
                freed.enable();
                // Between counting as waiting and waiting, room may have come.
                self.evict();
                self.publish();
                may_read = self.park();
            }
            line.say_all(&mut self.frames);
            line.set_paused(!may_read);
            if line.is_backed_up() {
                tokio::select! {
                    biased;
                    () = line.closed.cancelled() => return Ok(()),
                    () = line.written() => continue,
                }
            }
            let freed = async {
                match freed.as_pin_mut() {
                    Some(freed) if !self.queue.is_empty() => freed.await,
                    Some(_) | None => std::future::pending().await,
                }
            };
            // Losing the race loses nothing: read bytes are in the splitter, a channel's `recv` takes nothing before
            // it completes, and room that was missed is asked for in the next round.
            tokio::select! {
                biased;
                () = line.closed.cancelled() => return Ok(()),
                () = freed => {}
                Some(question) = asked_again.recv() => self.ask(question)?,
                read = tokio::time::timeout(SILENCE_MAX, socket.read_buf(splitter.inlet())), if may_read => {
                    if read.map_err(|_| End::Silent)?? == 0 {
                        return Err(End::Client);
                    }
                    line.heard();
                }
            }
        }
    }

    /// Takes every whole frame.
    fn digest(&mut self, splitter: &mut FrameSplitter) -> Result<(), End> {
        while let Some(frame) = splitter.next_frame()? {
            // BaseCommand.type is field 1 and every client writes it first: `08 <type>`.
            if let Some([0x08, kind::SEND]) = frame.command.first_chunk::<2>() {
                self.take_send(frame)?;
            } else {
                self.publish();
                let question = Question::decode(&frame.command[..]).map_err(FrameError::Command)?;
                if question.r#type >= kind::TXN_FIRST {
                    self.refuse_unknown(&question, &frame.command);
                } else {
                    self.ask(question)?;
                }
            }
        }
        self.publish();
        Ok(())
    }

    fn take_send(&mut self, frame: Frame) -> Result<(), End> {
        let hot = SendQuestion::decode(&frame.command[..]).map_err(FrameError::Command)?;
        let Some(send) = hot.send else { return Ok(()) };
        if !self.seats.contains_key(&send.producer_id) {
            return Err(End::NoProducer(send.producer_id));
        }
        let highest = send.highest_sequence_id.filter(|highest| *highest >= send.sequence_id);
        let ids = Ids { first: send.sequence_id, highest: highest.unwrap_or(send.sequence_id), part: false };
        let refusal = if send.txn_least.is_some() || send.txn_most.is_some() {
            Some((ServerError::NotAllowed, NO_TXN))
        } else {
            match heading::read(&frame.rest) {
                Ok(heading) => {
                    self.queue_send(&send, ids, heading, frame.rest);
                    None
                }
                Err(Damage::Checksum) => Some((ServerError::Checksum, "Checksum failed on the broker")),
                Err(Damage::Metadata) => Some((ServerError::Metadata, "the message has no metadata")),
            }
        };
        if let Some((error, message)) = refusal {
            self.refuse_send(send.producer_id, ids.highest, error, message);
        }
        Ok(())
    }

    fn queue_send(
        &mut self,
        send: &super::commands::Send,
        ids: Ids,
        heading: heading::Heading,
        bytes: Bytes,
    ) {
        let is_chunk = send.is_chunk.unwrap_or(false);
        self.queue.push_back(Incoming {
            producer_id: send.producer_id,
            ids: Ids { part: is_chunk && heading.is_part, ..ids },
            highest: send.highest_sequence_id,
            cost: log::cost(bytes.len()),
            is_marker: send.marker.unwrap_or(false) || heading.is_marker,
            stored: Stored { bytes, publish_time: heading.publish_time, batch: heading.batch, sliced: false },
        });
    }

    /// Stores what is queued, as far as there is room.
    fn publish(&mut self) {
        while let Some(first) = self.queue.front() {
            let producer_id = first.producer_id;
            let Some(seat) = self.seats.get(&producer_id) else {
                // Closed since; its client awaits nothing any more.
                self.pop_queue();
                continue;
            };
            let before = self.queue.len();
            let has_room = seat.topic.publish(seat, producer_id, &mut self.queue, &mut self.outcomes);
            let popped = before - self.queue.len();
            self.answer_sends(popped);
            if !has_room {
                return;
            }
        }
    }

    fn answer_sends(&mut self, popped: usize) {
        debug_assert_eq!(popped, self.outcomes.len());
        let mut outcomes = std::mem::take(&mut self.outcomes);
        for (send, outcome) in outcomes.drain(..) {
            self.unpark(send.cost);
            let Incoming { producer_id, ids, highest, .. } = send;
            match outcome {
                Outcome::Stored(position) => {
                    wire::put_receipt(producer_id, ids.first, highest, Some(position), &mut self.frames);
                }
                Outcome::Duplicate => {
                    wire::put_receipt(producer_id, ids.first, highest, None, &mut self.frames);
                }
                Outcome::Unknown => {
                    let message = "Cannot determine whether the message is a duplicate at this time";
                    self.refuse_send(producer_id, ids.highest, ServerError::Persistence, message);
                }
                Outcome::Ignored => {}
            }
        }
        self.outcomes = outcomes;
    }

    /// Lets retained entries go that are in the way: of the topic that needs the room, or else of others.
    fn evict(&self) {
        let seat = self.queue.front().and_then(|send| self.seats.get(&send.producer_id));
        if let Some(seat) = seat
            && seat.topic.evict(self.cluster.rules.memory.to_evict()) == 0
        {
            self.cluster.evict();
        }
    }

    /// Puts what is left in the queue on the account of those that wait; whether there is room for more of them.
    fn park(&mut self) -> bool {
        for send in self.queue.iter_mut().skip(self.parked) {
            if !self.cluster.rules.memory.park(send.cost, self.parked_cost) {
                return false;
            }
            self.parked += 1;
            self.parked_cost += send.cost;
            // A slice would keep all of its read alive.
            send.stored.bytes = Bytes::copy_from_slice(&send.stored.bytes);
        }
        true
    }

    /// A send left the front of the queue.
    fn unpark(&mut self, cost: usize) {
        if self.parked > 0 {
            self.parked -= 1;
            self.parked_cost -= cost;
            self.cluster.rules.memory.unpark(cost);
        }
    }

    fn pop_queue(&mut self) {
        if let Some(send) = self.queue.pop_front() {
            self.unpark(send.cost);
        }
    }

    fn refuse_send(&mut self, producer_id: u64, sequence_id: u64, error: ServerError, message: &str) {
        let send_error =
            Some(SendError { producer_id, sequence_id, error: error as i32, message: message.into() });
        self.say(Answer { r#type: kind::SEND_ERROR, send_error, ..Answer::default() });
    }

    pub(super) fn say(&mut self, answer: Answer) {
        wire::put(&answer, &mut self.frames);
    }

    /// Lets go of everything.
    fn leave(&mut self) {
        while !self.queue.is_empty() {
            self.pop_queue();
        }
        for seat in std::mem::take(&mut self.seats).into_values() {
            seat.topic.remove_producer(&seat);
        }
        for feed in std::mem::take(&mut self.feeds).into_values() {
            feed.topic.detach(&feed);
        }
        self.line.gone.cancel();
    }
}

pub(super) const NO_TXN: &str = "this broker has no transactions";
/// `Commands.MESSAGE_SIZE_FRAME_PADDING`.
const FRAME_MARGIN: u32 = 10 * 1024;
/// Two beats of a client's keepalive (30 s).
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Producers and consumers that wait, at once, for news of whoever is in their way.
const AGAIN_LEN: usize = 64;
