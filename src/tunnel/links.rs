//! The hub's book of links that live: which lane may join which link. Holds no socket; whoever enters a lane
//! tells when it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::handshake::{Asked, Instance, Lane};
use super::link::Link;
use super::refusal::Refusal;

/// All links of one hub process. Bounded by the configured edges times `max_instances`.
#[derive(Debug, Default)]
pub struct Links {
    rows: BTreeMap<u64, Row>,
}

#[derive(Debug)]
struct Row {
    edge: String,
    attempt: u32,
    link: Arc<Link>,
    /// Relay lanes by index: the attempt that holds each, and how to end it.
    relay: BTreeMap<u16, (u32, CancellationToken)>,
}

/// A link that was just made.
#[derive(Debug)]
pub struct Opened {
    /// It.
    pub link: Arc<Link>,
    /// Whether this process of the edge was not here before.
    pub new_instance: bool,
    /// How many processes of this edge have links now.
    pub instances: usize,
}

/// What a new link is made of.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// The authenticated edge.
    pub edge: &'a str,
    /// Its process.
    pub instance: Instance,
    /// The dial's number in that process.
    pub attempt: u32,
    /// How many relay lanes it would like.
    pub relay_lanes: u16,
    /// What both sides know.
    pub features: u64,
    /// How many processes it may have.
    pub max_instances: u32,
    /// What both sides let a link send, Mbit/s; 0: no bound.
    pub budget_mbit_s: u32,
}

impl Links {
    /// Makes a link with this (random) id. An older one of the same process ends: its socket is dead.
    pub fn open(
        &mut self,
        joining: &Joining<'_>,
        id: u64,
        ended: CancellationToken,
    ) -> Result<Opened, Refusal> {
        self.sweep();
        let of_edge = || self.rows.values().filter(|row| row.edge == joining.edge);
        let mut instances: BTreeSet<Instance> = of_edge().map(|row| row.link.instance).collect();
        let same = of_edge().filter(|row| row.link.instance == joining.instance);
        let (older, newer): (Vec<&Row>, Vec<&Row>) = same.partition(|row| row.attempt < joining.attempt);
        if !newer.is_empty() {
            return Err(Refusal::Superseded);
        }
        let new_instance = instances.insert(joining.instance);
        if instances.len() > joining.max_instances as usize {
            return Err(Refusal::TooManyInstances);
        }
        for row in older {
            row.link.ended.cancel();
        }
        let link = Arc::new(Link {
            id,
            peer: joining.edge.to_owned(),
            instance: joining.instance,
            relay_lanes: joining.relay_lanes.min(RELAY_LANES_MAX),
            features: joining.features,
            budget: Budget::new(joining.budget_mbit_s),
            ended,
        });
        let row = Row {
            edge: joining.edge.to_owned(),
            attempt: joining.attempt,
            link: link.clone(),
            relay: BTreeMap::new(),
        };
        self.rows.insert(id, row);
        self.sweep();
        Ok(Opened { link, new_instance, instances: instances.len() })
    }

    /// Enters a relay lane of a link that lives here, is of the same edge and process, and has that index.
    /// The lane that held the index ends, when this one is newer.
    pub fn attach(
        &mut self,
        edge: &str,
        asked: &Asked,
        link: u64,
    ) -> Result<(Arc<Link>, CancellationToken), Refusal> {
        self.sweep();
        let row = self.rows.get_mut(&link).ok_or(Refusal::NoSuchLink)?;
        // Whose link it is must not be told to others: the answer is the same as for one that never was.
        if row.edge != edge || row.link.instance != asked.instance {
            return Err(Refusal::NoSuchLink);
        }
        let index = asked.lane.index();
        if index >= row.link.relay_lanes || matches!(asked.lane, Lane::Control { .. }) {
            return Err(Refusal::LaneRefused);
        }
        if let Some((attempt, older)) = row.relay.get(&index) {
            if *attempt >= asked.attempt {
                return Err(Refusal::Superseded);
            }
            older.cancel();
        }
        let ended = row.link.ended.child_token();
        row.relay.insert(index, (asked.attempt, ended.clone()));
        Ok((row.link.clone(), ended))
    }

