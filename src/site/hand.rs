//! The hand on a running site: puts another configuration in the place of the one that it runs by. All of it or
//! nothing: what cannot change while it runs, or names a file that is not as it should be, is refused as a whole.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::problems_of_files;
use super::specs::{own_ports, policies, route, rules};
use crate::admin::{Configuration, Names, Part};
use crate::config::{Config, Problem, TokenSource, Tunnel};
use crate::forward;
use crate::forward::agent::Forwards;
use crate::relay::ruling::{Ruling, Rulings};
use crate::tunnel::{EdgeTrust, HubTrust, Standing, TunnelError};

/// The hand on one site. Cheap to clone.
#[derive(Clone)]
pub struct Hand {
    running: Arc<Mutex<Config>>,
    trust: Trust,
    pub(super) rulings: Rulings,
    /// Once they run.
    forwards: Arc<OnceLock<Forwards>>,
    /// What the status tells of the configuration.
    pub configuration: Configuration,
    pub(super) names: Names,
}

/// What its side of the link trusts and presents.
#[derive(Clone)]
pub(super) enum Trust {
    Hub(Standing<HubTrust>),
    Edge(Standing<EdgeTrust>),
}

/// A configuration whose files were opened, ready to take the running one's place.
pub struct Prepared {
    hand: Hand,
    config: Config,
    trust: Loaded,
}

enum Loaded {
    Hub(Box<HubTrust>),
    Edge(Box<EdgeTrust>),
}

impl Hand {
    pub(super) fn new(config: &Config, trust: Trust) -> Self {
        let configuration = Configuration::default();
        configuration.loaded(&config.digest, Part::Whole);
        let names = Names::default();
        names.replace(peers(config), config.admin.hosts.clone());
        Self {
            running: Arc::new(Mutex::new(config.clone())),
            trust,
            rulings: Rulings::new(ruling(config)),
            forwards: Arc::default(),
            configuration,
            names,
        }
    }

    /// Forwards by what it runs by, which follow each reload from now on.
    pub(super) fn start_forwards(&self, board: forward::status::Board, stop: CancellationToken) -> Forwards {
        // Held until they are known: what is loaded meanwhile comes after.
        let running = self.lock();
        let start = || Forwards::new(rules(&running), own_ports(&running), board, stop);
        self.forwards.get_or_init(start).clone()
    }

    /// What it runs by now.
    pub fn running(&self) -> Config {
        self.lock().clone()
    }

    /// How long its drain may take.
    pub fn drain(&self) -> Duration {
        self.lock().drain
    }

    /// What an operator should know of what its side of the link trusts and presents.
    pub fn warnings(&self) -> Vec<String> {
        match &self.trust {
            Trust::Hub(standing) => standing.now().warnings(),
            Trust::Edge(standing) => standing.now().warnings(),
        }
    }

    /// The pins of the hub's roots, as this side has them; none with an own PKI.
    pub fn pins(&self) -> Vec<String> {
        match &self.trust {
            Trust::Hub(standing) => standing.now().pins(),
            Trust::Edge(standing) => standing.now().pins(),
        }
    }

    /// The files of keys and certificates that it runs by.
    pub fn key_files(&self) -> Vec<PathBuf> {
        key_files(&self.lock())
    }

