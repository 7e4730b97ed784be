//! Composition root: a configuration in, running tasks out; the only file that sees every room.

mod hand;
mod specs;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use crate::admin::Part;
use crate::admin::{self, AdminState};
use crate::config::{self, Config, Problem, TokenSource, Tunnel, secret_file};
use crate::exit::Exit;
use crate::pulsar::client::Client;
use crate::pulsar::connection::Credentials;
use crate::pulsar::rest::AdminRest;
use crate::pulsar::topic::TopicName;
use crate::pulsar::transport::{Address, Dialer, TlsFiles, TransportError};
use crate::relay::agent::Agent;
use crate::relay::context::{Cluster, Context};
use crate::relay::metrics::RelayMetrics;
use crate::tunnel::forewarning::Expiry;
use crate::tunnel::link::TunnelEvent;
use crate::tunnel::streams::LinkStreams;
use crate::tunnel::{self, EdgeDialer, HubKeys, TunnelError, TunnelMetrics};
use crate::{forward, relay};
pub use hand::{Hand, Prepared, key_files};
use specs::policies;

/// What a run did, for its last line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The site that ran.
    pub site: String,
    /// How long.
    pub seconds: f64,
    /// Messages published here, repeats included.
    pub messages_in: u64,
    /// Messages sent from here, repeats included.
    pub messages_out: u64,
    /// What had been sent and was not confirmed when the drain ended: it is sent again by the next run.
    pub unconfirmed: u64,
}

/// Why a site cannot run: an address to listen at cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{place} {address}: {error}; {remedy}", remedy = self.remedy())]
pub struct ListenError {
    /// Where it stands in the configuration.
    pub(crate) place: &'static str,
    pub(crate) address: SocketAddr,
    /// The system's word.
    pub(crate) error: io::Error,
}

impl ListenError {
    /// What an operator can do.
    fn remedy(&self) -> &'static str {
        if self.error.kind() == io::ErrorKind::AddrInUse {
            return match self.place {
                "pulsar.embedded" => {
                    "something listens there, perhaps a Pulsar of this machine: stop it, or run a copy of \
                     bridge-config/bridge.json that names other ports"
                }
                _ => {
                    "something listens there, perhaps another bridge of this site: stop it, or name another address"
                }
            };
        }
        "name an address of this machine that is free"
    }

    /// How the process ends with it.
    pub fn exit(&self) -> Exit {
        if self.error.kind() == io::ErrorKind::AddrInUse {
            return Exit::InUse;
        }
        if self.error.kind() == io::ErrorKind::PermissionDenied {
            return Exit::NotPermitted;
        }
        Exit::Refused
    }
}

/// A site that can run: what its configuration names was opened and is what it should be. Nothing is bound yet, and
/// nobody dialled.
pub struct Site {
    config: Config,
    /// Without one there are forwards only.
    cluster: Option<Cluster>,
    side: Side,
    boards: Boards,
    hand: Hand,
}

/// What a site publishes while it runs. Cheap to clone.
#[derive(Clone, Default)]
pub struct Boards {
    /// Its links.
    pub links: tunnel::status::Board,
    /// Its ends of routes.
    pub routes: relay::status::Board,
    /// Its ends of forwards.
    pub forwards: forward::status::Board,
}

enum Side {
    Hub(HubKeys),
    Edge(Box<EdgeDialer>),
}

impl Site {
    /// Opens what a configuration names; all problems at once.
    pub fn open(config: Config) -> Result<Self, Vec<Problem>> {
        let side = match &config.tunnel {
            Tunnel::Hub(hub) => HubKeys::load(hub, &config.site).map(Side::Hub),
            Tunnel::Edge(edge) => {
                EdgeDialer::load(edge, &config.site).map(|dialer| Side::Edge(Box::new(dialer)))
            }
        };
        let mut problems = problems_of_files(&config, side.as_ref().err().map(TunnelError::problem));
        let refuse = |problem: Problem| add(&mut problems, problem);
        match (config.pulsar.as_ref().map(cluster).transpose().map_err(refuse), side) {
            (Ok(cluster), Ok(side)) if problems.is_empty() => {
                let trust = match &side {
                    Side::Hub(keys) => hand::Trust::Hub(keys.trust()),
                    Side::Edge(dialer) => hand::Trust::Edge(dialer.trust()),
                };
                let hand = Hand::new(&config, trust);
                Ok(Self { config, cluster, side, boards: Boards::default(), hand })
            }
            (_, _) => Err(problems),
        }
    }

