//! A hub and an edge with forwards between them, over a wire that can be cut; and targets to reach. Knows no assertion.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pulsar_bridge::forward::agent::Forwards;
use pulsar_bridge::forward::rules::{ForwardSpec, Rules};
use pulsar_bridge::forward::status::{Board, ForwardStatus};
use pulsar_bridge::policy::{ForwardLimits, Policies, Policy, Target};
use pulsar_bridge::tunnel::{EdgeDialer, HubKeys, TunnelMetrics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::bridge::{Keys, PATIENCE, Side, row_of};

/// Site names.
pub const HUB: &str = "riskfuel";
pub const EDGE: &str = "bank";

/// Both sides, and the wire between them.
pub struct Pair {
    pub hub: End,
    pub edge: End,
    pub wire: Wire,
    pub keys: Keys,
}

/// One side.
pub struct End {
    pub side: Side,
    pub board: Board,
    pub forwards: Forwards,
}

/// What one side declares and allows the other.
#[derive(Clone, Default)]
pub struct Ours {
    pub declared: Vec<ForwardSpec>,
    pub policy: Policy,
}

impl Pair {
    pub async fn new(at_hub: Ours, at_edge: Ours) -> Self {
        let keys = Keys::new();
        let stop = CancellationToken::new();
        let (streams, forwarded) = mpsc::channel(4);
        let keys_of_hub = HubKeys::load(&keys.hub_tunnel(), HUB).unwrap().with_streams(streams);
        let listener = keys_of_hub.bind().await.unwrap();
        let wire = Wire::to(listener.local_addr().unwrap()).await;
        let (events, received) = mpsc::channel(64);
        let (links, metrics) = (Default::default(), TunnelMetrics::default());
        let task = tokio::spawn(listener.serve(Clone::clone(&links), metrics.clone(), events, stop.clone()));
        let side = Side { board: links, metrics, events: received, stop, task };
        let hub = End::new(side, at_hub.rules(HUB), forwarded);

        let edge = keys.edge(wire.address, at_edge);
        Self { hub, edge, wire, keys }
    }
}

impl Keys {
    /// A process of the edge.
    pub fn edge(&self, hub: SocketAddr, ours: Ours) -> End {
        let stop = CancellationToken::new();
        let (streams, forwarded) = mpsc::channel(4);
        let dialer = EdgeDialer::load(&self.edge_tunnel(EDGE, hub, 0), EDGE).unwrap();
        let (events, received) = mpsc::channel(64);
        let (links, metrics) = (Default::default(), TunnelMetrics::default());
        let dialer = dialer.with_streams(streams);
        let task = tokio::spawn(dialer.run(Clone::clone(&links), metrics.clone(), events, stop.clone()));
        let side = Side { board: links, metrics, events: received, stop, task };
        End::new(side, ours.rules(EDGE), forwarded)
    }
}

impl End {
    pub fn new(
        side: Side,
        rules: Rules,
        links: mpsc::Receiver<pulsar_bridge::tunnel::streams::LinkStreams>,
    ) -> Self {
        let board = Board::default();
        let forwards = Forwards::new(rules, Vec::new(), board.clone(), side.stop.clone());
        tokio::spawn(forwards.clone().run(links));
        Self { side, board, forwards }
    }

    /// The first row that fits.
    pub async fn row(&self, fits: impl Fn(&ForwardStatus) -> bool) -> ForwardStatus {
        row_of(|| self.board.rows(), fits).await
    }

    /// Where a forward listens, once it does.
    pub async fn listening(&self, name: &str) -> SocketAddr {
        let row = self.row(|row| row.forward == name && row.state == "listening").await;
        row.listen.unwrap().parse().unwrap()
    }
}

impl Ours {
    pub fn rules(self, site: &str) -> Rules {
        let policies = match site {
            HUB => Policies::Each(BTreeMap::from([(EDGE.to_owned(), self.policy)])),
            _ => Policies::One(self.policy),
        };
        Rules { site: site.into(), declared: self.declared, policies }
    }
}

/// A forward that listens at any port of this machine.
pub fn forward(name: &str, from: &str, to: &str, target: SocketAddr) -> ForwardSpec {
    ForwardSpec {
        name: name.into(),
        from: from.into(),
        listen: "127.0.0.1:0".parse().unwrap(),
        to: to.into(),
        target: Target::parse(&target.to_string()).unwrap(),
        limits: ForwardLimits::default(),
    }
}

/// A policy that lets these be reached.
pub fn reaching(targets: &[SocketAddr]) -> Policy {
    let mut policy = Policy::default();
    for target in targets {
        policy.forward.allow(Target::parse(&target.to_string()).unwrap(), ForwardLimits::default());
    }
    policy
}

/// The usual: declared at the hub, reached at the edge.
pub async fn pair_to(target: SocketAddr) -> (Pair, SocketAddr) {
    let ours = Ours { declared: vec![forward("app", HUB, EDGE, target)], ..Ours::default() };
    let theirs = Ours { policy: reaching(&[target]), ..Ours::default() };
    let pair = Pair::new(ours, theirs).await;
    let listen = pair.hub.listening("app").await;
    (pair, listen)
}

/// A TCP wire that can be cut: both ends then see an end, and no word of TLS.
pub struct Wire {
    pub address: SocketAddr,
    cut: watch::Sender<u64>,
}

impl Wire {
    async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, cuts) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                tokio::spawn(carry(near, target, cuts.clone()));
            }
        });
        Self { address, cut }
    }

    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

async fn carry(mut near: TcpStream, target: SocketAddr, mut cuts: watch::Receiver<u64>) {
    cuts.mark_unchanged();
    let Ok(mut far) = TcpStream::connect(target).await else {
        return;
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        _ = cuts.changed() => {
            near.shutdown().await.ok();
            far.shutdown().await.ok();
        }
    }
}

/// A target that gives back what it reads, and ends when its client has ended.
pub async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
                write.shutdown().await.ok();
            });
        }
    });
    address
}

/// A target whose connections the test holds.
pub async fn held() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sockets, accepted) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if sockets.send(socket).await.is_err() {
                return;
            }
        }
    });
    (address, accepted)
}

/// An address that answers no SYN: its queue is full.
pub async fn silent() -> (SocketAddr, (socket2::Socket, Vec<TcpStream>)) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut held = Vec::new();
    let connect = || tokio::time::timeout(std::time::Duration::from_millis(300), TcpStream::connect(address));
    while let Ok(Ok(one)) = connect().await {
        held.push(one);
    }
    (address, (socket, held))
}

/// What a socket that is read to its end says: its bytes, or the error.
pub async fn read_out(socket: &mut TcpStream) -> Result<Vec<u8>, std::io::ErrorKind> {
    let mut read = Vec::new();
    match tokio::time::timeout(PATIENCE, socket.read_to_end(&mut read)).await {
        Ok(Ok(_)) => Ok(read),
        Ok(Err(error)) => Err(error.kind()),
        Err(_) => panic!("neither an end nor a reset"),
    }
}

/// Whether a round trip works.
pub async fn says_back(socket: &mut TcpStream, words: &[u8]) {
    socket.write_all(words).await.unwrap();
    let mut read = vec![0; words.len()];
    tokio::time::timeout(PATIENCE, socket.read_exact(&mut read)).await.unwrap().unwrap();
    assert_eq!(read, words);
}
