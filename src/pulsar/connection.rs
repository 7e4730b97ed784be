//! One connection to a broker: the handshake, requests and their answers, keepalive, and the delivery of
//! what the broker sends to the consumer or producer it is for. Bounds memory by ceasing to read the socket.
//! Knows nothing of lookups, sessions or windows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::frame::{self, Frame, FrameError, FrameSplitter};
use super::mailboxes::{ConsumerMail, Inbox, Mailboxes, ProducerMail};
use super::proto::{self, BaseCommand, ServerError, kind};
use super::reader::Reader;
use super::transport::{Address, Dialer, Stream, TransportError};
use super::writer::{self, Outgoing};

/// Why a connection cannot be had, or an answer on it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// No socket.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The bytes are not Pulsar's.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The socket broke, or the broker was silent for too long.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The broker said no.
    #[error("the broker refused: {message} ({error:?})")]
    Refused {
        /// Its code.
        error: ServerError,
        /// Its words.
        message: String,
    },
    /// No answer within the deadline.
    #[error("no answer within {} s", ANSWER_DEADLINE.as_secs())]
    NoAnswer,
    /// The token could not be read.
    #[error("the token could not be read: {0}")]
    Credentials(String),
}

impl ConnectionError {
    /// A refusal in the broker's terms.
    pub fn refused(error: i32, message: impl Into<String>) -> Self {
        let error = ServerError::try_from(error).unwrap_or(ServerError::Unknown);
        Self::Refused { error, message: message.into() }
    }

    /// The broker's code, when it was a refusal.
    pub fn server_error(&self) -> Option<ServerError> {
        match self {
            Self::Refused { error, .. } => Some(*error),
            Self::Transport(_) | Self::Frame(_) | Self::Lost(_) | Self::NoAnswer | Self::Credentials(_) => {
                None
            }
        }
    }
}

/// Gives the token anew each time it is asked for, so that a rotated file is picked up; `None` where the
/// cluster wants none.
pub type Credentials = Arc<dyn Fn() -> Result<Option<Bytes>, String> + Send + Sync>;

/// What a consumer is told, in the broker's order.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// An entry.
    Entry(Delivery),
    /// Whether this consumer is the active one (Failover). May come twice, and before the subscription's success.
    Active(bool),
    /// The broker closed the consumer: look up and subscribe again.
    Closed,
    /// The topic was terminated and everything was delivered.
    EndOfTopic,
}

/// An entry as the broker delivered it.
#[derive(Debug)]
pub struct Delivery {
    /// Its position.
    pub id: proto::MessageId,
    /// The stored bytes.
    pub stored: Bytes,
}

/// What a producer is told.
#[derive(Debug, PartialEq, Eq)]
pub enum ProducerEvent {
    /// The broker confirmed a send.
    Receipt {
        /// As sent.
        sequence_id: u64,
        /// The broker had it already (message id −1:−1).
        duplicate: bool,
    },
    /// The broker refused a send.
    SendError {
        /// The highest sequence id of what was sent.
        sequence_id: u64,
        /// Its code.
        error: ServerError,
        /// Its words.
        message: String,
    },
    /// The broker closed the producer: look up and create it again.
    Closed,
}

/// A connection whose handshake is done. Cheap to clone; the socket closes when [`Connection::close`] is
/// called, when it breaks, or when all clones are gone.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    outbox: mpsc::Sender<Outgoing>,
    mailboxes: Arc<Mailboxes>,
    closed: CancellationToken,
    ids: AtomicU64,
    facts: Facts,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

#[derive(Clone, Debug)]
struct Facts {
    address: Address,
    max_message_size: u32,
    metadata_without_creation: bool,
}

