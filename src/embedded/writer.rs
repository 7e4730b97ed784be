//! The writing half of a connection: takes what waits on its line, and what its consumers may have, and writes it in
//! large pieces. It takes from topics no more than one write at a time: a client that does not read has nothing
//! queued for it here but that. Sends a PING at a fixed beat, also while nothing is read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::MissedTickBehavior;

use super::delivery::{Delivery, Haul};
use super::line::{Feed, Line};
use super::wire;
use crate::pulsar::write_queue::WriteQueue;

/// Writes until the connection is closed or breaks; then closes it.
pub async fn run(mut socket: OwnedWriteHalf, line: Arc<Line>) {
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + PING_BEAT, PING_BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut writer = Writer::default();
    loop {
        writer.fill(&line);
        if !writer.pieces.queue.is_empty() {
            // A write that loses the race may have cut a frame: the socket is closed.
            tokio::select! {
                biased;
                () = line.closed.cancelled() => break,
                written = write(&mut writer.pieces.queue, &mut socket) => if written.is_err() { break },
            }
            continue;
        }
        // Losing the race loses nothing: being woken is remembered, and a tick is only a time.
        tokio::select! {
            biased;
            () = line.closed.cancelled() => break,
            () = line.woken() => {}
            _ = beat.tick() => line.ping(),
        }
    }
    line.closed.cancel();
    let _ = tokio::time::timeout(SHUTDOWN_DEADLINE, socket.shutdown()).await;
}

/// Writes everything that waits, as long as the client takes something now and then.
async fn write(queue: &mut WriteQueue, socket: &mut OwnedWriteHalf) -> io::Result<()> {
    while !queue.is_empty() {
        // Losing the race against time loses the connection.
        let written = tokio::time::timeout(UNREAD_MAX, socket.write_buf(queue)).await;
        if written.map_err(|_| io::ErrorKind::TimedOut)?? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

struct Writer {
    pieces: Pieces,
    ready: Vec<Arc<Feed>>,
    haul: Haul,
}

/// What is to be written.
struct Pieces {
    queue: WriteQueue,
    /// Small pieces, copied together.
    small: BytesMut,
}

impl Default for Writer {
    fn default() -> Self {
        let pieces = Pieces { queue: WriteQueue::default(), small: BytesMut::with_capacity(SMALL_CAPACITY) };
        Self { pieces, ready: Vec::new(), haul: Haul::new(0) }
    }
}

impl Writer {
    /// Queues what waits: answers first, then a haul for each consumer that is ready, as long as there is room.
    fn fill(&mut self, line: &Line) {
        let answers = line.take(&mut self.ready);
        self.pieces.queue.push(answers);
        for feed in std::mem::take(&mut self.ready) {
            if self.pieces.is_full() {
                self.ready.push(feed);
                continue;
            }
            feed.begin();
            self.haul.clear(HAUL_LEN);
            feed.topic.take(&feed, &mut self.haul);
            if self.haul.deliveries.is_empty() {
                continue;
            }
            let partition = feed.topic.partition();
            for delivery in self.haul.deliveries.drain(..) {
                self.pieces.put(feed.consumer_id, partition, delivery);
            }
            // There may be more; if not, the next round finds that out.
            feed.wake();
        }
        self.pieces.flush_small();
    }
}

impl Pieces {
    fn is_full(&self) -> bool {
        self.queue.is_full() || self.small.len() >= HAUL_LEN
    }

    fn put(&mut self, consumer_id: u64, partition: Option<i32>, delivery: Delivery) {
        wire::put_message_head(consumer_id, &delivery, partition, &mut self.small);
        if delivery.bytes.len() <= COPIED_LEN_MAX {
            self.small.extend_from_slice(&delivery.bytes);
        } else {
            self.flush_small();
            self.queue.push(delivery.bytes);
        }
    }

    fn flush_small(&mut self) {
        self.queue.push(self.small.split().freeze());
        self.small.reserve(SMALL_CAPACITY / 2);
    }
}

/// Half a real broker's patience (`keepAliveIntervalSeconds`), so that one may be late.
const PING_BEAT: Duration = Duration::from_secs(15);
/// Two beats of a client's keepalive (30 s): a client that lives reads the PINGs among what waits.
const UNREAD_MAX: Duration = Duration::from_secs(60);
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);
/// What one consumer is given before the next one's turn.
const HAUL_LEN: usize = 256 * 1024;
/// Below this, copying is cheaper than one more slice in a write.
const COPIED_LEN_MAX: usize = 4 * 1024;
const SMALL_CAPACITY: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;

    use super::*;

    async fn line_to(listener: &TcpListener) -> (Arc<Line>, tokio::net::tcp::OwnedWriteHalf) {
        let (socket, _) = listener.accept().await.unwrap();
        let line = Line::new(socket.local_addr().unwrap(), CancellationToken::new());
        (Arc::new(line), socket.into_split().1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_is_let_go() {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
        let _unread = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (line, socket) = line_to(&listener).await;
        // More than two socket buffers hold.
        line.say_all(&mut BytesMut::zeroed(64 << 20));
        let began = tokio::time::Instant::now();
        run(socket, line.clone()).await;
        assert!(line.closed.is_cancelled());
        assert!(began.elapsed() >= UNREAD_MAX);
    }

    #[tokio::test]
    async fn what_others_cause_and_nobody_reads_closes_the_line() {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
        let _unread = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (line, _socket) = line_to(&listener).await;
        let pings = (1..).find(|_| {
            line.ping();
            line.closed.is_cancelled()
        });
        assert!(pings.unwrap() > 1_000_000);
    }
}
