//! The worker: prices what requests ask for and returns the points. Acknowledges a request when the broker has its
//! result. Goes on after a break without pricing anything twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::figures::{Figures, add};
use super::message::{Message, payloads};
use super::points;
use super::request::{Request, RequestError};
use super::{RETRY_PAUSE, run_name};
use crate::pulsar::client::Client;
use crate::pulsar::connection::{ConnectionError, ConsumerEvent, Delivery, ProducerEvent};
use crate::pulsar::entry::Entry;
use crate::pulsar::proto::{MessageId, ServerError};
use crate::pulsar::publisher::Publisher;
use crate::pulsar::subscription::{SubscribeOptions, Subscription};
use crate::pulsar::topic::TopicName;

/// What a worker serves.
#[derive(Clone)]
pub struct Worker {
    /// Its cluster.
    pub client: Client,
    /// Where requests come.
    pub requests: TopicName,
    /// Where results go.
    pub results: TopicName,
}

/// A result without a receipt.
struct Unconfirmed {
    sequence_id: u64,
    key: String,
    result: Bytes,
    /// The entry of requests that is done with this result.
    ends: Option<MessageId>,
}

/// An entry whose requests are priced one by one.
struct Current {
    id: MessageId,
    requests: std::vec::IntoIter<Bytes>,
}

struct Run {
    worker: Worker,
    figures: Arc<Figures>,
    name: String,
    sent: u64,
    unconfirmed: VecDeque<Unconfirmed>,
    unconfirmed_bytes: usize,
    current: Option<Current>,
    /// The last entry that was taken: what comes again up to here has been.
    taken: Option<(u64, u64)>,
    /// When a refusal was last told, and how many were not.
    told: Option<Instant>,
    untold: u64,
}

impl Worker {
    /// Makes both topics and the subscription for requests, so that nothing is lost whoever else comes later.
    pub async fn prepare(&self) -> Result<(), ConnectionError> {
        let connection = self.client.connect_to_owner(&self.requests).await?;
        let outcome = Subscription::create(connection.clone(), &self.options()).await;
        connection.close();
        outcome?;
        let connection = self.client.connect_to_owner(&self.results).await?;
        Publisher::create(connection, &self.results, &run_name("worker-prepares")).await?.close().await;
        Ok(())
    }

    /// Serves until `stop`.
    pub async fn run(self, figures: Arc<Figures>, stop: CancellationToken) {
        let name = run_name("worker");
        let mut run = Run {
            worker: self,
            figures,
            name,
            sent: 0,
            unconfirmed: VecDeque::new(),
            unconfirmed_bytes: 0,
            current: None,
            taken: None,
            told: None,
            untold: 0,
        };
        let serve = async {
            loop {
                if let Err(error) = run.session().await {
                    tracing::warn!(%error, "the worker begins anew");
                }
                sleep(RETRY_PAUSE).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = serve => {}
        }
    }

    fn options(&self) -> SubscribeOptions {
        SubscribeOptions {
            topic: self.requests.clone(),
            subscription: "datagen-worker".into(),
            consumer_name: "datagen-worker".into(),
            metadata: Vec::new(),
            exclusive: false,
            earliest: true,
            priority: 0,
            create_topic: true,
            inbox_bytes: 1 << 20,
        }
    }
}

impl Run {
    async fn session(&mut self) -> Result<(), ConnectionError> {
        let Worker { client, requests, results } = self.worker.clone();
        let connection = client.connect_to_owner(&requests).await?;
        let mut subscription = Subscription::open(connection, &self.worker.options()).await?;
        let connection = client.connect_to_owner(&results).await?;
        let mut publisher = Publisher::create(connection, &results, &self.name).await?;
        for again in &self.unconfirmed {
            publisher.send(self.message(again).outbound()).await?;
        }
        loop {
            // However many requests an entry holds, and however many points they ask for.
            let has_room = self.unconfirmed_bytes < UNCONFIRMED_BYTES_MAX;
            let prices = has_room && self.current.is_some();
            // Losing the race loses nothing: channels take nothing before they complete.
            tokio::select! {
                biased;
                event = publisher.next() => self.on_receipt(&mut subscription, event).await?,
                () = std::future::ready(()), if prices => self.price_next(&mut subscription, &publisher).await?,
                event = subscription.next(), if has_room && !prices => match event {
                    Some(ConsumerEvent::Entry(delivery)) => self.on_requests(&mut subscription, delivery).await?,
                    Some(ConsumerEvent::Active(_) | ConsumerEvent::EndOfTopic) => {}
                    Some(ConsumerEvent::Closed) | None => {
                        return Err(ConnectionError::Lost("the consumer was closed".into()));
                    }
                },
            }
        }
    }

