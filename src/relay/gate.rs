//! What peers may have done here: of their declarations it believes what policy allows, and it starts a sink for each
//! session that a peer opens and may. Holds no socket; shows what is refused, and says it seldom.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::agent::lock;
use super::context::{Context, RouteSpec, Start};
use super::control::{self, RefusedTopic};
use super::frames::{Kind, Open, Stop};
use super::lane::{Allowance, FromSource, LaneHandle};
use super::opening::{NO_QUARANTINE, NOT_DECLARED, NOT_RECEIVED, Rules, generation_behind};
use super::progress::Progress;
use super::reason::Reason;
use super::refusal::Refusal;
use super::refused::Refused;
use super::routes::Routes;
use super::session::Halt;
use super::sink::Sink;
use super::status::{End, Key, State};
use crate::policy::{Policies, TopicRules};
use crate::pulsar::topic::TopicName;

/// What peers may do, and the sinks that run for them.
pub(super) struct Gate {
    context: Arc<Context>,
    /// The routes that we declare.
    pub(super) declared: Vec<RouteSpec>,
    /// What each peer may do here.
    policies: Policies,
    /// By peer.
    slots: Mutex<HashMap<String, Slots>>,
    /// When a refusal was last told of each peer, and how many were not.
    said: Mutex<HashMap<String, (Instant, u64)>>,
}

/// By source topic-partition and, where it has another name here, that.
type Slots = HashMap<(String, String), Slot>;

/// The sink of one source topic-partition; a newer session replaces an older one, never beside it.
struct Slot {
    route: String,
    session: u64,
    generation: u32,
    /// The entries that this generation stopped at.
    holes: Arc<Mutex<Refused>>,
    superseded: CancellationToken,
    finished: CancellationToken,
}

/// What a session gets with its slot.
struct Entered {
    superseded: CancellationToken,
    finished: CancellationToken,
    holes: Arc<Mutex<Refused>>,
    /// Has to be finished before the slot is really free.
    predecessor: Option<Slot>,
}

impl Gate {
    pub(super) fn new(context: Arc<Context>, declared: Vec<RouteSpec>, policies: Policies) -> Self {
        Self { context, declared, policies, slots: Mutex::default(), said: Mutex::default() }
    }

    /// Takes what the peer says on the control stream; gives what of its declaration does not happen here.
    pub(super) fn hear(
        &self,
        peer: &str,
        message: &[u8],
        routes: &Mutex<Routes>,
    ) -> Result<Vec<RefusedTopic>, control::DeclarationError> {
        let message = control::decode(message)?;
        for refused in message.refusals {
            self.show_refused_by_peer(peer, &refused);
        }
        let Some(declaration) = message.declaration else {
            return Ok(Vec::new());
        };
        let earliest = self.policies.of(peer).is_some_and(|policy| policy.from_earliest);
        let start = if earliest { Start::Earliest } else { Start::FromGrant };
        let declared = control::check(declaration, &self.context.site, peer, start)?;
        let (mut believed, mut refusals) = (Vec::new(), Vec::new());
        for mut route in declared.into_iter().filter(|route| route.from == self.context.site) {
            if self.clashes(&route) {
                continue;
            }
            let name = route.name.clone();
            // Another name could be somebody's own subscription, and its messages be acknowledged for good.
            let is_its_own = route.subscription == own_subscription(&route.from, &route.to);
            let refused = |topic: &str| {
                let code = Reason::RefusedByPolicy.code().into();
                RefusedTopic { route: name.clone(), topic: topic.to_owned(), code }
            };
            route.topics.retain(|topic| {
                let allowed = is_its_own && self.may_send(peer, topic);
                if !allowed {
                    refusals.push(refused(&topic.to_string()));
                }
                allowed
            });
            let send = self.policies.of(peer).map(|policy| policy.send.clone()).unwrap_or_default();
            let send = if is_its_own { send } else { TopicRules::default() };
            let beyond = route.patterns.remove_beyond(&send);
            refusals.extend(beyond.iter().map(|pattern| refused(pattern.text())));
            route.patterns = route.patterns.within(send);
            if !route.topics.is_empty() || !route.patterns.is_empty() {
                believed.push(route);
            }
        }
        self.say_refused(peer, &refusals);
        lock(routes).apply(peer, believed);
        Ok(refusals)
    }

    /// One line for a whole declaration, and no rows: how many there are, and their names, is the peer's word.
    fn say_refused(&self, peer: &str, refusals: &[RefusedTopic]) {
        let Some(first) = refusals.first() else { return };
        let policy = self.policy_of(peer, "send");
        tracing::warn!(
            %peer,
            count = refusals.len(),
            route = %first.route,
            topic = %first.topic,
            reason = Reason::RefusedByPolicy.code(),
            remedy = format!("add {} to {policy} here, if it may go out", first.topic),
            "topics that the peer declares do not go out: this site's policy (`send`) does not name them, or their \
             subscription is not bridge.<from>.<to>"
        );
    }

