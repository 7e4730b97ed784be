//! The forwards of one site: what it declares, and what each peer may reach or have opened here. Decides; opens nothing.

use std::net::SocketAddr;

use crate::policy::{ForwardLimits, Policies, Target};

/// A forward, declared by either site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardSpec {
    /// Its name, unique among those of its declarer.
    pub name: String,
    /// The site that listens.
    pub from: String,
    /// Where.
    pub listen: SocketAddr,
    /// The site that has the target.
    pub to: String,
    /// What is reached there.
    pub target: Target,
    /// Bounds on its connections.
    pub limits: ForwardLimits,
}

/// What a site declares and allows.
#[derive(Clone, Debug)]
pub struct Rules {
    /// This site.
    pub site: String,
    /// What it declares.
    pub declared: Vec<ForwardSpec>,
    /// What each peer may do here.
    pub policies: Policies,
}

impl Rules {
    /// The forwards that listen here because this site says so.
    pub fn own_listeners(&self) -> impl Iterator<Item = &ForwardSpec> {
        self.declared.iter().filter(|forward| forward.from == self.site)
    }

    /// The forwards that `peer` has to open.
    pub fn declared_to<'a>(&'a self, peer: &'a str) -> impl Iterator<Item = &'a ForwardSpec> {
        self.declared.iter().filter(move |forward| forward.to == self.site && forward.from == peer)
    }

    /// The bounds of what `peer` may reach: allowed by policy, or by a forward that we declared for it.
    pub fn may_reach(&self, peer: &str, target: &Target) -> Option<ForwardLimits> {
        self.by_policy(peer, target).or_else(|| {
            let mut own = self.declared_to(peer).filter(|forward| forward.target == *target);
            own.next().map(|forward| forward.limits)
        })
    }

    /// The bounds of what policy alone lets `peer` reach.
    pub fn by_policy(&self, peer: &str, target: &Target) -> Option<ForwardLimits> {
        self.policies.of(peer).and_then(|policy| policy.forward.of(target))
    }

    /// Whether `peer` may have this opened here.
    pub fn may_listen(&self, peer: &str, listen: SocketAddr) -> bool {
        self.policies.of(peer).is_some_and(|policy| policy.listen.contains(&listen))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::policy::Policy;

    fn target(text: &str) -> Target {
        Target::parse(text).unwrap()
    }

    fn rules() -> Rules {
        let spec = |name: &str, from: &str, to: &str, at: &str| ForwardSpec {
            name: name.into(),
            from: from.into(),
            listen: "127.0.0.1:6443".parse().unwrap(),
            to: to.into(),
            target: target(at),
            limits: ForwardLimits { connections: 5, rate: None },
        };
        let mut policy = Policy::default();
        policy.forward.allow(target("kube:443"), ForwardLimits::default());
        policy.listen.insert("127.0.0.1:7000".parse().unwrap());
        Rules {
            site: "riskfuel".into(),
            declared: vec![
                spec("out", "riskfuel", "bank", "notebook:8888"),
                spec("in", "bank", "riskfuel", "git:22"),
            ],
            policies: Policies::Each(BTreeMap::from([("bank".to_owned(), policy)])),
        }
    }

    #[test]
    fn a_peer_reaches_what_policy_names_and_what_was_declared_for_it() {
        let rules = rules();
        for (peer, at, allowed) in [
            ("bank", "kube:443", true),
            ("bank", "git:22", true),
            ("bank", "kube:444", false),
            ("bank", "notebook:8888", false),
            ("mint", "kube:443", false),
            ("mint", "git:22", false),
        ] {
            assert_eq!(rules.may_reach(peer, &target(at)).is_some(), allowed, "{peer} {at}");
        }
        assert_eq!(rules.may_reach("bank", &target("git:22")).unwrap().connections, 5);
    }

    #[test]
    fn a_peer_has_opened_only_addresses_that_stand_in_its_policy() {
        let rules = rules();
        for (peer, listen, allowed) in [
            ("bank", "127.0.0.1:7000", true),
            ("bank", "0.0.0.0:7000", false),
            ("bank", "127.0.0.1:7001", false),
            // Ours, but by our own word, not by its.
            ("bank", "127.0.0.1:6443", false),
            ("mint", "127.0.0.1:7000", false),
        ] {
            assert_eq!(rules.may_listen(peer, listen.parse().unwrap()), allowed, "{peer} {listen}");
        }
        assert_eq!(rules.own_listeners().map(|own| own.name.as_str()).collect::<Vec<_>>(), ["out"]);
        assert_eq!(rules.declared_to("bank").map(|own| own.name.as_str()).collect::<Vec<_>>(), ["in"]);
    }
}
