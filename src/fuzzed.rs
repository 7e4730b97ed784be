//! Every parser of bytes that others choose, by name: what `fuzz/` runs, and what `tests/fuzzed.rs` replays the corpora
//! against. Parses nothing itself.

/// A parser: takes anything, and panics where what it understood does not hold together.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub fn targets() -> impl Iterator<Item = Target> {
    let pulsar = crate::pulsar::fuzzed::TARGETS;
    let relay = crate::relay::fuzzed::TARGETS;
    let tunnel = crate::tunnel::fuzzed::TARGETS;
    let config = crate::config::fuzzed::TARGETS;
    let forward = crate::forward::fuzzed::TARGETS;
    pulsar.into_iter().chain(relay).chain(tunnel).chain(config).chain(forward)
}

/// Inputs to begin with, by target.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    [
        crate::pulsar::fuzzed::seeds(),
        crate::relay::fuzzed::seeds(),
        crate::tunnel::fuzzed::seeds(),
        crate::config::fuzzed::seeds(),
        crate::forward::fuzzed::seeds(),
    ]
    .concat()
}

/// Runs one by its name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = targets().find(|(found, _)| *found == name);
    target.map_or_else(|| panic!("no target {name}"), |(_, run)| run(bytes));
}
