//! Rules that change while routes run: what is no longer allowed stops and says why, what is allowed begins, and what
//! is allowed as before is not touched.

use std::time::{Duration, Instant};

use pulsar_bridge::policy::{Pattern, Patterns, Policies, Policy};
use pulsar_bridge::relay::context::RouteSpec;
use pulsar_bridge::relay::ruling::Ruling;
use pulsar_bridge::relay::status::{PartitionStatus, State};

use crate::several::{Reading, Site, carrying, rules};

const A: &str = "persistent://public/default/a";
const B: &str = "persistent://public/default/b";

fn texts(what: &str, from: usize, to: usize) -> Vec<String> {
    (from..to).map(|nth| format!("{what} {nth}")).collect()
}

/// Declares these routes, lets these topics in and out.
fn ruling(declared: &[RouteSpec], receive: &[&str], send: &[&str]) -> Ruling {
    let policy =
        Policy { receive: rules(receive), send: rules(send), from_earliest: true, ..Policy::default() };
    Ruling { declared: declared.to_vec(), policies: Policies::One(policy) }
}

fn runs(topic: &'static str) -> impl Fn(&PartitionStatus) -> bool {
    move |row| row.topic == topic && row.state == State::Running
}

fn refused(topic: &'static str) -> impl Fn(&PartitionStatus) -> bool {
    move |row| row.topic == topic && row.reason.as_deref() == Some("refused_by_policy")
}

/// Both topics run from `riskfuel` to `bank`, declared by the one or the other.
async fn both(declared_by_source: bool) -> (Site, Site, [RouteSpec; 2]) {
    let routes = [carrying("a", "riskfuel", "bank", &[A]), carrying("b", "riskfuel", "bank", &[B])];
    let (here, there) =
        if declared_by_source { (routes.to_vec(), vec![]) } else { (vec![], routes.to_vec()) };
    let riskfuel = Site::start("riskfuel", here, &[A, B]).await;
    let bank = Site::start("bank", there, &[A, B]).await;
    for (topic, name) in [(A, "a"), (B, "b")] {
        riskfuel.publish(topic, texts(name, 0, 10)).await;
    }
    riskfuel.join(&bank).await;
    for topic in [A, B] {
        riskfuel.until_row("it runs", runs(topic)).await;
        bank.until_row("it runs", runs(topic)).await;
    }
    (riskfuel, bank, routes)
}

/// Sessions are counted up: one that was opened anew has another number.
fn session(site: &Site, topic: &str) -> u64 {
    site.rows(|row| row.topic == topic && row.state == State::Running)[0].session
}

