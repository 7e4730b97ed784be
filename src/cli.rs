//! The arguments of the binary, typed. Does nothing with them.

mod init;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
#[cfg(feature = "load")]
use pulsar_bridge::config::ServiceUrl;
use pulsar_bridge::pulsar::topic::TopicName;

pub use init::InitArgs;

/// Joins two organisations' Apache Pulsar clusters through a link that only one of them may dial.
#[derive(Debug, Parser)]
#[command(name = "bridge", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// How log lines look on stderr; what is logged is chosen by $BRIDGE_LOG or $RUST_LOG (default: info)
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run this site's bridge until SIGTERM or SIGINT, then drain
    Run(RunArgs),
    /// Make keys, tokens and configurations; never overwrites
    Init(InitArgs),
    /// Say what is wrong with a configuration, without running it
    Check(CheckArgs),
    /// Show a running bridge's links and routes
    Status(StatusArgs),
    /// At a route's destination: bring what was refused from the quarantine topic to where it was for
    Replay(ReplayArgs),
    /// Make a kubeconfig that leads through a forward, made of one that leads to the cluster directly
    Kubeconfig(KubeconfigArgs),
    /// Measure: produce, consume, relay; and a broker in memory
    #[cfg(any(feature = "embedded", feature = "load"))]
    #[command(subcommand)]
    Perf(Perf),
    /// Print a completion script for a shell
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Arguments of `bridge run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArg,
    /// Keep only the routes that carry these topics, and the routes that answer them
    #[arg(long, value_name = "TOPIC", value_delimiter = ',')]
    pub topics: Vec<String>,
    /// Stop after this time as after SIGTERM: 30s, 5m, 2h
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub run_time: Option<Duration>,
    /// json: end with a summary as one line of JSON on stdout
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// The configuration's file, with its flag or without.
#[derive(Debug, Args)]
pub struct ConfigArg {
    /// The configuration; without it $BRIDGE_CONFIG
    #[arg(long = "config", value_name = "FILE")]
    flagged: Option<PathBuf>,
    /// The same, without --config
    #[arg(value_name = "FILE", conflicts_with = "flagged")]
    bare: Option<PathBuf>,
}

impl ConfigArg {
    /// It, when it was given.
    pub fn file(&self) -> Option<&Path> {
        self.flagged.as_deref().or(self.bare.as_deref())
    }
}

/// Arguments of `bridge check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArg,
    /// How to tell the result
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Arguments of `bridge status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where the bridge's admin.listen is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9600")]
    pub admin: String,
    /// A table, or the JSON of /api/v1/status
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Ask again every two seconds
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `bridge replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The configuration of the destination's site; without it $BRIDGE_CONFIG
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The route's name
    pub route: String,
    /// Only the entry that lay there at the source
    #[arg(long, value_name = "LEDGER:ENTRY", value_parser = position)]
    pub position: Option<(u64, u64)>,
    /// Only list what is there
    #[arg(long)]
    pub dry_run: bool,
    /// At most so many records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// For a route that the other site declares: the site that has the topics
    #[arg(long, value_name = "SITE", requires = "quarantine")]
    pub from: Option<String>,
    /// Likewise: its quarantine topic
    #[arg(long, value_name = "TOPIC", value_parser = TopicName::parse)]
    pub quarantine: Option<TopicName>,
}

