//! The Pulsar wire: framing, entries edited on the wire bytes, connections, lookups, admin REST.
//! Knows no other room; decides nothing about routes.

pub mod topic;

pub mod batch;
pub mod crc;
pub mod entry;
pub mod fields;
pub mod frame;
#[doc(hidden)]
#[cfg(feature = "fuzzed")]
pub mod fuzzed;
pub mod packing;
pub mod proto;

pub mod client;
pub mod connection;
mod mailboxes;
pub mod message;
pub mod permits;
pub mod publisher;
mod reader;
pub mod rest;
pub mod subscription;
pub mod transport;
pub mod write_queue;
mod writer;
