//! The requester: sends data-generation requests, keeps what is unanswered, checks each result. Goes on after a
//! break: what has no receipt is sent again under its own sequence id, for the broker to drop if it has it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::figures::{Figures, add};
use super::message::{Message, payloads};
use super::points;
use super::request::Request;
use super::{RETRY_PAUSE, run_name};
use crate::pulsar::client::Client;
use crate::pulsar::connection::{ConnectionError, ConsumerEvent, Delivery, ProducerEvent};
use crate::pulsar::entry::Entry;
use crate::pulsar::publisher::Publisher;
use crate::pulsar::subscription::{SubscribeOptions, Subscription};
use crate::pulsar::topic::TopicName;

/// What a requester asks for, where, and how fast.
#[derive(Clone)]
pub struct Requester {
    /// Its cluster.
    pub client: Client,
    /// Where requests go.
    pub requests: TopicName,
    /// Where results come.
    pub results: TopicName,
    /// Points in each result.
    pub points: u32,
    /// Requests that may be unanswered at once.
    pub unanswered_max: usize,
    /// Requests per second; as fast as they are answered without.
    pub rate: Option<f64>,
}

/// What was asked and not yet answered.
struct Asked {
    request: Request,
    at: Instant,
}

struct Run {
    requester: Requester,
    figures: Arc<Figures>,
    name: String,
    /// The upper half of this run's request ids.
    run: u64,
    sent: u64,
    unanswered: BTreeMap<u64, Asked>,
    /// Sequence ids without a receipt, with what was sent under them.
    unconfirmed: VecDeque<(u64, String, Bytes)>,
    /// The last entry of results that was taken: what comes again up to here has been.
    taken: Option<(u64, u64)>,
    stopping_since: Option<Instant>,
    next_at: Instant,
}

impl Requester {
    /// Makes both topics and the subscription for results, so that nothing is lost whoever else comes later.
    pub async fn prepare(&self) -> Result<(), ConnectionError> {
        let connection = self.client.connect_to_owner(&self.results).await?;
        let outcome = Subscription::create(connection.clone(), &self.options(&self.results)).await;
        connection.close();
        outcome?;
        let connection = self.client.connect_to_owner(&self.requests).await?;
        Publisher::create(connection, &self.requests, &run_name("requester-prepares")).await?.close().await;
        Ok(())
    }