    /// The hand on it, for a reload.
    pub fn hand(&self) -> Hand {
        self.hand.clone()
    }

    /// What it was opened by.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its cluster, if it has one.
    pub fn client(&self) -> Option<Client> {
        self.cluster.as_ref().map(|cluster| cluster.client.clone())
    }

    /// Tries the link's URLs, where this site dials: no link is made.
    pub async fn try_links(&self) -> Vec<tunnel::probe::Tried> {
        match &self.side {
            Side::Hub(_) => Vec::new(),
            Side::Edge(dialer) => dialer.try_urls().await,
        }
    }

    /// What its side of the trust rests on that expires, and when.
    pub fn expiries(&self) -> Vec<Expiry> {
        match &self.side {
            Side::Hub(keys) => keys.expiries(),
            Side::Edge(dialer) => dialer.expiries(),
        }
    }

    /// Whether its policy lets this topic in from another site.
    pub fn may_receive(&self, from: &str, topic: &TopicName) -> bool {
        policies(&self.config).of(from).is_some_and(|policy| policy.receive.allows(topic))
    }

    /// What it will publish.
    pub fn boards(&self) -> Boards {
        self.boards.clone()
    }

    /// Runs until it is stopped, then drains: nothing new is read, what is on its way is confirmed and acknowledged,
    /// then the link is closed. A drain that takes longer than the configuration allows is cut off, and says so.
    pub async fn run(self, stop: CancellationToken) -> Result<Summary, ListenError> {
        let Self { config, cluster, side, boards, hand } = self;
        let Boards { links, routes, .. } = boards.clone();
        let started = Instant::now();
        let tunnel_metrics = TunnelMetrics::default();
        let mut registry = Registry::default();
        tunnel_metrics.register(&mut registry);

        let context = cluster
            .map(|cluster| Arc::new(Context::new(&config.site, cluster, routes.clone(), stop.clone())));
        if let Some(context) = &context {
            RelayMetrics::new(context.clone()).register(&mut registry);
        }
        forward::metrics::register(&mut registry, &boards.forwards);
        let state = admin_state(&config, registry, &boards, &hand);
        let admin_stop = CancellationToken::new();
        let admin_listener = match config.admin.listen {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|error| ListenError { place: "admin.listen", address, error })?)
            }
            None => None,
        };

        let (events, relayed) = mpsc::channel(EVENTS_LEN);
        let tunnel_stop = CancellationToken::new();
        let (streams, forwarded) = mpsc::channel(EVENTS_LEN);
        let side = side.with_streams(streams, context.is_some());
        let tunnel = start_tunnel(side, links, tunnel_metrics, events, tunnel_stop.clone()).await?;
        let forwards = tokio::spawn(hand.start_forwards(boards.forwards, stop.clone()).run(forwarded));
        // From here on nothing can fail: a site that does not start says nowhere that it listens.
        if let Some(listener) = admin_listener {
            tokio::spawn(admin::serve(listener, state.clone(), admin_stop.clone()));
        }
        state.ready.store(true, Ordering::Relaxed);
        let (routes_len, forwards_len) = (config.routes.len(), config.forwards.len());
        tracing::info!(site = %config.site, routes = routes_len, forwards = forwards_len, "bridge runs");

        match context {
            Some(context) => relay(&hand, context, relayed, &stop).await,
            None => relay::absent::run(&config.site, relayed, stop).await,
        }
        state.ready.store(false, Ordering::Relaxed);
        let unconfirmed = relay::drained::tell(&routes.rows());
        tunnel_stop.cancel();
        if let Err(panicked) = tunnel.await {
            tracing::error!(%panicked, "the tunnel ended by itself");
        }
        match tokio::time::timeout(FORWARDS_END_MAX, forwards).await {
            Ok(Ok(())) => {}
            Ok(Err(panicked)) => tracing::error!(%panicked, "the forwards ended by themselves"),
            Err(_) => tracing::warn!("forwarded connections did not end with their links"),
        }
        admin_stop.cancel();
        Ok(summary(&config.site, started, &routes, unconfirmed))
    }
}

