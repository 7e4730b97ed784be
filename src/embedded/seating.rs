//! Producers and consumers come to a topic and go: names, rules, positions. The other half of `topic.rs`.

use std::sync::Arc;

use super::commands::{self, ActiveConsumerChange, Answer, Numbered, kind};
use super::delivery::Key;
use super::line::{Feed, Line};
use super::log::{Log, Position, Stored};
use super::subscription::{Busy, Kind, Newcomer, News, Subscription};
use super::topic::{Refused, Registered, Seat, State, Topic};
use super::wire;
use crate::pulsar::proto::ServerError;

/// A producer that asks to be let in.
#[derive(Debug)]
pub struct ProducerRequest {
    pub producer_id: u64,
    pub name: String,
    pub epoch: u64,
    pub is_exclusive: bool,
    pub initial_subscription: Option<String>,
}

/// A consumer that asks to be let in.
#[derive(Clone, Debug)]
pub struct ConsumerRequest {
    pub consumer_id: u64,
    pub request_id: u64,
    pub subscription: String,
    pub kind: Kind,
    pub name: String,
    pub priority: i32,
    pub epoch: Option<u64>,
    pub durable: bool,
    pub start: Start,
    /// Whatever the subscription says: from what was published at this time on.
    pub since: Option<u64>,
}

/// Where a subscription begins that is not there yet.
#[derive(Clone, Debug)]
pub enum Start {
    Earliest,
    Latest,
    /// At this entry: what of it is to be passed over, the client knows (`PersistentTopic.getNonDurableSubscription`
    /// takes one step back, as any id may be one within a batch).
    At(commands::MessageId),
}

/// Where a subscription is set to.
#[derive(Clone, Debug)]
pub enum Target {
    Message(commands::MessageId),
    /// What was published at this time or later.
    Time(u64),
}

impl Topic {
    /// Lets a producer in; with it comes the highest sequence id pushed under its name, or −1.
    pub fn add_producer(
        self: &Arc<Self>,
        request: &ProducerRequest,
        key: Key,
        line: &Arc<Line>,
    ) -> Result<(Seat, i64), Refused> {
        let mut state = self.lock();
        check_mode(&state, request, line)?;
        if let Some(holder) = state.producers.get(&request.name) {
            let is_same = Arc::ptr_eq(&holder.line, line);
            // `Producer.isSuccessorTo`
            if !(is_same && holder.producer_id == request.producer_id && holder.epoch < request.epoch) {
                let message = format!("Producer with name '{}' is already connected to topic", request.name);
                let holder = (!is_same).then(|| holder.line.clone());
                return Err(Refused { error: ServerError::ProducerBusy, message, holder });
            }
        } else if state.producers.len() >= PRODUCERS_MAX {
            return Err(Refused::new(ServerError::ProducerBusy, "the topic has as many producers as it may"));
        }
        if let Some(subscription) = &request.initial_subscription {
            let mark = state.log.first();
            self.subscription(&mut state, subscription, true, |_| mark)?;
        }
        let registered = Registered {
            key,
            line: line.clone(),
            producer_id: request.producer_id,
            epoch: request.epoch,
            is_exclusive: request.is_exclusive,
        };
        state.producers.insert(request.name.clone(), registered);
        let last = match self.rules().deduplication {
            true => state.dedup.last_pushed(&request.name).map_or(-1, |id| id as i64),
            false => -1,
        };
        Ok((Seat { topic: self.clone(), name: request.name.clone(), key }, last))
    }

    /// A producer goes.
    pub fn remove_producer(&self, seat: &Seat) {
        let mut state = self.lock();
        if state.producers.get(&seat.name).is_some_and(|holder| holder.key == seat.key) {
            state.producers.remove(&seat.name);
        }
    }

