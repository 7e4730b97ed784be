//! The relay of two agents, joined by lanes in memory, between two scripted brokers that do what real ones do only
//! on bad days; and of several, each with a broker in memory, that relay many topics. What real brokers do every day
//! is the suite's part.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot set its stage has failed")]

mod admin;
mod broker;
mod codec_test;
mod conversation;
mod drain_test;
mod faults_test;
mod joining_test;
mod journal;
mod losses_test;
mod malice_test;
mod next_version_test;
mod pair;
mod peer;
mod promise_test;
mod protocol_test;
mod quarantine_test;
mod refusal_test;
#[cfg(feature = "embedded")]
mod reload_test;
#[cfg(feature = "embedded")]
mod remedies_test;
mod replay_test;
#[cfg(feature = "embedded")]
mod routes_test;
mod said;
#[cfg(feature = "embedded")]
mod several;
mod stall_test;
