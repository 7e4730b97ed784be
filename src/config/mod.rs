//! JSON to a checked configuration: unknown keys refused, all problems at once, each with its path and
//! remedy. Reads no keys and no tokens: who uses them does, when they are used.

mod check;
pub mod credential;
mod egress;
mod field;
mod files;
#[doc(hidden)]
#[cfg(feature = "fuzzed")]
pub mod fuzzed;
mod json;
mod problem;
mod raw;
pub mod secret;
pub mod secret_file;
mod selection;
mod sites;
mod token_source;
mod url;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::policy::{ForwardLimits, Patterns, Policy, Renaming, Target};
use crate::pulsar::topic::TopicName;
use credential::EdgeKey;
use ipnet::IpNet;

pub use egress::{Egress, Exempt, Login, Proxy, ProxyKind};
pub use files::missing_files;
pub use problem::{ConfigErrors, NOT_BEFORE, Problem, Refusal, has_values};
pub use selection::TopicsError;
pub use sites::MakeTrust;
pub use token_source::{TokenError, TokenSource};
pub use url::{LinkScheme, LinkUrl, ServiceUrl};

/// What a process runs: one site, or several with a load to try things out.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The sites.
    pub sites: Vec<Config>,
    /// What drives them.
    pub load: Option<Load>,
}

impl Setup {
    /// Keeps only the routes that carry one of these topics, and the routes that answer them.
    pub fn keep_topics(&mut self, topics: &[String]) -> Result<(), TopicsError> {
        let mut declarers = self.sites.iter_mut().filter(|site| !site.routes.is_empty()).peekable();
        if declarers.peek().is_none() {
            return Err(TopicsError::NoRoutes);
        }
        declarers.try_for_each(|site| site.keep_topics(topics))
    }
}

/// Data-generation requests and who answers them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The topic of requests.
    pub requests: TopicName,
    /// The topic of results.
    pub results: TopicName,
    /// Who sends requests.
    pub requester: Option<Requester>,
    /// Who answers.
    pub worker: Option<Worker>,
}

/// Who sends requests and checks what comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// Its cluster.
    pub service_url: ServiceUrl,
    /// Points in each result.
    pub points: u32,
    /// Requests that may be unanswered at once.
    pub unanswered: u32,
    /// Requests per second.
    pub rate: Option<u32>,
}

/// Who prices what is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its cluster.
    pub service_url: ServiceUrl,
}

/// What one site's bridge runs by.
#[derive(Clone, Debug)]
pub struct Config {
    /// This site's name.
    pub site: String,
    /// Its cluster; without one it has forwards only.
    pub pulsar: Option<Pulsar>,
    /// Its side of the link.
    pub tunnel: Tunnel,
    /// What the hub may do here; a hub has a policy for each edge instead.
    pub policy: Policy,
    /// The routes that this site declares.
    pub routes: Vec<Route>,
    /// The forwards that it declares.
    pub forwards: Vec<Forward>,
    /// Health, metrics, status.
    pub admin: Admin,
    /// How long a stop waits for what is on its way.
    pub drain: Duration,
    /// Where the file lies.
    pub dir: PathBuf,
    /// SHA-256 of the file, hex.
    pub digest: String,
}

/// A Pulsar cluster and how to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulsar {
    /// The brokers.
    pub service_url: ServiceUrl,
    /// Where this process runs them itself, in memory; `service_url` leads there.
    pub embedded: Option<SocketAddr>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// What it presents.
    pub certificate: HubCertificate,
    /// Who vouches for edges that come with certificates of an own PKI.
    pub client_authorities: Option<ClientAuthorities>,
    /// Who may join.
    pub edges: Vec<EdgeEntry>,
    /// Bounds on who has not yet joined.
    pub limits: TunnelLimits,
    /// Load balancers and ingresses that may say on whose behalf they call.
    pub trusted_proxies: Vec<IpNet>,
}

/// What a hub presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubCertificate {
    /// What the issuer in this directory signs.
    Issuer(PathBuf),
    /// A certificate of its organisation's own PKI.
    Own(CertificateFiles),
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM, with what lies between it and the authority.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Authorities of edges' certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuthorities {
    /// Their certificates, PEM.
    pub ca_file: PathBuf,
    /// Their revocation lists, PEM.
    pub crl_file: Option<PathBuf>,
}

/// An edge that may join.
#[derive(Clone, Debug)]
pub struct EdgeEntry {
    /// Its site name.
    pub name: String,
    /// Its key, and the one that replaces it.
    pub keys: Vec<EdgeKey>,
    /// The DNS name in its certificate, lower case, where it comes with one.
    pub cert_name: Option<String>,
    /// What it may do here.
    pub policy: Policy,
    /// How many of its processes may be joined at once to one hub process.
    pub max_instances: u32,
    /// What each of its links may send, each way, Mbit/s; 0: no bound.
    pub budget_mbit_s: u32,
}

impl EdgeEntry {
    /// Whether nobody can join as it.
    pub fn is_shut_out(&self) -> bool {
        self.keys.is_empty() && self.cert_name.is_none()
    }
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeTunnel {
    /// The hub's addresses, tried in turn.
    pub connect: Vec<LinkUrl>,
    /// What it presents, and how it knows the hub.
    pub credential: EdgeCredential,
    /// How many relay lanes to dial.
    pub lanes: u16,
    /// How long a connection lives before another takes its place.
    pub lane_age: Duration,
    /// The hub's issuers from before, Unix seconds, are not believed.
    pub trust_after: u64,
    /// What a link may send, each way, Mbit/s; 0: no bound.
    pub budget_mbit_s: u32,
    /// The way out of this network.
    pub egress: Egress,
    /// Authorities of ingresses, besides those of the system.
    pub outer_ca_file: Option<PathBuf>,
}

/// What an edge presents, and how it knows the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeCredential {
    /// The file with the join token.
    Token(PathBuf),
    /// An own PKI on both sides.
    Certificate(EdgePki),
}

