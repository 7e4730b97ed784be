//! The tunnel with two real endpoints on loopback, and with whoever may stand between them or knock.

mod bridge;
mod link_test;
