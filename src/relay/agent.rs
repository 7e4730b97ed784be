//! The relay of one agent: takes links and lanes from the tunnel, tells each peer which routes we declare, and hands
//! what peers declare and open to its gate. Believes nothing itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::context::{Context, RouteSpec};
use super::control;
use super::gate::Gate;
use super::lane::{LaneHandle, OpenSink};
use super::routes::Routes;
use crate::policy::Policies;
use crate::tunnel::link::{LinkUp, TunnelEvent};

/// The relay of one agent.
pub struct Agent {
    context: Arc<Context>,
    gate: Arc<Gate>,
    routes: Arc<Mutex<Routes>>,
    tasks: TaskTracker,
}

impl Agent {
    /// A relay that declares `routes` and lets peers do what `policies` say.
    pub fn new(context: Arc<Context>, routes: Vec<RouteSpec>, policies: Policies) -> Self {
        let tasks = TaskTracker::new();
        let running = Arc::new(Mutex::new(Routes::new(context.clone(), tasks.clone())));
        let gate = Gate::new(context.clone(), routes, policies);
        Self { context, gate: Arc::new(gate), routes: running, tasks }
    }

    /// Runs until the process drains; returns when every source and sink has come to its end.
    pub async fn run(self, mut events: mpsc::Receiver<TunnelEvent>) {
        let site = self.context.site.clone();
        let own = self.gate.declared.iter().filter(|route| route.from == site).cloned().collect();
        lock(&self.routes).apply(&site, own);
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
                event = events.recv() => event,
            };
            match event {
                Some(TunnelEvent::LinkUp(link)) => {
                    tokio::spawn(converse(self.gate.clone(), self.routes.clone(), link));
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
}

/// The control stream of one link: our declaration out, the peer's in.
async fn converse(gate: Arc<Gate>, routes: Arc<Mutex<Routes>>, mut up: LinkUp) {
    let peer = up.link.peer.clone();
    match control::encode(&gate.declared, &peer) {
        Some(message) => {
            if up.outbound.send(message).await.is_err() {
                return;
            }
        }
        None => {
            tracing::error!(%peer, "the declared routes do not fit into one message: declare fewer topics")
        }
    }
    while let Some(message) = up.inbound.recv().await {
        let refusals = match gate.hear(&peer, &message, &routes) {
            Ok(refusals) => refusals,
            Err(problem) => {
                tracing::warn!(%peer, %problem, "the peer's declaration ends the link");
                up.link.ended.cancel();
                return;
            }
        };
        if let Some(message) = control::encode_refusals(refusals).filter(|message| !message.is_empty())
            && up.outbound.send(message).await.is_err()
        {
            return;
        }
    }
}

pub(super) fn lock(routes: &Mutex<Routes>) -> MutexGuard<'_, Routes> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}
