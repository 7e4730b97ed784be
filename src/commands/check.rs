//! `bridge check`: validates a configuration, tries an edge's way to its hub, and says what it looked at. Tries no
//! broker and makes no link.

use std::path::Path;
use std::time::{Duration, SystemTime};

use pulsar_bridge::config::{self, Config, EdgeCredential, HubCertificate, NOT_BEFORE, Problem, Tunnel};
use pulsar_bridge::exit::Exit;
use pulsar_bridge::site::Site;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::kernel::{Advice, Buffers};
use super::opened::{self, NotOpened, Opened};
use crate::cli::{CheckArgs, Output};

/// Validates the file, by all that `run` does before it binds and dials.
pub fn check(args: &CheckArgs) -> Exit {
    let file = match super::config_file(args.config.file()) {
        Ok(Some(file)) => file,
        Ok(None) => {
            eprintln!("bridge: check: name a configuration: bridge check FILE, or $BRIDGE_CONFIG");
            return Exit::Usage;
        }
        Err(exit) => return exit,
    };
    let looked = match opened::open(Some(file), &[]) {
        Ok(opened) => Ok(opened),
        Err(NotOpened::Config(errors)) => Err(errors),
        Err(not @ NotOpened::Usage(_)) => return not.told(),
    };
    let tried = match looked.as_ref().map(try_links) {
        Ok(Ok(tried)) => tried,
        Ok(Err(exit)) => return exit,
        Err(_) => Value::Null,
    };
    let told = match (args.output, &looked) {
        (Output::Text, Ok(opened)) => text(opened, &tried),
        (Output::Text, Err(errors)) => format!("{errors}\n"),
        (Output::Json, Ok(opened)) => {
            let mut told = json(&opened.file, &[], true, &tried);
            told["trust"] = opened.sites.iter().map(trust_json).collect();
            told["kernel"] = buffers(opened, &tried).iter().map(Advice::json).collect();
            format!("{told}\n")
        }
        (Output::Json, Err(errors)) => {
            format!("{}\n", json(&errors.file, &errors.problems, errors.files_opened, &tried))
        }
    };
    let exit = super::tell(&told);
    if exit == Exit::Done && looked.is_err() {
        return Exit::Refused;
    }
    exit
}

/// What came of an edge's URLs; a list, empty where nobody dials.
fn try_links(opened: &Opened) -> Result<Value, Exit> {
    let runtime = super::runtime()?;
    let mut tried = Vec::new();
    for site in &opened.sites {
        for url in runtime.block_on(site.try_links()) {
            let mut row = json!(url);
            row["site"] = site.config().site.clone().into();
            tried.push(row);
        }
    }
    // Attempts that were passed over for a better one may still wait.
    runtime.shutdown_background();
    Ok(tried.into())
}

/// What to set for what each site's links may carry: over the way that was found out, or over a long one.
fn buffers(opened: &Opened, tried: &Value) -> Vec<Advice> {
    let Some(buffers) = Buffers::read() else {
        return Vec::new();
    };
    let links = tried.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut advice = Vec::new();
    for site in &opened.sites {
        let (budget, millis) = match &site.config().tunnel {
            Tunnel::Hub(hub) => {
                // 0 is no bound.
                let free = hub.edges.iter().any(|edge| edge.budget_mbit_s == 0);
                let widest = hub.edges.iter().map(|edge| edge.budget_mbit_s).max().filter(|_| !free);
                (widest.unwrap_or(0), Some(LONG_WAY_MS))
            }
            Tunnel::Edge(edge) => {
                let own = links.iter().filter(|link| link["site"] == site.config().site.as_str());
                (edge.budget_mbit_s, own.filter_map(|link| link["round_trip_ms"].as_u64()).max())
            }
        };
        let wanted = if budget == 0 { WANTED_MBIT_S } else { budget };
        advice.extend(millis.and_then(|millis| buffers.advice(wanted, Duration::from_millis(millis))));
    }
    advice
}

fn link_text(tried: &Value) -> String {
    let word = |key: &str| tried[key].as_str();
    let mut told = format!("  link {}", word("url").unwrap_or_default());
    if let Some(proxy) = word("proxy") {
        told += &format!(" through the proxy {proxy}");
    }
    told += &match (word("transport"), word("outer_tls_ends_at")) {
        (Some(transport), None) => format!(": {transport}, the hub itself ends it"),
        (Some(transport), Some(issuer)) => {
            format!(
                ": {transport}, the outer TLS ends at a certificate by `{issuer}`, opaque to it: the hub itself is inside"
            )
        }
        (None, _) => ": the hub is not reached".into(),
    };
    if let (Some(code), Some(what), Some(remedy)) = (word("reason"), word("told"), word("remedy")) {
        told += &format!("; {code}: {what}; {remedy}");
    }
    if tried["small_hello_passes"] == true {
        told += "; a smaller ClientHello passes: a firewall on the way refuses the 1.6 KB of X25519MLKEM768, have it pass";
    }
    told + "\n"
}

fn text(opened: &Opened, tried: &Value) -> String {
    let mut told = format!("{}: valid\n", opened.file.display());
    for site in &opened.sites {
        told += &site_text(site.config());
        told += &trust_text(site);
    }
    if let Some(load) = &opened.load {
        told += &format!("  load: {}, answered on {}\n", load.requests, load.results);
    }
    let links = tried.as_array().map(Vec::as_slice).unwrap_or_default();
    told.extend(links.iter().map(link_text));
    told.extend(buffers(opened, tried).iter().map(|advice| format!("  kernel: {}\n", advice.text())));
    told + &format!("  looked at: {}\n  not tried: {}\n", LOOKED_AT.join(", "), NOT_TRIED.join(", "))
}

