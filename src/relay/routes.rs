//! The routes whose source is here: keeps a task for each of their topics, which finds its partitions and keeps one
//! source for each, and stops those that are no longer declared. Looks again for missing topics, for new partitions
//! and for another shape; which topics match a pattern is found in `listing.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::claims::{Claim, Claims};
use super::context::{Context, RouteSpec};
use super::known::Known;
use super::listing::Listing;
use super::progress::Progress;
use super::reason::Reason;
use super::revoked::Revoked;
use super::ruling::Ruling;
use super::source::{Source, broker_halt};
use super::status::End;
use crate::pulsar::topic::TopicName;

/// The topics that run, by declarer and route name. Bounded by what the own configuration holds and by the
/// bounds of a declaration, for each configured peer; what patterns find, by the topics there are, for each has one
/// reader by a subscription.
pub struct Routes {
    context: Arc<Context>,
    /// Every topic's task: a drain waits for them.
    tasks: TaskTracker,
    running: BTreeMap<(String, String), Running>,
    /// What was stopped and may not have ended; a successor waits for it.
    leaving: Vec<Running>,
    /// What was seen of a route's topics, by declarer and name; and for which subscription and site.
    known: BTreeMap<(String, String), (String, String, Known)>,
    claims: Arc<Claims>,
}

/// A route as it was declared, and its topics' tasks.
struct Running {
    spec: RouteSpec,
    stop: CancellationToken,
    revoked: Revoked,
    topics: TaskTracker,
}

impl Routes {
    /// None yet.
    pub fn new(context: Arc<Context>, tasks: TaskTracker) -> Self {
        let (running, leaving, known) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { context, tasks, running, leaving, known, claims: Arc::default() }
    }

    /// Makes what runs for `declarer` equal to `routes`; what stays the same is not touched. What is new about a
    /// topic begins when everything that went about it and led to the same site has come to its end: another site
    /// that does not answer stops nobody. What `ruling` lets out no longer sends nothing more.
    pub fn apply(&mut self, declarer: &str, routes: Vec<RouteSpec>, ruling: &Arc<Ruling>) {
        let gone = self
            .running
            .extract_if(.., |(owner, _), running| owner == declarer && !routes.contains(&running.spec));
        self.leaving.retain(|route| !route.topics.is_empty());
        self.leaving.extend(gone.map(|(_, route)| route));
        for route in &self.leaving {
            route.revoked.judge(ruling);
            route.stop.cancel();
        }
        let is_declared = |name: &String| routes.iter().any(|route| route.name == *name);
        self.known.retain(|(owner, name), _| owner != declarer || is_declared(name));
        for route in routes {
            let key = (declarer.to_owned(), route.name.clone());
            if self.running.contains_key(&key) {
                continue;
            }
            let (stop, topics) = (self.context.drain.child_token(), TaskTracker::new());
            let revoked = Revoked::default();
            let known = self.known_of(&key, &route);
            let shared = Arc::new(route.clone());
            for topic in &route.topics {
                let task = Topic {
                    context: self.context.clone(),
                    route: shared.clone(),
                    topic: topic.clone(),
                    stop: stop.clone(),
                    claims: self.claims.clone(),
                    revoked: revoked.clone(),
                    known: known.clone(),
                };
                let before = self.before(&route, |left| left.carries(topic));
                let task = async move {
                    if all_ended(before, &task.stop).await {
                        task.run().await;
                    }
                };
                self.tasks.spawn(topics.track_future(task));
            }
            if !route.patterns.is_empty() {
                let (context, claims, stop) = (self.context.clone(), self.claims.clone(), stop.clone());
                let tasks = (self.tasks.clone(), topics.clone());
                let (revoked, known) = (revoked.clone(), known.clone());
                let listing =
                    Listing { context, route: shared, stop: stop.clone(), claims, revoked, known, tasks };
                // Which of its topics may be ours is not known yet.
                let may_share = |left: &RouteSpec| {
                    !left.patterns.is_empty() || left.topics.iter().any(|topic| route.patterns.take(topic))
                };
                let before = self.before(&route, may_share);
                let task = async move {
                    if all_ended(before, &stop).await {
                        listing.run().await;
                    }
                };
                self.tasks.spawn(topics.track_future(task));
            }
            topics.close();
            self.running.insert(key, Running { spec: route, stop, revoked, topics });
        }
    }

    /// What was seen of its topics so far, also by the route whose place it takes.
    fn known_of(&mut self, key: &(String, String), route: &RouteSpec) -> Known {
        let of = (route.subscription.clone(), route.to.clone());
        let entry = self.known.entry(key.clone()).or_default();
        if (&entry.0, &entry.1) != (&of.0, &of.1) {
            *entry = (of.0, of.1, Known::default());
        }
        entry.2.keep_to(route);
        entry.2.clone()
    }

    /// What leaves to the same site and shares something with it.
    fn before(&self, route: &RouteSpec, shares: impl Fn(&RouteSpec) -> bool) -> Vec<TaskTracker> {
        let before = self.leaving.iter().filter(|left| left.spec.to == route.to && shares(&left.spec));
        before.map(|left| left.topics.clone()).collect()
    }
}

