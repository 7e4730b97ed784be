//! Secrets and a peer's words in whatever is logged, shown or printed.

use std::cell::RefCell;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Once;

use prometheus_client::registry::Registry;
use pulsar_bridge::config::{LinkUrl, Login, Proxy};
use pulsar_bridge::tunnel::{EdgeDialer, TunnelError};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::bridge::{Keys, Side, edge, hub, in_time};
use crate::ingress::egress_proxy;
use crate::stranger::{Certified, play_hub};

thread_local! {
    static LOGGED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Everything that this thread logs from here on. One subscriber serves all tests of the binary: those that come
/// and go would race for the callsites' caches.
fn begin_capture() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(|| ToThread)
            .init();
    });
    LOGGED.set(Some(Vec::new()));
}

fn captured() -> String {
    String::from_utf8(LOGGED.take().unwrap()).unwrap()
}

struct ToThread;

impl Write for ToThread {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| {
            if let Some(logged) = logged {
                logged.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The token's secret part, whole and in pieces that a truncating log would leave.
fn canaries(keys: &Keys) -> Vec<String> {
    let token = std::fs::read_to_string(keys.token_file("bank")).unwrap();
    let seed = token.split('.').nth(3).unwrap().to_owned();
    let issuer = std::fs::read_to_string(keys.path().join("hub/keys/issuer.key")).unwrap();
    let hex: String = keys.token("bank").seed().iter().map(|byte| format!("{byte:02x}")).collect();
    vec![seed[..16].to_owned(), hex[..16].to_owned(), issuer.lines().nth(1).unwrap()[..24].to_owned()]
}

// One thread, so that every task's words come to this test.
#[tokio::test]
async fn no_secret_is_logged_or_shown_through_the_life_of_a_link() {
    begin_capture();
    let keys = Keys::new();
    let cfg = keys.hub_tunnel();
    let (mut hub, address) = hub(&cfg).await;
    let edge_cfg = keys.edge_tunnel("bank", address, 1);
    let mut bank = edge(edge_cfg.clone(), "bank");
    let ups = (hub.link_up().await, bank.link_up().await);
    let lanes = (hub.relay_lane().await, bank.relay_lane().await);
    let shown = format!("{:?} {:?}", hub.board.rows(), bank.board.rows());
    hub.stop.cancel();
    in_time(hub.task).await.unwrap();
    bank.reason("unreachable").await;
    bank.stop.cancel();
    in_time(bank.task).await.unwrap();
    drop((ups, lanes));
    let printed = format!("{cfg:?} {edge_cfg:?} {:?}", keys.token("bank"));
    let log = captured();
    assert!(log.contains("lane up") && log.contains("unreachable"), "{log}");
    for canary in canaries(&keys) {
        assert!(!log.contains(&canary), "{log}");
        assert!(!shown.contains(&canary) && !printed.contains(&canary), "{shown} {printed}");
    }
}

/// Takes a login by SOCKS5 (RFC 1929), refuses it, and gives what it heard.
async fn refusing_socks() -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (logins, heard) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            socket.read_exact(&mut [0; 4]).await.unwrap();
            socket.write_all(&[5, 2]).await.unwrap();
            let mut login = vec![0; 3 + 2 + PASSWORD.len()];
            socket.read_exact(&mut login).await.unwrap();
            socket.write_all(&[1, 1]).await.unwrap();
            // Nobody listens any more once the test has what it needs.
            _ = logins.try_send(login);
        }
    });
    (address, heard)
}

const PASSWORD: &str = "canary-5512-proxy-password";
/// `me:` is three bytes, so that the password stands in it as a base64 text of its own.
const BASIC: &str = "bWU6Y2FuYXJ5LTU1MTItcHJveHktcGFzc3dvcmQ=";

