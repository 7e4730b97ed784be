//! What peers may have done here: of their declarations it believes what policy allows, and it starts a sink for each
//! session that a peer opens and may. Holds no socket; shows what is refused, and says it seldom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::agent::lock;
use super::believing::believe;
use super::context::{Context, RouteSpec};
use super::control::{self, Declaration, RefusedTopic};
use super::frames::{Kind, Open, Stop};
use super::lane::{Allowance, FromSource, LaneHandle};
use super::leave::Leave;
use super::opening::{NO_QUARANTINE, NOT_DECLARED, NOT_RECEIVED, Rules, generation_behind};
use super::progress::Progress;
use super::reason::Reason;
use super::refusal::Refusal;
use super::refused::Refused;
use super::routes::Routes;
use super::ruling::{Ruling, Rulings};
use super::session::Halt;
use super::sink::Sink;
use super::status::{End, Key, State};
use crate::policy::Policies;
use crate::pulsar::topic::TopicName;

/// What peers may do, and the sinks that run for them.
pub(super) struct Gate {
    context: Arc<Context>,
    rulings: Rulings,
    /// What each peer declared last. Bounded by the configured sites.
    heard: Mutex<BTreeMap<String, Declaration>>,
    /// What each peer does not let out of what we declared.
    kept_back: Mutex<BTreeSet<(String, String, String)>>,
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
    /// As long as it is served: it is a peer's word, and long.
    open: Weak<Open>,
    /// The entries that this generation stopped at.
    holes: Arc<Mutex<Refused>>,
    leave: Leave,
    finished: CancellationToken,
}

/// What a session gets with its slot.
struct Entered {
    leave: Leave,
    finished: CancellationToken,
    holes: Arc<Mutex<Refused>>,
    /// Has to be finished before the slot is really free.
    predecessor: Option<Slot>,
}

impl Entered {
    /// It does not begin. Whoever comes next waits for its predecessor all the same, which is only about to leave.
    async fn give_up(self) {
        if let Some(predecessor) = self.predecessor {
            predecessor.finished.cancelled().await;
        }
        self.finished.cancel();
    }
}