    /// Sends until `stop`, then waits up to `patience` for what is unanswered.
    pub async fn run(self, figures: Arc<Figures>, stop: CancellationToken, patience: Duration) {
        let name = run_name("requester");
        let mut run = Run {
            run: name.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte)) << 32 >> 1,
            requester: self,
            figures,
            name,
            sent: 0,
            unanswered: BTreeMap::new(),
            unconfirmed: VecDeque::new(),
            taken: None,
            stopping_since: None,
            next_at: Instant::now(),
        };
        while let Err(error) = run.session(&stop, patience).await {
            tracing::warn!(%error, "the requester begins anew");
            if run.is_over(patience) {
                return;
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    fn options(&self, topic: &TopicName) -> SubscribeOptions {
        SubscribeOptions {
            topic: topic.clone(),
            subscription: "datagen-requester".into(),
            consumer_name: "datagen-requester".into(),
            metadata: Vec::new(),
            exclusive: true,
            earliest: true,
            priority: 0,
            create_topic: true,
            inbox_bytes: 4 << 20,
        }
    }
}

impl Run {
    /// One life of the connections; `Ok` when the run is over.
    async fn session(&mut self, stop: &CancellationToken, patience: Duration) -> Result<(), ConnectionError> {
        let Requester { client, requests, results, .. } = self.requester.clone();
        let connection = client.connect_to_owner(&results).await?;
        let mut subscription = Subscription::open(connection, &self.requester.options(&results)).await?;
        let connection = client.connect_to_owner(&requests).await?;
        let mut publisher = Publisher::create(connection, &requests, &self.name).await?;
        for (sequence_id, key, payload) in &self.unconfirmed {
            publisher.send(self.message(*sequence_id, key, payload.clone()).outbound()).await?;
        }
        loop {
            if stop.is_cancelled() && self.stopping_since.is_none() {
                self.stopping_since = Some(Instant::now());
            }
            let give_up = self.stopping_since.map(|since| since + patience);
            if self.is_over(patience) {
                publisher.close().await;
                subscription.close().await;
                return Ok(());
            }
            let may_send = self.stopping_since.is_none()
                && self.unanswered.len() < self.requester.unanswered_max
                && self.unconfirmed.len() < self.requester.unanswered_max;
            // Losing the race loses nothing: channels take nothing before they complete.
            tokio::select! {
                biased;
                () = stop.cancelled(), if self.stopping_since.is_none() => {}
                event = publisher.next() => self.on_producer(event)?,
                event = subscription.next() => self.on_consumer(&mut subscription, event).await?,
                () = sleep_until(give_up.unwrap_or(self.next_at)), if give_up.is_some() => {}
                () = sleep_until(self.next_at), if may_send => self.send_next(&publisher).await?,
            }
        }
    }

    fn is_over(&self, patience: Duration) -> bool {
        self.stopping_since
            .is_some_and(|since| self.unanswered.is_empty() || Instant::now() >= since + patience)
    }

    async fn send_next(&mut self, publisher: &Publisher) -> Result<(), ConnectionError> {
        if let Some(rate) = self.requester.rate {
            // Behind by less than a second is made up for.
            let earliest = Instant::now() - Duration::from_secs(1);
            self.next_at = self.next_at.max(earliest) + Duration::from_secs_f64(1.0 / rate);
        }
        let sequence_id = self.sent;
        self.sent += 1;
        let request = Request::nth(self.run, sequence_id, self.requester.points);
        let Ok(json) = request.to_json() else {
            return Ok(());
        };
        let (key, payload) = (request.experiment.clone(), Bytes::from(json));
        add(&self.figures.requests, 1);
        add(&self.figures.request_bytes, payload.len() as u64);
        self.unconfirmed.push_back((sequence_id, key.clone(), payload.clone()));
        self.unanswered.insert(request.id, Asked { request, at: Instant::now() });
        publisher.send(self.message(sequence_id, &key, payload).outbound()).await
    }

    fn message<'a>(&'a self, sequence_id: u64, key: &'a str, payload: Bytes) -> Message<'a> {
        Message { producer: &self.name, sequence_id, key: Some(key), payload }
    }

    fn on_producer(&mut self, event: Option<ProducerEvent>) -> Result<(), ConnectionError> {
        match event {
            Some(ProducerEvent::Receipt { sequence_id, .. }) => {
                while self.unconfirmed.pop_front_if(|(first, ..)| *first <= sequence_id).is_some() {}
                Ok(())
            }
            Some(ProducerEvent::SendError { error, message, .. }) => {
                Err(ConnectionError::Refused { error, message })
            }
            Some(ProducerEvent::Closed) | None => {
                Err(ConnectionError::Lost("the producer was closed".into()))
            }
        }
    }

    async fn on_consumer(
        &mut self,
        subscription: &mut Subscription,
        event: Option<ConsumerEvent>,
    ) -> Result<(), ConnectionError> {
        match event {
            Some(ConsumerEvent::Entry(delivery)) => self.on_results(subscription, delivery).await,
            Some(ConsumerEvent::Active(_) | ConsumerEvent::EndOfTopic) => Ok(()),
            Some(ConsumerEvent::Closed) | None => {
                Err(ConnectionError::Lost("the consumer was closed".into()))
            }
        }
    }

    async fn on_results(
        &mut self,
        subscription: &mut Subscription,
        delivery: Delivery,
    ) -> Result<(), ConnectionError> {
        let (id, len) = (delivery.id, delivery.stored.len());
        let entry = Entry::parse(delivery.stored.clone()).ok();
        let messages = entry.as_ref().map_or(1, |entry| entry.facts().messages());
        let at = (id.ledger, id.entry);
        if self.taken.is_none_or(|taken| at > taken) {
            self.taken = Some(at);
            match entry.as_ref().and_then(payloads) {
                Some(results) => results.iter().for_each(|result| self.on_result(result)),
                None => add(&self.figures.wrong, 1),
            }
        }
        subscription.acknowledge(id, Vec::new()).await?;
        subscription.taken(messages, len).await
    }

    fn on_result(&mut self, result: &[u8]) {
        let Some(id) = points::request_id(result) else {
            return add(&self.figures.strays, 1);
        };
        let Some(asked) = self.unanswered.get(&id) else {
            let is_ours = id >= self.run && id - self.run < self.sent;
            return add(if is_ours { &self.figures.repeated } else { &self.figures.strays }, 1);
        };
        if let Err(error) = points::check(result, &asked.request) {
            tracing::error!(id, %error, "a result is not what was asked for");
            return add(&self.figures.wrong, 1);
        }
        self.figures.took(asked.at.elapsed());
        add(&self.figures.answered, 1);
        add(&self.figures.points, asked.request.points.into());
        add(&self.figures.result_bytes, result.len() as u64);
        self.unanswered.remove(&id);
    }
}
