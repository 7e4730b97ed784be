//! What an entry costs on its way through one agent before it is written: cut from the socket's bytes, read, given
//! its new head. No socket, no TLS.

#![allow(clippy::unwrap_used, reason = "a bench that cannot build its entry has failed")]

mod entry;

use std::hint::black_box;

use bytes::{BufMut, Bytes, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pulsar_bridge::pulsar::entry::{Entry, Heading, SchemaVersion};
use pulsar_bridge::pulsar::frame::{self, FrameSplitter};
use pulsar_bridge::pulsar::proto::{BaseCommand, Send as SendCommand, kind};

/// An entry on the wire, behind a command.
fn framed(stored: &Bytes) -> Bytes {
    let mut wire = BytesMut::from(&frame::encode_before(&send(1), stored.len())[..]);
    wire.put_slice(stored);
    wire.freeze()
}

fn send(sequence_id: u64) -> BaseCommand {
    let send = SendCommand { producer_id: 1, sequence_id, ..SendCommand::default() };
    BaseCommand { r#type: kind::SEND, send: Some(send), ..BaseCommand::default() }
}

fn splitter(wire: &Bytes) -> FrameSplitter {
    let mut splitter = FrameSplitter::new(FRAME_LEN_MAX);
    splitter.inlet().extend_from_slice(wire);
    splitter
}

fn rehead(entry: &Entry, sequence_id: u64) -> Bytes {
    entry.rehead(&Heading {
        producer_name: "bridge/riskfuel/bank/persistent://public/default/datagen-requests/1",
        sequence_id,
        highest_sequence_id: None,
        schema_version: SchemaVersion::Remove,
    })
}

fn framing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("framing");
    for (words, size) in SIZES {
        let stored = entry::stored(1_234_567, size);
        let wire = framed(&stored);
        let entry = Entry::parse(stored.clone()).unwrap();
        group.throughput(Throughput::Bytes(stored.len() as u64));
        group.bench_function(BenchmarkId::new("cut", words), |bencher| {
            bencher.iter_batched_ref(|| splitter(&wire), |splitter| splitter.next_frame().unwrap(), FEW);
        });
        group.bench_function(BenchmarkId::new("read", words), |bencher| {
            bencher.iter(|| Entry::parse(black_box(&stored).clone()).unwrap());
        });
        group.bench_function(BenchmarkId::new("edit", words), |bencher| {
            bencher.iter(|| rehead(black_box(&entry), black_box(7)));
        });
        group.bench_function(BenchmarkId::new("all", words), |bencher| {
            let all = |splitter: &mut FrameSplitter| {
                let frame = splitter.next_frame().unwrap().unwrap();
                let entry = Entry::parse(frame.rest).unwrap();
                let head = rehead(&entry, 7);
                (frame::encode_before(&send(7), head.len() + entry.payload().len()), head, entry)
            };
            bencher.iter_batched_ref(|| splitter(&wire), all, FEW);
        });
    }
    group.finish();
}

criterion_group!(benches, framing);
criterion_main!(benches);

const SIZES: [(&str, usize); 4] =
    [("100 B", 100), ("1 KiB", 1 << 10), ("10 KiB", 10 << 10), ("1 MiB", 1 << 20)];
/// Inputs that are made ahead; each of the largest is a MiB.
const FEW: BatchSize = BatchSize::NumIterations(64);
const FRAME_LEN_MAX: u32 = 6 << 20;
