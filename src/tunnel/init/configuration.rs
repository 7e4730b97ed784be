//! The first configurations of both sides: what most users need, to be edited for addresses.
//! Texts, not types: a person reads and changes them, so their order and line breaks matter.

use std::path::Path;

use serde_json::Value;

use crate::config::credential::{EdgeKey, is_site_name};
use crate::config::{LinkScheme, LinkUrl};

/// `hub.json` for a hub with these edges.
pub fn hub(site: &str, url: &LinkUrl, edges: &[EdgeKey]) -> String {
    // A wss:// URL leads to an ingress on 443; the hub itself listens behind it.
    let port = match url.scheme {
        LinkScheme::Tls => url.port,
        LinkScheme::Wss => LINK_PORT,
    };
    let entries: Vec<String> = edges.iter().map(|key| format!("      {}", edge_entry(key))).collect();
    let only_one = edges.len() == 1;
    let routes: Vec<String> = edges.iter().map(|key| routes(site, &key.edge, only_one)).collect();
    format!(
        r#"{{
  "version": 1,
  "site": "{site}",
  "pulsar": {PULSAR},
  "tunnel": {{
    "listen": "0.0.0.0:{port}",
    "identity": "keys",
    "edges": [
{}
    ]
  }},
  "routes": [
{}
  ],
  "admin": {{ "listen": "127.0.0.1:9600" }}
}}
"#,
        entries.join(",\n"),
        routes.join(",\n")
    )
}

/// `edge.json` for an edge of it.
pub fn edge(site: &str, url: &LinkUrl) -> String {
    format!(
        r#"{{
  "version": 1,
  "site": "{site}",
  "pulsar": {PULSAR},
  "tunnel": {{ "connect": ["{url}"], "token_file": "token" }},
  "policy": {{ "receive": ["{REQUESTS}"], "send": ["{RESULTS}"] }},
  "admin": {{ "listen": "127.0.0.1:9601" }}
}}
"#
    )
}

/// One entry of `tunnel.edges`.
pub fn edge_entry(key: &EdgeKey) -> String {
    let edge = &key.edge;
    format!(
        r#"{{ "name": "{edge}", "keys": ["{key}"], "policy": {{ "receive": ["{RESULTS}"], "send": ["{REQUESTS}"] }} }}"#
    )
}

fn routes(hub: &str, edge: &str, only_one: bool) -> String {
    let suffix = if only_one { String::new() } else { format!("-{edge}") };
    format!(
        r#"    {{ "name": "requests{suffix}", "from": "{hub}", "to": "{edge}", "topics": ["{REQUESTS}"] }},
    {{ "name": "results{suffix}", "from": "{edge}", "to": "{hub}", "topics": ["{RESULTS}"], "answers": "requests{suffix}" }}"#
    )
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
const REQUESTS: &str = "persistent://public/default/datagen-requests";
const RESULTS: &str = "persistent://public/default/datagen-results";
