//! A long line between two network namespaces, packet by packet: TCP of either side's kernel meets the delay, the rate,
//! the queue and the loss themselves.
//!
//!     distant --one hub:198.18.31.1 --other edge:198.18.31.2 --delay-ms 50 --rate-mbit-s 1000 --loss 0.001 --seed 7
//!
//! Makes a TUN device `far` in each of the two and says `{"ready": true}`. Then each line that it reads is answered by a
//! line of JSON, what became of the packets of each direction; so is the end of what it reads, and then it ends. Packets
//! are handed over up to 0.25 ms late, several at once, as network cards do. Refuses packets beyond its bounds: those count
//! as dropped. Needs root.

mod ends;
mod line;

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use ends::{End, Place};
use line::{Counts, Line, Terms};

#[derive(Parser)]
struct Arguments {
    /// NAMESPACE:ADDRESS of one end
    #[arg(long)]
    one: Place,
    /// and of the other
    #[arg(long)]
    other: Place,
    /// One way, in milliseconds
    #[arg(long)]
    delay_ms: f64,
    /// Of each direction, in 10^6 bits of IP packets
    #[arg(long)]
    rate_mbit_s: f64,
    /// What may wait at each end to leave, in KiB; without it, what the line carries in a round trip
    #[arg(long)]
    queue_kib: Option<u64>,
    /// The share of packets that gets lost, each way
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Of the losses
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("distant: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let terms = terms(arguments)?;
    let mut link = Link {
        began: Instant::now(),
        ends: [End::open(&arguments.one, &arguments.other)?, End::open(&arguments.other, &arguments.one)?],
        // Each direction has chances of its own.
        lines: [Line::new(terms), Line::new(Terms { seed: !terms.seed, ..terms })],
        late_max_ns: 0,
        late: 0,
    };
    say(r#"{"ready": true}"#)?;
    while link.step()? {}
    say(&link.counts())
}

fn terms(arguments: &Arguments) -> io::Result<Terms> {
    let refused = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if !(0.0..=10_000.0).contains(&arguments.delay_ms) {
        return refused("--delay-ms is 0 to 10000");
    }
    if !(0.001..=100_000.0).contains(&arguments.rate_mbit_s) {
        return refused("--rate-mbit-s is 0.001 to 100000");
    }
    if !(0.0..=1.0).contains(&arguments.loss) {
        return refused("--loss is 0 to 1");
    }
    let (delay_ns, rate) = ((arguments.delay_ms * 1e6) as u64, (arguments.rate_mbit_s * 1e6) as u64);
    let round_trip = (rate as f64 / 8.0 * 2.0 * arguments.delay_ms / 1e3) as u64;
    let queue_bytes = arguments.queue_kib.map_or(round_trip.max(QUEUE_BYTES_MIN), |kib| kib * 1024);
    Ok(Terms { delay_ns, rate, queue_bytes, loss: arguments.loss, seed: arguments.seed })
}

/// Both ends and both directions; `lines[0]` leads from `ends[0]` to `ends[1]`.
struct Link {
    began: Instant,
    ends: [End; 2],
    lines: [Line; 2],
    late_max_ns: u64,
    late: u64,
}

impl Link {
    /// Waits for something to do and does it; `false` when nobody wants the link any more.
    fn step(&mut self) -> io::Result<bool> {
        let stdin = io::stdin();
        let [one, other] = &self.ends;
        let mut waits = [
            PollFd::new(one.device(), PollFlags::IN),
            PollFd::new(other.device(), PollFlags::IN),
            PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
        ];
        let now = self.now();
        let next = self.lines.iter().filter_map(Line::next_at).min();
        let timeout = next.map(|at_ns| Duration::from_nanos((at_ns + TOGETHER_NS).saturating_sub(now)));
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match poll(&mut waits, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let asked = !waits[2].revents().is_empty();
        for from in 0..2 {
            self.take(from)?;
        }
        for to in 0..2 {
            self.deliver(to)?;
        }
        if asked { self.answer() } else { Ok(true) }
    }

    fn take(&mut self, from: usize) -> io::Result<()> {
        for _ in 0..READS_MAX {
            let now = self.now();
            let line = &mut self.lines[from];
            if !self.ends[from].read(|packet| line.take(packet, now))? {
                break;
            }
        }
        Ok(())
    }

    fn deliver(&mut self, to: usize) -> io::Result<()> {
        let now = self.now();
        let (line, end) = (&mut self.lines[1 - to], &mut self.ends[to]);
        while let Some((due_ns, packet)) = line.arrived(now) {
            let late_ns = now - due_ns;
            self.late_max_ns = self.late_max_ns.max(late_ns);
            self.late += u64::from(late_ns > LATE_NS);
            end.push(&packet)?;
        }
        end.write()
    }

    fn answer(&self) -> io::Result<bool> {
        let mut asked = [0; 4096];
        let len = io::stdin().lock().read(&mut asked)?;
        for _ in asked[..len].iter().filter(|byte| **byte == b'\n') {
            say(&self.counts())?;
        }
        Ok(len > 0)
    }

    fn counts(&self) -> String {
        let [one, other] = &self.lines;
        format!(
            r#"{{"seconds": {:.3}, "from_one": {}, "from_other": {}, "late": {}, "late_max_us": {}}}"#,
            self.began.elapsed().as_secs_f64(),
            told(one.counts(), one.on_its_way()),
            told(other.counts(), other.on_its_way()),
            self.late,
            self.late_max_ns / 1000,
        )
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn told(counts: Counts, on_its_way: usize) -> String {
    let Counts { packets, bytes, longest, dropped, lost, delivered, queued_max } = counts;
    format!(
        r#"{{"packets": {packets}, "bytes": {bytes}, "longest": {longest}, "dropped": {dropped}, "lost": {lost}, "delivered": {delivered}, "on_its_way": {on_its_way}, "queued_max": {queued_max}}}"#
    )
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Packets that arrive within this are handed over together.
const TOGETHER_NS: u64 = 250_000;
/// Counted as late beyond this: then the machine has no time for the link, and figures are not the link's.
const LATE_NS: u64 = 2_000_000;
/// Reads of one end before the other has its turn.
const READS_MAX: usize = 64;
/// Room for what a sender hands over at once.
const QUEUE_BYTES_MIN: u64 = 256 << 10;
