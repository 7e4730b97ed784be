//! The forwards of one agent: takes links from the tunnel, runs what listens here, serves what peers open, and follows
//! a new configuration without touching what it leaves as it is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::declaring::declare;
use super::links::{Carried, Links, Way};
use super::listener::{Listener, Listening};
use super::places::Places;
use super::reason::Reason;
use super::rules::{ForwardSpec, Rules};
use super::serving::{key, key_of, key_of_target, serve, verdict};
use super::status::{Board, Row, Verdict};
use super::target::Targets;
use super::wishes::Wishes;
use crate::policy::{Policies, Target};
use crate::tunnel::link::Link;
use crate::tunnel::streams::LinkStreams;

/// The forwards of one agent. Cheap to clone.
#[derive(Clone)]
pub struct Forwards {
    inner: Arc<Inner>,
}

/// What all its tasks share.
pub struct Inner {
    pub(super) rules: watch::Sender<Arc<Rules>>,
    pub(super) board: Board,
    pub(super) links: Links,
    pub(super) targets: Targets,
    pub(super) tasks: TaskTracker,
    /// Nothing new is accepted after it.
    pub(super) stop: CancellationToken,
    /// By declarer and name.
    listeners: Mutex<BTreeMap<(String, String), Listening>>,
    /// What peers want opened here, by peer.
    wishes: Mutex<BTreeMap<String, Wishes>>,
    /// What listens for one link may have gone to another.
    pub(super) wishes_moved: watch::Sender<u64>,
    places: Mutex<BTreeMap<(String, Target), Arc<Places>>>,
    strange: Mutex<BTreeMap<(String, Reason), (Instant, u64)>>,
}