/// Relays until everything is drained or the drain's time is over.
async fn relay(
    hand: &Hand,
    context: Arc<Context>,
    events: mpsc::Receiver<TunnelEvent>,
    stop: &CancellationToken,
) {
    let agent = Agent::by_rulings(context, hand.rulings.clone()).run(events);
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(hand.drain()).await;
    };
    tokio::select! {
        () = agent => {}
        () = overdue => tracing::warn!(
            seconds = hand.drain().as_secs(), "the drain takes longer than `drain_seconds`: it is not waited for"
        ),
    }
}

async fn start_tunnel(
    side: Side,
    board: tunnel::status::Board,
    metrics: TunnelMetrics,
    events: mpsc::Sender<TunnelEvent>,
    stop: CancellationToken,
) -> Result<tokio::task::JoinHandle<()>, ListenError> {
    Ok(match side {
        Side::Hub(keys) => {
            let address = keys.address();
            let bound = keys.bind().await;
            let listener = bound.map_err(|error| ListenError { place: "tunnel.listen", address, error })?;
            tokio::spawn(listener.serve(board, metrics, events, stop))
        }
        Side::Edge(dialer) => tokio::spawn(dialer.run(board, metrics, events, stop)),
    })
}

/// Adds a problem; of what is not there was told already, with better words.
fn add(problems: &mut Vec<Problem>, problem: Problem) {
    if problems.iter().all(|told| told.path != problem.path) {
        problems.push(problem);
    }
}

impl Side {
    /// With a room for the links' streams, and relay lanes only where there is a cluster.
    fn with_streams(self, streams: mpsc::Sender<LinkStreams>, has_cluster: bool) -> Self {
        match (self, has_cluster) {
            (Self::Hub(keys), true) => Self::Hub(keys.with_streams(streams)),
            (Self::Hub(keys), false) => Self::Hub(keys.with_streams(streams).without_relay_lanes()),
            (Self::Edge(dialer), true) => Self::Edge(Box::new(dialer.with_streams(streams))),
            (Self::Edge(dialer), false) => {
                Self::Edge(Box::new(dialer.with_streams(streams).without_relay_lanes()))
            }
        }
    }
}

fn admin_state(config: &Config, registry: Registry, boards: &Boards, hand: &Hand) -> AdminState {
    let Boards { links, routes, forwards } = boards.clone();
    let mut state = AdminState::new(&config.site, registry, links, routes, hand.configuration.clone());
    state.forwards = forwards;
    state.names = hand.names.clone();
    let (hand, links) = (hand.clone(), boards.links.clone());
    state.warnings = Arc::new(move || [hand.warnings(), links.warnings()].concat());
    state
}

/// What is wrong with the files that a configuration names; of those of the link what was found there.
fn problems_of_files(config: &Config, of_link: Option<Problem>) -> Vec<Problem> {
    let mut problems = config::missing_files(config);
    let mut refuse = |problem: Problem| add(&mut problems, problem);
    of_link.into_iter().for_each(&mut refuse);
    // It is read again at every use; that it can be read is known now.
    let pulsar = config.pulsar.as_ref();
    if let Some(token) = pulsar.and_then(|pulsar| pulsar.token.as_ref())
        && let Err(error) = token.read()
    {
        let is_file = matches!(token, TokenSource::File(_));
        refuse(Problem {
            path: if is_file { "pulsar.auth.token_file" } else { "pulsar.auth.token" }.into(),
            message: error.to_string(),
            remedy: error.remedy(),
        });
    }
    // It says who we are, as a token does.
    if let Some(file) = pulsar.and_then(|pulsar| pulsar.tls.key_file.as_ref())
        && let Err(error) = secret_file::read(file, KEY_LEN_MAX)
    {
        refuse(Problem {
            path: "pulsar.tls.key_file".into(),
            message: error.to_string(),
            remedy: error.remedy(),
        });
    }
    problems
}

