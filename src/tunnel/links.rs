//! The hub's book of links that live: which lane may join which link. Holds no socket; whoever enters a lane
//! tells when it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::handshake::{Asked, Instance, Lane as Asks};
use super::hub_trust::Presented;
use super::link::Link;
use super::refusal::Refusal;
use super::retiring::Retiring;
use super::stream_lanes::{STREAM_LANES_ENTERED_MAX, StreamLanes};
use super::wire::Kind;

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
    /// What its control lane presented.
    presented: Presented,
    /// Its other lanes, by kind and index.
    lanes: BTreeMap<(Kind, u32), Lane>,
    /// The link whose place it takes.
    renews: Option<Arc<Link>>,
    /// Another took its place once: also if that one is gone, no later one ends it for being dead.
    was_renewed: bool,
}

impl Row {
    fn count_of(&self, kind: Kind) -> usize {
        self.lanes.keys().filter(|(one, _)| *one == kind).count()
    }

    /// Whether there is a place for such a lane.
    fn has_room_for(&self, lane: &Asks) -> bool {
        match lane {
            Asks::Control { .. } => false,
            Asks::Relay { index, .. } => *index < self.link.relay_lanes,
            // One whose stream has ended meanwhile is dropped later: that is nobody's fault.
            Asks::Stream { .. } => self.count_of(Kind::Stream) < STREAM_LANES_ENTERED_MAX,
        }
    }

    /// The link whose place it has taken: all its own lanes are up.
    fn has_renewed(&self) -> Option<u64> {
        let has_lanes = self.count_of(Kind::Relay) >= usize::from(self.link.relay_lanes);
        self.renews.as_ref().filter(|_| has_lanes).map(|renewed| renewed.id)
    }
}

