//! Routes, checked one by one and against each other.

use std::collections::{BTreeMap, BTreeSet};

use super::text::Found;
use super::topics::one_topic;
use super::{Checker, site_name};
use crate::config::field::Field;
use crate::config::problem::{Place, Refusal};
use crate::config::raw::{RawBatching, RawRoute};
use crate::config::{Batching, Compression, Pulsar, Route, Start, Tunnel};

/// The sites that routes can join; `None` where they were refused themselves.
pub(super) struct Sites<'a> {
    pub(super) own: Option<&'a str>,
    pub(super) tunnel: Option<&'a Tunnel>,
    pub(super) pulsar: Option<&'a Pulsar>,
}

impl Checker<'_> {
    pub(super) fn routes(
        &mut self,
        items: Vec<Field<RawRoute>>,
        sites: &Sites<'_>,
        place: &Place,
    ) -> Vec<Route> {
        let mut routes = Vec::with_capacity(items.len());
        let mut places = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let place = place.item(index);
            let Some(raw) = self.required(item, &place) else {
                continue;
            };
            let Some(route) = self.route(raw, sites, &place) else {
                continue;
            };
            self.quarantine(&route, sites, &place.key("quarantine"));
            routes.push(route);
            places.push(place);
        }
        self.unique_names(&routes, &places);
        self.answered(&routes, &places);
        self.subscriptions(&routes, &places);
        self.writers(&routes, &places);
        self.patterns_beside(&routes, &places);
        if matches!(sites.tunnel, Some(Tunnel::Edge(_))) {
            self.one_hub(&routes, sites, &places);
        }
        routes
    }

    fn route(&mut self, raw: RawRoute, sites: &Sites<'_>, place: &Place) -> Option<Route> {
        self.unknown::<RawRoute>(raw.unknown, place);
        let name = self.required_text(raw.name, &place.key("name"), |found| route_name(found, "route"));
        let from = self.required_text(raw.from, &place.key("from"), site_name);
        let to = self.required_text(raw.to, &place.key("to"), site_name);
        let topics = self.route_topics(raw.topics, raw.exclude, place);
        let renaming = self.renaming(raw.rename, &place.key("rename"));
        let any_partitions =
            self.text(raw.partitions, &place.key("partitions"), any_partitions).unwrap_or(false);
        let onward = self.optional(raw.onward, &place.key("onward")).unwrap_or(false);
        let answers = self.text(raw.answers, &place.key("answers"), |found| route_name(found, "route"));
        let generation = self.number(raw.generation, &place.key("generation"), 1..=u32::MAX, 1);
        let subscription = self.text(raw.subscription, &place.key("subscription"), subscription);
        let start = self.text(raw.start, &place.key("start"), start).unwrap_or_default();
        let batching = self.optional(raw.batching, &place.key("batching"));
        let batching = batching.map(|raw| self.batching(raw, &place.key("batching")));
        // Whatever else is wrong with it.
        if let (Some(from), Some(to)) = (&from, &to) {
            self.ends("route", (from, to), sites, place);
        }
        let (topics, patterns) = topics?;
        let quarantine = self.text(raw.quarantine, &place.key("quarantine"), one_topic);
        Some(Route {
            name: name?,
            from: from?,
            to: to?,
            topics,
            patterns,
            renaming,
            any_partitions,
            onward,
            answers,
            generation,
            subscription,
            start,
            batching,
            quarantine,
        })
    }

    fn batching(&mut self, raw: RawBatching, place: &Place) -> Batching {
        self.unknown::<RawBatching>(raw.unknown, place);
        let messages = place.key("max_messages");
        let bytes = place.key("max_bytes");
        let (delay, packed, join) = (place.key("max_delay_ms"), place.key("compression"), place.key("join"));
        Batching {
            max_messages: self.number(raw.max_messages, &messages, 2..=10_000, 1000),
            max_bytes: self.number(raw.max_bytes, &bytes, 1024..=4 << 20, 128 << 10),
            max_delay_ms: self.number(raw.max_delay_ms, &delay, 0..=1000, 1),
            compression: self.text(raw.compression, &packed, compression).unwrap_or_default(),
            any_key: self.text(raw.join, &join, any_key).unwrap_or(false),
        }
    }

    fn quarantine(&mut self, route: &Route, sites: &Sites<'_>, place: &Place) {
        let Some(quarantine) = &route.quarantine else { return };
        if route.topics.iter().any(|topic| route.renaming.destination(topic) == *quarantine) {
            let refusal = Refusal::new(
                format!("{quarantine} would hold the route's own messages and its refused ones"),
                "name a topic that the route does not carry",
            );
            self.refuse(place, refusal);
        }
        let is_source = sites.own == Some(route.from.as_str());
        if is_source && sites.pulsar.is_some_and(|pulsar| pulsar.admin_url.is_none()) {
            let refusal = Refusal::new(
                "needs the admin API: only there the marker of a refused entry can be read",
                "set pulsar.admin_url, or leave it out: what the destination refuses then stops the route",
            );
            self.refuse(place, refusal);
        }
    }

    /// `what` is a route or a forward.
    pub(super) fn ends(&mut self, what: &str, (from, to): (&str, &str), sites: &Sites<'_>, place: &Place) {
        if from == to {
            let refusal = Refusal::new("from and to are the same site", "name two sites");
            self.refuse(place, refusal);
            return;
        }
        let Some(own) = sites.own else { return };
        let (peer, key) = if from == own {
            (to, "to")
        } else if to == own {
            (from, "from")
        } else {
            let refusal = Refusal::new(
                format!("neither from nor to is this site, `{own}`"),
                format!("declare the {what} at a site that it joins"),
            );
            self.refuse(place, refusal);
            return;
        };
        let Some(Tunnel::Hub(hub)) = sites.tunnel else {
            return;
        };
        if !self.is_edge_unnamed && !hub.edges.iter().any(|edge| edge.name == peer) {
            let refusal = Refusal::new(
                format!("no edge `{peer}`"),
                "add it to tunnel.edges, or name one that is there",
            );
            self.refuse(&place.key(key), refusal);
        }
    }

    fn unique_names(&mut self, routes: &[Route], places: &[Place]) {
        let mut names = BTreeSet::new();
        for (route, place) in routes.iter().zip(places) {
            if !names.insert(&route.name) {
                let refusal = Refusal::new(format!("a second route `{}`", route.name), "rename one of them");
                self.refuse(&place.key("name"), refusal);
            }
        }
    }

    fn answered(&mut self, routes: &[Route], places: &[Place]) {
        for (route, place) in routes.iter().zip(places) {
            let Some(answers) = &route.answers else { continue };
            if *answers == route.name || !routes.iter().any(|other| other.name == *answers) {
                let refusal = Refusal::new(
                    format!("no other route `{answers}`"),
                    "name the route whose messages this one answers",
                );
                self.refuse(&place.key("answers"), refusal);
            }
        }
    }

    /// Two routes on one subscription would each get half of the topic; on one topic to one site they would
    /// share a producer's name.
    fn subscriptions(&mut self, routes: &[Route], places: &[Place]) {
        let mut readers = BTreeMap::new();
        for (route, place) in routes.iter().zip(places) {
            for (index, topic) in route.topics.iter().enumerate() {
                let reader = (&route.from, topic, route.subscription_name());
                let Some(other) = readers.insert(reader, &route.name) else {
                    continue;
                };
                let refusal = if *other == route.name {
                    Refusal::new(format!("{topic} twice in one route"), "remove one of them")
                } else {
                    Refusal::new(
                        format!("route `{other}` reads {topic} by the same subscription"),
                        "give one of the routes a `subscription` of its own, or remove one",
                    )
                };
                self.refuse(&place.key("topics").item(index), refusal);
            }
        }
    }

    /// Two routes that write a topic to one place at one site have one producer's name, which is a lock: each would
    /// take it from the other for ever.
    fn writers(&mut self, routes: &[Route], places: &[Place]) {
        let mut writers = BTreeMap::new();
        for (route, place) in routes.iter().zip(places) {
            for (index, topic) in route.topics.iter().enumerate() {
                let there = route.renaming.destination(topic);
                let reader = route.subscription_name();
                let writer = (&route.from, &route.to, topic, there.clone());
                let Some((other, others)) = writers.insert(writer, (&route.name, reader.clone())) else {
                    continue;
                };
                // One subscription for both is told already.
                if others != reader {
                    let refusal = Refusal::new(
                        format!("route `{other}` writes {topic} to {there} too"),
                        "give it another name there by `rename` in one of them, or remove one",
                    );
                    self.refuse(&place.key("topics").item(index), refusal);
                }
            }
        }
    }

    fn one_hub(&mut self, routes: &[Route], sites: &Sites<'_>, places: &[Place]) {
        let peer = |route: &Route| {
            let away = Some(route.to.as_str()) == sites.own;
            if away { route.from.clone() } else { route.to.clone() }
        };
        let Some(hub) = routes.first().map(peer) else {
            return;
        };
        for (route, place) in routes.iter().zip(places).skip(1) {
            if peer(route) != hub {
                let refusal = Refusal::new(
                    format!("an edge has one hub, and the first route says `{hub}`"),
                    "name the same hub in every route",
                );
                self.refuse(place, refusal);
            }
        }
    }
}

