//! The Pulsar wire: framing, entries edited on the wire bytes, connections, lookups, admin REST.
//! Knows no other room; decides nothing about routes.

pub mod crc;
pub mod entry;
pub mod fields;
pub mod topic;
