//! The Pulsar wire: framing, entries edited on the wire bytes, connections, lookups, admin REST.
//! Knows no other room; decides nothing about routes.

pub mod crc;
pub mod entry;
pub mod fields;
pub mod topic;

pub mod frame;
pub mod proto;

pub mod connection;
mod reader;
pub mod transport;
pub mod write_queue;
mod writer;
