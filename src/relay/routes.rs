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
use super::listing::Listing;
use super::progress::Progress;
use super::reason::Reason;
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
    claims: Arc<Claims>,
}

/// A route as it was declared, and its topics' tasks.
struct Running {
    spec: RouteSpec,
    stop: CancellationToken,
    topics: TaskTracker,
}

impl Routes {
    /// None yet.
    pub fn new(context: Arc<Context>, tasks: TaskTracker) -> Self {
        Self { context, tasks, running: BTreeMap::new(), leaving: Vec::new(), claims: Arc::default() }
    }

    /// Makes what runs for `declarer` equal to `routes`; what stays the same is not touched. What is new about a
    /// topic begins when everything that went about it and led to the same site has come to its end: another site
    /// that does not answer stops nobody.
    pub fn apply(&mut self, declarer: &str, routes: Vec<RouteSpec>) {
        let gone = self
            .running
            .extract_if(.., |(owner, _), running| owner == declarer && !routes.contains(&running.spec));
        self.leaving.retain(|route| !route.topics.is_empty());
        self.leaving.extend(gone.map(|(_, route)| route).inspect(|route| route.stop.cancel()));
        for route in routes {
            let key = (declarer.to_owned(), route.name.clone());
            if self.running.contains_key(&key) {
                continue;
            }
            let (stop, topics) = (self.context.drain.child_token(), TaskTracker::new());
            let shared = Arc::new(route.clone());
            for topic in &route.topics {
                let task = Topic {
                    context: self.context.clone(),
                    route: shared.clone(),
                    topic: topic.clone(),
                    stop: stop.clone(),
                    claims: self.claims.clone(),
                    appeared: false,
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
                let listing = Listing { context, route: shared, stop: stop.clone(), claims, tasks };
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
            self.running.insert(key, Running { spec: route, stop, topics });
        }
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
    /// It was not there when its route was first looked at.
    pub(super) appeared: bool,
}

impl Topic {
    /// Runs until the route is no longer declared; returns when all its sources have come to their end.
    pub(super) async fn run(self) {
        let Some(_claim) = self.claim().await else {
            return;
        };
        // A topic that was re-created in another shape begins at its beginning.
        let mut recreated = self.appeared;
        while let Some((known, appeared)) = self.await_topic().await {
            let (stop, sources) = (self.stop.child_token(), TaskTracker::new());
            let shape = Shape { topic: &self, stop, sources, missing: Arc::default() };
            shape.run(known, appeared || recreated).await;
            recreated = true;
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

    /// The number of partitions once the topic is there, and whether it was missing at first; `None` when the
    /// route stops.
    async fn await_topic(&self) -> Option<(u32, bool)> {
        let row = || self.row();
        let mut progress: Option<Progress> = None;
        let mut appeared = false;
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
                    return Some((partitions, appeared));
                }
                Ok(None) => {
                    appeared = true;
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
    async fn run(self, found: u32, appeared: bool) {
        let Topic { context, topic, .. } = self.topic;
        let mut known = found;
        if found == 0 {
            self.start(topic.clone(), 0, appeared);
        }
        for index in 0..found {
            self.start(topic.partition(index), found, appeared);
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
                    self.stop.cancel();
                    break;
                }
                // One that appears while we look begins at its beginning.
                Ok(Some(partitions)) => {
                    for index in known..partitions {
                        self.start(topic.partition(index), partitions, true);
                    }
                    known = partitions;
                }
                // The sources say so themselves.
                Ok(None) | Err(_) => {}
            }
        }
        self.sources.close();
        self.sources.wait().await;
    }

    fn start(&self, partition: TopicName, partitions: u32, appeared: bool) {
        let Topic { context, route, .. } = self.topic;
        let (context, route, missing) = (context.clone(), route.clone(), self.missing.clone());
        let source = Source::new(context, route, partition, partitions, appeared, missing);
        self.sources.spawn(source.run(self.stop.clone()));
    }
}

/// Soon enough for whoever waits, rare enough for the broker.
const MISSING_CHECKED_EVERY: Duration = Duration::from_secs(2);
/// As often as the Java client looks (`autoUpdatePartitionsInterval`).
const SHAPE_CHECKED_EVERY: Duration = Duration::from_secs(60);
