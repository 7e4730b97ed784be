//! One of the bridge's parsers of others' bytes under libFuzzer; `$FUZZ_TARGET` names it (`pulsar_bridge::fuzzed`).

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("name a target by FUZZ_TARGET");
    let found = pulsar_bridge::fuzzed::targets().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("no target {name}")).1
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
