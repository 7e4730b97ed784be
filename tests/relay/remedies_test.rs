//! Remedies of reasons that no real broker brings about, followed to the letter, and the route running again. Those of
//! the others are the suite's part: docs/remedies.md has them all.

use std::ops::Range;
use std::sync::Mutex;

use pulsar_bridge::policy::{Pattern, Patterns, Policy};
use pulsar_bridge::pulsar::proto::{ServerError, kind};
use pulsar_bridge::relay::context::RouteSpec;
use pulsar_bridge::relay::status::{End, PartitionStatus, State};

use crate::broker::{Answer, Broker, Order};
use crate::journal::{Journal, PATIENCE, acks};
use crate::pair::{LEDGER, Pair, Side, entry, id, metadata, receiving, route, stored};
use crate::peer::{LaneFrame, Peer, Stop, open, opening, readiness};
use crate::said::Said;
use crate::several::{Reading, Site, carrying, rules};

const EVERYTHING: &[&str] = &["persistent://.*"];

/// "start again": the source site's agent, after it was stopped, and with this in its file.
async fn start_again(stopped: (Journal, Broker, Broker, Side), route: RouteSpec) -> Pair {
    let (journal, source, sink, bank) = stopped;
    let riskfuel = Side::start("riskfuel", &source, vec![route], Policy::default(), true);
    let pair = Pair { journal, source, sink, riskfuel, bank, lane: Mutex::new(None) };
    pair.connect().await;
    pair
}

/// "stop the source site's bridge".
async fn stop_source(pair: Pair) -> (Journal, Broker, Broker, Side) {
    let Pair { journal, source, sink, riskfuel, bank, .. } = pair;
    riskfuel.stop().await;
    (journal, source, sink, bank)
}

/// `pulsar-admin topics skip -n <count>`: from the oldest one that is not acknowledged.
fn skip(source: &Broker, count: usize) -> Vec<(u64, u64)> {
    source.with(|state| {
        let mark = state.mark_delete;
        let left = state.log.iter().map(|(at, _)| *at).filter(|at| mark.is_none_or(|mark| *at > mark));
        let skipped: Vec<_> = left.take(count).collect();
        state.mark_delete = skipped.last().copied().or(mark);
        skipped
    })
}

fn put(source: &Broker, ledger: u64, entries: Range<u64>) {
    source.with(|state| state.log.extend(entries.map(|nth| ((ledger, nth), entry(nth)))));
}

/// Everything of these ledgers, once and in order, and nothing else.
async fn hold_arrived(pair: Pair, due: impl IntoIterator<Item = (u64, u64)>) {
    let last = pair.log().last().copied();
    pair.journal.until("all is acknowledged", |events| acks(events).last().copied() == last).await;
    let running = |row: &PartitionStatus| row.state == State::Running;
    pair.riskfuel.until(End::Source, "it runs", running).await;
    let stored: Vec<u64> = pair.sink.with(|state| state.stored.iter().map(|(id, _)| *id).collect());
    assert_eq!(stored, due.into_iter().map(|(ledger, nth)| ledger << 28 | nth).collect::<Vec<_>>());
    pair.stop().await;
}

#[tokio::test]
async fn an_entry_id_without_place_is_skipped_and_the_new_ledger_is_relayed() {
    let (said, _listening) = Said::listen();
    let pair = Pair::start().await;
    let beyond = (1 << 28)..(1 << 28) + 2;
    pair.append(0..3);
    put(&pair.source, LEDGER, beyond.clone());
    pair.connect().await;
    let row = pair.until_stopped("position_overflow").await;
    assert!(row.remedy.is_some_and(|remedy| remedy.contains("managedLedgerMaxEntriesPerLedger")));
    assert!(said.text().contains(&format!("{LEDGER}:{}", 1 << 28)), "{}", said.text());
    let stopped = stop_source(pair).await;
    // Unloaded, the topic begins a new ledger.
    put(&stopped.1, LEDGER + 1, 0..3);
    assert_eq!(skip(&stopped.1, 2), beyond.map(|nth| (LEDGER, nth)).collect::<Vec<_>>());
    let pair = start_again(stopped, route()).await;
    hold_arrived(pair, (0..3).map(|nth| (LEDGER, nth)).chain((0..3).map(|nth| (LEDGER + 1, nth)))).await;
}

