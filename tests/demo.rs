//! What the binary does without a cluster: both sites, their brokers and a load in one process, as `bridge.json` says.
//! On ports of its own, so that whatever runs on this machine is left alone.

#![cfg(all(feature = "embedded", feature = "load"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot run the binary has failed")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// `bridge.json` with free ports, changed by the test.
fn setup(dir: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("bridge-config/bridge.json")).unwrap();
    // All at once, or one port could be given twice.
    let ports = ["6650", "6750", "8001", "9600", "9601"];
    let held: Vec<_> = ports.iter().map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let text = ports.iter().zip(&held).fold(text, |text, (port, held)| {
        let free = held.local_addr().unwrap().port();
        text.replace(&format!("127.0.0.1:{port}\""), &format!("127.0.0.1:{free}\""))
    });
    let mut value: Value = serde_json::from_str(&text).unwrap();
    change(&mut value);
    let file = dir.join("bridge.json");
    fs::write(&file, value.to_string()).unwrap();
    file
}

fn run(file: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bridge"));
    command.arg("run").arg("--config").arg(file).args(args).env_remove("BRIDGE_LOG").env_remove("RUST_LOG");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn requests_cross_are_priced_and_come_back_checked() {
    let dir = tempfile::tempdir().unwrap();
    let file = setup(dir.path(), |value| value["load"]["requester"]["points"] = json!(16));
    let ended = run(&file, &["--topics", "datagen-requests", "--for", "3s", "--output", "json"]);
    let (stdout, stderr) = (text(&ended.stdout), text(&ended.stderr));
    assert_eq!(ended.status.code(), Some(0), "{stderr}");
    let summary: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let number = |key: &str| summary[key].as_u64().unwrap();
    assert!(number("requests") > 100, "{summary}\n{stderr}");
    assert_eq!((number("lost"), number("repeated"), number("wrong")), (0, 0, 0), "{summary}");
    assert_eq!(number("results"), number("requests"));
    assert_eq!(number("points"), 16 * number("results"));
    assert!(summary["mbit_s"].as_f64().unwrap() > 0.0 && summary["seconds"].as_f64().unwrap() >= 3.0);
    assert_eq!(stdout.lines().count(), 1, "stdout is kept for the summary: {stdout}");
    let lines = stderr.lines().filter(|line| line.contains(" s  sent ")).count();
    assert!((2..=4).contains(&lines), "a line each second, {lines} came: {stderr}");
}

#[test]
fn a_link_keeps_to_the_narrower_of_both_budgets() {
    let dir = tempfile::tempdir().unwrap();
    let file = setup(dir.path(), |value| {
        value["sites"][0]["tunnel"]["edges"][0]["budget_mbit_s"] = json!(12);
        value["sites"][1]["tunnel"]["budget_mbit_s"] = json!(60);
        value["load"]["requester"]["unanswered"] = json!(16);
        // Little work, so that a busy machine reaches it too.
        value["load"]["requester"]["points"] = json!(64);
    });
    let ended = run(&file, &["--for", "10s", "--output", "json"]);
    let summary: Value = serde_json::from_str(text(&ended.stdout).trim()).unwrap();
    let mbit_s = summary["mbit_s"].as_f64().unwrap();
    assert!((11.4..=12.6).contains(&mbit_s), "{summary}\n{}", text(&ended.stderr));
}

#[test]
fn a_pipe_gets_lines_and_a_summary() {
    let dir = tempfile::tempdir().unwrap();
    let file = setup(dir.path(), |value| value["load"]["requester"]["rate"] = json!(200));
    let ended = run(&file, &["--for", "2s"]);
    let stdout = text(&ended.stdout);
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    assert!(stdout.lines().next().unwrap().contains(" s  sent "), "{stdout}");
    let last = stdout.lines().last().unwrap();
    assert!(last.starts_with("requests ") && last.contains("  lost 0  repeated 0  wrong 0  in "), "{last}");
    // At a rate, not as fast as it goes: 2 s and the second that is made up for.
    let requests: u64 = last.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((100..=700).contains(&requests), "{last}");
}

#[test]
fn an_address_that_is_taken_ends_the_run_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = setup(dir.path(), |value| value["sites"][0]["pulsar"]["embedded"] = json!(address));
    let ended = run(&file, &["--for", "2s"]);
    let stderr = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(75), "{stderr}");
    assert!(stderr.contains("pulsar.embedded") && stderr.contains(&address), "{stderr}");
}

#[test]
fn keys_are_made_for_the_run_and_gone_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let temporary = dir.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let file = setup(dir.path(), |value| value["load"]["requester"]["rate"] = json!(10));
    let mut command = Command::new(env!("CARGO_BIN_EXE_bridge"));
    command.args(["run", "--for", "1s", "--config"]).arg(&file).env("TMPDIR", &temporary);
    let ended = command.output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "keys were left behind");
}
