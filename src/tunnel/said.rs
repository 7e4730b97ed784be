//! Remembers what was said about whom, so that a log tells each state once. Bounded: forgets everything
//! rather than grow.

use std::collections::BTreeSet;

/// Reasons already told, by whom they concern.
#[derive(Debug, Default)]
pub struct Said {
    told: BTreeSet<(String, &'static str)>,
}

impl Said {
    /// Whether this is news about `whom`.
    pub fn is_news(&mut self, whom: &str, code: &'static str) -> bool {
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert((whom.to_owned(), code))
    }

    /// Its state changed for good: whatever comes next is news again.
    pub fn forget(&mut self, whom: &str) {
        self.told.retain(|(told, _)| told != whom);
    }
}

/// A flood from many addresses cannot make this grow.
const TOLD_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_news_once_until_it_was_left() {
        let mut said = Said::default();
        assert!(said.is_news("bank", "timeout"));
        assert!(!said.is_news("bank", "timeout"));
        assert!(said.is_news("bank", "version") && said.is_news("other", "timeout"));
        said.forget("bank");
        assert!(said.is_news("bank", "timeout") && !said.is_news("other", "timeout"));
    }

    #[test]
    fn a_flood_of_strangers_is_forgotten_not_kept() {
        let mut said = Said::default();
        for n in 0..10_000 {
            said.is_news(&n.to_string(), "not_a_bridge");
        }
        assert!(said.told.len() <= TOLD_MAX);
    }
}
