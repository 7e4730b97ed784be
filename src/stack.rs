//! What one configuration starts: embedded brokers, sites, a load; up in this order, down in the reverse. A site's
//! own inside is `site.rs`.

use std::path::PathBuf;
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
use crate::site::{Boards, Hand, ListenError, Part, Site, Summary};

#[cfg(feature = "embedded")]
use crate::embedded::Broker;
#[cfg(feature = "load")]
use crate::load::Driver;
#[cfg(feature = "load")]
use crate::load::figures::{Figures, Snapshot};

/// Everything, ready to run.
pub struct Stack {
    sites: Vec<Site>,
    /// Those that listen.
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

/// The hands on the sites of a stack that runs. Cheap to clone.
#[derive(Clone)]
pub struct Hands {
    sites: Vec<Hand>,
    #[cfg(feature = "load")]
    load: Option<config::Load>,
}

impl Hands {
    /// Puts another file's configurations in the place of those that run: all of them, or none.
    pub fn take(&self, setup: config::Setup, part: Part) -> Result<(), Vec<config::Problem>> {
        let config::Setup { sites, load } = setup;
        let mut problems: Vec<_> = not_built(&sites, load.as_ref()).collect();
        #[cfg(feature = "load")]
        if load != self.load {
            problems.push(fixed("load"));
        }
        let count = sites.len();
        if count != self.sites.len() {
            problems.push(fixed("sites"));
            return Err(problems);
        }
        let mut prepared = Vec::with_capacity(count);
        for (index, (hand, config)) in self.sites.iter().zip(sites).enumerate() {
            match hand.prepare(config) {
                Ok(ready) => prepared.push(ready),
                Err(found) => problems.extend(found.into_iter().map(|it| placed(count, index, it))),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        prepared.into_iter().for_each(|ready| ready.apply(part));
        Ok(())
    }

    /// What they run by.
    pub fn running(&self) -> config::Setup {
        config::Setup {
            sites: self.sites.iter().map(Hand::running).collect(),
            #[cfg(feature = "load")]
            load: self.load.clone(),
            #[cfg(not(feature = "load"))]
            load: None,
        }
    }

    /// The files of keys and certificates that they run by.
    pub fn key_files(&self) -> Vec<PathBuf> {
        self.sites.iter().flat_map(Hand::key_files).collect()
    }

    /// Whether a file's configurations are those that run, to the byte.
    pub fn run_by(&self, setup: &config::Setup) -> bool {
        let digests = setup.sites.iter().map(|config| &config.digest);
        digests.eq(self.running().sites.iter().map(|config| &config.digest))
    }

    /// Shows that another configuration, or other keys, were refused.
    pub fn refused(&self, problems: &[String], part: Part) {
        self.sites.iter().for_each(|site| site.configuration.refused(problems.to_vec(), part));
    }

    /// How long stopping may take.
    pub fn drain_time_max(&self) -> Duration {
        self.sites.iter().map(Hand::drain).max().unwrap_or_default() + LOAD_PATIENCE
    }
}

fn fixed(path: &str) -> config::Problem {
    config::Problem {
        path: path.into(),
        message: "it cannot change while the bridge runs".into(),
        remedy: "restart to change it, or put back what it was".into(),
    }
}

/// A site's problem, placed in a file of so many.
pub fn placed(count: usize, index: usize, problem: config::Problem) -> config::Problem {
    match count {
        1 => problem,
        _ => config::Problem { path: format!("sites[{index}].{}", problem.path), ..problem },
    }
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
    /// A site's task ended without a word.
    #[error("a site ended by itself: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

impl StackError {
    /// How the process ends with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Listen(error) => error.exit(),
            Self::Panicked(_) => Exit::Fault,
        }
    }
}

impl Stack {
    /// Sites that were opened, and what drives them. Nothing is bound yet.
    pub fn new(sites: Vec<Site>, #[cfg(feature = "load")] load: Option<config::Load>) -> Self {
        let broker = |config: &config::Config| {
            let pulsar = config.pulsar.as_ref().filter(|pulsar| pulsar.embedded.is_some())?;
            Some((config.site.clone(), pulsar.service_url.to_string()))
        };
        #[cfg(feature = "load")]
        let driver = load.as_ref().map(driver);
        let watch = Watch {
            sites: sites.iter().map(|site| (site.config().site.clone(), site.boards())).collect(),
            brokers: sites.iter().map(Site::config).filter_map(broker).collect(),
            #[cfg(feature = "load")]
            load: load.zip(driver.as_ref().map(|driver| driver.figures.clone())),
        };
        Self {
            sites,
            #[cfg(feature = "embedded")]
            brokers: Vec::new(),
            #[cfg(feature = "load")]
            driver,
            watch,
        }
    }

