//! The ways from an edge to a hub: through an ingress, through a proxy, past a load balancer; and whoever poses as one.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pulsar_bridge::config::{EdgeTunnel, LinkUrl, Login, Proxy};
use pulsar_bridge::tunnel::EdgeDialer;
use pulsar_bridge::tunnel::link::RelayLane;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::bridge::{Keys, Side, edge, hub, in_time};
use crate::ingress::{Authority, by_wss, egress_proxy, ingress};
use crate::stranger::{Certified, play_hub};

const HTTP: &[&[u8]] = &[b"http/1.1"];
const BRIDGE: &[&[u8]] = &[b"bridge/1"];

/// A link comes up between them, carries megabytes both ways on its lane, and each side's row tells the transport.
async fn carries(hub: &mut Side, bank: &mut Side, at_hub: &str, at_edge: &str) {
    let _links = (hub.link_up().await, bank.link_up().await);
    let (far, near) = (hub.relay_lane().await, bank.relay_lane().await);
    let exchange = |lane: RelayLane| async move {
        let (mut read, mut write) = tokio::io::split(lane.stream);
        let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect();
        let writes = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let reads = async { read.read_to_end(&mut got).await.unwrap() };
        in_time(async { tokio::join!(writes, reads) }).await;
        assert!(got == sent);
        (read, write, lane.ended)
    };
    let _kept = tokio::join!(exchange(far), exchange(near));
    for (side, expected) in [(hub, at_hub), (bank, at_edge)] {
        let row = side.row(|row| row.state == "up").await;
        let control = row.lanes.iter().find(|lane| lane.kind == "control").unwrap();
        assert_eq!(control.transport, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_goes_through_an_ingress_that_ends_tls_and_shows_it_no_certificate() {
    let (keys, authority) = (Keys::new(), Authority::new());
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    // It asks everybody for a certificate, as some do.
    let (way, seen) = ingress(authority.certified(), HTTP, address).await;
    let mut bank = edge(by_wss(&keys, way, Some(&authority)), "bank");
    carries(&mut hub, &mut bank, "wss", "wss").await;
    assert!(!seen.client_certificate.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_that_strips_alpn_costs_nothing_but_work() {
    let (keys, authority) = (Keys::new(), Authority::new());
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let (way, _) = ingress(authority.certified(), &[], address).await;
    let mut bank = edge(by_wss(&keys, way, Some(&authority)), "bank");
    carries(&mut hub, &mut bank, "wss", "wss").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_behind_a_wss_url_is_the_hub_itself_without_a_websocket() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut bank = edge(by_wss(&keys, address, None), "bank");
    carries(&mut hub, &mut bank, "tls", "wss (hub)").await;
}

/// Nothing of the edge gets there: no certificate, no byte.
async fn gets_nothing(keys: &Keys, authority: Option<&Authority>, certified: Certified, alpn: &[&[u8]]) {
    let (address, seen) = play_hub(certified, alpn).await;
    let bank = edge(by_wss(keys, address, authority), "bank");
    bank.reason("intercepted").await;
    bank.stop.cancel();
    in_time(bank.task).await.unwrap();
    let over = async {
        while seen.connections.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(over).await;
    assert_eq!(seen.application_bytes.load(Ordering::SeqCst), 0);
    assert!(!seen.client_certificate.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_bridge_1_with_another_certificate_than_the_hubs_gets_nothing() {
    let (keys, authority) = (Keys::new(), Authority::new());
    gets_nothing(&keys, Some(&authority), authority.certified(), BRIDGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_of_an_authority_that_nobody_named_gets_nothing() {
    let (keys, authority) = (Keys::new(), Authority::new());
    gets_nothing(&keys, None, authority.certified(), HTTP).await;
    gets_nothing(&keys, Some(&Authority::new()), authority.certified(), BRIDGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_that_leads_to_another_bridges_hub_is_noticed_inside() {
    let (keys, others, authority) = (Keys::new(), Keys::new(), Authority::new());
    let (_hub, address) = hub(&others.hub_tunnel()).await;
    let (way, _) = ingress(authority.certified(), HTTP, address).await;
    let bank = edge(by_wss(&keys, way, Some(&authority)), "bank");
    let row = bank.reason("intercepted").await;
    assert!(row.remedy.unwrap().contains("the token is of another `bridge init` than the hub"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hubs_own_chain_with_http_instead_of_the_bridges_protocol_is_no_bridge() {
    let keys = Keys::new();
    let pem = |file: &str| std::fs::read(keys.path().join("hub/keys").join(file)).unwrap();
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&pem("chain.pem")).map(Result::unwrap).collect();
    let issuer_key = rcgen::KeyPair::from_pem(&String::from_utf8(pem("issuer.key")).unwrap()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&chain[0], issuer_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["riskfuel.hub.bridge.internal".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let mut leafs = vec![params.signed_by(&key, &issuer).unwrap().der().clone()];
    leafs.extend(chain);
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let (address, _) = play_hub(Certified { chain: leafs, key }, HTTP).await;
    let bank = edge(by_wss(&keys, address, None), "bank");
    bank.reason("not_a_bridge").await;
}

/// Serves one answer to whoever asks inside TLS.
async fn answers(authority: &Authority, answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                socket.write_all(answer).await.unwrap();
            });
        }
    });
    ingress(authority.certified(), HTTP, address).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_ingress_answers_instead_of_passing_on_has_its_reason() {
    let (keys, authority) = (Keys::new(), Authority::new());
    for (answer, reason) in [
        (&b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n"[..], "upgrade_refused"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "unreachable"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "not_a_bridge"),
        (b"+OK ready\r\n\r\n", "not_a_bridge"),
    ] {
        let way = answers(&authority, answer).await;
        let bank = edge(by_wss(&keys, way, Some(&authority)), "bank");
        bank.reason(reason).await;
        bank.stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_tells_who_ends_tls_and_whether_the_hub_takes_the_key() {
    let (keys, authority) = (Keys::new(), Authority::new());
    let (hub, address) = hub(&keys.hub_tunnel()).await;
    let (way, _) = ingress(authority.certified(), HTTP, address).await;
    let mut cfg = by_wss(&keys, way, Some(&authority));
    cfg.connect.push(LinkUrl::parse(&format!("wss://{address}")).unwrap());
    let tried = EdgeDialer::load(&cfg, "bank").unwrap().try_urls().await;
    let [through, direct] = &tried[..] else { panic!("{tried:?}") };
    assert_eq!((through.transport.as_deref(), through.reason.as_deref()), (Some("wss"), None));
    assert_eq!(through.outer_tls_ends_at.as_deref(), Some("CN=Some Authority"));
    assert_eq!((direct.transport.as_deref(), direct.outer_tls_ends_at.as_deref()), (Some("wss (hub)"), None));
    assert!(hub.board.rows().iter().all(|row| row.link.is_none()), "a try makes no link");
    let others = Keys::new();
    let stranger = EdgeDialer::load(&others.edge_tunnel("bank", address, 1), "bank").unwrap();
    assert_eq!(stranger.try_urls().await[0].reason.as_deref(), Some("intercepted"));
    let mut without = keys.hub_tunnel();
    without.edges.retain(|edge| edge.name != "bank");
    let (_hub, address) = crate::bridge::hub(&without).await;
    let unknown = EdgeDialer::load(&keys.edge_tunnel("bank", address, 1), "bank").unwrap();
    assert_eq!(unknown.try_urls().await[0].reason.as_deref(), Some("refused_unknown_key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firewall_that_refuses_large_client_hellos_is_found_by_a_try() {
    let keys = Keys::new();
    let (_hub, address) = hub(&keys.hub_tunnel()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let firewall = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 5];
                socket.read_exact(&mut head).await.unwrap();
                if u16::from_be_bytes([head[3], head[4]]) > 1200 {
                    return;
                }
                let mut hub = TcpStream::connect(address).await.unwrap();
                hub.write_all(&head).await.unwrap();
                _ = tokio::io::copy_bidirectional(&mut socket, &mut hub).await;
            });
        }
    });
    let tried = EdgeDialer::load(&keys.edge_tunnel("bank", firewall, 1), "bank").unwrap().try_urls().await;
    assert_eq!((tried[0].transport.as_ref(), tried[0].small_hello_passes), (None, Some(true)), "{tried:?}");
    // Nothing is downgraded by itself.
    let bank = edge(keys.edge_tunnel("bank", firewall, 1), "bank");
    bank.row(|row| row.reason.is_some()).await;
    assert!(bank.board.rows().iter().all(|row| row.link.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_of_older_tls_is_told_as_such() {
    let keys = Keys::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bank = edge(by_wss(&keys, listener.local_addr().unwrap(), None), "bank");
    let (mut socket, _) = listener.accept().await.unwrap();
    in_time(socket.read_u8()).await.unwrap();
    // The alert protocol_version, as a server of TLS 1.2 says it.
    socket.write_all(&[21, 3, 3, 0, 2, 2, 70]).await.unwrap();
    bank.reason("ingress_tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_leads_nowhere_is_passed_over_whatever_its_transport() {
    let (keys, authority) = (Keys::new(), Authority::new());
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let broken = answers(&authority, b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
    let mut cfg = by_wss(&keys, broken, Some(&authority));
    cfg.connect.push(LinkUrl::parse(&format!("tls://{dead}")).unwrap());
    cfg.connect.push(LinkUrl::parse(&format!("tls://{address}")).unwrap());
    let mut bank = edge(cfg, "bank");
    carries(&mut hub, &mut bank, "tls", "tls").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_goes_through_a_proxy_that_wants_a_password() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let by = egress_proxy("\r\nProxy-Authorization: Basic bWU6Y2FuYXJ5\r\n").await;
    let password_file = keys.path().join("password");
    let write = |password: &str| {
        std::fs::write(&password_file, password).unwrap();
        std::fs::set_permissions(&password_file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
    };
    write("wrong\n");
    let mut cfg = keys.edge_tunnel("bank", address, 1);
    let login = Some(Login { user: "me".into(), password_file: password_file.clone() });
    cfg.egress.proxy = Some(Proxy { login, ..Proxy::parse(&format!("http://{by}")).unwrap() });
    let egress = cfg.egress.clone();
    let mut bank = edge(cfg, "bank");
    let row = bank.reason("proxy_auth").await;
    assert_eq!(row.state, "refused");
    // It is read again at every dial.
    write("canary");
    carries(&mut hub, &mut bank, "tls", &format!("tls via http://{by}")).await;
    // To whom this hub is another than his own, the way to it is told.
    let others = Keys::new();
    let strangers = EdgeTunnel { egress, ..others.edge_tunnel("bank", address, 1) };
    let tried = EdgeDialer::load(&strangers, "bank").unwrap().try_urls().await;
    let told = tried[0].told.as_deref().unwrap_or_default();
    assert!(told.ends_with(&format!(", through the proxy http://{by}")), "{tried:?}");
}

/// Says a PROXY header, then passes on what comes.
async fn balancer(header: &'static [u8], to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut hub = TcpStream::connect(to).await.unwrap();
                hub.write_all(header).await.unwrap();
                _ = tokio::io::copy_bidirectional(&mut socket, &mut hub).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_load_balancer_tells_who_calls_in_either_form_of_the_header() {
    let version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\x0a\0\0\x01\x13\x88\x1f\x41";
    for (header, expected) in [
        (&b"PROXY TCP4 198.51.100.7 10.0.0.1 5000 8001\r\n"[..], "198.51.100.7:5000 (by 127.0.0.1:"),
        (version_2, "198.51.100.7:5000 (by 127.0.0.1:"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1:"),
        (b"", "127.0.0.1:"),
    ] {
        let keys = Keys::new();
        let mut cfg = keys.hub_tunnel();
        cfg.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        let (mut hub, address) = hub(&cfg).await;
        let mut bank = edge(keys.edge_tunnel("bank", balancer(header, address).await, 1), "bank");
        let _links = (hub.link_up().await, bank.link_up().await);
        let row = hub.row(|row| row.state == "up").await;
        assert!(row.remote.as_ref().unwrap().starts_with(expected), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_somebody_who_is_not_trusted_is_refused_by_name() {
    let keys = Keys::new();
    let (hub, address) = hub(&keys.hub_tunnel()).await;
    let way = balancer(b"PROXY TCP4 198.51.100.7 10.0.0.1 5000 8001\r\n", address).await;
    let bank = edge(keys.edge_tunnel("bank", way, 1), "bank");
    bank.reason("peer_closed").await;
    counts(&hub, "proxy_header").await;
}

/// Has the upgrade's request pass through with this header added.
async fn adds_header(header: &'static str, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut hub = TcpStream::connect(to).await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                head.truncate(head.len() - 2);
                head.extend_from_slice(header.as_bytes());
                head.extend_from_slice(b"\r\n\r\n");
                hub.write_all(&head).await.unwrap();
                _ = tokio::io::copy_bidirectional(&mut socket, &mut hub).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_counts_for_the_address_that_a_trusted_ingress_saw() {
    let authority = Authority::new();
    for (trusted, expected) in
        [(vec!["127.0.0.1/32".parse().unwrap()], "198.51.100.7 (by 127.0.0.1:"), (vec![], "127.0.0.1:")]
    {
        let keys = Keys::new();
        let mut cfg = keys.hub_tunnel();
        cfg.trusted_proxies = trusted;
        let (mut hub, address) = hub(&cfg).await;
        let inside = adds_header("X-Forwarded-For: 203.0.113.1, 198.51.100.7", address).await;
        let (way, _) = ingress(authority.certified(), HTTP, inside).await;
        let mut bank = edge(by_wss(&keys, way, Some(&authority)), "bank");
        let _links = (hub.link_up().await, bank.link_up().await);
        let row = hub.row(|row| row.state == "up").await;
        assert!(row.remote.as_ref().unwrap().starts_with(expected), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_no_upgrade_is_told_what_is_needed() {
    let keys = Keys::new();
    let (hub, address) = hub(&keys.hub_tunnel()).await;
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n"[..], "HTTP/1.1 426 "),
        (b"GET / HTTP/1.1\r\nHost hub\r\n\r\n", "HTTP/1.1 400 "),
    ] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request).await.unwrap();
        let mut answer = String::new();
        in_time(socket.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with(status), "{answer}");
    }
    counts(&hub, "not_a_bridge").await;
}

/// Waits until the hub has counted an end for this reason: the caller may hear of it before.
async fn counts(hub: &Side, reason: &'static str) {
    let counted = async {
        let label = pulsar_bridge::tunnel::metrics::ReasonLabel { reason };
        while hub.metrics.ended.get_or_create(&label).get() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(counted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_goes_over_ipv6() {
    let keys = Keys::new();
    let mut cfg = keys.hub_tunnel();
    cfg.listen = "[::1]:0".parse().unwrap();
    let (mut hub, address) = hub(&cfg).await;
    let mut bank = edge(keys.edge_tunnel("bank", address, 1), "bank");
    carries(&mut hub, &mut bank, "tls", "tls").await;
}
