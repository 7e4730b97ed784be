//! Somebody between edge and hub: the edge names it, sends nothing, and says what to do.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use pulsar_bridge::config::credential::JoinToken;
use pulsar_bridge::config::{EdgeCredential, EdgeTunnel};
use pulsar_bridge::tunnel::metrics::ReasonLabel;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::bridge::{Keys, edge, hub, in_time};
use crate::stranger::{Certified, play_hub};

const BRIDGE: &[&[u8]] = &[b"bridge/1"];

/// Whatever a certificate of this shows is not the hub: the edge keeps silent.
async fn sees_through(keys: &Keys, certified: Certified) -> String {
    let (address, seen) = play_hub(certified, BRIDGE).await;
    let edge = edge(keys.edge_tunnel("bank", address, 1), "bank");
    let row = edge.reason("intercepted").await;
    assert_eq!(row.state, "refused");
    let remedy = row.remedy.unwrap();
    assert!(remedy.contains("inspection"));
    edge.stop.cancel();
    edge.task.await.unwrap();
    // Counted when a connection is over at the stranger's side too; only then it has seen all there was.
    let over = async {
        while seen.connections.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(over).await;
    assert_eq!(seen.application_bytes.load(Ordering::SeqCst), 0);
    assert!(!seen.client_certificate.load(Ordering::SeqCst), "not even the edge's certificate is shown");
    remedy
}

/// A leaf for the hub's name, signed by this issuer.
fn leaf(issuer: &Issuer<'_, KeyPair>, others: Vec<CertificateDer<'static>>) -> Certified {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["riskfuel.hub.bridge.internal".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut chain = vec![params.signed_by(&key, issuer).unwrap().der().clone()];
    chain.extend(others);
    Certified { chain, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
}

fn some_ca() -> (CertificateParams, KeyPair, CertificateDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Corporate Inspection CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap().der().clone();
    (params, key, certificate)
}

fn chain_of(keys: &Keys) -> Vec<CertificateDer<'static>> {
    let pem = std::fs::read(keys.path().join("hub/keys/chain.pem")).unwrap();
    CertificateDer::pem_slice_iter(&pem).map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interceptor_with_a_ca_of_its_own_gets_nothing() {
    let (params, key, certificate) = some_ca();
    let certified = leaf(&Issuer::new(params, key), vec![certificate]);
    sees_through(&Keys::new(), certified).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interceptor_that_also_shows_the_hubs_own_root_gets_nothing() {
    let keys = Keys::new();
    let (params, key, certificate) = some_ca();
    let mut others = vec![certificate];
    others.extend(chain_of(&keys));
    sees_through(&keys, leaf(&Issuer::new(params, key), others)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_bridges_hub_of_the_same_name_gets_nothing() {
    let (keys, others) = (Keys::new(), Keys::new());
    let pem = std::fs::read_to_string(others.path().join("hub/keys/issuer.key")).unwrap();
    let chain = chain_of(&others);
    let issuer = Issuer::from_ca_cert_der(&chain[0], KeyPair::from_pem(&pem).unwrap()).unwrap();
    let remedy = sees_through(&keys, leaf(&issuer, chain.clone())).await;
    assert!(remedy.contains("the token is of another `bridge init` than the hub"), "{remedy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_plays_the_hub_gets_nothing() {
    let keys = Keys::new();
    let mut certified = Certified::of_token(&keys.token("other"));
    certified.chain.extend(chain_of(&keys));
    sees_through(&keys, certified).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_wrapper_of_the_edge_itself_gets_nothing() {
    let keys = Keys::new();
    sees_through(&keys, Certified::of_token(&keys.token("bank"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_another_pin_does_not_join_the_hub() {
    let keys = Keys::new();
    let (hub, address) = hub(&keys.hub_tunnel()).await;
    let right = keys.token("bank");
    let wrong = JoinToken::new("riskfuel", "bank", *right.seed(), vec![[7; 32]]).unwrap();
    let token_file = keys.path().join("bank/wrong");
    std::fs::write(&token_file, wrong.encode().expose()).unwrap();
    std::fs::set_permissions(&token_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let credential = EdgeCredential::Token(token_file);
    let cfg = EdgeTunnel { credential, ..keys.edge_tunnel("bank", address, 1) };
    let edge = edge(cfg, "bank");
    let row = edge.reason("intercepted").await;
    assert!(row.remedy.unwrap().contains("the token is of another `bridge init` than the hub"));
    let label = ReasonLabel { reason: "certificate_refused" };
    // The hub is told why; nothing wakes who waits for a metric.
    let told = async {
        while hub.metrics.ended.get_or_create(&label).get() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(told).await;
    hub.row(|row| row.peer == "bank" && row.state == "waiting").await;
}

async fn clock_is_named(keys: Keys) {
    let (_hub, address) = hub(&keys.hub_tunnel()).await;
    let edge = edge(keys.edge_tunnel("bank", address, 1), "bank");
    let row = edge.reason("clock").await;
    assert!(row.remedy.unwrap().contains("clock"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_whose_clock_is_a_year_behind_is_told_so_and_not_that_it_is_intercepted() {
    clock_is_named(Keys::at(SystemTime::now() + YEAR)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_whose_clock_is_far_ahead_is_told_so() {
    clock_is_named(Keys::at(SystemTime::now() - 2 * YEAR)).await;
}

const YEAR: Duration = Duration::from_secs(365 * 86_400);