    /// Lets a consumer in, and tells it so before it is told anything else.
    pub fn subscribe(
        self: &Arc<Self>,
        request: &ConsumerRequest,
        key: Key,
        line: &Arc<Line>,
    ) -> Result<Arc<Feed>, Refused> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.feeds.len() >= CONSUMERS_MAX {
            return Err(Refused::new(ServerError::ConsumerBusy, "the topic has as many consumers as it may"));
        }
        let newcomer = Newcomer {
            key,
            kind: request.kind,
            name: request.name.clone(),
            priority: request.priority,
            epoch: request.epoch,
        };
        let since = request.since.map(|time| state.log.first_since(time));
        let subscription = self.subscription(state, &request.subscription, request.durable, |log| {
            start_offset(log, &request.start)
        })?;
        if let (Some(mark), true) = (since, subscription.consumers().is_empty()) {
            subscription.reset(mark, &[]);
        }
        let news = subscription.join(newcomer).map_err(|busy| refused(busy, state))?;
        let feed = Arc::new(Feed::new(
            self.clone(),
            request.subscription.clone(),
            key,
            request.consumer_id,
            line.clone(),
        ));
        state.feeds.insert(key, feed.clone());
        if let Some(subscription) = state.subscriptions.get_mut(&request.subscription) {
            subscription.pass_over(&state.log);
        }
        line.say(&wire::success(request.request_id));
        tell(state, &news);
        // Another than the newcomer may be active now, and have permits from before.
        self.offer(state, &request.subscription);
        self.trim(state);
        Ok(feed)
    }

    /// Makes sure that a subscription is there.
    fn subscription<'a>(
        &self,
        state: &'a mut State,
        name: &str,
        durable: bool,
        mark: impl FnOnce(&Log) -> u64,
    ) -> Result<&'a mut Subscription, Refused> {
        let State { log, subscriptions, .. } = state;
        if !subscriptions.contains_key(name) && subscriptions.len() >= SUBSCRIPTIONS_MAX {
            let message = "the topic has as many subscriptions as it may";
            return Err(Refused::new(ServerError::NotAllowed, message));
        }
        if subscriptions.get(name).is_some_and(|known| known.is_durable() != durable) {
            // `PersistentTopic.getDurableSubscription`, `getNonDurableSubscription`
            let known = if durable { "NonDurable" } else { "Durable" };
            let message = format!("{known} subscription with the same name already exists.");
            return Err(Refused::new(ServerError::NotAllowed, message));
        }
        let partition = self.name().partition_index();
        Ok(subscriptions
            .entry(name.to_owned())
            .or_insert_with(|| Subscription::new(mark(log), durable, partition)))
    }

    /// Whether this consumer is one still.
    pub fn has(&self, feed: &Feed) -> bool {
        self.lock().feeds.contains_key(&feed.key)
    }

    /// A consumer goes. One that was closed by its own seek has left a subscription behind, though it is not durable:
    /// it comes back for the cursor (`PersistentSubscription.removeConsumer` with `isResetCursor`), or goes here.
    pub fn detach(&self, feed: &Feed) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(subscription) = state.subscriptions.get_mut(&feed.subscription) else {
            state.feeds.remove(&feed.key);
            return;
        };
        let news = match state.feeds.remove(&feed.key) {
            Some(_) => subscription.leave(feed.key),
            None => News::new(),
        };
        if subscription.is_leftover() {
            state.subscriptions.remove(&feed.subscription);
            self.trim(state);
        }
        tell(state, &news);
        self.offer(state, &feed.subscription);
    }

    /// Ends a subscription; only its last consumer may.
    pub fn unsubscribe(&self, feed: &Feed) -> Result<(), Refused> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let consumers = state.subscriptions.get(&feed.subscription).map(Subscription::consumers);
        if consumers.is_none_or(|keys| keys != [feed.key]) {
            // `PersistentSubscription.doUnsubscribe`
            let message = "Unconnected or shared consumer attempting to unsubscribe";
            return Err(Refused::new(ServerError::Metadata, message));
        }
        state.subscriptions.remove(&feed.subscription);
        state.feeds.remove(&feed.key);
        self.trim(state);
        Ok(())
    }

    /// A consumer may be given more messages.
    pub fn permit(&self, feed: &Feed, messages: u32) {
        self.with(feed, |subscription, _| subscription.permit(feed.key, messages));
    }

    /// A consumer acknowledges.
    pub fn ack(&self, feed: &Feed, is_cumulative: bool, ids: &[commands::MessageId]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !state.feeds.contains_key(&feed.key) {
            return;
        }
        let Some(subscription) = state.subscriptions.get_mut(&feed.subscription) else {
            return;
        };
        for id in ids {
            // What is not there any more was acknowledged before.
            let Some(offset) = state.log.find(Position { ledger: id.ledger, entry: id.entry }) else {
                continue;
            };
            let ack_set = part(&state.log, offset, &id.ack_set);
            if is_cumulative {
                subscription.ack_through(offset, ack_set);
            } else {
                subscription.ack(offset, ack_set);
            }
        }
        self.trim(state);
    }

    /// A consumer wants these again, or everything that it has not acknowledged.
    pub fn redeliver(&self, feed: &Feed, ids: &[commands::MessageId], epoch: Option<u64>) {
        self.with(feed, |subscription, log| {
            let find = |id: &commands::MessageId| log.find(Position { ledger: id.ledger, entry: id.entry });
            let offsets: Vec<u64> = ids.iter().filter_map(find).collect();
            subscription.redeliver(feed.key, (!ids.is_empty()).then_some(&offsets), epoch);
        });
    }

    /// Sets the subscription elsewhere. Those of its consumers that were given entries are closed, and come anew
    /// (`PersistentSubscription.resetCursor`).
    pub fn seek(&self, feed: &Feed, target: &Target) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(subscription) = state.subscriptions.get_mut(&feed.subscription) else {
            return;
        };
        let (gone, news) = match target {
            Target::Time(time) => subscription.reset(state.log.first_since(*time), &[]),
            Target::Message(id) => {
                let position = Position { ledger: id.ledger, entry: id.entry };
                let mark = state.log.offset(position);
                // Its bits say nothing of another entry, which takes its place when it is gone.
                let is_there = state.log.find(position) == Some(mark);
                let ack_set = if is_there { part(&state.log, mark, &id.ack_set) } else { &[] };
                subscription.reset(mark, ack_set)
            }
        };
        subscription.pass_over(&state.log);
        for key in gone {
            if let Some(gone) = state.feeds.remove(&key) {
                gone.line.say(&close_consumer(gone.consumer_id));
            }
        }
        tell(state, &news);
        self.offer(state, &feed.subscription);
        self.trim(state);
    }

    /// The last entry's position and how many messages it holds, and the position that a subscription has
    /// acknowledged up to.
    pub fn ends(&self, feed: &Feed) -> (Option<(Position, Option<u32>)>, Option<Position>) {
        let state = self.lock();
        let subscription = state.subscriptions.get(&feed.subscription);
        (state.last, subscription.map(|subscription| state.log.position_before(subscription.cursor().mark())))
    }

    fn with(&self, feed: &Feed, act: impl FnOnce(&mut Subscription, &Log)) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !state.feeds.contains_key(&feed.key) {
            return;
        }
        if let Some(subscription) = state.subscriptions.get_mut(&feed.subscription) {
            act(subscription, &state.log);
        }
        self.offer(state, &feed.subscription);
    }
}

