//! Which topics a route carries, by what names, and how far what it brought goes on.

use pulsar_bridge::policy::{Pattern, Patterns};
use pulsar_bridge::relay::context::{RouteSpec, Start};
use pulsar_bridge::relay::status::{End, State};

use crate::several::{Reading, Site, carrying, renaming, rules};

const EVERYTHING: &[&str] = &["persistent://.*"];

fn texts(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|nth| format!("{what} {nth}")).collect()
}

#[tokio::test]
async fn topics_that_match_are_relayed_by_their_new_names_also_when_they_appear_later() {
    let patterns = Patterns::new(
        vec![Pattern::parse("persistent://public/feeds/.*").unwrap()],
        rules(&["persistent://public/feeds/.*-raw"]),
    );
    let mut names = renaming("persistent://public/feeds", "persistent://bank/in");
    names.add("persistent://public/feeds/rates", "persistent://bank/market/rates").unwrap();
    let route = RouteSpec { patterns, renaming: names, ..carrying("feeds", "riskfuel", "bank", &[]) };
    let riskfuel = Site::with_partitions("riskfuel", vec![route], &[], &[("public/feeds/parted", 2)]).await;
    let bank = Site::start("bank", Vec::new(), &["persistent://bank/.*"]).await;
    riskfuel.publish("public/feeds/rates", texts("rate", 3)).await;
    riskfuel.publish("public/feeds/rates-raw", texts("raw", 3)).await;
    riskfuel.publish("public/feeds/__hidden", texts("hidden", 3)).await;
    riskfuel.publish("public/other/rates", texts("other", 3)).await;
    riskfuel.join(&bank).await;
    assert_eq!(bank.read("bank/market/rates", 3).await, texts("rate", 3));
    // It has partitions at the source and not at the bank, where nobody may make them.
    let row = riskfuel
        .until_row("the partitioned topic is found", |row| {
            row.reason.as_deref() == Some("destination_missing")
        })
        .await;
    assert_eq!(row.destination.unwrap(), row.topic.replace("public/feeds", "bank/in"));
    riskfuel.publish("public/feeds/late", texts("late", 3)).await;
    assert_eq!(bank.read("bank/in/late", 3).await, texts("late", 3));
    let sources: Vec<_> = riskfuel.rows(|_| true).into_iter().map(|row| row.topic).collect();
    assert_eq!(
        sources,
        [
            "persistent://public/feeds/late",
            "persistent://public/feeds/parted-partition-0",
            "persistent://public/feeds/parted-partition-1",
            "persistent://public/feeds/rates",
        ]
    );
    let row = bank.until_row("rates", |row| row.topic == "persistent://public/feeds/rates").await;
    assert_eq!(row.destination.as_deref(), Some("persistent://bank/market/rates"));
}

#[tokio::test]
async fn what_a_peer_declares_by_pattern_goes_out_as_far_as_policy_lets_it() {
    let route = carrying("feeds", "riskfuel", "bank", &["persistent://public/feeds/.*"]);
    let riskfuel = Site::start("riskfuel", Vec::new(), &["persistent://public/feeds/a.*"]).await;
    let bank = Site::start("bank", vec![route], &[]).await;
    let awaited = |row: &pulsar_bridge::relay::status::PartitionStatus| row.topic.ends_with(".*");
    bank.until_row("the pattern is awaited", awaited).await;
    for topic in ["public/feeds/ask", "public/feeds/bid"] {
        riskfuel.publish(topic, texts(topic, 2)).await;
    }
    riskfuel.join(&bank).await;
    assert_eq!(bank.read("public/feeds/ask", 2).await, texts("public/feeds/ask", 2));
    riskfuel.until_row("it runs", |row| row.state == State::Running).await;
    let found: Vec<_> = riskfuel.rows(|_| true).into_iter().map(|row| row.topic).collect();
    assert_eq!(found, ["persistent://public/feeds/ask"]);
    assert_eq!(bank.rows(awaited), []);
}

#[tokio::test]
async fn a_pattern_that_may_not_go_out_at_all_is_refused_by_name() {
    let route = carrying("feeds", "riskfuel", "bank", &["persistent://public/feeds/.*"]);
    let riskfuel = Site::start("riskfuel", Vec::new(), &[]).await;
    let bank = Site::start("bank", vec![route], &[]).await;
    riskfuel.join(&bank).await;
    let refused =
        bank.until_row("it is refused", |row| row.reason.as_deref() == Some("refused_by_policy")).await;
    assert_eq!(refused.topic, "persistent://public/feeds/.*");
}

