//! Sites as the binary runs them, each a process of its own, between brokers in memory: written to, told to reload,
//! asked. Knows no assertion of its own but that what it waits for comes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A process of the binary. Dropped, it is killed.
pub struct Running {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Running {
    pub fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bridge"));
        command.args(args).env_remove("BRIDGE_LOG").env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = Arc::<Mutex<Vec<String>>>::default();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let said = said.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    said.lock().unwrap().push(line);
                }
            });
        }
        Self { child, said }
    }

    /// A site by its configuration's file.
    pub fn site(config: &Path) -> Self {
        Self::start(&["run", "--config", config.to_str().unwrap()])
    }

    /// The first line, from the `from`th on, that has all of these in it.
    pub fn line_from(&self, from: usize, has: &[&str]) -> String {
        until(has, || {
            let said = self.said.lock().unwrap();
            said.iter().skip(from).find(|line| has.iter().all(|part| line.contains(part))).cloned()
        })
        .unwrap_or_else(|| panic!("never said {has:?}:\n{}", self.said.lock().unwrap().join("\n")))
    }

    pub fn line(&self, has: &[&str]) -> String {
        self.line_from(0, has)
    }

    /// How many lines it has said.
    pub fn said(&self) -> usize {
        self.said.lock().unwrap().len()
    }

    pub fn text(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// The port behind `address=` in the line that has this.
    pub fn port(&self, has: &str) -> u16 {
        let line = self.line(&[has]);
        let digits: String =
            line.rsplit(':').next().unwrap().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGHUP, and what it says next of it.
    pub fn reload(&self) -> String {
        let from = self.said();
        self.signal(Signal::HUP);
        let told = |line: &&String| line.contains("the configuration is");
        until(&["reload"], || self.said.lock().unwrap().iter().skip(from).find(told).cloned())
            .unwrap_or_else(|| panic!("no word on the reload:\n{}", self.text()))
    }

    /// The same, where nothing is wrong with it.
    pub fn loads(&self) {
        let told = self.reload();
        assert!(told.contains("is loaded"), "{}", self.text());
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&get(self.port("admin: listening"), "/api/v1/status")).unwrap()
    }

    pub fn metrics(&self) -> String {
        get(self.port("admin: listening"), "/metrics")
    }

    /// Waits until the status is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&[what], || Some(self.status()).filter(&wanted))
            .unwrap_or_else(|| panic!("never: {what}; {:#}\n{}", self.status(), self.text()))
    }

    /// Waits for its end; what it said.
    pub fn ended(mut self) -> String {
        self.child.wait().unwrap();
        // The readers end with the pipes.
        sleep(Duration::from_millis(50));
        self.text()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again: processes wake nobody here.
pub fn until<T>(_what: &[&str], look: impl Fn() -> Option<T>) -> Option<T> {
    let since = Instant::now();
    while since.elapsed() < PATIENCE {
        if let Some(found) = look() {
            return Some(found);
        }
        sleep(Duration::from_millis(10));
    }
    None
}

fn get(port: u16, path: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// A broker in memory; its URL.
pub fn broker() -> (Running, String) {
    let broker = Running::start(&["perf", "broker", "--listen", "127.0.0.1:0", "--retain"]);
    let url = broker.line(&["pulsar://"]);
    let url = url.split_whitespace().find(|word| word.starts_with("pulsar://")).unwrap().to_owned();
    (broker, url)
}

/// A configuration's file that the test changes.
pub struct File {
    pub path: PathBuf,
    pub value: Value,
}

impl File {
    pub fn read(path: PathBuf) -> Self {
        let value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        Self { path, value }
    }

    pub fn change(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.value);
        fs::write(&self.path, serde_json::to_string_pretty(&self.value).unwrap()).unwrap();
    }
}

/// Ids of a peer's link and of its lasting lanes: equal ids are the same connections.
pub fn lanes(status: &Value, peer: &str) -> Vec<String> {
    let links = status["links"].as_array().unwrap().iter().filter(|link| link["peer"] == peer);
    let of_link = |link: &Value| {
        let lanes = link["lanes"].as_array().unwrap().iter().filter(|lane| lane["kind"] != "stream");
        let mut ids: Vec<_> = lanes.map(|lane| lane["lane_id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    links.flat_map(of_link).collect()
}

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);
