//! What a session has to be that a peer opens: between these two sites, of a topic that may come in, by a name that
//! may be written here. Decides; nothing of a peer's word reaches a broker before.

use super::context::RouteSpec;
use super::control;
use super::feeders::FED_BY_MAX;
use super::frames::Open;
use super::reason::Reason;
use super::refusal::Refusal;
use super::refused::Refused;
use super::ruling::Ruling;
use crate::pulsar::topic::TopicName;

/// What this site says about it.
pub(super) struct Rules<'a> {
    pub(super) site: &'a str,
    pub(super) ruling: &'a Ruling,
}

impl Rules<'_> {
    /// Who declares a route allows it for itself, and the other side must allow it too: what we declared may be
    /// opened, and of the rest what our policy receives. Gives the topic here, without partition.
    pub(super) fn admit(&self, peer: &str, open: &Open) -> Result<TopicName, Refusal> {
        let topic = TopicName::parse(&open.topic).map_err(|_| refused("it is no topic's name"))?;
        if open.partitions > PARTITIONS_MAX {
            return Err(refused("more partitions than any topic here may have"));
        }
        let destination = destination(open, &topic)?;
        let canonical = topic.to_string() == open.topic && control::is_name(&open.route);
        if open.from != peer || open.to != self.site || !canonical {
            return Err(refused(
                "its names are not those of the two sites, or not written as they should be",
            ));
        }
        if open.fed_by.len() > FED_BY_MAX || !open.fed_by.iter().all(|site| control::is_name(site)) {
            return Err(refused("it names more sites than there may be, or what is no site"));
        }
        // `x-partition-7` of a topic that has no such partition would be an ordinary topic beside it.
        if topic.partition_index().is_some_and(|index| index >= open.partitions)
            || topic.partition_index().is_none() && open.partitions > 0
        {
            return Err(Refusal::of(Reason::PartitionMismatch, "the topic has no such partition"));
        }
        if open.fed_by.iter().any(|site| site == self.site) {
            let detail = format!("the route passes on what comes from {}", open.fed_by.join(", "));
            return Err(Refusal::of(Reason::OnwardRing, &detail));
        }
        let ours =
            |route: &&RouteSpec| route.name == open.route && route.from == open.from && route.to == open.to;
        let declared = self.ruling.declared.iter().find(ours);
        self.admit_quarantine(peer, open, &destination, declared)?;
        let Some(route) = declared else {
            let allowed =
                self.ruling.policies.of(peer).is_some_and(|policy| policy.receive.allows(&destination));
            return if allowed { Ok(destination) } else { Err(refused(NOT_RECEIVED)) };
        };
        if route.generation > open.generation {
            return Err(generation_behind(open.generation, route.generation, "its declaration here says"));
        }
        if !route.carries(&topic) {
            return Err(refused(NOT_DECLARED));
        }
        if route.renaming.destination(&topic.base()) != destination {
            return Err(refused("the route is declared here with another name for the topic"));
        }
        if route.any_partitions != open.any_partitions {
            return Err(refused("the route is declared here with another word about partitions"));
        }
        Ok(destination)
    }

    /// A quarantine topic is one that the peer may write to as to any other, or the one that we declared.
    fn admit_quarantine(
        &self,
        peer: &str,
        open: &Open,
        destination: &TopicName,
        declared: Option<&RouteSpec>,
    ) -> Result<(), Refusal> {
        if Refused::of_pairs(&open.refused).is_none() {
            return Err(refused("what it names as refused is no list of entries"));
        }
        let Some(name) = &open.quarantine else {
            return match open.refused.is_empty() {
                true => Ok(()),
                false => Err(refused("it names refused entries and no quarantine")),
            };
        };
        let topic = TopicName::parse(name).ok().filter(|topic| {
            topic.to_string() == *name && topic.partition_index().is_none() && topic != destination
        });
        let topic = topic.ok_or_else(|| refused("its quarantine is no topic that may be one"))?;
        let allowed = self.ruling.policies.of(peer).is_some_and(|policy| policy.receive.allows(&topic));
        let ours = declared.is_some_and(|route| route.quarantine.as_ref() == Some(&topic));
        if allowed || ours { Ok(()) } else { Err(refused(NO_QUARANTINE)) }
    }
}

/// The topic's name here.
fn destination(open: &Open, source: &TopicName) -> Result<TopicName, Refusal> {
    if source.base().partition_index().is_some() {
        return Err(refused("its topic is a partition of a partition"));
    }
    if open.destination.is_empty() {
        return Ok(source.base());
    }
    let topic =
        TopicName::parse(&open.destination).map_err(|_| refused("its destination is no topic's name"))?;
    if topic.to_string() != open.destination || topic.partition_index().is_some() || topic == source.base() {
        return Err(refused("its destination is not written as it should be"));
    }
    Ok(topic)
}

fn refused(detail: &str) -> Refusal {
    Refusal::of(Reason::RefusedByPolicy, detail)
}

