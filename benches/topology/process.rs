//! A process of the topology: started from the binary under test, ended with its owner. Judges nothing.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A running `bridge`. Dropped, it is killed.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `bridge` with these arguments; it logs to a file of this name.
    pub fn start(name: &str, logs: &Path, arguments: &[&str]) -> Self {
        let log = logs.join(format!("{name}.log"));
        let mut command = Command::new(BRIDGE);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(File::create(&log).expect("the log can be written"));
        Self { child: command.spawn().expect("the binary under test starts"), log }
    }

    /// The first line that it prints.
    pub fn first_line(&mut self) -> String {
        let stdout = self.child.stdout.take().expect("stdout is a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("stdout can be read");
        assert!(!line.is_empty(), "it ended at once: see {}", self.log.display());
        line.trim_end().to_owned()
    }

    /// Where it logs.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Lets it do nothing.
    pub fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).expect("it runs");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).expect("it runs");
    }

    /// The CPU time it has had, by the kernel's word; none where there is no /proc.
    pub fn cpu(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15 (proc_pid_stat(5)).
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        Some(Duration::from_millis(ticks * MILLIS_PER_TICK))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; it holds nothing that is worth a drain.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const BRIDGE: &str = env!("CARGO_BIN_EXE_bridge");
/// USER_HZ is 100 wherever Linux runs on x86-64 or arm64.
const MILLIS_PER_TICK: u64 = 10;
