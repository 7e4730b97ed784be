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
    opened: Instant,
    metrics: TunnelMetrics,
}

struct Inner {
    admission: Admission,
    /// How to end each ticket's socket.
    displace: HashMap<u64, CancellationToken>,
    /// How to wake each ticket that waits for its turn.
    waiting: HashMap<u64, Arc<Notify>>,
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
            inner: Mutex::new(Inner {
                admission: Admission::new(bounds(limits)),
                displace: HashMap::new(),
                waiting: HashMap::new(),
            }),
            opened: Instant::now(),
            metrics,
        })
    }

    /// Other bounds hold from now on, for whoever comes.
    pub fn hold_to(&self, limits: &TunnelLimits) {
        let mut inner = self.lock();
        inner.admission.hold_to(bounds(limits));
        inner.wake_next();
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
        let woken = Arc::new(Notify::new());
        let _waits = Waits { ticket: self };
        self.gate.lock().waiting.insert(self.id, woken.clone());
        loop {
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
            _ = tokio::time::timeout(COMPUTING_GRACE, woken.notified()).await;
        }
    }
}

/// A ticket among those that wait; whoever stops waiting lets the next one look, since it may have been woken itself.
struct Waits<'a> {
    ticket: &'a Ticket,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut inner = self.ticket.gate.lock();
        inner.waiting.remove(&self.ticket.id);
        inner.wake_next();
    }
}

impl Inner {
    /// Wakes whose turn it is, if there is a place: one, not all who wait.
    fn wake_next(&self) {
        if let Some(woken) = self.admission.whose_turn().and_then(|ticket| self.waiting.get(&ticket)) {
            woken.notify_one();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        inner.admission.leave(self.id);
        inner.displace.remove(&self.id);
        inner.wake_next();
        self.gate.show(&inner);
    }
}

impl Drop for Computing<'_> {
    fn drop(&mut self) {
        let gate = &self.0.gate;
        let mut inner = gate.lock();
        inner.admission.computed(self.0.id);
        inner.wake_next();
        gate.show(&inner);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_free_wakes_one_who_waits_and_not_all() {
        let limits = TunnelLimits { handshakes: 256, handshakes_per_address: 256, ..TunnelLimits::default() };
        let gate = Gate::new(&limits, TunnelMetrics::default());
        let places = std::thread::available_parallelism().map_or(1, usize::from) * COMPUTING_PER_CORE;
        let address = Some(IpAddr::from([127, 0, 0, 1]));
        let computing: Vec<Ticket> = (0..places).map(|_| gate.enter(address)).collect();
        let mut held = Vec::new();
        for ticket in &computing {
            held.push(ticket.turn().await);
        }
        const WAITING: usize = 50;
        let (asked, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..WAITING {
            let ticket = gate.enter(address);
            let (asked, done) = (asked.clone(), done.clone());
            tasks.spawn(async move {
                let turn = std::pin::pin!(ticket.turn());
                let mut turn = turn;
                // Every look at its turn is a poll.
                let computing = std::future::poll_fn(|cx| {
                    asked.fetch_add(1, Ordering::Relaxed);
                    turn.as_mut().poll(cx)
                })
                .await;
                done.fetch_add(1, Ordering::Relaxed);
                drop(computing);
            });
        }
        while asked.load(Ordering::Relaxed) < WAITING {
            tokio::task::yield_now().await;
        }
        // Within the grace: each that is done wakes the next one.
        held.truncate(places - 1);
        while done.load(Ordering::Relaxed) < WAITING {
            tokio::task::yield_now().await;
        }
        tasks.join_all().await;
        let looks = asked.load(Ordering::Relaxed);
        assert!(looks <= 4 * WAITING, "{looks} looks of {WAITING}");
        drop(held);
    }
}
