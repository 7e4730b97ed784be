//! Messages relayed from a hub's broker to an edge's through TLS, each a process of its own; every message is checked.
//! Leaves its results in `target/bench/`. With `BRIDGE_BENCH=brief` it runs two cases, and fails below the target.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench that cannot run has failed"
)]

mod topology;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use pulsar_bridge::load::consume::Consume;
use pulsar_bridge::load::meter::{Meter, Reading};
use pulsar_bridge::load::numbers::{Numbers, Tally, new_writer};
use pulsar_bridge::load::produce::Produce;
use pulsar_bridge::load::results::{Flow, Machine, Repetition, TARGET_MBIT_S, TestResult, Workload};
use pulsar_bridge::pulsar::topic::TopicName;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use topology::{Topic, Topology};

fn main() -> ExitCode {
    let brief = std::env::var_os("BRIDGE_BENCH").is_some_and(|mode| mode == "brief");
    let workloads = if brief { brief_workloads() } else { all_workloads() };
    let mut criterion = Criterion::default().configure_from_args();
    let mut bench = Bench::new(&workloads);
    let mut results = Vec::new();
    let mut group = criterion.benchmark_group("relay");
    group.sample_size(SAMPLES).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(8));
    for workload in &workloads {
        let mut repetitions = Vec::new();
        group.throughput(Throughput::Bytes(workload.messages * workload.size as u64));
        group.bench_function(BenchmarkId::from_parameter(workload.name()), |bencher| {
            bencher.iter_custom(|iterations| {
                let ran: Vec<_> = (0..iterations).map(|_| bench.repetition(workload)).collect();
                let elapsed = ran.iter().map(|one| one.elapsed).sum();
                repetitions.extend(ran);
                elapsed
            });
        });
        // The first one warmed up.
        let measured = repetitions.get(1..).unwrap_or_default();
        if let Some(result) = workload.result(measured, machine()) {
            println!("{}", told(&result));
            results.push(result);
        }
    }
    group.finish();
    criterion.final_summary();
    drop(bench);
    if results.is_empty() {
        return ExitCode::SUCCESS;
    }
    let file = topology::bench_dir().join(if brief { "brief.json" } else { "results.json" });
    // One on each line, to be compared.
    let lines: Vec<String> = results.iter().map(|result| serde_json::to_string(result).unwrap()).collect();
    std::fs::write(&file, format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
    println!("results: {}", file.display());
    if brief { judged(&results) } else { ExitCode::SUCCESS }
}

/// All sizes and batches that fit into a message of Pulsar's default size, joined where they are single and small, and
/// some of them as a backlog.
fn all_workloads() -> Vec<Workload> {
    let fits = |size: usize, batch: u32| size * (batch as usize) < MESSAGE_SIZE_MAX;
    let mut workloads = Vec::new();
    for size in [100, 1 << 10, 10 << 10, 1 << 20] {
        let batches = [1, 10, 100, 1000].into_iter().filter(|batch| fits(size, *batch));
        workloads.extend(batches.map(|batch| workload(Flow::Live, size, batch, false)));
        if size < 10 << 10 {
            workloads.push(workload(Flow::Live, size, 1, true));
        }
    }
    workloads.push(workload(Flow::Live, 200, 1, true));
    workloads.push(workload(Flow::Backlog, 200, 1, true));
    for (batch, joined) in [(1, false), (1, true), (100, false)] {
        workloads.push(workload(Flow::Backlog, 1 << 10, batch, joined));
    }
    workloads
}

/// The first is judged.
fn brief_workloads() -> Vec<Workload> {
    vec![workload(Flow::Live, 1 << 10, 100, false), workload(Flow::Live, 200, 1, false)]
}

/// As many messages as take about half a second.
fn workload(flow: Flow, size: usize, batch: u32, joined: bool) -> Workload {
    let of_bytes = (REPETITION_BYTES / (size * batch as usize)).max(1) as u64;
    let entries = of_bytes.min(if joined { 10 * REPETITION_ENTRIES } else { REPETITION_ENTRIES });
    Workload { size, batch, joined, flow, messages: entries * u64::from(batch) }
}

/// The topology, from the first repetition on.
struct Bench {
    runtime: Runtime,
    topics: Vec<Topic>,
    topology: Option<Topology>,
}

impl Bench {
    fn new(workloads: &[Workload]) -> Self {
        let topic = |workload: &Workload| Topic { name: topic(workload), joined: workload.joined };
        let topics = workloads.iter().map(topic).collect();
        Self { runtime: Runtime::new().unwrap(), topics, topology: None }
    }

    fn repetition(&mut self, workload: &Workload) -> Repetition {
        let Self { runtime, topics, topology } = self;
        runtime.block_on(async {
            if topology.is_none() {
                *topology = Some(Topology::start(topics).await);
            }
            let topology = topology.as_ref().unwrap();
            match workload.flow {
                Flow::Live => live(topology, workload).await,
                Flow::Backlog => backlog(topology, workload).await,
            }
        })
    }
}

/// Produced while it is relayed: from the first message sent to the last consumed.
async fn live(topology: &Topology, workload: &Workload) -> Repetition {
    let before = cpu(topology);
    let writer = new_writer();
    let consumer = consumer(topology, workload, writer).await;
    let producer = producer(topology, workload, writer);
    let (published, began) = producer.await.unwrap();
    let (consumed, ended) = consumer.await.unwrap();
    Repetition { elapsed: ended - began, published, consumed, cpu: since(before, topology) }
}