impl Connection {
    /// Dials, says who we are, and waits for the broker's word. `proxied` names the broker to a Pulsar proxy.
    pub async fn open(
        dialer: &Dialer,
        address: &Address,
        credentials: &Credentials,
        proxied: Option<String>,
    ) -> Result<Self, ConnectionError> {
        let mut stream = dialer.dial(address).await?;
        let hello = connect_command(credentials, dialer.shows_certificate(address), proxied)?;
        let shake = handshake(&mut stream, hello);
        let (connected, splitter) =
            tokio::time::timeout(ANSWER_DEADLINE, shake).await.map_err(|_| ConnectionError::NoAnswer)??;
        let max_message_size = u32::try_from(connected.max_message_size.unwrap_or(0)).unwrap_or(0);
        let max_message_size = if max_message_size == 0 { MAX_MESSAGE_SIZE } else { max_message_size };
        let flags = connected.feature_flags.unwrap_or_default();
        let facts = Facts {
            address: address.clone(),
            max_message_size: max_message_size.min(MAX_MESSAGE_SIZE_BOUND),
            metadata_without_creation: flags.supports_partition_metadata_without_creation.unwrap_or(false),
        };
        Ok(Self::start(stream, splitter, facts, credentials.clone()))
    }

    fn start(
        stream: Box<dyn Stream>,
        mut splitter: FrameSplitter,
        facts: Facts,
        credentials: Credentials,
    ) -> Self {
        splitter.set_frame_len_max(facts.max_message_size + FRAME_MARGIN);
        let (outbox, queued) = mpsc::channel(OUTBOX_LEN);
        let (pongs, pong_asked) = mpsc::channel(1);
        let mailboxes = Arc::new(Mailboxes::default());
        let closed = CancellationToken::new();
        let (read_half, write_half) = tokio::io::split(stream);
        let reader =
            Reader { splitter, mailboxes: mailboxes.clone(), pongs, outbox: outbox.downgrade(), credentials };
        let at_reader = closed.clone();
        let address = facts.address.clone();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                () = at_reader.cancelled() => Ok(()),
                outcome = reader.run(read_half) => outcome,
            };
            if let Err(problem) = outcome {
                tracing::debug!(broker = %address, %problem, "broker connection ended");
            }
            at_reader.cancel();
        });
        tokio::spawn(writer::run(write_half, queued, pong_asked, closed.clone()));
        let at_end = closed.clone();
        let ended_routes = mailboxes.clone();
        tokio::spawn(async move {
            at_end.cancelled().await;
            ended_routes.end();
        });
        Self { inner: Arc::new(Inner { outbox, mailboxes, closed, ids: AtomicU64::new(1), facts }) }
    }

    /// Where it leads.
    pub fn address(&self) -> &Address {
        &self.inner.facts.address
    }

    /// The broker's bound on a message, without headers.
    pub fn max_message_size(&self) -> u32 {
        self.inner.facts.max_message_size
    }

    /// The broker can answer about partitions without creating a topic (PIP-344).
    pub fn metadata_without_creation(&self) -> bool {
        self.inner.facts.metadata_without_creation
    }

    /// A number that is new on this connection.
    pub fn next_id(&self) -> u64 {
        self.inner.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.inner.closed.cancel();
    }

    /// Completes when the connection has ended.
    pub async fn closed(&self) {
        self.inner.closed.cancelled().await;
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.inner.closed.is_cancelled()
    }

    /// Sends a command that is answered under `request_id`, and waits for the answer.
    pub async fn request(
        &self,
        request_id: u64,
        command: &BaseCommand,
    ) -> Result<BaseCommand, ConnectionError> {
        let answer = self.begin_request(request_id, command).await?;
        answer.await
    }

    /// Sends a command that is answered under `request_id`; the answer can be awaited while other things go on.
    pub async fn begin_request(
        &self,
        request_id: u64,
        command: &BaseCommand,
    ) -> Result<impl Future<Output = Result<BaseCommand, ConnectionError>> + Send + use<>, ConnectionError>
    {
        let (sender, receiver) = oneshot::channel();
        let mut guard = AnswerGuard { mailboxes: self.inner.mailboxes.clone(), request_id };
        if !self.inner.mailboxes.expect_answer(request_id, sender) {
            return Err(ConnectionError::Lost("it has ended, or too many answers are awaited".into()));
        }
        self.send(Outgoing::Command(frame::encode(command))).await?;
        Ok(async move {
            let guard = &mut guard;
            let answer = tokio::time::timeout(ANSWER_DEADLINE, receiver).await;
            guard.mailboxes.forget_answer(guard.request_id);
            let command = answer
                .map_err(|_| ConnectionError::NoAnswer)?
                .map_err(|_| ConnectionError::Lost("before the answer came".into()))?;
            match command.error {
                Some(error) => Err(ConnectionError::refused(error.error, error.message)),
                None => Ok(command),
            }
        })
    }

    /// Sends a command that is not answered.
    pub async fn tell(&self, command: &BaseCommand) -> Result<(), ConnectionError> {
        self.send(Outgoing::Command(frame::encode(command))).await
    }

    /// Sends whole frames as they are.
    pub(super) async fn send_frames(&self, frames: Bytes) -> Result<(), ConnectionError> {
        self.send(Outgoing::Command(frames)).await
    }

    /// Sends a payload command: its frame head, the entry's head and its payload.
    pub async fn send_entry(
        &self,
        frame_head: Bytes,
        head: Bytes,
        payload: Bytes,
    ) -> Result<(), ConnectionError> {
        self.send(Outgoing::Entry([frame_head, head, payload])).await
    }

    async fn send(&self, outgoing: Outgoing) -> Result<(), ConnectionError> {
        tokio::select! {
            biased;
            () = self.inner.closed.cancelled() => Err(ConnectionError::Lost("while sending".into())),
            sent = self.inner.outbox.send(outgoing) =>
                sent.map_err(|_| ConnectionError::Lost("while sending".into())),
        }
    }

    /// Registers a consumer before it subscribes, with an inbox of at most `bytes_max` (or one entry).
    pub(super) fn register_consumer(
        &self,
        consumer_id: u64,
        bytes_max: usize,
    ) -> mpsc::Receiver<ConsumerMail> {
        let (sender, receiver) = mpsc::channel(INBOX_LEN);
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX).max(1);
        let inbox = Inbox { sender, bytes: Arc::new(Semaphore::new(bytes_max as usize)), bytes_max };
        self.inner.mailboxes.lock().consumers.insert(consumer_id, inbox);
        receiver
    }

    /// Registers a producer before it is created.
    pub(super) fn register_producer(&self, producer_id: u64) -> mpsc::Receiver<ProducerMail> {
        let (sender, receiver) = mpsc::channel(RECEIPTS_LEN);
        self.inner.mailboxes.lock().producers.insert(producer_id, sender);
        receiver
    }

    /// Forgets a consumer; what still comes for it is dropped.
    pub fn forget_consumer(&self, consumer_id: u64) {
        self.inner.mailboxes.lock().consumers.remove(&consumer_id);
    }

    /// Forgets a producer.
    pub fn forget_producer(&self, producer_id: u64) {
        self.inner.mailboxes.lock().producers.remove(&producer_id);
    }
}

