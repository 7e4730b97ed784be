//! Keys and trust that change under load: another link takes the place of the one that was, before that ends.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::running::{Running, lanes, until};
use crate::stage::{Stage, edge, init, result};

/// Puts a secret in another's place, as an operator does.
fn put(text: &str, file: &Path) {
    let next = file.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::set_permissions(&next, PermissionsExt::from_mode(0o600)).unwrap();
    fs::rename(next, file).unwrap();
}

/// Waits until the peer's lanes are as many again, and none of them is one of these.
pub fn moved(site: &Running, peer: &str, before: &[String]) -> Value {
    site.until("all lanes are others", |status| {
        let now = lanes(status, peer);
        now.len() == before.len() && now.iter().all(|lane| !before.contains(lane))
    })
}

/// Nothing is lost, repeated or out of order.
fn clean(said: &str) -> Value {
    let result = result(said);
    let zero = json!(0);
    assert_eq!(
        (&result["lost"], &result["repeated"], &result["disordered"]),
        (&zero, &zero, &zero),
        "{said}"
    );
    result
}

/// What was relayed never stood still: no source was without a lane, and no message waited for a timeout.
fn without_a_gap(said: &str, sites: [(&Running, usize); 2]) {
    for (site, from) in sites {
        let text = site.text();
        let mut lines = text.lines().skip(from);
        let down = lines.find(|line| line.contains("link_down") && line.contains("end=Source"));
        assert_eq!(down, None, "{text}");
    }
    let aggregated = said.lines().find(|line| line.starts_with("Aggregated latency")).unwrap();
    let latest_ms: f64 = aggregated.rsplit("Max:").next().unwrap().trim().parse().unwrap();
    assert!(latest_ms < TIMEOUT_MS, "{said}");
}

/// What goes wrong in a handover waits at least so long for another lane, and longer for a handshake's end or for silence
/// to be noticed. What it takes where nothing does, a second at most, is no matter of a debug build beside other load:
/// `testbed/tunnel` holds it, case `rotation`.
const TIMEOUT_MS: f64 = 5000.0;

#[test]
fn an_edges_key_rotates_without_a_loss_and_without_a_gap() {
    let mut stage = Stage::set();
    let load = stage.relayed(500, 8);
    load.line(&["Throughput received"]);
    let (from_here, from_there) = (stage.hub.said(), stage.bank.said());
    let before = lanes(&stage.hub.status(), "bank");
    let untouched = lanes(&stage.hub.status(), "other");
    let old = edge(&mut stage.hub_file.value, "bank")["keys"].clone();
    let printed = init(&["--rotate", "bank"], stage.dir.path());
    let key = printed.split('"').find(|part| part.starts_with("bk1.bank.")).unwrap().to_owned();
    // The edge has its new key before the hub knows it: it goes on with what it has.
    let token = stage.dir.path().join("bank/token");
    put(&fs::read_to_string(stage.dir.path().join("bank/token-2")).unwrap(), &token);
    stage.bank.line(&["goes on as it is", "refused_unknown_key"]);
    let told = stage.bank.until("it says what a restart would do", |status| !status["warnings"].is_null());
    let told = told["warnings"][0].as_str().unwrap();
    assert!(told.contains(&key) && told.contains("a restart of this process would keep it out"), "{told}");
    assert_eq!(lanes(&stage.hub.status(), "bank"), before);
    stage.hub_file.change(|hub| {
        edge(hub, "bank")["keys"].as_array_mut().unwrap().push(json!(key));
    });
    stage.hub.loads();
    stage.bank.line(&["link renewed"]);
    stage.bank.until("nothing is pending", |status| status["warnings"].is_null());
    moved(&stage.hub, "bank", &before);
    let now = lanes(&stage.hub.status(), "bank");
    for (site, peer) in [(&stage.hub, "bank"), (&stage.bank, "riskfuel")] {
        site.until("it shows the new key", |status| {
            let mut links = status["links"].as_array().unwrap().iter();
            links
                .any(|link| link["peer"] == peer && link["state"] == "up" && link["edge_key"] == key.as_str())
        });
    }
    // The old key goes, and takes nothing with it.
    stage.hub_file.change(|hub| edge(hub, "bank")["keys"] = json!([key]));
    stage.hub.loads();
    let said = load.ended();
    clean(&said);
    without_a_gap(&said, [(&stage.hub, from_here), (&stage.bank, from_there)]);
    assert_eq!(lanes(&stage.hub.status(), "bank"), now);
    assert_eq!(lanes(&stage.hub.status(), "other"), untouched);
    // A configuration from before is restored: it does not let the old key in again.
    stage.hub_file.change(|hub| edge(hub, "bank")["keys"] = old);
    assert!(stage.hub.reload().contains("is refused"));
    stage.hub.line(&["was taken away before", "hub/keys/revoked", "take the line away"]);
}

