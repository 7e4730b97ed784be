//! The relay of two agents, joined by lanes in memory, between two scripted brokers that do what real ones do only
//! on bad days. What real brokers do every day is the suite's part.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot set its stage has failed")]

mod admin;
mod broker;
mod codec_test;
mod conversation;
mod drain_test;
mod faults_test;
mod journal;
mod malice_test;
mod pair;
mod peer;
mod promise_test;
mod protocol_test;
mod quarantine_test;
mod refusal_test;
mod replay_test;
mod said;
mod stall_test;
