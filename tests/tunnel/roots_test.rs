//! Issuers and roots of a hub are replaced, and edges join by what they know, never by what they were told to forget.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pulsar_bridge::config::credential::JoinToken;
use pulsar_bridge::config::{EdgeCredential, EdgeTunnel, HubCertificate, HubTunnel};
use pulsar_bridge::tunnel::EdgeDialer;
use pulsar_bridge::tunnel::init::{self, InitError, Request, init};
use pulsar_bridge::tunnel::status::LinkStatus;

use crate::bridge::{Keys, edge, hub};

const HOUR: Duration = Duration::from_secs(3600);

fn made(request: &Request) -> Vec<String> {
    init(request, SystemTime::now()).unwrap().next_steps
}

/// A hub with the keys of another folder.
fn with_identity(keys: &Keys, identity: &Path) -> HubTunnel {
    HubTunnel { certificate: HubCertificate::Issuer(identity.to_owned()), ..keys.hub_tunnel() }
}

async fn joins(hub_cfg: &HubTunnel, edge_cfg: impl FnOnce(std::net::SocketAddr) -> EdgeTunnel) {
    let (mut hub, address) = hub(hub_cfg).await;
    let _edge = edge(edge_cfg(address), "bank");
    assert_eq!(hub.link_up().await.link.peer, "bank");
}

