//! A file that holds several sites: told apart from one of a single site, and its temporary trust filled in before
//! it is checked. Makes no trust itself: whoever runs the sites does.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::problem::{Place, Refusal};
use super::{LinkUrl, Problem};

/// Makes keys and tokens for a hub and its edges in a folder, as `bridge init` does, and says where.
pub type MakeTrust<'a> = &'a dyn Fn(&str, &[String], &LinkUrl) -> Result<PathBuf, String>;

/// Whether a file is of this form.
pub(super) fn holds_sites(value: &Value) -> bool {
    value.get("sites").is_some() || value.get("load").is_some()
}

/// Replaces the word `temporary` by what `make` has made.
pub(super) fn fill_trust(value: &mut Value, make: MakeTrust<'_>) -> Result<(), Vec<Problem>> {
    let Some(sites) = value.get_mut("sites").and_then(Value::as_array_mut) else {
        return Ok(());
    };
    let Some((index, hub, edges)) = sites.iter().enumerate().find_map(temporary_hub) else {
        return Ok(());
    };
    let place = Place::default().key("sites").item(index).key("tunnel").key("identity");
    let refused = |message: String| {
        let remedy = "give the hub's site a name, and a site of the same file a tunnel.connect to it";
        vec![place.problem(Refusal::new(message, remedy))]
    };
    let url = sites.iter().find_map(connects_to).ok_or_else(|| refused("no site connects to it".into()))?;
    let dir = make(&hub, &edges, &url).map_err(refused)?;
    let made = made_hub(&dir).map_err(refused)?;
    for site in sites.iter_mut() {
        let name = site.get("site").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(tunnel) = site.get_mut("tunnel").and_then(Value::as_object_mut) else {
            continue;
        };
        fill_hub(tunnel, &dir, &made);
        if tunnel.get("token_file").is_some_and(is_temporary) {
            let token = dir.join(&name).join("token");
            tunnel.insert("token_file".into(), token.to_string_lossy().into());
        }
    }
    Ok(())
}

fn fill_hub(tunnel: &mut Map<String, Value>, dir: &Path, made: &Value) {
    if tunnel.get("identity").is_some_and(is_temporary) {
        let identity = made["tunnel"]["identity"].as_str().unwrap_or_default();
        let identity = dir.join("hub").join(identity);
        tunnel.insert("identity".into(), identity.to_string_lossy().into());
    }
    let made_edges = made["tunnel"]["edges"].as_array().map(Vec::as_slice).unwrap_or_default();
    let edges = tunnel.get_mut("edges").and_then(Value::as_array_mut);
    for edge in edges.into_iter().flatten().filter(|edge| has_temporary_key(edge)) {
        if let Some(made) = made_edges.iter().find(|made| made["name"] == edge["name"]) {
            edge["keys"] = made["keys"].clone();
        }
    }
}

/// A hub whose identity is temporary, and its edges.
fn temporary_hub((index, site): (usize, &Value)) -> Option<(usize, String, Vec<String>)> {
    let tunnel = site.get("tunnel")?;
    tunnel.get("identity").filter(|identity| is_temporary(identity))?;
    let name = site.get("site")?.as_str()?.to_owned();
    let edges = tunnel.get("edges")?.as_array()?.iter().filter(|edge| has_temporary_key(edge));
    let edges = edges.filter_map(|edge| Some(edge.get("name")?.as_str()?.to_owned()));
    Some((index, name, edges.collect()))
}

fn connects_to(site: &Value) -> Option<LinkUrl> {
    let url = site.get("tunnel")?.get("connect")?.get(0)?.as_str()?;
    LinkUrl::parse(url).ok()
}

fn made_hub(dir: &Path) -> Result<Value, String> {
    let file = dir.join("hub").join("hub.json");
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
}

fn has_temporary_key(edge: &Value) -> bool {
    edge.get("keys").and_then(|keys| keys.get(0)).is_some_and(is_temporary)
}

fn is_temporary(value: &Value) -> bool {
    value.as_str() == Some("temporary")
}
