//! From what stands in the file to what the bridge runs by. Goes on after every mistake, so that all are
//! reported at once; opens no file but those that `{"file": …}` names.

mod egress;
mod forwards;
mod later;
mod pulsar;
mod routes;
mod sites;
mod text;
mod topics;
mod trust;
mod tunnel;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::field::{Field, Kind, Text};
use super::problem::{Place, Problem, Refusal};
use super::raw::{Keys, RawAdmin, RawConfig, RawPolicy};
use super::{Admin, Config, Route, Setup, Tunnel, url};
use crate::policy::Policy;
use text::Found;

/// Reads an environment variable; tests bring their own.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Makes a configuration of the file's text, or says everything that is wrong with it.
pub(super) fn check(value: Value, dir: &Path, env: Env<'_>) -> Result<Config, Vec<Problem>> {
    checked(value, dir, env, |checker, mut raw: RawConfig| {
        let root = Place::default();
        checker.version(std::mem::take(&mut raw.version), &root);
        checker.config(raw, &root)
    })
}

/// The same of a file with several sites.
pub(super) fn check_sites(value: Value, dir: &Path, env: Env<'_>) -> Result<Setup, Vec<Problem>> {
    checked(value, dir, env, |checker, raw| checker.setup(raw))
}

fn checked<R: serde::de::DeserializeOwned, T>(
    value: Value,
    dir: &Path,
    env: Env<'_>,
    check: impl FnOnce(&mut Checker<'_>, R) -> Option<T>,
) -> Result<T, Vec<Problem>> {
    let mut checker =
        Checker { dir, env, problems: Vec::new(), mistyped: Vec::new(), is_edge_unnamed: false };
    let config = match serde_json::from_value::<R>(value) {
        Ok(raw) => check(&mut checker, raw),
        Err(_) => {
            let refusal = Refusal::new("the file is not a JSON object", "begin it with { and end it with }");
            checker.refuse(&Place::default(), refusal);
            None
        }
    };
    match config {
        Some(config) if checker.problems.is_empty() => Ok(config),
        Some(_) | None => Err(checker.problems),
    }
}

struct Checker<'a> {
    dir: &'a Path,
    env: Env<'a>,
    problems: Vec<Problem>,
    /// Keys that stand there with a typing mistake: one mistake, one problem.
    mistyped: Vec<Place>,
    /// A hub's edge came without a name that could be read: which edges there are is not known.
    is_edge_unnamed: bool,
}

