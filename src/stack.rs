//! What one configuration starts: embedded brokers, sites, a load; up in this order, down in the reverse. A site's
//! own inside is `site.rs`.

#[cfg(feature = "load")]
use std::sync::Arc;
use std::time::Duration;
#[cfg(feature = "load")]
use std::time::Instant;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::exit::Exit;
#[cfg(feature = "load")]
use crate::site;
use crate::site::{Boards, ListenError, Site, Summary};

#[cfg(feature = "embedded")]
use crate::embedded::Broker;
#[cfg(feature = "load")]
use crate::load::Driver;
#[cfg(feature = "load")]
use crate::load::figures::{Figures, Snapshot};

/// Everything, ready to run.
pub struct Stack {
    sites: Vec<Site>,
    #[cfg(feature = "embedded")]
    brokers: Vec<Broker>,
    #[cfg(feature = "load")]
    driver: Option<Driver>,
    watch: Watch,
}

/// What may be shown while it runs. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    /// Name and boards of each site.
    pub sites: Vec<(String, Boards)>,
    /// Name and service URL of each site's embedded brokers.
    pub brokers: Vec<(String, String)>,
    /// What drives them, and its figures.
    #[cfg(feature = "load")]
    pub load: Option<(config::Load, Arc<Figures>)>,
}

/// What a run did.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// One site without a load.
    Site(Summary),
    /// Sites without a load.
    Sites(Vec<Summary>),
    /// A load, whatever ran beside it.
    #[cfg(feature = "load")]
    Load(LoadSummary),
}

/// What a load did, for the last line.
#[cfg(feature = "load")]
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LoadSummary {
    /// Requests sent.
    pub requests: u64,
    /// Results that came back, whose number and values of points were checked.
    pub results: u64,
    /// Points in them.
    pub points: u64,
    /// Requests without a result when the drain ended.
    pub lost: u64,
    /// Results that came more than once.
    pub repeated: u64,
    /// Results that failed their check.
    pub wrong: u64,
    /// From the first request to the last result.
    pub seconds: f64,
    /// Results that were relayed, in 10^6 bits a second.
    pub mbit_s: f64,
}

/// Why it cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// An address cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The binary was made without a part.
    #[error("this binary was built without `{0}`: take one with it, or leave the key out")]
    NotBuilt(&'static str),
    /// A site's task ended without a word.
    #[error("a site ended by itself: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

impl StackError {
    /// How the process ends with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Listen(error) => error.exit(),
            Self::NotBuilt(_) => Exit::Refused,
            Self::Panicked(_) => Exit::Fault,
        }
    }
}

impl Stack {
    /// Binds embedded brokers.
    #[cfg_attr(
        not(feature = "embedded"),
        expect(clippy::unused_async, reason = "nothing else is bound here")
    )]
    #[cfg_attr(
        not(any(feature = "embedded", feature = "load")),
        expect(unused_mut, reason = "nothing else is written into it")
    )]
    pub async fn bind(sites: Vec<Site>, load: Option<&config::Load>) -> Result<Self, StackError> {
        let names = sites.iter().map(|site| (site.config().site.clone(), site.boards()));
        let mut watch = Watch {
            sites: names.collect(),
            brokers: Vec::new(),
            #[cfg(feature = "load")]
            load: None,
        };
        #[cfg(feature = "embedded")]
        let brokers = bind(&sites, &mut watch).await?;
        #[cfg(not(feature = "embedded"))]
        if sites.iter().any(|site| site.config().pulsar.embedded.is_some()) {
            return Err(StackError::NotBuilt("embedded"));
        }
        #[cfg(feature = "load")]
        let driver = load.map(driver);
        #[cfg(feature = "load")]
        if let (Some(load), Some(driver)) = (load, &driver) {
            watch.load = Some((load.clone(), driver.figures.clone()));
        }
        #[cfg(not(feature = "load"))]
        if load.is_some() {
            return Err(StackError::NotBuilt("load"));
        }
        Ok(Self {
            sites,
            #[cfg(feature = "embedded")]
            brokers,
            #[cfg(feature = "load")]
            driver,
            watch,
        })
    }

    /// What may be shown.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// How long stopping may take.
    pub fn drain_time_max(&self) -> Duration {
        let sites = self.sites.iter().map(|site| site.config().drain).max().unwrap_or_default();
        sites + LOAD_PATIENCE
    }

    /// Runs until `stop`, then takes everything down: the load first, so that its last answers arrive.
    pub async fn run(self, stop: CancellationToken) -> Result<Outcome, StackError> {
        let down = CancellationToken::new();
        let _down = down.clone().drop_guard();
        #[cfg(feature = "embedded")]
        for broker in self.brokers {
            tokio::spawn(broker.run(down.clone()));
        }
        #[cfg(feature = "load")]
        let load = match self.driver {
            Some(driver) => Some(Running::start(driver, &stop).await),
            None => None,
        };
        let sites_stop = CancellationToken::new();
        let _sites_stop = sites_stop.clone().drop_guard();
        let mut sites = JoinSet::new();
        for site in self.sites {
            sites.spawn(site.run(sites_stop.clone()));
        }
        let mut summaries = Vec::new();
        tokio::select! {
            () = stop.cancelled() => {}
            // A site ends by itself only when it cannot run.
            Some(ended) = sites.join_next() => {
                summaries.push(ended??);
            }
        }
        #[cfg(feature = "load")]
        let loaded = match load {
            Some(load) => Some(load.stop().await),
            None => None,
        };
        sites_stop.cancel();
        while let Some(ended) = sites.join_next().await {
            summaries.push(ended??);
        }
        #[cfg(feature = "load")]
        if let Some(loaded) = loaded {
            return Ok(Outcome::Load(loaded));
        }
        Ok(match summaries.len() {
            1 => Outcome::Site(summaries.remove(0)),
            _ => Outcome::Sites(summaries),
        })
    }
}

