//! Healthy means progress: links are up, each route's backlog is empty or its acknowledged position advances, and the
//! addresses of the forwards that this site declares accept connections. A route that waits for its source topic is
//! healthy. Pure.

use std::collections::BTreeSet;

use super::report::{Obstacle, Progress};
use crate::forward::status::ForwardStatus;
use crate::relay::status::{PartitionStatus, State};
use crate::tunnel::status::LinkStatus;

/// A position that has not advanced for so long is a stall. Longer than a reconnect with its backoff and a
/// failover of the subscription, shorter than anybody's patience.
pub const STALL_MS_MAX: u64 = 30_000;

/// What is in the way, if anything.
pub fn judge(
    site: &str,
    peers: &[String],
    links: &[LinkStatus],
    routes: &[PartitionStatus],
    forwards: &[ForwardStatus],
) -> Progress {
    let mut reasons = link_obstacles(peers, links);
    reasons.extend(routes.iter().filter_map(route_obstacle));
    // What others declare is theirs to be told of: nobody makes this site's monitor ring by asking for what it has not.
    let own = forwards.iter().filter(|row| row.declared_by == site);
    reasons.extend(own.filter_map(forward_obstacle));
    Progress { ok: reasons.is_empty(), reasons }
}

/// A peer is linked when one of its links is up: its other processes may come and go.
fn link_obstacles(peers: &[String], links: &[LinkStatus]) -> Vec<Obstacle> {
    let is_up = |link: &LinkStatus| link.state == "up";
    let up: BTreeSet<&str> = links.iter().filter(|link| is_up(link)).map(|link| link.peer.as_str()).collect();
    let mut told = BTreeSet::new();
    let mut obstacles = Vec::new();
    for link in links {
        if up.contains(link.peer.as_str()) || !told.insert(link.peer.as_str()) {
            continue;
        }
        obstacles.push(Obstacle {
            subject: format!("link to {}", link.peer),
            reason: link.reason.clone().unwrap_or_else(|| link.state.clone()),
            remedy: link.remedy.clone(),
        });
    }
    let silent = peers.iter().filter(|peer| !up.contains(peer.as_str()) && !told.contains(peer.as_str()));
    obstacles.extend(silent.map(|peer| Obstacle {
        subject: format!("link to {peer}"),
        reason: "never_linked".into(),
        remedy: Some(format!("start the bridge of {peer} and look at its log")),
    }));
    if obstacles.is_empty() && up.is_empty() {
        obstacles.push(Obstacle {
            subject: "links".into(),
            reason: "no_link".into(),
            remedy: Some("start the other side's bridge and look at both logs".into()),
        });
    }
    obstacles
}

fn route_obstacle(row: &PartitionStatus) -> Option<Obstacle> {
    let stalled = || format!("stalled for {} s", row.stalled_ms / 1000);
    let reason = match row.state {
        State::Stopped => row.reason.clone().unwrap_or_else(|| "stopped".into()),
        State::Waiting if row.reason.as_deref() == Some(SOURCE_MISSING) => return None,
        State::Waiting | State::Running if row.stalled_ms <= STALL_MS_MAX => return None,
        State::Waiting => row.reason.clone().unwrap_or_else(stalled),
        State::Running => stalled(),
    };
    Some(Obstacle {
        subject: format!("route {}, {}", row.route, row.topic),
        reason,
        remedy: row.remedy.clone(),
    })
}

fn forward_obstacle(row: &ForwardStatus) -> Option<Obstacle> {
    let reason = row.reason.as_deref()?;
    // Without a link that is in the way; and what was taken out just now ends.
    if matches!(reason, NO_LINK | TARGET_NOT_ALLOWED) {
        return None;
    }
    let listen = row.listen.as_deref().unwrap_or("an address of the other site");
    Some(Obstacle {
        subject: format!("forward {}, {listen}", row.forward),
        reason: reason.to_owned(),
        remedy: row.remedy.clone(),
    })
}

const NO_LINK: &str = "no_link";
const TARGET_NOT_ALLOWED: &str = "target_not_allowed";
const SOURCE_MISSING: &str = "source_missing";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fixture::{self, link};

    fn route(state: State, reason: Option<&str>, stalled_ms: u64) -> PartitionStatus {
        PartitionStatus { reason: reason.map(str::to_owned), stalled_ms, ..fixture::route("requests", state) }
    }

    fn reasons(peers: &[&str], links: &[LinkStatus], routes: &[PartitionStatus]) -> Vec<String> {
        let peers: Vec<_> = peers.iter().map(ToString::to_string).collect();
        let progress = judge("riskfuel", &peers, links, routes, &[]);
        assert_eq!(progress.ok, progress.reasons.is_empty());
        let tell = |obstacle: Obstacle| format!("{}: {}", obstacle.subject, obstacle.reason);
        progress.reasons.into_iter().map(tell).collect()
    }

    #[test]
    fn a_peer_is_linked_by_any_one_of_its_links() {
        assert!(reasons(&["bank"], &[link("bank", "dialling"), link("bank", "up")], &[]).is_empty());
        assert_eq!(
            reasons(&["bank", "mint"], &[link("bank", "refused"), link("bank", "dialling")], &[]),
            ["link to bank: intercepted", "link to mint: never_linked"]
        );
        assert_eq!(reasons(&[], &[], &[]), ["links: no_link"]);
    }

    #[test]
    fn a_route_is_healthy_while_it_advances_or_waits_for_its_topic() {
        let up = [link("bank", "up")];
        for healthy in [
            route(State::Running, None, 0),
            route(State::Running, None, STALL_MS_MAX),
            route(State::Waiting, Some("source_missing"), 10 * STALL_MS_MAX),
            route(State::Waiting, Some("broker_down"), STALL_MS_MAX),
        ] {
            assert_eq!(reasons(&["bank"], &up, &[healthy]), Vec::<String>::new());
        }
    }

    #[test]
    fn a_forward_that_this_site_declares_and_nobody_can_use_is_in_the_way() {
        for (declared_by, reason, told) in [
            ("riskfuel", None, false),
            ("riskfuel", Some("no_link"), false),
            ("riskfuel", Some("address_in_use"), true),
            ("riskfuel", Some("listen_not_allowed"), true),
            ("bank", Some("address_in_use"), false),
        ] {
            let row = fixture::forward(declared_by, reason);
            let progress = judge("riskfuel", &["bank".to_owned()], &[link("bank", "up")], &[], &[row]);
            let obstacle = reason.map(|reason| Obstacle {
                subject: "forward kube, 127.0.0.1:6443".into(),
                reason: reason.into(),
                remedy: Some("do this".into()),
            });
            let expected: Vec<_> = obstacle.into_iter().filter(|_| told).collect();
            assert_eq!(progress.reasons, expected, "{declared_by} {reason:?}");
        }
    }

    #[test]
    fn a_route_that_stopped_or_stalls_is_told_with_its_reason() {
        let up = [link("bank", "up")];
        for (row, told) in [
            (route(State::Running, None, 45_000), "stalled for 45 s"),
            (route(State::Waiting, Some("broker_down"), 45_000), "broker_down"),
            (route(State::Waiting, None, 45_000), "stalled for 45 s"),
            (route(State::Stopped, Some("poison"), 0), "poison"),
            (route(State::Stopped, Some("source_missing"), 0), "source_missing"),
            (route(State::Stopped, None, 0), "stopped"),
        ] {
            let expected = format!("route requests, persistent://a/b/c: {told}");
            assert_eq!(reasons(&["bank"], &up, &[row]), [expected]);
        }
    }
}