async fn until_gone(count: impl Fn() -> usize) {
    let gone = async {
        while count() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.unwrap();
}

#[tokio::test]
async fn a_topic_that_may_no_longer_come_in_stops_by_name_and_goes_on_when_it_may_again() {
    let (riskfuel, bank, _) = both(true).await;
    let untouched = session(&bank, B);
    let since = Instant::now();
    bank.side.rulings.replace(ruling(&[], &[B], &[]));
    let row = bank.until_row("it is refused", refused(A)).await;
    assert!(
        row.remedy.as_ref().unwrap().starts_with(&format!("add {A} to `policy.receive` here")),
        "{row:?}"
    );
    riskfuel.until_row("its source hears why", refused(A)).await;
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    riskfuel.publish(A, texts("a", 10, 20)).await;
    riskfuel.publish(B, texts("b", 10, 20)).await;
    assert_eq!(bank.read(B, 20).await, texts("b", 0, 20));
    let since = Instant::now();
    bank.side.rulings.replace(ruling(&[], &[A, B], &[]));
    riskfuel.until_row("it is tried again at once", runs(A)).await;
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(bank.read(A, 20).await, texts("a", 0, 20));
    assert_eq!(session(&bank, B), untouched);
}

#[tokio::test]
async fn a_topic_that_may_no_longer_go_out_stops_and_the_side_that_declares_it_is_told() {
    let (riskfuel, bank, _) = both(false).await;
    let untouched = session(&riskfuel, B);
    let since = Instant::now();
    riskfuel.side.rulings.replace(ruling(&[], &[], &[B]));
    bank.until_row("it is refused", refused(A)).await;
    until_gone(|| riskfuel.rows(|row| row.topic == A).len()).await;
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    riskfuel.publish(A, texts("a", 10, 20)).await;
    let mut reading = Reading::open(&bank, A).await;
    for text in texts("a", 0, 10) {
        assert_eq!(reading.next().await, text);
    }
    riskfuel.side.rulings.replace(ruling(&[], &[], &[A, B]));
    bank.until_row("it runs again", runs(A)).await;
    for text in texts("a", 10, 20) {
        assert_eq!(reading.next().await, text);
    }
    assert_eq!(session(&riskfuel, B), untouched);
}

#[tokio::test]
async fn routes_that_are_added_taken_out_or_changed_begin_and_end_and_others_run_on() {
    for by_source in [true, false] {
        let (riskfuel, bank, [a, b]) = both(by_source).await;
        let untouched = session(&bank, B);
        let declarer = if by_source { &riskfuel } else { &bank };
        let everything: &[&str] = &["persistent://.*"];
        // Its rows go at both sides.
        declarer.side.rulings.replace(ruling(std::slice::from_ref(&b), everything, everything));
        until_gone(|| riskfuel.rows(|row| row.topic == A).len() + bank.rows(runs(A)).len()).await;
        riskfuel.publish(A, texts("a", 10, 20)).await;
        let again = RouteSpec { name: "again".into(), ..a };
        declarer.side.rulings.replace(ruling(&[b, again], everything, everything));
        let row = riskfuel.until_row("it runs", runs(A)).await;
        assert_eq!(row.route, "again");
        assert_eq!(bank.read(A, 20).await, texts("a", 0, 20), "lost, repeated or out of order");
        assert_eq!(session(&bank, B), untouched);
    }
}

#[tokio::test]
async fn a_route_that_is_changed_for_one_of_its_topics_keeps_the_sessions_of_the_others() {
    for by_source in [true, false] {
        let both = carrying("both", "riskfuel", "bank", &[A, B]);
        let one = carrying("both", "riskfuel", "bank", &[B]);
        let everything: &[&str] = &["persistent://.*"];
        let riskfuel = Site::start("riskfuel", vec![], &[A, B]).await;
        let bank = Site::start("bank", vec![], &[A, B]).await;
        for (topic, name) in [(A, "a"), (B, "b")] {
            riskfuel.publish(topic, texts(name, 0, 10)).await;
        }
        riskfuel.join(&bank).await;
        let (declarer, other) = if by_source { (&riskfuel, &bank) } else { (&bank, &riskfuel) };
        other.side.rulings.replace(ruling(&[], everything, everything));
        let declares = |route: &RouteSpec| {
            declarer.side.rulings.replace(ruling(std::slice::from_ref(route), everything, everything));
        };
        declares(&both);
        for topic in [A, B] {
            bank.until_row("it runs", runs(topic)).await;
        }
        let untouched = session(&bank, B);
        declares(&one);
        until_gone(|| riskfuel.rows(|row| row.topic == A).len() + bank.rows(runs(A)).len()).await;
        riskfuel.publish(A, texts("a", 10, 20)).await;
        declares(&both);
        bank.until_row("it runs again", runs(A)).await;
        let pattern = Pattern::parse("persistent://public/default/x.*").unwrap();
        declares(&RouteSpec { patterns: Patterns::new(vec![pattern], rules(&[])), ..both.clone() });
        riskfuel.until_row("it is looked for", |row| row.topic.ends_with("x.*")).await;
        assert_eq!(bank.read(A, 20).await, texts("a", 0, 20), "lost, repeated or out of order");
        riskfuel.publish(B, texts("b", 10, 20)).await;
        assert_eq!(bank.read(B, 20).await, texts("b", 0, 20));
        assert_eq!(session(&bank, B), untouched);
    }
}

/// The topics of a pattern, of which a peer may read what is written from its grant on.
fn granted_from_now() -> Ruling {
    let send = rules(&["persistent://public/default/dg.*"]);
    let policy = Policy { send, from_earliest: false, ..Policy::default() };
    Ruling { declared: vec![], policies: Policies::One(policy) }
}

fn declaring(excluded: &[&str]) -> Ruling {
    let pattern = Pattern::parse("persistent://public/default/dg.*").unwrap();
    let patterns = Patterns::new(vec![pattern], rules(excluded));
    let route = RouteSpec { patterns, ..carrying("dg", "riskfuel", "bank", &[]) };
    ruling(&[route], &["persistent://public/default/dg.*"], &[])
}

#[tokio::test]
async fn a_topic_that_came_up_before_its_route_was_changed_still_begins_at_its_beginning() {
    const OLD: &str = "persistent://public/default/dg-old";
    const NEW: &str = "persistent://public/default/dg-new";
    let riskfuel = Site::start("riskfuel", vec![], &[]).await;
    let bank = Site::start("bank", vec![], &[]).await;
    riskfuel.side.rulings.replace(granted_from_now());
    bank.side.rulings.replace(declaring(&[]));
    riskfuel.publish(OLD, texts("before", 0, 3)).await;
    riskfuel.join(&bank).await;
    bank.until_row("the first listing is done", runs(OLD)).await;
    riskfuel.publish(NEW, texts("new", 0, 10)).await;
    bank.side.rulings.replace(declaring(&["persistent://public/default/other"]));
    bank.until_row("the changed route has it", runs(NEW)).await;
    assert_eq!(bank.read(NEW, 10).await, texts("new", 0, 10));
    riskfuel.publish(OLD, texts("after", 0, 3)).await;
    assert_eq!(
        bank.read(OLD, 3).await,
        texts("after", 0, 3),
        "what was there at the grant begins at the grant"
    );
}
