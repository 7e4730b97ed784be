//! What joining costs: single messages read, checked, and taken as batches. No lane, no socket.

#![allow(clippy::unwrap_used, reason = "a bench that cannot build its entries has failed")]

mod entry;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pulsar_bridge::pulsar::entry::EntryRef;
use pulsar_bridge::pulsar::packing::Compression;
use pulsar_bridge::relay::batching::{Batching, Limits, Unit};

fn through(entries: &[Bytes], limits: Option<Limits>) -> Vec<Unit> {
    let mut batching = Batching::new(limits);
    for (id, entry) in (1..).zip(entries) {
        batching.push(id, &EntryRef::parse(entry).unwrap()).unwrap();
    }
    std::iter::from_fn(|| batching.take()).collect()
}

fn joining(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("joining");
    // The defaults of a route's "batching".
    let joined = Limits::DEFAULT;
    for (words, size) in [("100 B", 100), ("250 B", 250), ("1 KiB", 1 << 10)] {
        let entries: Vec<Bytes> = (0..ENTRIES).map(|nth| entry::stored(nth, size)).collect();
        let bytes = entries.iter().map(|entry| entry.len() as u64).sum();
        group.throughput(Throughput::ElementsAndBytes { elements: ENTRIES, bytes });
        let packed = Limits { compression: Compression::Zstd, ..joined };
        for (how, limits) in [("joined", Some(joined)), ("compressed", Some(packed)), ("singly", None)] {
            group.bench_function(BenchmarkId::new(how, words), |bencher| {
                bencher.iter_with_large_drop(|| through(black_box(&entries), limits));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, joining);
criterion_main!(benches);

/// As many as may be without a receipt.
const ENTRIES: u64 = 1000;