    /// The hands on its sites, for a reload.
    pub fn hands(&self) -> Hands {
        Hands {
            sites: self.sites.iter().map(Site::hand).collect(),
            #[cfg(feature = "load")]
            load: self.watch.load.as_ref().map(|(load, _)| load.clone()),
        }
    }

    /// What may be shown.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Takes the addresses of its brokers, before anything is shown or started.
    #[cfg(feature = "embedded")]
    pub async fn bind(&mut self) -> Result<(), StackError> {
        self.brokers = bind(&self.sites).await?;
        for (site, url) in &self.watch.brokers {
            tracing::info!(%site, %url, "broker in memory: listening");
        }
        Ok(())
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
            Some(driver) => Some(Running::start(driver).await),
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

/// What a configuration asks for and this binary was built without.
pub fn not_built(
    sites: &[config::Config],
    load: Option<&config::Load>,
) -> impl Iterator<Item = config::Problem> {
    let is_embedded =
        |site: &config::Config| site.pulsar.as_ref().is_some_and(|pulsar| pulsar.embedded.is_some());
    let embedded = sites.iter().position(is_embedded);
    let embedded = embedded.filter(|_| cfg!(not(feature = "embedded")));
    let embedded = embedded.map(|index| format!("sites[{index}].pulsar.embedded"));
    let load = load.filter(|_| cfg!(not(feature = "load"))).map(|_| "load".to_owned());
    embedded.into_iter().chain(load).map(|path| config::Problem {
        path,
        message: "this binary was built without it".into(),
        remedy: "take one that was built with the default features, or leave the key out".into(),
    })
}

#[cfg(feature = "embedded")]
async fn bind(sites: &[Site]) -> Result<Vec<Broker>, StackError> {
    let mut brokers = Vec::new();
    for address in sites.iter().filter_map(|site| site.config().pulsar.as_ref()?.embedded) {
        let broker = Broker::bind(address, settings()).await;
        brokers.push(broker.map_err(|error| ListenError { place: "pulsar.embedded", address, error })?);
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
    /// Gives when both were prepared.
    task: tokio::task::JoinHandle<Instant>,
    stop: CancellationToken,
    began: Instant,
}

#[cfg(feature = "load")]
impl Running {
    /// Waits until its topics are there, so that routes find them at once; not for ever: a cluster that is not there
    /// holds up no site.
    async fn start(driver: Driver) -> Self {
        let (stop, prepared) = (CancellationToken::new(), CancellationToken::new());
        let figures = driver.figures.clone();
        let task = tokio::spawn(drive(driver, stop.clone(), prepared.clone()));
        let _ = tokio::time::timeout(PREPARED_WITHIN, prepared.cancelled()).await;
        Self { figures, task, stop, began: Instant::now() }
    }

    async fn stop(self) -> LoadSummary {
        self.stop.cancel();
        let started = self.task.await.unwrap_or_else(|panicked| {
            tracing::error!(%panicked, "a part of the load ended by itself");
            self.began
        });
        let seconds = started.elapsed().as_secs_f64();
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

/// Drives until `stop`; the requester waits for its last answers before the worker goes.
#[cfg(feature = "load")]
async fn drive(driver: Driver, stop: CancellationToken, prepared: CancellationToken) -> Instant {
    tokio::select! {
        () = driver.prepare() => {}
        () = stop.cancelled() => {}
    }
    prepared.cancel();
    let started = Instant::now();
    let Driver { requester, worker, figures } = driver;
    let worker_stop = CancellationToken::new();
    let worker = worker.map(|worker| tokio::spawn(worker.run(figures.clone(), worker_stop.clone())));
    match requester {
        Some(requester) => requester.run(figures, stop, LOAD_PATIENCE).await,
        None => stop.cancelled().await,
    }
    worker_stop.cancel();
    if let Some(worker) = worker
        && let Err(panicked) = worker.await
    {
        tracing::error!(%panicked, "the worker ended by itself");
    }
    started
}

/// How long sites wait for the load's topics.
#[cfg(feature = "load")]
const PREPARED_WITHIN: Duration = Duration::from_secs(5);
/// How long the requester waits for its last answers.
const LOAD_PATIENCE: Duration = Duration::from_secs(15);
/// What each embedded broker may hold.
#[cfg(feature = "embedded")]
const BROKER_BYTES: usize = 128 << 20;
