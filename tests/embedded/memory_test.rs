//! The bound on memory, seen from outside: a process of its own, loads that do not fit, and others that are served.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pulsar_bridge::pulsar::proto::{self, BaseCommand, kind};
use pulsar_bridge::pulsar::{fields, frame};

use crate::raw::Raw;

/// `bridge perf broker`; killed with the test.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bridge"))
            .args(["perf", "broker", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { child, url: url.trim().into() }
    }

    /// A line of /proc/<pid>/status, in MiB.
    fn mib(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let found = status.lines().find_map(|each| each.strip_prefix(line)).unwrap();
        let kib: u64 = found.split_whitespace().nth(0).unwrap().parse().unwrap();
        kib / 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends without end, until the broker is gone; counts what was confirmed.
fn flood(url: &str, topic: &str, len: usize) -> Arc<AtomicU64> {
    let mut raw = Raw::connect(url);
    raw.create_producer(topic, 1);
    let mut receipts = raw.try_clone();
    let confirmed = Arc::new(AtomicU64::new(0));
    let counted = confirmed.clone();
    std::thread::spawn(move || (0..).all(|id| raw.try_send(1, id, len)));
    std::thread::spawn(move || {
        while let Some(frame) = receipts.try_next() {
            let is_receipt = frame.decode().unwrap().r#type == kind::SEND_RECEIPT;
            counted.fetch_add(is_receipt.into(), Ordering::Relaxed);
        }
    });
    confirmed
}

/// Until a counter has not moved for half a second.
fn until_stuck(counter: &AtomicU64) -> u64 {
    let mut last = (counter.load(Ordering::Relaxed), Instant::now());
    while last.1.elapsed() < Duration::from_millis(500) || last.0 == 0 {
        std::thread::sleep(Duration::from_millis(10));
        let now = counter.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    last.0
}

#[test]
fn whoever_floods_or_never_acknowledges_is_slowed_and_the_others_are_served() {
    let process = Process::start(&["--memory", "64MiB"]);
    let empty = process.mib("VmRSS:");
    // One that never acknowledges, and whom somebody floods.
    let mut hog = Raw::connect(&process.url);
    hog.subscribe("hog", 1);
    hog.permit(1, 1_000_000);
    let reading = std::thread::spawn(move || while hog.try_next().is_some() {});
    let confirmed = flood(&process.url, "hog", 64 * 1024);
    let hogged = until_stuck(&confirmed) * 64 / 1024;
    assert!((32..=40).contains(&hogged), "two thirds of 56 MiB, not {hogged} MiB");
    let full = process.mib("VmRSS:");
    // Ten thousand topics, each with a subscription that keeps a message.
    let mut many = Raw::connect(&process.url);
    for batch in 0..100 {
        let ids = batch * 100..(batch + 1) * 100;
        ids.clone().for_each(|id| many.ask_to_subscribe(&format!("many-{id}"), id));
        ids.clone().for_each(|_| drop(many.await_kind(kind::SUCCESS)));
        ids.clone().for_each(|id| many.ask_for_producer(&format!("many-{id}"), id));
        ids.clone().for_each(|_| drop(many.await_kind(kind::PRODUCER_SUCCESS)));
        ids.clone().for_each(|id| many.send(id, 0, 500));
        ids.for_each(|_| drop(many.await_kind(kind::SEND_RECEIPT)));
    }
    let topics = process.mib("VmRSS:");
    let served = serve_others(&process.url, Duration::from_secs(3));
    let peak = process.mib("VmHWM:");
    println!(
        "memory 64 MiB: {empty} MiB empty, {full} MiB with {hogged} MiB never acknowledged, {topics} MiB with 10,000 \
         topics more, {peak} MiB at most; meanwhile others had {served} entries of 16 KiB in 3 s"
    );
    assert_eq!(confirmed.load(Ordering::Relaxed) * 64 / 1024, hogged, "the flood is still held back");
    assert!(served > 1000, "others are served: {served}");
    assert!(peak < 64 + 96, "{peak} MiB");
    drop(process);
    reading.join().unwrap();
}

/// Entries that another topic carries in this time: sent, received, acknowledged.
fn serve_others(url: &str, time: Duration) -> u64 {
    let mut consumer = Raw::connect(url);
    consumer.subscribe("other", 1);
    consumer.permit(1, 1_000_000);
    flood(url, "other", 16 * 1024);
    let began = Instant::now();
    let mut seen = 0;
    while began.elapsed() < time {
        let command = consumer.await_kind(kind::MESSAGE);
        seen += 1;
        consumer.ack(1, command.message.unwrap().message_id);
    }
    seen
}

#[test]
fn answers_wait_to_be_asked_for_until_the_client_reads() {
    let process = Process::start(&["--memory", "16MiB"]);
    let mut raw = Raw::connect(&process.url);
    raw.create_producer("t", 1);
    // Schema: a name, 900 KiB, type JSON.
    let mut schema = Vec::new();
    fields::put_bytes(&mut schema, 1, b"large");
    fields::put_bytes(&mut schema, 3, &vec![b'x'; 900 << 10]);
    fields::put_varint(&mut schema, 4, 2);
    let make = proto::GetOrCreateSchema { request_id: 1, topic: "t".into(), schema: schema.into() };
    raw.say(kind::GET_OR_CREATE_SCHEMA, |command| command.get_or_create_schema = Some(make));
    raw.await_kind(kind::GET_OR_CREATE_SCHEMA_RESPONSE);
    let empty = process.mib("VmRSS:");
    // One read of the broker's, and 450 MiB of answers.
    let mut asked = Vec::new();
    for request_id in 0..500 {
        let get_schema = Some(proto::GetSchema { request_id, topic: "t".into(), ..Default::default() });
        let command = BaseCommand { r#type: kind::GET_SCHEMA, get_schema, ..Default::default() };
        asked.extend_from_slice(&frame::encode(&command));
    }
    raw.write(&asked);
    for request_id in 0..500 {
        let answer = raw.await_kind(kind::GET_SCHEMA_RESPONSE).get_schema_response.unwrap();
        assert_eq!(answer.request_id, request_id);
    }
    let peak = process.mib("VmHWM:");
    println!("450 MiB of answers asked for at once: {empty} MiB before, {peak} MiB at most");
    // Three times what ends a round, with the allocator's doubling.
    assert!(peak < empty + 96, "{peak} MiB");
}

#[test]
fn retained_entries_give_way_when_their_room_is_needed() {
    let process = Process::start(&["--memory", "16MiB", "--retain"]);
    let mut raw = Raw::connect(&process.url);
    raw.create_producer("t", 1);
    for id in 0..2000 {
        raw.send(1, id, 64 * 1024);
        raw.await_kind(kind::SEND_RECEIPT);
    }
    let peak = process.mib("VmHWM:");
    println!("125 MiB through 16 MiB that retain: {peak} MiB at most");
    assert!(peak < 16 + 64, "{peak} MiB");
}

#[test]
fn an_acknowledgement_makes_room_for_whoever_waits_where_entries_are_retained() {
    let process = Process::start(&["--memory", "16MiB", "--retain"]);
    let mut consumer = Raw::connect(&process.url);
    consumer.subscribe("t", 1);
    let confirmed = flood(&process.url, "t", 64 * 1024);
    let held = until_stuck(&confirmed);
    // Nothing was acknowledged when the flood began to wait; from here on it lives on acknowledgements alone.
    consumer.permit(1, 1_000_000);
    for _ in 0..held * 4 {
        let command = consumer.await_kind(kind::MESSAGE);
        consumer.ack(1, command.message.unwrap().message_id);
    }
    assert!(confirmed.load(Ordering::Relaxed) > held * 3);
}