    /// The peer does not let out what we declared. Shown only for what we did declare.
    fn show_refused_by_peer(&self, peer: &str, refused: &RefusedTopic) {
        let ours = |route: &&RouteSpec| route.name == refused.route && route.from == peer;
        let Some(route) = self.declared.iter().find(ours) else {
            return;
        };
        let Some(topic) = shown_names(route).find(|name| *name == refused.topic) else {
            return;
        };
        let mut row = self.row(End::Sink, &route.name, &route.from, &route.to, &topic);
        // Said once, of what does not run: a peer may refuse as often as it likes, and contradict itself.
        let is_news = row.row.state == State::Waiting
            && row.row.reason.as_deref() != Some(Reason::RefusedByPolicy.code());
        if is_news {
            row.halted(Reason::RefusedByPolicy, "the peer does not let the topic go out");
        }
    }

    /// Rows for what we declared and the other side has to send: until it does, somebody may ask why.
    pub(super) fn show_awaited(&self) {
        for route in self.declared.iter().filter(|route| route.to == self.context.site) {
            for topic in shown_names(route) {
                self.row(End::Sink, &route.name, &route.from, &route.to, &topic)
                    .halted(Reason::NotOpened, "the source's side has not opened it");
            }
        }
    }

    /// A pattern's row said only that nothing had been opened.
    fn forget_awaited(&self, open: &Open) {
        let ours = |route: &&RouteSpec| route.name == open.route && route.from == open.from;
        let (Some(route), Ok(topic)) = (self.declared.iter().find(ours), TopicName::parse(&open.topic))
        else {
            return;
        };
        for pattern in route.patterns.items().iter().filter(|pattern| pattern.matches(&topic)) {
            let (topic, from, to) = (pattern.text().to_owned(), open.from.clone(), open.to.clone());
            self.context.board.remove(&Key { route: route.name.clone(), topic, from, to, end: End::Sink });
        }
    }

    fn row(&self, end: End, route: &str, from: &str, to: &str, topic: &str) -> Progress {
        Progress::new(self.context.board.clone(), end, route, topic, from, to)
    }

    /// Where our policy for this peer stands in the configuration.
    fn policy_of(&self, peer: &str, way: &str) -> String {
        match self.policies {
            Policies::Each(_) => format!("`tunnel.edges[].policy.{way}` of {peer}"),
            Policies::One(_) => format!("`policy.{way}`"),
        }
    }

    /// Without sight of the destination's deduplication nothing better can be promised, and an operator who takes
    /// effectively-once for granted should hear it before the first entry.
    pub(super) fn warn_of_repeats(&self) {
        let Context { cluster, site, .. } = &*self.context;
        let comes_in = self.declared.iter().any(|route| route.to == *site) || self.policies.let_anything_in();
        if comes_in && cluster.rest.is_none() && !cluster.deduplication_asserted {
            tracing::warn!(
                "routes into this site are at-least-once: without `pulsar.admin_url` it cannot be seen whether its \
                 topics deduplicate; set it, or \"deduplication\": \"asserted\" under `pulsar` where they do"
            );
        }
    }

    fn may_send(&self, peer: &str, topic: &TopicName) -> bool {
        self.policies.of(peer).is_some_and(|policy| policy.send.allows(topic))
    }

    /// A route of our own has the name: the own one counts.
    fn clashes(&self, route: &RouteSpec) -> bool {
        let clashes = self.declared.iter().any(|own| own.name == route.name && own.from == route.from);
        if clashes {
            tracing::warn!(route = %route.name, "the peer declares a route that is declared here too: ours counts");
        }
        clashes
    }

    /// Serves one session that a peer opened, after the one before it has ended.
    pub(super) async fn serve(
        self: Arc<Self>,
        lane: LaneHandle,
        open: Open,
        allowance: Arc<Allowance>,
        from_source: mpsc::Receiver<FromSource>,
    ) {
        let rules = Rules { site: &self.context.site, declared: &self.declared, policies: &self.policies };
        let entered = rules.admit(&lane.link().peer, &open);
        let entered = entered.and_then(|destination| Ok((destination, self.enter(&open)?)));
        let (destination, Entered { superseded, finished, holes, predecessor }) = match entered {
            Ok(entered) => entered,
            Err(refusal) => {
                self.show_refused_open(&lane.link().peer, &open, &refusal.halt);
                lane.forget_sink(open.number, open.session);
                let (number, session) = (open.number, open.session);
                let Refusal { halt, sequence_id, refused } = refusal;
                let (code, refused) = (halt.reason.code().into(), refused.pairs());
                let stop = Stop { number, session, code, sequence_id, by_source: false, refused };
                return lane.tell(Kind::Stop(stop)).await;
            }
        };
        if let Some(predecessor) = predecessor {
            predecessor.finished.cancelled().await;
            // One row for each partition, however many names a peer gives to its route.
            if predecessor.route != open.route {
                let (topic, from, to) = (open.topic.clone(), open.from.clone(), open.to.clone());
                let row = Key { route: predecessor.route, topic, from, to, end: End::Sink };
                self.context.board.remove(&row);
            }
        }
        self.forget_awaited(&open);
        let _feeds = self.context.feeders.feed(&destination, &open.from, &open.fed_by);
        let context = self.context.clone();
        let sink = Sink { context, open, destination, lane, allowance, holes, superseded };
        // Also when the sink panics: the next session waits for it.
        let _finished = finished.drop_guard();
        sink.run(from_source).await;
    }

