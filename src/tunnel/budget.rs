//! A link's byte budget in use: whoever sends waits here for its turn and says what it sent. One for all lanes of a
//! link and one direction; the narrower of both sides' words holds. Sends nothing.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, sleep};

use super::bucket::{Bucket, CLASSES};

pub use super::bucket::Class;

/// The budget of a link; without one nobody waits. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    born: Instant,
    /// 0: none.
    mbit_s: AtomicU32,
    bucket: Mutex<Bucket>,
    /// Within a class, first come, first served.
    turns: [tokio::sync::Mutex<()>; CLASSES.len()],
}

impl Budget {
    /// So many Mbit/s (10^6 bits); 0 is none.
    pub fn new(mbit_s: u32) -> Self {
        let bucket = Mutex::new(Bucket::new(bytes_per_second(mbit_s)));
        let mbit_s = AtomicU32::new(mbit_s);
        Self { inner: Arc::new(Inner { born: Instant::now(), mbit_s, bucket, turns: Default::default() }) }
    }

    /// What holds, in Mbit/s; 0 is no budget.
    pub fn mbit_s(&self) -> u32 {
        self.inner.mbit_s.load(Ordering::Relaxed)
    }

    /// Another one, from now on.
    pub fn set(&self, mbit_s: u32) {
        self.inner.lock().set_rate(bytes_per_second(mbit_s), self.inner.born.elapsed());
        self.inner.mbit_s.store(mbit_s, Ordering::Relaxed);
    }

    /// Returns when something of this class may be sent. Cancel-safe.
    pub async fn turn(&self, class: Class) {
        if self.mbit_s() == 0 {
            return;
        }
        let inner = &self.inner;
        let _first = inner.turns[class as usize].lock().await;
        let _waits = Waits { inner, class };
        while self.mbit_s() > 0 {
            let asked = inner.lock().ask(class, inner.born.elapsed());
            match asked {
                Ok(()) => return,
                Err(again) => sleep(again).await,
            }
        }
    }

    /// These bytes were sent.
    pub fn sent(&self, bytes: usize) {
        if self.mbit_s() > 0 {
            self.inner.lock().sent(bytes, self.inner.born.elapsed());
        }
    }
}

/// A place among those that wait, given up when dropped.
struct Waits<'a> {
    inner: &'a Inner,
    class: Class,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.inner.lock().gives_up(self.class);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What both sides allow: the lower of two, where 0 is no bound.
pub fn narrower(one: u32, other: u32) -> u32 {
    match (one, other) {
        (0, bound) | (bound, 0) => bound,
        (one, other) => one.min(other),
    }
}

fn bytes_per_second(mbit_s: u32) -> u64 {
    u64::from(mbit_s) * 1_000_000 / 8
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn several_senders_together_keep_to_the_budget() {
        let budget = Budget::new(8);
        let senders = [Class::Requests, Class::Results, Class::Results, Class::Forwards].map(|class| {
            let budget = budget.clone();
            async move {
                let mut sent = 0;
                let until = Instant::now() + Duration::from_secs(10);
                while Instant::now() < until {
                    budget.turn(class).await;
                    budget.sent(16_384);
                    sent += 16_384;
                }
                sent
            }
        });
        let sent: usize = futures::future::join_all(senders).await.into_iter().sum();
        assert!((9_500_000..=10_500_000).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_ceases_to_wait_holds_nobody() {
        let budget = Budget::new(8);
        budget.sent(2_000_000);
        let gone = timeout(Duration::from_millis(100), budget.turn(Class::Requests)).await;
        assert!(gone.is_err());
        let began = Instant::now();
        budget.turn(Class::Forwards).await;
        assert!(began.elapsed() < Duration::from_millis(2100), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_budget_nobody_waits() {
        let budget = Budget::new(0);
        budget.sent(usize::MAX);
        let began = Instant::now();
        budget.turn(Class::Forwards).await;
        assert_eq!((began.elapsed(), budget.mbit_s()), (Duration::ZERO, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_that_is_lifted_lets_go_of_those_that_wait() {
        let budget = Budget::new(8);
        budget.sent(1 << 30);
        let lifted = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            budget.set(0);
        };
        let began = Instant::now();
        tokio::join!(budget.turn(Class::Results), lifted);
        assert!(began.elapsed() < Duration::from_millis(1300), "{:?}", began.elapsed());
    }

    #[test]
    fn the_narrower_word_holds_and_none_is_no_bound() {
        assert_eq!([narrower(0, 0), narrower(5, 0), narrower(0, 7), narrower(5, 7)], [0, 5, 7, 5]);
    }
}
