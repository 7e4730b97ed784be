//! What may stand between an edge and a hub and end TLS there: an ingress with a certificate of some authority.
//! Knows no assertion.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pulsar_bridge::config::{EdgeTunnel, LinkUrl};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::bridge::Keys;
use crate::stranger::{Certified, Seen, asking_acceptor};

/// An authority of somebody's own, and a certificate of it for 127.0.0.1.
pub struct Authority {
    dir: tempfile::TempDir,
    certified: Certified,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "Some Authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), root.pem()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Self { dir, certified: Certified { chain: vec![leaf.der().clone()], key } }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub fn certified(&self) -> Certified {
        Certified { chain: self.certified.chain.clone(), key: self.certified.key.clone_key() }
    }
}

/// Ends TLS with this certificate, by one of these protocols, asks for the caller's, and passes on what is inside.
pub async fn ingress(certified: Certified, alpn: &[&[u8]], to: SocketAddr) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let acceptor = asking_acceptor(certified, alpn, seen.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counted = seen.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), counted.clone());
            tokio::spawn(async move {
                if let Ok(mut tls) = acceptor.accept(socket).await {
                    let mut hub = TcpStream::connect(to).await.unwrap();
                    if let Ok((sent, _)) = tokio::io::copy_bidirectional(&mut tls, &mut hub).await {
                        seen.application_bytes.fetch_add(usize::try_from(sent).unwrap(), Ordering::SeqCst);
                    }
                }
                seen.connections.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    (address, seen)
}

/// An HTTP proxy that lets whoever has this login go on to wherever they ask.
pub async fn egress_proxy(login: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let to = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
                if !head.contains(login) {
                    let no = b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n";
                    socket.write_all(no).await.unwrap();
                    return;
                }
                let mut hub = TcpStream::connect(to).await.unwrap();
                socket.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                // Ends with whoever goes first.
                _ = tokio::io::copy_bidirectional(&mut socket, &mut hub).await;
            });
        }
    });
    address
}

/// What an edge is configured with that dials this address by `wss://`.
pub fn by_wss(keys: &Keys, address: SocketAddr, authority: Option<&Authority>) -> EdgeTunnel {
    let connect = vec![LinkUrl::parse(&format!("wss://{address}/bridge")).unwrap()];
    let outer_ca_file = authority.map(Authority::file);
    EdgeTunnel { connect, outer_ca_file, ..keys.edge_tunnel("bank", address, 1) }
}