/// The name of a route or a forward.
pub(super) fn route_name(found: &Found, what: &str) -> Result<String, Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let text = &found.text;
    if text.is_empty() || text.len() > ROUTE_NAME_LEN_MAX || !text.chars().all(plain) {
        return Err(Refusal::new(
            format!("{} is no {what}'s name", found.shown()),
            format!("write 1 to {ROUTE_NAME_LEN_MAX} letters, digits, dots, underscores or hyphens"),
        ));
    }
    Ok(text.clone())
}

fn subscription(found: &Found) -> Result<String, Refusal> {
    let text = &found.text;
    let odd = |c: char| c.is_control() || c.is_whitespace();
    if text.is_empty() || text.len() > SUBSCRIPTION_LEN_MAX || text.contains(odd) {
        return Err(Refusal::new(
            format!("{} is no subscription's name", found.shown()),
            format!("write 1 to {SUBSCRIPTION_LEN_MAX} characters without spaces"),
        ));
    }
    Ok(text.clone())
}

fn start(found: &Found) -> Result<Start, Refusal> {
    match found.text.as_str() {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        _ => Err(Refusal::new(format!("{} is no start", found.shown()), "write \"earliest\" or \"latest\"")),
    }
}

fn any_partitions(found: &Found) -> Result<bool, Refusal> {
    match found.text.as_str() {
        "any" => Ok(true),
        "equal" => Ok(false),
        _ => Err(Refusal::new(format!("{} is no rule", found.shown()), "write \"equal\" or \"any\"")),
    }
}

fn compression(found: &Found) -> Result<Compression, Refusal> {
    match found.text.as_str() {
        "none" => Ok(Compression::None),
        "zstd" => Ok(Compression::Zstd),
        _ => Err(Refusal::new(format!("{} is no compression", found.shown()), "write \"none\" or \"zstd\"")),
    }
}

fn any_key(found: &Found) -> Result<bool, Refusal> {
    match found.text.as_str() {
        "any-key" => Ok(true),
        "same-key" => Ok(false),
        _ => Err(Refusal::new(format!("{} is no rule", found.shown()), "write \"same-key\" or \"any-key\"")),
    }
}

const ROUTE_NAME_LEN_MAX: usize = 64;
const SUBSCRIPTION_LEN_MAX: usize = 256;