#[tokio::test]
async fn a_pattern_that_finds_another_routes_topic_leaves_it_to_that_route() {
    let first = carrying("first", "riskfuel", "bank", &["public/feeds/ask"]);
    let second = carrying("second", "riskfuel", "bank", &["persistent://public/feeds/.*"]);
    let riskfuel = Site::start("riskfuel", vec![first, second], &[]).await;
    let bank = Site::start("bank", Vec::new(), EVERYTHING).await;
    for topic in ["public/feeds/ask", "public/feeds/bid"] {
        riskfuel.publish(topic, texts(topic, 2)).await;
    }
    riskfuel.join(&bank).await;
    for topic in ["public/feeds/ask", "public/feeds/bid"] {
        assert_eq!(bank.read(topic, 2).await, texts(topic, 2));
    }
    let row = riskfuel
        .until_row("the collision is told", |row| row.reason.as_deref() == Some("subscription_in_use"))
        .await;
    assert_eq!((row.route.as_str(), row.topic.as_str()), ("second", "persistent://public/feeds/ask"));
}

#[tokio::test]
async fn two_topics_may_have_one_name_at_the_destination() {
    let mut names = renaming("persistent://public/a/one", "persistent://public/default/all");
    names.add("persistent://public/a/two", "persistent://public/default/all").unwrap();
    let topics = ["public/a/one", "public/a/two"];
    let route = RouteSpec { renaming: names, ..carrying("all", "riskfuel", "bank", &topics) };
    let riskfuel = Site::start("riskfuel", vec![route], &[]).await;
    let bank = Site::start("bank", Vec::new(), &["all"]).await;
    for topic in topics {
        riskfuel.publish(topic, texts(topic, 20)).await;
    }
    riskfuel.join(&bank).await;
    let all = bank.read("all", 40).await;
    for topic in topics {
        let its: Vec<_> = all.iter().filter(|text| text.starts_with(topic)).cloned().collect();
        assert_eq!(its, texts(topic, 20));
    }
}

#[tokio::test]
async fn one_topic_may_go_to_two_names_by_two_subscriptions() {
    let plain = carrying("plain", "riskfuel", "bank", &["public/a/one"]);
    let copy = RouteSpec {
        name: "copy".into(),
        subscription: "a copy".into(),
        renaming: renaming("persistent://public/a", "persistent://public/b"),
        ..plain.clone()
    };
    let riskfuel = Site::start("riskfuel", vec![plain, copy], &[]).await;
    let bank = Site::start("bank", Vec::new(), EVERYTHING).await;
    riskfuel.publish("public/a/one", texts("one", 20)).await;
    riskfuel.join(&bank).await;
    for topic in ["public/a/one", "public/b/one"] {
        assert_eq!(bank.read(topic, 20).await, texts("one", 20));
    }
    let sessions = || bank.rows(|row| row.state == State::Running).len();
    assert_eq!(sessions(), 2, "one session took the other's place");
}

#[tokio::test]
async fn partitions_that_differ_are_refused_unless_the_route_takes_any() {
    let parted = "public/default/parted";
    let strict = carrying("strict", "riskfuel", "bank", &[parted]);
    let lax = ["public/default/more", "public/default/fewer", "public/default/whole"];
    let lax = RouteSpec { any_partitions: true, ..carrying("lax", "riskfuel", "bank", &lax) };
    let counts =
        |four: u32, other: u32| [(parted, four), ("public/default/more", 4), ("public/default/fewer", other)];
    let riskfuel = Site::with_partitions("riskfuel", vec![strict, lax], &[], &counts(4, 2)).await;
    let mut there = counts(2, 4);
    there[1].1 = 3;
    let bank = Site::with_partitions("bank", Vec::new(), EVERYTHING, &there).await;
    for topic in ["more-partition-0", "more-partition-3", "fewer-partition-1", "whole"] {
        riskfuel.publish(&format!("public/default/{topic}"), texts(topic, 10)).await;
    }
    riskfuel.join(&bank).await;
    let folded = bank.read("public/default/more-partition-0", 20).await;
    for topic in ["more-partition-0", "more-partition-3"] {
        let its: Vec<_> = folded.iter().filter(|text| text.starts_with(topic)).cloned().collect();
        assert_eq!(its, texts(topic, 10));
    }
    let one = bank.read("public/default/fewer-partition-1", 10).await;
    assert_eq!(one, texts("fewer-partition-1", 10));
    assert_eq!(bank.read("public/default/whole", 10).await, texts("whole", 10));
    let refused = |row: &pulsar_bridge::relay::status::PartitionStatus| {
        row.reason.as_deref() == Some("partition_mismatch")
    };
    let row = riskfuel.until_row("it is refused", refused).await;
    assert!(row.topic.starts_with("persistent://public/default/parted-partition-"), "{}", row.topic);
    let folded =
        |row: &pulsar_bridge::relay::status::PartitionStatus| row.topic.ends_with("more-partition-3");
    let row = bank.until_row("it is shown where it goes", folded).await;
    assert_eq!(row.destination.as_deref(), Some("persistent://public/default/more-partition-0"));
}