impl Gate {
    pub(super) fn new(context: Arc<Context>, rulings: Rulings) -> Self {
        Self {
            context,
            rulings,
            heard: Mutex::default(),
            kept_back: Mutex::default(),
            slots: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// What holds now.
    pub(super) fn ruling(&self) -> Arc<Ruling> {
        self.rulings.now()
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
            self.show_kept_back(peer, &refused);
        }
        let Some(declaration) = message.declaration else {
            return Ok(Vec::new());
        };
        let (mut running, ruling, believed) = loop {
            let ruling = self.ruling();
            let believed = believe(&ruling, &self.context.site, peer, declaration.clone())?;
            let running = lock(routes);
            // With the routes in hand, as what was heard is noted below: whoever comes later goes by later rules.
            if Arc::ptr_eq(&ruling, &self.ruling()) {
                break (running, ruling, believed);
            }
        };
        let before = held(&self.heard).insert(peer.to_owned(), declaration);
        running.apply(peer, &believed.routes, &ruling);
        drop(running);
        if before.is_some() {
            // It speaks again: its rules may have changed, or it is back.
            self.context.nudges.tell(peer);
        }
        for route in &believed.clashes {
            tracing::warn!(%route, "the peer declares a route that is declared here too: ours counts");
        }
        self.say_refused(peer, &believed.refusals);
        Ok(believed.refusals)
    }

    /// The rules changed: what a peer declared is judged again. Gives what of it does not happen here.
    pub(super) fn believe_again(&self, peer: &str, routes: &Mutex<Routes>) -> Vec<RefusedTopic> {
        let mut running = lock(routes);
        let Some(declaration) = held(&self.heard).get(peer).cloned() else {
            return Vec::new();
        };
        let ruling = self.ruling();
        // It was valid when it was heard.
        let believed = believe(&ruling, &self.context.site, peer, declaration).unwrap_or_default();
        running.apply(peer, &believed.routes, &ruling);
        believed.refusals
    }

    /// The rules changed: what peers declared, and the sessions that they opened, are judged by the new ones. What is
    /// allowed as before is not touched.
    pub(super) fn reconsider(&self, before: &Ruling, routes: &Mutex<Routes>) {
        let ruling = self.ruling();
        let peers: Vec<String> = {
            let _running = lock(routes);
            held(&self.heard).keys().cloned().collect()
        };
        for peer in peers {
            self.believe_again(&peer, routes);
            if !ruling.policies.knows(&peer) {
                held(&self.heard).remove(&peer);
            }
        }
        let gone = |route: &&RouteSpec| {
            route.to == self.context.site
                && !ruling.declared.iter().any(|now| now.name == route.name && now.from == route.from)
        };
        for route in before.declared.iter().filter(gone) {
            self.context.board.retain(|row| {
                row.end == End::Source
                    || row.route != route.name
                    || row.from != route.from
                    || row.state == State::Running
            });
        }
        self.show_awaited();
        self.warn_of_repeats();
        let rules = Rules { site: &self.context.site, ruling: &ruling };
        for (peer, slots) in held(&self.slots).iter() {
            for slot in slots.values().filter(|slot| !slot.finished.is_cancelled()) {
                if let Some(open) = slot.open.upgrade()
                    && let Err(refusal) = rules.admit(peer, &open)
                {
                    slot.leave.disallow(&refusal, self.remedy(peer, &open, &refusal.halt));
                }
            }
        }
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

    /// We declare anew: what the peer does not let out, it says anew.
    pub(super) fn forget_kept_back(&self, peer: &str) {
        held(&self.kept_back).retain(|(by, ..)| by != peer);
    }

    /// The peer does not let out what we declared. Shown only for what we did declare.
    fn show_kept_back(&self, peer: &str, refused: &RefusedTopic) {
        let ruling = self.ruling();
        let ours = |route: &&RouteSpec| route.name == refused.route && route.from == peer;
        let Some(route) = ruling.declared.iter().find(ours) else {
            return;
        };
        let Some(topic) = shown_names(route).find(|name| *name == refused.topic) else {
            return;
        };
        held(&self.kept_back).insert((peer.to_owned(), route.name.clone(), topic.clone()));
        let mut row = self.row(End::Sink, &route.name, &route.from, &route.to, &topic);
        // Said once, of what does not run: a peer may refuse as often as it likes, and contradict itself.
        let is_news = row.row.state == State::Waiting
            && row.row.reason.as_deref() != Some(Reason::RefusedByPolicy.code());
        if is_news {
            row.halted(Reason::RefusedByPolicy, KEPT_BACK);
        }
    }

    /// A session is over: its row says why none follows, or goes with its route, where that `was_ours`.
    fn show_over(&self, open: &Open, was_ours: bool) {
        let ruling = self.ruling();
        let ours = |route: &&RouteSpec| route.name == open.route && route.from == open.from;
        let declared = ruling.declared.iter().find(ours);
        let Ok(topic) = TopicName::parse(&open.topic) else { return };
        let allowed = Rules { site: &self.context.site, ruling: &ruling }.admit(&open.from, open).is_ok();
        let kept_back = held(&self.kept_back);
        let keeps = |name: String| kept_back.contains(&(open.from.clone(), open.route.clone(), name));
        let names = |route: &RouteSpec| {
            let matching = route.patterns.items().iter().filter(|pattern| pattern.matches(&topic));
            let matching: Vec<_> = matching.map(|pattern| pattern.text().to_owned()).collect();
            std::iter::once(topic.base().to_string()).chain(matching).any(keeps)
        };
        let is_kept_back = declared.is_some_and(names);
        if is_kept_back {
            self.row(End::Sink, &open.route, &open.from, &open.to, &open.topic)
                .halted(Reason::RefusedByPolicy, KEPT_BACK);
        } else if was_ours && declared.is_none() && !allowed {
            let Open { route, topic, from, to, .. } = open.clone();
            self.context.board.remove(&Key { route, topic, from, to, end: End::Sink });
        }
    }

    /// Rows for what we declared and the other side has to send: until it does, somebody may ask why.
    pub(super) fn show_awaited(&self) {
        let ruling = self.ruling();
        for route in ruling.declared.iter().filter(|route| route.to == self.context.site) {
            for topic in shown_names(route) {
                if self.is_shown(route, &topic) {
                    continue;
                }
                self.row(End::Sink, &route.name, &route.from, &route.to, &topic)
                    .halted(Reason::NotOpened, "the source's side has not opened it");
            }
        }
    }

    /// Whether the board has a row of it, or of a partition or match of it.
    fn is_shown(&self, route: &RouteSpec, name: &str) -> bool {
        let pattern = route.patterns.items().iter().find(|pattern| pattern.text() == name);
        self.context.board.rows().iter().any(|row| {
            let topic = TopicName::parse(&row.topic).ok();
            row.end == End::Sink
                && row.route == route.name
                && row.from == route.from
                && (row.topic == name
                    || topic.is_some_and(|topic| {
                        topic.base().to_string() == name
                            || pattern.is_some_and(|pattern| pattern.matches(&topic))
                    }))
        })
    }

    /// A pattern's row said only that nothing had been opened.
    fn forget_awaited(&self, open: &Open) {
        let ruling = self.ruling();
        let ours = |route: &&RouteSpec| route.name == open.route && route.from == open.from;
        let (Some(route), Ok(topic)) = (ruling.declared.iter().find(ours), TopicName::parse(&open.topic))
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
        match self.ruling().policies {
            Policies::Each(_) => format!("`tunnel.edges[].policy.{way}` of {peer}"),
            Policies::One(_) => format!("`policy.{way}`"),
        }
    }

    /// Without sight of the destination's deduplication nothing better can be promised, and an operator who takes
    /// effectively-once for granted should hear it before the first entry.
    pub(super) fn warn_of_repeats(&self) {
        let Context { cluster, site, .. } = &*self.context;
        let ruling = self.ruling();
        let comes_in =
            ruling.declared.iter().any(|route| route.to == *site) || ruling.policies.let_anything_in();
        if comes_in && cluster.rest.is_none() && !cluster.deduplication_asserted {
            tracing::warn!(
                "routes into this site are at-least-once: without `pulsar.admin_url` it cannot be seen whether its \
                 topics deduplicate; set it, or \"deduplication\": \"asserted\" under `pulsar` where they do"
            );
        }
    }

    /// Serves one session that a peer opened, after the one before it has ended.
    pub(super) async fn serve(
        self: Arc<Self>,
        lane: LaneHandle,
        open: Open,
        allowance: Arc<Allowance>,
        from_source: mpsc::Receiver<FromSource>,
    ) {
        let (peer, open) = (lane.link().peer.clone(), Arc::new(open));
        let _uses = lane.link().retiring.user();
        let ours = |route: &RouteSpec| route.name == open.route && route.from == open.from;
        let is_ours = self.ruling().declared.iter().any(ours);
        let (destination, Entered { leave, finished, holes, predecessor }) = match self.admit(&peer, &open) {
            Ok(entered) => entered,
            Err(refusal) => {
                self.show_refused_open(&peer, &open, &refusal.halt);
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
        let sink = Sink { context, open: (*open).clone(), destination, lane, allowance, holes, leave };
        // Also when the sink panics: the next session waits for it.
        let _finished = finished.drop_guard();
        sink.run(from_source).await;
        self.show_over(&open, is_ours);
    }

    /// Judges a session, and gives it its slot.
    fn admit(&self, peer: &str, open: &Arc<Open>) -> Result<(TopicName, Entered), Refusal> {
        let ruling = self.ruling();
        let destination = Rules { site: &self.context.site, ruling: &ruling }.admit(peer, open)?;
        let entered = self.enter(open)?;
        // Rules that changed before the slot was there were not held against it.
        let now = self.ruling();
        if !Arc::ptr_eq(&ruling, &now)
            && let Err(refusal) = (Rules { site: &self.context.site, ruling: &now }).admit(peer, open)
        {
            tokio::spawn(entered.give_up());
            return Err(refusal);
        }
        Ok((destination, entered))
    }

    /// Takes the partition's slot; gives what to wait for before it is really free.
    fn enter(&self, open: &Arc<Open>) -> Result<Entered, Refusal> {
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
        let (leave, finished) = (Leave::default(), CancellationToken::new());
        let slot = Slot {
            route: open.route.clone(),
            session: open.session,
            generation: open.generation,
            open: Arc::downgrade(open),
            holes: holes.clone(),
            leave: leave.clone(),
            finished: finished.clone(),
        };
        let predecessor = slots.insert(key, slot).inspect(|previous| {
            let (old, new) = (previous.session, open.session);
            tracing::debug!(topic = %open.topic, old, new, "session taken over");
            previous.leave.supersede();
        });
        Ok(Entered { leave, finished, holes, predecessor })
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
        let remedy = self.remedy(peer, open, halt);
        let (topic, Halt { reason, detail, .. }) = (shown(&open.topic), halt);
        tracing::warn!(
            %peer, route = %shown(&open.route), %topic, reason = reason.code(), detail, remedy,
            unsaid, "a session that the peer opened is refused"
        );
    }

    /// What would allow a session that is refused.
    fn remedy(&self, peer: &str, open: &Open, halt: &Halt) -> String {
        let topic = shown(&open.topic);
        let here = shown(if open.destination.is_empty() { &open.topic } else { &open.destination });
        match halt.detail.as_str() {
            NOT_RECEIVED => {
                format!("add {here} to {} here, if it may come in", self.policy_of(peer, "receive"))
            }
            NO_QUARANTINE => {
                let quarantine = shown(open.quarantine.as_deref().unwrap_or_default());
                format!("add {quarantine} to {} here, if it may come in", self.policy_of(peer, "receive"))
            }
            NOT_DECLARED => format!("add {topic} to the `topics` of the route here, if it may come in"),
            _ => halt.reason.remedy().to_owned(),
        }
    }
}

/// A peer's text, cut and escaped.
fn shown(text: &str) -> String {
    text.escape_default().take(SHOWN_LEN_MAX).collect()
}

/// What stands for a route on the board before any of its topics is opened.
fn shown_names(route: &RouteSpec) -> impl Iterator<Item = String> + '_ {
    let patterns = route.patterns.items().iter().map(|pattern| pattern.text().to_owned());
    route.topics.iter().map(TopicName::to_string).chain(patterns)
}

fn held<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

const KEPT_BACK: &str = "the peer does not let the topic go out";
/// Topic-partitions that one peer may publish here at once.
const SLOTS_MAX: usize = 20_000;
/// A peer that is refused again and again is told of this often.
const REFUSALS_SAID_EVERY: Duration = Duration::from_secs(10);
/// More peers than anybody configures.
const PEERS_SAID_MAX: usize = 10_000;
/// A peer's strings are cut where they are shown.
const SHOWN_LEN_MAX: usize = 256;
