//! Whoever has every file of the hub still cannot be an edge anywhere.

use std::path::Path;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::bridge::{Keys, hub};
use crate::stranger::{Certified, RawEdge};

#[tokio::test(flavor = "multi_thread")]
async fn the_hubs_files_do_not_make_an_edge_at_a_second_hub() {
    let keys = Keys::new();
    let read = |file: &str| std::fs::read_to_string(keys.path().join("hub/keys").join(file)).unwrap();
    let issuer_key = || KeyPair::from_pem(&read("issuer.key")).unwrap();
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(read("chain.pem").as_bytes()).map(Result::unwrap).collect();
    let issuer = Issuer::from_ca_cert_der(&chain[0], issuer_key()).unwrap();
    let minted_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["bank".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "bank");
    let minted = params.signed_by(&minted_key, &issuer).unwrap();
    let attempts = [
        // A client certificate that the hub's own issuer signed for the name.
        Certified {
            chain: [minted.der().clone()].into_iter().chain(chain.clone()).collect(),
            key: PrivateKeyDer::try_from(minted_key.serialize_der()).unwrap(),
        },
        // The issuer itself.
        Certified {
            chain: chain.clone(),
            key: PrivateKeyDer::try_from(issuer_key().serialize_der()).unwrap(),
        },
        Certified::self_signed(&issuer_key(), "bank"),
    ];
    let (mut second, address) = hub(&keys.hub_tunnel()).await;
    for (n, certified) in attempts.into_iter().enumerate() {
        // The hub offers Ed25519 alone, so a P-256 key may fail before it is even looked up.
        let joined = tokio::spawn(async move {
            let mut raw = RawEdge::connect(address, certified, &[b"bridge/1"]).await;
            raw.hear().await
        });
        assert!(!matches!(joined.await, Ok(Ok(_))), "attempt {n} was answered");
    }
    assert!(second.events.try_recv().is_err());
    assert!(second.board.rows().iter().all(|row| row.link.is_none()));
}

#[test]
fn no_token_and_no_root_key_lies_in_the_hubs_folder() {
    let keys = Keys::new();
    let mut looked_at = 0;
    let seeds = ["bank", "other"].map(|edge| {
        let token = std::fs::read_to_string(keys.token_file(edge)).unwrap();
        token.split('.').nth(3).unwrap().to_owned()
    });
    let root_key = std::fs::read_to_string(keys.path().join("offline/root.key")).unwrap();
    let root_key_body = root_key.lines().nth(1).unwrap().to_owned();
    for file in files_of(&keys.path().join("hub")) {
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        assert!(!text.contains("bt1."), "{}", file.display());
        assert!(seeds.iter().all(|seed| !text.contains(seed)), "{}", file.display());
        assert!(!text.contains(&root_key_body), "{}", file.display());
        looked_at += 1;
    }
    assert_eq!(looked_at, 4, "hub.json, issuer.key, chain.pem, revoked");
}

pub fn files_of(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_of(&path)),
            false => files.push(path),
        }
    }
    files
}
