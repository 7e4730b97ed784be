//! Policy, edges, routes and limits change while messages flow; what is refused changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::running::{File, Running, lanes};
use crate::stage::{Stage, TOPIC, edge, init, result};

#[test]
fn twenty_reloads_and_a_revoked_edge_leave_other_lanes_and_their_messages_alone() {
    let mut stage = Stage::set();
    let untouched = lanes(&stage.hub.status(), "bank");
    let load = stage.relayed(500, 6);
    load.line(&["Throughput received"]);
    for nth in 0..20 {
        stage.hub_file.change(|hub| edge(hub, "other")["policy"]["receive"] = json!([format!("t-{nth}")]));
        stage.hub.loads();
    }
    stage.hub_file.change(|hub| {
        let edges = hub["tunnel"]["edges"].as_array_mut().unwrap();
        edges.retain(|edge| edge["name"] != "other");
        hub["routes"]
            .as_array_mut()
            .unwrap()
            .retain(|route| route["to"] != "other" && route["from"] != "other");
    });
    let since = Instant::now();
    stage.hub.loads();
    stage.hub.line(&["lane ended", "peer=other", "reason=\"revoked\""]);
    stage.other.until("it knows why", |status| status["links"][0]["reason"] == "refused_unknown_key");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    let status = stage.hub.until("its row is gone", |status| status["links"].as_array().unwrap().len() == 1);
    assert_eq!(lanes(&status, "bank"), untouched);
    let result = result(&load.ended());
    assert_eq!((&result["lost"], &result["repeated"]), (&json!(0), &json!(0)), "{result}");
    assert_eq!(lanes(&stage.hub.status(), "bank"), untouched);
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_everything_wrong_with_it_is_told() {
    let mut stage = Stage::set();
    let before = stage.hub.status();
    let whole = stage.hub_file.value.clone();
    stage.hub_file.change(|hub| {
        edge(hub, "bank")["keys"] = json!(["bk1.bank.x"]);
        hub["drain_seconds"] = json!(4000);
        hub["rotues"] = json!([]);
    });
    assert!(stage.hub.reload().contains("is refused"));
    let refused = stage.hub.status()["configuration"]["refused"].clone();
    let told: Vec<&str> = refused.as_array().unwrap().iter().map(|told| told.as_str().unwrap()).collect();
    let hub_file = stage.hub_file.path.display().to_string();
    for place in
        ["tunnel.edges[0].keys[0]: ", "drain_seconds: ", "rotues: unknown key; did you mean `routes`?"]
    {
        let begin = format!("{hub_file}: {place}");
        assert!(told.iter().any(|told| told.starts_with(&begin)), "{begin} {told:?}");
    }
    // Another name makes it another site: of what follows from that nothing is told.
    stage.bank_file.change(|bank| bank["site"] = json!("banque"));
    assert!(stage.bank.reload().contains("is refused"));
    let told = stage.bank.status()["configuration"]["refused"].clone();
    let begin = ": site: it cannot change while the bridge runs, which is `bank`; put back what it was";
    assert!(told.as_array().unwrap().len() == 1 && told[0].as_str().unwrap().contains(begin), "{told}");
    // No file at all: which one is told.
    fs::remove_file(&stage.hub_file.path).unwrap();
    assert!(stage.hub.reload().contains(&hub_file), "{}", stage.hub.text());
    let told = stage.hub.status()["configuration"]["refused"][0].to_string();
    assert!(told.contains(&format!("{hub_file}: cannot be read")), "{told}");
    // What is right in itself, and cannot change while it runs.
    stage.hub_file.value = whole.clone();
    stage.hub_file.change(|hub| {
        hub["admin"]["listen"] = json!("127.0.0.1:9");
        hub["tunnel"]["listen"] = json!("127.0.0.1:8");
        hub["pulsar"]["service_url"] = json!("pulsar://127.0.0.1:7");
        edge(hub, "bank")["policy"] = json!({});
    });
    assert!(stage.hub.reload().contains("is refused"));
    let refused = stage.hub.status()["configuration"]["refused"].to_string();
    for place in ["admin.listen", "tunnel.listen", "pulsar"] {
        let told = format!("{place}: it cannot change while the bridge runs; restart to change it");
        assert!(refused.contains(&told), "{refused}");
    }
    assert!(stage.hub.metrics().contains("bridge_config_reload_failed 1"));
    let now = stage.hub.status();
    assert_eq!(now["configuration"]["digest"], before["configuration"]["digest"]);
    assert_eq!(lanes(&now, "bank"), lanes(&before, "bank"));
    // As it was, it is loaded, and nothing is refused any more.
    stage.hub_file.value = whole;
    stage.hub_file.change(|_| {});
    stage.hub.loads();
    let now = stage.hub.status();
    assert_eq!(now["configuration"]["digest"], before["configuration"]["digest"]);
    assert_eq!(now["configuration"]["refused"], Value::Null);
    assert!(stage.hub.metrics().contains("bridge_config_reload_failed 0"));
}

#[test]
fn keys_and_configuration_are_refused_and_excused_each_for_itself() {
    let mut stage = Stage::set();
    let failed = |value: u8| format!("bridge_config_reload_failed {value}");
    let refused = |status: &Value| status["configuration"]["refused"].to_string();
    let token = stage.bank_file.path.with_file_name("token");
    let mode = |mode: u32| fs::set_permissions(&token, PermissionsExt::from_mode(mode)).unwrap();
    // As the error asks for.
    mode(0o644);
    stage.bank.until("the mode is refused", |status| refused(status).contains("chmod 0600"));
    assert!(stage.bank.metrics().contains(&failed(1)));
    mode(0o600);
    stage.bank.until("it is taken", |status| status["configuration"]["refused"].is_null());
    assert!(stage.bank.metrics().contains(&failed(0)));
    // A secret in the place of its file, and keys that change meanwhile.
    let whole = stage.bank_file.value.clone();
    stage.bank_file.change(|edge| {
        let secret = fs::read_to_string(&token).unwrap();
        edge["tunnel"]["token_file"] = json!(secret);
        edge["pulsar"]["auth"] = json!({ "token_file": "canary" });
    });
    assert!(stage.bank.reload().contains("is refused"));
    stage.bank_file.change(|edge| edge["tunnel"]["token_file"] = json!("canary"));
    assert!(stage.bank.reload().contains("is refused"));
    let before = stage.bank.said();
    mode(0o400);
    stage.bank.line_from(before, &["the configuration is loaded"]);
    let told = refused(&stage.bank.status());
    assert!(
        told.contains("tunnel.token_file: below ") && told.contains("pulsar.auth.token_file: below "),
        "{told}"
    );
    assert!(stage.bank.metrics().contains(&failed(1)));
    stage.bank_file.value = whole;
    stage.bank_file.change(|_| {});
    stage.bank.loads();
    assert_eq!(stage.bank.status()["configuration"]["refused"], Value::Null);
    assert!(stage.bank.metrics().contains(&failed(0)));
    let said = stage.bank.text();
    assert!(said.contains("this looks like the secret itself"), "{said}");
    assert!(!said.contains("bt1.") && !said.contains("canary"), "{said}");
}

#[test]
fn a_secret_that_others_may_read_is_told_while_it_is_so() {
    let dir = tempfile::tempdir().unwrap();
    init(&["--hub", "riskfuel", "--edge", "bank", "--url", "tls://127.0.0.1:1"], dir.path());
    let mut file = File::read(dir.path().join("bank/edge.json"));
    let secrets = ["token", "password", "pulsar-token"].map(|name| file.path.with_file_name(name));
    let mode = |secret: &Path, mode| fs::set_permissions(secret, PermissionsExt::from_mode(mode)).unwrap();
    for secret in &secrets[1..] {
        fs::write(secret, "secret").unwrap();
        mode(secret, 0o600);
    }
    file.change(|edge| {
        edge["pulsar"] = json!({ "service_url": "pulsar://127.0.0.1:1", "deduplication": "asserted", "auth": { "token_file": secrets[2] } });
        edge["tunnel"]["proxy"] = json!("http://127.0.0.1:1");
        edge["tunnel"]["proxy_user"] = json!("bank");
        edge["tunnel"]["proxy_password_file"] = json!(secrets[1]);
        edge["admin"]["listen"] = json!("127.0.0.1:0");
    });
    let bank = Running::site(&file.path);
    bank.line(&["bridge runs"]);
    let refused = |status: &Value| status["configuration"]["refused"].clone();
    for secret in &secrets {
        mode(secret, 0o644);
        bank.until("it is told", |status| refused(status).to_string().contains("chmod 0600"));
        assert!(bank.metrics().contains("bridge_config_reload_failed 1"));
        mode(secret, 0o600);
        bank.until("it is well", |status| refused(status).is_null());
        assert!(bank.metrics().contains("bridge_config_reload_failed 0"));
    }
}

#[test]
fn a_policy_that_narrows_stops_its_route_at_both_sides_within_two_seconds() {
    let mut stage = Stage::set();
    let load = stage.relayed(200, 3);
    let row = |status: &Value, wanted: &dyn Fn(&Value) -> bool| {
        status["routes"].as_array().unwrap().iter().any(|row| row["topic"] == TOPIC && wanted(row))
    };
    let runs = |row: &Value| row["state"] == "running" && row["to"] == "bank";
    let refused = |row: &Value| row["reason"] == "refused_by_policy" && row["to"] == "bank";
    stage.hub.until("it runs", |status| row(status, &runs));
    stage.bank_file.change(|edge| edge["policy"]["receive"] = json!([]));
    let since = Instant::now();
    stage.bank.loads();
    for site in [&stage.bank, &stage.hub] {
        site.until("it is refused", |status| row(status, &refused));
    }
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    stage.bank_file.change(|edge| edge["policy"]["receive"] = json!([TOPIC]));
    stage.bank.loads();
    stage.hub.until("it runs again", |status| row(status, &runs));
    let result = result(&load.ended());
    assert_eq!((&result["lost"], &result["repeated"]), (&json!(0), &json!(0)), "{result}");
}