/// Who holds a lane's place.
#[derive(Debug)]
struct Lane {
    attempt: u32,
    presented: Presented,
    ended: CancellationToken,
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
    /// What it presented.
    pub presented: &'a Presented,
    /// Its process.
    pub instance: Instance,
    /// The dial's number in that process.
    pub attempt: u32,
    /// The link of that process whose place the new one takes.
    pub renews: Option<u64>,
    /// How many relay lanes it would like.
    pub relay_lanes: u16,
    /// What both sides know.
    pub features: u64,
    /// How many processes it may have.
    pub max_instances: u32,
    /// What this side lets a link send, Mbit/s; 0: no bound.
    pub budget_mbit_s: u32,
    /// The edge's word on it.
    pub asked_mbit_s: u32,
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
        let renewed = match joining.renews {
            Some(id) => {
                let row = self.rows.get(&id).filter(|row| row.edge == joining.edge);
                let row = row.filter(|row| row.link.instance == joining.instance);
                Some(row.ok_or(Refusal::NoSuchLink)?.link.clone())
            }
            None => None,
        };
        let new_instance = instances.insert(joining.instance);
        // A bound that was lowered keeps nobody from renewing who is in.
        if new_instance && instances.len() > joining.max_instances as usize {
            return Err(Refusal::TooManyInstances);
        }
        // One that is renewed ends in its own time, and so do those that retire already, up to a bound.
        let mut ends: Vec<&Row> =
            older.into_iter().filter(|row| Some(row.link.id) != joining.renews).collect();
        ends.sort_by_key(|row| (row.was_renewed, row.attempt));
        let retiring = ends.iter().filter(|row| row.was_renewed).count();
        let kept = ends.split_off(ends.len() - retiring.min(RETIRING_MAX));
        kept.iter().for_each(|row| row.link.retiring.begin());
        ends.iter().for_each(|row| row.link.ended.cancel());
        let link = Arc::new(Link {
            id,
            peer: joining.edge.to_owned(),
            instance: joining.instance,
            relay_lanes: joining.relay_lanes.min(RELAY_LANES_MAX),
            features: joining.features,
            budget: Budget::between(joining.budget_mbit_s, joining.asked_mbit_s),
            retiring: Retiring::default(),
            stream_lanes: StreamLanes::default(),
            ended,
        });
        let row = Row {
            edge: joining.edge.to_owned(),
            attempt: joining.attempt,
            link: link.clone(),
            presented: joining.presented.clone(),
            lanes: BTreeMap::new(),
            renews: renewed,
            was_renewed: false,
        };
        self.rows.entry(id).or_insert(row);
        self.settle(id);
        self.sweep();
        Ok(Opened { link, new_instance, instances: instances.len() })
    }

    /// Enters a lane of a link that lives here, is of the same edge and process, and has a place for it.
    /// The lane that held the place ends, when this one is newer.
    pub fn attach(
        &mut self,
        edge: &str,
        asked: &Asked,
        link: u64,
        presented: &Presented,
    ) -> Result<(Arc<Link>, CancellationToken), Refusal> {
        self.sweep();
        let row = self.rows.get_mut(&link).ok_or(Refusal::NoSuchLink)?;
        // Whose link it is must not be told to others: the answer is the same as for one that never was.
        if row.edge != edge || row.link.instance != asked.instance {
            return Err(Refusal::NoSuchLink);
        }
        let place = (asked.lane.kind(), asked.lane.index());
        row.lanes.retain(|(kind, _), lane| *kind != Kind::Stream || !lane.ended.is_cancelled());
        if !row.has_room_for(&asked.lane) {
            return Err(Refusal::LaneRefused);
        }
        if let Some(older) = row.lanes.get(&place) {
            if older.attempt >= asked.attempt {
                return Err(Refusal::Superseded);
            }
            older.ended.cancel();
        }
        let ended = row.link.ended.child_token();
        let (attempt, presented) = (asked.attempt, presented.clone());
        row.lanes.insert(place, Lane { attempt, presented, ended: ended.clone() });
        let link = row.link.clone();
        self.settle(link.id);
        Ok((link, ended))
    }

    /// Once all its lanes are up, the link whose place it takes retires.
    fn settle(&mut self, id: u64) {
        let Some((row, renewed)) = self.rows.get(&id).and_then(|row| Some((row, row.has_renewed()?))) else {
            return;
        };
        let (edge, instance) = (row.edge.clone(), row.link.instance);
        let of_process = |row: &&mut Row| row.edge == edge && row.link.instance == instance;
        for row in self.rows.values_mut().filter(of_process) {
            row.was_renewed |= row.link.id == renewed;
            // Also one that was taken back when its own successor went.
            if row.was_renewed {
                row.link.retiring.begin();
            }
        }
    }

    /// Ends the links and lanes of whoever is not known any more; gives the edges that lost some.
    pub fn end_unknown(&mut self, is_known: impl Fn(&str, &Presented) -> bool) -> BTreeSet<String> {
        self.sweep();
        let mut lost = BTreeSet::new();
        for row in self.rows.values() {
            let lanes = row.lanes.values().map(|lane| (&lane.presented, &lane.ended));
            for (presented, ended) in lanes.chain([(&row.presented, &row.link.ended)]) {
                if !ended.is_cancelled() && !is_known(&row.edge, presented) {
                    ended.cancel();
                    lost.insert(row.edge.clone());
                }
            }
        }
        self.sweep();
        lost
    }

    /// Holds links that live to what this side lets them send now.
    pub fn hold_to_budgets(&mut self, mbit_s_of: impl Fn(&Presented) -> Option<u32>) {
        for row in self.rows.values() {
            if let Some(mbit_s) = mbit_s_of(&row.presented) {
                row.link.budget.set(mbit_s);
            }
        }
    }

    /// How many links an edge has.
    pub fn count_of(&mut self, edge: &str) -> usize {
        self.sweep();
        self.rows.values().filter(|row| row.edge == edge).count()
    }

    /// Forgets links that ended. One that retires for a link that is gone before it is as good as before: the edge may
    /// not even have heard that the other one was up.
    pub fn sweep(&mut self) {
        let ended: Vec<_> = self.rows.extract_if(.., |_, row| row.link.ended.is_cancelled()).collect();
        let lost = ended.iter().map(|(_, row)| row).filter(|row| !row.was_renewed);
        for renewed in lost.filter_map(|row| row.renews.as_ref()) {
            let is_renewed_by = |row: &Row| row.renews.as_ref().is_some_and(|other| other.id == renewed.id);
            if !self.rows.values().any(is_renewed_by) {
                renewed.retiring.take_back();
            }
        }
    }
}

