//! The worker: prices what requests ask for and returns the points. Acknowledges a request when the broker has its
//! result. Goes on after a break without pricing anything twice.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::figures::{Figures, add};
use super::message::{Message, payloads};
use super::points;
use super::request::Request;
use super::{RETRY_PAUSE, run_name};
use crate::pulsar::client::Client;
use crate::pulsar::connection::{ConnectionError, ConsumerEvent, Delivery, ProducerEvent};
use crate::pulsar::entry::Entry;
use crate::pulsar::proto::MessageId;
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

struct Run {
    worker: Worker,
    figures: Arc<Figures>,
    name: String,
    sent: u64,
    unconfirmed: VecDeque<Unconfirmed>,
    /// The last entry that was priced: what comes again up to here has been.
    priced: Option<(u64, u64)>,
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
        let unconfirmed = VecDeque::new();
        let mut run = Run { worker: self, figures, name, sent: 0, unconfirmed, priced: None };
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
            let has_room = self.unconfirmed.len() < UNCONFIRMED_MAX;
            // Losing the race loses nothing: channels take nothing before they complete.
            tokio::select! {
                biased;
                event = publisher.next() => self.on_receipt(&mut subscription, event).await?,
                event = subscription.next(), if has_room => match event {
                    Some(ConsumerEvent::Entry(delivery)) => {
                        self.on_requests(&mut subscription, &publisher, delivery).await?;
                    }
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
        publisher: &Publisher,
        delivery: Delivery,
    ) -> Result<(), ConnectionError> {
        let (id, len) = (delivery.id, delivery.stored.len());
        let at = (id.ledger, id.entry);
        let entry = Entry::parse(delivery.stored.clone()).ok();
        let messages = entry.as_ref().map_or(1, |entry| entry.facts().messages());
        subscription.taken(messages, len).await?;
        if self.priced.is_some_and(|priced| at <= priced) {
            return Ok(());
        }
        self.priced = Some(at);
        let requests = entry.as_ref().and_then(payloads).unwrap_or_default();
        let first_new = self.unconfirmed.len();
        for json in &requests {
            match Request::parse(json) {
                Ok(request) => self.price(request),
                Err(error) => {
                    tracing::warn!(%error, "a request is not served");
                    add(&self.figures.refused, 1);
                }
            }
        }
        // Acknowledgements are cumulative: behind what is still without a receipt it has to wait.
        match self.unconfirmed.back_mut() {
            Some(last) => last.ends = Some(id),
            None => subscription.acknowledge(id, Vec::new()).await?,
        }
        for new in self.unconfirmed.range(first_new..) {
            publisher.send(self.message(new).outbound()).await?;
        }
        Ok(())
    }

    fn price(&mut self, request: Request) {
        let result = points::priced(&request);
        add(&self.figures.served, 1);
        let (sequence_id, key) = (self.sent, request.experiment);
        self.unconfirmed.push_back(Unconfirmed { sequence_id, key, result, ends: None });
        self.sent += 1;
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
            Some(ProducerEvent::SendError { error, message, .. }) => {
                return Err(ConnectionError::Refused { error, message });
            }
            Some(ProducerEvent::Closed) | None => {
                return Err(ConnectionError::Lost("the producer was closed".into()));
            }
        };
        let mut ends = None;
        while let Some(first) = self.unconfirmed.pop_front_if(|first| first.sequence_id <= sequence_id) {
            ends = first.ends.or(ends);
        }
        match ends {
            Some(id) => subscription.acknowledge(id, Vec::new()).await,
            None => Ok(()),
        }
    }
}

/// Results that wait for the broker; with batched requests it is passed by one batch.
const UNCONFIRMED_MAX: usize = 64;