#[tokio::test]
async fn a_ledger_id_without_place_needs_a_new_cluster_and_the_next_generation() {
    let pair = Pair::start().await;
    put(&pair.source, 1 << 35, 0..3);
    pair.connect().await;
    pair.until_stopped("position_overflow").await;
    let (journal, _, sink, bank) = stop_source(pair).await;
    let source = Broker::start("source", journal.clone()).await;
    put(&source, LEDGER, 0..3);
    let pair = start_again((journal, source, sink, bank), RouteSpec { generation: 2, ..route() }).await;
    hold_arrived(pair, (0..3).map(|nth| (LEDGER, nth))).await;
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_skipped_and_the_rest_is_relayed() {
    let (said, _listening) = Said::listen();
    let whole = metadata(3);
    let cut = stored(&whole[..whole.len() - 1], b"");
    let pair = Pair::start().await;
    pair.append(0..3);
    pair.source.with(|state| state.log.push(((LEDGER, 3), cut)));
    pair.append(4..7);
    // It is read while what lies before it is still unconfirmed.
    pair.sink.with(|state| state.script = Box::new(|_| Answer::StoreLater));
    pair.connect().await;
    pair.journal.until_command("sink", kind::SEND, 3).await;
    pair.sink.with(|state| state.script = Box::new(|_| Answer::Store));
    pair.sink.release(|_| true);
    let row = pair.until_stopped("entry_malformed").await;
    assert!(row.remedy.is_some_and(|remedy| remedy.contains("topics skip -n 1")));
    assert!(said.text().contains(&format!("{LEDGER}:3: ")), "{}", said.text());
    let stopped = stop_source(pair).await;
    assert_eq!(skip(&stopped.1, 1), [(LEDGER, 3)], "the subscription does not stand at it");
    let pair = start_again(stopped, route()).await;
    hold_arrived(pair, (0..7).filter(|nth| *nth != 3).map(|nth| (LEDGER, nth))).await;
}

#[tokio::test]
async fn a_reason_of_a_newer_version_is_told_as_the_peers_and_passes_with_it() {
    let (said, _listening) = Said::listen();
    let journal = Journal::new();
    let source = Broker::start("source", journal.clone()).await;
    let riskfuel = Side::start("riskfuel", &source, vec![route()], Policy::default(), true);
    let mut bank = Peer::meet(&riskfuel, "bank").await;
    let opened = bank.hear().await.unwrap().open.unwrap();
    let stop = Stop { number: opened.number, session: opened.session, code: "of_tomorrow".into() };
    bank.tell(LaneFrame { stop: Some(stop), ..LaneFrame::default() }, b"").await;
    let refused = |row: &PartitionStatus| row.reason.as_deref() == Some("refused_by_peer");
    let row = riskfuel.until(End::Source, "it is the peer's", refused).await;
    assert!(row.remedy.is_some_and(|remedy| remedy.contains("other site's log")));
    assert!(!said.text().contains("of_tomorrow"), "the peer's words: {}", said.text());
    // What its log asked for is done there; whoever cannot wait half a minute starts again.
    riskfuel.stop().await;
    let riskfuel = Side::start("riskfuel", &source, vec![route()], Policy::default(), true);
    let mut bank = Peer::meet(&riskfuel, "bank").await;
    let opened = bank.hear().await.unwrap().open.unwrap();
    bank.tell(readiness(&opened), b"").await;
    riskfuel.until(End::Source, "it runs", |row| row.state == State::Running).await;
    riskfuel.stop().await;
}

#[tokio::test]
async fn a_writer_under_our_name_is_gone_after_one_new_session() {
    let pair = Pair::start().await;
    pair.append(0..3);
    let mut another = true;
    pair.sink.with(|state| {
        state.script = Box::new(move |sent| match sent == id(1) && std::mem::take(&mut another) {
            true => Answer::Anothers,
            false => Answer::Store,
        });
    });
    let (said, _listening) = Said::listen();
    pair.connect().await;
    pair.journal.until_command("sink", kind::PRODUCER, 2).await;
    assert!(said.text().contains("another_writer"), "{}", said.text());
    hold_arrived(pair, (0..3).map(|nth| (LEDGER, nth))).await;
}

/// Entries 0 to 3 have arrived, and the route runs.
async fn running() -> Pair {
    let pair = Pair::start().await;
    pair.append(0..3);
    pair.connect().await;
    pair.journal.until("they have arrived", |events| acks(events).last() == Some(&(LEDGER, 2))).await;
    pair
}

#[tokio::test]
async fn a_destination_that_moved_is_gone_to_again() {
    let (said, _listening) = Said::listen();
    let pair = running().await;
    pair.sink.order(Order::CloseProducer);
    pair.append(3..6);
    pair.journal.until_command("sink", kind::PRODUCER, 2).await;
    assert!(said.text().contains("destination_moved"), "{}", said.text());
    hold_arrived(pair, (0..6).map(|nth| (LEDGER, nth))).await;
}

#[tokio::test]
async fn a_destination_that_cannot_store_now_is_asked_again() {
    let (said, _listening) = Said::listen();
    let pair = running().await;
    pair.sink.with(|state| {
        let mut times = 3;
        state.script = Box::new(move |sent| {
            times -= u32::from(sent == id(4) && times > 0);
            match sent >= id(4) && times > 0 {
                true => Answer::Refuse(ServerError::ServiceNotReady, "not now"),
                false => Answer::Store,
            }
        });
    });
    pair.append(3..6);
    pair.journal.until_command("sink", kind::PRODUCER, 3).await;
    assert!(said.text().contains("destination_retry"), "{}", said.text());
    hold_arrived(pair, (0..6).map(|nth| (LEDGER, nth))).await;
}

#[tokio::test]
async fn a_sink_that_drains_is_followed_by_the_next_one() {
    let (said, _listening) = Said::listen();
    let Pair { journal, source, sink, riskfuel, bank, lane } = running().await;
    bank.begin_stop();
    let drains = |row: &PartitionStatus| row.reason.as_deref() == Some("draining");
    riskfuel.until(End::Source, "the sink drains", drains).await;
    bank.stop().await;
    assert!(said.text().contains("draining"), "{}", said.text());
    let bank = Side::start("bank", &sink, Vec::new(), receiving(), true);
    let pair = Pair { journal, source, sink, riskfuel, bank, lane };
    pair.cut();
    pair.append(3..6);
    pair.connect().await;
    hold_arrived(pair, (0..6).map(|nth| (LEDGER, nth))).await;
}

#[tokio::test]
async fn a_session_that_was_superseded_takes_its_turn_again() {
    let (said, _listening) = Said::listen();
    let pair = running().await;
    // What another replica of riskfuel would open.
    let mut another = Peer::meet(&pair.bank, "riskfuel").await;
    another.tell(opening(open()), b"").await;
    pair.journal.until_command("sink", kind::PRODUCER, 3).await;
    assert!(said.text().contains("superseded"), "{}", said.text());
    pair.append(3..6);
    hold_arrived(pair, (0..6).map(|nth| (LEDGER, nth))).await;
}

#[tokio::test]
async fn a_gap_at_the_source_is_read_anew() {
    let (said, _listening) = Said::listen();
    let pair = running().await;
    pair.sink.with(|state| state.script = Box::new(|_| Answer::StoreLater));
    pair.append(3..6);
    pair.journal.until_command("sink", kind::SEND, 6).await;
    // The broker goes on behind two that are not acknowledged, once.
    let behind = pair.source.with(|state| state.log.drain(3..5).collect::<Vec<_>>());
    pair.source.order(Order::CloseConsumer);
    pair.append(6..8);
    let gap = async {
        while !said.text().contains("source_gap") {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gap).await.expect("the gap is seen");
    pair.source.with(|state| {
        state.log.splice(3..3, behind);
    });
    pair.sink.with(|state| state.script = Box::new(|_| Answer::Store));
    pair.sink.release(|_| true);
    hold_arrived(pair, (0..8).map(|nth| (LEDGER, nth))).await;
}

/// Topics that a route names and nobody has made: they have their places, and cost little.
const NAMED: usize = 999;

/// These topics by name, and all that match, but for what is excluded.
fn carrying_feeds(name: &str, named: usize, pattern: &str, exclude: &[&str]) -> RouteSpec {
    let named: Vec<String> = (0..named).map(|nth| format!("public/feeds/t{nth}")).collect();
    let patterns = Patterns::new(vec![Pattern::parse(pattern).unwrap()], rules(exclude));
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    RouteSpec { patterns, ..carrying(name, "riskfuel", "bank", &named) }
}

/// The routes run, nothing is left out, and the topic has its messages at the bank, once: these and no more.
async fn relayed(riskfuel: &Site, bank: &Site, topic: &str, texts: &[&str]) {
    riskfuel.join(bank).await;
    assert_eq!(bank.read(topic, texts.len()).await, texts);
    let says = |row: &PartitionStatus| row.reason.as_deref() == Some("too_many_topics");
    assert_eq!(riskfuel.rows(says), []);
}

#[tokio::test]
async fn a_route_of_too_many_topics_relays_what_was_left_out_when_it_is_narrower_or_two() {
    let (said, _listening) = Said::listen();
    let (one, other, all) = ("public/feeds/one", "public/feeds/other", "persistent://public/feeds/.*");
    let riskfuel = Site::start("riskfuel", Vec::new(), &[]).await;
    let bank = Site::start("bank", Vec::new(), EVERYTHING).await;
    for topic in [one, other] {
        riskfuel.publish(topic, [format!("first of {topic}")]).await;
    }
    let riskfuel = riskfuel.start_again(vec![carrying_feeds("feeds", NAMED, all, &[])]).await;
    riskfuel.join(&bank).await;
    let told = |row: &PartitionStatus| row.reason.as_deref() == Some("too_many_topics");
    let row = riskfuel.until_row("one is too many", told).await;
    assert!(row.remedy.is_some_and(|remedy| remedy.contains("make two routes of it")));
    assert!(said.text().contains("beyond the 1000 of a route: persistent://public/feeds/other"));
    let excluding = carrying_feeds("feeds", NAMED, all, &["persistent://public/feeds/one"]);
    let riskfuel = riskfuel.start_again(vec![excluding]).await;
    relayed(&riskfuel, &bank, other, &["first of public/feeds/other"]).await;
    let narrow = carrying_feeds("feeds", NAMED, "persistent://public/feeds/on.*", &[]);
    let riskfuel = riskfuel.start_again(vec![narrow]).await;
    riskfuel.publish(one, ["second".to_owned()]).await;
    relayed(&riskfuel, &bank, one, &["first of public/feeds/one", "second"]).await;
    let two = vec![
        carrying_feeds("feeds", NAMED, "persistent://public/feeds/on.*", &[]),
        carrying_feeds("more", 0, "persistent://public/feeds/ot.*", &[]),
    ];
    let riskfuel = riskfuel.start_again(two).await;
    for topic in [one, other] {
        riskfuel.publish(topic, ["last".to_owned()]).await;
    }
    relayed(&riskfuel, &bank, one, &["first of public/feeds/one", "second", "last"]).await;
    assert_eq!(bank.read(other, 2).await, ["first of public/feeds/other", "last"]);
}

const RING: [&str; 3] = ["first", "second", "third"];
const SHARED: &str = "public/default/shared";

fn around(nth: usize, onward: bool) -> RouteSpec {
    let (from, to) = (RING[nth], RING[(nth + 1) % 3]);
    RouteSpec { onward, ..carrying(&format!("{from}-{to}"), from, to, &[SHARED]) }
}

/// Joins each site with the next one.
async fn join_all(sites: &[Site]) {
    for nth in 0..3 {
        sites[nth].join(&sites[(nth + 1) % 3]).await;
    }
}

/// The site whose route is refused; `None` when all run.
async fn refused(sites: &[Site]) -> Option<usize> {
    let settled = async {
        loop {
            let row = |site: &Site| site.rows(|row| row.end == End::Source).pop();
            let rows: Vec<_> = sites.iter().filter_map(row).collect();
            if let Some(nth) = rows.iter().position(|row| row.reason.as_deref() == Some("onward_ring")) {
                return Some(nth);
            }
            if rows.len() == 3 && rows.iter().all(|row| row.state == State::Running) {
                return None;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("the ring is judged")
}

#[tokio::test]
async fn a_ring_runs_when_onward_is_taken_from_each_route_that_is_refused() {
    let mut onward = [true; 3];
    let mut sites = Vec::new();
    for (nth, name) in RING.into_iter().enumerate() {
        sites.push(Site::start(name, vec![around(nth, true)], EVERYTHING).await);
        sites[nth].publish(SHARED, Vec::new()).await;
    }
    join_all(&sites).await;
    // Whoever is refused first; in the end two of three.
    while let Some(nth) = refused(&sites).await {
        assert!(onward[nth], "{} is refused though it passes nothing on", RING[nth]);
        onward[nth] = false;
        let mut again = Vec::new();
        for (other, site) in std::mem::take(&mut sites).into_iter().enumerate() {
            again.push(site.start_again(vec![around(other, onward[other])]).await);
        }
        sites = again;
        join_all(&sites).await;
    }
    for site in &sites {
        site.publish(SHARED, [format!("from {}", site.name)]).await;
    }
    for (nth, site) in sites.iter().enumerate() {
        // Its own, its predecessor's, and what that passes on.
        let before = (nth + 2) % 3;
        let mut due = vec![format!("from {}", RING[nth]), format!("from {}", RING[before])];
        if onward[before] {
            due.push(format!("from {}", RING[(nth + 1) % 3]));
        }
        let mut reading = Reading::open(site, SHARED).await;
        let mut got = Vec::new();
        while got.len() < due.len() {
            got.push(reading.next().await);
        }
        got.sort();
        due.sort();
        assert_eq!(got, due, "at {}", site.name);
        site.publish(SHARED, ["the end".to_owned()]).await;
        assert!(reading.next().await.starts_with("the end"), "more than once at {}", site.name);
    }
}
