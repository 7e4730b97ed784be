//! The relay: whole entries carried from a source topic to a destination topic through a link.
//! Knows the Pulsar wire and the lanes of the tunnel; never a configuration file.
//!
//! The way of an entry: `routes` (by a pattern, `listing`) finds its topic, `source` attaches to the subscription, `session` reads it and
//! asks `batching` and `window`, `lane` carries its `frames`, `sink` publishes it to its `destination`, and the
//! receipt comes back the same way until `window` lets it be acknowledged.

pub mod absent;
pub mod agent;
pub mod context;
pub mod drained;
pub mod first_lane;
pub mod metrics;
pub mod notice;
pub mod reason;
pub mod record;
pub mod replay;
pub mod ruling;
pub mod status;

mod believing;
mod control;
mod gate;
mod nudges;
mod opening;

mod claims;
mod known;
mod listing;
mod matching;
mod parts;
mod revoked;
mod routes;

mod amount;
mod flow;
mod forgotten;
mod hole;
mod kept;
mod marking;
mod onward;
mod owed;
mod passed;
mod session;
mod source;
mod survey;
mod trace;
mod watching;

pub mod batching;
pub mod refused;
pub mod window;

mod frames;
#[doc(hidden)]
#[cfg(feature = "fuzzed")]
pub mod fuzzed;
mod lane;
mod lanes;

mod destination;
mod feeders;
mod leave;
mod publishing;
mod quarantine;
mod refusal;
mod sink;

mod budget;
mod progress;