impl Forwards {
    /// Forwards by these rules, not yet running. `own_ports` are the bridge's own, which no name may lead to.
    pub fn new(rules: Rules, own_ports: Vec<u16>, board: Board, stop: CancellationToken) -> Self {
        let inner = Inner {
            rules: watch::channel(Arc::new(rules)).0,
            board,
            links: Links::default(),
            targets: Targets::new(own_ports),
            tasks: TaskTracker::new(),
            stop,
            listeners: Mutex::default(),
            wishes: Mutex::default(),
            wishes_moved: watch::channel(0).0,
            places: Mutex::default(),
            strange: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Runs until the tunnel has ended and every connection with it.
    pub async fn run(self, mut links: mpsc::Receiver<LinkStreams>) {
        self.inner.follow();
        while let Some(streams) = links.recv().await {
            self.inner.tasks.spawn(self.inner.clone().serve_link(streams));
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Follows new rules: what they no longer allow ends at once, what they leave as it is goes on untouched.
    pub fn apply(&self, rules: Rules) {
        self.inner.rules.send_replace(Arc::new(rules));
        self.inner.follow();
    }
}

impl Inner {
    /// Makes listeners and rows what the rules say.
    fn follow(self: &Arc<Self>) {
        let rules = self.rules.borrow().clone();
        self.open(&rules.site, rules.own_listeners().cloned().collect());
        let declarers: Vec<String> = lock(&self.wishes).keys().cloned().collect();
        for peer in declarers {
            self.follow_wishes(&peer);
        }
        // Held until all is judged, and the rules read under it: who is admitted meanwhile is so by these.
        let mut places = lock(&self.places);
        let rules = self.rules.borrow().clone();
        let peers = match &rules.policies {
            Policies::Each(policies) => {
                policies.iter().map(|(peer, policy)| (peer.clone(), policy)).collect()
            }
            Policies::One(_) => Vec::new(),
        };
        let mut wanted = Vec::new();
        for (peer, policy) in peers {
            let targets = policy.forward.iter().map(|(target, _)| target);
            wanted.extend(targets.map(|target| (key_of_target(&peer, target), target.clone())));
        }
        for (key, target) in wanted {
            self.board.row(key, &target.to_string(), None);
        }
        for forward in rules.declared.iter().filter(|forward| forward.to == rules.site) {
            self.show_if_unlinked(&self.row_of(forward), &forward.from);
        }
        self.board.judge(|row, target| {
            Target::parse(target).map_or(Verdict::Refused, |target| verdict(&rules, row, &target))
        });
        places.retain(|(peer, target), places| {
            let limits = rules.may_reach(peer, target);
            if let Some(limits) = limits {
                places.bound(limits);
            }
            limits.is_some() || !places.is_unused()
        });
    }

    /// Everything that happens on one link.
    async fn serve_link(self: Arc<Self>, streams: LinkStreams) {
        let LinkStreams { link, opener, mut inbound } = streams;
        let way = Way { link: link.clone(), opener, carried: Arc::<Carried>::default() };
        self.links.enter(way.clone());
        let declaring = async {
            declare(&self, &way).await;
            std::future::pending::<()>().await;
        };
        let declares = Arc::new(Semaphore::new(DECLARATIONS_PER_LINK));
        let serving = async {
            while let Some(inbound) = inbound.recv().await {
                self.tasks.spawn(serve(self.clone(), way.clone(), declares.clone(), inbound));
            }
            // Its streams end a moment before it does, and whoever looked then would take it for alive.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = link.ended.cancelled() => {}
            () = serving => {}
            () = declaring => {}
        }
        self.links.sweep();
        self.follow_unlinked(&link.peer);
        let cut = way.carried.ended().await;
        if cut > 0 {
            let (link_id, renewed) = (format!("{:016x}", link.id), link.retiring.is_begun());
            tracing::info!(
                peer = %link.peer, link = link_id, cut, renewed, "forwarded connections were cut by the end of their link"
            );
        }
    }

    /// The row of a forward that we declared for another site.
    fn row_of(&self, forward: &ForwardSpec) -> Arc<Row> {
        let row = self.board.row(key_of(forward), &forward.target.to_string(), None);
        row.listens_at(forward.listen.to_string());
        row
    }

    /// The same, unless a reload took it out.
    pub(super) fn declared(&self, peer: &str, forward: &ForwardSpec) -> Option<Arc<Row>> {
        // Held until it is there: what a reload takes out meanwhile must not come back.
        let _places = lock(&self.places);
        let rules = self.rules.borrow().clone();
        rules.declared_to(peer).any(|own| own == forward).then(|| self.row_of(forward))
    }

    /// Shows what became of a forward that we declared.
    pub(super) fn show_declared(&self, peer: &str, forward: &ForwardSpec, reason: Option<Reason>) {
        if let Some(row) = self.declared(peer, forward) {
            row.refuses(reason);
        }
    }

    /// Where no link leads to a site any more, nobody there listens for us.
    fn follow_unlinked(&self, peer: &str) {
        let _places = lock(&self.places);
        let rules = self.rules.borrow().clone();
        rules.declared_to(peer).for_each(|forward| self.show_if_unlinked(&self.row_of(forward), peer));
    }

    fn show_if_unlinked(&self, row: &Row, peer: &str) {
        if self.links.obstacle(peer) == Some(Reason::NoLink) {
            row.refuses(Some(Reason::NoLink));
        }
    }

    /// Opens what a link's peer wants opened and policy lets it; gives the state of each, in order.
    pub(super) fn open_for(
        self: &Arc<Self>,
        link: &Link,
        wanted: &[ForwardSpec],
    ) -> Vec<watch::Receiver<Option<Reason>>> {
        let peer = &link.peer;
        lock(&self.wishes).entry(peer.clone()).or_default().declare(link.id, wanted.to_vec());
        self.follow_wishes(peer);
        let rules = self.rules.borrow().clone();
        let refused: Vec<&ForwardSpec> =
            wanted.iter().filter(|spec| !rules.may_listen(peer, spec.listen)).collect();
        if !refused.is_empty()
            && let Some(count) = self.count_strange(peer, Reason::ListenNotAllowed, refused.len() as u64)
        {
            let reason = Reason::ListenNotAllowed;
            let first = refused.iter().take(REFUSED_TOLD_MAX);
            let forwards: Vec<_> = first.map(|spec| format!("{} at {}", spec.name, spec.listen)).collect();
            tracing::info!(
                %peer, count, forwards = forwards.join(", "), reason = reason.code(), remedy = reason.remedy(),
                "forwards that the peer declares are not opened"
            );
        }
        self.states_of(peer, wanted)
    }

    /// How what a link wants is by now, in order.
    pub(super) fn states_of(
        &self,
        peer: &str,
        wanted: &[ForwardSpec],
    ) -> Vec<watch::Receiver<Option<Reason>>> {
        let rules = self.rules.borrow().clone();
        let listeners = lock(&self.listeners);
        let state = |spec: &ForwardSpec| {
            if !rules.may_listen(peer, spec.listen) {
                return watch::channel(Some(Reason::ListenNotAllowed)).1;
            }
            match listeners.get(&(peer.to_owned(), spec.name.clone())) {
                Some(listening) if listening.spec == *spec => listening.state.clone(),
                // Another process of the peer wants its name or its address otherwise, and said so later.
                Some(_) | None => watch::channel(Some(Reason::AddressInUse)).1,
            }
        };
        wanted.iter().map(state).collect()
    }

    /// A link that declared forwards is gone.
    pub(super) fn forget_wishes(self: &Arc<Self>, link: &Link) {
        if let Some(wishes) = lock(&self.wishes).get_mut(&link.peer) {
            wishes.forget(link.id);
        }
        self.follow_wishes(&link.peer);
    }

    /// Makes the listeners that a peer declared what its links want and policy lets it.
    fn follow_wishes(self: &Arc<Self>, peer: &str) {
        // Held meanwhile: of two that follow at once, the later one has the later wishes, and the later rules.
        let wishes = lock(&self.wishes);
        let rules = self.rules.borrow().clone();
        let mut wanted = wishes.get(peer).map(Wishes::all).unwrap_or_default();
        wanted.retain(|spec| rules.may_listen(peer, spec.listen));
        self.open(peer, wanted);
        drop(wishes);
        self.wishes_moved.send_modify(|count| *count += 1);
    }

    /// Makes a declarer's listeners these, and leaves those that are so already.
    fn open(self: &Arc<Self>, declarer: &str, wanted: Vec<ForwardSpec>) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|(owner, _), listening| {
            let stays = owner != declarer || wanted.contains(&listening.spec);
            if !stays {
                listening.stop.cancel();
            }
            stays
        });
        for spec in wanted {
            let key = (declarer.to_owned(), spec.name.clone());
            listeners.entry(key).or_insert_with(|| Listener::start(self, spec, declarer));
        }
        let names: Vec<String> =
            listeners.keys().filter(|(owner, _)| owner == declarer).map(|(_, name)| name.clone()).collect();
        // Still held: a row that comes meanwhile is not taken away.
        self.board.retain(|row| {
            row.end != super::status::End::Listen
                || row.declared_by != declarer
                || names.contains(&row.forward)
        });
    }

    /// The counters of a target for a peer and the places there, if the rules let it be reached.
    pub(super) fn admit(
        &self,
        peer: &str,
        forward: &str,
        target: &Target,
    ) -> Option<(Arc<Row>, Arc<Places>)> {
        let mut places = lock(&self.places);
        let rules = self.rules.borrow().clone();
        let limits = rules.may_reach(peer, target)?;
        let key = key(&rules, peer, forward, target);
        let row = self.board.row(key.clone(), &target.to_string(), None);
        // One that no rule names goes with who holds it, and not only at the next reload.
        row.judged(verdict(&rules, &key, target));
        let of_target = places.entry((peer.to_owned(), target.clone()));
        let places = of_target.or_insert_with(|| Places::new(limits));
        // A reload may still be about to bound them.
        places.bound(limits);
        Some((row, places.clone()))
    }

    /// Counts what a peer asks for and may not; how many of those, when it is time to tell.
    pub(super) fn count_strange(&self, peer: &str, reason: Reason, count: u64) -> Option<u64> {
        let mut strange = lock(&self.strange);
        let now = Instant::now();
        let Some((told, untold)) = strange.get_mut(&(peer.to_owned(), reason)) else {
            strange.insert((peer.to_owned(), reason), (now, 0));
            return Some(count);
        };
        *untold += count;
        if now - *told < TELL_EVERY {
            return None;
        }
        *told = now;
        Some(std::mem::take(untold))
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A peer that asks for what it may not is told of once in this time.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Forwards that are named in one line of the log.
const REFUSED_TOLD_MAX: usize = 4;
/// Streams by which a link's peer declares forwards: each replaces all that the link declared before.
const DECLARATIONS_PER_LINK: usize = 1;

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::policy::{ForwardLimits, Policy};

    #[tokio::test]
    async fn an_address_does_not_listen_for_a_link_whose_streams_ended_a_moment_before_it() {
        let own = ForwardSpec {
            name: "kube".into(),
            from: "bank".into(),
            listen: ([127, 0, 0, 1], 0).into(),
            to: "riskfuel".into(),
            target: Target::parse("kube:443").unwrap(),
            limits: ForwardLimits::default(),
        };
        let rules =
            Rules { site: "bank".into(), declared: vec![own], policies: Policies::One(Policy::default()) };
        let (board, stop) = (Board::default(), CancellationToken::new());
        let forwards = Forwards::new(rules, Vec::new(), board.clone(), stop.clone());
        let (links, taken) = mpsc::channel(1);
        tokio::spawn(forwards.run(taken));
        let streams = LinkStreams::of_ending("riskfuel");
        let link = streams.link.clone();
        links.send(streams).await.unwrap_or_else(|_| panic!("nobody takes links"));
        let is = async |state: &str| {
            while board.rows()[0].state != state {
                tokio::task::yield_now().await;
            }
        };
        timeout(TELL_EVERY, async {
            while board.rows().is_empty() {
                tokio::task::yield_now().await;
            }
            is("listening").await;
            link.ended.cancel();
            is("refusing").await;
        })
        .await
        .unwrap();
        stop.cancel();
    }
}
