//! Forwards, and what a policy says about them, checked.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::routes::{Sites, route_name};
use super::text::{self, Found};
use super::{Checker, site_name};
use crate::config::field::{Field, Text};
use crate::config::problem::{Place, Refusal};
use crate::config::raw::{RawAllowed, RawAllowedTarget, RawForward};
use crate::config::{Forward, Route, Tunnel};
use crate::policy::{CONNECTIONS_DEFAULT, CONNECTIONS_MAX, FORWARDS_MAX, ForwardLimits, Target, TargetRules};

/// Addresses of this site that are taken by something else.
pub(super) struct Taken(pub(super) Vec<(&'static str, SocketAddr)>);

impl Checker<'_> {
    pub(super) fn forwards(
        &mut self,
        items: Vec<Field<RawForward>>,
        sites: &Sites<'_>,
        taken: &Taken,
        place: &Place,
    ) -> Vec<Forward> {
        let mut forwards: Vec<Forward> = Vec::new();
        if items.len() > FORWARDS_MAX {
            let refusal =
                Refusal::new(format!("{} forwards", items.len()), format!("keep to {FORWARDS_MAX}"));
            self.refuse(place, refusal);
        }
        for (index, item) in items.into_iter().enumerate() {
            let place = place.item(index);
            let Some(raw) = self.required(item, &place) else {
                continue;
            };
            let Some(forward) = self.forward(raw, sites, &place) else {
                continue;
            };
            if forwards.iter().any(|other| other.name == forward.name) {
                let refusal =
                    Refusal::new(format!("a second forward `{}`", forward.name), "rename one of them");
                self.refuse(&place.key("name"), refusal);
            }
            if sites.own == Some(forward.from.as_str()) {
                self.free(&forward, &forwards, taken, &place.key("listen"));
            }
            forwards.push(forward);
        }
        forwards
    }

    fn forward(&mut self, raw: RawForward, sites: &Sites<'_>, place: &Place) -> Option<Forward> {
        self.unknown::<RawForward>(raw.unknown, place);
        let name = self.required_text(raw.name, &place.key("name"), |found| route_name(found, "forward"));
        let from = self.required_text(raw.from, &place.key("from"), site_name);
        let listen = self.required_text(raw.listen, &place.key("listen"), listen);
        let to = self.required_text(raw.to, &place.key("to"), site_name);
        let target = self.required_text(raw.target, &place.key("target"), target);
        let limits = self.forward_limits(raw.max_connections, raw.rate, place);
        // Whatever else is wrong with it.
        if let (Some(from), Some(to)) = (&from, &to) {
            self.ends("forward", (from, to), sites, place);
        }
        Some(Forward { name: name?, from: from?, listen: listen?, to: to?, target: target?, limits })
    }

    fn forward_limits(
        &mut self,
        max_connections: Field<u32>,
        rate: Field<u32>,
        place: &Place,
    ) -> ForwardLimits {
        let is_limited = !matches!(rate, Field::Missing);
        let range = 1..=CONNECTIONS_MAX;
        let connections =
            self.number(max_connections, &place.key("max_connections"), range, CONNECTIONS_DEFAULT);
        let rate = self.number(rate, &place.key("rate"), 1..=RATE_MAX, 1);
        ForwardLimits { connections, rate: is_limited.then_some(rate) }
    }

    /// Two listeners cannot have one address.
    fn free(&mut self, forward: &Forward, others: &[Forward], taken: &Taken, place: &Place) {
        let other = others.iter().find(|other| other.from == forward.from && other.listen == forward.listen);
        let key = taken.0.iter().find(|(_, address)| *address == forward.listen).map(|(key, _)| *key);
        let told = match (other, key) {
            (Some(other), _) => format!("forward `{}` listens there", other.name),
            (None, Some(key)) => format!("it is {key}"),
            (None, None) => return,
        };
        self.refuse(place, Refusal::new(told, "give it another port"));
    }

    /// An edge has one hub.
    pub(super) fn forwards_hub(&mut self, forwards: &[Forward], routes: &[Route], sites: &Sites<'_>) {
        if !matches!(sites.tunnel, Some(Tunnel::Edge(_))) {
            return;
        }
        let peer = |from: &str, to: &str| {
            let away = Some(to) == sites.own;
            if away { from.to_owned() } else { to.to_owned() }
        };
        let of_routes = routes.iter().map(|route| peer(&route.from, &route.to));
        let of_forwards = forwards.iter().map(|forward| peer(&forward.from, &forward.to));
        let Some(hub) = of_routes.chain(of_forwards.clone()).next() else {
            return;
        };
        for (index, peer) in of_forwards.enumerate() {
            if peer != hub {
                let refusal = Refusal::new(
                    format!("an edge has one hub, and another route or forward says `{hub}`"),
                    "name the same hub in all of them",
                );
                self.refuse(&Place::default().key("forwards").item(index), refusal);
            }
        }
    }

    /// Targets that the other side may reach here.
    pub(super) fn targets(
        &mut self,
        field: Field<Vec<Field<RawAllowedTarget>>>,
        place: &Place,
    ) -> TargetRules {
        let mut rules = TargetRules::default();
        for (index, item) in self.optional(field, place).unwrap_or_default().into_iter().enumerate() {
            let place = place.item(index);
            let (found, limits) = match self.required(item, &place) {
                Some(RawAllowedTarget::Plain(text)) => {
                    (self.text(Field::Present(text), &place, target), ForwardLimits::default())
                }
                Some(RawAllowedTarget::Limited(raw)) => self.limited(raw, &place),
                None => continue,
            };
            if found.is_some_and(|target| !rules.allow(target, limits)) {
                self.refuse(&place, Refusal::new("this target is listed twice", "remove one of them"));
            }
        }
        if rules.len() > TARGETS_MAX {
            let refusal = Refusal::new(format!("{} targets", rules.len()), format!("keep to {TARGETS_MAX}"));
            self.refuse(place, refusal);
        }
        rules
    }

    fn limited(&mut self, raw: RawAllowed, place: &Place) -> (Option<Target>, ForwardLimits) {
        self.unknown::<RawAllowed>(raw.unknown, place);
        let found = self.required_text(raw.target, &place.key("target"), target);
        (found, self.forward_limits(raw.max_connections, raw.rate, place))
    }

    /// Addresses that the other side may have opened here.
    pub(super) fn listened(&mut self, field: Field<Vec<Field<Text>>>, place: &Place) -> BTreeSet<SocketAddr> {
        let items = self.optional(field, place).unwrap_or_default();
        if items.len() > FORWARDS_MAX {
            let refusal =
                Refusal::new(format!("{} addresses", items.len()), format!("keep to {FORWARDS_MAX}"));
            self.refuse(place, refusal);
        }
        self.texts(items, place, listen).into_iter().collect()
    }
}

fn listen(found: &Found) -> Result<SocketAddr, Refusal> {
    if found.text.to_ascii_lowercase().starts_with("udp://") {
        return Err(Refusal::new("forwards carry tcp only, not udp", "name an address and a tcp port"));
    }
    text::socket_addr(found)
}

fn target(found: &Found) -> Result<Target, Refusal> {
    found.parse(|text| {
        let told =
            |error: crate::policy::TargetError| format!("{}: {error}", crate::config::problem::shown(text));
        Target::parse(text).map_err(|error| Refusal::new(told(error), error.remedy()))
    })
}

/// Targets of one policy.
const TARGETS_MAX: usize = 256;
const RATE_MAX: u32 = 100_000;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use crate::config::check::check;

    #[test]
    fn sites_that_are_not_known_are_told_with_the_wrong_values_beside_them() {
        let edge = json!({ "name": "bank", "keys": [], "policy": { "forward": ["*:1"] } });
        let value = json!({
            "version": 1,
            "site": "riskfuel",
            "pulsar": {"service_url": "pulsar://a:1", "deduplication": "asserted"},
            "tunnel": {"listen": "127.0.0.1:1", "identity": "keys", "edges": [edge]},
            "routes": [{"name": "r", "from": "bnak", "to": "riskfuel", "topics": ["datagen-["]}],
            "forwards": [
                {"name": "f", "from": "riskfuel", "listen": "127.0.0.1:2", "to": "bnak", "target": "127.0.0.1"},
            ]
        });
        let problems = check(value, Path::new(""), &|_| None).unwrap_err();
        let places: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(
            places,
            [
                "tunnel.edges[0].policy.forward[0]",
                "routes[0].topics[0]",
                "routes[0].from",
                "forwards[0].target",
                "forwards[0].to"
            ]
        );
    }

    #[test]
    fn an_edge_without_a_right_name_is_one_mistake_and_not_one_of_each_route_to_it() {
        let nameless = [json!({"name": "ba nk", "keys": []}), json!({"keys": []}), json!("bank")];
        for (edge, place) in nameless.into_iter().zip([".name", ".name", ""]) {
            let value = json!({
                "version": 1,
                "site": "riskfuel",
                "pulsar": {"service_url": "pulsar://a:1", "deduplication": "asserted"},
                "tunnel": {"listen": "127.0.0.1:1", "identity": "keys", "edges": [edge]},
                "routes": [{"name": "r", "from": "bank", "to": "riskfuel", "topics": ["t"]}],
                "forwards": [
                    {"name": "f", "from": "riskfuel", "listen": "127.0.0.1:2", "to": "bank", "target": "127.0.0.1:3"},
                ]
            });
            let problems = check(value, Path::new(""), &|_| None).unwrap_err();
            let places: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
            assert_eq!(places, [format!("tunnel.edges[0]{place}")], "{problems:?}");
        }
    }

    #[test]
    fn a_site_that_only_forwards_ports_needs_no_cluster() {
        let forward = |name: &str, to: &str| {
            let listen = format!("127.0.0.1:{}", 7000 + name.len());
            json!({"name": name, "from": "bank", "listen": listen, "to": to, "target": "kube:443"})
        };
        let site = |forwards: Value| {
            let value = json!({
                "version": 1,
                "site": "bank",
                "tunnel": {"connect": ["tls://hub:8001"], "token_file": "token"},
                "policy": {"forward": ["127.0.0.1:8888", {"target": "KUBE:443", "rate": 3}], "listen": ["[::1]:22"]},
                "forwards": forwards
            });
            check(value, Path::new(""), &|_| None)
        };
        let config = site(json!([forward("a", "riskfuel")])).unwrap();
        assert!(config.pulsar.is_none());
        let allowed: Vec<_> = config.policy.forward.iter().map(|(target, _)| target.to_string()).collect();
        assert_eq!(allowed, ["127.0.0.1:8888", "kube:443"]);
        assert_eq!(config.forwards[0].limits.connections, 128);
        let mixed = json!([forward("a", "riskfuel"), forward("bb", "mint"), forward("a", "riskfuel")]);
        let problems: Vec<_> = site(mixed).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "forwards[2].name: a second forward `a`; rename one of them",
                "forwards[2].listen: forward `a` listens there; give it another port",
                "forwards[1]: an edge has one hub, and another route or forward says `riskfuel`; name the same hub in all of them",
            ]
        );
    }
}
