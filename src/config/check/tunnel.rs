//! The link's two sides and their policies, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::egress::RawEgress;
use super::text::{self, Found};
use super::trust::{dns_name, is_there};
use super::{Checker, site_name};
use crate::config::credential::EdgeKey;
use crate::config::field::{Field, Text};
use crate::config::problem::{Place, Refusal};
use crate::config::raw::{RawEdge, RawLimits, RawPolicy, RawTunnel};
use crate::config::url::LinkUrl;
use crate::config::{EdgeEntry, EdgeTunnel, HubTunnel, Tunnel, TunnelLimits};
use crate::policy::{BadRule, Policy, TopicRules};

impl Checker<'_> {
    pub(super) fn tunnel(&mut self, raw: RawTunnel, site: Option<&str>, place: &Place) -> Option<Tunnel> {
        let is_hub = !matches!(raw.listen, Field::Missing);
        let is_edge = !matches!(raw.connect, Field::Missing);
        if is_hub == is_edge {
            self.unknown::<RawTunnel>(raw.unknown, place);
            let (message, remedy) = if is_hub {
                ("listen and connect at once", "a hub listens, an edge connects: leave one out")
            } else {
                ("neither listen nor connect", "add listen for a hub, connect for an edge")
            };
            self.refuse(place, Refusal::new(message, remedy));
            return None;
        }
        if is_hub {
            return self.hub(raw, site, place).map(Tunnel::Hub);
        }
        self.edge(raw, place).map(Tunnel::Edge)
    }

    fn hub(&mut self, mut raw: RawTunnel, site: Option<&str>, place: &Place) -> Option<HubTunnel> {
        self.unknown::<RawTunnel>(std::mem::take(&mut raw.unknown), place);
        let certificate = self.hub_certificate(&mut raw, place);
        let client_authorities = self.client_authorities(&mut raw, place);
        self.other_side(&raw.token_file, &place.key("token_file"), "an edge");
        self.other_side(&raw.ca_file, &place.key("ca_file"), "an edge");
        self.other_side(&raw.hub_name, &place.key("hub_name"), "an edge");
        self.other_side(&raw.hub_site, &place.key("hub_site"), "an edge");
        self.other_side(&raw.lanes, &place.key("lanes"), "an edge");
        self.other_side(&raw.lane_minutes, &place.key("lane_minutes"), "an edge");
        self.other_side(&raw.trust_after, &place.key("trust_after"), "an edge");
        let budget_place = place.key("budget_mbit_s");
        self.other_side(&raw.budget_mbit_s, &budget_place, "an edge, or to an entry of `edges`");
        self.other_side(&raw.proxy, &place.key("proxy"), "an edge");
        self.other_side(&raw.proxy_user, &place.key("proxy_user"), "an edge");
        self.other_side(&raw.proxy_password_file, &place.key("proxy_password_file"), "an edge");
        self.other_side(&raw.outer_ca_file, &place.key("outer_ca_file"), "an edge");
        let listen = self.text(raw.listen, &place.key("listen"), text::socket_addr);
        let edges_place = place.key("edges");
        let entries = self.required(raw.edges, &edges_place);
        let edges = entries.map(|entries| self.edges(entries, site, &edges_place));
        if client_authorities.is_none() {
            self.no_authorities(edges.as_deref().unwrap_or_default(), &edges_place);
        }
        let limits = self.optional(raw.limits, &place.key("limits"));
        let limits = limits.map(|raw| self.limits(raw, &place.key("limits"))).unwrap_or_default();
        let trusted_proxies = self.trusted_proxies(raw.trusted_proxies, &place.key("trusted_proxies"));
        Some(HubTunnel {
            listen: listen?,
            certificate: certificate?,
            client_authorities,
            edges: edges?,
            limits,
            trusted_proxies,
        })
    }

    fn edge(&mut self, mut raw: RawTunnel, place: &Place) -> Option<EdgeTunnel> {
        self.unknown::<RawTunnel>(std::mem::take(&mut raw.unknown), place);
        let credential = self.edge_credential(&mut raw, place);
        self.other_side(&raw.identity, &place.key("identity"), "a hub");
        self.other_side(&raw.client_ca_file, &place.key("client_ca_file"), "a hub");
        self.other_side(&raw.crl_file, &place.key("crl_file"), "a hub");
        self.other_side(&raw.edges, &place.key("edges"), "a hub");
        self.other_side(&raw.limits, &place.key("limits"), "a hub");
        self.other_side(&raw.trusted_proxies, &place.key("trusted_proxies"), "a hub");
        let connect_place = place.key("connect");
        let urls = self.optional(raw.connect, &connect_place);
        let connect = urls.map(|urls| {
            if urls.is_empty() {
                self.refuse(
                    &connect_place,
                    Refusal::new("empty", "name the hub: tls://host:port or wss://host/path"),
                );
            }
            self.texts(urls, &connect_place, |found| found.parse(LinkUrl::parse))
        });
        let lanes = self.number(raw.lanes, &place.key("lanes"), 1..=LANES_MAX.into(), 1);
        let minutes = self.number(raw.lane_minutes, &place.key("lane_minutes"), 1..=1440, 1440);
        let trust_after = self.text(raw.trust_after, &place.key("trust_after"), text::unix_seconds);
        let budget_mbit_s = self.budget(raw.budget_mbit_s, place);
        let egress =
            RawEgress { proxy: raw.proxy, user: raw.proxy_user, password_file: raw.proxy_password_file };
        let egress = self.egress(egress, connect.as_deref().unwrap_or_default(), place);
        let outer_ca_file = self.text(raw.outer_ca_file, &place.key("outer_ca_file"), text::path);
        Some(EdgeTunnel {
            connect: connect?,
            credential: credential?,
            lanes: u16::try_from(lanes).unwrap_or(LANES_MAX),
            lane_age: Duration::from_secs(60 * u64::from(minutes)),
            trust_after: trust_after.unwrap_or(0),
            budget_mbit_s,
            egress,
            outer_ca_file,
        })
    }

    /// In Mbit/s; 0 stands for none.
    fn budget(&mut self, field: Field<u32>, place: &Place) -> u32 {
        if matches!(field, Field::Missing) {
            return 0;
        }
        self.number(field, &place.key("budget_mbit_s"), 1..=BUDGET_MBIT_S_MAX, BUDGET_MBIT_S_MAX)
    }

    fn other_side<T>(&mut self, field: &Field<T>, place: &Place, owner: &str) {
        if !matches!(field, Field::Missing) {
            self.refuse(place, Refusal::new(format!("belongs to {owner}"), "leave it out here"));
        }
    }

    fn edges(&mut self, entries: Vec<Field<RawEdge>>, site: Option<&str>, place: &Place) -> Vec<EdgeEntry> {
        let mut edges = Vec::with_capacity(entries.len());
        let mut names = BTreeSet::new();
        let (mut key_holders, mut cert_names) = (BTreeMap::new(), BTreeSet::new());
        self.is_edge_unnamed = false;
        for (index, entry) in entries.into_iter().enumerate() {
            let place = place.item(index);
            let raw = self.required(entry, &place);
            let Some(edge) = raw.and_then(|raw| self.edge_entry(raw, &place)) else {
                self.is_edge_unnamed = true;
                continue;
            };
            if Some(edge.name.as_str()) == site {
                let refusal = Refusal::new("this site itself", "give the edge a name of its own");
                self.refuse(&place.key("name"), refusal);
            }
            if !names.insert(edge.name.clone()) {
                let refusal =
                    Refusal::new(format!("a second edge `{}`", edge.name), "list both keys in one entry");
                self.refuse(&place.key("name"), refusal);
            }
            for (index, key) in edge.keys.iter().enumerate() {
                if key_holders.insert(key.spki_sha256, edge.name.clone()).is_some() {
                    let refusal = Refusal::new("this key is listed twice", "remove one of them");
                    self.refuse(&place.key("keys").item(index), refusal);
                }
            }
            if let Some(name) = &edge.cert_name
                && !cert_names.insert(name.clone())
            {
                let refusal = Refusal::new("another edge has this name", "give each edge a name of its own");
                self.refuse(&place.key("cert_name"), refusal);
            }
            edges.push(edge);
        }
        edges
    }

    /// Names in certificates that nobody would vouch for.
    fn no_authorities(&mut self, edges: &[EdgeEntry], place: &Place) {
        for (index, _) in edges.iter().enumerate().filter(|(_, edge)| edge.cert_name.is_some()) {
            let refusal =
                Refusal::new("there is no client_ca_file", "name the authorities that sign its certificate");
            self.refuse(&place.item(index).key("cert_name"), refusal);
        }
    }

    fn edge_entry(&mut self, raw: RawEdge, place: &Place) -> Option<EdgeEntry> {
        self.unknown::<RawEdge>(raw.unknown, place);
        let name = self.required_text(raw.name, &place.key("name"), site_name);
        let keys_place = place.key("keys");
        let by_certificate = is_there(&raw.cert_name);
        let cert_name = self.text(raw.cert_name, &place.key("cert_name"), dns_name);
        if !by_certificate && matches!(raw.keys, Field::Missing) && !self.mistyped.contains(&keys_place) {
            let remedy = "list its key (bk1.…), or name its certificate of an own PKI (cert_name); [] lets nobody join as this edge";
            self.refuse(&keys_place, Refusal::new("missing", remedy));
        }
        let keys = self.optional(raw.keys, &keys_place).map(|keys| {
            let count = keys.len();
            if count > KEYS_MAX {
                let refusal = Refusal::new(format!("{count} keys"), "list one, or two while they rotate");
                self.refuse(&keys_place, refusal);
            }
            self.texts(keys, &keys_place, |found| edge_key(found, name.as_deref()))
        });
        let policy = self.optional(raw.policy, &place.key("policy"));
        let policy = policy.map(|raw| self.policy(raw, &place.key("policy"))).unwrap_or_default();
        let max_instances = self.number(raw.max_instances, &place.key("max_instances"), 1..=1000, 8);
        let budget_mbit_s = self.budget(raw.budget_mbit_s, place);
        Some(EdgeEntry {
            name: name?,
            keys: keys.unwrap_or_default(),
            cert_name,
            policy,
            max_instances,
            budget_mbit_s,
        })
    }

    fn limits(&mut self, raw: RawLimits, place: &Place) -> TunnelLimits {
        self.unknown::<RawLimits>(raw.unknown, place);
        let default = TunnelLimits::default();
        let handshakes = self.number(raw.handshakes, &place.key("handshakes"), 1..=65536, default.handshakes);
        let handshakes_per_address = self.number(
            raw.handshakes_per_address,
            &place.key("handshakes_per_address"),
            1..=65536,
            default.handshakes_per_address,
        );
        let seconds = self.number(raw.handshake_seconds, &place.key("handshake_seconds"), 1..=60, 10);
        TunnelLimits {
            handshakes,
            handshakes_per_address,
            handshake_timeout: Duration::from_secs(seconds.into()),
        }
    }

    pub(super) fn policy(&mut self, raw: RawPolicy, place: &Place) -> Policy {
        self.unknown::<RawPolicy>(raw.unknown, place);
        Policy {
            receive: self.rules(raw.receive, &place.key("receive")),
            send: self.rules(raw.send, &place.key("send")),
            from_earliest: self.text(raw.from, &place.key("from"), from_earliest).unwrap_or(false),
            forward: self.targets(raw.forward, &place.key("forward")),
            listen: self.listened(raw.listen, &place.key("listen")),
        }
    }

    pub(super) fn rules(&mut self, field: Field<Vec<Field<Text>>>, place: &Place) -> TopicRules {
        let items = self.optional(field, place).unwrap_or_default();
        let mut texts = Vec::new();
        let mut places = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let place = place.item(index);
            if matches!(item, Field::WrongKind("an object")) {
                let refusal =
                    Refusal::new("items with limits are not in this version", "write the topic as a string");
                self.refuse(&place, refusal);
                continue;
            }
            if let Some(text) = self.required_text(item, &place, rule) {
                texts.push(text);
                places.push(place);
            }
        }
        // Each item was parsed by itself; what is left to refuse is the length of the list.
        TopicRules::parse(&texts).unwrap_or_else(|bad| {
            for BadRule { item, error } in bad {
                self.refuse(&places[item], Refusal::new(error.to_string(), error.remedy()));
            }
            TopicRules::default()
        })
    }
}

