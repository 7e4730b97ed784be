//! A configuration that takes the running one's place, by the binary: SIGHUP and changed keys, under load.

#![cfg(all(feature = "embedded", feature = "load"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot set its stage has failed")]

#[path = "../../src/tunnel/organisation.rs"]
mod organisation;
mod running;
mod stage;

mod configuration_test;
mod forwards_test;
mod revocation_test;
mod rotation_test;