fn site_text(config: &Config) -> String {
    let side = match &config.tunnel {
        Tunnel::Hub(hub) => {
            let edges: Vec<_> = hub.edges.iter().map(|edge| edge.name.as_str()).collect();
            format!("a hub at {}, edges: {}", hub.listen, edges.join(", "))
        }
        Tunnel::Edge(edge) => {
            let urls: Vec<_> = edge.connect.iter().map(ToString::to_string).collect();
            format!("an edge of {}", urls.join(", "))
        }
    };
    let mut told = format!("  site {}, {side}\n", config.site);
    for route in &config.routes {
        let topics: Vec<_> = route.topics.iter().map(ToString::to_string).collect();
        told += &format!("  route {}: {} > {}: {}\n", route.name, route.from, route.to, topics.join(", "));
    }
    for forward in &config.forwards {
        let config::Forward { name, from, listen, to, target, .. } = forward;
        told += &format!("  forward {name}: {from} at {listen} > {to}, {target}\n");
    }
    told
}

/// By what both sides know each other, and what of it ends when.
fn trust_text(site: &Site) -> String {
    let expiries: Vec<_> = site.expiries().iter().map(|it| expiry_text(it.what, it.at)).collect();
    let ends = if expiries.is_empty() { "nothing of it expires".into() } else { expiries.join(", ") };
    let warnings = site.hand().warnings();
    let warnings: String = warnings.iter().map(|text| format!("  warning: {text}\n")).collect();
    let pins = site.hand().pins();
    // An edge has them in the order that its operator chose.
    let order = if matches!(site.config().tunnel, Tunnel::Hub(_)) { ", the newest first" } else { "" };
    let pins = match &pins[..] {
        [] => String::new(),
        [pin] => format!("  pin of the hub's root: {pin}\n"),
        _ => format!("  pins of the hub's roots{order}: {}\n", pins.join(",")),
    };
    format!("  trust: {}; {ends}\n{pins}{warnings}", trust_kind(site.config()))
}

fn trust_json(site: &Site) -> Value {
    let expire = site.expiries().iter().map(|it| json!({ "what": it.what, "at": it.at })).collect::<Value>();
    let warnings = site.hand().warnings();
    json!({
        "site": site.config().site,
        "by": trust_kind(site.config()),
        "pins": site.hand().pins(),
        "expire": expire,
        "warnings": warnings,
    })
}

fn trust_kind(config: &Config) -> String {
    match &config.tunnel {
        Tunnel::Hub(hub) => {
            let own = match &hub.certificate {
                HubCertificate::Issuer(_) => "the hub's own issuer",
                HubCertificate::Own(_) => "an own PKI",
            };
            let by_key = hub.edges.iter().filter(|edge| !edge.keys.is_empty()).count();
            let by_name = hub.edges.iter().filter(|edge| edge.cert_name.is_some()).count();
            let lists = hub.client_authorities.as_ref().map(|files| files.crl_file.is_some());
            let revoked = if lists == Some(false) { ", without a revocation list" } else { "" };
            let out: Vec<_> =
                hub.edges.iter().filter(|edge| edge.is_shut_out()).map(|edge| edge.name.as_str()).collect();
            let out = if out.is_empty() { String::new() } else { format!(", shut out: {}", out.join(", ")) };
            format!("{own}; edges by key: {by_key}, by certificate: {by_name}{revoked}{out}")
        }
        Tunnel::Edge(edge) => match &edge.credential {
            EdgeCredential::Token(_) => "a token, which pins the hub's root".into(),
            EdgeCredential::Certificate(pki) => format!("an own PKI, the hub is `{}`", pki.hub_name),
        },
    }
}

fn expiry_text(what: &str, at: u64) -> String {
    let date = i64::try_from(at).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let date = date.map_or_else(|| "for ever".into(), |date| date.date().to_string());
    match at.checked_sub(now) {
        Some(left) => format!("{what} until {date} ({} days)", left / 86_400),
        None => format!("{what} ended {date}"),
    }
}

fn json(file: &Path, problems: &[Problem], files_opened: bool, tried: &Value) -> Value {
    let (mut looked_at, mut not_tried) = (LOOKED_AT.to_vec(), NOT_TRIED.to_vec());
    if !files_opened && !config::has_values(problems) {
        not_tried.append(&mut looked_at);
    } else if !files_opened {
        looked_at.pop();
        not_tried.extend(NOT_BEFORE);
    }
    json!({
        "file": file.display().to_string(),
        "ok": problems.is_empty(),
        "problems": problems,
        "links": tried,
        "looked_at": looked_at,
        "not_tried": not_tried,
    })
}

/// The files last: where values are wrong, they are not looked at.
const LOOKED_AT: [&str; 3] = ["keys and values", "routes against each other", "the files that it names"];
const NOT_TRIED: [&str; 2] = ["the cluster", "the other side's policy"];
/// There and back, where nobody was asked: across an ocean.
const LONG_WAY_MS: u64 = 100;
/// Of one connection, where no budget says less.
const WANTED_MBIT_S: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_file_without_values_was_looked_at() {
        let problem = |path: &str| Problem { path: path.into(), message: "m".into(), remedy: "r".into() };
        for (path, looked_at) in [("", 0), ("site", 2)] {
            let told = json(Path::new("x.json"), &[problem(path)], false, &Value::Null);
            assert_eq!(told["looked_at"].as_array().unwrap().len(), looked_at, "{told}");
            let not_tried = told["not_tried"].as_array().unwrap();
            assert!(not_tried.contains(&json!("the files that it names")), "{told}");
        }
    }
}
