//! An edge goes over from its token to a certificate, and a list of revocations that is replaced ends what it names.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::organisation::{CLIENT, Organisation};
use crate::rotation_test::moved;
use crate::running::lanes;
use crate::stage::{Stage, edge};

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

    let since = Instant::now();
    by.revokes(&[CLIENT.serial], 1);
    stage.hub.until("no lane of the revoked certificate", |status| lanes(status, "bank").is_empty());
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    stage.bank.line(&["certificate_revoked"]);
    assert_eq!(lanes(&stage.hub.status(), "other"), untouched);
}
