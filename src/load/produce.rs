//! A measured producer: messages of one size with random payloads or text, singly or in batches, at a rate or as fast as
//! the broker confirms. Each message begins with its number, so that a consumer can tell what is missing.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::message::now_ms;
use super::meter::Meter;
use super::numbers;
use super::request::Request;
use super::run_name;
use crate::pulsar::batch::single_tag;
use crate::pulsar::client::Client;
use crate::pulsar::connection::{ConnectionError, ProducerEvent};
use crate::pulsar::entry::tag;
use crate::pulsar::fields;
use crate::pulsar::message::outbound;
use crate::pulsar::publisher::{Outbound, Publisher};
use crate::pulsar::topic::TopicName;

/// What is produced.
#[derive(Clone)]
pub struct Produce {
    /// Where.
    pub client: Client,
    /// One topic-partition.
    pub topic: TopicName,
    /// Who writes, as its messages say; each one's payloads are its own.
    pub writer: u64,
    /// Bytes of a message; at least [`HEAD_LEN`](super::numbers::HEAD_LEN) for its writer and number to be there.
    pub size: usize,
    /// Whether they look like data-generation requests, which compress, instead of noise, which does not.
    pub text: bool,
    /// Messages in a batch; 1: not batched.
    pub batch: u32,
    /// Messages, or until it is stopped.
    pub messages: Option<u64>,
    /// Messages per second, or as fast as it goes.
    pub rate: Option<f64>,
    /// Entries without a receipt.
    pub outstanding_max: usize,
}

impl Produce {
    /// Produces until all are confirmed, or stopped and what was sent is confirmed; gives how many were.
    pub async fn run(self, meter: &Meter, stop: &CancellationToken) -> Result<u64, ConnectionError> {
        let name = run_name("perf");
        let connection = self.client.connect_to_owner(&self.topic).await?;
        let mut publisher = Publisher::create(connection, &self.topic, &name).await?;
        let pool =
            if self.text { text_pool(self.writer, self.size) } else { random_pool(self.writer, self.size) };
        let mut outstanding: VecDeque<(u32, usize, Instant)> = VecDeque::new();
        let mut pace = Pace { next: 0, next_at: Instant::now() };
        let (mut confirmed, mut stopping, mut heard_at) = (0, false, Instant::now());
        meter.begin();
        loop {
            stopping |= stop.is_cancelled();
            let done = stopping || self.left(&pace) == 0;
            if done && outstanding.is_empty() {
                publisher.close().await;
                return Ok(confirmed);
            }
            let may_send = !done && outstanding.len() < self.outstanding_max;
            // Losing the race loses nothing: channels take nothing before they complete.
            tokio::select! {
                biased;
                () = stop.cancelled(), if !stopping => {}
                event = publisher.next() => {
                    confirmed += on_event(event, &mut outstanding, meter)?;
                    while let Some(event) = publisher.try_next() {
                        confirmed += on_event(Some(event), &mut outstanding, meter)?;
                    }
                    heard_at = Instant::now();
                }
                () = sleep_until(heard_at + ANSWER_DEADLINE), if !outstanding.is_empty() => {
                    let silence = format!("{} entries are not confirmed for {ANSWER_DEADLINE:?}", outstanding.len());
                    return Err(ConnectionError::Lost(silence));
                }
                () = due(pace.next_at), if may_send => {
                    if outstanding.is_empty() {
                        heard_at = Instant::now();
                    }
                    let together = self.due_now(&mut pace, &mut outstanding, &name, &pool);
                    send(&publisher, together).await?;
                }
            }
        }
    }

    fn left(&self, pace: &Pace) -> u64 {
        self.messages.map_or(u64::MAX, |messages| messages - pace.next)
    }

    /// What is to be sent now; it is outstanding.
    fn due_now(
        &self,
        pace: &mut Pace,
        outstanding: &mut VecDeque<(u32, usize, Instant)>,
        name: &str,
        pool: &Bytes,
    ) -> Vec<Outbound> {
        let (mut together, mut len) = (Vec::new(), 0);
        while outstanding.len() < self.outstanding_max && len < TOGETHER_LEN {
            let (now, left) = (Instant::now(), self.left(pace));
            if left == 0 || pace.next_at > now {
                break;
            }
            let count = u64::from(self.batch).min(left) as u32;
            if let Some(rate) = self.rate {
                // Behind by less than a second is made up for.
                pace.next_at = pace.next_at.max(now - Duration::from_secs(1))
                    + Duration::from_secs_f64(f64::from(count) / rate);
            }
            let entry = self.entry(name, pace.next, count, pool);
            pace.next += u64::from(count);
            outstanding.push_back((count, entry.payload.len(), now));
            len += entry.payload.len();
            together.push(entry);
        }
        together
    }

