//! A broker with one topic that follows a script: deduplicates, holds answers back, refuses, cuts. What it says on
//! a connection is in `conversation.rs`; judges nothing, notes everything.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use pulsar_bridge::pulsar::proto::ServerError;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};

use crate::conversation::serve;
use crate::journal::{Journal, PATIENCE};

/// What happens to a send that is no duplicate.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// Stored, with a receipt.
    Store,
    /// Stored; the receipt waits until it is released.
    StoreLater,
    /// Not stored.
    Refuse(ServerError, &'static str),
    /// Not stored; the refusal waits until it is released.
    RefuseLater(ServerError, &'static str),
    /// Somebody else had stored it under the same name in the meantime.
    Anothers,
}

/// How a subscription is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// At once.
    Plain,
    /// After a PING has come back, so that everything sent before the answer is seen.
    Slow,
    /// Whether the consumer is active is said before the success, and twice after it.
    Talkative,
}

/// What the broker does to its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    CloseProducer,
    CloseConsumer,
    Ping,
    Reset,
}

/// An answer that waits.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub connection: u64,
    pub producer_id: u64,
    pub sequence_id: u64,
    pub refusal: Option<(ServerError, &'static str)>,
}

/// What there is to script and to see.
pub struct State {
    /// The topic as a source: positions and stored bytes.
    pub log: Vec<((u64, u64), Bytes)>,
    pub mark_delete: Option<(u64, u64)>,
    /// What the last acknowledgement left at the cursor.
    pub properties: Vec<(String, u64)>,
    /// The subscription's own.
    pub kept: BTreeMap<String, String>,
    /// Acknowledged singly.
    pub acked: BTreeSet<(u64, u64)>,
    /// Entries up to here expire when somebody asks for the topic's end.
    pub expires: Option<(u64, u64)>,
    /// Where the topic ends is not answered.
    pub mute: bool,
    pub manner: Manner,
    /// The topic as a destination.
    pub stored: Vec<(u64, Bytes)>,
    /// What came under a name that ends with `/quarantine`, and what becomes of it.
    pub quarantined: Vec<(u64, Bytes)>,
    pub quarantine_script: Box<dyn FnMut(u64) -> Answer + Send>,
    /// What becomes of a joined batch, before the other script is asked.
    pub joined_script: Box<dyn FnMut() -> Option<Answer> + Send>,
    /// By producer name.
    pub pushed: HashMap<String, i64>,
    pub script: Box<dyn FnMut(u64) -> Answer + Send>,
    pub held: Vec<Held>,
    pub released: Vec<Held>,
    pub owners: HashMap<String, u64>,
    pub connections: u64,
}

/// What the broker's connections share.
pub struct Shared {
    pub name: &'static str,
    address: SocketAddr,
    state: Mutex<State>,
    pub changed: watch::Sender<()>,
    pub orders: broadcast::Sender<Order>,
    pub journal: Journal,
}

/// A broker that runs until the test ends.
#[derive(Clone)]
pub struct Broker {
    shared: Arc<Shared>,
}

impl Broker {
    pub async fn start(name: &'static str, journal: Journal) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = State {
            log: Vec::new(),
            mark_delete: None,
            properties: Vec::new(),
            kept: BTreeMap::new(),
            acked: BTreeSet::new(),
            expires: None,
            mute: false,
            manner: Manner::Plain,
            stored: Vec::new(),
            pushed: HashMap::new(),
            script: Box::new(|_| Answer::Store),
            quarantined: Vec::new(),
            quarantine_script: Box::new(|_| Answer::Store),
            joined_script: Box::new(|| None),
            held: Vec::new(),
            released: Vec::new(),
            owners: HashMap::new(),
            connections: 0,
        };
        let shared = Arc::new(Shared {
            name,
            address: listener.local_addr().unwrap(),
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            orders: broadcast::Sender::new(16),
            journal,
        });
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let number = {
                    let mut state = serving.lock();
                    state.connections += 1;
                    state.connections
                };
                tokio::spawn(serve(serving.clone(), socket, number));
            }
        });
        Self { shared }
    }

    pub fn url(&self) -> String {
        self.shared.url()
    }

    /// Looks at the state, or changes it; whoever waits for a change is woken.
    pub fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let outcome = act(&mut self.shared.lock());
        self.shared.changed.send_replace(());
        outcome
    }

    pub fn order(&self, order: Order) {
        // Nobody may be connected.
        let _ = self.shared.orders.send(order);
    }

    /// Waits until the destination's topic holds as many entries.
    pub async fn until_stored(&self, count: usize) {
        let mut changed = self.shared.changed.subscribe();
        let stored = async {
            while self.shared.lock().stored.len() < count {
                changed.changed().await.unwrap();
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, stored).await;
        assert!(outcome.is_ok(), "{} stored, {count} are due", self.with(|state| state.stored.len()));
    }

    /// Lets waiting answers go: those that are wanted, in their order.
    pub fn release(&self, wanted: impl Fn(&Held) -> bool) {
        self.with(|state| {
            let (go, stay) = state.held.drain(..).partition(|held| wanted(held));
            state.held = stay;
            state.released.extend::<Vec<_>>(go);
        });
    }
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn url(&self) -> String {
        format!("pulsar://{}", self.address)
    }
}
