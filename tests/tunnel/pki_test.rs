//! Both sides by their organisation's own certificates: who joins, and what the others are told.

use std::net::SocketAddr;
use std::path::PathBuf;

use pulsar_bridge::config::{
    CertificateFiles, ClientAuthorities, EdgeCredential, EdgePki, EdgeTunnel, HubCertificate, HubTunnel,
};
use pulsar_bridge::tunnel::EdgeDialer;
use pulsar_bridge::tunnel::metrics::ReasonLabel;
use rcgen::ExtendedKeyUsagePurpose;

use crate::bridge::{Keys, edge, hub, in_time};
use crate::organisation::{CLIENT, Made, Organisation};

const SERVER: Made<'static> = Made {
    names: &["bridge.example.com"],
    usage: Some(ExtendedKeyUsagePurpose::ServerAuth),
    lists_at: None,
    serial: 1,
    ends: 9,
};

fn files((cert, key): (PathBuf, PathBuf)) -> CertificateFiles {
    CertificateFiles { cert, key }
}

/// A hub that knows `bank` by its name, under these authorities.
fn hub_of(keys: &Keys, by: &Organisation, crl_file: Option<PathBuf>) -> HubTunnel {
    let mut cfg = HubTunnel {
        client_authorities: Some(ClientAuthorities { ca_file: by.ca_file(), crl_file }),
        ..keys.hub_tunnel()
    };
    cfg.edges[0].keys.clear();
    cfg.edges[0].cert_name = Some("bank.example.com".into());
    cfg
}

/// The same, which has a certificate by them too.
fn own_hub(keys: &Keys, by: &Organisation, made: Made<'_>) -> HubTunnel {
    HubTunnel { certificate: HubCertificate::Own(files(by.certify(made))), ..hub_of(keys, by, None) }
}

