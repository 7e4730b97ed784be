//! How many connections a forward or a target has open, and how fast new ones come: a place for each, given back on
//! drop. Reads the clock; decides by `rate` and a count.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::rate::Rate;
use super::reason::Reason;
use crate::policy::ForwardLimits;

/// The places of one forward or target.
#[derive(Debug)]
pub struct Places {
    limits: ForwardLimits,
    open: Arc<Semaphore>,
    rate: Option<Mutex<Rate>>,
    born: Instant,
}

impl Places {
    /// All of them free.
    pub fn new(limits: ForwardLimits) -> Self {
        Self {
            limits,
            open: Arc::new(Semaphore::new(limits.connections as usize)),
            rate: limits.rate.map(|rate| Mutex::new(Rate::new(rate))),
            born: Instant::now(),
        }
    }

    /// The bounds that these have.
    pub fn limits(&self) -> ForwardLimits {
        self.limits
    }

    /// A place for a new connection. One beyond the open ones takes nothing of the rate.
    pub fn take(&self) -> Result<OwnedSemaphorePermit, Reason> {
        let place = self.open.clone().try_acquire_owned().map_err(|_| Reason::TooManyConnections)?;
        if let Some(rate) = &self.rate
            && !rate.lock().unwrap_or_else(PoisonError::into_inner).take(self.born.elapsed())
        {
            return Err(Reason::RateLimited);
        }
        Ok(place)
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
}
