//! Looks at stretches that the subscription passed, through a reader of its own, which a broker gives only what a
//! client may have: whether entries lay there, and how many. Bounded in entries, bytes and time; acknowledges nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::amount::{Amount, Seen};
use super::context::{Context, RouteSpec};
use super::passed::{Passed, Stretch};
use super::window::Position;
use crate::pulsar::connection::{Connection, ConnectionError, ConsumerEvent, Delivery};
use crate::pulsar::entry::Entry;
use crate::pulsar::proto::MessageId;
use crate::pulsar::subscription::Subscription;
use crate::pulsar::topic::TopicName;

/// What was found in one stretch: no loss, or how much.
pub(super) type Finding = (Stretch, Option<Amount>);

/// All of them, or why they cannot be looked at.
type Looked = Result<Vec<Finding>, ConnectionError>;

/// What a look came to.
pub(super) enum Found {
    /// What was found, perhaps nothing: what could not be looked at now is looked at again.
    Findings(Vec<Finding>),
    /// It failed again and again: what is suspected now is not to be found out. `first`: since looking worked.
    Failed { error: ConnectionError, first: bool },
}

/// Finds out about suspects, one after the other; rests longer after each time that there was nothing, over sessions.
pub(super) struct Survey {
    running: Option<Pin<Box<dyn Future<Output = Looked> + Send>>>,
    at: Instant,
    pause: Duration,
    failures: u32,
}

impl Survey {
    /// One that has not begun.
    pub(super) fn new() -> Self {
        Self { running: None, at: Instant::now(), pause: PAUSE_FIRST, failures: 0 }
    }

    /// A session begins: what an earlier one saw is not its own. `jitter` spreads those of many topics.
    pub(super) fn begin(&mut self, jitter: Duration) {
        self.running = None;
        self.at = self.at.max(Instant::now() + jitter);
    }

    /// Waits for suspects, looks at them, and says what was found; that it cannot look, once it failed repeatedly.
    /// Cancel-safe.
    pub(super) async fn next(
        &mut self,
        context: &Arc<Context>,
        route: &RouteSpec,
        topic: &TopicName,
        passed: &Passed,
    ) -> Found {
        if passed.suspects().is_empty() && self.running.is_none() {
            return std::future::pending().await;
        }
        if self.running.is_none() {
            sleep_until(self.at).await;
        }
        let running = self.running.get_or_insert_with(|| {
            let ground = Ground { context: context.clone(), route: route.clone(), topic: topic.clone() };
            Box::pin(ground.look_at(passed.suspects().to_vec(), passed.is_sure()))
        });
        let found = running.await;
        self.running = None;
        let is_news =
            found.as_ref().is_ok_and(|findings| findings.iter().any(|(_, amount)| amount.is_some()));
        self.pause = if is_news { PAUSE_FIRST } else { (self.pause * 2).min(PAUSE_MAX) };
        self.at = Instant::now() + self.pause;
        self.judge(found)
    }

    /// One failure passes by itself; as many in a row as are told do not, and neither do those behind them.
    fn judge(&mut self, looked: Looked) -> Found {
        self.failures = if looked.is_err() { self.failures.saturating_add(1) } else { 0 };
        match looked {
            Ok(findings) => Found::Findings(findings),
            Err(_) if self.failures < FAILURES_TOLD => Found::Findings(Vec::new()),
            Err(error) => Found::Failed { error, first: self.failures == FAILURES_TOLD },
        }
    }
}

/// Where is looked.
struct Ground {
    context: Arc<Context>,
    route: RouteSpec,
    topic: TopicName,
}

impl Ground {
    async fn look_at(self, stretches: Vec<Stretch>, sure: bool) -> Looked {
        let _place = SURVEYS.acquire().await.map_err(|_| late())?;
        let connection = timeout(LOOK_DEADLINE, self.context.cluster.client.connect_to_owner(&self.topic));
        let connection = connection.await.map_err(|_| late())??;
        let found = self.look_through(&connection, stretches, sure).await;
        connection.close();
        found
    }

