//! The edge's book of the hub's processes: one link to each, and a bound on them all. Holds no socket, and
//! believes nothing that the hub says of itself: whoever enters a link or reserves a place cancels its token.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::handshake::Instance;

/// The processes to which there are links, or soon will be.
#[derive(Debug, Default)]
pub struct HubProcesses {
    rows: BTreeMap<Instance, Place>,
}

/// What a place lives by.
#[derive(Debug)]
struct Place {
    ended: CancellationToken,
    /// The link before it, until it has all its lanes.
    before: Option<CancellationToken>,
}

impl From<CancellationToken> for Place {
    fn from(ended: CancellationToken) -> Self {
        Self { ended, before: None }
    }
}

impl HubProcesses {
    /// A place for a link to a process that has none, so that two lanes that land there make one link; `None`
    /// when it has one, or there are too many. Until [`Self::enter`] the place lives as long as the token.
    pub fn reserve(&mut self, process: Instance) -> Option<CancellationToken> {
        self.sweep();
        if self.rows.contains_key(&process) || self.rows.len() >= PROCESSES_MAX {
            return None;
        }
        let reserved = CancellationToken::new();
        self.rows.insert(process, reserved.clone().into());
        Some(reserved)
    }

    /// Enters a link that lives until `ended`. An older one to the same process ends, as it does there.
    pub fn enter(&mut self, process: Instance, ended: CancellationToken) {
        if let Some(older) = self.rows.insert(process, ended.into()) {
            older.ended.cancel();
            older.before.iter().for_each(CancellationToken::cancel);
        }
    }

    /// Enters a link that is to take the place of one to the same process: if it ends before [`Self::settle`], the place
    /// is that one's as before.
    pub fn succeed(&mut self, process: Instance, ended: CancellationToken) {
        self.sweep();
        let before = self.rows.remove(&process).map(|place| place.ended);
        self.rows.insert(process, Place { ended, before });
    }

    /// The link that was entered last has taken the place of the one before, which ends in its own time.
    pub fn settle(&mut self, process: Instance) {
        if let Some(place) = self.rows.get_mut(&process) {
            place.before = None;
        }
    }

    /// Whether there is any link, or soon will be.
    pub fn any(&mut self) -> bool {
        self.sweep();
        !self.rows.is_empty()
    }

    fn sweep(&mut self) {
        self.rows.retain(|_, place| {
            if place.ended.is_cancelled()
                && let Some(before) = place.before.take()
            {
                place.ended = before;
            }
            !place.ended.is_cancelled()
        });
    }
}

/// Processes behind one load balancer.
const PROCESSES_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_place_until_its_token_is_cancelled() {
        let mut processes = HubProcesses::default();
        let reserved = processes.reserve([1; 16]).unwrap();
        assert!(processes.reserve([1; 16]).is_none() && processes.any());
        reserved.cancel();
        assert!(!processes.any());
        assert!(processes.reserve([1; 16]).is_some());
    }

    #[test]
    fn a_link_takes_the_place_that_was_reserved_and_ends_an_older_one() {
        let mut processes = HubProcesses::default();
        let reserved = processes.reserve([1; 16]).unwrap();
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        processes.enter([1; 16], first.clone());
        reserved.cancel();
        assert!(processes.any(), "the link stays when its reservation goes");
        processes.enter([1; 16], second.clone());
        assert!(first.is_cancelled() && !second.is_cancelled());
        second.cancel();
        assert!(!processes.any());
    }

    #[test]
    fn a_link_that_ends_before_it_has_taken_over_gives_the_place_back() {
        let mut processes = HubProcesses::default();
        let tokens: Vec<_> = (0..4).map(|_| CancellationToken::new()).collect();
        let [first, cut, second, third] = &tokens[..] else { unreachable!() };
        processes.enter([1; 16], first.clone());
        processes.succeed([1; 16], cut.clone());
        cut.cancel();
        assert!(processes.any() && processes.reserve([1; 16]).is_none(), "the first one lives");
        processes.succeed([1; 16], second.clone());
        processes.settle([1; 16]);
        assert!(!first.is_cancelled(), "it ends in its own time");
        second.cancel();
        assert!(!processes.any(), "one that is seen off keeps no place");
        // One that dies while its successor comes.
        processes.enter([1; 16], third.clone());
        let fourth = CancellationToken::new();
        processes.succeed([1; 16], fourth.clone());
        third.cancel();
        assert!(processes.any());
        fourth.cancel();
        assert!(!processes.any());
    }

    #[test]
    fn a_hub_with_a_new_name_for_every_lane_gets_a_bounded_number_of_places() {
        let mut processes = HubProcesses::default();
        let places: Vec<_> = (0..=u8::MAX).filter_map(|n| processes.reserve([n; 16])).collect();
        assert_eq!(places.len(), PROCESSES_MAX);
        places[0].cancel();
        assert!(processes.reserve([0; 16]).is_some());
    }
}