pub(super) fn generation_behind(opened: u32, seen: u32, by: &str) -> Refusal {
    Refusal::of(Reason::GenerationBehind, &format!("this route says {opened}, {by} {seen}"))
}

/// Details that have a remedy of their own.
pub(super) const NOT_RECEIVED: &str = "this site's policy (`receive`) does not name the topic";
pub(super) const NO_QUARANTINE: &str =
    "this site's policy (`receive`) does not name the route's quarantine topic";
pub(super) const NOT_DECLARED: &str = "the route is declared here without the topic";
/// Partitions that a peer may have us create with a topic.
const PARTITIONS_MAX: u32 = 4096;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::policy::{Patterns, Policies, Policy, Renaming, TopicRules};
    use crate::relay::context::Start;

    fn open(topic: &str, destination: &str) -> Open {
        Open {
            number: 1,
            session: 2,
            route: "orders".into(),
            from: "riskfuel".into(),
            to: "bank".into(),
            topic: topic.into(),
            partitions: 0,
            generation: 1,
            destination: destination.into(),
            fed_by: Vec::new(),
            any_partitions: false,
            quarantine: None,
            refused: Vec::new(),
        }
    }

    pub(in crate::relay) fn declared(renaming: Renaming) -> RouteSpec {
        RouteSpec {
            name: "orders".into(),
            from: "riskfuel".into(),
            to: "bank".into(),
            topics: vec![TopicName::parse("a/b/c").unwrap()],
            patterns: Patterns::default(),
            renaming,
            any_partitions: false,
            onward: false,
            generation: 1,
            subscription: "bridge.riskfuel.bank".into(),
            start: Start::Earliest,
            joining: None,
            class: Default::default(),
            quarantine: None,
        }
    }

    fn admitted(declared: &[RouteSpec], receive: &[&str], open: &Open) -> Result<String, Reason> {
        let receive: Vec<String> = receive.iter().map(ToString::to_string).collect();
        let receive = TopicRules::parse(&receive).unwrap();
        let policies = Policies::One(Policy { receive, ..Policy::default() });
        let ruling = Ruling { declared: declared.to_vec(), policies };
        let rules = Rules { site: "bank", ruling: &ruling };
        rules.admit("riskfuel", open).map(|topic| topic.to_string()).map_err(|refusal| refusal.halt.reason)
    }

    const HERE: &str = "persistent://a/b/c";
    const THERE: &str = "persistent://x/y/z";

    #[test]
    fn a_policy_judges_the_name_that_is_written_here() {
        assert_eq!(admitted(&[], &[THERE], &open(HERE, THERE)).unwrap(), THERE);
        assert_eq!(admitted(&[], &[HERE], &open(HERE, "")).unwrap(), HERE);
        assert_eq!(admitted(&[], &[HERE], &open(HERE, THERE)), Err(Reason::RefusedByPolicy));
        assert_eq!(admitted(&[], &[THERE], &open(HERE, "")), Err(Reason::RefusedByPolicy));
    }

    #[test]
    fn a_route_declared_here_has_the_name_that_is_declared_here() {
        let mut renaming = Renaming::default();
        renaming.add("persistent://a/b", "persistent://x/y").unwrap();
        let renamed = [declared(renaming)];
        assert_eq!(admitted(&renamed, &[], &open(HERE, "persistent://x/y/c")).unwrap(), "persistent://x/y/c");
        for other in ["", THERE] {
            assert_eq!(admitted(&renamed, &[HERE, THERE], &open(HERE, other)), Err(Reason::RefusedByPolicy));
        }
        let plain = [declared(Renaming::default())];
        assert_eq!(admitted(&plain, &[THERE], &open(HERE, THERE)), Err(Reason::RefusedByPolicy));
    }

    #[test]
    fn a_route_that_would_bring_back_what_went_out_from_here_is_refused() {
        let fed_by = |sites: &[&str]| {
            let fed_by = sites.iter().map(ToString::to_string).collect();
            admitted(&[], &[HERE], &Open { fed_by, ..open(HERE, "") })
        };
        assert!(fed_by(&["partner", "mint"]).is_ok());
        assert_eq!(fed_by(&["partner", "bank"]), Err(Reason::OnwardRing));
        assert_eq!(fed_by(&["forged\nline"]), Err(Reason::RefusedByPolicy));
        assert_eq!(fed_by(&["x"; FED_BY_MAX + 1]), Err(Reason::RefusedByPolicy));
    }

    #[test]
    fn a_destination_has_one_spelling_and_no_partition() {
        for bad in [
            "x/y/z",
            "z",
            "persistent://x/y/z-partition-1",
            "persistent://x/y/z\nforged",
            HERE,
            "persistent://x",
        ] {
            assert_eq!(admitted(&[], &[".*"; 0], &open(HERE, bad)), Err(Reason::RefusedByPolicy), "{bad}");
            let all = ["persistent://.*"];
            assert_eq!(admitted(&[], &all, &open(HERE, bad)), Err(Reason::RefusedByPolicy), "{bad}");
        }
    }
}
