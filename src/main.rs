//! The binary `bridge`.
fn main() {}
