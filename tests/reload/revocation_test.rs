//! An edge goes over from its token to a certificate, and a list of revocations that is replaced ends what it names.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::organisation::{CLIENT, Organisation};
use crate::rotation_test::moved;
use crate::running::lanes;
use crate::stage::{Stage, edge, init};

#[test]
fn a_certificate_takes_a_tokens_place_and_ends_within_two_seconds_of_its_revocation() {
    let mut stage = Stage::set();
    let by = Organisation::new();
    let (cert, key) = by.certify(CLIENT);
    let before = lanes(&stage.hub.status(), "bank");
    let untouched = lanes(&stage.hub.status(), "other");
    let crl_file = by.revokes(&[], 1);
    stage.hub_file.change(|hub| {
        hub["tunnel"]["client_ca_file"] = json!(by.ca_file());
        hub["tunnel"]["crl_file"] = json!(crl_file);
        edge(hub, "bank")["cert_name"] = json!("bank.example.com");
    });
    stage.hub.loads();
    let root = stage.dir.path().join("offline/root.crt");
    stage.bank_file.change(|bank| {
        let tunnel = bank["tunnel"].as_object_mut().unwrap();
        tunnel.remove("token_file");
        tunnel.insert("ca_file".into(), json!(root));
        tunnel.insert("hub_name".into(), json!("riskfuel.hub.bridge.internal"));
        tunnel.insert("hub_site".into(), json!("riskfuel"));
        tunnel.insert("cert_file".into(), json!(cert));
        tunnel.insert("key_file".into(), json!(key));
    });
    stage.bank.loads();
    let by_certificate = moved(&stage.hub, "bank", &before);
    stage.hub_file.change(|hub| {
        edge(hub, "bank").as_object_mut().unwrap().remove("keys");
    });
    stage.hub.loads();
    assert_eq!(lanes(&stage.hub.status(), "bank"), lanes(&by_certificate, "bank"), "its key is not used");

    // A list that another organisation of the same name made changes nothing.
    fs::copy(Organisation::new().revokes(&[CLIENT.serial], 1), &crl_file).unwrap();
    stage.hub.line(&[
        "is refused",
        "tunnel.crl_file",
        "crl.pem",
        "is not signed by the authority of that name",
    ]);
    assert_eq!(lanes(&stage.hub.status(), "bank"), lanes(&by_certificate, "bank"));
    // One that is late ends nobody, and is told.
    by.revokes(&[], -1);
    let late = stage.hub.until("says so", |status| !status["warnings"].is_null());
    let told = late["warnings"][0].as_str().unwrap();
    assert!(
        told.starts_with("the first of the lists in crl_file ended on ") && told.contains("crl_stale"),
        "{told}"
    );
    stage.hub.line(&["ERROR", "the first of the lists in crl_file ended on "]);
    assert_eq!(lanes(&stage.hub.status(), "bank"), lanes(&by_certificate, "bank"));
    let since = Instant::now();
    by.revokes(&[CLIENT.serial], 1);
    stage.hub.until("no lane of the revoked certificate", |status| lanes(status, "bank").is_empty());
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    stage.bank.line(&["certificate_revoked"]);
    assert_eq!(lanes(&stage.hub.status(), "other"), untouched);
}

#[test]
fn an_edge_is_shut_out_at_once_though_routes_name_it_and_no_old_file_lets_it_in() {
    let mut stage = Stage::set();
    let untouched = lanes(&stage.hub.status(), "other");
    let key = edge(&mut stage.hub_file.value, "bank")["keys"].clone();
    stage.hub_file.change(|hub| edge(hub, "bank")["keys"] = json!([]));
    stage.hub.loads();
    let since = Instant::now();
    let status = stage.hub.until("no lane of it", |status| lanes(status, "bank").is_empty());
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    let row = status["links"].as_array().unwrap().iter().find(|link| link["peer"] == "bank").unwrap();
    assert_eq!(row["reason"], "shut_out");
    for site in [&stage.bank, &stage.hub] {
        site.line(&[
            "refused_unknown_key",
            "a key that was taken away",
            "needs a new one",
            "--rotate",
            "--own-key",
        ]);
    }
    stage.hub_file.change(|hub| edge(hub, "bank")["keys"] = key);
    assert!(stage.hub.reload().contains("is refused"));
    stage.hub.line(&["was taken away before", "hub/keys/revoked", "to shut it out"]);
    assert_eq!(lanes(&stage.hub.status(), "other"), untouched);
    // A new key opens the door again.
    let printed = init(&["--rotate", "bank"], stage.dir.path());
    let key = printed.split('"').find(|part| part.starts_with("bk1.bank.")).unwrap().to_owned();
    stage.hub_file.change(|hub| edge(hub, "bank")["keys"] = json!([key]));
    stage.hub.loads();
    stage.hub.until("waits for it", |status| {
        let links = status["links"].as_array().unwrap();
        links.iter().any(|link| link["peer"] == "bank" && link["reason"] == "not_dialled")
    });
}
