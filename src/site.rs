//! Composition root: a configuration in, running tasks out; the only file that sees every room.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminState};
use crate::config::Config;
use crate::exit::Exit;
use crate::{relay, tunnel};

/// What a run did, for its last line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The site that ran.
    pub site: String,
    /// How long.
    pub seconds: f64,
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
}

impl SiteError {
    /// How the process ends with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Admin { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotPermitted
            }
            Self::Admin { .. } => Exit::Refused,
        }
    }
}

/// Runs until it is stopped, then drains.
pub async fn run(config: Config, stop: CancellationToken) -> Result<Summary, SiteError> {
    let started = Instant::now();
    let links = tunnel::status::Board::default();
    let routes = relay::status::Board::default();
    let mut state = AdminState::new(&config.site, Registry::default(), links, routes);
    state.hosts.clone_from(&config.admin.hosts);
    if let Some(address) = config.admin.listen {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| SiteError::Admin { address, error })?;
        tokio::spawn(admin::serve(listener, state.clone(), stop.clone()));
    }
    state.ready.store(true, Ordering::Relaxed);
    stop.cancelled().await;
    Ok(Summary {
        site: config.site,
        seconds: started.elapsed().as_secs_f64(),
    })
}