/// An own PKI, at an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgePki {
    /// Who vouches for the hub, PEM.
    pub ca_file: PathBuf,
    /// The DNS name in the hub's certificate.
    pub hub_name: String,
    /// The hub's site name.
    pub hub_site: String,
    /// The edge's own certificate.
    pub own: CertificateFiles,
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
    /// The topics that it names, without partition suffix, each once.
    pub topics: Vec<TopicName>,
    /// And those that match, whenever they appear.
    pub patterns: Patterns,
    /// Their names at the destination.
    pub renaming: Renaming,
    /// Whether the destination may have another number of partitions.
    pub any_partitions: bool,
    /// Whether it passes on what bridges brought from elsewhere.
    pub onward: bool,
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
    /// The topic at the destination for what its broker refuses, without partition suffix.
    pub quarantine: Option<TopicName>,
}

impl Route {
    /// Whether it relays the topic, or would if it were there.
    pub fn carries(&self, topic: &TopicName) -> bool {
        self.topics.contains(&topic.base()) || self.patterns.take(topic)
    }

    /// The subscription at the source: the chosen one, or `bridge.<from>.<to>`.
    pub fn subscription_name(&self) -> String {
        match &self.subscription {
            Some(name) => name.clone(),
            None => format!("bridge.{}.{}", self.from, self.to),
        }
    }
}

/// A TCP port carried through the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Its name, unique in the file.
    pub name: String,
    /// The site that listens.
    pub from: String,
    /// Where.
    pub listen: SocketAddr,
    /// The site that reaches the target.
    pub to: String,
    /// What is reached there.
    pub target: Target,
    /// Bounds on its connections.
    pub limits: ForwardLimits,
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

/// How small messages are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Messages in one batch.
    pub max_messages: u32,
    /// Bytes in one batch.
    pub max_bytes: u32,
    /// Milliseconds that a message may wait for company while others are on their way.
    pub max_delay_ms: u32,
    /// Whether and how a batch is compressed.
    pub compression: Compression,
    /// Whether messages of different keys share a batch.
    pub any_key: bool,
}

/// How a joined batch is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// zstd.
    Zstd,
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
    let text = json::read(path).map_err(refused)?;
    let (value, mut problems) = json::parse(&text).map_err(refused)?;
    match check::check(value, dir, env) {
        Ok(config) if problems.is_empty() => return Ok(Config { digest: digest(&text), ..config }),
        Ok(_) => {}
        Err(others) => problems.extend(others),
    }
    Err(refused(problems))
}

/// Reads and checks a file of either form: one site, or several.
pub fn load_setup(path: &Path, make: MakeTrust<'_>) -> Result<Setup, ConfigErrors> {
    let dir = path.parent().unwrap_or(Path::new(""));
    json::read(path).and_then(|text| setup(&text, dir, make)).map_err(|problems| ConfigErrors {
        file: path.to_owned(),
        problems,
        files_opened: false,
    })
}

/// The one that is built in: two sites, their brokers in memory, and a load.
pub fn built_in(make: MakeTrust<'_>) -> Result<Setup, ConfigErrors> {
    let file = PathBuf::from(BUILT_IN_NAME);
    setup(BUILT_IN, Path::new(""), make).map_err(|problems| ConfigErrors {
        file,
        problems,
        files_opened: false,
    })
}

fn setup(text: &str, dir: &Path, make: MakeTrust<'_>) -> Result<Setup, Vec<Problem>> {
    let env: check::Env<'_> = &|name| std::env::var(name).ok();
    let (mut value, mut problems) = json::parse(text)?;
    let checked = if sites::holds_sites(&value) {
        sites::fill_trust(&mut value, make).and_then(|()| check::check_sites(value, dir, env))
    } else {
        check::check(value, dir, env).map(|config| Setup { sites: vec![config], load: None })
    };
    match checked {
        Ok(mut setup) if problems.is_empty() => {
            setup.sites.iter_mut().for_each(|site| site.digest = digest(text));
            return Ok(setup);
        }
        Ok(_) => {}
        Err(others) => problems.extend(others),
    }
    Err(problems)
}

/// As `sha256sum` tells it.
fn digest(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How messages call it.
pub const BUILT_IN_NAME: &str = "the built-in bridge.json";

/// What runs without a configuration.
pub const BUILT_IN: &str = include_str!("../../bridge-config/bridge.json");

/// The JSON Schema of a site's file, as `bridge-config/schema.json` holds it.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(raw::RawConfig).to_value();
    schema["title"] = "bridge".into();
    schema
}

/// The JSON Schema of a file with several sites, as `bridge-config/sites.schema.json` holds it.
pub fn sites_schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(raw::RawSites).to_value();
    schema["title"] = "bridge, several sites".into();
    // The version stands once, for all of them.
    let site = &mut schema["$defs"]["Config"];
    if let Some(properties) = site["properties"].as_object_mut() {
        properties.remove("version");
    }
    if let Some(required) = site["required"].as_array_mut() {
        required.retain(|key| key != "version");
    }
    schema
}
