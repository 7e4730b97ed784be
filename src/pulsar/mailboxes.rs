//! Who waits for what on a broker connection: answers by request, entries by consumer, receipts by producer.
//! Plain tables behind one lock that is never held across an await.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::connection::{ConsumerEvent, ProducerEvent};
use super::proto::BaseCommand;

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
    pub(super) producers: HashMap<u64, mpsc::Sender<ProducerEvent>>,
}

/// A consumer's inbox; the reader waits for room in it and so ceases to read the socket.
#[derive(Clone)]
pub(super) struct Inbox {
    pub(super) sender: mpsc::Sender<ConsumerEvent>,
    pub(super) bytes: Arc<Semaphore>,
    pub(super) bytes_max: u32,
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