/// Links of one process that were renewed and still carry connections, beside the one that is renewed next.
const RETIRING_MAX: usize = 2;
/// Most relay lanes of one link.
pub const RELAY_LANES_MAX: u16 = 16;

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    static NOTHING: LazyLock<Presented> = LazyLock::new(|| Presented::from([]));
    static ONE: LazyLock<Joining<'static>> = LazyLock::new(|| Joining {
        edge: "bank",
        presented: &NOTHING,
        instance: [1; 16],
        attempt: 1,
        renews: None,
        relay_lanes: 2,
        features: 0,
        max_instances: 2,
        budget_mbit_s: 0,
        asked_mbit_s: 0,
    });

    fn open(links: &mut Links, joining: Joining<'_>, id: u64) -> Result<Opened, Refusal> {
        links.open(&joining, id, CancellationToken::new())
    }

    fn relay(instance: Instance, attempt: u32, link: u64, index: u16) -> Asked {
        Asked {
            version: 1,
            features: 0,
            instance,
            attempt,
            lane: Asks::Relay { link, index },
            time_ms: 0,
            budget_mbit_s: 0,
        }
    }

    #[test]
    fn a_lane_joins_only_a_link_of_its_own_edge_and_process() {
        let mut links = Links::default();
        open(&mut links, *ONE, 10).unwrap();
        let mut attach = |edge: &str, instance, link| {
            let asked = relay(instance, 2, link, 0);
            links.attach(edge, &asked, link, &NOTHING).map(|(link, _)| link.id)
        };
        assert_eq!(attach("other", [1; 16], 10), Err(Refusal::NoSuchLink));
        assert_eq!(attach("bank", [2; 16], 10), Err(Refusal::NoSuchLink));
        assert_eq!(attach("bank", [1; 16], 11), Err(Refusal::NoSuchLink));
        assert_eq!(attach("bank", [1; 16], 10), Ok(10));
    }

    #[test]
    fn a_higher_attempt_replaces_the_older_lane_and_a_lower_one_is_refused() {
        let mut links = Links::default();
        open(&mut links, *ONE, 10).unwrap();
        let (_, first) = links.attach("bank", &relay([1; 16], 5, 10, 0), 10, &NOTHING).unwrap();
        let stale = links.attach("bank", &relay([1; 16], 4, 10, 0), 10, &NOTHING);
        assert_eq!(stale.unwrap_err(), Refusal::Superseded);
        assert!(!first.is_cancelled());
        let (_, second) = links.attach("bank", &relay([1; 16], 6, 10, 0), 10, &NOTHING).unwrap();
        assert!(first.is_cancelled() && !second.is_cancelled());
        let beyond = links.attach("bank", &relay([1; 16], 7, 10, 2), 10, &NOTHING);
        assert_eq!(beyond.unwrap_err(), Refusal::LaneRefused);
    }

    #[test]
    fn so_many_lanes_of_streams_join_a_link_at_once_and_no_more() {
        let mut links = Links::default();
        open(&mut links, *ONE, 10).unwrap();
        let mut attach = |stream| {
            let asked = Asked { lane: Asks::Stream { link: 10, stream }, ..relay([1; 16], 2, 10, 0) };
            links.attach("bank", &asked, 10, &NOTHING).map(|(_, ended)| ended)
        };
        let most = STREAM_LANES_ENTERED_MAX as u32;
        let ends: Vec<_> = (1..=most).map(|stream| attach(stream).unwrap()).collect();
        assert_eq!(attach(most + 1).unwrap_err(), Refusal::LaneRefused);
        ends[0].cancel();
        attach(most + 1).unwrap();
        assert_eq!(attach(most + 2).unwrap_err(), Refusal::LaneRefused);
    }

    #[test]
    fn a_process_that_dials_again_replaces_its_own_link_and_its_lanes_end() {
        let mut links = Links::default();
        let old = open(&mut links, *ONE, 10).unwrap();
        let (_, lane) = links.attach("bank", &relay([1; 16], 2, 10, 0), 10, &NOTHING).unwrap();
        let stale = open(&mut links, *ONE, 11);
        assert_eq!(stale.unwrap_err(), Refusal::Superseded);
        let new = open(&mut links, Joining { attempt: 3, ..*ONE }, 12).unwrap();
        assert!(old.link.ended.is_cancelled() && lane.is_cancelled());
        assert!(!new.new_instance && new.instances == 1);
        assert_eq!(links.count_of("bank"), 1);
    }

    #[test]
    fn processes_of_one_edge_are_counted_and_dead_ones_are_not() {
        let mut links = Links::default();
        let with = |n: u8| Joining { instance: [n; 16], ..*ONE };
        let first = open(&mut links, with(1), 1).unwrap();
        assert!(first.new_instance);
        assert_eq!(open(&mut links, with(2), 2).unwrap().instances, 2);
        assert_eq!(open(&mut links, with(3), 3).unwrap_err(), Refusal::TooManyInstances);
        let elsewhere = Joining { edge: "other", ..with(3) };
        open(&mut links, elsewhere, 4).unwrap();
        first.link.ended.cancel();
        open(&mut links, with(3), 5).unwrap();
    }

    #[test]
    fn a_bound_that_was_lowered_refuses_new_processes_and_no_renewal() {
        let mut links = Links::default();
        let with = |n: u8| Joining { instance: [n; 16], ..*ONE };
        open(&mut links, with(1), 1).unwrap();
        open(&mut links, with(2), 2).unwrap();
        let lowered = |n| Joining { max_instances: 1, attempt: 2, ..with(n) };
        open(&mut links, Joining { renews: Some(2), ..lowered(2) }, 3).unwrap();
        assert_eq!(open(&mut links, lowered(3), 4).unwrap_err(), Refusal::TooManyInstances);
    }

    #[test]
    fn only_the_lanes_of_an_unknown_key_end_and_the_control_lane_takes_its_link_with_it() {
        let mut links = Links::default();
        let key = |n: u8| Presented::from([vec![n].into()]);
        let (old, new) = (key(1), key(2));
        let one = open(&mut links, Joining { presented: &new, ..*ONE }, 10).unwrap();
        let other = Joining { edge: "other", presented: &old, ..*ONE };
        let other = open(&mut links, other, 11).unwrap();
        let (_, by_old) = links.attach("bank", &relay([1; 16], 2, 10, 0), 10, &old).unwrap();
        let (_, by_new) = links.attach("bank", &relay([1; 16], 3, 10, 1), 10, &new).unwrap();
        let lost = links.end_unknown(|edge, presented| edge != "bank" || *presented == new);
        assert_eq!(lost, BTreeSet::from(["bank".to_owned()]));
        assert!(by_old.is_cancelled() && !by_new.is_cancelled() && !one.link.ended.is_cancelled());
        links.end_unknown(|edge, _| edge != "bank");
        assert!(one.link.ended.is_cancelled() && by_new.is_cancelled() && !other.link.ended.is_cancelled());
    }

    #[test]
    fn a_link_that_is_renewed_lives_on_and_retires_when_all_lanes_of_the_new_one_are_up() {
        let mut links = Links::default();
        let old = open(&mut links, *ONE, 10).unwrap();
        let stranger = Joining { edge: "other", attempt: 2, renews: Some(10), ..*ONE };
        assert_eq!(open(&mut links, stranger, 11).unwrap_err(), Refusal::NoSuchLink);
        let process = Joining { instance: [2; 16], attempt: 2, renews: Some(10), ..*ONE };
        assert_eq!(open(&mut links, process, 11).unwrap_err(), Refusal::NoSuchLink);
        let renewing = Joining { attempt: 2, renews: Some(10), ..*ONE };
        let new = open(&mut links, renewing, 11).unwrap();
        assert!(!new.new_instance && new.instances == 1);
        for index in 0..2 {
            assert!(!old.link.retiring.is_begun() && !old.link.ended.is_cancelled());
            links.attach("bank", &relay([1; 16], 3, 11, index), 11, &NOTHING).unwrap();
        }
        assert!(old.link.retiring.is_begun() && !new.link.retiring.is_begun());
        let third = open(&mut links, Joining { attempt: 5, renews: Some(11), ..*ONE }, 12).unwrap();
        assert!([&old, &new, &third].iter().all(|it| !it.link.ended.is_cancelled()));
    }

    #[test]
    fn a_link_whose_successor_ends_first_serves_as_before_until_another_takes_its_place() {
        let mut links = Links::default();
        let joining = |attempt, renews| Joining { attempt, renews, relay_lanes: 1, ..*ONE };
        let up = |links: &mut Links, attempt, renews, id: u64| {
            let link = open(links, joining(attempt, renews), id).unwrap().link;
            links.attach("bank", &relay([1; 16], attempt, id, 0), id, &NOTHING).unwrap();
            link
        };
        let first = up(&mut links, 1, None, 1);
        let cut = up(&mut links, 2, Some(1), 2);
        assert!(first.retiring.is_begun());
        cut.ended.cancel();
        links.sweep();
        assert!(!first.retiring.is_begun(), "the edge goes on with it");
        let second = up(&mut links, 3, Some(1), 3);
        let third = up(&mut links, 4, Some(3), 4);
        assert!(first.retiring.is_begun() && second.retiring.is_begun());
        // One that was seen off leaves no place to anybody.
        second.ended.cancel();
        links.sweep();
        assert!(first.retiring.is_begun() && !third.retiring.is_begun());
        // What carries connections outlives a link that died, and retires for whoever comes then.
        let fourth = up(&mut links, 5, Some(4), 5);
        fourth.ended.cancel();
        links.sweep();
        assert!(!third.retiring.is_begun());
        let fifth = up(&mut links, 6, None, 6);
        assert!(!third.ended.is_cancelled() && third.retiring.is_begun() && !fifth.retiring.is_begun());
    }

    #[test]
    fn links_that_retire_are_few_and_outlive_one_that_died() {
        let mut links = Links::default();
        let joining = |attempt, renews| Joining { attempt, renews, relay_lanes: 0, ..*ONE };
        let mut all = vec![open(&mut links, joining(1, None), 1).unwrap().link];
        for id in 2..=4 {
            let attempt = u32::try_from(id).unwrap();
            all.push(open(&mut links, joining(attempt, Some(id - 1)), id).unwrap().link);
        }
        let ended = |all: &[Arc<Link>]| all.iter().map(|it| it.ended.is_cancelled()).collect::<Vec<_>>();
        assert_eq!(ended(&all), [false; 4], "{RETIRING_MAX}, the renewed one, and the new one");
        all.push(open(&mut links, joining(5, Some(4)), 5).unwrap().link);
        assert_eq!(ended(&all), [true, false, false, false, false]);
        // A new link that takes nobody's place: the latest one is dead, those that retire may not be.
        all.push(open(&mut links, joining(6, None), 6).unwrap().link);
        assert_eq!(ended(&all), [true, true, false, false, true, false]);
    }
}
