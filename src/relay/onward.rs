//! What a route passes on of what bridges brought, and what its target is told of where that comes from. Nothing is
//! passed on from a site that the target was not told of; whom that keeps out, the target decides (`opening.rs`).

use std::collections::BTreeSet;

use tokio::sync::watch;

use super::context::{Context, RouteSpec};
use super::feeders::{self, FED_BY_MAX};
use super::hole;
use super::reason::Reason;
use super::session::{Halt, SessionEnd};
use crate::pulsar::entry::Facts;
use crate::pulsar::topic::TopicName;

/// The sites that one session's target was told of.
pub(super) struct Fed {
    told: BTreeSet<String>,
    /// Where it is heard that another begins; none on a route that passes nothing on.
    changed: Option<watch::Receiver<()>>,
}

impl Fed {
    /// Finds out who feeds the topic. `seen` are sites whose entries were read before.
    pub(super) async fn find(
        context: &Context,
        route: &RouteSpec,
        topic: &TopicName,
        seen: &BTreeSet<String>,
    ) -> Result<Self, Halt> {
        if !route.onward {
            return Ok(Self { told: BTreeSet::new(), changed: None });
        }
        // Before it is looked at: what begins meanwhile is heard.
        let changed = Some(context.feeders.watch());
        let mut told = context.feeders.of(&topic.base(), &route.to);
        told.extend(seen.iter().cloned());
        // A ring has two processes at some of its sites: what the other one is told stands at its producers.
        if let Some(rest) = &context.cluster.rest {
            let stats = rest.stats(topic).await.map_err(|error| hole::unanswered(&error))?;
            told.extend(feeders::of_publishers(&stats.unwrap_or_default().publishers, &route.to));
        }
        if told.len() > FED_BY_MAX {
            return Err(Halt::new(Reason::OnwardRing, "more sites feed the topic than may"));
        }
        Ok(Self { told, changed })
    }

    /// As they are told.
    pub(super) fn sites(&self) -> Vec<String> {
        self.told.iter().cloned().collect()
    }

    /// Whether an entry stays here: what a bridge wrote, or on an onward route what came from the target. One from a
    /// site that the target was not told of ends the session.
    pub(super) fn skips<B: AsRef<[u8]>>(
        &self,
        route: &RouteSpec,
        facts: &Facts<B>,
        seen: &mut BTreeSet<String>,
    ) -> Result<bool, SessionEnd> {
        if !route.onward {
            return Ok(facts.written_by_bridge());
        }
        match facts.brought_from() {
            None => Ok(false),
            Some(from) if from == route.to => Ok(true),
            Some(from) if self.told.contains(from) => Ok(false),
            Some(from) => {
                seen.insert(from.to_owned());
                Err(another())
            }
        }
    }

    /// Another site feeds the topic by now: the target has to judge anew. Never, where nothing is passed on.
    pub(super) async fn grown(
        &mut self,
        context: &Context,
        route: &RouteSpec,
        topic: &TopicName,
    ) -> SessionEnd {
        let Some(changed) = &mut self.changed else {
            return std::future::pending().await;
        };
        // The sender lives in the context.
        while changed.changed().await.is_ok() {
            if !context.feeders.of(&topic.base(), &route.to).is_subset(&self.told) {
                break;
            }
        }
        another()
    }
}

fn another() -> SessionEnd {
    let detail = "another site feeds the topic, and the destination has to know";
    SessionEnd::Halted(Halt::new(Reason::Starting, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Patterns, Renaming};
    use crate::relay::context::Start;
    use bytes::Bytes;

    fn route(onward: bool) -> RouteSpec {
        RouteSpec {
            name: "x".into(),
            from: "here".into(),
            to: "there".into(),
            topics: Vec::new(),
            patterns: Patterns::default(),
            renaming: Renaming::default(),
            any_partitions: false,
            onward,
            generation: 1,
            subscription: "x".into(),
            start: Start::Earliest,
            joining: None,
            class: Default::default(),
            quarantine: None,
        }
    }

    #[test]
    fn nothing_is_passed_on_from_a_site_that_the_target_was_not_told_of() {
        let fed = Fed { told: BTreeSet::from(["one".to_owned()]), changed: None };
        let mut seen = BTreeSet::new();
        let mut skips = |onward, name: &'static str| {
            let facts =
                Facts { producer_name: Some(Bytes::from_static(name.as_bytes())), ..Facts::default() };
            fed.skips(&route(onward), &facts, &mut seen).ok()
        };
        for (name, plain, onward) in [
            ("an application", false, Some(false)),
            ("bridge/there/here/t/1", true, Some(true)),
            ("bridge/one/here/t/1", true, Some(false)),
            ("bridge/two/here/t/1", true, None),
        ] {
            assert_eq!((skips(false, name), skips(true, name)), (Some(plain), onward), "{name}");
        }
        assert_eq!(seen, BTreeSet::from(["two".to_owned()]));
    }
}
