//! The first configurations of both sides: what most users need, to be edited for addresses.
//! Texts, not types: a person reads and changes them, so their order and line breaks matter.

use std::path::Path;

use serde_json::Value;

use crate::config::credential::{EdgeKey, is_site_name};
use crate::config::{LinkScheme, LinkUrl};

/// What a link is made for, at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// Topics of both sides' clusters.
    Topics,
    /// TCP ports alone: the sites have no clusters.
    Ports,
}

impl Carries {
    /// By the word of who asks.
    pub fn of(forwards_only: bool) -> Self {
        if forwards_only { Self::Ports } else { Self::Topics }
    }

    /// The line of the site's own cluster.
    fn cluster(self) -> String {
        match self {
            Self::Topics => format!("\n  \"pulsar\": {PULSAR},"),
            Self::Ports => String::new(),
        }
    }
}

/// `hub.json` for a hub with these edges.
pub fn hub(site: &str, url: &LinkUrl, edges: &[EdgeKey], carries: Carries) -> String {
    // A wss:// URL leads to an ingress on 443; the hub itself listens behind it.
    let port = match url.scheme {
        LinkScheme::Tls => url.port,
        LinkScheme::Wss => LINK_PORT,
    };
    let entries: Vec<String> =
        edges.iter().map(|key| format!("      {}", edge_entry(key, carries))).collect();
    let only_one = edges.len() == 1;
    let (declared, items): (&str, Vec<String>) = match carries {
        Carries::Topics => ("routes", edges.iter().map(|key| routes(site, &key.edge, only_one)).collect()),
        Carries::Ports => {
            let forward = |(key, port): (&EdgeKey, u16)| forward(site, &key.edge, port, only_one);
            ("forwards", edges.iter().zip(FORWARD_PORT..).map(forward).collect())
        }
    };
    format!(
        r#"{{
  "version": 1,
  "site": "{site}",{}
  "tunnel": {{
    "listen": "0.0.0.0:{port}",
    "identity": "keys",
    "edges": [
{}
    ]
  }},
  "{declared}": [
{}
  ],
  "admin": {{ "listen": "127.0.0.1:9600" }}
}}
"#,
        carries.cluster(),
        entries.join(",\n"),
        items.join(",\n")
    )
}

/// `edge.json` for an edge of it.
pub fn edge(site: &str, url: &LinkUrl, carries: Carries) -> String {
    let policy = match carries {
        Carries::Topics => format!(r#"{{ "receive": ["{REQUESTS}"], "send": ["{RESULTS}"] }}"#),
        Carries::Ports => format!(r#"{{ "forward": ["{TARGET}"] }}"#),
    };
    format!(
        r#"{{
  "version": 1,
  "site": "{site}",{}
  "tunnel": {{ "connect": ["{url}"], "token_file": "token" }},
  "policy": {policy},
  "admin": {{ "listen": "127.0.0.1:9601" }}
}}
"#,
        carries.cluster()
    )
}

/// One entry of `tunnel.edges`.
pub fn edge_entry(key: &EdgeKey, carries: Carries) -> String {
    let edge = &key.edge;
    let policy = match carries {
        Carries::Topics => format!(r#"{{ "receive": ["{RESULTS}"], "send": ["{REQUESTS}"] }}"#),
        Carries::Ports => "{}".to_owned(),
    };
    format!(r#"{{ "name": "{edge}", "keys": ["{key}"], "policy": {policy} }}"#)
}

fn routes(hub: &str, edge: &str, only_one: bool) -> String {
    let suffix = if only_one { String::new() } else { format!("-{edge}") };
    format!(
        r#"    {{ "name": "requests{suffix}", "from": "{hub}", "to": "{edge}", "topics": ["{REQUESTS}"] }},
    {{ "name": "results{suffix}", "from": "{edge}", "to": "{hub}", "topics": ["{RESULTS}"], "answers": "requests{suffix}" }}"#
    )
}

fn forward(hub: &str, edge: &str, port: u16, only_one: bool) -> String {
    let suffix = if only_one { String::new() } else { format!("-{edge}") };
    format!(
        r#"    {{ "name": "web{suffix}", "from": "{hub}", "listen": "127.0.0.1:{port}", "to": "{edge}", "target": "{TARGET}" }}"#
    )
}

/// Whether a configuration is of a site without a cluster.
pub fn has_no_cluster(file: &Path) -> bool {
    read(file).is_ok_and(|configuration| configuration.get("pulsar").is_none_or(Value::is_null))
}

/// The site that a configuration file is of.
pub fn site_of(file: &Path) -> Result<String, String> {
    let site = read(file)?.get("site").and_then(Value::as_str).map(str::to_owned);
    site.filter(|site| is_site_name(site)).ok_or_else(|| "it names no site".to_owned())
}

/// Whether a hub's configuration lists an edge of this name.
pub fn lists(file: &Path, edge: &str) -> bool {
    let configuration = read(file).unwrap_or_default();
    let edges = configuration.pointer("/tunnel/edges").and_then(Value::as_array);
    edges.is_some_and(|edges| edges.iter().any(|entry| entry["name"] == edge))
}

/// The URL that the first edge beside it uses.
pub fn url_of_siblings(out: &Path) -> Option<LinkUrl> {
    let mut folders: Vec<_> = std::fs::read_dir(out).ok()?.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    folders.iter().find_map(|folder| {
        let configuration = read(&folder.join("edge.json")).ok()?;
        let url = configuration.pointer("/tunnel/connect/0")?.as_str()?.to_owned();
        LinkUrl::parse(&url).ok()
    })
}

fn read(file: &Path) -> Result<Value, String> {
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

/// Where a hub listens by custom.
const LINK_PORT: u16 = 8001;
const PULSAR: &str = r#"{ "service_url": "pulsar://pulsar:6650", "admin_url": "http://pulsar:8080" }"#;
/// What the first forward reaches, and where it listens.
const TARGET: &str = "web.internal:80";
const FORWARD_PORT: u16 = 8080;
const REQUESTS: &str = "persistent://public/default/datagen-requests";
const RESULTS: &str = "persistent://public/default/datagen-results";
