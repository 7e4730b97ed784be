//! Raw TCP ports carried through the link, both ways: a listener at one site, a target at the other, half-close kept.
//! Knows nothing of what is carried; carries no UDP; reaches nothing that this site's policy does not name.
//!
//! The way of a connection: `listener` accepts it, `links` chooses a live link, a stream of it opens with the words of
//! `frames`, the other side's `serving` asks `rules` whether it may, `target` resolves and dials, and `splice` carries
//! bytes until both directions have ended. What ends otherwise ends as a reset at both TCP peers.

pub mod agent;
#[doc(hidden)]
#[cfg(feature = "fuzzed")]
pub mod fuzzed;
pub mod metrics;
pub mod reason;
pub mod rules;
pub mod status;

mod frames;

mod declaring;
mod links;
mod listener;
mod places;
mod rate;
mod serving;
mod splice;
mod target;
mod waiting;
mod ways;
mod wishes;