    /// Opens what another configuration names, and compares what may not change; all problems at once. Changes
    /// nothing yet.
    pub fn prepare(&self, config: Config) -> Result<Prepared, Vec<Problem>> {
        let running = self.running();
        if running.site != config.site {
            // Whatever else is wrong then comes of it.
            return Err(vec![of_another_site(&running.site)]);
        }
        let mut problems: Vec<Problem> = fixed(&running, &config).map(needs_restart).collect();
        let trust = match (&config.tunnel, &self.trust) {
            (Tunnel::Hub(hub), Trust::Hub(now)) => {
                HubTrust::load(hub, &config.site, Some(&now.now())).map(|trust| Loaded::Hub(Box::new(trust)))
            }
            (Tunnel::Edge(edge), Trust::Edge(now)) => {
                let trust = EdgeTrust::load(edge, &config.site);
                if trust.as_ref().is_ok_and(|trust| trust.hub() != now.now().hub()) {
                    problems.push(needs_restart("tunnel"));
                }
                trust.map(|trust| Loaded::Edge(Box::new(trust)))
            }
            (Tunnel::Hub(_) | Tunnel::Edge(_), _) => return Err(problems),
        };
        let of_link = trust.as_ref().err().map(TunnelError::problem);
        problems.extend(problems_of_files(&config, of_link));
        match trust {
            Ok(trust) if problems.is_empty() => Ok(Prepared { hand: self.clone(), config, trust }),
            Ok(_) | Err(_) => Err(problems),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Config> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prepared {
    /// Takes the running configuration's place. What is allowed as before is not touched.
    pub fn apply(self, part: Part) {
        let Self { hand, config, trust } = self;
        // Keys first: nobody is let in by an old one under new rules.
        match (trust, &hand.trust) {
            (Loaded::Hub(next), Trust::Hub(standing)) => {
                next.bury_keys_of(&standing.now());
                standing.replace(*next);
            }
            (Loaded::Edge(next), Trust::Edge(standing)) => standing.replace(*next),
            // `prepare` made it of the same kind.
            (Loaded::Hub(_), Trust::Edge(_)) | (Loaded::Edge(_), Trust::Hub(_)) => return,
        }
        hand.rulings.replace(ruling(&config));
        hand.names.replace(peers(&config), config.admin.hosts.clone());
        hand.configuration.loaded(&config.digest, part);
        let (site, digest) = (config.site.clone(), config.digest.clone());
        let mut running = hand.lock();
        if let Some(forwards) = hand.forwards.get() {
            forwards.apply(rules(&config));
        }
        *running = config;
        drop(running);
        tracing::info!(%site, %digest, "the configuration is loaded");
    }
}

/// The files of keys and certificates that a site runs by, and those of other secrets.
pub fn key_files(config: &Config) -> Vec<PathBuf> {
    let mut files = match &config.tunnel {
        Tunnel::Hub(hub) => HubTrust::files(hub),
        Tunnel::Edge(edge) => EdgeTrust::files(edge),
    };
    // These are read at every use; that one cannot be, or that others may read it, is to be known before.
    if let Tunnel::Edge(edge) = &config.tunnel {
        let login = edge.egress.proxy.as_ref().and_then(|proxy| proxy.login.as_ref());
        files.extend(login.map(|login| login.password_file.clone()));
    }
    if let Some(pulsar) = &config.pulsar {
        if let Some(TokenSource::File(file)) = &pulsar.token {
            files.push(file.clone());
        }
        files.extend(pulsar.tls.key_file.clone());
    }
    files
}

/// The keys that differ and cannot change while a site runs.
fn fixed<'a>(running: &'a Config, next: &'a Config) -> impl Iterator<Item = &'static str> + use<'a> {
    let side = match (&running.tunnel, &next.tunnel) {
        (Tunnel::Hub(running), Tunnel::Hub(next)) => {
            (running.listen != next.listen).then_some("tunnel.listen")
        }
        (Tunnel::Edge(_), Tunnel::Edge(_)) => None,
        (Tunnel::Hub(_), Tunnel::Edge(_)) | (Tunnel::Edge(_), Tunnel::Hub(_)) => Some("tunnel"),
    };
    let others = [
        ("pulsar", running.pulsar != next.pulsar),
        ("admin.listen", running.admin.listen != next.admin.listen),
    ];
    let others = others.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key);
    others.chain(side)
}

fn needs_restart(path: &'static str) -> Problem {
    Problem {
        path: path.into(),
        message: "it cannot change while the bridge runs".into(),
        remedy: "restart to change it, or put back what it was".into(),
    }
}

fn of_another_site(running: &str) -> Problem {
    Problem {
        path: "site".into(),
        message: format!("it cannot change while the bridge runs, which is `{running}`"),
        remedy: "put back what it was: keys and tokens, the other sites' configurations, and subscriptions and producers \
                 at its cluster go by this name; a site of another name is another one, for `bridge init`"
            .into(),
    }
}

fn ruling(config: &Config) -> Ruling {
    Ruling { declared: config.routes.iter().map(route).collect(), policies: policies(config) }
}

/// The sites that should be linked, as far as the configuration names them.
fn peers(config: &Config) -> Vec<String> {
    match &config.tunnel {
        Tunnel::Hub(hub) => hub.edges.iter().map(|edge| edge.name.clone()).collect(),
        Tunnel::Edge(_) => Vec::new(),
    }
}