/// Takes an abandoned request off the list.
struct AnswerGuard {
    mailboxes: Arc<Mailboxes>,
    request_id: u64,
}

impl Drop for AnswerGuard {
    fn drop(&mut self) {
        self.mailboxes.forget_answer(self.request_id);
    }
}

fn connect_command(
    credentials: &Credentials,
    certificate: bool,
    proxied: Option<String>,
) -> Result<BaseCommand, ConnectionError> {
    let token = credentials().map_err(ConnectionError::Credentials)?;
    let method = match (&token, certificate) {
        (Some(_), _) => Some(AUTH_METHOD),
        (None, true) => Some(AUTH_METHOD_TLS),
        (None, false) => None,
    };
    Ok(BaseCommand {
        r#type: kind::CONNECT,
        connect: Some(proto::Connect {
            client_version: CLIENT_VERSION.into(),
            auth_method_name: method.map(Into::into),
            auth_data: token,
            protocol_version: Some(PROTOCOL_VERSION),
            proxy_to_broker_url: proxied,
            feature_flags: Some(proto::FeatureFlags {
                supports_auth_refresh: Some(true),
                // Entries then come as they were published, without the broker's own metadata before them.
                supports_broker_entry_metadata: Some(false),
                supports_topic_watchers: None,
                supports_partition_metadata_without_creation: Some(true),
            }),
        }),
        ..BaseCommand::default()
    })
}

