//! What joining costs: single messages queued, checked, and taken as batches. No lane, no socket.

#![allow(clippy::unwrap_used, reason = "a bench that cannot build its entries has failed")]

mod entry;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pulsar_bridge::pulsar::entry::Entry;
use pulsar_bridge::relay::batching::{Batching, Limits, Unit};

fn through(entries: Vec<Entry>, limits: Option<Limits>) -> Vec<Unit> {
    let mut batching = Batching::new(limits);
    for (id, entry) in (1..).zip(entries) {
        batching.push(id, entry).unwrap();
    }
    std::iter::from_fn(|| batching.take()).collect()
}

fn joining(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("joining");
    // The defaults of a route's "batching".
    let joined = Limits { messages: 1000, bytes: 128 << 10, any_key: false };
    for (words, size) in [("100 B", 100), ("250 B", 250), ("1 KiB", 1 << 10)] {
        let entries: Vec<Entry> =
            (0..ENTRIES).map(|nth| Entry::parse(entry::stored(nth, size)).unwrap()).collect();
        let bytes = entries.iter().map(|entry| entry.stored_len() as u64).sum();
        group.throughput(Throughput::ElementsAndBytes { elements: ENTRIES, bytes });
        for (how, limits) in [("joined", Some(joined)), ("singly", None)] {
            group.bench_function(BenchmarkId::new(how, words), |bencher| {
                bencher.iter_batched(
                    || entries.clone(),
                    |entries| through(entries, limits),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, joining);
criterion_main!(benches);

/// As many as may be without a receipt.
const ENTRIES: u64 = 1000;
