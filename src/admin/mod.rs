//! Health, metrics, status: reads what the other rooms publish, changes nothing.

pub mod client;
mod configuration;
#[cfg(test)]
mod fixture;
mod host;
mod metrics;
mod names;
pub mod progress;
pub mod report;
mod server;
pub mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::{forward, relay, tunnel};
pub use configuration::{Configuration, Loaded, Part};
pub use names::Names;
pub use server::serve;

/// What the HTTP server reads.
#[derive(Clone)]
pub struct AdminState {
    /// This site's name.
    pub site: String,
    /// Who should be linked, and by which names this server may be asked.
    pub names: Names,
    /// What is told of the configuration.
    pub configuration: Configuration,
    /// The tunnel's board.
    pub links: tunnel::status::Board,
    /// The relay's board.
    pub routes: relay::status::Board,
    /// The forwards' board.
    pub forwards: forward::status::Board,
    /// What an operator should know though nothing is wrong yet.
    pub warnings: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// What `/metrics` shows.
    pub registry: Arc<Registry>,
    /// Whether this process serves: listening, configuration loaded.
    pub ready: Arc<AtomicBool>,
    /// When the process started.
    pub started: Instant,
    connections: Gauge,
}

impl AdminState {
    /// A state that is not ready yet. What the boards tell becomes metrics of the registry.
    pub fn new(
        site: &str,
        mut registry: Registry,
        links: tunnel::status::Board,
        routes: relay::status::Board,
        configuration: Configuration,
    ) -> Self {
        configuration.register(&mut registry);
        metrics::register(&mut registry, &links, &routes);
        let connections = Gauge::default();
        let help = format!("Connections to this server, at most {}", server::CONNECTIONS_MAX);
        registry.register("bridge_admin_connections", help, connections.clone());
        Self {
            site: site.to_owned(),
            names: Names::default(),
            configuration,
            links,
            routes,
            forwards: forward::status::Board::default(),
            warnings: Arc::new(Vec::new),
            registry: Arc::new(registry),
            ready: Arc::default(),
            started: Instant::now(),
            connections,
        }
    }

    /// The status as it is now.
    pub fn status(&self) -> report::Status {
        let links = self.links.rows();
        let routes = self.routes.rows();
        let forwards = self.forwards.rows();
        report::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            site: self.site.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: self.ready.load(Ordering::Relaxed),
            progress: progress::judge(&self.site, &self.names.peers(), &links, &routes, &forwards),
            configuration: self.configuration.now(),
            warnings: (self.warnings)(),
            links,
            routes,
            forwards,
        }
    }
}
