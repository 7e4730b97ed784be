//! The tunnel with two real endpoints on loopback, and with whoever may stand between them or knock.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "all of this is test code")]

mod bridge;
mod forwarding;
mod ingress;
#[path = "../../src/tunnel/organisation.rs"]
mod organisation;
mod stranger;

mod init_test;
mod link_test;

mod forward_test;

mod downgrade_test;
mod flood_test;
mod hostile_streams_test;
mod interceptor_test;
mod leak_test;
mod malicious_edge_test;
mod malicious_hub_test;
mod next_version_test;
mod pki_test;
mod records_test;
mod reloads_test;
mod roots_test;
mod stolen_hub_test;
mod stream_lanes_test;
mod transports_test;
