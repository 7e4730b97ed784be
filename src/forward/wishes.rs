//! What one peer wants opened here, as each of its links says, and what that is together. Decides; opens nothing.

use super::rules::ForwardSpec;

/// The wishes of one peer. Bounded by its links and what one of them may declare.
#[derive(Debug, Default)]
pub struct Wishes {
    /// By link, the one that spoke last at the end.
    of_links: Vec<(u64, Vec<ForwardSpec>)>,
    /// What was wanted when the last link went: its addresses stay ours until the peer is back and says otherwise.
    kept: Vec<ForwardSpec>,
}

impl Wishes {
    /// A link says what it wants, in place of what it said before.
    pub fn declare(&mut self, link: u64, wanted: Vec<ForwardSpec>) {
        self.of_links.retain(|(other, _)| *other != link);
        self.of_links.push((link, wanted));
        self.kept.clear();
    }

    /// A link is gone.
    pub fn forget(&mut self, link: u64) {
        let before = self.all();
        self.of_links.retain(|(other, _)| *other != link);
        if self.of_links.is_empty() {
            self.kept = before;
        }
    }

    /// All of them. Where two want one name or one address, who spoke last has it.
    pub fn all(&self) -> Vec<ForwardSpec> {
        let newest_first = self.of_links.iter().rev().flat_map(|(_, wanted)| wanted);
        let mut all: Vec<ForwardSpec> = Vec::new();
        for spec in newest_first.chain(&self.kept) {
            if all.iter().all(|other| other.name != spec.name && other.listen != spec.listen) {
                all.push(spec.clone());
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ForwardLimits, Target};

    fn spec(name: &str, port: u16) -> ForwardSpec {
        ForwardSpec {
            name: name.into(),
            from: "bank".into(),
            listen: ([127, 0, 0, 1], port).into(),
            to: "riskfuel".into(),
            target: Target::parse("git:22").unwrap(),
            limits: ForwardLimits::default(),
        }
    }

    #[test]
    fn what_any_link_wants_is_wanted_until_that_link_is_gone() {
        let mut wishes = Wishes::default();
        wishes.declare(1, vec![spec("a", 1), spec("b", 2)]);
        wishes.declare(2, vec![spec("b", 2), spec("c", 3)]);
        assert_eq!(wishes.all(), [spec("b", 2), spec("c", 3), spec("a", 1)]);
        wishes.forget(1);
        assert_eq!(wishes.all(), [spec("b", 2), spec("c", 3)]);
        wishes.declare(2, Vec::new());
        assert_eq!(wishes.all(), []);
    }

    #[test]
    fn the_last_links_wishes_are_kept_until_the_peer_says_otherwise() {
        let mut wishes = Wishes::default();
        wishes.declare(1, vec![spec("a", 1)]);
        wishes.forget(1);
        wishes.forget(1);
        assert_eq!(wishes.all(), [spec("a", 1)]);
        wishes.declare(2, Vec::new());
        assert_eq!(wishes.all(), []);
    }

    #[test]
    fn one_name_and_one_address_are_theirs_who_spoke_last() {
        let mut wishes = Wishes::default();
        wishes.declare(1, vec![spec("a", 1), spec("b", 2)]);
        wishes.declare(2, vec![spec("a", 9), spec("z", 2)]);
        assert_eq!(wishes.all(), [spec("a", 9), spec("z", 2)]);
        wishes.declare(1, vec![spec("a", 1)]);
        assert_eq!(wishes.all(), [spec("a", 1), spec("z", 2)]);
    }
}
