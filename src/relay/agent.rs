//! The relay of one agent: takes links and lanes from the tunnel, tells each peer which routes we declare, and hands
//! what peers declare and open to its gate. Believes nothing itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::context::{Context, RouteSpec};
use super::control;
use super::gate::Gate;
use super::lane::{LaneHandle, OpenSink};
use super::routes::Routes;
use super::ruling::{Ruling, Rulings};
use crate::policy::Policies;
use crate::tunnel::link::{LinkUp, TunnelEvent};

/// The relay of one agent.
pub struct Agent {
    context: Arc<Context>,
    gate: Arc<Gate>,
    rulings: Rulings,
    routes: Arc<Mutex<Routes>>,
    tasks: TaskTracker,
}

impl Agent {
    /// A relay that declares `routes` and lets peers do what `policies` say.
    pub fn new(context: Arc<Context>, routes: Vec<RouteSpec>, policies: Policies) -> Self {
        Self::by_rulings(context, Rulings::new(Ruling { declared: routes, policies }))
    }

    /// The same of rules that may be replaced while it runs.
    pub fn by_rulings(context: Arc<Context>, rulings: Rulings) -> Self {
        let tasks = TaskTracker::new();
        let routes = Arc::new(Mutex::new(Routes::new(context.clone(), tasks.clone())));
        Self { gate: Arc::new(Gate::new(context.clone(), rulings.clone())), context, rulings, routes, tasks }
    }

    /// Runs until the process drains; returns when every source and sink has come to its end.
    pub async fn run(self, mut events: mpsc::Receiver<TunnelEvent>) {
        let mut replaced = self.rulings.watch();
        let mut ruling = replaced.borrow_and_update().clone();
        self.run_own(&ruling);
        self.gate.show_awaited();
        self.gate.warn_of_repeats();
        let gate = self.gate.clone();
        let tasks = self.tasks.clone();
        let open_sink: OpenSink = Arc::new(move |lane, open, allowance, from_source| {
            tasks.spawn(gate.clone().serve(lane, open, allowance, from_source));
        });
        loop {
            // Losing the race loses nothing: `recv` takes nothing before it completes.
            let event = tokio::select! {
                biased;
                () = self.context.drain.cancelled() => break,
                // The sender lives in what we hold.
                _ = replaced.changed() => {
                    let before = std::mem::replace(&mut ruling, replaced.borrow_and_update().clone());
                    self.run_own(&ruling);
                    self.gate.reconsider(&before, &self.routes);
                    continue;
                }
                event = events.recv() => event,
            };
            match event {
                Some(TunnelEvent::LinkUp(link)) => {
                    self.context.lanes.link_up(&link.link);
                    let (ended, lanes) = (link.link.ended.clone(), self.context.lanes.clone());
                    tokio::spawn(converse(
                        self.gate.clone(),
                        self.rulings.clone(),
                        self.routes.clone(),
                        link,
                    ));
                    tokio::spawn(async move {
                        ended.cancelled().await;
                        lanes.sweep();
                    });
                }
                Some(TunnelEvent::RelayLane(lane)) => {
                    let ended = lane.ended.clone();
                    let lanes = self.context.lanes.clone();
                    lanes.add(LaneHandle::start(lane, open_sink.clone()));
                    tokio::spawn(async move {
                        ended.cancelled().await;
                        lanes.sweep();
                    });
                }
                None => break,
            }
        }
        self.context.drain.cancelled().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Runs what this site declares and has the topics of; what runs already is not touched.
    fn run_own(&self, ruling: &Arc<Ruling>) {
        let site = &self.context.site;
        let own: Vec<_> = ruling.declared.iter().filter(|route| route.from == *site).cloned().collect();
        lock(&self.routes).apply(site, &own, ruling);
    }
}

/// The control stream of one link: our declaration out, the peer's in.
async fn converse(gate: Arc<Gate>, rulings: Rulings, routes: Arc<Mutex<Routes>>, up: LinkUp) {
    let LinkUp { link, outbound, mut inbound } = up;
    let peer = link.peer.clone();
    let mut replaced = rulings.watch();
    let mut declared = declare(&replaced.borrow_and_update(), &peer);
    loop {
        if let Some(message) = declared.take()
            && outbound.send(message).await.is_err()
        {
            return;
        }
        // Losing the race loses nothing: `recv` takes nothing before it completes.
        let refusals = tokio::select! {
            message = inbound.recv() => match message.map(|message| gate.hear(&peer, &message, &routes)) {
                Some(Ok(refusals)) => refusals,
                Some(Err(problem)) => {
                    tracing::warn!(%peer, %problem, "the peer's declaration ends the link");
                    link.ended.cancel();
                    return;
                }
                None => return,
            },
            // Said again also when it is the same: the peer tries again what was refused here.
            changed = replaced.changed() => {
                if changed.is_err() {
                    return;
                }
                gate.forget_kept_back(&peer);
                declared = declare(&replaced.borrow_and_update(), &peer);
                gate.believe_again(&peer, &routes)
            }
        };
        if let Some(message) = control::encode_refusals(refusals).filter(|message| !message.is_empty())
            && outbound.send(message).await.is_err()
        {
            return;
        }
    }
}

/// What a peer is told of our routes; nothing where it does not fit.
fn declare(ruling: &Ruling, peer: &str) -> Option<Bytes> {
    let message = control::encode(&ruling.declared, peer);
    if message.is_none() {
        tracing::error!(%peer, "the declared routes do not fit into one message: declare fewer topics");
    }
    message
}

pub(super) fn lock(routes: &Mutex<Routes>) -> MutexGuard<'_, Routes> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}
