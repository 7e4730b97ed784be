//! The link between two sites: transport, trust, handshake, lanes, keepalive, reconnect.
//! Carries frames and control messages; does not know what they mean.

pub mod link;
pub mod status;

/// Something is written on every lane at least this often; twice this of silence ends the lane.
pub const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(5);