#[test]
fn a_reload_of_the_same_keys_renews_nothing() {
    let mut stage = Stage::set();
    let before = lanes(&stage.bank.status(), "riskfuel");
    stage.bank_file.change(|edge| edge["drain_seconds"] = json!(29));
    stage.bank.loads();
    let token = stage.dir.path().join("bank/token");
    put(&fs::read_to_string(&token).unwrap(), &token);
    stage.bank.line(&["keys or certificates changed"]);
    // What would be renewed is renewed at once; a change that counts is taken after it.
    stage.bank_file.change(|edge| edge["tunnel"]["lanes"] = json!(2));
    stage.bank.loads();
    stage.bank.line(&["link renewed"]);
    assert_eq!(stage.bank.text().matches("link renewed").count(), 1);
    stage.bank.until("the old lanes are gone", |status| {
        let now = lanes(status, "riskfuel");
        now.len() == before.len() + 1 && now.iter().all(|lane| !before.contains(lane))
    });
}

#[test]
fn an_issuer_is_renewed_and_edges_that_ask_for_it_believe_no_older_one() {
    let mut stage = Stage::set();
    let load = stage.relayed(500, 6);
    load.line(&["Throughput received"]);
    let (from_here, from_there) = (stage.hub.said(), stage.bank.said());
    let before = lanes(&stage.hub.status(), "bank");
    let dir = stage.dir.path().to_owned();
    let trust_after = |edge: &mut Value, time: &str| edge["tunnel"]["trust_after"] = json!(time);
    let offline = dir.join("offline");
    let printed = init(&["--renew-issuer", offline.to_str().unwrap()], &dir.join("new"));
    for file in ["issuer.key", "chain.pem"] {
        put(&fs::read_to_string(dir.join("new").join(file)).unwrap(), &dir.join("hub/keys").join(file));
    }
    stage.hub.line(&["the configuration is loaded"]);
    assert_eq!(lanes(&stage.hub.status(), "bank"), before, "no edge is touched");
    let time = printed.split('"').find(|part| part.ends_with('Z')).unwrap();
    stage.bank_file.change(|edge| trust_after(edge, time));
    assert!(stage.bank.reload().contains("is loaded"));
    stage.bank.line(&["link renewed"]);
    moved(&stage.hub, "bank", &before);
    let said = load.ended();
    clean(&said);
    without_a_gap(&said, [(&stage.hub, from_here), (&stage.bank, from_there)]);
    // Where nobody has a newer one, the link ends with the belief in it.
    let before = lanes(&stage.bank.status(), "riskfuel");
    stage.bank_file.change(|edge| trust_after(edge, "2999-01-01T00:00:00Z"));
    stage.bank.loads();
    ends_within_two_seconds(&stage, &before);
    stage.bank.line(&["is to be renewed, and ends within 2 s", "issuer_distrusted"]);
    assert!(!stage.bank.text().contains("goes on as it is"), "{}", stage.bank.text());
    stage.bank.line(&["no link", "issuer_distrusted"]);
}

/// Waits for the end of these lanes, a reload after which their hub is not believed any more being done.
fn ends_within_two_seconds(stage: &Stage, before: &[String]) {
    let since = Instant::now();
    stage.bank.until("none of the lanes is there", |status| {
        lanes(status, "riskfuel").iter().all(|lane| !before.contains(lane))
    });
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

#[test]
fn a_pin_that_is_taken_away_ends_the_link_to_its_hub_within_two_seconds() {
    let stage = Stage::set();
    let before = lanes(&stage.bank.status(), "riskfuel");
    let elsewhere = stage.dir.path().join("elsewhere");
    init(&["--hub", "riskfuel", "--edge", "bank", "--url", "tls://127.0.0.1:1"], &elsewhere);
    put(&fs::read_to_string(elsewhere.join("bank/token")).unwrap(), &stage.dir.path().join("bank/token"));
    stage.bank.line(&["the configuration is loaded"]);
    ends_within_two_seconds(&stage, &before);
    // Nor does it come back by the key from before.
    stage.bank.line(&["no link", "intercepted"]);
    stage.bank.until("no lanes", |status| lanes(status, "riskfuel").is_empty());
}

#[test]
fn an_edge_whose_new_key_is_not_known_yet_comes_back_by_the_old_one() {
    let mut stage = Stage::set();
    let port = stage.hub.port("tunnel: listening");
    let before = lanes(&stage.bank.status(), "riskfuel");
    let printed = init(&["--rotate", "bank"], stage.dir.path());
    let key = printed.split('"').find(|part| part.starts_with("bk1.bank.")).unwrap().to_owned();
    let token = stage.dir.path().join("bank/token");
    put(&fs::read_to_string(stage.dir.path().join("bank/token-2")).unwrap(), &token);
    stage.bank.line(&["goes on as it is", "refused_unknown_key"]);
    // The hub restarts, and knows no other key than before.
    stage.hub_file.change(|hub| hub["tunnel"]["listen"] = json!(format!("127.0.0.1:{port}")));
    stage.hub.signal(rustix::process::Signal::KILL);
    until(&["the port"], || TcpListener::bind(("127.0.0.1", port)).ok()).unwrap();
    stage.hub = Running::site(&stage.hub_file.path);
    let by_old = moved(&stage.bank, "riskfuel", &before);
    stage.hub_file.change(|hub| {
        edge(hub, "bank")["keys"].as_array_mut().unwrap().push(json!(key));
    });
    stage.hub.loads();
    stage.bank.line(&["link renewed"]);
    moved(&stage.bank, "riskfuel", &lanes(&by_old, "riskfuel"));
}
