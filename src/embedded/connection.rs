//! The reading half of a connection: cuts frames, stores what is sent, and hands everything else to `questions.rs`.
//! Sends that find no room wait here, in their order, while everything else on the connection goes on; when too much
//! waits, nothing is read until there is room.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::commands::{Answer, Question, SendQuestion, kind};
use super::dedup::Ids;
use super::heading::{self, Damage};
use super::line::{ANSWERS_LEN_MAX, Feed, Line};
use super::log::{self, Stored};
use super::probes::{Probed, Who};
use super::sends::{self, Sends};
use super::topic::Incoming;
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
    #[error("a command of {0} bytes, at most {COMMAND_LEN_MAX} are allowed")]
    LongCommand(usize),
    #[error("command {0} before CONNECT")]
    NotConnected(i32),
    #[error("a send for producer {0}, which is not there")]
    NoProducer(u64),
    #[error("more than {0} producers and consumers")]
    TooMany(usize),
    #[error("silent for too long")]
    Silent,
}

/// One connection's side of things.
pub(super) struct Connection {
    pub cluster: Arc<Cluster>,
    pub line: Arc<Line>,
    pub sends: Sends,
    pub feeds: HashMap<u64, Arc<Feed>>,
    /// Answers to what was read last.
    pub frames: BytesMut,
    /// Questions that are asked again, after it turned out that whoever was in the way is dead.
    pub again: mpsc::Sender<Probed>,
    /// Those that wait for it, and the request that each came with.
    pub probed: HashMap<Who, u64>,
    pub is_connected: bool,
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
        sends: Sends::new(cluster.rules.clone()),
        cluster,
        line: line.clone(),
        feeds: HashMap::new(),
        frames: BytesMut::new(),
        again,
        probed: HashMap::new(),
        is_connected: false,
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
        mut asked_again: mpsc::Receiver<Probed>,
    ) -> Result<(), End> {
        let line = self.line.clone();
        let cluster = self.cluster.clone();
        // Of a stranger, no more than a CONNECT is buffered.
        let mut splitter = FrameSplitter::new(CONNECT_LEN_MAX);
        let began = Instant::now();
        loop {
            let is_digested = self.digest(&mut splitter)?;
            let waiting = self.sends.are_waiting().then(|| cluster.rules.memory.wait());
            let mut freed = std::pin::pin!(waiting.as_ref().map(|waiting| waiting.freed()));
            let mut may_read = true;
            if let Some(freed) = freed.as_mut().as_pin_mut() {
                freed.enable();
                // Between counting as waiting and waiting, room may have come.
                self.make_room();
                self.sends.retry(&mut self.frames);
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
            if !is_digested {
                continue;
            }
            let freed = async {
                match freed.as_pin_mut() {
                    Some(freed) if self.sends.are_waiting() => freed.await,
                    Some(_) | None => std::future::pending().await,
                }
            };
            let patience = match self.is_connected {
                true => SILENCE_MAX,
                false => CONNECT_DEADLINE.saturating_sub(began.elapsed()),
            };
            // Losing the race loses nothing: read bytes are in the splitter, a channel's `recv` takes nothing before
            // it completes, and room that was missed is asked for in the next round.
            tokio::select! {
                biased;
                () = line.closed.cancelled() => return Ok(()),
                Some(probed) = asked_again.recv() => self.ask_again(probed)?,
                read = tokio::time::timeout(patience, socket.read_buf(splitter.inlet())), if may_read => {
                    if read.map_err(|_| End::Silent)?? == 0 {
                        return Err(End::Client);
                    }
                    line.heard();
                }
                () = freed => {}
            }
        }
    }

    /// Takes every whole frame, or as many as there is room for answers to; whether it took all. One read may ask
    /// for a thousand times its own length.
    fn digest(&mut self, splitter: &mut FrameSplitter) -> Result<bool, End> {
        while self.frames.len() <= ANSWERS_LEN_MAX {
            let Some(frame) = splitter.next_frame()? else {
                self.sends.publish(&mut self.frames);
                return Ok(true);
            };
            if frame.command.len() > COMMAND_LEN_MAX {
                return Err(End::LongCommand(frame.command.len()));
            }
            // BaseCommand.type is field 1 and every client writes it first: `08 <type>`.
            if let Some([0x08, kind::SEND]) = frame.command.first_chunk::<2>() {
                self.take_send(frame)?;
            } else {
                self.sends.publish(&mut self.frames);
                let question = Question::decode(&frame.command[..]).map_err(FrameError::Command)?;
                if !self.is_connected {
                    self.ask(question)?;
                    splitter.set_frame_len_max(self.cluster.max_message_size.saturating_add(FRAME_MARGIN));
                } else if question.r#type >= kind::TXN_FIRST || question.r#type == kind::CONSUMER_STATS {
                    self.refuse_unknown(&question, &frame.command);
                } else {
                    self.ask(question)?;
                }
            }
        }
        self.sends.publish(&mut self.frames);
        Ok(false)
    }

    fn take_send(&mut self, frame: Frame) -> Result<(), End> {
        let hot = SendQuestion::decode(&frame.command[..]).map_err(FrameError::Command)?;
        let Some(send) = hot.send else { return Ok(()) };
        if !self.sends.has(send.producer_id) {
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
            sends::refuse(send.producer_id, ids.highest, error, message, &mut self.frames);
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
        let incoming = Incoming {
            ids: Ids { part: is_chunk && heading.is_part, ..ids },
            highest: send.highest_sequence_id,
            cost: log::cost(bytes.len()),
            is_marker: send.marker.unwrap_or(false) || heading.is_marker,
            stored: Stored { bytes, publish_time: heading.publish_time, batch: heading.batch, sliced: false },
        };
        self.sends.push(send.producer_id, incoming);
    }

    /// Lets retained entries go that are in the way: of the topics that need the room, or else of others.
    fn make_room(&self) {
        if self.sends.evict() == 0 {
            self.cluster.evict();
        }
    }

    /// Sees to what waits for room; whether more may be read. A client that consumes as well is read in any case:
    /// behind its sends may be the acknowledgements that make the room. So its producers have to go.
    fn park(&mut self) -> bool {
        while !self.sends.park() {
            if self.feeds.is_empty() || !self.sends.expel(&mut self.frames) {
                return false;
            }
        }
        true
    }

    pub(super) fn say(&mut self, answer: Answer) {
        wire::put(&answer, &mut self.frames);
    }

    /// Lets go of everything.
    fn leave(&mut self) {
        self.sends.leave();
        for feed in std::mem::take(&mut self.feeds).into_values() {
            feed.topic.detach(&feed);
        }
        self.line.gone.cancel();
    }
}

pub(super) const NO_TXN: &str = "this broker has no transactions";
/// `Commands.MESSAGE_SIZE_FRAME_PADDING`.
const FRAME_MARGIN: u32 = 10 * 1024;
/// Credentials are the most of it, and some KiB.
const CONNECT_LEN_MAX: u32 = 16 * 1024;
/// Without what follows it in a frame: two bytes can become sixty when they are decoded. Clients acknowledge and ask
/// for redelivery a thousand ids at a time.
const COMMAND_LEN_MAX: usize = 1 << 20;
/// From the first byte to CONNECT, however slowly it comes.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Two beats of a client's keepalive (30 s).
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Producers and consumers that wait, at once, for news of whoever is in their way.
const AGAIN_LEN: usize = 64;