#[cfg(feature = "embedded")]
async fn bind(sites: &[Site], watch: &mut Watch) -> Result<Vec<Broker>, StackError> {
    let mut brokers = Vec::new();
    for config in sites.iter().map(Site::config) {
        let Some(address) = config.pulsar.embedded else { continue };
        let broker = Broker::bind(address, settings()).await;
        let broker = broker.map_err(|error| ListenError { place: "pulsar.embedded", address, error })?;
        watch.brokers.push((config.site.clone(), broker.service_url()));
        brokers.push(broker);
    }
    Ok(brokers)
}

/// Whoever comes later finds what there is still room for.
#[cfg(feature = "embedded")]
fn settings() -> crate::embedded::Settings {
    crate::embedded::Settings { retain: true, memory_max: BROKER_BYTES, ..Default::default() }
}

#[cfg(feature = "load")]
fn driver(load: &config::Load) -> Driver {
    use crate::load::requester::Requester;
    use crate::load::worker::Worker;
    let (requests, results) = (load.requests.clone(), load.results.clone());
    let requester = load.requester.as_ref().map(|requester| Requester {
        client: site::plain_client(&requester.service_url),
        requests: requests.clone(),
        results: results.clone(),
        points: requester.points,
        unanswered_max: requester.unanswered as usize,
        rate: requester.rate.map(f64::from),
    });
    let worker = load.worker.as_ref().map(|worker| Worker {
        client: site::plain_client(&worker.service_url),
        requests,
        results,
    });
    Driver { requester, worker, figures: Arc::default() }
}

/// A load that runs.
#[cfg(feature = "load")]
struct Running {
    figures: Arc<Figures>,
    requester: tokio::task::JoinHandle<()>,
    worker: tokio::task::JoinHandle<()>,
    requester_stop: CancellationToken,
    worker_stop: CancellationToken,
    started: Instant,
}

#[cfg(feature = "load")]
impl Running {
    /// Both start when their topics are there.
    async fn start(driver: Driver, stop: &CancellationToken) -> Self {
        tokio::select! {
            () = driver.prepare() => {}
            () = stop.cancelled() => {}
        }
        let Driver { requester, worker, figures } = driver;
        let (requester_stop, worker_stop) = (CancellationToken::new(), CancellationToken::new());
        let (counted, requester_stopped) = (figures.clone(), requester_stop.clone());
        let requester = async move {
            match requester {
                Some(requester) => requester.run(counted, requester_stopped, LOAD_PATIENCE).await,
                None => requester_stopped.cancelled().await,
            }
        };
        let (counted, worker_stopped) = (figures.clone(), worker_stop.clone());
        let worker = async move {
            match worker {
                Some(worker) => worker.run(counted, worker_stopped).await,
                None => worker_stopped.cancelled().await,
            }
        };
        Self {
            figures,
            requester: tokio::spawn(requester),
            worker: tokio::spawn(worker),
            requester_stop,
            worker_stop,
            started: Instant::now(),
        }
    }

    /// Lets the requester wait for its last answers before the worker goes.
    async fn stop(self) -> LoadSummary {
        self.requester_stop.cancel();
        for (task, stop) in [(self.requester, &self.requester_stop), (self.worker, &self.worker_stop)] {
            stop.cancel();
            if let Err(panicked) = task.await {
                tracing::error!(%panicked, "a part of the load ended by itself");
            }
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let Snapshot { requests, answered, repeated, wrong, points, result_bytes, .. } = self.figures.look();
        LoadSummary {
            requests,
            results: answered,
            points,
            lost: requests - answered,
            repeated,
            wrong,
            seconds,
            mbit_s: result_bytes as f64 * 8.0 / 1e6 / seconds,
        }
    }
}

/// How long the requester waits for its last answers.
const LOAD_PATIENCE: Duration = Duration::from_secs(15);
/// What each embedded broker may hold.
#[cfg(feature = "embedded")]
const BROKER_BYTES: usize = 128 << 20;
