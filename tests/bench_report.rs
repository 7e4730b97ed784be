//! The report of the checked-in results is the one that the binary makes of them, and its plots are SVG.

#![cfg(feature = "load")]
#![allow(clippy::unwrap_used, reason = "a test that cannot set its stage has failed")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use pulsar_bridge::load::results::TestResult;
use serde_json::json;

fn report(results: &Path, out: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bridge"));
    command.args(["perf", "report"]).arg(results).arg("--out").arg(out).output().unwrap()
}

fn bench() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bench"))
}

#[test]
fn the_checked_in_report_is_that_of_the_checked_in_results() {
    let out = tempfile::tempdir().unwrap();
    let made = report(&bench().join("results.json"), out.path());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |dir: &Path| fs::read_to_string(dir.join("report.md")).unwrap();
    assert_eq!(
        read(out.path()),
        read(bench()),
        "bridge perf report docs/bench/results.json --out docs/bench"
    );
}

#[test]
fn the_readme_shows_the_table_and_the_plots() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let report = fs::read_to_string(bench().join("report.md")).unwrap();
    let rows: Vec<_> = report.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 10, "{report}");
    let missing: Vec<_> = rows.iter().filter(|row| !readme.contains(**row)).collect();
    assert_eq!(missing, Vec::<&&str>::new(), "copy the table of docs/bench/report.md");
    for plot in ["docs/bench/throughput.svg", "docs/bench/cpu.svg"] {
        assert!(readme.contains(plot) && root.join(plot).exists(), "{plot}");
    }
}

#[test]
fn the_plots_are_svg_with_a_line_for_each_batch() {
    let out = tempfile::tempdir().unwrap();
    report(&bench().join("results.json"), out.path());
    let results = fs::read_to_string(bench().join("results.json")).unwrap();
    let results: Vec<TestResult> = serde_json::from_str(&results).unwrap();
    let batches =
        results.iter().filter_map(|result| result.bridge.as_ref()).filter(|relayed| !relayed.joined);
    let mut batches: Vec<u32> = batches.map(|relayed| relayed.batch).collect();
    batches.sort_unstable();
    batches.dedup();
    assert!(batches.len() > 3, "{batches:?}");
    for (plot, targets) in [("throughput.svg", 1), ("cpu.svg", 0)] {
        let svg = fs::read_to_string(out.path().join(plot)).unwrap();
        let svg = roxmltree::Document::parse(&svg).unwrap();
        assert_eq!(svg.root_element().tag_name().name(), "svg", "{plot}");
        let texts: Vec<_> = svg
            .descendants()
            .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")))
            .filter_map(|node| node.text())
            .map(str::trim)
            .collect();
        for batch in &batches {
            assert!(
                texts.contains(&format!("batches of {batch}").as_str()),
                "{plot}: {batch} is not in {texts:?}"
            );
        }
        assert_eq!(texts.iter().filter(|text| **text == "target 400").count(), targets, "{plot}");
    }
}

#[test]
fn what_is_no_result_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (results, out) = (dir.path().join("results.json"), dir.path().join("out"));
    for text in ["", "{}", "[]", "[{\"workload\": 1}]"] {
        fs::write(&results, text).unwrap();
        let made = report(&results, &out);
        assert_eq!(made.status.code(), Some(2), "{text}");
        assert!(String::from_utf8_lossy(&made.stderr).contains("results.json"), "{text}");
        assert!(!out.exists(), "{text}");
    }
}

/// A long run of two minutes, as `testbed/long/hour` leaves it.
fn lines() -> String {
    let minute = |minute: u32, p99: f64| {
        let samples = json!({ "hub": [20.0, 21.0], "edge": [22.5, 22.5] });
        let latency = json!({ "mean": 1.0, "p50": 1.0, "p99": p99, "p99_9": 9.0, "max": 12.0 });
        json!({
            "kind": "minute", "minute": minute, "latency_ms": latency, "rss_mib": samples, "anon_mib": samples,
        })
    };
    let begin = json!({ "kind": "begin", "minutes": 2 });
    [begin, minute(1, 80.0), minute(2, 4.0), json!({ "kind": "end" })]
        .map(|line| format!("{line}\n"))
        .concat()
}

#[test]
fn a_long_run_is_drawn_minute_by_minute() {
    let dir = tempfile::tempdir().unwrap();
    let (results, out) = (dir.path().join("lines.jsonl"), dir.path().join("out"));
    fs::write(&results, lines()).unwrap();
    let made = report(&results, &out);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for (plot, series) in [("latency.svg", &["p99", "p50", "longest"][..]), ("memory.svg", &SITES[..])] {
        let svg = fs::read_to_string(out.join(plot)).unwrap();
        let svg = roxmltree::Document::parse(&svg).unwrap();
        let named = |name: &'static str| svg.descendants().filter(move |node| node.tag_name().name() == name);
        let texts: Vec<_> = named("text").filter_map(|node| node.text()).map(str::trim).collect();
        for name in series {
            assert!(texts.contains(name), "{plot}: {name} is not in {texts:?}");
        }
        // A dot for each minute of each; the warm-up's are hollow.
        let hollow = |node: &roxmltree::Node<'_, '_>| node.attribute("fill") == Some("none");
        let (warm_up, others): (Vec<_>, Vec<_>) = named("circle").partition(hollow);
        assert_eq!((warm_up.len(), others.len()), (series.len(), series.len()), "{plot}");
    }
}

#[test]
fn lines_that_are_none_or_cannot_be_drawn_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (results, out) = (dir.path().join("lines.jsonl"), dir.path().join("out"));
    let (without, below) = (json!({ "kind": "begin" }).to_string(), lines().replace("80.0", "-1.0"));
    for text in ["", "[]", "{", &without, &below, &lines().replace("\"p99\":80.0,", "")] {
        fs::write(&results, text).unwrap();
        let made = report(&results, &out);
        assert_eq!(made.status.code(), Some(2), "{text}");
        assert!(!out.exists(), "{text}");
    }
}

const SITES: [&str; 4] = ["hub, resident", "edge, resident", "hub, anonymous", "edge, anonymous"];
