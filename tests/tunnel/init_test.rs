//! What `bridge init` writes, and what it refuses to write over.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use pulsar_bridge::config::credential::{EdgeKey, JoinToken};
use pulsar_bridge::config::{self, EdgeCredential, HubCertificate, LinkUrl, Tunnel};
use pulsar_bridge::tunnel::init::{HubPin, InitError, Outcome, Request, init};

use crate::bridge::{Keys, edge, hub};
use crate::stolen_hub_test::files_of;

fn url() -> LinkUrl {
    LinkUrl::parse("tls://bridge.example.com:8001").unwrap()
}

fn new(out: &Path, edges: &[&str]) -> Result<Outcome, InitError> {
    let request = Request::New {
        forwards_only: false,
        hub: "riskfuel".into(),
        edges: edges.iter().map(|edge| (*edge).to_owned()).collect(),
        url: url(),
        out: out.to_owned(),
    };
    init(&request, SystemTime::now())
}

#[test]
fn both_configurations_load_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = new(dir.path(), &["bank", "fund"]).unwrap();
    let hub = config::load(&dir.path().join("hub/hub.json")).unwrap();
    assert_eq!((hub.site.as_str(), hub.routes.len()), ("riskfuel", 4));
    let Tunnel::Hub(tunnel) = hub.tunnel else { panic!("not a hub") };
    assert_eq!(tunnel.listen.port(), 8001);
    assert_eq!(tunnel.certificate, HubCertificate::Issuer(dir.path().join("hub/keys")));
    for (entry, name) in tunnel.edges.iter().zip(["bank", "fund"]) {
        assert_eq!(entry.name, name);
        let edge = config::load(&dir.path().join(name).join("edge.json")).unwrap();
        assert_ne!(edge.admin.listen, hub.admin.listen, "both run on one machine");
        let Tunnel::Edge(tunnel) = edge.tunnel else { panic!("not an edge") };
        assert_eq!(tunnel.connect, [url()]);
        assert_eq!(tunnel.credential, EdgeCredential::Token(dir.path().join(name).join("token")));
    }
    assert_eq!(outcome.written, {
        let mut files = files_of(dir.path());
        files.sort_by_key(|file| outcome.written.iter().position(|written| written == file));
        files
    });
    assert!(outcome.next_steps.iter().all(|step| !step.contains("bt1.")), "no secret is printed");
}

#[test]
fn every_file_is_its_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    new(dir.path(), &["bank"]).unwrap();
    let files = files_of(dir.path());
    assert_eq!(files.len(), 8);
    for file in files {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_else_written_then() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("bank")).unwrap();
    let token = dir.path().join("bank/token");
    std::fs::write(&token, "mine").unwrap();
    let error = new(dir.path(), &["bank"]).unwrap_err();
    assert!(matches!(&error, InitError::Exists(file) if *file == token), "{error}");
    assert_eq!(files_of(dir.path()), std::slice::from_ref(&token));
    assert_eq!(std::fs::read_to_string(&token).unwrap(), "mine");
}

#[test]
fn names_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["hub", "offline"] {
        assert!(matches!(new(dir.path(), &[name]), Err(InitError::ReservedName(_))), "{name}");
    }
    for name in ["", "Bank", "a/b", "..", "bank\n", "-bank"] {
        assert!(matches!(new(dir.path(), &[name]), Err(InitError::Name(_))), "{name}");
    }
    assert!(matches!(new(dir.path(), &["bank", "bank"]), Err(InitError::Twice(_))));
    assert!(matches!(new(dir.path(), &["riskfuel"]), Err(InitError::Twice(_))));
    assert!(matches!(new(dir.path(), &[]), Err(InitError::NoEdge)));
    assert!(files_of(dir.path()).is_empty());
}