/// An edge with a certificate, which knows the hub by name.
fn edge_of(keys: &Keys, address: SocketAddr, hubs: &Organisation, own: CertificateFiles) -> EdgeTunnel {
    let credential = EdgeCredential::Certificate(EdgePki {
        ca_file: hubs.ca_file(),
        hub_name: "bridge.example.com".into(),
        hub_site: "riskfuel".into(),
        own,
    });
    EdgeTunnel { credential, ..keys.edge_tunnel("bank", address, 1) }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_join_by_certificates_of_their_own_and_a_relay_lane_too() {
    // Each organisation has authorities of its own.
    let (keys, hubs, edges) = (Keys::new(), Organisation::new(), Organisation::new());
    let certificate = HubCertificate::Own(files(hubs.certify(SERVER)));
    let (mut hub, address) =
        hub(&HubTunnel { certificate, ..hub_of(&keys, &edges, Some(edges.revokes(&[8], 1))) }).await;
    let mut edge = edge(edge_of(&keys, address, &hubs, files(edges.certify(CLIENT))), "bank");
    let (at_hub, at_edge) = (hub.link_up().await, edge.link_up().await);
    assert_eq!((at_hub.link.peer.as_str(), at_edge.link.peer.as_str()), ("bank", "riskfuel"));
    assert_eq!((hub.relay_lane().await.index, edge.relay_lane().await.index), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_with_tokens_and_with_certificates_join_one_hub() {
    let (keys, by) = (Keys::new(), Organisation::new());
    let (mut hub, address) = hub(&hub_of(&keys, &by, None)).await;
    let _other = edge(keys.edge_tunnel("other", address, 0), "other");
    assert_eq!(hub.link_up().await.link.peer, "other");
    // This hub's authority is the root that `bridge init` made.
    let credential = EdgeCredential::Certificate(EdgePki {
        ca_file: keys.path().join("offline/root.crt"),
        hub_name: "riskfuel.hub.bridge.internal".into(),
        hub_site: "riskfuel".into(),
        own: files(by.certify(CLIENT)),
    });
    let _bank = edge(EdgeTunnel { credential, ..keys.edge_tunnel("bank", address, 0) }, "bank");
    assert_eq!(hub.link_up().await.link.peer, "bank");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_is_told_what_is_wrong_with_its_certificate() {
    let (keys, by, other) = (Keys::new(), Organisation::new(), Organisation::new());
    let mut cfg = own_hub(&keys, &by, SERVER);
    cfg.client_authorities = hub_of(&keys, &by, Some(by.revokes(&[13], 1))).client_authorities;
    let (mut hub, address) = hub(&cfg).await;
    for (own, code) in [
        (other.certify(CLIENT), "certificate_untrusted"),
        (by.certify(Made { usage: SERVER.usage, serial: 11, ..CLIENT }), "certificate_untrusted"),
        (by.certify(Made { ends: -1, serial: 12, ..CLIENT }), "certificate_expired"),
        (by.certify(Made { serial: 13, ..CLIENT }), "certificate_revoked"),
        (by.certify(Made { names: &["mint.example.com"], ..CLIENT }), "refused_unknown_key"),
    ] {
        let cfg = edge_of(&keys, address, &by, files(own));
        assert_eq!(checked(&cfg).await.as_deref(), Some(code));
        let edge = edge(cfg, "bank");
        assert_eq!(edge.reason(code).await.state, "refused", "{code}");
    }
    assert!(hub.events.try_recv().is_err(), "nobody joined");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_of_another_name_authority_or_purpose_is_intercepted_and_an_old_one_a_matter_of_clocks() {
    let (keys, by, other) = (Keys::new(), Organisation::new(), Organisation::new());
    let another_name = Made { names: &["other.example.com"], ..SERVER };
    for (hub_cfg, code) in [
        (own_hub(&keys, &by, another_name), "intercepted"),
        (own_hub(&keys, &by, Made { names: &["*.example.com"], ..SERVER }), "intercepted"),
        (own_hub(&keys, &by, Made { usage: CLIENT.usage, ..SERVER }), "intercepted"),
        (own_hub(&keys, &other, SERVER), "intercepted"),
        (keys.hub_tunnel(), "intercepted"),
        (own_hub(&keys, &by, Made { ends: -1, ..SERVER }), "clock"),
    ] {
        let (_hub, address) = hub(&hub_cfg).await;
        let edge = edge(edge_of(&keys, address, &by, files(by.certify(CLIENT))), "bank");
        let row = edge.reason(code).await;
        assert_eq!(row.state, "refused", "{code}");
        let names_the_keys = row.remedy.unwrap().contains("tunnel.hub_name");
        assert_eq!(names_the_keys, code == "intercepted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_called_by_another_name_says_so_to_a_check_and_on_its_own_side() {
    let (keys, by) = (Keys::new(), Organisation::new());
    let (hub, address) = hub(&own_hub(&keys, &by, SERVER)).await;
    let mut cfg = edge_of(&keys, address, &by, files(by.certify(CLIENT)));
    assert_eq!(checked(&cfg).await, None);
    if let EdgeCredential::Certificate(pki) = &mut cfg.credential {
        pki.hub_site = "other".into();
    }
    assert_eq!(checked(&cfg).await.as_deref(), Some("refused_site_mismatch"));
    let edge = edge(cfg, "bank");
    edge.reason("refused_site_mismatch").await;
    hub.row(|row| row.peer == "bank" && row.reason.as_deref() == Some("refused_site_mismatch")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_known_for_what_it_is_and_leaves_no_trace_of_a_failure() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let dialer = EdgeDialer::load(&keys.edge_tunnel("bank", address, 1), "bank").unwrap();
    let ended = |reason| hub.metrics.ended.get_or_create(&ReasonLabel { reason }).get();
    for n in 1..=3 {
        assert_eq!(in_time(dialer.try_urls()).await[0].reason, None);
        in_time(async {
            while ended("checked") < n {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    assert_eq!(ended("peer_closed"), 0);
    let row = hub.row(|row| row.peer == "bank").await;
    assert_eq!(row.reason.as_deref(), Some("not_dialled"), "as it was");
    assert!(hub.events.try_recv().is_err(), "nobody joined");
}

/// Why a check of the edge's one URL is refused.
async fn checked(cfg: &EdgeTunnel) -> Option<String> {
    in_time(EdgeDialer::load(cfg, "bank").unwrap().try_urls()).await.remove(0).reason
}
