//! A connection's producers, and their sends that were read and not stored yet: a queue for each, so that a topic
//! without room holds up nobody but those who send to it. Answers into a buffer; holds no socket, and never waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::commands::{Answer, Numbered, ProducerSuccess, SendError, kind};
use super::topic::{Incoming, Outcome, Rules, Seat};
use super::wire;
use crate::pulsar::proto::ServerError;

/// The producers of one connection.
#[derive(Debug)]
pub struct Sends {
    rules: Arc<Rules>,
    posts: HashMap<u64, Post>,
    /// Producers with sends that were not tried yet.
    fresh: Vec<u64>,
    /// Producers whose first send found no room.
    blocked: Vec<u64>,
    /// Producers that are let in when there is room.
    held: Vec<u64>,
    /// What of all queues is on the account of those that wait.
    parked_cost: usize,
    /// The queue of whoever sends next.
    spare: VecDeque<Incoming>,
    outcomes: Vec<(Incoming, Outcome)>,
}

/// A producer.
#[derive(Debug)]
struct Post {
    seat: Seat,
    queue: VecDeque<Incoming>,
    /// How many at the front of the queue are on the account of those that wait.
    parked: usize,
    /// It is to be closed when its queue is empty, for this request.
    closing: Option<u64>,
    /// We closed it for want of so many bytes: the producer that comes in its place is told of its success when
    /// there is that much room.
    wanted: Option<usize>,
    success: Option<ProducerSuccess>,
}

impl Sends {
    /// No producers.
    pub fn new(rules: Arc<Rules>) -> Self {
        Self {
            rules,
            posts: HashMap::new(),
            fresh: Vec::new(),
            blocked: Vec::new(),
            held: Vec::new(),
            parked_cost: 0,
            spare: VecDeque::new(),
            outcomes: Vec::new(),
        }
    }

    /// How many producers there are.
    pub fn producers(&self) -> usize {
        self.posts.len()
    }

    /// Whether there is this producer.
    pub fn has(&self, producer_id: u64) -> bool {
        self.posts.contains_key(&producer_id)
    }

    /// Somebody waits for room.
    pub fn are_waiting(&self) -> bool {
        !self.blocked.is_empty() || !self.held.is_empty()
    }

    /// A producer comes, in the place of one that had its number; it is told so when there is room for it.
    pub fn open(&mut self, producer_id: u64, seat: Seat, success: ProducerSuccess, frames: &mut BytesMut) {
        let wanted = self.remove(producer_id, frames).and_then(|former| former.wanted);
        let has_room = wanted.is_none_or(|wanted| seat.topic.has_room(wanted));
        let mut post =
            Post { seat, queue: VecDeque::new(), parked: 0, closing: None, wanted: None, success: None };
        if has_room {
            put_success(success, frames);
        } else {
            (post.wanted, post.success) = (wanted, Some(success));
            self.held.push(producer_id);
        }
        self.posts.insert(producer_id, post);
    }

    /// A producer goes, and what it sent goes first: what was read is stored, or else the client would take it for
    /// lost (`Producer.close`).
    pub fn close(&mut self, producer_id: u64, request_id: u64, frames: &mut BytesMut) {
        match self.posts.get_mut(&producer_id) {
            Some(post) if !post.queue.is_empty() => post.closing = Some(request_id),
            Some(_) | None => {
                self.remove(producer_id, frames);
                wire::put(&wire::success(request_id), frames);
            }
        }
    }

    /// Queues a send of a producer that is there.
    pub fn push(&mut self, producer_id: u64, send: Incoming) {
        let Some(post) = self.posts.get_mut(&producer_id) else { return };
        if post.queue.is_empty() {
            self.fresh.push(producer_id);
            post.queue = std::mem::take(&mut self.spare);
        }
        post.queue.push_back(send);
    }

    /// Stores what was not tried yet, as far as there is room.
    pub fn publish(&mut self, frames: &mut BytesMut) {
        let mut fresh = std::mem::take(&mut self.fresh);
        for producer_id in fresh.drain(..) {
            if !self.publish_of(producer_id, frames) {
                self.blocked.push(producer_id);
            }
        }
        self.fresh = fresh;
    }

    /// Tries once more what found no room.
    pub fn retry(&mut self, frames: &mut BytesMut) {
        let mut blocked = std::mem::take(&mut self.blocked);
        blocked.retain(|producer_id| !self.publish_of(*producer_id, frames));
        self.blocked = blocked;
        let posts = &mut self.posts;
        self.held.retain(|producer_id| {
            let Some(post) = posts.get_mut(producer_id) else { return false };
            if post.wanted.is_some_and(|wanted| !post.seat.topic.has_room(wanted)) {
                return true;
            }
            post.wanted = None;
            if let Some(success) = post.success.take() {
                put_success(success, frames);
            }
            false
        });
    }

    /// Lets retained entries of the topics go that are waited for; how many bytes.
    pub fn evict(&self) -> usize {
        let waiting =
            self.blocked.iter().chain(&self.held).filter_map(|producer_id| self.posts.get(producer_id));
        let wanted = self.rules.memory.to_evict();
        waiting.map(|post| post.seat.topic.evict(wanted)).sum()
    }

