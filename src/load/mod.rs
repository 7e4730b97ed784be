//! Load generation and measurement: the data-generation story with a requester and a worker, and their figures.
//! Talks to brokers as any client does; knows nothing of links and routes.

pub mod figures;
pub mod requester;
pub mod worker;

mod message;
mod points;
mod pricing;
mod request;

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A producer's name of its own for this run: deduplication shall not know it from another life.
fn run_name(who: &str) -> String {
    format!("datagen-{who}-{:012x}", RandomState::new().hash_one(who) >> 16)
}

/// Between two attempts to reach a broker.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