async fn handshake(
    stream: &mut Box<dyn Stream>,
    hello: BaseCommand,
) -> Result<(proto::Connected, FrameSplitter), ConnectionError> {
    let lost = |e: std::io::Error| ConnectionError::Lost(e.to_string());
    stream.write_all(&frame::encode(&hello)).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut splitter = FrameSplitter::new(HANDSHAKE_FRAME_LEN_MAX);
    let frame = next_frame(stream, &mut splitter).await?;
    let command = frame.decode()?;
    match (command.connected, command.error) {
        (Some(connected), _) => Ok((connected, splitter)),
        (None, Some(error)) => Err(ConnectionError::refused(error.error, error.message)),
        (None, None) => Err(ConnectionError::Lost(format!("command {} before CONNECTED", command.r#type))),
    }
}

/// Reads until a frame is whole. Partial bytes live in the splitter.
async fn next_frame<R: AsyncRead + Unpin>(
    stream: &mut R,
    splitter: &mut FrameSplitter,
) -> Result<Frame, ConnectionError> {
    loop {
        if let Some(frame) = splitter.next_frame()? {
            return Ok(frame);
        }
        read_more(stream, splitter).await?;
    }
}

/// Reads once. Cancel-safe.
pub(super) async fn read_more<R: AsyncRead + Unpin>(
    stream: &mut R,
    splitter: &mut FrameSplitter,
) -> Result<(), ConnectionError> {
    match stream.read_buf(splitter.inlet()).await {
        Ok(0) => Err(ConnectionError::Lost("closed by the broker".into())),
        Ok(_) => Ok(()),
        Err(error) => Err(ConnectionError::Lost(error.to_string())),
    }
}

/// The auth method that carries a token (`AuthenticationToken.java`).
pub(super) const AUTH_METHOD: &str = "token";
/// The one that takes the role from the TLS session (`AuthenticationProviderTls.java`). It has to be named: a broker
/// does not look at the certificate of somebody who names no method (`ServerCnx.handleConnect`).
const AUTH_METHOD_TLS: &str = "tls";
/// What brokers log of us.
pub(super) const CLIENT_VERSION: &str = concat!("pulsar-bridge-", env!("CARGO_PKG_VERSION"));
/// v21, the newest that 4.x brokers know; each answers with the smaller of both.
pub(super) const PROTOCOL_VERSION: i32 = 21;
/// A broker answers lookups and subscriptions within its own 30 s of metadata timeout.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// A broker that does not confirm a close within this is cut off; then it closes for itself.
pub(super) const CLOSE_DEADLINE: Duration = Duration::from_secs(3);
/// Commands and entries queued for the writer; the sink's window bounds their bytes.
const OUTBOX_LEN: usize = 1024;
/// Groups of entries, and other events, in an inbox; its bytes are bounded beside.
const INBOX_LEN: usize = 4096;
/// Groups of receipts not yet taken; more than any sink's window has receipts, so the reader never waits on them.
const RECEIPTS_LEN: usize = 4096;
/// What an old broker that names no bound has (`Commands.DEFAULT_MAX_MESSAGE_SIZE`).
const MAX_MESSAGE_SIZE: u32 = 5 * 1024 * 1024;
/// No cluster is run with larger messages; a broker's word beyond this is not believed.
const MAX_MESSAGE_SIZE_BOUND: u32 = 1 << 30;
/// `Commands.MESSAGE_SIZE_FRAME_PADDING` is 10 KiB; commands of the broker's own need some more.
const FRAME_MARGIN: u32 = 64 * 1024;
/// CONNECTED and ERROR are small.
const HANDSHAKE_FRAME_LEN_MAX: u32 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_who_we_are_where_no_token_does() {
        let token: Credentials = Arc::new(|| Ok(Some(Bytes::from_static(b"s3cret"))));
        let none: Credentials = Arc::new(|| Ok(None));
        for (credentials, certificate, method) in [
            (&token, true, Some("token")),
            (&token, false, Some("token")),
            (&none, true, Some("tls")),
            (&none, false, None),
        ] {
            let hello = connect_command(credentials, certificate, None).unwrap().connect.unwrap();
            assert_eq!(hello.auth_method_name.as_deref(), method);
        }
    }
}