/// Arguments of `bridge kubeconfig`.
#[derive(Debug, Args)]
pub struct KubeconfigArgs {
    /// The forward's name
    #[arg(long, value_name = "NAME")]
    pub forward: String,
    /// The kubeconfig that leads to the cluster directly, such as its administrators use
    #[arg(long, value_name = "KUBECONFIG")]
    pub from: PathBuf,
    /// The configuration that declares the forward; without it $BRIDGE_CONFIG
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which context of it; without it the current one
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// A new file for it, which only its owner may read; without it it is printed
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// What measurements need.
#[cfg(any(feature = "embedded", feature = "load"))]
#[derive(Debug, Subcommand)]
pub enum Perf {
    /// Run a broker in memory until SIGTERM or SIGINT; the first line on stdout is its service URL
    #[cfg(feature = "embedded")]
    Broker(BrokerArgs),
    /// Produce messages at a rate and print what the broker confirms, as `pulsar-perf produce` does
    #[cfg(feature = "load")]
    Produce(ProduceArgs),
    /// Consume messages and print how many come and how late, as `pulsar-perf consume` does
    #[cfg(feature = "load")]
    Consume(ConsumeArgs),
    /// Produce at one cluster, consume at another what a bridge relays between them, and check that nothing is
    /// missing, repeated or out of order
    #[cfg(feature = "load")]
    Relay(RelayArgs),
    /// Make a table and plots of what benches left
    #[cfg(feature = "load")]
    Report(ReportArgs),
}

/// What a measurement is about and when it ends.
#[cfg(feature = "load")]
#[derive(Debug, Args)]
pub struct MeasureArgs {
    /// The topic; all of its partitions
    #[arg(value_parser = TopicName::parse)]
    pub topic: TopicName,
    /// How many messages; 0: until it is stopped
    #[arg(short = 'm', long, value_name = "N", default_value_t = 0)]
    pub num_messages: u64,
    /// Stop after so many seconds; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub test_duration: u64,
    /// Seconds between two lines
    #[arg(short = 'i', long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub stats_interval_seconds: u64,
}

/// What is produced.
#[cfg(feature = "load")]
#[derive(Debug, Args)]
pub struct TrafficArgs {
    /// Bytes of a message, which do not compress unless they are text
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=5_000_000))]
    pub size: u32,
    /// Text as of data-generation requests, which compresses
    #[arg(long)]
    pub text: bool,
    /// Messages in each batch; 1: not batched
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch_max_messages: u32,
    /// Entries that may wait for their receipt, in each partition
    #[arg(short = 'o', long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub max_outstanding: u32,
}

/// Arguments of `bridge perf produce`.
#[cfg(feature = "load")]
#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// The measurement.
    #[command(flatten)]
    pub measure: MeasureArgs,
    /// The messages.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// The brokers
    #[arg(short = 'u', long, value_name = "URL", value_parser = plain_url, default_value = "pulsar://127.0.0.1:6650")]
    pub service_url: ServiceUrl,
    /// Messages per second; 0: as fast as they are confirmed
    #[arg(short = 'r', long, value_name = "N", default_value_t = 100.0, value_parser = rate)]
    pub rate: f64,
}

/// Arguments of `bridge perf consume`.
#[cfg(feature = "load")]
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    /// The measurement.
    #[command(flatten)]
    pub measure: MeasureArgs,
    /// The brokers
    #[arg(short = 'u', long, value_name = "URL", value_parser = plain_url, default_value = "pulsar://127.0.0.1:6650")]
    pub service_url: ServiceUrl,
    /// The durable subscription
    #[arg(long, alias = "subscriptions", value_name = "NAME", default_value = "sub")]
    pub subscription: String,
    /// How it is shared
    #[arg(long, value_enum, ignore_case = true, default_value_t = SubscriptionType::Exclusive)]
    pub subscription_type: SubscriptionType,
    /// Where it begins when it is new
    #[arg(long, value_enum, ignore_case = true, default_value_t = SubscriptionPosition::Latest)]
    pub subscription_position: SubscriptionPosition,
}

/// Arguments of `bridge perf relay`.
#[cfg(feature = "load")]
#[derive(Debug, Args)]
pub struct RelayArgs {
    /// The measurement.
    #[command(flatten)]
    pub measure: MeasureArgs,
    /// The messages.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// The brokers of the route's source
    #[arg(long, value_name = "URL", value_parser = plain_url, default_value = "pulsar://127.0.0.1:6650")]
    pub from: ServiceUrl,
    /// The brokers of its destination
    #[arg(long, value_name = "URL", value_parser = plain_url, default_value = "pulsar://127.0.0.1:6750")]
    pub to: ServiceUrl,
    /// Messages per second; 0: as fast as they are confirmed
    #[arg(short = 'r', long, value_name = "N", default_value_t = 0.0, value_parser = rate)]
    pub rate: f64,
    /// json: end with the result as one line of JSON on stdout; json-lines: say each interval so, too
    #[arg(long, value_enum, default_value_t = RelayOutput::Text)]
    pub output: RelayOutput,
    /// Makes payloads and the writers in them anew as another run had them, of which nothing may still be on its way
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// How a measured relay is told.
#[cfg(feature = "load")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RelayOutput {
    /// For people.
    Text,
    /// Intervals for people, the result for programs.
    Json,
    /// For programs.
    JsonLines,
}

/// How a subscription is shared. Both keep the order; the bridge's own client knows no other.
#[cfg(feature = "load")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SubscriptionType {
    /// One consumer.
    Exclusive,
    /// One active consumer, others stand by.
    Failover,
}

