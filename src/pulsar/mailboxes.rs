//! Who waits for what on a broker connection: answers by request, entries by consumer, receipts by producer.
//! Plain tables behind one lock that is never held across an await.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::connection::{ConsumerEvent, Delivery, ProducerEvent};
use super::proto::{BaseCommand, MessageId};

/// Who waits for what on a connection.
#[derive(Default)]
pub(super) struct Mailboxes {
    table: Mutex<Table>,
}

#[derive(Default)]
pub(super) struct Table {
    ended: bool,
    answers: HashMap<u64, oneshot::Sender<BaseCommand>>,
    pub(super) consumers: HashMap<u64, Inbox>,
    pub(super) producers: HashMap<u64, mpsc::Sender<ProducerMail>>,
}

/// A consumer's inbox; the reader waits for room in it and so ceases to read the socket.
#[derive(Clone)]
pub(super) struct Inbox {
    pub(super) sender: mpsc::Sender<ConsumerMail>,
    pub(super) bytes: Arc<Semaphore>,
    pub(super) bytes_max: u32,
}

/// What lies in a consumer's inbox.
#[derive(Debug)]
pub(super) enum ConsumerMail {
    Entries(Group),
    Event(ConsumerEvent),
}

/// What lies in a producer's.
#[derive(Debug)]
pub(super) enum ProducerMail {
    /// Receipts that one read brought: sequence id, duplicate.
    Receipts(Vec<(u64, bool)>),
    Event(ProducerEvent),
}

/// Entries that one read brought, in one piece of memory: one lock, one wake-up for all of them. Holds its share of
/// the inbox's byte bound until dropped.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) frames: Bytes,
    /// Positions, and where in `frames` the stored bytes are.
    pub(super) entries: std::vec::IntoIter<(MessageId, Range<usize>)>,
    pub(super) _share: OwnedSemaphorePermit,
}

impl Group {
    /// The next entry.
    pub(super) fn next(&mut self) -> Option<Delivery> {
        let (id, stored) = self.entries.next()?;
        Some(Delivery { id, stored: self.frames.slice(stored) })
    }
}

impl Mailboxes {
    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn expect_answer(&self, request_id: u64, sender: oneshot::Sender<BaseCommand>) -> bool {
        let mut table = self.lock();
        if table.ended || table.answers.len() >= ANSWERS_MAX {
            return false;
        }
        table.answers.insert(request_id, sender);
        true
    }

    pub(super) fn answer(&self, request_id: u64, command: BaseCommand) {
        if let Some(waiting) = self.lock().answers.remove(&request_id) {
            // Whoever asked may have gone; then nobody needs the answer.
            let _ = waiting.send(command);
        }
    }

    pub(super) fn forget_answer(&self, request_id: u64) {
        self.lock().answers.remove(&request_id);
    }

    /// The connection has ended: every waiter learns it by its dropped sender.
    pub(super) fn end(&self) {
        let mut table = self.lock();
        table.ended = true;
        table.answers.clear();
        table.consumers.clear();
        table.producers.clear();
    }
}

/// Requests awaited at once on one connection; a few per partition.
const ANSWERS_MAX: usize = 1024;
