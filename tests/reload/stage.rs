//! A hub `riskfuel` with the edges `bank` and `other`, as `bridge init` makes them, and brokers in memory.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::running::{File, Running, broker, lanes};

pub const TOPIC: &str = "persistent://public/default/datagen-requests";

/// The hub and both edges run; `bank` is linked with a control and a relay lane.
pub struct Stage {
    pub dir: tempfile::TempDir,
    pub hub: Running,
    pub hub_file: File,
    pub bank: Running,
    pub bank_file: File,
    pub other: Running,
    pub brokers: [(Running, String); 3],
}

impl Stage {
    pub fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        init(&["--hub", "riskfuel", "--edge", "bank,other", "--url", "tls://127.0.0.1:1"], dir.path());
        let brokers = [broker(), broker(), broker()];
        let mut hub_file = File::read(dir.path().join("hub/hub.json"));
        hub_file.change(|hub| {
            hub["pulsar"] = json!({ "service_url": brokers[0].1, "deduplication": "asserted" });
            hub["tunnel"]["listen"] = json!("127.0.0.1:0");
            hub["admin"]["listen"] = json!("127.0.0.1:0");
            for route in hub["routes"].as_array_mut().unwrap() {
                if route["to"] == "other" || route["from"] == "other" {
                    route["topics"] =
                        json!([format!("persistent://public/other/{}", route["name"].as_str().unwrap())]);
                }
            }
        });
        let hub = Running::site(&hub_file.path);
        let port = hub.port("tunnel: listening");
        let edge = |name: &str, broker: &str| {
            let mut file = File::read(dir.path().join(name).join("edge.json"));
            file.change(|edge| {
                edge["pulsar"] = json!({ "service_url": broker, "deduplication": "asserted" });
                edge["tunnel"]["connect"] = json!([format!("tls://127.0.0.1:{port}")]);
                edge["admin"]["listen"] = json!("127.0.0.1:0");
            });
            file
        };
        let bank_file = edge("bank", &brokers[1].1);
        let other_file = edge("other", &brokers[2].1);
        let (bank, other) = (Running::site(&bank_file.path), Running::site(&other_file.path));
        for (peer, site) in [("bank", &bank), ("other", &other)] {
            hub.until("both lanes are up", |status| lanes(status, peer).len() == 2);
            site.until("both lanes are up", |status| lanes(status, "riskfuel").len() == 2);
        }
        Self { dir, hub, hub_file, bank, bank_file, other, brokers }
    }

    /// Measured messages from the hub's cluster to the bank's, so many a second for so many seconds.
    pub fn relayed(&self, rate: u32, seconds: u32) -> Running {
        let [(_, from), (_, to), _] = &self.brokers;
        let (rate, seconds) = (rate.to_string(), seconds.to_string());
        Running::start(&[
            "perf",
            "relay",
            TOPIC,
            "--from",
            from,
            "--to",
            to,
            "--rate",
            &rate,
            "--test-duration",
            &seconds,
            "--output",
            "json",
            "--size",
            "1024",
            "--stats-interval-seconds",
            "1",
        ])
    }
}

/// `bridge init` with these arguments and this folder; what it printed.
pub fn init(args: &[&str], out: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bridge"));
    let ended = command.arg("init").args(args).arg("--out").arg(out).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap()
}

/// The entry of an edge in the hub's configuration.
pub fn edge<'a>(hub: &'a mut Value, name: &str) -> &'a mut Value {
    let edges = hub["tunnel"]["edges"].as_array_mut().unwrap();
    edges.iter_mut().find(|edge| edge["name"] == name).unwrap()
}

/// The measured relay's result.
pub fn result(said: &str) -> Value {
    let line = said.lines().rev().find(|line| line.starts_with('{'));
    serde_json::from_str(line.unwrap_or_else(|| panic!("no result in:\n{said}"))).unwrap()
}
