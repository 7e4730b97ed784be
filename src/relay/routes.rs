//! The routes whose source is here: keeps a task for each of their topics, which finds its partitions and keeps one
//! source for each, and stops those that are no longer declared. Looks again for missing topics, for new partitions
//! and for another shape; which topics match a pattern is found in `listing.rs`.

use std::collections::{BTreeMap, BTreeSet};
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
use super::parts::{Part, parts};
use super::progress::Progress;
use super::reason::Reason;
use super::revoked::Revoked;
use super::ruling::Ruling;
use super::source::{Source, broker_halt};
use super::status::End;
use crate::pulsar::topic::TopicName;

/// What runs, by declarer and part of a route. Bounded by what the own configuration holds and by the
/// bounds of a declaration, for each configured peer; what patterns find, by the topics there are, for each has one
/// reader by a subscription.
pub struct Routes {
    context: Arc<Context>,
    /// Every topic's task: a drain waits for them.
    tasks: TaskTracker,
    running: BTreeMap<(String, Part), Running>,
    /// What was stopped and may not have ended, by the topic that it names; a successor waits for it.
    leaving: BTreeMap<Option<TopicName>, Vec<Running>>,
    /// What was seen of a route's topics, by declarer and name; and for which subscription and site.
    known: BTreeMap<(String, String), (String, String, Known)>,
    claims: Arc<Claims>,
}

/// A part of a route as it was declared, and its topics' tasks.
struct Running {
    spec: Arc<RouteSpec>,
    stop: CancellationToken,
    revoked: Revoked,
    topics: TaskTracker,
}

impl Routes {
    /// None yet.
    pub fn new(context: Arc<Context>, tasks: TaskTracker) -> Self {
        let (running, leaving, known) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { context, tasks, running, leaving, known, claims: Arc::default() }
    }

    /// Makes what runs for `declarer` equal to `routes`; what stays the same is not touched. What is new about a
    /// topic begins when everything that went about it and led to the same site has come to its end: another site
    /// that does not answer stops nobody. What `ruling` lets out no longer sends nothing more.
    pub fn apply(&mut self, declarer: &str, routes: &[RouteSpec], ruling: &Arc<Ruling>) {
        let declared = parts(routes);
        let gone = self.running.extract_if(.., |(owner, part), running| {
            owner == declarer && declared.get(part) != Some(&*running.spec)
        });
        let mut changed = BTreeSet::new();
        for ((_, (name, topic)), part) in gone {
            self.leaving.entry(topic).or_default().push(part);
            changed.insert(name);
        }
        self.leaving.retain(|_, left| {
            left.retain(|part| !part.topics.is_empty());
            !left.is_empty()
        });
        for part in self.leaving.values().flatten() {
            part.revoked.judge(ruling);
            part.stop.cancel();
        }
        let is_declared = |name: &String| routes.iter().any(|route| route.name == *name);
        self.known.retain(|(owner, name), _| owner != declarer || is_declared(name));
        let is_new = |part: &Part| !self.running.contains_key(&(declarer.to_owned(), part.clone()));
        let begin: Vec<_> = declared.into_iter().filter(|(part, _)| is_new(part)).collect();
        changed.extend(begin.iter().map(|((name, _), _)| name.clone()));
        for route in routes.iter().filter(|route| changed.contains(&route.name)) {
            self.keep_known(declarer, route);
        }
        for (part, spec) in begin {
            let key = (declarer.to_owned(), part);
            let running = self.begin(&key, spec);
            self.running.insert(key, running);
        }
    }

    /// Starts a part.
    fn begin(&self, (declarer, (name, topic)): &(String, Part), spec: RouteSpec) -> Running {
        let (spec, revoked) = (Arc::new(spec), Revoked::default());
        let (stop, topics) = (self.context.drain.child_token(), TaskTracker::new());
        let known = self.known.get(&(declarer.clone(), name.clone()));
        let known = known.map(|(.., known)| known.clone()).unwrap_or_default();
        let (context, route, claims) = (self.context.clone(), spec.clone(), self.claims.clone());
        let before = self.before(&spec, topic);
        let (ends, revokes) = (stop.clone(), revoked.clone());
        if let Some(topic) = topic.clone() {
            let task = Topic { context, route, topic, stop: ends.clone(), claims, revoked: revokes, known };
            self.tasks.spawn(topics.track_future(async move {
                if all_ended(before, &ends).await {
                    task.run().await;
                }
            }));
        } else {
            let tasks = (self.tasks.clone(), topics.clone());
            let listing =
                Listing { context, route, stop: ends.clone(), claims, revoked: revokes, known, tasks };
            self.tasks.spawn(topics.track_future(async move {
                if all_ended(before, &ends).await {
                    listing.run().await;
                }
            }));
        }
        topics.close();
        Running { spec, stop, revoked, topics }
    }

    /// What was seen of a route's topics is known to the route that takes its place.
    fn keep_known(&mut self, declarer: &str, route: &RouteSpec) {
        let entry = self.known.entry((declarer.to_owned(), route.name.clone())).or_default();
        if entry.0 != route.subscription || entry.1 != route.to {
            *entry = (route.subscription.clone(), route.to.clone(), Known::default());
        }
        entry.2.keep_to(route);
    }

    /// What leaves to the same site and shares something with it.
    fn before(&self, spec: &RouteSpec, topic: &Option<TopicName>) -> Vec<TaskTracker> {
        let left: Vec<_> = match topic {
            Some(named) => {
                let found = self.leaving.get(&None).into_iter().flatten();
                let found = found.filter(|left| left.spec.patterns.take(named));
                self.leaving.get(topic).into_iter().flatten().chain(found).collect()
            }
            // Which topics patterns have found, nobody knows here.
            None => {
                let may_be_found = |named: &TopicName| spec.patterns.take(named);
                let shares = self.leaving.iter().filter(|(it, _)| it.as_ref().is_none_or(may_be_found));
                shares.flat_map(|(_, left)| left).collect()
            }
        };
        left.into_iter().filter(|left| left.spec.to == spec.to).map(|left| left.topics.clone()).collect()
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