/// Where a new subscription begins.
#[cfg(feature = "load")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SubscriptionPosition {
    /// At what is written from then on.
    Latest,
    /// At the first message that is still there.
    Earliest,
}

/// Arguments of `bridge perf report`.
#[cfg(feature = "load")]
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Results as `cargo bench --bench relay` leaves them, or the lines of `testbed/long/hour` (*.jsonl)
    pub results: PathBuf,
    /// Where to write report.md, throughput.svg and cpu.svg; of lines: latency.svg and memory.svg
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Arguments of `bridge perf broker`.
#[cfg(feature = "embedded")]
#[derive(Debug, Args)]
pub struct BrokerArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6650")]
    pub listen: std::net::SocketAddr,
    /// Listen beyond this machine, where everybody who reaches the port is let in
    #[arg(long)]
    pub expose: bool,
    /// What entries may hold before publishers wait: 64MiB, 2GiB
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    pub memory: usize,
    /// Keep acknowledged entries until their room is needed
    #[arg(long)]
    pub retain: bool,
    /// Store what was sent before as well
    #[arg(long)]
    pub no_deduplication: bool,
    /// Give a topic partitions
    #[arg(long, value_name = "TOPIC=N", value_parser = partitions)]
    pub partitions: Vec<(TopicName, u32)>,
}

/// How results are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object on each line.
    Json,
}

/// Messages per second.
#[cfg(feature = "load")]
fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| *rate == 0.0 || (0.001..=1e9).contains(rate));
    rate.ok_or_else(|| "write 0, or a number from 0.001 to 1e9".into())
}

/// `pulsar://host[:6650]`, several with commas.
#[cfg(feature = "load")]
fn plain_url(text: &str) -> Result<ServiceUrl, String> {
    ServiceUrl::parse_plain(text).map_err(|refusal| refusal.to_string())
}

/// `500ms`, `30s`, `5m`, `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let refused = || "write a number and its unit: 500ms, 30s, 5m, 2h".to_owned();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u32 = digits.parse().map_err(|_| refused())?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return Err(refused()),
    };
    Ok(unit * number)
}

/// `12:34`.
fn position(text: &str) -> Result<(u64, u64), String> {
    let numbers =
        text.split_once(':').and_then(|(ledger, entry)| Some((ledger.parse().ok()?, entry.parse().ok()?)));
    numbers.ok_or_else(|| "write a position as the record has it: 12:34".into())
}

/// `512KiB`, `64MiB`, `2GiB`.
#[cfg(feature = "embedded")]
fn size(text: &str) -> Result<usize, String> {
    let refused = || "write a number and its unit: 512KiB, 64MiB, 2GiB".to_owned();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: usize = digits.parse().map_err(|_| refused())?;
    let unit = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(refused()),
    };
    number.checked_mul(unit).ok_or_else(refused)
}

/// `TOPIC=N`.
#[cfg(feature = "embedded")]
fn partitions(text: &str) -> Result<(TopicName, u32), String> {
    let refused = || "write a topic and a number: persistent://public/default/orders=3".to_owned();
    let (topic, count) = text.rsplit_once('=').ok_or_else(refused)?;
    let topic = TopicName::parse(topic).map_err(|error| error.to_string())?;
    Ok((topic, count.parse().map_err(|_| refused())?))
}

const EXIT_CODES: &str = "Exit codes: 0 done, 2 usage, 69 the other side unavailable, 70 our own fault, \
                          75 an address in use, 77 not permitted, 78 configuration refused";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        for (text, millis) in [("500ms", 500), ("0s", 0), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)));
        }
        for text in ["", "s", "30", "-1s", "1.5s", "1d", "99999999999s", "1 s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn positions_are_two_numbers() {
        assert_eq!(position("12:34"), Ok((12, 34)));
        for text in ["", "12", "12:", ":34", "1:2:3", "-1:0", "a:b"] {
            assert!(position(text).is_err(), "{text}");
        }
    }

    #[cfg(feature = "embedded")]
    #[test]
    fn sizes_have_units_and_partitions_a_topic() {
        for (text, bytes) in [("0KiB", 0), ("512KiB", 512 << 10), ("64MiB", 64 << 20), ("2GiB", 2 << 30)] {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in ["", "MiB", "64", "64MB", "1.5GiB", "-1MiB", "99999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(partitions("a/b/c=3"), Ok((TopicName::parse("a/b/c").unwrap(), 3)));
        for text in ["a/b/c", "a/b=3", "a/b/c=", "a/b/c=-1"] {
            assert!(partitions(text).is_err(), "{text}");
        }
    }
}
