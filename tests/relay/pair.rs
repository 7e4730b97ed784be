//! Two agents between two scripted brokers: `riskfuel` relays one topic to `bank` over lanes in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use pulsar_bridge::policy::{Patterns, Policies, Policy, Renaming, TopicRules};
use pulsar_bridge::pulsar::client::Client;
use pulsar_bridge::pulsar::entry::Entry;
use pulsar_bridge::pulsar::fields;
use pulsar_bridge::pulsar::rest::AdminRest;
use pulsar_bridge::pulsar::topic::TopicName;
use pulsar_bridge::pulsar::transport::{Address, Dialer};
use pulsar_bridge::relay::agent::Agent;
use pulsar_bridge::relay::context::{Cluster, Context, RouteSpec, Start};
use pulsar_bridge::relay::ruling::{Ruling, Rulings};
use pulsar_bridge::relay::status::{Board, End, PartitionStatus, State};
use pulsar_bridge::tunnel::budget::{Budget, Class};
use pulsar_bridge::tunnel::features::FEATURES;
use pulsar_bridge::tunnel::link::{LaneStream, Link, LinkUp, RelayLane, TunnelEvent};
use pulsar_bridge::tunnel::retiring::Retiring;
use pulsar_bridge::tunnel::stream_lanes::StreamLanes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::broker::Broker;
use crate::journal::{Journal, PATIENCE};

pub const QUARANTINE: &str = "persistent://public/default/refused";
pub const TOPIC: &str = "persistent://public/default/orders";

/// One agent.
pub struct Side {
    pub board: Board,
    pub events: mpsc::Sender<TunnelEvent>,
    /// What holds there; replaced as by a reload.
    pub rulings: Rulings,
    drain: CancellationToken,
    task: JoinHandle<()>,
}

impl Side {
    pub fn start(
        site: &str,
        broker: &Broker,
        routes: Vec<RouteSpec>,
        policy: Policy,
        exclusive: bool,
    ) -> Self {
        Self::start_at(site, &broker.url(), routes, policy, exclusive)
    }

    pub fn start_at(site: &str, url: &str, routes: Vec<RouteSpec>, policy: Policy, exclusive: bool) -> Self {
        Self::start_with(site, url, routes, policy, exclusive, None)
    }

    /// One that may ask an admin API.
    pub fn start_with(
        site: &str,
        url: &str,
        routes: Vec<RouteSpec>,
        policy: Policy,
        exclusive: bool,
        rest: Option<AdminRest>,
    ) -> Self {
        let (board, drain) = (Board::default(), CancellationToken::new());
        let service = vec![Address::parse(url).unwrap()];
        let cluster = Cluster {
            client: Client::new(service, Dialer::default(), Arc::new(|| Ok(None))),
            rest,
            deduplication_asserted: true,
            single_replica: exclusive,
        };
        let context = Arc::new(Context::new(site, cluster, board.clone(), drain.clone()));
        let (events, received) = mpsc::channel(16);
        let rulings = Rulings::new(Ruling { declared: routes, policies: Policies::One(policy) });
        let agent = Agent::by_rulings(context, rulings.clone());
        let task = tokio::spawn(agent.run(received));
        Self { board, events, rulings, drain, task }
    }

    /// Gives it one end of a new lane to `peer`.
    pub async fn give_lane(&self, peer: &str, stream: Box<dyn LaneStream>) -> CancellationToken {
        self.give_lane_of(peer, FEATURES, stream).await
    }

    /// The same of a peer that knows only these features.
    pub async fn give_lane_of(
        &self,
        peer: &str,
        features: u64,
        stream: Box<dyn LaneStream>,
    ) -> CancellationToken {
        let ended = CancellationToken::new();
        let lane = RelayLane { link: link(peer, features), index: 0, stream, ended: ended.clone() };
        assert!(self.events.send(TunnelEvent::RelayLane(lane)).await.is_ok());
        ended
    }

    /// Gives it one end of a link to `peer`: what it says there, and what it hears.
    pub async fn give_link_end(
        &self,
        peer: &str,
        outbound: mpsc::Sender<Bytes>,
        inbound: mpsc::Receiver<Bytes>,
    ) {
        let up = LinkUp { link: link(peer, FEATURES), outbound, inbound };
        assert!(self.events.send(TunnelEvent::LinkUp(up)).await.is_ok());
    }

    /// Gives it a link to `peer`; what the peer says on the control stream goes into the sender.
    pub async fn give_link(&self, peer: &str) -> mpsc::Sender<Bytes> {
        let (outbound, mut heard) = mpsc::channel(16);
        tokio::spawn(async move { while heard.recv().await.is_some() {} });
        let (said, inbound) = mpsc::channel(16);
        self.give_link_end(peer, outbound, inbound).await;
        said
    }