    /// Takes the partition's slot; gives what to wait for before it is really free.
    fn enter(&self, open: &Open) -> Result<Entered, Refusal> {
        let mut all = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // By peer, whose name is authenticated: one that takes all its places takes nobody else's.
        let slots = all.entry(open.from.clone()).or_default();
        let key = (open.topic.clone(), open.destination.clone());
        let previous = slots.get(&key);
        if let Some(newer) = previous.filter(|slot| slot.generation > open.generation) {
            return Err(generation_behind(open.generation, newer.generation, "the destination has seen"));
        }
        let same = previous.filter(|slot| slot.generation == open.generation);
        let holes = same.map_or_else(Arc::default, |slot| slot.holes.clone());
        // What the source names is marked there.
        let (refused, marked) = (held(&holes).clone(), Refused::of_pairs(&open.refused).unwrap_or_default());
        if !marked.covers(&refused) {
            let detail = "entries were refused in an earlier session";
            return Err(Refusal::entries(Reason::Poison, refused, detail));
        }
        if previous.is_none() && slots.len() >= SLOTS_MAX {
            slots.retain(|_, slot| !slot.finished.is_cancelled() || !held(&slot.holes).is_empty());
            // Rows of what is long over go with it: a peer may name any number of topics within its policy.
            self.context
                .board
                .retain(|row| row.end == End::Source || row.from != open.from || row.state != State::Waiting);
            if slots.len() >= SLOTS_MAX {
                return Err(Refusal::of(Reason::NotReady, "the peer has all its places"));
            }
        }
        let (superseded, finished) = (CancellationToken::new(), CancellationToken::new());
        let slot = Slot {
            route: open.route.clone(),
            session: open.session,
            generation: open.generation,
            holes: holes.clone(),
            superseded: superseded.clone(),
            finished: finished.clone(),
        };
        let predecessor = slots.insert(key, slot).inspect(|previous| {
            tracing::debug!(topic = %open.topic, old = previous.session, new = open.session, "session taken over");
            previous.superseded.cancel();
        });
        Ok(Entered { superseded, finished, holes, predecessor })
    }

    fn show_refused_open(&self, peer: &str, open: &Open, halt: &Halt) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = said.get(peer).is_none_or(|(at, _)| at.elapsed() >= REFUSALS_SAID_EVERY);
        if !fresh || said.len() > PEERS_SAID_MAX {
            if let Some((_, unsaid)) = said.get_mut(peer) {
                *unsaid += 1;
            }
            return;
        }
        let unsaid = said.insert(peer.to_owned(), (Instant::now(), 0)).map_or(0, |(_, unsaid)| unsaid);
        drop(said);
        // A refused topic gets no row: its name is the peer's word, and there may be any number of them.
        let shown = |text: &str| text.escape_default().take(SHOWN_LEN_MAX).collect::<String>();
        let (topic, Halt { reason, detail, .. }) = (shown(&open.topic), halt);
        let here = shown(if open.destination.is_empty() { &open.topic } else { &open.destination });
        let remedy = match detail.as_str() {
            NOT_RECEIVED => {
                format!("add {here} to {} here, if it may come in", self.policy_of(peer, "receive"))
            }
            NO_QUARANTINE => {
                let quarantine = shown(open.quarantine.as_deref().unwrap_or_default());
                format!("add {quarantine} to {} here, if it may come in", self.policy_of(peer, "receive"))
            }
            NOT_DECLARED => format!("add {topic} to the `topics` of the route here, if it may come in"),
            _ => reason.remedy().to_owned(),
        };
        tracing::warn!(
            %peer, route = %shown(&open.route), %topic, reason = reason.code(), detail, remedy,
            unsaid, "a session that the peer opened is refused"
        );
    }
}

/// What stands for a route on the board before any of its topics is opened.
fn shown_names(route: &RouteSpec) -> impl Iterator<Item = String> + '_ {
    let patterns = route.patterns.items().iter().map(|pattern| pattern.text().to_owned());
    route.topics.iter().map(TopicName::to_string).chain(patterns)
}

fn held(holes: &Mutex<Refused>) -> MutexGuard<'_, Refused> {
    holes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a peer may name as the source's cursor: the one that nobody else has.
fn own_subscription(from: &str, to: &str) -> String {
    format!("bridge.{from}.{to}")
}

/// Topic-partitions that one peer may publish here at once.
const SLOTS_MAX: usize = 20_000;
/// A peer that is refused again and again is told of this often.
const REFUSALS_SAID_EVERY: Duration = Duration::from_secs(10);
/// More peers than anybody configures.
const PEERS_SAID_MAX: usize = 10_000;
/// A peer's strings are cut where they are shown.
const SHOWN_LEN_MAX: usize = 256;
