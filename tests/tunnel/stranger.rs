//! Peers that are not the bridge: a raw edge that may say anything, a server that plays the hub, a proxy.
//! Built on rustls alone, with message types of its own, so that a mistake of the bridge is not shared.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use prost::Message;
use pulsar_bridge::config::credential::JoinToken;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client};
use tokio_util::sync::CancellationToken;

use crate::bridge::in_time;

/// A certificate with its key.
pub struct Certified {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Certified {
    /// The certificate that a token's edge presents.
    pub fn of_token(token: &JoinToken) -> Self {
        // HKDF-SHA256 (RFC 5869) by hand, one block.
        let prk = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]), token.seed());
        let okm = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, prk.as_ref()), b"bridge/edge-key/v1\x01");
        let head = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
        let pkcs8 = PrivatePkcs8KeyDer::from([&head, okm.as_ref()].concat());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519).unwrap();
        Self::self_signed(&key, "stranger")
    }

    pub fn self_signed(key: &KeyPair, name: &str) -> Self {
        let mut params = CertificateParams::new(["riskfuel.hub.bridge.internal".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(key).unwrap();
        Self {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    #[prost(uint32, repeated, tag = "1")]
    pub versions: Vec<u32>,
    #[prost(uint64, tag = "2")]
    pub features: u64,
    #[prost(string, tag = "3")]
    pub site: String,
    #[prost(bytes = "vec", tag = "4")]
    pub instance: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub lane: Option<LaneAsked>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LaneAsked {
    #[prost(fixed64, tag = "1")]
    pub link: u64,
    #[prost(uint32, tag = "2")]
    pub index: u32,
    #[prost(int32, tag = "3")]
    pub kind: i32,
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
    #[prost(uint32, tag = "5")]
    pub relay_lanes: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Welcome {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(string, tag = "3")]
    pub site: String,
    #[prost(bytes = "vec", tag = "4")]
    pub instance: Vec<u8>,
    #[prost(fixed64, tag = "5")]
    pub link: u64,
    #[prost(message, optional, tag = "6")]
    pub limits: Option<Limits>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Limits {
    #[prost(uint32, tag = "1")]
    pub relay_lanes: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Refused {
    #[prost(uint32, tag = "1")]
    pub code: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub instance: Vec<u8>,
}

pub const CONTROL: i32 = 1;
pub const RELAY: i32 = 2;
pub const HELLO: u8 = 1;
pub const WELCOME: u8 = 2;
pub const REFUSED: u8 = 3;

impl Hello {
    pub fn of(site: &str) -> Self {
        Self {
            versions: vec![1],
            features: 0,
            site: site.into(),
            instance: vec![42; 16],
            lane: Some(LaneAsked { kind: CONTROL, attempt: 1, relay_lanes: 1, ..LaneAsked::default() }),
        }
    }
}

/// A raw edge: any certificate, any words.
pub struct RawEdge {
    pub tls: client::TlsStream<TcpStream>,
}

impl RawEdge {
    pub async fn connect(hub: SocketAddr, certified: Certified, alpn: &[&[u8]]) -> Self {
        Self::connect_in_pieces(hub, certified, alpn, None).await
    }

    /// Its records are at most this long, head included.
    pub async fn connect_in_pieces(
        hub: SocketAddr,
        certified: Certified,
        alpn: &[&[u8]],
        record_len_max: Option<usize>,
    ) -> Self {
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_client_auth_cert(certified.chain, certified.key)
            .unwrap();
        config.max_fragment_size = record_len_max;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let socket = TcpStream::connect(hub).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
        Self { tls }
    }

    pub async fn say(&mut self, kind: u8, body: &[u8]) {
        say(&mut self.tls, kind, body).await.unwrap();
    }

    /// The hub's next frame, or how the connection ended.
    pub async fn hear(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        hear(&mut self.tls).await
    }

    pub async fn refusal_of(&mut self, hello: &Hello) -> u32 {
        self.say(HELLO, &hello.encode_to_vec()).await;
        let (kind, body) = self.hear().await.unwrap();
        assert_eq!(kind, REFUSED);
        Refused::decode(&body[..]).unwrap().code
    }
}

/// Writes a frame of the handshake.
pub async fn say<W: AsyncWrite + Unpin>(to: &mut W, kind: u8, body: &[u8]) -> std::io::Result<()> {
    to.write_all(&framed(kind, body)).await
}

/// A frame of the handshake.
pub fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 1).unwrap();
    [&len.to_be_bytes()[..], &[kind], body].concat()
}

/// Reads one.
pub async fn hear<R: AsyncRead + Unpin>(from: &mut R) -> std::io::Result<(u8, Vec<u8>)> {
    let len = in_time(from.read_u32()).await?;
    let kind = from.read_u8().await?;
    let mut body = vec![0; len as usize - 1];
    from.read_exact(&mut body).await?;
    Ok((kind, body))
}

/// What a server that plays the hub got to see.
#[derive(Debug, Default)]
pub struct Seen {
    pub connections: AtomicUsize,
    pub application_bytes: AtomicUsize,
    pub client_certificate: AtomicBool,
}

/// Serves TLS with this certificate to everybody who comes, asking for theirs, and counts what they say.
pub async fn play_hub(certified: Certified, alpn: &[&[u8]]) -> (SocketAddr, Arc<Seen>) {
    play_hub_that_says(certified, alpn, b"").await
}

/// The same, and says this to everybody first.
pub async fn play_hub_that_says(
    certified: Certified,
    alpn: &[&[u8]],
    words: &'static [u8],
) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let acceptor = hubs_acceptor(certified, alpn, seen.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counted = seen.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, seen) = (acceptor.clone(), counted.clone());
            tokio::spawn(async move {
                if let Ok(mut tls) = acceptor.accept(socket).await {
                    // Whoever leaves early does not hear it.
                    _ = tls.write_all(words).await;
                    let mut buffer = [0; 1024];
                    while let Ok(len @ 1..) = tls.read(&mut buffer).await {
                        seen.application_bytes.fetch_add(len, Ordering::SeqCst);
                    }
                }
                seen.connections.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    (address, seen)
}

/// The hub's half of TLS, with this certificate, that lets everybody in.
pub fn hubs_acceptor(certified: Certified, alpn: &[&[u8]], seen: Arc<Seen>) -> TlsAcceptor {
    acceptor(certified, alpn, AnyClient { seen, mandatory: true })
}

/// A server's half of TLS that asks for a certificate and does without.
pub fn asking_acceptor(certified: Certified, alpn: &[&[u8]], seen: Arc<Seen>) -> TlsAcceptor {
    acceptor(certified, alpn, AnyClient { seen, mandatory: false })
}

fn acceptor(certified: Certified, alpn: &[&[u8]], clients: AnyClient) -> TlsAcceptor {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(clients))
        .with_single_cert(certified.chain, certified.key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A TCP proxy: which targets, in turn, and whether bytes still pass.
pub struct Proxy {
    pub address: SocketAddr,
    pub targets: Arc<Mutex<Vec<SocketAddr>>>,
    /// Cancelled: bytes vanish, but sockets stay open.
    pub black_hole: CancellationToken,
}

pub async fn proxy(targets: Vec<SocketAddr>) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy {
        address: listener.local_addr().unwrap(),
        targets: Arc::new(Mutex::new(targets)),
        black_hole: CancellationToken::new(),
    };
    let (targets, black_hole) = (proxy.targets.clone(), proxy.black_hole.clone());
    tokio::spawn(async move {
        for turn in 0.. {
            let (near, _) = listener.accept().await.unwrap();
            let target = {
                let targets = targets.lock().unwrap();
                targets[turn % targets.len()]
            };
            tokio::spawn(carry(near, target, black_hole.clone()));
        }
    });
    proxy
}

async fn carry(mut near: TcpStream, target: SocketAddr, black_hole: CancellationToken) {
    let Ok(mut far) = TcpStream::connect(target).await else {
        return;
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        () = black_hole.cancelled() => std::future::pending().await,
    }
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

#[derive(Debug)]
struct AnyClient {
    seen: Arc<Seen>,
    mandatory: bool,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.seen.client_certificate.store(true, Ordering::SeqCst);
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

fn schemes() -> Vec<SignatureScheme> {
    let provider: CryptoProvider = provider::default_provider();
    provider.signature_verification_algorithms.supported_schemes()
}
