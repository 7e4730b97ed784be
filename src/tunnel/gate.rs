//! Holds the sockets that have no Welcome to the bounds of [`admission`](super::admission): tickets in, tickets
//! out. Reads and writes no socket.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admission::{
    Address, Admission, Bound, Bounds, COMPUTING_GRACE, COMPUTING_PER_CORE, Displaced, Turn,
};
use super::metrics::{BoundLabel, TunnelMetrics};
use crate::config::TunnelLimits;

/// The gate of one hub's port.
pub struct Gate {
    inner: Mutex<Inner>,
    turn: Notify,
    opened: Instant,
    metrics: TunnelMetrics,
}

struct Inner {
    admission: Admission,
    /// How to end each ticket's socket.
    displace: HashMap<u64, CancellationToken>,
}

/// A place before Welcome; given back on drop.
pub struct Ticket {
    gate: Arc<Gate>,
    id: u64,
    displaced: CancellationToken,
}

/// A place among the handshakes that compute; given back on drop.
pub struct Computing<'a>(&'a Ticket);

impl Gate {
    /// An empty gate.
    pub fn new(limits: &TunnelLimits, metrics: TunnelMetrics) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner { admission: Admission::new(bounds(limits)), displace: HashMap::new() }),
            turn: Notify::new(),
            opened: Instant::now(),
            metrics,
        })
    }

    /// Other bounds hold from now on, for whoever comes.
    pub fn hold_to(&self, limits: &TunnelLimits) {
        self.lock().admission.hold_to(bounds(limits));
    }

    /// Lets a socket in; without an address, one of a trusted proxy that will say on whose behalf it comes.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Ticket {
        let address = address.map_or(Address::UNNAMED, Address::from);
        let mut inner = self.lock();
        let (id, displaced) = inner.admission.enter(address, self.opened.elapsed());
        let token = CancellationToken::new();
        inner.displace.insert(id, token.clone());
        self.displace(&mut inner, displaced);
        self.show(&inner);
        Ticket { gate: self.clone(), id, displaced: token }
    }

    fn displace(&self, inner: &mut Inner, displaced: Option<Displaced>) {
        let Some(Displaced { ticket, bound }) = displaced else {
            return;
        };
        if let Some(token) = inner.displace.remove(&ticket) {
            token.cancel();
        }
        let bound = match bound {
            Bound::Sockets => "sockets",
            Bound::Address => "address",
            Bound::Computing => "computing",
        };
        self.metrics.displaced.get_or_create(&BoundLabel { bound }).inc();
    }

    fn show(&self, inner: &Inner) {
        let shown = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.unauthenticated.set(shown(inner.admission.len()));
        self.metrics.computing.set(shown(inner.admission.computing()));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bounds(limits: &TunnelLimits) -> Bounds {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Bounds {
        sockets: limits.handshakes as usize,
        sockets_per_address: limits.handshakes_per_address as usize,
        computing: cores * COMPUTING_PER_CORE,
    }
}

impl Ticket {
    /// Waits until this socket has to go for another one.
    pub async fn displaced(&self) {
        self.displaced.cancelled().await;
    }

    /// On whose behalf the socket comes.
    pub fn name(&self, address: IpAddr) {
        let mut inner = self.gate.lock();
        let displaced = inner.admission.name(self.id, address.into(), self.gate.opened.elapsed());
        self.gate.displace(&mut inner, displaced);
        self.gate.show(&inner);
    }

    /// The socket is an edge's: what comes from its address comes first from now on.
    pub fn welcomed(&self, edge: &str) {
        let mut inner = self.gate.lock();
        if let Some(address) = inner.admission.address_of(self.id) {
            inner.admission.welcomed(address, edge);
        }
    }

    /// Whoever calls has proven an edge's key.
    pub fn proven(&self) {
        self.gate.lock().admission.proven(self.id);
    }

    /// Waits for a turn to compute a TLS handshake.
    pub async fn turn(&self) -> Computing<'_> {
        loop {
            let woken = self.gate.turn.notified();
            {
                let mut inner = self.gate.lock();
                let turn = inner.admission.ask_to_compute(self.id, self.gate.opened.elapsed());
                if let Turn::Go(displaced) = turn {
                    self.gate.displace(&mut inner, displaced);
                    self.gate.show(&inner);
                    return Computing(self);
                }
            }
            // Woken or not, after the grace an idle one may have to go.
            _ = tokio::time::timeout(COMPUTING_GRACE, woken).await;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        inner.admission.leave(self.id);
        inner.displace.remove(&self.id);
        self.gate.show(&inner);
        drop(inner);
        self.gate.turn.notify_waiters();
    }
}

impl Drop for Computing<'_> {
    fn drop(&mut self) {
        let gate = &self.0.gate;
        let mut inner = gate.lock();
        inner.admission.computed(self.0.id);
        gate.show(&inner);
        drop(inner);
        gate.turn.notify_waiters();
    }
}
