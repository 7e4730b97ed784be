//! Composition root: a configuration in, running tasks out; the only file that sees every room.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminState};
use crate::config::{self, Config, Tunnel};
use crate::exit::Exit;
use crate::policy::Policies;
use crate::pulsar::client::Client;
use crate::pulsar::connection::Credentials;
use crate::pulsar::rest::{AdminRest, RestError};
use crate::pulsar::transport::{Address, Dialer, TlsFiles, TransportError};
use crate::relay::agent::Agent;
use crate::relay::batching::Limits;
use crate::relay::context::{Cluster, Context, RouteSpec, Start};
use crate::relay::metrics::RelayMetrics;
use crate::tunnel::link::TunnelEvent;
use crate::tunnel::{self, EdgeDialer, HubListener, TunnelError, TunnelMetrics};
use crate::{policy::Policy, relay};

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

/// Why a site cannot run.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The admin server's address cannot be had.
    #[error("admin.listen {address}: {error}; name an address of this machine that is free")]
    Admin {
        /// What was configured.
        address: SocketAddr,
        /// The system's word.
        error: io::Error,
    },
    /// The link's side of it.
    #[error("tunnel: {0}")]
    Tunnel(#[from] TunnelError),
    /// A file for the cluster.
    #[error("pulsar.tls: {0}")]
    Pulsar(#[from] TransportError),
    /// The admin URL.
    #[error("pulsar.admin_url: {0}")]
    Rest(#[from] RestError),
}

impl SiteError {
    /// How the process ends with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Admin { error, .. } | Self::Tunnel(TunnelError::Listen { source: error, .. }) => {
                exit_without(error)
            }
            Self::Tunnel(_) | Self::Pulsar(_) | Self::Rest(_) => Exit::Refused,
        }
    }
}

/// The end of a site that cannot have an address, by the system's word.
pub(crate) fn exit_without(error: &io::Error) -> Exit {
    if error.kind() == io::ErrorKind::AddrInUse {
        return Exit::InUse;
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return Exit::NotPermitted;
    }
    Exit::Refused
}

/// What a site publishes while it runs. Cheap to clone.
#[derive(Clone, Default)]
pub struct Boards {
    /// Its links.
    pub links: tunnel::status::Board,
    /// Its ends of routes.
    pub routes: relay::status::Board,
}

/// Runs until it is stopped, then drains: nothing new is read, what is on its way is confirmed and acknowledged,
/// then the link is closed. A drain that takes longer than the configuration allows is cut off, and says so.
pub async fn run(config: Config, boards: Boards, stop: CancellationToken) -> Result<Summary, SiteError> {
    let started = Instant::now();
    let Boards { links, routes } = boards;
    let tunnel_metrics = TunnelMetrics::default();
    let mut registry = Registry::default();
    tunnel_metrics.register(&mut registry);

    let cluster = cluster(&config.pulsar)?;
    let context = Arc::new(Context::new(&config.site, cluster, routes.clone(), stop.clone()));
    RelayMetrics::new(context.clone()).register(&mut registry);
    let state = admin_state(&config, registry, &links, &routes);
    let admin_stop = CancellationToken::new();
    let admin_listener = match config.admin.listen {
        Some(address) => {
            let bound = TcpListener::bind(address).await;
            Some(bound.map_err(|error| SiteError::Admin { address, error })?)
        }
        None => None,
    };

    let (events, relayed) = mpsc::channel(EVENTS_LEN);
    let tunnel_stop = CancellationToken::new();
    let tunnel = start_tunnel(&config, links, tunnel_metrics, events, tunnel_stop.clone()).await?;
    // From here on nothing can fail: a site that does not start says nowhere that it listens.
    if let Some(listener) = admin_listener {
        tokio::spawn(admin::serve(listener, state.clone(), admin_stop.clone()));
    }
    state.ready.store(true, Ordering::Relaxed);
    tracing::info!(site = %config.site, routes = config.routes.len(), "bridge runs");

    relay(&config, context, relayed, &stop).await;
    state.ready.store(false, Ordering::Relaxed);
    tunnel_stop.cancel();
    if let Err(panicked) = tunnel.await {
        tracing::error!(%panicked, "the tunnel ended by itself");
    }
    admin_stop.cancel();
    Ok(summary(&config.site, started, &routes))
}

/// Relays until everything is drained or the drain's time is over.
async fn relay(
    config: &Config,
    context: Arc<Context>,
    events: mpsc::Receiver<TunnelEvent>,
    stop: &CancellationToken,
) {
    let routes = config.routes.iter().map(route).collect();
    let agent = Agent::new(context, routes, policies(config)).run(events);
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(config.drain).await;
    };
    tokio::select! {
        () = agent => {}
        () = overdue => tracing::warn!(
            seconds = config.drain.as_secs(),
            "the drain is cut off: what is not confirmed will be sent again by the next run, and dropped as a \
             duplicate where it had arrived"
        ),
    }
}