#[tokio::test]
async fn a_proxys_password_is_shown_nowhere_in_no_form() {
    begin_capture();
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let password_file = keys.path().join("password");
    let write = |mode| {
        std::fs::write(&password_file, PASSWORD).unwrap();
        std::fs::set_permissions(&password_file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    write(0o600);
    let login = Some(Login { user: "me".into(), password_file: password_file.clone() });
    let by = |url: String| {
        let mut cfg = keys.edge_tunnel("bank", address, 1);
        cfg.egress.proxy = Some(Proxy { login: login.clone(), ..Proxy::parse(&url).unwrap() });
        cfg
    };
    let mut shown = String::new();
    let show = |side: &Side, shown: &mut String| {
        let mut registry = Registry::default();
        side.metrics.register(&mut registry);
        prometheus_client::encoding::text::encode(shown, &registry).unwrap();
        *shown += &format!("{:?}", side.board.rows());
    };
    // One that lets it through, one that takes another login, one by SOCKS5, and a file that others may read.
    let http = by(format!("http://{}", egress_proxy(BASIC).await));
    shown += &format!("{http:?}");
    let mut bank = edge(http, "bank");
    let ups = (hub.link_up().await, bank.link_up().await);
    show(&bank, &mut shown);
    bank.stop.cancel();
    in_time(bank.task).await.unwrap();
    let refusing = by(format!("http://{}", egress_proxy("no such login").await));
    let (socks, mut heard) = refusing_socks().await;
    for cfg in [refusing.clone(), by(format!("socks5://{socks}"))] {
        let bank = edge(cfg, "bank");
        bank.reason("proxy_auth").await;
        show(&bank, &mut shown);
        bank.stop.cancel();
        in_time(bank.task).await.unwrap();
    }
    let login = in_time(heard.recv()).await.unwrap();
    assert!(login.ends_with(PASSWORD.as_bytes()), "the proxy was told");
    let bank = edge(refusing, "bank");
    bank.reason("proxy_auth").await;
    write(0o644);
    bank.reason("proxy_password").await;
    show(&bank, &mut shown);
    bank.stop.cancel();
    in_time(bank.task).await.unwrap();
    drop(ups);
    let log = captured();
    assert!(log.contains("lane up") && log.contains("proxy_auth") && log.contains("proxy_password"), "{log}");
    for canary in [PASSWORD, &PASSWORD[..9], BASIC, &BASIC[4..18]] {
        assert!(!log.contains(canary), "{canary}: {log}");
        assert!(!shown.contains(canary), "{canary}: {shown}");
    }
}

#[test]
fn a_truncated_token_is_named_and_not_repeated() {
    let keys = Keys::new();
    let file = keys.token_file("bank");
    let (token, canaries) = (std::fs::read_to_string(&file).unwrap(), canaries(&keys));
    std::fs::write(&file, &token[..token.trim_end().len() - 1]).unwrap();
    let cfg = keys.edge_tunnel("bank", "127.0.0.1:1".parse().unwrap(), 1);
    let error = EdgeDialer::load(&cfg, "bank").err().unwrap();
    assert!(matches!(error, TunnelError::Token { .. }), "{error:?}");
    let text = format!("{error} {error:?}");
    assert!(text.contains("a character is missing") && text.contains("bank/token"), "{text}");
    assert!(canaries.iter().all(|canary| !text.contains(canary)), "{text}");
}

#[test]
fn the_token_of_another_edge_is_refused_before_anything_is_dialled() {
    let keys = Keys::new();
    let cfg = keys.edge_tunnel("other", "127.0.0.1:1".parse().unwrap(), 1);
    let error = EdgeDialer::load(&cfg, "bank").err().unwrap();
    assert!(matches!(error, TunnelError::TokenOfAnother { .. }), "{error:?}");
}

#[tokio::test]
async fn a_peers_escape_sequences_and_lines_reach_no_terminal() {
    begin_capture();
    let keys = Keys::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["riskfuel.hub.bridge.internal".to_owned()]).unwrap();
    let evil = format!("\x1b[2Jowned\nINFO all is well {}", "x".repeat(5000));
    params.distinguished_name.push(rcgen::DnType::CommonName, evil);
    let certified = Certified {
        chain: vec![params.self_signed(&key).unwrap().der().clone()],
        key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    };
    let (address, _seen) = play_hub(certified, &[b"bridge/1"]).await;
    let connect = vec![LinkUrl::parse(&format!("tls://{address}")).unwrap()];
    let bank =
        edge(pulsar_bridge::config::EdgeTunnel { connect, ..keys.edge_tunnel("bank", address, 1) }, "bank");
    bank.reason("intercepted").await;
    bank.stop.cancel();
    in_time(bank.task).await.unwrap();
    let log = captured();
    assert!(log.contains("owned"), "{log}");
    assert!(!log.contains('\x1b') && !log.contains("\nINFO all"), "{log}");
    let mut ours = log.lines().filter(|line| line.contains("pulsar_bridge::tunnel"));
    assert!(ours.all(|line| line.len() < 1500), "{log}");
}
