//! The source of one topic-partition: attaches to the subscription while a lane to the destination lives, and
//! runs one session after the other. Decides what follows the end of each; the sessions themselves are in
//! `session.rs`, what may be acknowledged is decided in `window.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::batching::Limits;
use super::context::{Context, RouteSpec, Start};
use super::drained;
use super::first_lane::FirstLane;
use super::forgotten::Confirmed;
use super::hole::{self, Hole};
use super::lane::LaneHandle;
use super::passed::Passed;
use super::progress::Progress;
use super::reason::{Reason, Verdict};
use super::refused::Refused;
use super::revoked::Revoked;
use super::session::{self, Halt, SessionEnd};
use super::status::{End, State};
use super::survey::Survey;
use super::trace::Trace;
use super::window::Position;
use crate::pulsar::connection::{ConnectionError, ConsumerEvent};
use crate::pulsar::proto::ServerError;
use crate::pulsar::subscription::{SubscribeOptions, Subscription};
use crate::pulsar::topic::TopicName;
use crate::tunnel::backoff::Backoff;

/// One partition of a route at its source.
pub struct Source {
    context: Arc<Context>,
    route: Arc<RouteSpec>,
    topic: TopicName,
    partitions: u32,
    /// Nothing new is read once it is cancelled; what is on its way is finished.
    stop: CancellationToken,
    /// Whether that is because the topic may no longer go out.
    revoked: Revoked,
    /// The topic did not exist when the route was first looked at.
    appeared: bool,
    /// Told when the topic is not there: it may have been re-created in another shape.
    missing: Arc<Notify>,
    progress: Progress,
    /// The lowest position that an earlier session read without a confirmation: reading goes on there at the latest.
    resume_at: Option<Position>,
    /// Sites from which bridges brought entries that this source has read.
    seen_feeders: BTreeSet<String>,
    /// What this process acknowledged last.
    acknowledged: Option<Position>,
    /// What the subscription passed without us.
    passed: Passed,
    /// Finds out whether that was a loss.
    survey: Survey,
    /// What the destination confirmed.
    confirmed: Confirmed,
    /// Whether small entries are joined, and how far: as the route says, less after a refusal.
    joining: Option<Limits>,
    /// Behind other replicas, after an attachment that came to nothing.
    priority: i32,
}

impl Source {
    /// A source for `topic`, of whose base `partitions` exist (0: not partitioned).
    pub fn new(
        context: Arc<Context>,
        route: Arc<RouteSpec>,
        topic: TopicName,
        partitions: u32,
        appeared: bool,
        missing: Arc<Notify>,
        revoked: Revoked,
    ) -> Self {
        let mut progress = Progress::new(
            context.board.clone(),
            End::Source,
            &route.name,
            &topic.to_string(),
            &route.from,
            &route.to,
        );
        // Which partition it is there, only the destination knows where their numbers differ.
        let known = if route.any_partitions { topic.base() } else { topic.clone() };
        let there = route.renaming.destination(&known);
        progress.row.destination = (there != known).then(|| there.to_string());
        progress.row.quarantine = route.quarantine.as_ref().map(ToString::to_string);
        let joining = route.joining;
        Self {
            context,
            route,
            topic,
            partitions,
            stop: CancellationToken::new(),
            revoked,
            appeared,
            missing,
            progress,
            resume_at: None,
            seen_feeders: BTreeSet::new(),
            acknowledged: None,
            passed: Passed::default(),
            survey: Survey::new(),
            confirmed: Confirmed::default(),
            joining,
            priority: 0,
        }
    }

    /// Runs until `stop` or the route stops; a stopped route keeps its row until then.
    pub async fn run(mut self, stop: CancellationToken) {
        self.stop = stop;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        while let Err(halt) = self.create_subscription().await {
            if !self.wait(&halt, &mut backoff).await {
                return self.leave();
            }
        }
        backoff.reset();
        loop {
            match self.attach().await {
                Ok(()) => break,
                Err(halt) => {
                    if halt.had_run {
                        backoff.reset();
                    }
                    if !self.wait(&halt, &mut backoff).await {
                        break;
                    }
                }
            }
        }
        self.stop.cancelled().await;
        self.leave();
    }

