//! Load generation and measurement: the data-generation story with a requester and a worker, and their figures.
//! Talks to brokers as any client does; knows nothing of links and routes.

pub mod consume;
pub mod figures;
pub mod meter;
pub mod numbers;
pub mod produce;
pub mod requester;
pub mod results;
pub mod worker;

mod message;
pub mod points;
mod pricing;
pub mod request;
mod unpacking;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use crate::pulsar::connection::ConnectionError;
use figures::Figures;
use requester::Requester;
use worker::Worker;

/// A requester, a worker, or both, and their figures.
pub struct Driver {
    /// Asks.
    pub requester: Option<Requester>,
    /// Answers.
    pub worker: Option<Worker>,
    /// What they did.
    pub figures: Arc<Figures>,
}

impl Driver {
    /// Makes topics and subscriptions; tries until the brokers are there.
    pub async fn prepare(&self) {
        if let Some(worker) = &self.worker {
            insist("worker", || worker.prepare()).await;
        }
        if let Some(requester) = &self.requester {
            insist("requester", || requester.prepare()).await;
        }
    }
}

async fn insist<T: Future<Output = Result<(), ConnectionError>>>(who: &str, prepare: impl Fn() -> T) {
    while let Err(error) = prepare().await {
        tracing::warn!(%error, "the {who} waits for its cluster");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// A producer's name of its own for this run: deduplication shall not know it from another life.
fn run_name(who: &str) -> String {
    format!("datagen-{who}-{:012x}", RandomState::new().hash_one(who) >> 16)
}

/// Between two attempts to reach a broker.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
