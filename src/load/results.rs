//! What measurements leave behind: OpenMessaging Benchmark's result (`TestResult.java` names the fields), and what a
//! relay has beside it under one key. Measures nothing, draws nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meter::{Reading, latencies};

/// One workload's result. Lists have one item for each repetition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TestResult {
    /// What was done, in words.
    pub workload: String,
    /// By what.
    pub driver: String,
    /// Bytes of a message.
    pub message_size: u64,
    /// Topics.
    pub topics: u32,
    /// Partitions of each.
    pub partitions: u32,
    /// Producers of each.
    pub producers_per_topic: u32,
    /// Consumers of each.
    pub consumers_per_topic: u32,
    /// Messages per second, until the last was confirmed.
    pub publish_rate: Vec<f64>,
    /// Refused messages per second.
    pub publish_error_rate: Vec<f64>,
    /// Messages per second, until the last was consumed.
    pub consume_rate: Vec<f64>,
    /// Messages that were not consumed at the end.
    pub backlog: Vec<u64>,
    /// Latencies in milliseconds: `publishLatency50pct`, `aggregatedEndToEndLatencyMax` and their kin.
    #[serde(flatten)]
    pub latencies: BTreeMap<String, Value>,
    /// What the benchmark's own field names have no place for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Relayed>,
}

/// What a relay has beside rates and latencies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relayed {
    /// Whether it had to keep up with a producer, or found everything waiting.
    pub flow: Flow,
    /// Messages in a batch of the producer; 1: not batched.
    pub batch: u32,
    /// Whether the route joins.
    pub joined: bool,
    /// Messages in a repetition.
    pub messages: u64,
    /// 10^6 bits of the messages' own bytes per second.
    pub mbit_per_second: Spread,
    /// CPU-seconds for 10^9 of the messages' own bytes, where the system tells them.
    pub cpu_seconds_per_gb: Option<CpuPerGb>,
    /// Where.
    pub machine: Machine,
}

/// Where the messages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// They are produced while they are relayed.
    Live,
    /// They waited at the source.
    Backlog,
}

/// What each agent takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CpuPerGb {
    /// The hub's process.
    pub hub: Spread,
    /// The edge's.
    pub edge: Spread,
}

/// Of several repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The lowest.
    pub min: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The highest.
    pub max: f64,
}

/// What was measured on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// Cores that could be used; by load, brokers and agents together.
    pub cores: u32,
}

/// One workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Bytes of a message.
    pub size: usize,
    /// Messages in a batch; 1: not batched.
    pub batch: u32,
    /// Whether the route joins.
    pub joined: bool,
    /// Where the messages come from.
    pub flow: Flow,
    /// Messages in a repetition.
    pub messages: u64,
}

/// One repetition of it.
#[derive(Clone, Debug)]
pub struct Repetition {
    /// From the first message sent, or from when the relay could begin, to the last consumed.
    pub elapsed: Duration,
    /// The producer's side, read when its last message was confirmed.
    pub published: Reading,
    /// The consumer's.
    pub consumed: Reading,
    /// CPU time of hub and edge.
    pub cpu: Option<(Duration, Duration)>,
}

impl Workload {
    /// In words: `live, 1 KiB x 100`.
    pub fn name(&self) -> String {
        let flow = match self.flow {
            Flow::Live => "live",
            Flow::Backlog => "backlog",
        };
        let joined = if self.joined { ", joined" } else { "" };
        format!("{flow}, {} x {}{joined}", size_in_words(self.size as u64), self.batch)
    }

    /// The result of its repetitions; none of none.
    pub fn result(&self, repetitions: &[Repetition], machine: Machine) -> Option<TestResult> {
        let bytes = self.messages as f64 * self.size as f64;
        let rates = |elapsed: fn(&Repetition) -> Duration| {
            let rate = |one| rounded(self.messages as f64 / elapsed(one).as_secs_f64());
            repetitions.iter().map(rate).collect()
        };
        let mbit = |one: &Repetition| bytes * 8.0 / 1e6 / one.elapsed.as_secs_f64();
        let errors = |one: &Repetition| one.published.failures as f64 / one.published.elapsed.as_secs_f64();
        let cpu = |of: fn((Duration, Duration)) -> Duration| {
            let each: Option<Vec<f64>> = repetitions
                .iter()
                .map(|one| one.cpu.map(|cpu| of(cpu).as_secs_f64() * 1e9 / bytes))
                .collect();
            each.as_deref().and_then(Spread::of)
        };
        let mut latencies = BTreeMap::new();
        put_latencies(&mut latencies, ["publishLatency", "aggregatedPublishLatency"], repetitions, |one| {
            &one.published.latency
        });
        put_latencies(&mut latencies, ["endToEndLatency", "aggregatedEndToEndLatency"], repetitions, |one| {
            &one.consumed.latency
        });
        Some(TestResult {
            workload: self.name(),
            driver: DRIVER.into(),
            message_size: self.size as u64,
            topics: 1,
            partitions: 1,
            producers_per_topic: 1,
            consumers_per_topic: 1,
            publish_rate: rates(|one| one.published.elapsed),
            publish_error_rate: repetitions.iter().map(errors).collect(),
            consume_rate: rates(|one| one.elapsed),
            backlog: repetitions
                .iter()
                .map(|one| self.messages.saturating_sub(one.consumed.messages))
                .collect(),
            latencies,
            bridge: Some(Relayed {
                flow: self.flow,
                batch: self.batch,
                joined: self.joined,
                messages: self.messages,
                mbit_per_second: Spread::of(&repetitions.iter().map(mbit).collect::<Vec<_>>())?,
                cpu_seconds_per_gb: cpu(|cpu| cpu.0)
                    .zip(cpu(|cpu| cpu.1))
                    .map(|(hub, edge)| CpuPerGb { hub, edge }),
                machine,
            }),
        })
    }
}