    /// How many links an edge has.
    pub fn count_of(&mut self, edge: &str) -> usize {
        self.sweep();
        self.rows.values().filter(|row| row.edge == edge).count()
    }

    /// Forgets links that ended.
    pub fn sweep(&mut self) {
        self.rows.retain(|_, row| !row.link.ended.is_cancelled());
    }
}

/// Most relay lanes of one link.
pub const RELAY_LANES_MAX: u16 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Joining<'static> = Joining {
        edge: "bank",
        instance: [1; 16],
        attempt: 1,
        relay_lanes: 2,
        features: 0,
        max_instances: 2,
        budget_mbit_s: 0,
    };

    fn open(links: &mut Links, joining: Joining<'_>, id: u64) -> Result<Opened, Refusal> {
        links.open(&joining, id, CancellationToken::new())
    }

    fn relay(instance: Instance, attempt: u32, link: u64, index: u16) -> Asked {
        Asked {
            version: 1,
            features: 0,
            instance,
            attempt,
            lane: Lane::Relay { link, index },
            time_ms: 0,
            budget_mbit_s: 0,
        }
    }

    #[test]
    fn a_lane_joins_only_a_link_of_its_own_edge_and_process() {
        let mut links = Links::default();
        open(&mut links, ONE, 10).unwrap();
        let mut attach = |edge: &str, instance, link| {
            let asked = relay(instance, 2, link, 0);
            links.attach(edge, &asked, link).map(|(link, _)| link.id)
        };
        assert_eq!(attach("other", [1; 16], 10), Err(Refusal::NoSuchLink));
        assert_eq!(attach("bank", [2; 16], 10), Err(Refusal::NoSuchLink));
        assert_eq!(attach("bank", [1; 16], 11), Err(Refusal::NoSuchLink));
        assert_eq!(attach("bank", [1; 16], 10), Ok(10));
    }

    #[test]
    fn a_higher_attempt_replaces_the_older_lane_and_a_lower_one_is_refused() {
        let mut links = Links::default();
        open(&mut links, ONE, 10).unwrap();
        let (_, first) = links.attach("bank", &relay([1; 16], 5, 10, 0), 10).unwrap();
        let stale = links.attach("bank", &relay([1; 16], 4, 10, 0), 10);
        assert_eq!(stale.unwrap_err(), Refusal::Superseded);
        assert!(!first.is_cancelled());
        let (_, second) = links.attach("bank", &relay([1; 16], 6, 10, 0), 10).unwrap();
        assert!(first.is_cancelled() && !second.is_cancelled());
        let beyond = links.attach("bank", &relay([1; 16], 7, 10, 2), 10);
        assert_eq!(beyond.unwrap_err(), Refusal::LaneRefused);
    }

    #[test]
    fn a_process_that_dials_again_replaces_its_own_link_and_its_lanes_end() {
        let mut links = Links::default();
        let old = open(&mut links, ONE, 10).unwrap();
        let (_, lane) = links.attach("bank", &relay([1; 16], 2, 10, 0), 10).unwrap();
        let stale = open(&mut links, ONE, 11);
        assert_eq!(stale.unwrap_err(), Refusal::Superseded);
        let new = open(&mut links, Joining { attempt: 3, ..ONE }, 12).unwrap();
        assert!(old.link.ended.is_cancelled() && lane.is_cancelled());
        assert!(!new.new_instance && new.instances == 1);
        assert_eq!(links.count_of("bank"), 1);
    }

    #[test]
    fn processes_of_one_edge_are_counted_and_dead_ones_are_not() {
        let mut links = Links::default();
        let with = |n: u8| Joining { instance: [n; 16], ..ONE };
        let first = open(&mut links, with(1), 1).unwrap();
        assert!(first.new_instance);
        assert_eq!(open(&mut links, with(2), 2).unwrap().instances, 2);
        assert_eq!(open(&mut links, with(3), 3).unwrap_err(), Refusal::TooManyInstances);
        let elsewhere = Joining { edge: "other", ..with(3) };
        open(&mut links, elsewhere, 4).unwrap();
        first.link.ended.cancel();
        open(&mut links, with(3), 5).unwrap();
    }
}
