//! The lines of a measurement, in pulsar-perf's words (`PerformanceProducer`, `PerformanceConsumer`), so that scripts
//! that read those read these; or as JSON.

use std::time::Duration;

use hdrhistogram::Histogram;
use pulsar_bridge::load::meter::Reading;
use pulsar_bridge::load::numbers::Tally;
use serde_json::json;

/// Which side is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A producer.
    Produced,
    /// A consumer.
    Received,
}

/// One interval, of this length, that ended with `now`.
pub fn interval(side: Side, before: &Reading, now: &Reading, length: Duration) -> String {
    let seconds = length.as_secs_f64().max(1e-9);
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let messages = rate(now.messages, before.messages);
    let mbit_s = rate(now.bytes, before.bytes) * 8.0 / 1e6;
    let failures = match side {
        Side::Produced => {
            format!(" --- failure {:8.1} msg/s", rate(now.failures, before.failures))
        }
        Side::Received => String::new(),
    };
    format!(
        "Throughput {}: {:7} msg --- {messages:8.1} msg/s --- {mbit_s:8.1} Mbit/s {failures} --- Latency: {}\n",
        verb(side),
        now.messages,
        latencies(&now.latency, false),
    )
}

/// One interval of a relay as JSON: its rate by the messages' own bytes (of `size` each) and its latencies; `sent` and
/// what the tally says are since the beginning.
pub fn json_interval(
    size: u32,
    sent: u64,
    tally: &Tally,
    before: &Reading,
    now: &Reading,
    length: Duration,
) -> String {
    let seconds = length.as_secs_f64().max(1e-9);
    let messages = now.messages.saturating_sub(before.messages);
    let ms = |micros: f64| micros / 1e3;
    let at = |quantile: f64| ms(now.latency.value_at_quantile(quantile) as f64);
    let value = json!({
        "seconds": seconds, "messages": messages,
        "mbit_s": messages as f64 * f64::from(size) * 8.0 / 1e6 / seconds,
        "latency_ms": {
            "mean": ms(now.latency.mean()), "p50": at(0.5), "p99": at(0.99), "p99_9": at(0.999),
            "max": ms(now.latency.max() as f64),
        },
        "sent": sent, "received": tally.counted, "missing": tally.missing,
        "repeated": tally.repeated, "disordered": tally.disordered,
    });
    format!("{value}\n")
}

/// The whole measurement; `latency` holds all of it.
pub fn aggregated(side: Side, end: &Reading, latency: &Histogram<u64>) -> String {
    let seconds = end.elapsed.as_secs_f64().max(1e-9);
    let records = match side {
        Side::Produced => "sent",
        Side::Received => "received",
    };
    format!(
        "Aggregated throughput stats --- {} records {records} --- {:.3} msg/s --- {:.3} Mbit/s\n\
         Aggregated latency stats --- Latency: {}\n",
        end.messages,
        end.messages as f64 / seconds,
        end.bytes as f64 * 8.0 / 1e6 / seconds,
        latencies(latency, true),
    )
}

fn verb(side: Side) -> &'static str {
    match side {
        Side::Produced => "produced",
        Side::Received => "received",
    }
}

fn latencies(latency: &Histogram<u64>, whole: bool) -> String {
    let ms = |micros: f64| micros / 1e3;
    let at = |quantile: f64| ms(latency.value_at_quantile(quantile) as f64);
    let last = if whole { format!(" - 99.999pct: {:7.3}", at(0.999_99)) } else { String::new() };
    format!(
        "mean: {:7.3} ms - med: {:7.3} - 95pct: {:7.3} - 99pct: {:7.3} - 99.9pct: {:7.3} - 99.99pct: {:7.3}{last} - Max: {:7.3}",
        ms(latency.mean()),
        at(0.5),
        at(0.95),
        at(0.99),
        at(0.999),
        at(0.9999),
        ms(latency.max() as f64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(messages: u64, bytes: u64, latency: &[u64]) -> Reading {
        let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        latency.iter().for_each(|micros| histogram.record(*micros).unwrap());
        Reading { messages, bytes, failures: 0, latency: histogram, elapsed: Duration::from_secs(4) }
    }

    #[test]
    fn an_interval_as_json_counts_the_messages_own_bytes_and_its_own_messages() {
        let (before, now) = (reading(1000, 1_000_000, &[]), reading(3000, 3_100_000, &[1000, 1500, 9000]));
        let tally = Tally { counted: 3000, repeated: 1, disordered: 2, missing: 3 };
        let line = json_interval(1000, 3100, &tally, &before, &now, Duration::from_secs(2));
        assert_eq!(line.lines().count(), 1);
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let wanted = json!({
            "seconds": 2.0, "messages": 2000, "mbit_s": 8.0, "sent": 3100, "received": 3000,
            "missing": 3, "repeated": 1, "disordered": 2,
        });
        for (name, value) in wanted.as_object().unwrap() {
            assert_eq!(&said[name], value, "{name}");
        }
        // Three digits of each are kept.
        let latency = |name: &str| said["latency_ms"][name].as_f64().unwrap();
        for (name, value) in [("p50", 1.5), ("p99", 9.0), ("max", 9.0)] {
            assert!((latency(name) - value).abs() <= value / 500.0, "{name}: {line}");
        }
    }

    #[test]
    fn lines_are_pulsar_perfs() {
        let (before, now) = (reading(1000, 1_000_000, &[]), reading(3000, 3_000_000, &[1000, 1500, 2000]));
        let line = interval(Side::Produced, &before, &now, Duration::from_secs(2));
        assert_eq!(
            line,
            "Throughput produced:    3000 msg ---   1000.0 msg/s ---      8.0 Mbit/s  --- failure      0.0 msg/s --- \
             Latency: mean:   1.500 ms - med:   1.500 - 95pct:   2.000 - 99pct:   2.000 - 99.9pct:   2.000 - \
             99.99pct:   2.000 - Max:   2.000\n"
        );
        let all = aggregated(Side::Received, &now, &now.latency);
        assert!(all.starts_with(
            "Aggregated throughput stats --- 3000 records received --- 750.000 msg/s --- 6.000 Mbit/s\n"
        ));
        assert!(all.contains("99.999pct"));
    }
}
