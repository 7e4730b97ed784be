//! The relay: whole entries carried from a source topic to a destination topic through a link.
//! Knows the Pulsar wire and the lanes of the tunnel; never a configuration file.

pub mod batching;
pub mod status;

pub mod frames;
pub mod reason;
pub mod window;