const TOPIC: &str = "public/default/shared";

fn onward(from: &str, to: &str, onward: bool) -> RouteSpec {
    let name = format!("{from}-{to}");
    RouteSpec { onward, start: Start::Earliest, ..carrying(&name, from, to, &[TOPIC]) }
}

/// Every site writes; every site has everything once, and nothing more comes.
async fn each_once(sites: &[Site], outgoing: &[u64]) {
    let mut readings = Vec::new();
    for site in sites {
        site.publish(TOPIC, texts(site.name, 25)).await;
        readings.push(Reading::open(site, TOPIC).await);
    }
    let total = 25 * sites.len();
    for (site, reading) in sites.iter().zip(&mut readings) {
        let mut got = Vec::new();
        while got.len() < total {
            got.push(reading.next().await);
        }
        for writer in sites {
            let its: Vec<_> = got.iter().filter(|text| text.starts_with(writer.name)).cloned().collect();
            assert_eq!(its, texts(writer.name, 25), "of {} at {}", writer.name, site.name);
        }
    }
    // Every source has read its topic to the end, so that whatever could still echo has done so.
    for (site, routes) in sites.iter().zip(outgoing) {
        site.until_settled(routes * total as u64).await;
    }
    for (site, reading) in sites.iter().zip(&mut readings) {
        site.publish(TOPIC, ["the end".to_owned()]).await;
        assert!(reading.next().await.starts_with("the end"), "an echo at {}", site.name);
    }
}

#[tokio::test]
async fn a_chain_passes_on_what_came_from_elsewhere_and_brings_nothing_back() {
    let first = Site::start("first", vec![onward("first", "middle", false)], EVERYTHING).await;
    let middle_routes = vec![onward("middle", "first", true), onward("middle", "last", true)];
    let middle = Site::start("middle", middle_routes, EVERYTHING).await;
    let last = Site::start("last", vec![onward("last", "middle", true)], EVERYTHING).await;
    let sites = [first, middle, last];
    for site in &sites {
        site.publish(TOPIC, Vec::new()).await;
    }
    sites[0].join(&sites[1]).await;
    sites[1].join(&sites[2]).await;
    for (from, to) in [(0, 1), (1, 2)] {
        let (here, there) = (sites[from].name, sites[to].name);
        let runs = |from: &'static str, to: &'static str| {
            move |row: &pulsar_bridge::relay::status::PartitionStatus| {
                row.end == End::Source && row.state == State::Running && row.from == from && row.to == to
            }
        };
        sites[from].until_row("out", runs(here, there)).await;
        sites[to].until_row("back", runs(there, here)).await;
    }
    each_once(&sites, &[1, 2, 1]).await;
}

#[tokio::test]
async fn a_full_mesh_without_onward_brings_each_message_to_each_site_once() {
    let names = ["first", "second", "third"];
    let mut sites = Vec::new();
    for name in names {
        let others = names.iter().filter(|other| **other != name);
        let routes = others.map(|other| onward(name, other, false)).collect();
        sites.push(Site::start(name, routes, EVERYTHING).await);
        sites.last().unwrap().publish(TOPIC, Vec::new()).await;
    }
    for (one, other) in [(0, 1), (1, 2), (2, 0)] {
        sites[one].join(&sites[other]).await;
    }
    each_once(&sites, &[2, 2, 2]).await;
}

#[tokio::test]
async fn a_ring_of_onward_routes_is_refused_where_it_would_close() {
    let names = ["first", "second", "third"];
    let mut sites = Vec::new();
    for (nth, name) in names.iter().enumerate() {
        let routes = vec![onward(name, names[(nth + 1) % 3], true)];
        sites.push(Site::start(name, routes, EVERYTHING).await);
        sites[nth].publish(TOPIC, Vec::new()).await;
    }
    for one in 0..3 {
        sites[one].join(&sites[(one + 1) % 3]).await;
    }
    let refused = async {
        loop {
            let ring = |row: &pulsar_bridge::relay::status::PartitionStatus| {
                row.end == End::Source && row.reason.as_deref() == Some("onward_ring")
            };
            if let Some(nth) = sites.iter().position(|site| !site.rows(ring).is_empty()) {
                return nth;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let open = tokio::time::timeout(crate::journal::PATIENCE, refused).await.expect("the ring is refused");
    // What is written behind the gap goes all the way round to it, once.
    let (from, to) = ((open + 1) % 3, open);
    sites[from].publish(TOPIC, texts("round", 10)).await;
    let mut reading = Reading::open(&sites[to], TOPIC).await;
    for text in texts("round", 10) {
        assert_eq!(reading.next().await, text);
    }
    sites[to].publish(TOPIC, ["the end".to_owned()]).await;
    assert_eq!(reading.next().await, "the end", "what went round came back");
}