    async fn on_requests(
        &mut self,
        subscription: &mut Subscription,
        delivery: Delivery,
    ) -> Result<(), ConnectionError> {
        let (id, len) = (delivery.id, delivery.stored.len());
        let at = (id.ledger, id.entry);
        let entry = Entry::parse(delivery.stored.clone()).ok();
        let messages = entry.as_ref().map_or(1, |entry| entry.facts().messages());
        subscription.taken(messages, len).await?;
        if self.taken.is_none_or(|taken| at > taken) {
            self.taken = Some(at);
            let requests = entry.as_ref().and_then(payloads).unwrap_or_default().into_iter();
            self.current = Some(Current { id, requests });
        }
        Ok(())
    }

    /// Prices one request of the current entry, or comes to the entry's end.
    async fn price_next(
        &mut self,
        subscription: &mut Subscription,
        publisher: &Publisher,
    ) -> Result<(), ConnectionError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let Some(json) = current.requests.next() else {
            let Some(Current { id, .. }) = self.current.take() else { return Ok(()) };
            // Acknowledgements are cumulative: behind what is still without a receipt it has to wait.
            return match self.unconfirmed.back_mut() {
                Some(last) => {
                    last.ends = Some(id);
                    Ok(())
                }
                None => subscription.acknowledge(id, Vec::new()).await,
            };
        };
        match Request::parse(&json) {
            Ok(request) => {
                let result = points::priced(&request);
                add(&self.figures.served, 1);
                self.unconfirmed_bytes += result.len();
                let (sequence_id, key) = (self.sent, request.experiment);
                let new = Unconfirmed { sequence_id, key, result, ends: None };
                self.sent += 1;
                let outbound = self.message(&new).outbound();
                self.unconfirmed.push_back(new);
                publisher.send(outbound).await
            }
            Err(error) => {
                self.refused(&error);
                Ok(())
            }
        }
    }

    /// Told once in a while, however many there are.
    fn refused(&mut self, error: &RequestError) {
        add(&self.figures.refused, 1);
        if self.told.is_some_and(|told| told.elapsed() < REFUSALS_TOLD_EVERY) {
            self.untold += 1;
            return;
        }
        tracing::warn!(%error, untold = self.untold, "a request is not served");
        (self.told, self.untold) = (Some(Instant::now()), 0);
    }

    fn message<'a>(&'a self, unconfirmed: &'a Unconfirmed) -> Message<'a> {
        Message {
            producer: &self.name,
            sequence_id: unconfirmed.sequence_id,
            key: Some(&unconfirmed.key),
            payload: unconfirmed.result.clone(),
        }
    }

    async fn on_receipt(
        &mut self,
        subscription: &mut Subscription,
        event: Option<ProducerEvent>,
    ) -> Result<(), ConnectionError> {
        let sequence_id = match event {
            Some(ProducerEvent::Receipt { sequence_id, .. }) => sequence_id,
            // A result that the broker never takes, such as one larger than its topic allows, holds up no other.
            Some(ProducerEvent::SendError { sequence_id, error: ServerError::NotAllowed, .. }) => {
                self.refused(&RequestError::NotTaken);
                sequence_id
            }
            Some(ProducerEvent::SendError { error, message, .. }) => {
                return Err(ConnectionError::Refused { error, message });
            }
            Some(ProducerEvent::Closed) | None => {
                return Err(ConnectionError::Lost("the producer was closed".into()));
            }
        };
        match self.answered(sequence_id) {
            Some(id) => subscription.acknowledge(id, Vec::new()).await,
            None => Ok(()),
        }
    }

    /// Forgets a result; gives the entry of requests that is done when nothing is left before its end. One by one: a
    /// refusal comes ahead of earlier receipts.
    fn answered(&mut self, sequence_id: u64) -> Option<MessageId> {
        let at = self.unconfirmed.iter().position(|result| result.sequence_id == sequence_id)?;
        let answered = self.unconfirmed.remove(at)?;
        self.unconfirmed_bytes -= answered.result.len();
        match at.checked_sub(1).and_then(|before| self.unconfirmed.get_mut(before)) {
            Some(before) => {
                before.ends = answered.ends.or(before.ends.take());
                None
            }
            None => answered.ends,
        }
    }
}

/// Results that wait for the broker; one more, of at most 4 MiB, may be on top.
const UNCONFIRMED_BYTES_MAX: usize = 8 << 20;
const REFUSALS_TOLD_EVERY: Duration = Duration::from_secs(1);
