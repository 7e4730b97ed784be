//! What relay benches run on: two brokers in memory, a hub and an edge, each a process of its own on 127.0.0.1. Starts
//! them, waits until the routes run, and takes them down; measures nothing.

mod process;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pulsar_bridge::admin::client as admin;
use pulsar_bridge::load::meter::Meter;
use pulsar_bridge::load::produce::Produce;
use pulsar_bridge::pulsar::client::Client;
use pulsar_bridge::pulsar::topic::TopicName;
use pulsar_bridge::pulsar::transport::{Address, Dialer};
use pulsar_bridge::relay::status::{End, State};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub use process::Process;

/// All of it. Dropped, everything ends: first the agents, then the brokers, then the files.
pub struct Topology {
    /// The agent that reads.
    pub hub: Process,
    /// The agent that publishes.
    pub edge: Process,
    /// Of the hub's broker.
    pub source: Client,
    /// Of the edge's broker.
    pub destination: Client,
    _brokers: [Process; 2],
    _dir: TempDir,
}

/// A topic that is relayed from the hub to the edge.
pub struct Topic {
    /// Its name, the same at both.
    pub name: TopicName,
    /// Whether its route joins.
    pub joined: bool,
}

impl Topology {
    /// Starts everything, with a route for each topic, and gives it when all of them run.
    pub async fn start(topics: &[Topic]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let logs = bench_dir();
        let [(hub_broker, source_url), (edge_broker, destination_url)] =
            ["hub-broker", "edge-broker"].map(|name| broker(name, &logs));
        let (source, destination) = (client(&source_url), client(&destination_url));
        for topic in topics {
            make(&source, &topic.name).await;
        }
        let [link, hub_admin, edge_admin] = free_ports();
        let configs = Configs::init(dir.path(), link);
        configs.write_hub(&source_url, hub_admin, topics);
        configs.write_edge(&destination_url, edge_admin);
        let run = |name, config: &Path| {
            Process::start(name, &logs, &["run", "--config", config.to_str().unwrap(), "--output", "json"])
        };
        let (hub, edge) = (run("hub", &configs.hub), run("edge", &configs.edge));
        let began = Instant::now();
        for (site, port, end) in [(&hub, hub_admin, End::Source), (&edge, edge_admin, End::Sink)] {
            while let Some(missing) = not_running(port, end, topics).await {
                let log = site.log().display();
                assert!(began.elapsed() < START_TIME_MAX, "{missing}: see {log}");
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
        Self { hub, edge, source, destination, _brokers: [hub_broker, edge_broker], _dir: dir }
    }
}

/// The configurations that `bridge init` writes, changed for one machine.
struct Configs {
    hub: PathBuf,
    edge: PathBuf,
}

impl Configs {
    fn init(dir: &Path, link: u16) -> Self {
        let out = dir.join("sites");
        let url = format!("tls://127.0.0.1:{link}");
        let made = Command::new(env!("CARGO_BIN_EXE_bridge"))
            .args(["init", "--hub", HUB, "--edge", EDGE, "--url", &url, "--out"])
            .arg(&out)
            .output()
            .unwrap();
        assert!(made.status.success(), "bridge init: {}", String::from_utf8_lossy(&made.stderr));
        let configs = Self { hub: out.join("hub/hub.json"), edge: out.join(EDGE).join("edge.json") };
        change(&configs.hub, |hub| hub["tunnel"]["listen"] = json!(format!("127.0.0.1:{link}")));
        configs
    }

    fn write_hub(&self, broker: &str, admin: u16, topics: &[Topic]) {
        let names = |joined: bool| {
            let of_route = topics.iter().filter(|topic| topic.joined == joined);
            of_route.map(|topic| topic.name.to_string()).collect::<Vec<_>>()
        };
        let mut routes = Vec::new();
        if !names(false).is_empty() {
            routes.push(json!({ "name": "whole", "from": HUB, "to": EDGE, "topics": names(false) }));
        }
        if !names(true).is_empty() {
            let topics = names(true);
            routes
                .push(json!({ "name": "joined", "from": HUB, "to": EDGE, "topics": topics, "batching": {} }));
        }
        change(&self.hub, |hub| {
            hub["pulsar"] = pulsar(broker);
            hub["tunnel"]["edges"][0]["policy"] = json!({});
            hub["routes"] = Value::Array(routes);
            hub["admin"]["listen"] = json!(format!("127.0.0.1:{admin}"));
        });
    }

    fn write_edge(&self, broker: &str, admin: u16) {
        change(&self.edge, |edge| {
            edge["pulsar"] = pulsar(broker);
            edge["policy"] = json!({ "receive": ["persistent://public/default/.*"], "from": "earliest" });
            edge["admin"]["listen"] = json!(format!("127.0.0.1:{admin}"));
        });
    }
}

/// The brokers in memory have no admin API, and deduplicate.
fn pulsar(broker: &str) -> Value {
    json!({ "service_url": broker, "deduplication": "asserted", "replicas": 1 })
}

fn change(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut config = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(file, serde_json::to_string_pretty(&config).unwrap()).unwrap();
}

fn broker(name: &str, logs: &Path) -> (Process, String) {
    let arguments = ["perf", "broker", "--listen", "127.0.0.1:0", "--memory", BROKER_MEMORY];
    let mut broker = Process::start(name, logs, &arguments);
    let url = broker.first_line();
    (broker, url)
}

fn client(url: &str) -> Client {
    Client::new(vec![Address::parse(url).unwrap()], Dialer::default(), Arc::new(|| Ok(None)))
}

/// A producer that has nothing to say makes the topic.
async fn make(client: &Client, topic: &TopicName) {
    let nothing = Produce {
        client: client.clone(),
        topic: topic.clone(),
        writer: 0,
        size: 0,
        text: false,
        batch: 1,
        messages: Some(0),
        rate: None,
        outstanding_max: 1,
    };
    nothing.run(&Meter::new(), &CancellationToken::new()).await.unwrap();
}

/// What does not run yet at the site whose admin port this is.
async fn not_running(port: u16, end: End, topics: &[Topic]) -> Option<String> {
    let rows = match admin::status(&format!("http://127.0.0.1:{port}")).await {
        Ok(status) => status.routes,
        Err(error) => return Some(error.to_string()),
    };
    let runs = |topic: &Topic| {
        let mut of_topic = rows.iter().filter(|row| row.end == end && row.topic == topic.name.to_string());
        of_topic.any(|row| row.state == State::Running && row.promise.as_deref() == Some("effectively-once"))
    };
    let missing = topics.iter().find(|topic| !runs(topic))?;
    Some(format!("{} does not run", missing.name))
}

/// Ports that were free a moment ago: configurations name them before anybody listens.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Where processes log, and results are left.
pub fn bench_dir() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

const HUB: &str = "riskfuel";
const EDGE: &str = "bank";
/// Many times what one repetition leaves.
const BROKER_MEMORY: &str = "1GiB";
const START_TIME_MAX: Duration = Duration::from_secs(30);
const LOOK_PAUSE: Duration = Duration::from_millis(50);