    /// Puts what is queued on the account of those that wait; whether there is room for all of it.
    pub fn park(&mut self) -> bool {
        for producer_id in &self.blocked {
            let Some(post) = self.posts.get_mut(producer_id) else { continue };
            for send in post.queue.iter_mut().skip(post.parked) {
                if !self.rules.memory.park(send.cost, self.parked_cost) {
                    return false;
                }
                post.parked += 1;
                self.parked_cost += send.cost;
                // A slice would keep all of its read alive.
                send.stored.bytes = Bytes::copy_from_slice(&send.stored.bytes);
            }
        }
        true
    }

    /// Closes the producer for whom most waits, and forgets its sends: its client sends them again. Whether there was
    /// one.
    pub fn expel(&mut self, frames: &mut BytesMut) -> bool {
        let queued = |producer_id: &u64| self.posts.get(producer_id).map_or(0, |post| post.queue.len());
        let longest = (0..self.blocked.len()).max_by_key(|index| queued(&self.blocked[*index]));
        let Some(producer_id) = longest.map(|index| self.blocked.swap_remove(index)) else {
            return false;
        };
        let Some(mut post) = self.remove(producer_id, frames) else { return true };
        let wanted = post.queue.iter().map(|send| send.cost).sum();
        (post.queue, post.parked) = (VecDeque::new(), 0);
        if post.closing.is_none() {
            // It keeps its number: what is on its way still, its client will send again as well.
            post.wanted = Some(wanted);
            self.posts.insert(producer_id, post);
            let close_producer = Some(Numbered { id: producer_id, request_id: u64::MAX });
            wire::put(&Answer { r#type: kind::CLOSE_PRODUCER, close_producer, ..Answer::default() }, frames);
        }
        true
    }

    /// Everybody goes.
    pub fn leave(&mut self) {
        let producer_ids: Vec<u64> = self.posts.keys().copied().collect();
        for producer_id in producer_ids {
            self.remove(producer_id, &mut BytesMut::new());
        }
    }

    /// Stores what a producer has sent, as far as there is room; whether there was room for all of it.
    fn publish_of(&mut self, producer_id: u64, frames: &mut BytesMut) -> bool {
        let Some(post) = self.posts.get_mut(&producer_id) else { return true };
        let has_room = post.seat.topic.publish(&post.seat, &mut post.queue, &mut self.outcomes);
        let unparked = post.parked.min(self.outcomes.len());
        let cost = self.outcomes[..unparked].iter().map(|(send, _)| send.cost).sum();
        post.parked -= unparked;
        for (send, outcome) in self.outcomes.drain(..) {
            match outcome {
                Outcome::Stored(position) => {
                    wire::put_receipt(producer_id, send.ids.first, send.highest, Some(position), frames);
                }
                Outcome::Duplicate => {
                    wire::put_receipt(producer_id, send.ids.first, send.highest, None, frames);
                }
                Outcome::Ignored => {}
            }
        }
        if has_room {
            let queue = std::mem::take(&mut post.queue);
            if (self.spare.capacity()..SPARE_MAX).contains(&queue.capacity()) {
                self.spare = queue;
            }
            if post.closing.is_some() {
                self.remove(producer_id, frames);
            }
        }
        self.unpark(cost);
        has_room
    }

    /// Takes a producer out, and its sends off the account. Whoever waits for its end is told.
    fn remove(&mut self, producer_id: u64, frames: &mut BytesMut) -> Option<Post> {
        let post = self.posts.remove(&producer_id)?;
        post.seat.topic.remove_producer(&post.seat);
        if let Some(request_id) = post.closing {
            wire::put(&wire::success(request_id), frames);
        }
        if !post.queue.is_empty() {
            self.fresh.retain(|other| *other != producer_id);
            self.blocked.retain(|other| *other != producer_id);
        }
        if post.success.is_some() {
            self.held.retain(|other| *other != producer_id);
        }
        self.unpark(post.queue.iter().take(post.parked).map(|send| send.cost).sum());
        Some(post)
    }

    fn unpark(&mut self, cost: usize) {
        if cost > 0 {
            self.parked_cost -= cost;
            self.rules.memory.unpark(cost);
        }
    }
}

/// Appends the refusal of a send.
pub fn refuse(producer_id: u64, sequence_id: u64, error: ServerError, message: &str, frames: &mut BytesMut) {
    let send_error =
        Some(SendError { producer_id, sequence_id, error: error as i32, message: message.into() });
    wire::put(&Answer { r#type: kind::SEND_ERROR, send_error, ..Answer::default() }, frames);
}

fn put_success(success: ProducerSuccess, frames: &mut BytesMut) {
    let producer_success = Some(success);
    wire::put(&Answer { r#type: kind::PRODUCER_SUCCESS, producer_success, ..Answer::default() }, frames);
}

/// Sends of one read, mostly; a queue that had to be longer is not kept.
const SPARE_MAX: usize = 4096;