impl Checker<'_> {
    fn config(&mut self, raw: RawConfig, root: &Place) -> Option<Config> {
        self.unknown::<RawConfig>(raw.unknown, root);
        let site = self.required_text(raw.site, &root.key("site"), site_name);
        let pulsar_place = root.key("pulsar");
        let has_cluster = !matches!(raw.pulsar, Field::Missing) || self.mistyped.contains(&pulsar_place);
        let pulsar = self.optional(raw.pulsar, &pulsar_place);
        let pulsar = pulsar.and_then(|raw| self.pulsar(raw, &pulsar_place));
        let tunnel_place = root.key("tunnel");
        let tunnel = self.required(raw.tunnel, &tunnel_place);
        let tunnel = tunnel.and_then(|raw| self.tunnel(raw, site.as_deref(), &tunnel_place));
        let policy = self.own_policy(raw.policy, tunnel.as_ref(), &root.key("policy"));
        let routes = self.optional(raw.routes, &root.key("routes")).unwrap_or_default();
        let sites = routes::Sites { own: site.as_deref(), tunnel: tunnel.as_ref(), pulsar: pulsar.as_ref() };
        let routes = self.routes(routes, &sites, &root.key("routes"));
        let admin = self.optional(raw.admin, &root.key("admin"));
        let admin = admin.map(|raw| self.admin(raw, &root.key("admin"))).unwrap_or_default();
        let forwards = self.optional(raw.forwards, &root.key("forwards")).unwrap_or_default();
        let taken = forwards::Taken(taken(tunnel.as_ref(), &admin));
        let forwards = self.forwards(forwards, &sites, &taken, &root.key("forwards"));
        self.forwards_hub(&forwards, &routes, &sites);
        if !has_cluster {
            self.no_cluster(&routes, tunnel.as_ref(), &policy, root);
        }
        let drain = self.number(raw.drain_seconds, &root.key("drain_seconds"), 0..=3600, 30);
        Some(Config {
            site: site?,
            pulsar: if has_cluster { Some(pulsar?) } else { None },
            tunnel: tunnel?,
            policy,
            routes,
            forwards,
            admin,
            drain: Duration::from_secs(drain.into()),
            dir: self.dir.to_owned(),
            digest: String::new(),
        })
    }

    /// A site without a cluster has forwards only.
    fn no_cluster(&mut self, routes: &[Route], tunnel: Option<&Tunnel>, policy: &Policy, root: &Place) {
        let topics = |policy: &Policy| !policy.receive.is_empty() || !policy.send.is_empty();
        let let_in = match tunnel {
            Some(Tunnel::Hub(hub)) => hub.edges.iter().any(|edge| topics(&edge.policy)),
            Some(Tunnel::Edge(_)) | None => topics(policy),
        };
        if !routes.is_empty() || let_in {
            let refusal = Refusal::new(
                "missing, and routes or topics of a policy need it",
                "add an object, or leave routes, receive and send out: forwards need no cluster",
            );
            self.refuse(&root.key("pulsar"), refusal);
        }
    }

    fn version(&mut self, field: Field<u32>, root: &Place) {
        let place = root.key("version");
        if self.required(field, &place).is_some_and(|version| version != VERSION) {
            let remedy = "write 1, or take the bridge of that version";
            self.refuse(&place, Refusal::new("this bridge reads version 1", remedy));
        }
    }

    fn own_policy(&mut self, raw: Field<RawPolicy>, tunnel: Option<&Tunnel>, place: &Place) -> Policy {
        let there = !matches!(raw, Field::Missing);
        if there && matches!(tunnel, Some(Tunnel::Hub(_))) {
            let refusal =
                Refusal::new("a hub has a policy for each edge", "move it to tunnel.edges[].policy");
            self.refuse(place, refusal);
        }
        let raw = self.optional(raw, place);
        raw.map(|raw| self.policy(raw, place)).unwrap_or_default()
    }

    fn admin(&mut self, raw: RawAdmin, place: &Place) -> Admin {
        self.unknown::<RawAdmin>(raw.unknown, place);
        Admin {
            listen: self.text(raw.listen, &place.key("listen"), text::socket_addr),
            hosts: self.host_names(raw.hosts, &place.key("hosts")),
        }
    }

    fn host_names(&mut self, field: Field<Vec<Field<Text>>>, place: &Place) -> Vec<String> {
        let fields = self.optional(field, place).unwrap_or_default();
        self.texts(fields, place, |found| found.parse(url::host_name))
    }

    fn refuse(&mut self, place: &Place, refusal: Refusal) {
        self.problems.push(place.problem(refusal));
    }

    /// The value of a key that may be left out.
    fn optional<T: Kind>(&mut self, field: Field<T>, place: &Place) -> Option<T> {
        match field {
            Field::Missing => None,
            Field::Present(value) => Some(value),
            Field::WrongKind(kind) => {
                let refusal = Refusal::new(format!("is {kind}"), format!("write {}", T::EXPECTED));
                self.refuse(place, refusal);
                None
            }
        }
    }

    /// The value of a key that must be there.
    fn required<T: Kind>(&mut self, field: Field<T>, place: &Place) -> Option<T> {
        if matches!(field, Field::Missing) {
            if !self.mistyped.contains(place) {
                self.refuse(place, Refusal::new("missing", format!("add {}", T::EXPECTED)));
            }
            return None;
        }
        self.optional(field, place)
    }

    fn number(&mut self, field: Field<u32>, place: &Place, range: RangeInclusive<u32>, default: u32) -> u32 {
        let number = self.optional(field, place).unwrap_or(default);
        if !range.contains(&number) {
            let refusal = Refusal::new(
                format!("{number} is out of range"),
                format!("write {} to {}", range.start(), range.end()),
            );
            self.refuse(place, refusal);
            return default;
        }
        number
    }

    fn unknown<T: Keys>(&mut self, unknown: BTreeMap<String, Value>, place: &Place) {
        for key in unknown.keys() {
            let (refusal, meant) = later::refusal::<T>(key);
            self.refuse(&place.key(key), refusal);
            self.mistyped.extend(meant.map(|meant| place.key(&meant)));
        }
    }
}

/// Where this site listens besides its forwards.
fn taken(tunnel: Option<&Tunnel>, admin: &Admin) -> Vec<(&'static str, SocketAddr)> {
    let hub = match tunnel {
        Some(Tunnel::Hub(hub)) => Some(("tunnel.listen", hub.listen)),
        Some(Tunnel::Edge(_)) | None => None,
    };
    hub.into_iter().chain(admin.listen.map(|listen| ("admin.listen", listen))).collect()
}

fn site_name(found: &Found) -> Result<String, Refusal> {
    if !super::credential::is_site_name(&found.text) {
        return Err(Refusal::new(
            format!("{} is no site name", found.shown()),
            "write 1 to 32 of a-z, 0-9 and inner hyphens",
        ));
    }
    Ok(found.text.clone())
}

const VERSION: u32 = 1;