impl TestResult {
    /// A latency of all repetitions together in milliseconds, by the end of its name: `EndToEndLatency50pct`.
    pub fn aggregated(&self, name: &str) -> Option<f64> {
        self.latencies.get(&format!("aggregated{name}"))?.as_f64()
    }
}

impl Spread {
    /// Of none there is none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { min: rounded(min), median: rounded((low + high) / 2.0), max: rounded(max) })
    }
}

/// `100 B`, `10 KiB`, `1 MiB`.
pub fn size_in_words(bytes: u64) -> String {
    match bytes {
        0..KIB => format!("{bytes} B"),
        KIB..MIB => format!("{} KiB", bytes / KIB),
        MIB.. => format!("{} MiB", bytes / MIB),
    }
}

/// Each repetition's and, under the second name, those of all together.
fn put_latencies(
    out: &mut BTreeMap<String, Value>,
    [each, all]: [&str; 2],
    repetitions: &[Repetition],
    of: fn(&Repetition) -> &Histogram<u64>,
) {
    let mut together = latencies();
    for one in repetitions {
        // Of one shape: it cannot fail.
        let _ = together.add(of(one));
    }
    for (name, value) in LATENCIES {
        let of_each: Vec<f64> = repetitions.iter().map(|one| rounded(value(of(one)) / 1e3)).collect();
        out.insert(format!("{each}{name}"), of_each.into());
        out.insert(format!("{all}{name}"), rounded(value(&together) / 1e3).into());
    }
}

/// Nobody reads what stands behind the third place.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Something of a histogram, in microseconds.
type Figure = fn(&Histogram<u64>) -> f64;

/// The ends of the latencies' names, and what is meant, in microseconds.
const LATENCIES: [(&str, Figure); 9] = [
    ("Avg", |of| of.mean()),
    ("50pct", |of| of.value_at_quantile(0.5) as f64),
    ("75pct", |of| of.value_at_quantile(0.75) as f64),
    ("95pct", |of| of.value_at_quantile(0.95) as f64),
    ("99pct", |of| of.value_at_quantile(0.99) as f64),
    ("999pct", |of| of.value_at_quantile(0.999) as f64),
    ("9999pct", |of| of.value_at_quantile(0.9999) as f64),
    ("99999pct", |of| of.value_at_quantile(0.99999) as f64),
    ("Max", |of| of.max() as f64),
];

/// What a relay has to reach, in 10^6 bits per second.
pub const TARGET_MBIT_S: f64 = 400.0;
const DRIVER: &str = "bridge";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(messages: u64, micros: u64) -> Reading {
        let mut latency = latencies();
        latency.record_n(micros, messages).unwrap();
        Reading { messages, bytes: 0, failures: 0, latency, elapsed: Duration::from_millis(500) }
    }

    fn repetition(millis: u64, hub_millis: u64) -> Repetition {
        Repetition {
            elapsed: Duration::from_millis(millis),
            published: reading(1000, 2000),
            consumed: reading(1000, 1000 * millis),
            cpu: Some((Duration::from_millis(hub_millis), Duration::from_millis(20))),
        }
    }

    #[test]
    fn a_result_has_the_fields_of_the_benchmark_and_survives_its_json() {
        let workload = Workload { size: 1000, batch: 10, joined: false, flow: Flow::Live, messages: 1000 };
        let machine = Machine { processor: "a".into(), cores: 2 };
        let repetitions = [repetition(1000, 10), repetition(250, 20), repetition(500, 30)];
        let result = workload.result(&repetitions, machine.clone()).unwrap();
        let json = serde_json::to_value(&result).unwrap();
        assert_eq!(json["consumeRate"], serde_json::json!([1000.0, 4000.0, 2000.0]));
        assert_eq!(json["publishRate"], serde_json::json!([2000.0, 2000.0, 2000.0]));
        let names = ["workload", "driver", "messageSize", "topics", "partitions", "producersPerTopic"];
        let more = ["publishErrorRate", "backlog", "publishLatency999pct", "endToEndLatencyAvg"];
        for name in names.iter().chain(&more).chain(&["consumersPerTopic", "aggregatedPublishLatencyMax"]) {
            assert!(!json[name].is_null(), "{name}");
        }
        assert_eq!(json["bridge"]["mbitPerSecond"]["median"], 16.0);
        assert_eq!(json["bridge"]["cpuSecondsPerGb"]["hub"]["max"], 30.0);
        assert!((result.aggregated("EndToEndLatency50pct").unwrap() - 500.0).abs() < 1.0);
        assert_eq!(serde_json::from_value::<TestResult>(json).unwrap(), result);
        assert_eq!(workload.result(&[], machine), None);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0, 1.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of(&[9.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 9.0 }));
    }
}
