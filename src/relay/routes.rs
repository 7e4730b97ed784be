//! The routes whose source is here: finds their topics and partitions, keeps one source for each, and stops those
//! that are no longer declared. Looks again for missing topics and for new partitions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::context::{Context, RouteSpec};
use super::progress::Progress;
use super::reason::Reason;
use super::source::{Source, broker_halt};
use super::status::End;
use crate::pulsar::topic::TopicName;

/// The sources that run, by declarer and route name. Bounded by what the own configuration holds and by the
/// bounds of a declaration, for each configured peer.
pub struct Routes {
    context: Arc<Context>,
    tasks: TaskTracker,
    running: BTreeMap<(String, String), (RouteSpec, CancellationToken)>,
}

impl Routes {
    /// None yet. `tasks` tracks every source, so that a drain can wait for them.
    pub fn new(context: Arc<Context>, tasks: TaskTracker) -> Self {
        Self { context, tasks, running: BTreeMap::new() }
    }

    /// Makes what runs for `declarer` equal to `routes`; what stays the same is not touched.
    pub fn apply(&mut self, declarer: &str, routes: Vec<RouteSpec>) {
        let ours = |(owner, _): &(String, String)| owner == declarer;
        let gone: Vec<_> = self
            .running
            .iter()
            .filter(|(key, (spec, _))| ours(key) && !routes.contains(spec))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            if let Some((_, stop)) = self.running.remove(&key) {
                stop.cancel();
            }
        }
        for route in routes {
            let key = (declarer.to_owned(), route.name.clone());
            if self.running.contains_key(&key) {
                continue;
            }
            let stop = self.context.drain.child_token();
            let shared = Arc::new(route.clone());
            for topic in &route.topics {
                let task = Topic {
                    context: self.context.clone(),
                    route: shared.clone(),
                    topic: topic.clone(),
                    tasks: self.tasks.clone(),
                    stop: stop.clone(),
                };
                self.tasks.spawn(task.run());
            }
            self.running.insert(key, (route, stop));
        }
    }
}

/// One topic of a route.
struct Topic {
    context: Arc<Context>,
    route: Arc<RouteSpec>,
    topic: TopicName,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Topic {
    async fn run(self) {
        let Some((mut known, appeared)) = self.await_topic().await else {
            return;
        };
        if known == 0 {
            self.start(self.topic.clone(), 0, appeared);
            return;
        }
        for index in 0..known {
            self.start(self.topic.partition(index), known, appeared);
        }
        // Partitions only ever grow. One that appears while we look begins at its beginning.
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(GROWTH_CHECKED_EVERY) => {}
            }
            let Ok(Some(partitions)) = self.context.cluster.client.partitions(&self.topic).await else {
                continue;
            };
            for index in known..partitions {
                self.start(self.topic.partition(index), partitions, true);
            }
            known = known.max(partitions);
        }
    }

    fn start(&self, topic: TopicName, partitions: u32, appeared: bool) {
        let source = Source::new(self.context.clone(), self.route.clone(), topic, partitions, appeared);
        self.tasks.spawn(source.run(self.stop.clone()));
    }

    /// The number of partitions once the topic is there, and whether it was missing at first.
    async fn await_topic(&self) -> Option<(u32, bool)> {
        let row = || {
            let (route, topic) = (&self.route, self.topic.to_string());
            Progress::new(
                self.context.board.clone(),
                End::Source,
                &route.name,
                &topic,
                &route.from,
                &route.to,
            )
        };
        let mut progress: Option<Progress> = None;
        let mut appeared = false;
        loop {
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
                () = self.stop.cancelled() => {
                    progress.inspect(Progress::remove);
                    return None;
                }
                () = sleep(MISSING_CHECKED_EVERY) => {}
            }
        }
    }
}

/// Soon enough for whoever waits, rare enough for the broker.
const MISSING_CHECKED_EVERY: Duration = Duration::from_secs(2);
/// As often as the Java client looks (`autoUpdatePartitionsInterval`).
const GROWTH_CHECKED_EVERY: Duration = Duration::from_secs(60);
