//! Remedies of reasons that no real broker brings about, followed to the letter, and the route running again. Those of
//! the others are the suite's part: docs/remedies.md has them all.

use std::ops::Range;
use std::sync::Mutex;

use pulsar_bridge::policy::{Pattern, Patterns, Policy};
use pulsar_bridge::pulsar::proto::kind;
use pulsar_bridge::relay::context::RouteSpec;
use pulsar_bridge::relay::status::{End, PartitionStatus, State};

use crate::broker::{Answer, Broker};
use crate::journal::{Journal, acks};
use crate::pair::{LEDGER, Pair, Side, entry, id, metadata, route, stored};
use crate::peer::{LaneFrame, Peer, Stop, readiness};
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

/// All that match the pattern, but for what is excluded.
fn matching(name: &str, pattern: &str, exclude: &[&str]) -> RouteSpec {
    let patterns = Patterns::new(vec![Pattern::parse(pattern).unwrap()], rules(exclude));
    RouteSpec { patterns, ..carrying(name, "riskfuel", "bank", &[]) }
}

/// The routes run, nothing is left out, and each of these topics has its one message at the bank.
async fn relayed(riskfuel: &Site, bank: &Site, topics: &[String]) {
    riskfuel.join(bank).await;
    for topic in topics {
        assert_eq!(bank.read(topic, 1).await, [topic.clone()]);
    }
    let says = |row: &PartitionStatus| row.reason.as_deref() == Some("too_many_topics");
    assert_eq!(riskfuel.rows(says), []);
}

#[tokio::test]
async fn a_route_of_too_many_topics_relays_all_of_them_as_two_routes_or_without_some() {
    let (said, _listening) = Said::listen();
    let all = "persistent://public/feeds/.*";
    let topics: Vec<String> = (0..1001).map(|nth| format!("public/feeds/t{nth:04}")).collect();
    let riskfuel = Site::start("riskfuel", vec![matching("feeds", all, &[])], &[]).await;
    let bank = Site::start("bank", Vec::new(), EVERYTHING).await;
    for topic in &topics {
        riskfuel.publish(topic, [topic.clone()]).await;
    }
    riskfuel.join(&bank).await;
    let told = |row: &PartitionStatus| row.reason.as_deref() == Some("too_many_topics");
    let row = riskfuel.until_row("one is too many", told).await;
    assert!(row.remedy.is_some_and(|remedy| remedy.contains("make two routes of it")));
    assert!(said.text().contains("public/feeds/t1000"), "the log does not name what is left out");
    let one = &topics[1000..];
    let excluding = matching("feeds", all, &["persistent://public/feeds/t0.*"]);
    let riskfuel = riskfuel.start_again(vec![excluding]).await;
    relayed(&riskfuel, &bank, one).await;
    let narrow = matching("feeds", "persistent://public/feeds/t1.*", &[]);
    let riskfuel = riskfuel.start_again(vec![narrow]).await;
    relayed(&riskfuel, &bank, one).await;
    let halves = vec![
        matching("low", "persistent://public/feeds/t0.*", &[]),
        matching("high", "persistent://public/feeds/t1.*", &[]),
    ];
    let riskfuel = riskfuel.start_again(halves).await;
    let some: Vec<String> = topics.iter().rev().step_by(40).cloned().collect();
    relayed(&riskfuel, &bank, &some).await;
    for topic in &some {
        bank.publish(topic, ["the end".to_owned()]).await;
        assert_eq!(bank.read(topic, 2).await, [topic.as_str(), "the end"]);
    }
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
    tokio::time::timeout(crate::journal::PATIENCE, settled).await.expect("the ring is judged")
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
