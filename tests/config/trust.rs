//! What `bridge check` tells of a hub's keys: what rests on them, when that ends, and what does not fit.

use std::fs;

use serde_json::{Value, json};

use super::{ended, init, refused};

#[test]
fn check_says_what_a_hubs_trust_rests_on_and_when_that_ends() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let init = ["init", "--hub", "riskfuel", "--edge", "bank", "--url", "tls://127.0.0.1:1", "--out", out];
    assert_eq!(ended(&init).0, 0);
    let file = format!("{out}/hub/hub.json");
    let (code, stdout, _) = ended(&["check", "--config", &file]);
    let line = stdout.lines().find(|line| line.starts_with("  trust: ")).unwrap();
    let begin = "  trust: the hub's own issuer; edges by key: 1, by certificate: 0; the hub's issuer until ";
    assert!(code == 0 && line.starts_with(begin), "{stdout}");
    assert!(line.contains(" days), the hub's root until ") && line.ends_with(" days)"), "{line}");
    let (_, stdout, _) = ended(&["check", "--config", &file, "--output", "json"]);
    let told: Value = serde_json::from_str(&stdout).unwrap();
    let [issuer, root] = [0, 1].map(|index| &told["trust"][0]["expire"][index]);
    assert_eq!((&issuer["what"], &root["what"]), (&json!("the hub's issuer"), &json!("the hub's root")));
    let years = (root["at"].as_u64().unwrap() - issuer["at"].as_u64().unwrap()) / (365 * 86_400);
    assert_eq!(years, 9, "{told}");
    assert_eq!(told["trust"][0]["warnings"], json!([]));
    // The same pin on both sides: whoever replaces a root compares them.
    let pin = told["trust"][0]["pins"][0].as_str().unwrap().to_owned();
    let (_, stdout, _) = ended(&["check", "--config", &format!("{out}/bank/edge.json")]);
    assert!(stdout.contains(&format!("\n  pin of the hub's root: {pin}\n")), "{stdout}");
    // Keys that came without what was taken away of them, and an edge that is let in by none.
    fs::remove_file(format!("{out}/hub/keys/revoked")).unwrap();
    let mut hub: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    hub["tunnel"]["edges"][0]["keys"] = json!([]);
    fs::write(&file, hub.to_string()).unwrap();
    let (code, stdout, _) = ended(&["check", "--config", &file]);
    assert!(code == 0 && stdout.contains("by certificate: 0, shut out: bank; "), "{stdout}");
    let warning = format!("\n  warning: {out}/hub/keys/revoked is not there: ");
    assert!(stdout.contains(&warning) && stdout.contains("bring the file along"), "{stdout}");
}

#[test]
fn a_hub_of_another_name_than_its_keys_is_refused_before_every_edge_would_call_it_intercepted() {
    let dir = tempfile::tempdir().unwrap();
    init(&dir, &["--hub", "riskfuel", "--edge", "bank", "--url", "tls://127.0.0.1:8001"]);
    let file = dir.path().join("made/hub/hub.json").to_str().unwrap().to_owned();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"riskfuel\"", "\"fuel\"")).unwrap();
    let told = refused(&file);
    let message =
        "signs only for `riskfuel.hub.bridge.internal`, and this site is `fuel`; make `site` the name";
    assert!(
        told.len() == 1 && told[0].starts_with("tunnel.identity: ") && told[0].contains(message),
        "{told:?}"
    );
}
