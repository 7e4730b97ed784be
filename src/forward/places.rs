//! How many connections a forward or a target has open, and how fast new ones come: a place for each, given back on
//! drop. Reads the clock; decides by `rate` and a count.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::rate::Rate;
use super::reason::Reason;
use crate::policy::ForwardLimits;

/// The places of one forward or target.
#[derive(Debug)]
pub struct Places {
    taken: Mutex<Taken>,
    born: Instant,
}

#[derive(Debug)]
struct Taken {
    limits: ForwardLimits,
    open: u32,
    rate: Option<Rate>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Places {
    /// All of them free.
    pub fn new(limits: ForwardLimits) -> Arc<Self> {
        let taken = Taken { limits, open: 0, rate: limits.rate.map(Rate::new) };
        Arc::new(Self { taken: Mutex::new(taken), born: Instant::now() })
    }

    /// Other bounds hold from now on. Where more are open than they let, these stay, and no new one comes before
    /// enough of them have ended.
    pub fn bound(&self, limits: ForwardLimits) {
        let mut taken = self.lock();
        if taken.limits.rate != limits.rate {
            taken.rate = limits.rate.map(Rate::new);
        }
        taken.limits = limits;
    }

    /// Whether no connection has one.
    pub fn is_unused(&self) -> bool {
        self.lock().open == 0
    }

    /// A place for a new connection. One beyond the open ones takes nothing of the rate.
    pub fn take(self: &Arc<Self>) -> Result<Place, Reason> {
        let mut taken = self.lock();
        if taken.open >= taken.limits.connections {
            return Err(Reason::TooManyConnections);
        }
        if taken.rate.as_mut().is_some_and(|rate| !rate.take(self.born.elapsed())) {
            return Err(Reason::RateLimited);
        }
        taken.open += 1;
        Ok(Place(self.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // A count and bounds: a panicking writer cannot leave half of them.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_again_when_its_connection_is_gone() {
        let places = Places::new(ForwardLimits { connections: 2, rate: Some(3) });
        let first = places.take().unwrap();
        let _second = places.take().unwrap();
        assert_eq!(places.take().unwrap_err(), Reason::TooManyConnections);
        drop(first);
        let third = places.take().unwrap();
        drop(third);
        assert_eq!(places.take().unwrap_err(), Reason::RateLimited);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(places.take().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn narrower_bounds_count_what_is_open_already() {
        let bounds = |connections| ForwardLimits { connections, rate: None };
        let places = Places::new(bounds(5));
        let mut open: Vec<Place> = (0..5).map(|_| places.take().unwrap()).collect();
        for connections in (1..5).rev() {
            places.bound(bounds(connections));
            assert_eq!(places.take().unwrap_err(), Reason::TooManyConnections);
        }
        open.truncate(1);
        assert_eq!(places.take().unwrap_err(), Reason::TooManyConnections);
        open.clear();
        assert!(places.is_unused() && places.take().is_ok());
        // A rate that stays as it is does not begin anew.
        let rated = |connections| ForwardLimits { connections, rate: Some(1) };
        places.bound(rated(5));
        open.push(places.take().unwrap());
        places.bound(rated(9));
        assert_eq!(places.take().unwrap_err(), Reason::RateLimited);
    }
}
