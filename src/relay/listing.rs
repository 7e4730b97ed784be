//! The topics that a route's patterns find: lists their namespaces at the start and again and again, and keeps a task
//! for each topic that matches. What a listing changes is decided in `matching.rs`. Ends a topic only when its
//! broker says that there is none such; a listing that failed ends nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::claims::Claims;
use super::context::{Context, RouteSpec};
use super::known::Known;
use super::matching::{Change, Matching, TOPICS_MAX};
use super::progress::Progress;
use super::reason::Reason;
use super::revoked::Revoked;
use super::routes::Topic;
use super::session::Halt;
use super::source::broker_halt;
use super::status::End;
use crate::pulsar::topic::{Namespace, TopicName};

/// The patterns of one route, looked for.
pub(super) struct Listing {
    pub(super) context: Arc<Context>,
    pub(super) route: Arc<RouteSpec>,
    pub(super) stop: CancellationToken,
    pub(super) claims: Arc<Claims>,
    pub(super) revoked: Revoked,
    pub(super) known: Known,
    /// Who waits for the topics' tasks: the agent, and the route's successor.
    pub(super) tasks: (TaskTracker, TaskTracker),
}

/// A topic's task.
struct Running {
    stop: CancellationToken,
    ended: TaskTracker,
}

impl Listing {
    /// Runs until the route is no longer declared. The topics' tasks end by themselves then.
    pub(super) async fn run(self) {
        let mut matching = Matching::new(self.route.patterns.clone(), &self.route.topics);
        let mut running = BTreeMap::new();
        let mut rows = Rows::of(&self);
        while !self.stop.is_cancelled() {
            for namespace in self.route.patterns.namespaces() {
                let found = tokio::select! {
                    () = self.stop.cancelled() => break,
                    found = self.context.cluster.client.topics_of(namespace) => found,
                };
                match found {
                    Ok(topics) => {
                        let change = matching.listed(namespace, &topics);
                        for topic in &change.gone {
                            self.end_if_missing(topic, &mut matching, &mut running).await;
                        }
                        rows.listed(&self, namespace, &change, &running);
                        self.known.listed(namespace, topics, &self.route.patterns, &change);
                        for topic in change.begin {
                            running.insert(topic.clone(), self.begin(topic));
                        }
                    }
                    Err(error) => rows.failed(&self, namespace, &broker_halt(error)),
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = sleep(LISTED_EVERY) => {}
            }
        }
        rows.remove();
    }

    fn begin(&self, topic: TopicName) -> Running {
        let appeared = self.known.has_appeared(&topic);
        tracing::info!(route = %self.route.name, %topic, appeared, "a topic matches the route");
        let (stop, ended) = (self.stop.child_token(), TaskTracker::new());
        let task = Topic {
            context: self.context.clone(),
            route: self.route.clone(),
            topic,
            stop: stop.clone(),
            claims: self.claims.clone(),
            revoked: self.revoked.clone(),
            known: self.known.clone(),
        };
        let (agents, routes) = &self.tasks;
        agents.spawn(routes.track_future(ended.track_future(task.run())));
        ended.close();
        Running { stop, ended }
    }

    /// A deleted topic gives its place free; what comes again by its name begins anew.
    async fn end_if_missing(
        &self,
        topic: &TopicName,
        matching: &mut Matching,
        running: &mut BTreeMap<TopicName, Running>,
    ) {
        if !matches!(self.context.cluster.client.partitions(topic).await, Ok(None)) {
            return;
        }
        if let Some(task) = running.remove(topic) {
            tracing::info!(route = %self.route.name, %topic, "a topic that matched the route was deleted");
            task.stop.cancel();
            task.ended.wait().await;
        }
        matching.ended(topic);
        self.known.ended(topic);
    }
}

/// Rows for patterns that find nothing, or too much.
struct Rows(Vec<Option<Progress>>);

impl Rows {
    fn of(listing: &Listing) -> Self {
        Self(listing.route.patterns.items().iter().map(|_| None).collect())
    }

    fn listed(
        &mut self,
        listing: &Listing,
        namespace: &Namespace,
        change: &Change,
        running: &BTreeMap<TopicName, Running>,
    ) {
        let Listing { route, .. } = listing;
        if change.withheld > 0 {
            tracing::debug!(route = %route.name, %namespace, count = change.withheld, "topics match and may not go out");
        }
        let nothing = Halt::new(Reason::SourceMissing, "no topic matches that may go out");
        let names = change.left_out.iter().take(NAMED_MAX).map(ToString::to_string).collect::<Vec<_>>();
        let (count, names) = (change.left_out.len(), names.join(", "));
        let detail = format!("{count} topics are beyond the {TOPICS_MAX} of a route: {names}");
        let too_many = Halt::new(Reason::TooManyTopics, &detail);
        for (nth, pattern) in route.patterns.items().iter().enumerate() {
            if pattern.namespace() != namespace {
                continue;
            }
            let mut found = running.keys().chain(&change.begin);
            if change.left_out.iter().any(|topic| pattern.matches(topic)) {
                self.halted(listing, nth, &too_many);
            } else if found.any(|topic| pattern.matches(topic)) {
                self.0[nth].take().inspect(Progress::remove);
            } else {
                self.halted(listing, nth, &nothing);
            }
        }
    }

    fn failed(&mut self, listing: &Listing, namespace: &Namespace, halt: &Halt) {
        for (nth, pattern) in listing.route.patterns.items().iter().enumerate() {
            if pattern.namespace() == namespace {
                self.halted(listing, nth, halt);
            }
        }
    }

    fn halted(&mut self, Listing { context, route, .. }: &Listing, nth: usize, halt: &Halt) {
        let pattern = route.patterns.items()[nth].text();
        let row = || {
            Progress::new(context.board.clone(), End::Source, &route.name, pattern, &route.from, &route.to)
        };
        self.0[nth].get_or_insert_with(row).halted(halt.reason, &halt.detail);
    }

    fn remove(&mut self) {
        self.0.drain(..).flatten().for_each(|row| row.remove());
    }
}

/// Soon enough for whoever waits; a listing of a large namespace is work for a broker.
const LISTED_EVERY: Duration = Duration::from_secs(10);
/// Topics that one warning names.
const NAMED_MAX: usize = 20;
