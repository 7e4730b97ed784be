//! The broker in memory, spoken to by the bridge's own client, by a foreign one (the `pulsar` crate), and as a process
//! of its own under loads that its memory cannot hold. What the official clients say of it is testbed/conformance's part.

#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot set its stage has failed")]
#![allow(clippy::print_stdout, reason = "figures of a bound belong beside the test of it")]

mod foreign_test;
mod memory_test;
mod raw;
mod refusals_test;
mod stage;
mod wire_test;