    fn entry(&self, name: &str, first: u64, count: u32, pool: &Bytes) -> Outbound {
        let writer = self.writer;
        let last = first + u64::from(count) - 1;
        let payload = if self.batch == 1 {
            let mut message = BytesMut::with_capacity(self.size);
            put_message(writer, first, self.size, pool, &mut message);
            message.freeze()
        } else {
            batch(writer, first, count, self.size, pool)
        };
        let mut metadata = Vec::with_capacity(64);
        fields::put_bytes(&mut metadata, tag::PRODUCER_NAME, name.as_bytes());
        fields::put_varint(&mut metadata, tag::SEQUENCE_ID, first);
        fields::put_varint(&mut metadata, tag::PUBLISH_TIME, now_ms());
        if self.batch > 1 {
            fields::put_varint(&mut metadata, tag::UNCOMPRESSED_SIZE, payload.len() as u64);
            fields::put_varint(&mut metadata, tag::NUM_MESSAGES_IN_BATCH, count.into());
            fields::put_varint(&mut metadata, tag::HIGHEST_SEQUENCE_ID, last);
        }
        let outbound = outbound(first, count, &metadata, payload);
        Outbound { highest_sequence_id: (self.batch > 1).then_some(last), ..outbound }
    }
}

/// Which message is the next, and when.
struct Pace {
    next: u64,
    next_at: Instant,
}

async fn due(at: Instant) {
    if at > Instant::now() {
        sleep_until(at).await;
    }
}

/// Large ones each for itself, so that they are not copied.
async fn send(publisher: &Publisher, mut entries: Vec<Outbound>) -> Result<(), ConnectionError> {
    match entries.as_slice() {
        [_] => match entries.pop() {
            Some(entry) => publisher.send(entry).await,
            None => Ok(()),
        },
        _ => publisher.send_together(&entries).await,
    }
}

fn on_event(
    event: Option<ProducerEvent>,
    outstanding: &mut VecDeque<(u32, usize, Instant)>,
    meter: &Meter,
) -> Result<u64, ConnectionError> {
    match event {
        Some(ProducerEvent::Receipt { .. }) => {
            let Some((messages, bytes, at)) = outstanding.pop_front() else { return Ok(0) };
            meter.saw(messages, bytes, at.elapsed());
            Ok(messages.into())
        }
        Some(ProducerEvent::SendError { error, message, .. }) => {
            meter.failed(outstanding.pop_front().map_or(1, |(messages, ..)| messages));
            Err(ConnectionError::Refused { error, message })
        }
        Some(ProducerEvent::Closed) | None => Err(ConnectionError::Lost("the producer was closed".into())),
    }
}

fn put_message(writer: u64, number: u64, size: usize, pool: &Bytes, out: &mut BytesMut) {
    let head = numbers::head(writer, number);
    let head = &head[..head.len().min(size)];
    out.put_slice(head);
    let rest = size - head.len();
    // Neighbours share nothing until the pool is used up, so that no compressor finds them again soon.
    let at = (number as usize).wrapping_mul(rest | 1) % (pool.len() - rest);
    out.put_slice(&pool[at..at + rest]);
}

/// `Commands.serializeSingleMessageInBatchWithPayload`.
fn batch(writer: u64, first: u64, count: u32, size: usize, pool: &Bytes) -> Bytes {
    let mut metadata = Vec::with_capacity(8);
    fields::put_varint(&mut metadata, single_tag::PAYLOAD_SIZE, size as u64);
    let mut payload = BytesMut::with_capacity(count as usize * (4 + metadata.len() + size));
    for number in first..first + u64::from(count) {
        payload.put_u32(metadata.len() as u32);
        payload.put_slice(&metadata);
        put_message(writer, number, size, pool, &mut payload);
    }
    payload.freeze()
}

/// Requests, one behind the other.
fn text_pool(writer: u64, size: usize) -> Bytes {
    let (mut pool, run) = (BytesMut::new(), writer << 32);
    for nth in 0.. {
        if pool.len() >= POOL_LEN.max(POOL_MESSAGES * size) + size {
            break;
        }
        // Numbers and names: it cannot fail.
        pool.put_slice(&Request::nth(run, nth, 512).to_json().unwrap_or_default());
        pool.put_u8(b'\n');
    }
    pool.freeze()
}

/// Bytes that do not compress.
fn random_pool(writer: u64, size: usize) -> Bytes {
    let words = (POOL_LEN.max(POOL_MESSAGES * size) + size) / 8 + 1;
    (0..words as u64).flat_map(|nth| numbers::seeded((writer, nth)).to_le_bytes()).collect::<Vec<u8>>().into()
}

/// As long as Pulsar's clients wait for a confirmation (`sendTimeout`).
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Entries that are sent at once: those of some ten microseconds, or a large one.
const TOGETHER_LEN: usize = 8 << 10;
const POOL_LEN: usize = 1 << 20;
/// So many large messages share nothing.
const POOL_MESSAGES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writers_payloads_are_the_same_each_time_and_nobody_elses() {
        for pool in [random_pool, text_pool] {
            assert_eq!(pool(7, 1024), pool(7, 1024));
            assert_ne!(pool(7, 1024), pool(8, 1024));
        }
    }
}
