//! Memory shared by many partitions: each takes a part of what is left, and gives it back. Holds no memory itself.

use std::sync::{Arc, Mutex, PoisonError};

/// A number of bytes to share out. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    left: Arc<Mutex<usize>>,
    total: usize,
    share_min: usize,
    share_max: usize,
}

impl Budget {
    /// `total` bytes in shares of `share_min` to `share_max`. The smallest share is given even when nothing is
    /// left, so that no partition stands still: the real bound is `total` + partitions × `share_min`.
    pub fn new(total: usize, share_min: usize, share_max: usize) -> Self {
        Self { left: Arc::new(Mutex::new(total)), total, share_min, share_max }
    }

    /// A quarter of what is left, within the bounds of a share.
    pub fn take(&self) -> Share {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = (*left / 4).clamp(self.share_min, self.share_max);
        let charged = bytes.min(*left);
        *left -= charged;
        Share { budget: self.clone(), bytes, charged }
    }

    /// The whole.
    pub fn total(&self) -> usize {
        self.total
    }

    /// What is taken.
    pub fn taken(&self) -> usize {
        self.total - *self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of a budget, given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    bytes: usize,
    charged: usize,
}

impl Share {
    /// How many bytes may be held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.budget.left.lock().unwrap_or_else(PoisonError::into_inner) += self.charged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_with_their_number_and_come_back() {
        let budget = Budget::new(1000, 10, 100);
        let shares: Vec<Share> = (0..200).map(|_| budget.take()).collect();
        assert_eq!(shares[0].bytes(), 100);
        assert!(shares.iter().all(|share| (10..=100).contains(&share.bytes())));
        assert!(shares.iter().map(Share::bytes).sum::<usize>() <= 1000 + 200 * 10);
        assert_eq!(budget.taken(), 1000);
        drop(shares);
        assert_eq!((budget.taken(), budget.take().bytes()), (0, 100));
    }
}
