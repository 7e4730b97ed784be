//! A link's byte budget in use: whoever sends waits here for its turn and says what it sent. One for all lanes of a
//! link and one direction; the narrower of both sides' words holds, also when either changes. Sends nothing.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
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
    /// This side's word, and the other's; 0: none.
    ours: watch::Sender<u32>,
    theirs: AtomicU32,
    /// What holds; 0: none.
    mbit_s: AtomicU32,
    bucket: Mutex<Bucket>,
    /// Within a class, first come, first served.
    turns: [tokio::sync::Mutex<()>; CLASSES.len()],
}

impl Budget {
    /// So many Mbit/s (10^6 bits), by this side's word alone; 0 is none.
    pub fn new(mbit_s: u32) -> Self {
        Self::between(mbit_s, 0)
    }

    /// What both sides allow.
    pub fn between(ours: u32, theirs: u32) -> Self {
        let mbit_s = narrower(ours, theirs);
        let inner = Inner {
            born: Instant::now(),
            ours: watch::Sender::new(ours),
            theirs: AtomicU32::new(theirs),
            mbit_s: AtomicU32::new(mbit_s),
            bucket: Mutex::new(Bucket::new(bytes_per_second(mbit_s))),
            turns: Default::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What holds, in Mbit/s; 0 is no budget.
    pub fn mbit_s(&self) -> u32 {
        self.inner.mbit_s.load(Ordering::Relaxed)
    }

    /// Another word of this side, from now on.
    pub fn set(&self, ours: u32) {
        if self.inner.ours.send_if_modified(|now| std::mem::replace(now, ours) != ours) {
            self.inner.follow();
        }
    }

    /// The other side's word, from now on.
    pub fn hear(&self, theirs: u32) {
        if self.inner.theirs.swap(theirs, Ordering::Relaxed) != theirs {
            self.inner.follow();
        }
    }

    /// This side's word, as it changes from now on: the other side is to hear it.
    pub fn words(&self) -> watch::Receiver<u32> {
        self.inner.ours.subscribe()
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
    /// Whoever comes last has seen both words.
    fn follow(&self) {
        let mut bucket = self.lock();
        let holds = narrower(*self.ours.borrow(), self.theirs.load(Ordering::Relaxed));
        if self.mbit_s.swap(holds, Ordering::Relaxed) != holds {
            bucket.set_rate(bytes_per_second(holds), self.born.elapsed());
        }
    }

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

    #[tokio::test]
    async fn either_sides_other_word_holds_at_once_and_only_ours_is_to_be_told() {
        let budget = Budget::between(100, 50);
        let words = budget.words();
        let mut held = vec![budget.mbit_s()];
        for theirs in [20, 0, 70] {
            budget.hear(theirs);
            held.push(budget.mbit_s());
        }
        assert_eq!((held, words.has_changed().unwrap()), (vec![50, 20, 100, 70], false));
        budget.set(100);
        assert!(!words.has_changed().unwrap(), "as it was");
        budget.set(30);
        assert_eq!((budget.mbit_s(), *words.borrow(), words.has_changed().unwrap()), (30, 30, true));
    }

    #[test]
    fn the_narrower_word_holds_and_none_is_no_bound() {
        assert_eq!([narrower(0, 0), narrower(5, 0), narrower(0, 7), narrower(5, 7)], [0, 5, 7, 5]);
    }
}
