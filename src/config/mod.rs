//! JSON to a checked configuration: unknown keys refused, all problems at once, each with its path and
//! remedy. Reads no keys and no tokens: who uses them does, when they are used.

mod check;
pub mod credential;
mod field;
mod files;
mod json;
mod problem;
mod raw;
pub mod secret;
pub mod secret_file;
mod selection;
mod token_source;
mod url;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::policy::Policy;
use crate::pulsar::topic::TopicName;
use credential::EdgeKey;

pub use files::missing_files;
pub use problem::{ConfigErrors, Problem, Refusal};
pub use selection::TopicsError;
pub use token_source::{TokenError, TokenSource};
pub use url::{LinkUrl, ServiceUrl};

/// What one site's bridge runs by.
#[derive(Clone, Debug)]
pub struct Config {
    /// This site's name.
    pub site: String,
    /// Its cluster.
    pub pulsar: Pulsar,
    /// Its side of the link.
    pub tunnel: Tunnel,
    /// What the hub may do here; a hub has a policy for each edge instead.
    pub policy: Policy,
    /// The routes that this site declares.
    pub routes: Vec<Route>,
    /// Health, metrics, status.
    pub admin: Admin,
    /// How long a stop waits for what is on its way.
    pub drain: Duration,
    /// Where the file lies.
    pub dir: PathBuf,
}

/// A Pulsar cluster and how to be let in.
#[derive(Clone, Debug)]
pub struct Pulsar {
    /// The brokers.
    pub service_url: ServiceUrl,
    /// Admin REST, without a slash at the end.
    pub admin_url: Option<String>,
    /// Token authentication.
    pub token: Option<TokenSource>,
    /// TLS to the brokers.
    pub tls: BrokerTls,
    /// 1: this bridge is the site's only one. More: there may be others.
    pub replicas: u32,
    /// The operator says that deduplication is on.
    pub deduplication_asserted: bool,
}

/// TLS to the brokers.
#[derive(Clone, Debug, Default)]
pub struct BrokerTls {
    /// Who signs the brokers' certificates; there wherever a URL wants TLS.
    pub ca_file: Option<PathBuf>,
    /// Our client certificate; comes with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

/// This site's side of the link.
#[derive(Clone, Debug)]
pub enum Tunnel {
    /// It accepts.
    Hub(HubTunnel),
    /// It dials.
    Edge(EdgeTunnel),
}

/// The side that accepts.
#[derive(Clone, Debug)]
pub struct HubTunnel {
    /// Where edges dial.
    pub listen: SocketAddr,
    /// The directory of issuer key and chain.
    pub identity: PathBuf,
    /// Who may join.
    pub edges: Vec<EdgeEntry>,
    /// Bounds on who has not yet joined.
    pub limits: TunnelLimits,
}

/// An edge that may join.
#[derive(Clone, Debug)]
pub struct EdgeEntry {
    /// Its site name.
    pub name: String,
    /// Its key, and the one that replaces it.
    pub keys: Vec<EdgeKey>,
    /// What it may do here.
    pub policy: Policy,
    /// How many of its processes may be joined at once to one hub process.
    pub max_instances: u32,
}

/// Bounds on connections that have not yet proved who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelLimits {
    /// Connections in their handshake.
    pub handshakes: u32,
    /// Of one address.
    pub handshakes_per_address: u32,
    /// When a handshake is given up.
    pub handshake_timeout: Duration,
}

impl Default for TunnelLimits {
    fn default() -> Self {
        Self { handshakes: 256, handshakes_per_address: 16, handshake_timeout: Duration::from_secs(10) }
    }
}

/// The side that dials.
#[derive(Clone, Debug)]
pub struct EdgeTunnel {
    /// The hub's addresses, tried in turn.
    pub connect: Vec<LinkUrl>,
    /// The file with the join token.
    pub token_file: PathBuf,
    /// How many relay lanes to dial.
    pub lanes: u16,
}

/// The rule that relays topics from one site to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its name, unique in the file.
    pub name: String,
    /// The site that has the topics.
    pub from: String,
    /// The site that gets them.
    pub to: String,
    /// The topics, without partition suffix, each once.
    pub topics: Vec<TopicName>,
    /// The route whose messages this one answers.
    pub answers: Option<String>,
    /// At least 1.
    pub generation: u32,
    /// The subscription that the owner chose.
    pub subscription: Option<String>,
    /// Where a new subscription starts.
    pub start: Start,
    /// Whether and how small messages are joined.
    pub batching: Option<Batching>,
}

impl Route {
    /// The subscription at the source: the chosen one, or `bridge.<from>.<to>`.
    pub fn subscription_name(&self) -> String {
        match &self.subscription {
            Some(name) => name.clone(),
            None => format!("bridge.{}.{}", self.from, self.to),
        }
    }
}

/// Where a new subscription starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first entry that is still there.
    #[default]
    Earliest,
    /// At what is written from then on.
    Latest,
}

/// Bounds of a joined batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Messages.
    pub max_messages: u32,
    /// Bytes.
    pub max_bytes: u32,
}

/// Health, metrics, status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens, if it does.
    pub listen: Option<SocketAddr>,
    /// Names by which it may be asked, besides `localhost` and addresses.
    pub hosts: Vec<String>,
}

/// Reads and checks a file.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    load_with(path, &|name| std::env::var(name).ok())
}

/// Reads and checks a file with an environment of the caller's.
pub fn load_with(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigErrors> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let refused = |problems| ConfigErrors { file: path.to_owned(), problems, files_opened: false };
    let (value, mut problems) = json::read(path).map_err(refused)?;
    match check::check(value, dir, env) {
        Ok(config) if problems.is_empty() => return Ok(config),
        Ok(_) => {}
        Err(others) => problems.extend(others),
    }
    Err(refused(problems))
}

/// The JSON Schema of the file, as `bridge-config/schema.json` holds it.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(raw::RawConfig).to_value();
    schema["title"] = "bridge".into();
    schema
}
