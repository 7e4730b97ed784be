//! Replays the fuzz targets' corpora, and some thousands of damaged seeds for each: what a fuzzer found once is never
//! found again. `BRIDGE_WRITE_CORPUS=1` writes the seeds where the corpora are.

#![cfg(feature = "fuzzed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use pulsar_bridge::fuzzed;

const DAMAGED: u64 = 3000;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target_and_none_of_it_panics() {
    if std::env::var_os("BRIDGE_WRITE_CORPUS").is_some() {
        let mut written: BTreeMap<&str, usize> = BTreeMap::new();
        for (target, bytes) in fuzzed::seeds() {
            let number = written.entry(target).and_modify(|count| *count += 1).or_default();
            fs::create_dir_all(corpus(target)).unwrap();
            fs::write(corpus(target).join(format!("seed-{number}")), bytes).unwrap();
        }
    }
    let mut replayed = 0;
    let targets: BTreeSet<String> = fuzzed::targets().map(|(name, _)| name.to_owned()).collect();
    for target in &targets {
        for file in fs::read_dir(corpus(target)).unwrap_or_else(|error| panic!("{target}: {error}")) {
            fuzzed::run(target, &fs::read(file.unwrap().path()).unwrap());
            replayed += 1;
        }
    }
    let folders = fs::read_dir(corpus("")).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    assert_eq!(folders.collect::<BTreeSet<_>>(), targets);
    assert!(replayed >= fuzzed::seeds().len(), "only {replayed} inputs");
}

#[test]
fn seeds_that_are_cut_changed_and_repeated_anywhere_make_no_target_panic() {
    // xorshift64*: the same damage in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        usize::try_from(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % below.max(1)
    };
    for (target, seed) in fuzzed::seeds() {
        for _ in 0..DAMAGED {
            let mut bytes = seed.clone();
            for _ in 0..=random(4) {
                let (at, to) = (random(bytes.len()), random(bytes.len()));
                match random(5) {
                    0 => bytes.truncate(at),
                    1 if !bytes.is_empty() => bytes[at] = u8::try_from(random(256)).unwrap(),
                    2 if !bytes.is_empty() => bytes[at] ^= 1 << random(8),
                    3 => bytes.insert(at, u8::try_from(random(256)).unwrap()),
                    _ => {
                        let piece = bytes[at.min(to)..at.max(to)].to_vec();
                        bytes.splice(at..at, piece);
                    }
                }
            }
            fuzzed::run(target, &bytes);
        }
    }
}