/// The `bk1.…` that the operator is told to copy.
fn told_key(outcome: &Outcome) -> EdgeKey {
    let steps = outcome.next_steps.join(" ");
    let start = steps.find("bk1.").unwrap();
    let end = steps[start..].find(['"', ' ']).map_or(steps.len(), |len| start + len);
    EdgeKey::parse(&steps[start..end]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_edge_and_a_rotated_key_join_once_the_hub_lists_them() {
    let keys = Keys::new();
    let add = Request::AddEdge {
        edge: "fund".into(),
        out: keys.path().to_owned(),
        url: None,
        forwards_only: false,
    };
    let added = init(&add, SystemTime::now()).unwrap();
    assert!(matches!(init(&add, SystemTime::now()), Err(InitError::Exists(_))));
    let rotate = Request::Rotate { edge: "bank".into(), out: keys.path().to_owned() };
    let rotated = init(&rotate, SystemTime::now()).unwrap();
    let again = init(&rotate, SystemTime::now()).unwrap();
    assert_eq!(rotated.written, [keys.path().join("bank/token-2")]);
    assert_eq!(again.written, [keys.path().join("bank/token-3")]);

    let mut cfg = keys.hub_tunnel();
    cfg.edges[1].name = "fund".into();
    cfg.edges[1].keys = vec![told_key(&added)];
    cfg.edges[0].keys.push(told_key(&rotated));
    let (mut hub, address) = hub(&cfg).await;
    let fund = config::load(&keys.path().join("fund/edge.json")).unwrap();
    assert!(matches!(fund.tunnel, Tunnel::Edge(tunnel) if tunnel.connect[0].port == 8001));
    let _fund = edge(keys.edge_tunnel("fund", address, 0), "fund");
    assert_eq!(hub.link_up().await.link.peer, "fund");
    let mut with_new_token = keys.edge_tunnel("bank", address, 0);
    with_new_token.credential = EdgeCredential::Token(keys.path().join("bank/token-2"));
    let _bank = edge(with_new_token, "bank");
    assert_eq!(hub.link_up().await.link.peer, "bank");
}

#[test]
fn an_edges_own_key_stays_and_becomes_a_token_when_the_pin_is_known() {
    let (hubs, dir) = (Keys::new(), tempfile::tempdir().unwrap());
    let own = |hub| Request::OwnKey { edge: "bank".into(), out: dir.path().to_owned(), hub };
    let first = init(&own(None), SystemTime::now()).unwrap();
    let key = told_key(&first);
    assert_eq!(first.written, [dir.path().join("bank/own.key")]);
    let pin = HubPin { name: "riskfuel".into(), pins: hubs.token("bank").pins };
    let second = init(&own(Some(pin)), SystemTime::now()).unwrap();
    assert_eq!(told_key(&second), key, "the key that the hub was told");
    let token = std::fs::read_to_string(dir.path().join("bank/token")).unwrap();
    let token = JoinToken::parse(&token).unwrap();
    assert_eq!((token.hub.as_str(), token.edge.as_str()), ("riskfuel", "bank"));
    assert!(matches!(HubPin::parse("riskfuel", &["short".into()]), Err(InitError::Pin)));
}

#[test]
fn only_an_edge_that_was_made_gets_a_second_key() {
    let dir = tempfile::tempdir().unwrap();
    new(dir.path(), &["bank", "fund"]).unwrap();
    let rotate = |edge: &str| {
        let request = Request::Rotate { edge: edge.into(), out: dir.path().to_owned() };
        init(&request, SystemTime::now())
    };
    let before = files_of(dir.path());
    for edge in ["bnak", "riskfuel"] {
        let error = rotate(edge).unwrap_err();
        assert!(matches!(error, InitError::NoSuchEdge { .. }), "{error}");
        assert!(error.to_string().contains(&format!("bridge init --edge {edge} --out ")), "{error}");
    }
    assert_eq!(files_of(dir.path()), before);
    // One whose folder went to the edge is known by hub.json, one added since by its folder.
    std::fs::remove_dir_all(dir.path().join("fund")).unwrap();
    let add =
        Request::AddEdge { edge: "mint".into(), out: dir.path().to_owned(), url: None, forwards_only: false };
    init(&add, SystemTime::now()).unwrap();
    for edge in ["fund", "mint"] {
        assert_eq!(rotate(edge).unwrap().written, [dir.path().join(edge).join("token-2")]);
    }
}

#[test]
fn an_edge_is_not_added_where_no_hub_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let add = Request::AddEdge {
        edge: "fund".into(),
        out: dir.path().to_owned(),
        url: Some(url()),
        forwards_only: false,
    };
    let error = init(&add, SystemTime::now()).unwrap_err();
    assert!(error.to_string().contains("hub/hub.json"), "{error}");
}

#[test]
fn sites_without_clusters_get_a_forward_that_both_sides_take() {
    let dir = tempfile::tempdir().unwrap();
    let request = Request::New {
        hub: "riskfuel".into(),
        edges: vec!["bank".into(), "fund".into()],
        url: url(),
        out: dir.path().to_owned(),
        forwards_only: true,
    };
    init(&request, SystemTime::now()).unwrap();
    // As its hub has no cluster, one that is added has none.
    let add =
        Request::AddEdge { edge: "mint".into(), out: dir.path().to_owned(), url: None, forwards_only: false };
    let added = init(&add, SystemTime::now()).unwrap().next_steps;
    assert!(added[1].contains("`forwards` of hub.json"), "{added:?}");
    let hub = config::load(&dir.path().join("hub/hub.json")).unwrap();
    assert!(hub.pulsar.is_none() && hub.routes.is_empty());
    let places: Vec<_> = hub.forwards.iter().map(|forward| forward.listen.port()).collect();
    assert_eq!(places, [8080, 8081]);
    for edge in ["bank", "fund", "mint"] {
        let edge = config::load(&dir.path().join(edge).join("edge.json")).unwrap();
        assert!(edge.pulsar.is_none() && edge.policy.forward.of(&hub.forwards[0].target).is_some());
    }
}