    async fn look_through(&self, connection: &Connection, stretches: Vec<Stretch>, sure: bool) -> Looked {
        let mut findings = Vec::with_capacity(stretches.len());
        let mut failed = None;
        for stretch in stretches {
            let seen = match self.see(connection, &stretch).await {
                Ok(seen) => seen,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            let in_one = seen.first.is_some_and(|first| first.ledger == stretch.from.ledger);
            // Asked only where something was lost, and where it spans ledgers. Without an answer less is claimed.
            let ledgers = match &self.context.cluster.rest {
                Some(rest) if seen.entries > 0 && !(seen.complete && in_one) => {
                    rest.ledgers(&self.topic).await.ok().flatten()
                }
                Some(_) | None => None,
            };
            findings.push((stretch, seen.amount(&stretch, ledgers.as_deref(), sure)));
        }
        match failed {
            Some(error) if findings.is_empty() => Err(error),
            Some(_) | None => Ok(findings),
        }
    }

    async fn see(&self, connection: &Connection, stretch: &Stretch) -> Result<Seen, ConnectionError> {
        let deadline = Instant::now() + LOOK_DEADLINE;
        let seen = timeout_at(deadline + LOOK_DEADLINE, self.read(connection, stretch, deadline));
        let seen = seen.await.map_err(|_| late())??;
        // Nothing came in time: that says nothing.
        if seen.complete || seen.first.is_some() { Ok(seen) } else { Err(late()) }
    }

    async fn read(
        &self,
        connection: &Connection,
        stretch: &Stretch,
        deadline: Instant,
    ) -> Result<Seen, ConnectionError> {
        let name = format!("bridge.looks.{}.{}", self.context.instance, self.route.name);
        // A broker begins with this very entry (`PersistentTopic.getNonDurableSubscription`, for ids of batches), and
        // might begin behind it. In front of a ledger's first entry stands −1.
        let Position { ledger, entry } = stretch.from;
        let after = MessageId { ledger, entry: entry.wrapping_sub(1) };
        let subscription =
            Subscription::browse(connection.clone(), &self.topic, &name, after, INBOX_BYTES).await;
        let mut subscription = subscription?;
        let outcome = self.count(&mut subscription, stretch, deadline).await;
        subscription.close().await;
        outcome
    }

    async fn count(
        &self,
        subscription: &mut Subscription,
        stretch: &Stretch,
        deadline: Instant,
    ) -> Result<Seen, ConnectionError> {
        let (mut seen, mut looked, mut bytes) = (Seen::default(), 0, 0);
        let asked = subscription.last_message_id().await?;
        tokio::pin!(asked);
        let mut end = None;
        let mut at = None;
        loop {
            // Nothing more is to come before `to`.
            seen.complete = at.is_some_and(|at| at >= stretch.to)
                || end.is_some_and(|end| end < stretch.from || at.is_some_and(|at| at >= end));
            if seen.complete || looked >= ENTRIES_MAX || bytes >= BYTES_MAX {
                return Ok(seen);
            }
            tokio::select! {
                answer = &mut asked, if end.is_none() => {
                    let last = answer?.last_message_id;
                    // −1:−1: no message is left.
                    let none = Position { ledger: 0, entry: 0 };
                    end = Some(if last.ledger > i64::MAX as u64 { none } else { position(&last) });
                }
                event = subscription.next() => match event {
                    Some(ConsumerEvent::Entry(delivery)) => {
                        let here = position(&delivery.id);
                        at = Some(here);
                        seen.first.get_or_insert(here);
                        seen.entries += u64::from(stretch.holds(here) && self.relays(&delivery));
                        (looked, bytes) = (looked + 1, bytes + delivery.stored.len());
                        let messages = Entry::parse(delivery.stored.clone()).map_or(1, |it| it.facts().messages());
                        subscription.taken(messages, delivery.stored.len()).await?;
                    }
                    Some(ConsumerEvent::Active(_) | ConsumerEvent::EndOfTopic) => {}
                    Some(ConsumerEvent::Closed) | None => {
                        return Err(ConnectionError::Lost("the reader was closed".into()));
                    }
                },
                () = sleep_until(deadline) => return Ok(seen),
            }
        }
    }

    /// Whether the route would have relayed it, and not left it for its loop rule.
    fn relays(&self, delivery: &Delivery) -> bool {
        let Ok(entry) = Entry::parse(delivery.stored.clone()) else {
            return true;
        };
        if self.route.onward {
            entry.facts().brought_from() != Some(&self.route.to)
        } else {
            !entry.facts().written_by_bridge()
        }
    }
}

fn late() -> ConnectionError {
    ConnectionError::Lost("the topic could not be read in time".into())
}

fn position(id: &MessageId) -> Position {
    Position { ledger: id.ledger, entry: id.entry }
}

/// As many as are counted; beyond it positions have to do.
const ENTRIES_MAX: usize = 10_000;
const BYTES_MAX: usize = 4 << 20;
/// Of a whole process at once: a broker's restart ends the ledgers of all its topics.
static SURVEYS: Semaphore = Semaphore::const_new(16);
const INBOX_BYTES: usize = 256 << 10;
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// What fails less often in a row passes by itself.
const FAILURES_TOLD: u32 = 3;
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// On a topic whose transactions leave a marker now and then.
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_looked_at_is_given_up_each_time_and_told_once_until_looking_works() {
        let mut survey = Survey::new();
        let mut fails = || match survey.judge(Err(late())) {
            Found::Findings(findings) => {
                assert!(findings.is_empty());
                None
            }
            Found::Failed { first, .. } => Some(first),
        };
        let judged: Vec<_> = (0..5).map(|_| fails()).collect();
        assert_eq!(judged, [None, None, Some(true), Some(false), Some(false)]);
        assert!(matches!(survey.judge(Ok(Vec::new())), Found::Findings(_)));
        let mut fails = || matches!(survey.judge(Err(late())), Found::Failed { first: true, .. });
        assert_eq!([fails(), fails(), fails()], [false, false, true]);
    }
}