    /// Gives it a link to `peer` that has no lanes, and its end.
    pub async fn give_bare_link(&self, peer: &str) -> (CancellationToken, mpsc::Sender<Bytes>) {
        let (outbound, mut heard) = mpsc::channel(16);
        tokio::spawn(async move { while heard.recv().await.is_some() {} });
        let (said, inbound) = mpsc::channel(16);
        let ended = CancellationToken::new();
        let bare = Link {
            id: 8,
            peer: peer.into(),
            instance: [7; 16],
            relay_lanes: 0,
            features: FEATURES,
            budget: Budget::new(0),
            retiring: Retiring::default(),
            stream_lanes: StreamLanes::default(),
            ended: ended.clone(),
        };
        let up = LinkUp { link: Arc::new(bare), outbound, inbound };
        assert!(self.events.send(TunnelEvent::LinkUp(up)).await.is_ok());
        (ended, said)
    }

    pub fn row(&self, end: End) -> Option<PartitionStatus> {
        self.board.rows().into_iter().find(|row| row.end == end)
    }

    /// Looks until the row is as wanted; the board itself wakes nobody.
    pub async fn until(
        &self,
        end: End,
        what: &str,
        wanted: impl Fn(&PartitionStatus) -> bool,
    ) -> PartitionStatus {
        let look = async {
            loop {
                match self.row(end).filter(|row| wanted(row)) {
                    Some(row) => return row,
                    None => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(row) => row,
            Err(_) => panic!("never: {what}; {:#?}", self.board.rows()),
        }
    }

    /// Tells it to stop; `stop` waits for the end of it.
    pub fn begin_stop(&self) {
        self.drain.cancel();
    }

    pub async fn stop(self) {
        self.begin_stop();
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        assert!(matches!(ended, Ok(Ok(()))), "the agent does not drain: {:#?}", self.board.rows());
    }
}

/// Both, their brokers, and the lane between them.
pub struct Pair {
    pub journal: Journal,
    pub source: Broker,
    pub sink: Broker,
    pub riskfuel: Side,
    pub bank: Side,
    pub lane: Mutex<Option<CancellationToken>>,
}

impl Pair {
    /// An Exclusive consumer; no lane yet.
    pub async fn start() -> Self {
        Self::start_as(true, None).await
    }

    pub async fn start_as(exclusive: bool, joining: Option<pulsar_bridge::relay::batching::Limits>) -> Self {
        let journal = Journal::new();
        let source = Broker::start("source", journal.clone()).await;
        let sink = Broker::start("sink", journal.clone()).await;
        let route = RouteSpec { joining, ..route() };
        let riskfuel = Side::start("riskfuel", &source, vec![route], Policy::default(), exclusive);
        let bank = Side::start("bank", &sink, Vec::new(), receiving(), exclusive);
        Self { journal, source, sink, riskfuel, bank, lane: Mutex::new(None) }
    }

    /// A route with a quarantine, and an admin API at its source.
    pub async fn quarantining(joining: Option<pulsar_bridge::relay::batching::Limits>) -> Self {
        let journal = Journal::new();
        let source = Broker::start("source", journal.clone()).await;
        let sink = Broker::start("sink", journal.clone()).await;
        let riskfuel = Self::quarantining_source(&source, joining).await;
        let bank = Side::start("bank", &sink, Vec::new(), quarantine_receiving(), true);
        Self { journal, source, sink, riskfuel, bank, lane: Mutex::new(None) }
    }

    /// The source's agent of such a route.
    pub async fn quarantining_source(
        source: &Broker,
        joining: Option<pulsar_bridge::relay::batching::Limits>,
    ) -> Side {
        let quarantine = Some(TopicName::parse(QUARANTINE).unwrap());
        let route = RouteSpec { joining, quarantine, ..route() };
        let rest = Some(admin::serve(source).await);
        Side::start_with("riskfuel", &source.url(), vec![route], Policy::default(), true, rest)
    }

    /// A new lane; the one before must have been cut.
    pub async fn connect(&self) {
        let (here, there) = tokio::io::duplex(1 << 16);
        let ended = self.riskfuel.give_lane("bank", Box::new(here)).await;
        self.bank.give_lane("riskfuel", Box::new(there)).await;
        *self.lane.lock().unwrap() = Some(ended);
    }

    /// Ends the lane at one side; the other notices by its stream.
    pub fn cut(&self) {
        if let Some(ended) = self.lane.lock().unwrap().take() {
            ended.cancel();
        }
    }

    /// More entries at the source, from this one on.
    pub fn append(&self, entries: std::ops::Range<u64>) {
        self.source.with(|state| state.log.extend(entries.map(|nth| ((LEDGER, nth), entry(nth)))));
    }

    pub fn log(&self) -> Vec<(u64, u64)> {
        self.source.with(|state| state.log.iter().map(|(at, _)| *at).collect())
    }

    /// Everything is acknowledged, arrived once and in order, and no acknowledgement came before its receipt.
    pub async fn finish(self) {
        let log = self.log();
        let last = log.last().copied();
        let what = "everything is acknowledged";
        self.journal.until(what, |events| crate::journal::acks(events).last().copied() == last).await;
        self.journal.hold_the_law(&log);
        let sent = self.source.with(|state| state.log.clone());
        let stored = self.sink.with(|state| state.stored.clone());
        let due: Vec<u64> = log.iter().map(|(ledger, entry)| ledger << 28 | entry).collect();
        let got: Vec<u64> = stored.iter().map(|(id, _)| *id).collect();
        assert_eq!(got, due, "the destination stored other ids, or in another order");
        for ((_, sent), (_, stored)) in sent.into_iter().zip(stored) {
            let (sent, stored) = (Entry::parse(sent).unwrap(), Entry::parse(stored).unwrap());
            assert_eq!(sent.payload(), stored.payload());
            assert!(stored.checksum_holds());
        }
        self.stop().await;
    }

    /// The same for a route that joins: by what the entries hold, because several share one id.
    pub async fn finish_joined(self) {
        let log = self.log();
        let last = log.last().copied();
        self.journal
            .until("everything is acknowledged", |events| {
                crate::journal::acks(events).last().copied() == last
            })
            .await;
        let stored = self.sink.with(|state| state.stored.clone());
        let mut arrived = Vec::new();
        for (_, stored) in stored {
            let stored = Entry::parse(stored).unwrap();
            assert!(stored.checksum_holds());
            let payload = match stored.facts().compression {
                0 => stored.payload().to_vec(),
                codec => {
                    assert_eq!(codec, 3);
                    zstd::bulk::decompress(stored.payload(), 1 << 20).unwrap()
                }
            };
            let text = String::from_utf8_lossy(&payload).into_owned();
            arrived.extend(text.match_indices("order ").map(|(at, _)| {
                let digits = text[at + 6..].chars().take_while(char::is_ascii_digit);
                digits.collect::<String>().parse::<u64>().unwrap()
            }));
        }
        assert_eq!(arrived, log.iter().map(|(_, entry)| *entry).collect::<Vec<_>>());
        self.stop().await;
    }

    pub async fn stop(self) {
        self.riskfuel.stop().await;
        self.bank.stop().await;
    }

    /// The route's source stops with this reason.
    pub async fn until_stopped(&self, reason: &str) -> PartitionStatus {
        let stopped =
            |row: &PartitionStatus| row.state == State::Stopped && row.reason.as_deref() == Some(reason);
        self.riskfuel.until(End::Source, reason, stopped).await
    }
}

pub fn route() -> RouteSpec {
    RouteSpec {
        name: "orders".into(),
        from: "riskfuel".into(),
        to: "bank".into(),
        topics: vec![TopicName::parse(TOPIC).unwrap()],
        patterns: Patterns::default(),
        renaming: Renaming::default(),
        any_partitions: false,
        onward: false,
        generation: 1,
        subscription: "bridge.riskfuel.bank".into(),
        start: Start::Earliest,
        joining: None,
        class: Class::Requests,
        quarantine: None,
    }
}

fn link(peer: &str, features: u64) -> Arc<Link> {
    let ended = CancellationToken::new();
    Arc::new(Link {
        id: 7,
        peer: peer.into(),
        instance: [7; 16],
        relay_lanes: 1,
        features,
        budget: Budget::new(0),
        retiring: Retiring::default(),
        stream_lanes: StreamLanes::default(),
        ended,
    })
}

/// The bank lets exactly the topic in.
pub fn receiving() -> Policy {
    Policy { receive: TopicRules::parse(&[TOPIC.into()]).unwrap(), ..Policy::default() }
}

/// And the topic for what it refuses.
pub fn quarantine_receiving() -> Policy {
    Policy { receive: TopicRules::parse(&[TOPIC.into(), QUARANTINE.into()]).unwrap(), ..Policy::default() }
}

pub fn entry(nth: u64) -> Bytes {
    stored(&metadata(nth), format!("order {nth}").as_bytes())
}

pub fn metadata(nth: u64) -> Vec<u8> {
    let mut metadata = Vec::new();
    fields::put_bytes(&mut metadata, 1, b"a writer");
    fields::put_varint(&mut metadata, 2, nth);
    fields::put_varint(&mut metadata, 3, 1_700_000_000_000);
    metadata
}

/// Checksum, metadata, payload, as a broker stores them.
pub fn stored(metadata: &[u8], payload: &[u8]) -> Bytes {
    let mut covered = BytesMut::new();
    covered.put_u32(metadata.len() as u32);
    covered.put_slice(metadata);
    covered.put_slice(payload);
    let mut stored = BytesMut::new();
    stored.put_u16(0x0e01);
    stored.put_u32(crc32c::crc32c(&covered));
    stored.put(covered);
    stored.freeze()
}

/// Where the source's entries lie.
pub const LEDGER: u64 = 5;

pub fn id(nth: u64) -> u64 {
    LEDGER << 28 | nth
}
