//! What the broker in memory carries: one producer and one consumer on raw sockets that cost as little as they can,
//! and the broker's own CPU time. Checks that everything comes, in order; decodes nothing else.
//!
//! ```text
//! cargo run --release --example broker_load -- --entry-len 65536 --gigabytes 8
//! ```
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement that fails has no result")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use clap::Parser;
use pulsar_bridge::embedded::{Broker, Settings};
use pulsar_bridge::pulsar::crc;
use pulsar_bridge::pulsar::fields::{self, Fields, Value};
use pulsar_bridge::pulsar::frame::{self, Frame, FrameSplitter};
use pulsar_bridge::pulsar::proto::{self, BaseCommand, MessageId, kind};
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Args {
    /// Bytes of an entry.
    #[arg(long, default_value_t = 65536)]
    entry_len: usize,
    /// Stop after this many gigabytes (1e9).
    #[arg(long, default_value_t = 4.0)]
    gigabytes: f64,
    /// Topics, each with a producer and a consumer of its own.
    #[arg(long, default_value_t = 1)]
    topics: usize,
}

fn main() {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("broker")
        .enable_all()
        .build()
        .unwrap();
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let broker = runtime.block_on(Broker::bind(local, Settings::default())).unwrap();
    let address = broker.address();
    let stop = CancellationToken::new();
    let serving = runtime.spawn(broker.run(stop.clone()));
    let count = (args.gigabytes * 1e9) as u64 / args.entry_len as u64 / args.topics as u64;
    let began = Instant::now();
    let threads: Vec<_> = (0..args.topics)
        .flat_map(|number| {
            let topic = format!("persistent://public/default/load-{number}");
            let consumer = consumer(address, &topic);
            let producer = producer(address, &topic);
            let receipts = producer.try_clone().unwrap();
            [
                std::thread::spawn(move || consume(consumer, count)),
                std::thread::spawn(move || produce(producer, count, args.entry_len)),
                std::thread::spawn(move || await_receipts(receipts, count)),
            ]
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let seconds = began.elapsed().as_secs_f64();
    let cpu = broker_cpu_seconds();
    stop.cancel();
    runtime.block_on(serving).unwrap();
    let entries = (count * args.topics as u64) as f64;
    let gigabytes = entries * args.entry_len as f64 / 1e9;
    println!(
        "{entries} entries of {} B in {seconds:.2} s: {:.2} Gbit/s, {:.0} entries/s, broker {:.3} CPU-s/GB, {:.2} µs/entry",
        args.entry_len,
        gigabytes * 8.0 / seconds,
        entries / seconds,
        cpu / gigabytes,
        cpu / entries * 1e6
    );
}

fn produce(mut socket: TcpStream, count: u64, entry_len: usize) {
    // SEND with a sequence id of fixed width, so that it can be written over in place.
    let mut metadata = Vec::new();
    fields::put_bytes(&mut metadata, 1, b"load");
    fields::put_varint(&mut metadata, 2, 0);
    fields::put_varint(&mut metadata, 3, 1_800_000_000_000);
    let mut body = (metadata.len() as u32).to_be_bytes().to_vec();
    body.extend_from_slice(&metadata);
    body.resize(entry_len - 6, b'x');
    let sum = crc::of(&[&body]);
    let mut frame = Vec::new();
    let command = b"\x08\x06\x32\x08\x08\x01\x10\x80\x80\x80\x80\x00";
    frame.extend_from_slice(&((4 + command.len() + entry_len) as u32).to_be_bytes());
    frame.extend_from_slice(&(command.len() as u32).to_be_bytes());
    frame.extend_from_slice(command);
    frame.extend_from_slice(&[0x0e, 0x01]);
    frame.extend_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&body);
    let at = 8 + command.len() - 5;
    let in_one = (256 * 1024 / frame.len()).max(1);
    let mut frames = frame.repeat(in_one);
    let mut sent = 0;
    while sent < count {
        let now = in_one.min((count - sent) as usize);
        for index in 0..now {
            let id = sent + index as u64;
            let place = &mut frames[index * frame.len() + at..][..5];
            for (shift, byte) in place.iter_mut().enumerate() {
                *byte = (id >> (7 * shift)) as u8 & 0x7f | if shift < 4 { 0x80 } else { 0 };
            }
        }
        socket.write_all(&frames[..now * frame.len()]).unwrap();
        sent += now as u64;
    }
}

fn await_receipts(mut socket: TcpStream, count: u64) {
    let mut splitter = FrameSplitter::new(1 << 20);
    let mut due = 0;
    while due < count {
        let frame = next(&mut socket, &mut splitter);
        if frame.command[1] == 7 {
            assert_eq!(number(&frame, 7, 2), due);
            due += 1;
        }
    }
}

fn consume(mut socket: TcpStream, count: u64) {
    let mut splitter = FrameSplitter::new(16 << 20);
    let mut due = 0;
    let mut last = MessageId { ledger: 0, entry: 0 };
    let mut granted = Instant::now();
    while due < count {
        let frame = next(&mut socket, &mut splitter);
        if frame.command[1] != 9 {
            continue;
        }
        last = message_id(&frame);
        assert_eq!(last.entry, due);
        due += 1;
        if due % 1024 == 0 || due == count || granted.elapsed() > Duration::from_millis(1) {
            granted = Instant::now();
            acknowledge(&mut socket, &last);
        }
    }
    acknowledge(&mut socket, &last);
}

fn acknowledge(socket: &mut TcpStream, last: &MessageId) {
    let ack =
        proto::Ack { consumer_id: 1, ack_type: 1, message_id: vec![last.clone()], ..Default::default() };
    say(socket, kind::ACK, |command| command.ack = Some(ack));
}

fn number(frame: &Frame, command: u32, field: u32) -> u64 {
    let inner = Fields::of(&frame.command).flatten().find(|each| each.number == command).unwrap();
    let Value::Bytes(inner) = inner.value else { panic!("no command {command}") };
    match Fields::of(inner).flatten().find(|each| each.number == field).unwrap().value {
        Value::Varint(value) => value,
        Value::Bytes(_) | Value::Fixed32(_) | Value::Fixed64(_) => panic!("no number"),
    }
}

fn message_id(frame: &Frame) -> MessageId {
    // 08 09 4a len 08 01 12 len [ ledger, entry ]
    let id: Vec<u64> = Fields::of(&frame.command[8..])
        .flatten()
        .take(2)
        .filter_map(|each| match each.value {
            Value::Varint(value) => Some(value),
            Value::Bytes(_) | Value::Fixed32(_) | Value::Fixed64(_) => None,
        })
        .collect();
    MessageId { ledger: id[0], entry: id[1] }
}

fn producer(address: SocketAddr, topic: &str) -> TcpStream {
    let mut socket = connect(address);
    let producer = proto::Producer {
        topic: topic.into(),
        producer_id: 1,
        request_id: 1,
        producer_name: Some("load".into()),
        ..Default::default()
    };
    say(&mut socket, kind::PRODUCER, |command| command.producer = Some(producer));
    answered(&mut socket, kind::PRODUCER_SUCCESS);
    socket
}

fn consumer(address: SocketAddr, topic: &str) -> TcpStream {
    let mut socket = connect(address);
    let subscribe = proto::Subscribe {
        topic: topic.into(),
        subscription: "load".into(),
        consumer_id: 1,
        request_id: 1,
        ..Default::default()
    };
    say(&mut socket, kind::SUBSCRIBE, |command| command.subscribe = Some(subscribe));
    answered(&mut socket, kind::SUCCESS);
    let flow = proto::Flow { consumer_id: 1, message_permits: i32::MAX as u32 };
    say(&mut socket, kind::FLOW, |command| command.flow = Some(flow));
    socket
}

fn connect(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    let connect = proto::Connect { client_version: "load".into(), ..Default::default() };
    say(&mut socket, kind::CONNECT, |command| command.connect = Some(connect));
    answered(&mut socket, kind::CONNECTED);
    socket
}

fn answered(socket: &mut TcpStream, expected: i32) {
    let mut splitter = FrameSplitter::new(1 << 20);
    assert_eq!(next(socket, &mut splitter).decode().unwrap().r#type, expected);
}

fn say(socket: &mut TcpStream, r#type: i32, fill: impl FnOnce(&mut BaseCommand)) {
    let mut command = BaseCommand { r#type, ..BaseCommand::default() };
    fill(&mut command);
    socket.write_all(&frame::encode(&command)).unwrap();
}

fn next(socket: &mut TcpStream, splitter: &mut FrameSplitter) -> Frame {
    loop {
        if let Some(frame) = splitter.next_frame().unwrap() {
            return frame;
        }
        read(socket, splitter.inlet());
    }
}

/// Reads into the room that there is, which has to be written once before.
fn read(socket: &mut TcpStream, inlet: &mut BytesMut) {
    let len = inlet.len();
    inlet.resize(inlet.capacity(), 0);
    let read = socket.read(&mut inlet[len..]).unwrap();
    assert!(read > 0, "the broker closed the connection");
    inlet.truncate(len + read);
}

/// User and system time of the broker's threads, by their name.
fn broker_cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let ticks = stats.filter(|stat| stat.contains("(broker)")).map(|stat| {
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap().split(' ').filter_map(|field| field.parse().ok()).collect();
        // Behind the name: state, ppid, …; without the state utime and stime are the 11th and 12th.
        fields[10] + fields[11]
    });
    ticks.sum::<u64>() as f64 / 100.0
}