async fn start_tunnel(
    config: &Config,
    board: tunnel::status::Board,
    metrics: TunnelMetrics,
    events: mpsc::Sender<TunnelEvent>,
    stop: CancellationToken,
) -> Result<tokio::task::JoinHandle<()>, SiteError> {
    let site = config.site.clone();
    Ok(match &config.tunnel {
        Tunnel::Hub(hub) => {
            let listener = HubListener::bind(hub, &site).await?;
            tokio::spawn(listener.serve(board, metrics, events, stop))
        }
        Tunnel::Edge(edge) => {
            let dialer = EdgeDialer::load(edge, &site)?;
            tokio::spawn(dialer.run(board, metrics, events, stop))
        }
    })
}

fn admin_state(
    config: &Config,
    registry: Registry,
    links: &tunnel::status::Board,
    routes: &relay::status::Board,
) -> AdminState {
    let mut state = AdminState::new(&config.site, registry, links.clone(), routes.clone());
    state.hosts.clone_from(&config.admin.hosts);
    if let Tunnel::Hub(hub) = &config.tunnel {
        state.peers = hub.edges.iter().map(|edge| edge.name.clone()).collect();
    }
    state
}

/// A client without credentials, for what a configuration calls only by a URL.
#[cfg(feature = "load")]
pub(crate) fn plain_client(url: &config::ServiceUrl) -> Client {
    Client::new(addresses(url), Dialer::default(), Arc::new(|| Ok(None)))
}

fn addresses(url: &config::ServiceUrl) -> Vec<Address> {
    let address = |(host, port): &(String, u16)| Address { host: host.clone(), port: *port, tls: url.tls };
    url.hosts.iter().map(address).collect()
}

fn cluster(pulsar: &config::Pulsar) -> Result<Cluster, SiteError> {
    let files = TlsFiles {
        ca_file: pulsar.tls.ca_file.clone(),
        cert_file: pulsar.tls.cert_file.clone(),
        key_file: pulsar.tls.key_file.clone(),
    };
    let dialer = Dialer::new(&files)?;
    let source = pulsar.token.clone();
    let credentials: Credentials = Arc::new(move || match &source {
        None => Ok(None),
        Some(source) => {
            let token = source.read().map_err(|error| error.to_string())?;
            Ok(Some(Bytes::copy_from_slice(token.expose().as_bytes())))
        }
    });
    let rest = match &pulsar.admin_url {
        Some(url) => Some(AdminRest::new(url, dialer.clone(), credentials.clone())?),
        None => None,
    };
    Ok(Cluster {
        client: Client::new(addresses(&pulsar.service_url), dialer, credentials),
        rest,
        deduplication_asserted: pulsar.deduplication_asserted,
        single_replica: pulsar.replicas == 1,
    })
}

fn route(route: &config::Route) -> RouteSpec {
    RouteSpec {
        name: route.name.clone(),
        from: route.from.clone(),
        to: route.to.clone(),
        topics: route.topics.clone(),
        generation: route.generation,
        subscription: route.subscription_name(),
        start: match route.start {
            config::Start::Earliest => Start::Earliest,
            config::Start::Latest => Start::Latest,
        },
        joining: route.batching.map(|batching| Limits {
            messages: batching.max_messages,
            bytes: batching.max_bytes as usize,
            any_key: false,
        }),
    }
}

fn policies(config: &Config) -> Policies {
    match &config.tunnel {
        Tunnel::Hub(hub) => {
            let each =
                |edge: &config::EdgeEntry| -> (String, Policy) { (edge.name.clone(), edge.policy.clone()) };
            Policies::Each(hub.edges.iter().map(each).collect())
        }
        Tunnel::Edge(_) => Policies::One(config.policy.clone()),
    }
}

fn summary(site: &str, started: Instant, routes: &relay::status::Board) -> Summary {
    let rows = routes.rows();
    let sum = |end, value: fn(&relay::status::PartitionStatus) -> u64| {
        rows.iter().filter(|row| row.end == end).map(value).sum()
    };
    Summary {
        site: site.to_owned(),
        seconds: started.elapsed().as_secs_f64(),
        messages_in: sum(relay::status::End::Sink, |row| row.messages),
        messages_out: sum(relay::status::End::Source, |row| row.messages),
        unconfirmed: sum(relay::status::End::Source, |row| row.in_flight),
    }
}

/// Links and lanes that came up and were not yet taken; they are taken at once.
const EVENTS_LEN: usize = 64;