/// A client without credentials, for what a configuration calls only by a URL.
#[cfg(feature = "load")]
pub fn plain_client(url: &config::ServiceUrl) -> Client {
    Client::new(addresses(url), Dialer::default(), Arc::new(|| Ok(None)))
}

fn addresses(url: &config::ServiceUrl) -> Vec<Address> {
    let address = |(host, port): &(String, u16)| Address { host: host.clone(), port: *port, tls: url.tls };
    url.hosts.iter().map(address).collect()
}

fn cluster(pulsar: &config::Pulsar) -> Result<Cluster, Problem> {
    let files = TlsFiles {
        ca_file: pulsar.tls.ca_file.clone(),
        cert_file: pulsar.tls.cert_file.clone(),
        key_file: pulsar.tls.key_file.clone(),
    };
    let dialer = Dialer::new(&files).map_err(|error| tls_problem(&files, &error))?;
    let source = pulsar.token.clone();
    let credentials: Credentials = Arc::new(move || match &source {
        None => Ok(None),
        Some(source) => {
            let token = source.read().map_err(|error| format!("{error}; {}", error.remedy()))?;
            Ok(Some(Bytes::copy_from_slice(token.expose().as_bytes())))
        }
    });
    let rest = match &pulsar.admin_url {
        Some(url) => {
            let rest = AdminRest::new(url, dialer.clone(), credentials.clone());
            Some(rest.map_err(|error| Problem {
                path: "pulsar.admin_url".into(),
                message: error.to_string(),
                remedy: "write http://host:8080 or https://host:8443".into(),
            })?)
        }
        None => None,
    };
    Ok(Cluster {
        client: Client::new(addresses(&pulsar.service_url), dialer, credentials),
        rest,
        deduplication_asserted: pulsar.deduplication_asserted,
        single_replica: pulsar.replicas == 1,
    })
}

fn tls_problem(files: &TlsFiles, error: &TransportError) -> Problem {
    let places = [
        ("pulsar.tls.ca_file", &files.ca_file),
        ("pulsar.tls.cert_file", &files.cert_file),
        ("pulsar.tls.key_file", &files.key_file),
    ];
    let is_of = |named: &Option<PathBuf>| matches!(error, TransportError::File { file, .. } if named.as_ref() == Some(file));
    let place = places.iter().find(|(_, named)| is_of(named)).map_or("pulsar.tls", |(place, _)| place);
    Problem {
        path: place.into(),
        message: error.to_string(),
        remedy: "put a PEM file there that this user may read".into(),
    }
}

fn summary(site: &str, started: Instant, routes: &relay::status::Board, unconfirmed: u64) -> Summary {
    let rows = routes.rows();
    let sum = |end, value: fn(&relay::status::PartitionStatus) -> u64| {
        rows.iter().filter(|row| row.end == end).map(value).sum()
    };
    Summary {
        site: site.to_owned(),
        seconds: started.elapsed().as_secs_f64(),
        messages_in: sum(relay::status::End::Sink, |row| row.messages),
        messages_out: sum(relay::status::End::Source, |row| row.messages),
        unconfirmed,
    }
}

/// Links and lanes that came up and were not yet taken; they are taken at once.
const EVENTS_LEN: usize = 64;
/// They end with their links, which are gone by then.
const FORWARDS_END_MAX: Duration = Duration::from_secs(5);
/// A PEM key takes a few kilobytes.
const KEY_LEN_MAX: u64 = 64 * 1024;