/// Produced while the hub does nothing: from when it goes on to the last consumed.
async fn backlog(topology: &Topology, workload: &Workload) -> Repetition {
    let writer = new_writer();
    let consumer = consumer(topology, workload, writer).await;
    topology.hub.pause();
    let (published, _) = producer(topology, workload, writer).await.unwrap();
    let before = cpu(topology);
    let began = Instant::now();
    topology.hub.resume();
    let (consumed, ended) = consumer.await.unwrap();
    Repetition { elapsed: ended - began, published, consumed, cpu: since(before, topology) }
}

/// Gives what it measured, and when it began.
fn producer(topology: &Topology, workload: &Workload, writer: u64) -> JoinHandle<(Reading, Instant)> {
    let produce = Produce {
        client: topology.source.clone(),
        topic: topic(workload),
        writer,
        size: workload.size,
        text: false,
        batch: workload.batch,
        messages: Some(workload.messages),
        rate: None,
        outstanding_max: OUTSTANDING_MAX.min(OUTSTANDING_BYTES / (workload.size * workload.batch as usize)),
    };
    tokio::spawn(async move {
        let (meter, began) = (Meter::new(), Instant::now());
        produce.run(&meter, &CancellationToken::new()).await.expect("the hub's broker takes everything");
        (meter.read(), began)
    })
}

/// Gives what it measured, and when it ended; nothing may be missing, repeated or out of order.
async fn consumer(topology: &Topology, workload: &Workload, writer: u64) -> JoinHandle<(Reading, Instant)> {
    let messages = workload.messages;
    let numbers = Arc::new(Numbers::of([writer]));
    let consume = Consume {
        client: topology.destination.clone(),
        topic: topic(workload),
        subscription: "bench".into(),
        exclusive: true,
        earliest: true,
        messages: Some(messages),
        checks: Some(numbers.clone()),
        leaves: false,
    };
    consume.prepare().await.expect("the edge's broker makes a subscription");
    tokio::spawn(async move {
        let (meter, stop) = (Arc::new(Meter::new()), CancellationToken::new());
        let overdue = stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(REPETITION_TIME_MAX).await;
            overdue.cancel();
        });
        consume.run(&meter, &stop).await.expect("the edge's broker delivers");
        let ended = Instant::now();
        assert_eq!(
            numbers.tally(),
            Tally { counted: messages, ..Tally::default() },
            "within {REPETITION_TIME_MAX:?}"
        );
        (meter.read(), ended)
    })
}

fn topic(workload: &Workload) -> TopicName {
    let Workload { size, batch, joined, flow, .. } = workload;
    let flow = if *flow == Flow::Live { "live" } else { "backlog" };
    let joined = if *joined { "-joined" } else { "" };
    TopicName::parse(&format!("bench-{flow}-{size}-{batch}{joined}")).unwrap()
}

fn cpu(topology: &Topology) -> Option<(Duration, Duration)> {
    topology.hub.cpu().zip(topology.edge.cpu())
}

fn since(before: Option<(Duration, Duration)>, topology: &Topology) -> Option<(Duration, Duration)> {
    let (before, after) = before.zip(cpu(topology))?;
    Some((after.0 - before.0, after.1 - before.1))
}

fn machine() -> Machine {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Machine {
        processor: name.map_or(std::env::consts::ARCH, |(_, name)| name).to_owned(),
        cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
    }
}

fn told(result: &TestResult) -> String {
    let Some(relayed) = &result.bridge else { return String::new() };
    let mbit = relayed.mbit_per_second;
    let (lowest, highest, repetitions) = (mbit.min, mbit.max, result.consume_rate.len());
    let cpu = relayed.cpu_seconds_per_gb.map_or_else(String::new, |cpu| {
        format!("; hub {:.2}, edge {:.2} CPU-s/GB", cpu.hub.median, cpu.edge.median)
    });
    format!(
        "{}: {:.0} Mbit/s of {TARGET_MBIT_S} ({lowest:.0} to {highest:.0} in {repetitions}){cpu}; \
         nothing lost, repeated or out of order",
        result.workload, mbit.median
    )
}

/// Whether the first result reaches the target.
fn judged(results: &[TestResult]) -> ExitCode {
    let Some((first, relayed)) = results.first().and_then(|first| Some((first, first.bridge.as_ref()?)))
    else {
        return ExitCode::FAILURE;
    };
    let (median, repetitions) = (relayed.mbit_per_second.median, first.consume_rate.len());
    let enough = repetitions >= REPETITIONS_MIN && median >= TARGET_MBIT_S;
    let verdict = if enough { "reached" } else { "MISSED" };
    println!(
        "{}: {median:.0} Mbit/s, median of {repetitions}; at least {TARGET_MBIT_S} of {REPETITIONS_MIN} or more: {verdict}",
        first.workload
    );
    if enough { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Criterion's least.
const SAMPLES: usize = 10;
const REPETITIONS_MIN: usize = 5;
const REPETITION_TIME_MAX: Duration = Duration::from_secs(60);
/// Half a second at 4 Gbit/s; the kernel counts CPU time in hundredths of a second.
const REPETITION_BYTES: usize = 250_000_000;
/// Half a second at 60,000 entries per second.
const REPETITION_ENTRIES: u64 = 30_000;
/// Entries without a receipt: what the Java client's `maxPendingMessages` is by default.
const OUTSTANDING_MAX: usize = 1000;
/// Or their bytes, so that the producer does not run ahead by seconds.
const OUTSTANDING_BYTES: usize = 16 << 20;
/// `maxMessageSize` of a broker.
const MESSAGE_SIZE_MAX: usize = 5 << 20;
