//! Joins two organisations' Apache Pulsar clusters through a link that only one of them may dial.
//!
//! The rooms, from the wire inwards (ARCHITECTURE.md has the map and the way of one entry):
//! - [`pulsar`]: the Pulsar wire, its topic names, its brokers.
//! - [`policy`]: what the other side may do.
//! - [`config`]: JSON in, checked configuration out.
//! - [`tunnel`]: the link: transport, trust, handshake, lanes.
//! - [`relay`]: topics carried across, nothing lost, nothing repeated.
//! - [`admin`]: health, metrics, status.
//! - [`embedded`]: a Pulsar broker in memory, for tests and measurements (feature `embedded`).
//! - [`site`]: the composition root; [`exit`]: how the process ends.

pub mod admin;
pub mod config;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod exit;
pub mod forward;
#[doc(hidden)]
#[cfg(feature = "fuzzed")]
pub mod fuzzed;
#[cfg(feature = "load")]
pub mod load;
pub mod policy;
pub mod pulsar;
pub mod relay;
pub mod site;
pub mod stack;
pub mod tunnel;