fn rule(found: &Found) -> Result<String, Refusal> {
    found.parse(|text| match TopicRules::parse(&[text.to_owned()]) {
        Ok(_) => Ok(text.to_owned()),
        Err(bad) => {
            let error = &bad[0].error;
            Err(Refusal::new(error.to_string(), error.remedy()))
        }
    })
}

fn edge_key(found: &Found, edge: Option<&str>) -> Result<EdgeKey, Refusal> {
    let key = EdgeKey::parse(&found.text)
        .map_err(|error| Refusal::new(error.to_string(), "take the bk1 line that `bridge init` printed"))?;
    match edge {
        Some(edge) if edge != key.edge => Err(Refusal::new(
            format!("this key belongs to `{}`", key.edge),
            format!("list it there, or take the key of `{edge}`"),
        )),
        Some(_) | None => Ok(key),
    }
}

fn from_earliest(found: &Found) -> Result<bool, Refusal> {
    match found.text.as_str() {
        "earliest" => Ok(true),
        "grant" => Ok(false),
        _ => Err(Refusal::new(format!("{} is no start", found.shown()), "write \"grant\" or \"earliest\"")),
    }
}

/// More than a core can fill.
const LANES_MAX: u16 = 16;
/// A terabit.
const BUDGET_MBIT_S_MAX: u32 = 1_000_000;
/// The key in use and the one that replaces it.
const KEYS_MAX: usize = 2;