async fn is_refused(
    hub_cfg: &HubTunnel,
    edge_cfg: impl FnOnce(std::net::SocketAddr) -> EdgeTunnel,
    code: &str,
) {
    let (_hub, address) = hub(hub_cfg).await;
    let edge = edge(edge_cfg(address), "bank");
    assert_eq!(edge.reason(code).await.state, "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_issuer_touches_no_edge_and_a_stolen_one_can_be_distrusted() {
    let keys = Keys::at(SystemTime::now() - 24 * HOUR);
    let out = keys.path().join("renewed");
    let steps = made(&Request::RenewIssuer { offline: vec![keys.path().join("offline")], out: out.clone() });
    joins(&with_identity(&keys, &out), |address| keys.edge_tunnel("bank", address, 0)).await;
    // The time that the operator is told, as the configuration takes it.
    let since = steps[1].split('"').find(|part| part.ends_with('Z')).unwrap();
    let since = time::OffsetDateTime::parse(since, &time::format_description::well_known::Rfc3339).unwrap();
    let trust_after = u64::try_from(since.unix_timestamp()).unwrap();
    let distrusting = |address| EdgeTunnel { trust_after, ..keys.edge_tunnel("bank", address, 0) };
    joins(&with_identity(&keys, &out), distrusting).await;
    is_refused(&keys.hub_tunnel(), distrusting, "issuer_distrusted").await;
}

/// The token of `bank` with these pins, made anew.
fn repinned(keys: &Keys, pins: Vec<[u8; 32]>, out: &str) -> PathBuf {
    let out = keys.path().join(out);
    made(&Request::Repin { token: keys.token_file("bank"), pins, out: out.clone() });
    out.join("token-2")
}

/// The pins that a step tells.
fn told_pins(step: &str) -> Vec<[u8; 32]> {
    let list = step.split("--pin ").nth(1).unwrap().split(' ').next().unwrap();
    let texts: Vec<String> = list.split(',').map(str::to_owned).collect();
    init::pins(&texts).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_replaced_in_three_steps_and_no_step_keeps_an_edge_out() {
    let keys = Keys::new();
    let out = keys.path().join("rotated");
    let steps = made(&Request::RotateRoot { offline: keys.path().join("offline"), out: out.clone() });
    let both = told_pins(&steps[2]);
    let new = told_pins(&steps[4]);
    assert_eq!((both.len(), &both[..1], &both[1..]), (2, &new[..], &keys.token("bank").pins[..]));
    let token_of_both = repinned(&keys, both, "both");
    let token_of_new = repinned(&keys, new.clone(), "new");
    let with = |token_file: &PathBuf| {
        let credential = EdgeCredential::Token(token_file.clone());
        |address| EdgeTunnel { credential, ..keys.edge_tunnel("bank", address, 0) }
    };
    // The hub first, or an edge first: either way.
    let under_both = with_identity(&keys, &out.join("keys"));
    for token in [&keys.token_file("bank"), &token_of_both, &token_of_new] {
        joins(&under_both, with(token)).await;
    }
    joins(&keys.hub_tunnel(), with(&token_of_both)).await;
    // The old root ends: at the hub, and at each edge.
    let last = keys.path().join("last");
    made(&Request::RenewIssuer { offline: vec![out.join("offline")], out: last.clone() });
    let under_new = with_identity(&keys, &last);
    joins(&under_new, with(&token_of_both)).await;
    joins(&under_new, with(&token_of_new)).await;
    is_refused(&under_new, with(&keys.token_file("bank")), "intercepted").await;
    // Whoever was left behind is told the way.
    let (_hub, address) = hub(&under_new).await;
    let left = EdgeDialer::load(&keys.edge_tunnel("bank", address, 0), "bank").unwrap();
    let remedy = left.try_urls().await.remove(0).remedy.unwrap();
    assert!(remedy.contains("bridge init --repin"), "{remedy}");
    is_refused(&keys.hub_tunnel(), with(&token_of_new), "intercepted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_shows_whether_it_has_the_new_pin_and_whether_it_still_has_the_old_one() {
    let keys = Keys::new();
    let out = keys.path().join("rotated");
    let steps = made(&Request::RotateRoot { offline: keys.path().join("offline"), out: out.clone() });
    let (both, new) = (told_pins(&steps[2]), told_pins(&steps[4]));
    let under_both = with_identity(&keys, &out.join("keys"));
    let texts = |pins: &[[u8; 32]]| pins.iter().map(|pin| URL_SAFE_NO_PAD.encode(pin)).collect::<Vec<_>>();
    for (name, pins) in [("left", both[1..].to_vec()), ("both", both.clone()), ("new", new)] {
        let credential = EdgeCredential::Token(repinned(&keys, pins.clone(), name));
        let (hub, address) = hub(&under_both).await;
        let edge = edge(EdgeTunnel { credential, ..keys.edge_tunnel("bank", address, 0) }, "bank");
        let of_link = |row: &LinkStatus| row.link.is_some();
        let (at_hub, at_edge) = (hub.row(of_link).await, edge.row(of_link).await);
        assert_eq!(at_edge.hub_root, Some(texts(&pins).join(",")), "{name}");
        assert_eq!(at_hub.hub_root, Some(texts(&both).join(",")), "the hub cannot know");
    }
}

#[test]
fn tokens_made_while_roots_rotate_know_both_and_an_issuer_may_be_renewed_under_both() {
    let keys = Keys::new();
    let (old, out) = (keys.path().join("offline"), keys.path().join("rotated"));
    made(&Request::RotateRoot { offline: old.clone(), out: out.clone() });
    let again = keys.path().join("again");
    made(&Request::RenewIssuer { offline: vec![old, out.join("offline")], out: again.clone() });
    for from in [out.join("keys"), again] {
        std::fs::copy(from.join("chain.pem"), keys.path().join("hub/keys/chain.pem")).unwrap();
        let request = Request::Rotate { edge: "other".into(), out: keys.path().to_owned() };
        let written = init(&request, SystemTime::now()).unwrap().written;
        let token = JoinToken::parse(&std::fs::read_to_string(&written[0]).unwrap()).unwrap();
        assert_eq!(token.pins.len(), 2);
        assert_eq!(token.pins[1], keys.token("bank").pins[0], "the new root first");
    }
}

#[test]
fn what_is_no_root_of_a_hub_signs_nothing() {
    let (keys, others) = (Keys::new(), Keys::new());
    let offline = keys.path().join("offline");
    let out = keys.path().join("out");
    let renew = |offline: Vec<PathBuf>| {
        let error = init(&Request::RenewIssuer { offline, out: out.clone() }, SystemTime::now()).unwrap_err();
        assert!(!out.exists());
        error
    };
    assert!(matches!(renew(Vec::new()), InitError::Roots(0)));
    assert!(matches!(renew(vec![offline.clone(); 3]), InitError::Roots(3)));
    assert!(matches!(renew(vec![keys.path().join("hub/keys")]), InitError::SecretFile(_)));
    // Another root's key beside the certificate.
    std::fs::copy(others.path().join("offline/root.key"), offline.join("root.key")).unwrap();
    let error = renew(vec![offline.clone()]);
    assert!(error.to_string().contains("root.key beside it is not its key"), "{error}");
    // The issuer's certificate is no root's.
    std::fs::copy(keys.path().join("hub/keys/issuer.key"), offline.join("root.key")).unwrap();
    std::fs::copy(keys.path().join("hub/keys/chain.pem"), offline.join("root.crt")).unwrap();
    assert!(matches!(renew(vec![offline.clone()]), InitError::NoRoot { .. }));
    let pin = URL_SAFE_NO_PAD.encode([1; 32]);
    assert!(matches!(init::pins(&[pin.clone(), pin.clone(), pin]), Err(InitError::Pin)));
}