/// Whether the topic's other producers suffer this one (`AbstractTopic.incrementTopicEpochIfNeeded`); names come
/// after that.
fn check_mode(state: &State, request: &ProducerRequest, line: &Arc<Line>) -> Result<(), Refused> {
    let is_other =
        |other: &&Registered| !Arc::ptr_eq(&other.line, line) || other.producer_id != request.producer_id;
    let others = || state.producers.values().filter(is_other);
    let has_exclusive = others().any(|other| other.is_exclusive);
    let (error, message) = match request.is_exclusive {
        true if has_exclusive => (ServerError::ProducerFenced, "Topic has an existing exclusive producer"),
        true if others().next().is_some() => {
            (ServerError::ProducerFenced, "Topic has existing shared producers")
        }
        false if has_exclusive => (ServerError::ProducerBusy, "Topic has an existing exclusive producer"),
        _ => return Ok(()),
    };
    Err(Refused::new(error, message))
}

/// What of an acknowledgement says something of this batch: a bit for each message.
fn part<'a>(log: &Log, offset: u64, ack_set: &'a [i64]) -> &'a [i64] {
    let messages = log.get(offset).map_or(0, Stored::messages);
    &ack_set[..ack_set.len().min(messages.div_ceil(64) as usize)]
}

fn start_offset(log: &Log, start: &Start) -> u64 {
    match start {
        Start::Earliest => log.first(),
        Start::Latest => log.end(),
        Start::At(id) => log.offset(Position { ledger: id.ledger, entry: id.entry }),
    }
}

fn refused(busy: Busy, state: &State) -> Refused {
    match busy {
        Busy::Held(key) => Refused {
            error: ServerError::ConsumerBusy,
            message: "Exclusive consumer is already connected".into(),
            holder: state.feeds.get(&key).map(|feed| feed.line.clone()),
        },
        Busy::OtherKind => Refused::new(ServerError::ConsumerBusy, "Subscription is of different type"),
    }
}

fn tell(state: &State, news: &News) {
    for (key, is_active) in news {
        if let Some(feed) = state.feeds.get(key) {
            let change = ActiveConsumerChange { consumer_id: feed.consumer_id, is_active: Some(*is_active) };
            feed.line.say(&Answer {
                r#type: kind::ACTIVE_CONSUMER_CHANGE,
                active_consumer_change: Some(change),
                ..Answer::default()
            });
        }
    }
}

fn close_consumer(consumer_id: u64) -> Answer {
    let close_consumer = Some(Numbered { id: consumer_id, request_id: u64::MAX });
    Answer { r#type: kind::CLOSE_CONSUMER, close_consumer, ..Answer::default() }
}

/// Of one topic. Real brokers have no bound unless they are given one; these are far above what tests need.
const PRODUCERS_MAX: usize = 10_000;
const CONSUMERS_MAX: usize = 10_000;
const SUBSCRIPTIONS_MAX: usize = 1000;
