//! Drawing, pricing and writing down the points of one data-generation request: time for each point.

#![allow(clippy::unwrap_used, reason = "a bench that cannot run has failed")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pulsar_bridge::load::points::priced;
use pulsar_bridge::load::request::{Instrument, Model, Ranges, Request};

fn pricing(criterion: &mut Criterion) {
    let request = Request {
        id: 1,
        experiment: "exp-0001".into(),
        instrument: Instrument::EuropeanCall,
        model: Model::BlackScholes,
        ranges: Ranges {
            spot: [80.0, 120.0],
            strike: [90.0, 110.0],
            rate: [0.0, 0.05],
            dividend: [0.0, 0.02],
            vol: [0.1, 0.6],
            years: [0.1, 2.0],
        },
        seed: 42,
        points: 512,
    };
    let mut group = criterion.benchmark_group("pricing");
    group.throughput(Throughput::Elements(request.points.into()));
    group.bench_function("512 points with greeks", |bencher| bencher.iter(|| priced(black_box(&request))));
    group.finish();
}

criterion_group!(benches, pricing);
criterion_main!(benches);
