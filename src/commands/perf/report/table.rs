//! Results as Markdown. Rounds, and leaves nothing out.

use pulsar_bridge::load::results::{Flow, Relayed, Spread, TARGET_MBIT_S, TestResult, size_in_words};

/// The whole report: what was measured on, plots, table.
pub fn report(results: &[TestResult]) -> String {
    let relayed: Vec<_> =
        results.iter().filter_map(|result| Some((result, result.bridge.as_ref()?))).collect();
    let mut report = String::new();
    if let Some((_, first)) = relayed.first() {
        let machine = &first.machine;
        let cores = if machine.cores == 1 { "core" } else { "cores" };
        report += &format!("{}, {} {cores}. ", machine.processor, machine.cores);
    }
    report += INTRODUCTION;
    report += &format!("\n![Mbit/s by size of message]({})\n", super::THROUGHPUT);
    report += &format!("\n![CPU-seconds per GB by size of message]({})\n\n", super::CPU);
    report += HEAD;
    for (result, relayed) in relayed {
        report += &row(result, relayed);
    }
    report
}

fn row(result: &TestResult, relayed: &Relayed) -> String {
    let flow = match relayed.flow {
        Flow::Live => "live",
        Flow::Backlog => "backlog",
    };
    let joined = if relayed.joined { ", joined" } else { "" };
    let mbit = relayed.mbit_per_second;
    let messages = Spread::of(&result.consume_rate).map_or(0.0, |rate| rate.median);
    let cpu = |of: Option<Spread>| of.map_or_else(|| "–".into(), |cpu| format!("{:.2}", cpu.median));
    let (hub, edge) = relayed.cpu_seconds_per_gb.map_or((None, None), |cpu| (Some(cpu.hub), Some(cpu.edge)));
    // What waited says nothing by its age.
    let latency = |name: &str| match (relayed.flow, result.aggregated(name)) {
        (Flow::Live, Some(latency)) => format!("{latency:.0}"),
        (Flow::Live | Flow::Backlog, _) => "–".into(),
    };
    let cells = [
        flow.into(),
        size_in_words(result.message_size),
        format!("{}{joined}", relayed.batch),
        thousands(messages),
        format!("{} ({} to {})", thousands(mbit.median), thousands(mbit.min), thousands(mbit.max)),
        format!("{:.1}", mbit.median / TARGET_MBIT_S),
        cpu(hub),
        cpu(edge),
        latency("EndToEndLatency50pct"),
        latency("EndToEndLatency99pct"),
        result.consume_rate.len().to_string(),
    ];
    format!("| {} |\n", cells.join(" | "))
}

/// `12,345`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

const INTRODUCTION: &str = "\
Producer, consumer, two brokers in memory, hub and edge share these cores; between hub and edge is TLS on the loopback \
interface. Payloads are random bytes. Every message was checked: none lost, repeated or out of order. Figures are \
medians, of Mbit/s also lowest and highest. Mbit/s, and the GB of CPU-s/GB, count the messages' own bytes, in 10^6 \
bits and 10^9 bytes. `live`: from the first message sent to the last consumed; its latencies are those of a producer \
that sends as fast as it may, so that queues are full. `backlog`: the messages waited at the source; from when the \
hub may begin. `joined`: single messages that the route joins.
";

const HEAD: &str = "\
| flow | message | batch | msg/s | Mbit/s | times 400 | hub CPU-s/GB | edge CPU-s/GB | p50 ms | p99 ms | repetitions |
|---|---|---|---|---|---|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (value, text) in [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(thousands(value), text);
        }
    }

    #[test]
    fn a_result_without_cpu_or_latencies_says_so() {
        let json = serde_json::json!({
            "workload": "w", "driver": "d", "messageSize": 1024, "topics": 1, "partitions": 1,
            "producersPerTopic": 1, "consumersPerTopic": 1, "publishRate": [], "publishErrorRate": [],
            "consumeRate": [1000.0, 3000.0], "backlog": [],
            "bridge": {
                "flow": "backlog", "batch": 1, "joined": true, "messages": 5,
                "mbitPerSecond": { "min": 100.0, "median": 200.0, "max": 1300.0 },
                "cpuSecondsPerGb": null, "machine": { "processor": "one", "cores": 2 }
            }
        });
        let result: TestResult = serde_json::from_value(json).unwrap();
        let row = row(&result, result.bridge.as_ref().unwrap());
        assert_eq!(
            row,
            "| backlog | 1 KiB | 1, joined | 2,000 | 200 (100 to 1,300) | 0.5 | – | – | – | – | 2 |\n"
        );
    }
}
