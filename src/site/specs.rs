//! What a configuration asks of each room, in that room's own words. Opens nothing.

use std::time::Duration;

use crate::config::{self, Config, Tunnel};
use crate::forward::rules::{ForwardSpec, Rules};
use crate::policy::{Policies, Policy};
use crate::pulsar::packing::Compression;
use crate::relay::batching::Limits;
use crate::relay::context::{RouteSpec, Start};
use crate::tunnel::budget::Class;

/// What the forwards follow.
pub(super) fn rules(config: &Config) -> Rules {
    let spec = |forward: &config::Forward| ForwardSpec {
        name: forward.name.clone(),
        from: forward.from.clone(),
        listen: forward.listen,
        to: forward.to.clone(),
        target: forward.target.clone(),
        limits: forward.limits,
    };
    Rules {
        site: config.site.clone(),
        declared: config.forwards.iter().map(spec).collect(),
        policies: policies(config),
    }
}

/// The ports that no target's name may lead to on this machine.
pub(super) fn own_ports(config: &Config) -> Vec<u16> {
    let tunnel = match &config.tunnel {
        Tunnel::Hub(hub) => Some(hub.listen.port()),
        Tunnel::Edge(_) => None,
    };
    tunnel.into_iter().chain(config.admin.listen.map(|address| address.port())).collect()
}

/// A route as the relay knows it.
pub(super) fn route(route: &config::Route) -> RouteSpec {
    RouteSpec {
        name: route.name.clone(),
        from: route.from.clone(),
        to: route.to.clone(),
        topics: route.topics.clone(),
        patterns: route.patterns.clone(),
        renaming: route.renaming.clone(),
        any_partitions: route.any_partitions,
        onward: route.onward,
        generation: route.generation,
        subscription: route.subscription_name(),
        start: match route.start {
            config::Start::Earliest => Start::Earliest,
            config::Start::Latest => Start::Latest,
        },
        joining: route.batching.map(|batching| Limits {
            messages: batching.max_messages,
            bytes: batching.max_bytes as usize,
            any_key: batching.any_key,
            delay: Duration::from_millis(batching.max_delay_ms.into()),
            compression: match batching.compression {
                config::Compression::None => Compression::None,
                config::Compression::Zstd => Compression::Zstd,
            },
        }),
        class: if route.answers.is_some() { Class::Results } else { Class::Requests },
        quarantine: route.quarantine.clone(),
    }
}

/// What each peer may do here.
pub(super) fn policies(config: &Config) -> Policies {
    match &config.tunnel {
        Tunnel::Hub(hub) => {
            let each =
                |edge: &config::EdgeEntry| -> (String, Policy) { (edge.name.clone(), edge.policy.clone()) };
            Policies::Each(hub.edges.iter().map(each).collect())
        }
        Tunnel::Edge(_) => Policies::One(config.policy.clone()),
    }
}