/// Waits until these have ended; `false` when it was stopped meanwhile. One that is stopped while it waits is gone
/// at once: a peer may change its declaration as often as it likes.
async fn all_ended(before: Vec<TaskTracker>, stop: &CancellationToken) -> bool {
    for predecessor in before {
        tokio::select! {
            () = stop.cancelled() => return false,
            () = predecessor.wait() => {}
        }
    }
    true
}

/// One topic of a route.
pub(super) struct Topic {
    pub(super) context: Arc<Context>,
    pub(super) route: Arc<RouteSpec>,
    pub(super) topic: TopicName,
    pub(super) stop: CancellationToken,
    pub(super) claims: Arc<Claims>,
    pub(super) revoked: Revoked,
    pub(super) known: Known,
}

impl Topic {
    /// Runs until the route is no longer declared; returns when all its sources have come to their end.
    pub(super) async fn run(self) {
        let Some(_claim) = self.claim().await else {
            return;
        };
        while let Some(found) = self.await_topic().await {
            let (stop, sources) = (self.stop.child_token(), TaskTracker::new());
            let shape = Shape { topic: &self, stop, sources, missing: Arc::default() };
            shape.run(found).await;
        }
    }

    /// The right to read it by the route's subscription, once no other route has it; `None` when the route stops.
    async fn claim(&self) -> Option<Claim> {
        let mut released = self.claims.watch();
        let mut progress: Option<Progress> = None;
        loop {
            match self.claims.claim(&self.topic, &self.route.subscription, &self.route.name) {
                Ok(claim) => {
                    progress.inspect(Progress::remove);
                    return Some(claim);
                }
                Err(holder) => {
                    let detail = format!("route {holder} reads the topic by the same subscription");
                    progress.get_or_insert_with(|| self.row()).halted(Reason::SubscriptionInUse, &detail);
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => {
                    progress.inspect(Progress::remove);
                    return None;
                }
                // The sender lives in what we hold.
                _ = released.changed() => {}
            }
        }
    }

    fn row(&self) -> Progress {
        let Self { context, route, topic, .. } = self;
        let topic = topic.to_string();
        Progress::new(context.board.clone(), End::Source, &route.name, &topic, &route.from, &route.to)
    }

    /// The number of partitions once the topic is there; `None` when the route stops.
    async fn await_topic(&self) -> Option<u32> {
        let row = || self.row();
        let mut progress: Option<Progress> = None;
        loop {
            if self.stop.is_cancelled() {
                progress.inspect(Progress::remove);
                return None;
            }
            match self.context.cluster.client.partitions(&self.topic).await {
                Ok(Some(partitions)) => {
                    if let Some(progress) = progress {
                        progress.remove();
                    }
                    return Some(partitions);
                }
                Ok(None) => {
                    self.known.missing(&self.topic);
                    progress.get_or_insert_with(row).halted(Reason::SourceMissing, "no such topic");
                }
                Err(error) => {
                    let halt = broker_halt(error);
                    progress.get_or_insert_with(row).halted(halt.reason, &halt.detail);
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(MISSING_CHECKED_EVERY) => {}
            }
        }
    }
}

/// A topic's sources while it is partitioned as it was found.
struct Shape<'a> {
    topic: &'a Topic,
    stop: CancellationToken,
    sources: TaskTracker,
    /// A source found no topic.
    missing: Arc<Notify>,
}

impl Shape<'_> {
    /// Runs until the topic has another shape or the route stops.
    async fn run(self, found: u32) {
        let Topic { context, topic, .. } = self.topic;
        let mut known = found;
        self.topic.known.counted(topic, found);
        if found == 0 {
            self.start(topic.clone(), 0);
        }
        for index in 0..found {
            self.start(topic.partition(index), found);
        }
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = sleep(SHAPE_CHECKED_EVERY) => {}
                () = self.missing.notified() => {}
            }
            match context.cluster.client.partitions(topic).await {
                Ok(Some(partitions)) if (partitions == 0) != (known == 0) || partitions < known => {
                    tracing::info!(%topic, known, partitions, "the source topic was re-created in another shape");
                    // What it is now begins at its beginning.
                    self.topic.known.missing(topic);
                    self.stop.cancel();
                    break;
                }
                // One that appears while we look begins at its beginning.
                Ok(Some(partitions)) => {
                    self.topic.known.counted(topic, partitions);
                    for index in known..partitions {
                        self.start(topic.partition(index), partitions);
                    }
                    known = partitions;
                }
                // The sources say so themselves.
                Ok(None) => self.topic.known.missing(topic),
                Err(_) => {}
            }
        }
        self.sources.close();
        self.sources.wait().await;
    }

    fn start(&self, partition: TopicName, partitions: u32) {
        let Topic { context, route, known, topic, .. } = self.topic;
        let appeared = known.has_appeared(topic) || known.has_appeared(&partition);
        let (context, route, missing) = (context.clone(), route.clone(), self.missing.clone());
        let revoked = self.topic.revoked.clone();
        let source = Source::new(context, route, partition, partitions, appeared, missing, revoked);
        self.sources.spawn(source.run(self.stop.clone()));
    }
}

/// Soon enough for whoever waits, rare enough for the broker.
const MISSING_CHECKED_EVERY: Duration = Duration::from_secs(2);
/// As often as the Java client looks (`autoUpdatePartitionsInterval`).
const SHAPE_CHECKED_EVERY: Duration = Duration::from_secs(60);