    /// A route that is no longer declared leaves the board; one that drains stays for the last look.
    fn leave(&mut self) {
        self.progress.show();
        if !self.context.drain.is_cancelled() {
            if self.progress.row.in_flight > 0 {
                drained::tell_cut_off(&self.progress.row);
            }
            self.progress.remove();
        }
    }

    /// Shows why nothing runs, and waits for the next attempt; `false` when there will be none.
    async fn wait(&mut self, halt: &Halt, backoff: &mut Backoff) -> bool {
        self.progress.halted(halt.reason, &halt.detail);
        if halt.reason == Reason::SourceMissing {
            // What is missing now will begin at its beginning.
            self.appeared = true;
            self.missing.notify_one();
        }
        let pause = match halt.reason.verdict() {
            Verdict::Soon => backoff.next_delay(),
            Verdict::Later => RETRY_LATER,
            Verdict::Stop => {
                self.stop.cancelled().await;
                return false;
            }
        };
        let acted = halt.reason.verdict() == Verdict::Later;
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = sleep(pause) => true,
            () = self.context.nudges.next_of(&self.route.to), if acted => true,
        }
    }

    /// The subscription has to exist before anything is published that nobody else would keep.
    async fn create_subscription(&mut self) -> Result<(), Halt> {
        let connection =
            self.context.cluster.client.connect_to_owner(&self.topic).await.map_err(broker_halt)?;
        let outcome = Subscription::create(connection.clone(), &self.options(0)).await;
        connection.close();
        match outcome {
            // Somebody is attached to it: it exists.
            Err(error) if error.server_error() == Some(ServerError::ConsumerBusy) => Ok(()),
            outcome => outcome.map_err(broker_halt),
        }
    }

    /// Attaches while there is a lane, and runs until something has to be waited for.
    /// `Ok` when everything is drained.
    async fn attach(&mut self) -> Result<(), Halt> {
        let Some(lane) = self.await_lane().await else {
            return Ok(());
        };
        if self.topic.partition_index().is_some() {
            // Both topics may have grown since the last time.
            let partitions = self.context.cluster.client.partitions(&self.topic.base()).await;
            let partitions = partitions.map_err(broker_halt)?.unwrap_or_default();
            if partitions < self.partitions {
                // Subscribing would create a subscription that begins too late.
                let detail = format!("{partitions} partitions are left of {}", self.partitions);
                return Err(Halt::new(Reason::SourceMissing, &detail));
            }
            self.partitions = partitions;
        }
        let share = self.context.source_budget.take();
        let connection =
            self.context.cluster.client.connect_to_owner(&self.topic).await.map_err(broker_halt)?;
        let mut subscription = Subscription::open(connection.clone(), &self.options(share.bytes()))
            .await
            .map_err(broker_halt)?;
        let outcome = self.run_sessions(lane, &mut subscription).await;
        subscription.close().await;
        connection.close();
        outcome
    }

    /// Runs sessions on one subscription: the next one only while nothing was read from it, for what was read and
    /// not acknowledged comes again only on a new one.
    async fn run_sessions(
        &mut self,
        mut lane: LaneHandle,
        subscription: &mut Subscription,
    ) -> Result<(), Halt> {
        if !subscription.is_exclusive() && self.await_turn(subscription).await? == Turn::Drained {
            return Ok(());
        }
        // Only now, and each time: another replica may have stopped here while we stood by.
        let (hole, mut trace) = hole::read(&self.context.cluster, &self.topic, &self.route).await?;
        let refused = match hole {
            Hole::None => Refused::default(),
            // It was read, so that there is an admin URL, as quarantine needs it.
            Hole::Named(refused) if self.route.quarantine.is_some() => refused,
            Hole::Named(_) | Hole::Unnamed => {
                let detail = "the subscription's cursor carries the marker";
                return Err(Halt::new(Reason::HoleMarker, detail));
            }
        };
        let give_up_at = Instant::now() + FRUITLESS_MAX;
        let mut retry = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let end = self.run_session(&lane, subscription, refused.clone(), trace).await;
            let had_run = self.progress.row.state == State::Running;
            let mut halt = match end {
                SessionEnd::Drained => return Ok(()),
                // Everything that was read is acknowledged: the subscription goes on where it stands, on another lane.
                SessionEnd::Moved if refused.is_empty() => match self.next_lane().await {
                    Some(next) => {
                        let (at, confirmed) = (self.acknowledged, self.confirmed.highest());
                        trace = Trace { at: at.or(trace.at), confirmed: confirmed.or(trace.confirmed) };
                        lane = next;
                        continue;
                    }
                    None => Halt::new(Reason::LinkDown, "no other lane came up"),
                },
                SessionEnd::Moved => Halt::new(Reason::Starting, "the link retires"),
                SessionEnd::ConsumerLost => {
                    Halt::new(Reason::Starting, "the source broker closed the consumer")
                }
                SessionEnd::Inactive => Halt::new(Reason::Starting, "another replica became active"),
                SessionEnd::LaneLost => Halt::new(Reason::LinkDown, "the lane ended"),
                SessionEnd::Halted(halt) => halt,
            };
            if halt.reason == Reason::BatchRefused {
                if self.joining.is_none() {
                    // Nothing was joined: whatever it means, soon is not the time to try again.
                    halt.reason = Reason::RefusedByPeer;
                }
                self.joining = self.joining.and_then(Limits::smaller);
            }
            // One whose sink is not ready leaves the partition to another replica.
            self.priority = i32::from(!had_run);
            let stays = subscription.is_untouched()
                && Instant::now() < give_up_at
                && halt.reason.verdict() == Verdict::Soon
                && !matches!(halt.reason, Reason::NotReady | Reason::Starting | Reason::Quarantining);
            let next_lane = self.context.lanes.pick(&self.route.to, &self.topic);
            let (true, Some(next_lane)) = (stays, next_lane) else {
                return Err(Halt { had_run, ..halt });
            };
            lane = next_lane;
            self.progress.halted(halt.reason, &halt.detail);
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = sleep(retry.next_delay()) => {}
            }
        }
    }

    async fn run_session(
        &mut self,
        lane: &LaneHandle,
        subscription: &mut Subscription,
        refused: Refused,
        trace: Trace,
    ) -> SessionEnd {
        let session = session::Session {
            context: &self.context,
            route: &self.route,
            topic: &self.topic,
            partitions: self.partitions,
            lane: lane.clone(),
            stop: self.stop.clone(),
            revoked: &self.revoked,
            subscription,
            progress: &mut self.progress,
            resume_at: &mut self.resume_at,
            seen_feeders: &mut self.seen_feeders,
            acknowledged: &mut self.acknowledged,
            passed: &mut self.passed,
            survey: &mut self.survey,
            confirmed: &mut self.confirmed,
            trace,
            refused,
            joining: self.joining,
        };
        session.run().await
    }

    /// A lane to the destination; `None` when the process drains first.
    async fn await_lane(&mut self) -> Option<LaneHandle> {
        let mut changes = self.context.lanes.watch();
        let first = FirstLane::of(&self.progress.row, Instant::now());
        loop {
            if let Some(lane) = self.context.lanes.pick(&self.route.to, &self.topic) {
                return Some(lane);
            }
            let is_news = first.is_news(Instant::now());
            if self.context.lanes.lead_nowhere(&self.route.to) {
                self.progress
                    .halted(Reason::RefusedByPolicy, "the destination site has no cluster (`pulsar`)");
            } else if is_news {
                self.progress.halted(Reason::LinkDown, "no lane to the destination site");
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = sleep_until(first.news_at()), if !is_news => {}
                changed = changes.changed() => changed.ok()?,
            }
        }
    }

    /// The lane to go over to: it comes up about when the old one's link retires.
    async fn next_lane(&mut self) -> Option<LaneHandle> {
        let mut changes = self.context.lanes.watch();
        let next = async {
            loop {
                if let Some(lane) = self.context.lanes.pick(&self.route.to, &self.topic) {
                    return Some(lane);
                }
                tokio::select! {
                    () = self.stop.cancelled() => return None,
                    changed = changes.changed() => changed.ok()?,
                }
            }
        };
        tokio::time::timeout(NEXT_LANE_WITHIN, next).await.ok()?
    }

    /// Waits until this consumer is the active one.
    async fn await_turn(&mut self, subscription: &mut Subscription) -> Result<Turn, Halt> {
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => return Ok(Turn::Drained),
                event = tokio::time::timeout(STANDBY_SHOWN_AFTER, subscription.next()) => event,
            };
            match event {
                Err(_) => self.progress.halted(Reason::Standby, "another replica is active"),
                Ok(Some(ConsumerEvent::Active(true))) => return Ok(Turn::Ours),
                Ok(Some(ConsumerEvent::Active(false) | ConsumerEvent::EndOfTopic)) => {}
                // Only the active one is sent entries, after its word: whatever this is, it begins anew.
                Ok(Some(ConsumerEvent::Entry(_))) => {
                    return Err(Halt::new(Reason::Starting, "the source broker sent an entry out of turn"));
                }
                Ok(Some(ConsumerEvent::Closed) | None) => {
                    return Err(Halt::new(Reason::Starting, "the source broker closed the consumer"));
                }
            }
        }
    }

    fn options(&self, inbox_bytes: usize) -> SubscribeOptions {
        let earliest = match self.route.start {
            Start::Earliest => true,
            // The latest message of a topic that was not there is its first.
            Start::Latest | Start::FromGrant => self.appeared,
        };
        SubscribeOptions {
            topic: self.topic.clone(),
            subscription: self.route.subscription.clone(),
            consumer_name: format!("bridge/{}/{}", self.context.site, self.context.instance),
            metadata: vec![
                ("bridge.route".into(), self.route.name.clone()),
                ("bridge.to".into(), self.route.to.clone()),
            ],
            exclusive: self.context.cluster.single_replica,
            earliest,
            priority: self.priority,
            create_topic: false,
            inbox_bytes,
        }
    }
}

/// How waiting for the active place ended.
#[derive(PartialEq, Eq)]
enum Turn {
    Ours,
    Drained,
}

/// What a source broker's refusal means for the route.
pub(super) fn broker_halt(error: ConnectionError) -> Halt {
    let reason = match error.server_error() {
        Some(ServerError::TopicNotFound) => Reason::SourceMissing,
        Some(ServerError::Authentication | ServerError::Authorization) => Reason::SourceNotPermitted,
        Some(ServerError::ConsumerBusy) => Reason::SubscriptionInUse,
        Some(_) | None => Reason::SourceUnreachable,
    };
    Halt::new(reason, &error.to_string())
}

/// How long one attachment tries to get a sink; then other replicas have their turn.
const FRUITLESS_MAX: Duration = Duration::from_secs(10);
const NEXT_LANE_WITHIN: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// A missing topic is looked for at least this often.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Somebody has to act first.
const RETRY_LATER: Duration = Duration::from_secs(30);
/// A take-over needs 1 s (`activeConsumerFailoverDelayTimeMillis`); after this we are in somebody's shadow.
const STANDBY_SHOWN_AFTER: Duration = Duration::from_secs(3);
