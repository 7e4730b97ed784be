//! Weaker TLS, no ALPN, other versions: refused on both sides, by name, with nothing told.

use std::sync::atomic::Ordering;

use prost::Message;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::bridge::{Keys, edge, hub, in_time};
use crate::stranger::{Certified, Hello, RawEdge, play_hub, play_hub_that_says};

/// A ClientHello of TLS 1.2 (RFC 5246 §7.4.1.2): one ECDHE suite, no supported_versions.
fn client_hello_of_tls12() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([0x11; 32]);
    body.push(0);
    body.extend([0, 2, 0xc0, 0x2b, 1, 0]);
    // supported_groups secp256r1, signature_algorithms ecdsa_secp256r1_sha256.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    record(1, &body)
}

/// A ServerHello of TLS 1.2: the same suite, no supported_versions.
fn server_hello_of_tls12() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([0x22; 32]);
    body.push(0);
    body.extend([0xc0, 0x2b, 0]);
    record(2, &body)
}

fn record(handshake_type: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap();
    let mut record = vec![22, 3, 3];
    record.extend((len + 4).to_be_bytes());
    record.extend([handshake_type, 0]);
    record.extend(len.to_be_bytes());
    record.extend(body);
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_tls_1_2_is_refused_with_the_alert_that_says_so() {
    let keys = Keys::new();
    let (_hub, address) = hub(&keys.hub_tunnel()).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(&client_hello_of_tls12()).await.unwrap();
    let mut answer = Vec::new();
    in_time(socket.read_to_end(&mut answer)).await.unwrap();
    // An alert record, fatal, protocol_version (RFC 8446 §6).
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_tls_1_2_gets_no_certificate_and_no_hello() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut client_hello = vec![0; 16_384];
        let len = socket.read(&mut client_hello).await.unwrap();
        assert!(len > 100, "a ClientHello");
        socket.write_all(&server_hello_of_tls12()).await.unwrap();
        let mut rest = Vec::new();
        // A reset ends it as well as a close.
        _ = socket.read_to_end(&mut rest).await;
        rest
    });
    let keys = Keys::new();
    let edge = edge(keys.edge_tunnel("bank", address, 1), "bank");
    edge.reason("not_a_bridge").await;
    let rest = in_time(server).await.unwrap();
    assert_eq!(rest.first(), Some(&21), "an alert and nothing else: {rest:?}");
    assert_eq!(rest.len(), 7, "{rest:?}");
}

/// The hub's true identity, as whoever strips ALPN from it would have it.
pub fn true_hub(keys: &Keys) -> Certified {
    let read = |file: &str| std::fs::read_to_string(keys.path().join("hub/keys").join(file)).unwrap();
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(read("chain.pem").as_bytes()).map(Result::unwrap).collect();
    let issuer_key = KeyPair::from_pem(&read("issuer.key")).unwrap();
    let issuer = Issuer::from_ca_cert_der(&chain[0], issuer_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["riskfuel.hub.bridge.internal".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
    Certified {
        chain: [leaf].into_iter().chain(chain).collect(),
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_without_our_protocol_is_told_nothing_though_its_key_is_right() {
    let keys = Keys::new();
    let (address, seen) = play_hub(true_hub(&keys), &[]).await;
    let edge = edge(keys.edge_tunnel("bank", address, 1), "bank");
    edge.reason("not_a_bridge").await;
    assert_eq!(seen.application_bytes.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_without_our_protocol_is_told_nothing_though_its_key_is_right() {
    let keys = Keys::new();
    let (_hub, address) = hub(&keys.hub_tunnel()).await;
    let certified = Certified::of_token(&keys.token("bank"));
    let mut raw = RawEdge::connect(address, certified, &[]).await;
    // The hub may have closed already.
    _ = raw.tls.write_all(&Hello::of("bank").encode_to_vec()).await;
    assert!(raw.hear().await.is_err(), "no answer of any kind");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_of_an_unknown_version_is_refused_by_name() {
    let keys = Keys::new();
    let (_hub, address) = hub(&keys.hub_tunnel()).await;
    let certified = Certified::of_token(&keys.token("bank"));
    let mut raw = RawEdge::connect(address, certified, &[b"bridge/1"]).await;
    let hello = Hello { versions: vec![0, 2, 99], ..Hello::of("bank") };
    assert_eq!(raw.refusal_of(&hello).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_answers_with_two_gigabytes_is_malformed_and_nothing_is_reserved() {
    let keys = Keys::new();
    let (address, _seen) = play_hub_that_says(true_hub(&keys), &[b"bridge/1"], &[0x80, 0, 0, 0, 2]).await;
    let edge = edge(keys.edge_tunnel("bank", address, 1), "bank");
    edge.reason("malformed").await;
}
