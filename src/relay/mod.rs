//! The relay: whole entries carried from a source topic to a destination topic through a link.
//! Knows the Pulsar wire and the tunnel's lanes; never a configuration file.

pub mod batching;
pub mod status;
