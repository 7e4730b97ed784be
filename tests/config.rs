//! The configuration as people write it: the files that ship, and every kind of mistake with its exact words.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its files has failed")]

#[path = "config/proxies.rs"]
mod proxies;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pulsar_bridge::config::{
    self, Config, EdgeCredential, HubCertificate, LinkUrl, Start, TokenSource, Tunnel,
};
use pulsar_bridge::pulsar::topic::TopicName;
use pulsar_bridge::tunnel::init::{self, Request};
use serde_json::{Value, json};

/// Loads a value as a file of its own, with these environment variables.
fn load(value: &Value, env: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "from-a-file\n").unwrap();
    let file = dir.path().join("bridge.json");
    fs::write(&file, value.to_string()).unwrap();
    config::load_with(&file, &|name| {
        let found = env.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    })
    .map_err(|errors| {
        let tell =
            |problem: &config::Problem| problem.to_string().replace(&*dir.path().to_string_lossy(), "DIR");
        errors.problems.iter().map(tell).collect()
    })
}

fn hub() -> Value {
    shipped("hub.json")
}

fn edge() -> Value {
    shipped("edge.json")
}

fn shipped(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder().join(name)).unwrap()).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bridge-config")
}

/// The value with one place changed; `null` takes the key away.
fn with(mut value: Value, pointer: &str, new: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = value.pointer_mut(parent).unwrap();
    if let Ok(index) = key.parse::<usize>() {
        parent.as_array_mut().unwrap()[index] = new;
    } else {
        parent[key] = new;
    }
    value
}

/// A shipped file with one mistake in it.
struct Mistake {
    value: Value,
    told: String,
}

fn mistakes() -> Vec<Mistake> {
    let list: Vec<Value> = serde_json::from_str(include_str!("config/refused.json")).unwrap();
    let mistake = |item: &Value| Mistake {
        value: with(
            shipped(&format!("{}.json", item["in"].as_str().unwrap())),
            item["at"].as_str().unwrap(),
            item["put"].clone(),
        ),
        told: item["told"].as_str().unwrap().to_owned(),
    };
    list.iter().map(mistake).collect()
}

fn told(value: &Value) -> Vec<String> {
    load(value, &[]).err().unwrap_or_default()
}

#[test]
fn every_file_that_ships_loads() {
    let mut loaded = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".json") && !name.ends_with("schema.json") {
            let trust = tempfile::tempdir().unwrap();
            let loading =
                config::load_setup(&path, &|hub, edges, url| made_trust(trust.path(), hub, edges, url));
            assert!(loading.is_ok(), "{}", loading.unwrap_err());
            loaded.push(name);
        }
    }
    loaded.sort();
    assert_eq!(loaded, ["bridge.json", "edge.json", "hub.json"]);
}

fn made_trust(dir: &Path, hub: &str, edges: &[String], url: &LinkUrl) -> Result<PathBuf, String> {
    let out = dir.join("trust");
    let request = Request::New {
        hub: hub.into(),
        edges: edges.to_vec(),
        url: url.clone(),
        out: out.clone(),
        forwards_only: false,
    };
    init::init(&request, SystemTime::now()).map_err(|error| error.to_string())?;
    Ok(out)
}

#[test]
fn several_sites_get_a_trust_that_lives_as_long_as_they_do() {
    let trust = tempfile::tempdir().unwrap();
    let make = |hub: &str, edges: &[String], url: &LinkUrl| made_trust(trust.path(), hub, edges, url);
    let setup = config::built_in(&make).unwrap();
    let [riskfuel, bank] = &setup.sites[..] else { panic!("{:?}", setup.sites) };
    let (Tunnel::Hub(hub), Tunnel::Edge(edge)) = (&riskfuel.tunnel, &bank.tunnel) else { panic!() };
    let (HubCertificate::Issuer(identity), EdgeCredential::Token(token)) =
        (&hub.certificate, &edge.credential)
    else {
        panic!("{setup:?}")
    };
    assert!(identity.is_dir() && token.is_file());
    assert_eq!((hub.edges[0].name.as_str(), hub.edges[0].keys.len()), ("bank", 1));
    let pulsar = riskfuel.pulsar.as_ref().unwrap();
    assert_eq!(pulsar.embedded, Some("127.0.0.1:6650".parse().unwrap()));
    assert!(pulsar.deduplication_asserted && pulsar.replicas == 1);
    let load = setup.load.unwrap();
    assert_eq!(load.requests.to_string(), "persistent://public/default/datagen-requests");
    assert_eq!(load.requester.unwrap().rate, None);
}

#[test]
fn mistakes_in_several_sites_are_told_with_their_places() {
    let text = fs::read_to_string(folder().join("bridge.json")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["sites"][0]["version"] = json!(1);
    value["sites"][0]["pulsar"]["service_url"] = json!("pulsar://a");
    value["sites"][1]["site"] = json!("riskfuel");
    value["load"] =
        json!({"requests": "non-persistent://a/b/c", "worker": {"service_url": "pulsar+ssl://a"}});
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.json");
    fs::write(&file, value.to_string()).unwrap();
    let trust = tempfile::tempdir().unwrap();
    let make = |hub: &str, edges: &[String], url: &LinkUrl| made_trust(trust.path(), hub, edges, url);
    let problems = config::load_setup(&file, &make).unwrap_err().problems;
    let places: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    for place in [
        "sites[0].version",
        "sites[0].pulsar.embedded",
        "sites[1].site",
        "load.requests",
        "load.worker.service_url",
    ] {
        assert!(places.contains(&place), "{place} is not in {problems:#?}");
    }
    value["sites"][1]["pulsar"] = json!({"embedded": "0.0.0.0:6750"});
    fs::write(&file, value.to_string()).unwrap();
    let other = tempfile::tempdir().unwrap();
    let make = |hub: &str, edges: &[String], url: &LinkUrl| made_trust(other.path(), hub, edges, url);
    let told = config::load_setup(&file, &make).unwrap_err().to_string();
    let open = "sites[1].pulsar.embedded: a broker in memory lets everybody in; keep it on this machine";
    assert!(told.contains(open), "{told}");
    fs::write(&file, json!({"version": 1, "sites": []}).to_string()).unwrap();
    let told = config::load_setup(&file, &make).unwrap_err().to_string();
    assert!(told.contains("sites: neither sites nor a load"), "{told}");
    value["sites"][1]["tunnel"]["connect"] = json!(["tls://"]);
    fs::write(&file, value.to_string()).unwrap();
    let problems = config::load_setup(&file, &make).unwrap_err().problems;
    assert_eq!(problems[0].path, "sites[0].tunnel.identity");
}

#[test]
fn the_hub_that_ships_says_what_the_contract_says() {
    let config = config::load(&folder().join("hub.json")).unwrap();
    let Tunnel::Hub(tunnel) = &config.tunnel else { panic!("{:?}", config.tunnel) };
    assert_eq!((config.site.as_str(), tunnel.listen.to_string()), ("riskfuel", "0.0.0.0:8001".into()));
    assert_eq!(tunnel.certificate, HubCertificate::Issuer(folder().join("keys")));
    assert_eq!((tunnel.edges.len(), tunnel.edges[0].max_instances), (1, 8));
    assert_eq!((tunnel.limits.handshakes, tunnel.limits.handshakes_per_address), (256, 16));
    assert_eq!(config.drain.as_secs(), 30);
    let pulsar = config.pulsar.unwrap();
    assert_eq!((pulsar.replicas, pulsar.deduplication_asserted, pulsar.token), (2, false, None));
    let [requests, results] = &config.routes[..] else { panic!("{:?}", config.routes) };
    assert_eq!((requests.generation, requests.start), (1, Start::Earliest));
    assert_eq!(requests.subscription_name(), "bridge.riskfuel.bank");
    assert_eq!(results.subscription_name(), "bridge.bank.riskfuel");
    assert_eq!(results.answers.as_deref(), Some("requests"));
}

#[test]
fn three_mistakes_are_three_errors_with_paths_and_remedies() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hub.json");
    let key = hub()["tunnel"]["edges"][0]["keys"][0].as_str().unwrap().to_owned();
    let text = fs::read_to_string(folder().join("hub.json")).unwrap();
    let text = text
        .replace("\"service_url\"", "\"servce_url\"")
        .replace(&key, &key.replacen('A', "B", 1))
        .replacen("datagen-results\"],\n      \"answers\"", "datagen-[\"],\n      \"answers\"", 1);
    fs::write(&file, text).unwrap();
    let refused = config::load(&file).unwrap_err().to_string();
    let expected = [
        "hub.json: refused, 3 problems:",
        "  pulsar.servce_url: unknown key; did you mean `service_url`?",
        "  tunnel.edges[0].keys[0]: the checksum does not fit: a character is missing or changed, copy it again; take the bk1 line that `bridge init` printed",
        "  routes[1].topics[0]: not a regular expression: unclosed character class; write a regular expression that stands for whole topic names",
        "  not looked at before the values are right: what has a wrong value against the rest of the file, the files that it names",
    ];
    assert_eq!(refused, format!("{}/{}", dir.path().display(), expected.join("\n")));
}

#[test]
fn of_a_file_without_values_only_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("gone.json", None), ("half.json", Some("{")), ("list.json", Some("[]"))] {
        let file = dir.path().join(name);
        text.into_iter().for_each(|text| fs::write(&file, text).unwrap());
        let refused = config::load(&file).unwrap_err().to_string();
        assert_eq!(refused.lines().count(), 2, "{refused}");
    }
}

#[test]
fn a_mistake_of_each_kind_is_told_in_these_words() {
    let mistakes = mistakes();
    for Mistake { value, told, .. } in &mistakes {
        let heard = load(value, &[]).unwrap_err();
        assert!(heard.contains(told), "expected {told}\nheard {heard:#?}");
        assert!(heard.len() <= 4, "{heard:#?}");
    }
    assert_eq!(mistakes.len(), 74);
    assert_eq!(told(&json!([])), ["the file is not a JSON object; begin it with { and end it with }"]);
}

#[test]
fn a_quarantine_needs_a_topic_of_its_own_and_the_admin_api_where_the_source_is() {
    let place = "/routes/0/quarantine";
    assert!(load(&with(hub(), place, json!("public/default/refused")), &[]).is_ok());
    let own = with(hub(), place, json!("datagen-requests"));
    assert_eq!(
        told(&own),
        [
            "routes[0].quarantine: persistent://public/default/datagen-requests would hold the route's own messages and \
          its refused ones; name a topic that the route does not carry"
        ]
    );
    let partition = with(hub(), place, json!("refused-partition-1"));
    assert_eq!(told(&partition).len(), 1);
    let mut blind = hub();
    blind["pulsar"].as_object_mut().unwrap().remove("admin_url");
    // The second route's source is the other site, which nobody asks here.
    let blind = with(with(blind, place, json!("refused")), "/routes/1/quarantine", json!("refused"));
    assert_eq!(
        told(&blind),
        [
            "routes[0].quarantine: needs the admin API: only there the marker of a refused entry can be read; set \
          pulsar.admin_url, or leave it out: what the destination refuses then stops the route"
        ]
    );
}

#[test]
fn two_routes_on_one_topic_and_site_need_two_subscriptions() {
    let second = |subscription: Value| {
        let mut value = hub();
        let mut route = value["routes"][0].clone();
        route["name"] = "again".into();
        route["subscription"] = subscription;
        value["routes"].as_array_mut().unwrap().push(route);
        value
    };
    assert_eq!(
        told(&second(Value::Null)),
        [
            "routes[2].topics[0]: route `requests` reads persistent://public/default/datagen-requests by the same \
             subscription; give one of the routes a `subscription` of its own, or remove one"
        ]
    );
    assert_eq!(
        told(&second(json!("second"))),
        ["routes[2].topics[0]: route `requests` writes persistent://public/default/datagen-requests to \
             persistent://public/default/datagen-requests too; give it another name there by `rename` in one of them, \
             or remove one"]
    );
    let mut renamed = second(json!("second"));
    renamed["routes"][2]["rename"] = json!({"persistent://public/default": "persistent://public/copies"});
    assert!(load(&renamed, &[]).is_ok(), "{:?}", told(&renamed));
    assert_eq!(told(&with(renamed, "/routes/2/name", json!("requests"))).len(), 1);
}

#[test]
fn a_pattern_beside_another_routes_topic_or_pattern_needs_a_subscription_of_its_own() {
    let beside = |topics: Value, more: Value| {
        let mut value = hub();
        let mut route = value["routes"][0].clone();
        route["name"] = "again".into();
        route["topics"] = topics;
        route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value["routes"].as_array_mut().unwrap().push(route);
        value
    };
    let pattern = "persistent://public/default/.*";
    let none = json!({});
    assert_eq!(
        told(&beside(json!([pattern]), none.clone())),
        [
            "routes[2].topics: route `requests` reads persistent://public/default/datagen-requests by the same \
             subscription; exclude it here, or give one of the routes a `subscription` of its own"
        ]
    );
    for more in [json!({"exclude": ["datagen-requests"]}), json!({"subscription": "second"})] {
        let config = load(&beside(json!([pattern]), more), &[]).unwrap();
        let route = &config.routes[2];
        assert!(route.carries(&TopicName::parse("persistent://public/default/x").unwrap()));
        assert!(!route.carries(&TopicName::parse("persistent://public/other/x").unwrap()));
    }
    let mut twice = beside(json!(["persistent://a/b/.*"]), none.clone());
    let mut again = twice["routes"][2].clone();
    again["name"] = "third".into();
    twice["routes"].as_array_mut().unwrap().push(again);
    assert_eq!(told(&twice).len(), 1);
    let many: Vec<_> = (0..257).map(|nth| format!("persistent://a/b/{nth}.*")).collect();
    assert_eq!(
        told(&beside(json!(many), none)),
        ["routes[2].topics: 257 patterns and exclusions in all routes; keep to 256"]
    );
}

#[test]
fn a_key_listed_for_two_edges_is_refused() {
    let mut value = hub();
    let entry = value["tunnel"]["edges"][0].clone();
    value["tunnel"]["edges"].as_array_mut().unwrap().push(entry);
    assert_eq!(
        told(&value),
        [
            "tunnel.edges[1].name: a second edge `bank`; list both keys in one entry",
            "tunnel.edges[1].keys[0]: this key is listed twice; remove one of them",
        ]
    );
}

#[test]
fn routes_of_an_edge_lead_to_one_hub_and_a_site_has_a_cluster() {
    let route = |name: &str, to: &str| json!({"name": name, "from": "bank", "to": to, "topics": [name]});
    let value = with(edge(), "/routes", json!([route("a", "riskfuel"), route("b", "mint")]));
    assert_eq!(
        told(&value),
        [
            "routes[1]: an edge has one hub, and the first route says `riskfuel`; name the same hub in every route"
        ]
    );
    let value = with(edge(), "/routes", json!([route("a", "riskfuel")]));
    assert!(load(&value, &[]).is_ok());
    assert_eq!(
        told(&with(value, "/pulsar", Value::Null)),
        [
            "pulsar: missing, and routes or topics of a policy need it; add an object, or leave routes, receive and send out: forwards need no cluster"
        ]
    );
}

#[test]
fn any_string_may_come_from_the_environment_or_a_file() {
    let mut value = hub();
    value["site"] = json!({"env": "SITE"});
    value["routes"][0]["topics"][0] = json!({"env": "TOPIC"});
    value["routes"][0]["subscription"] = json!({"file": "secret"});
    value["pulsar"]["auth"] = json!({"token": {"env": "TOKEN"}});
    let config = load(&value, &[("SITE", "riskfuel"), ("TOPIC", "orders")]).unwrap();
    assert_eq!(config.routes[0].topics[0].to_string(), "persistent://public/default/orders");
    assert_eq!(config.routes[0].subscription.as_deref(), Some("from-a-file"));
    assert_eq!(config.pulsar.unwrap().token, Some(TokenSource::Env("TOKEN".into())));
    let told = load(&value, &[("SITE", "riskfuel")]).unwrap_err();
    assert_eq!(
        told,
        ["routes[0].topics[0]: the environment has no `TOPIC`; set it, or write the value itself"]
    );
}

#[test]
fn what_comes_from_elsewhere_is_never_shown() {
    let canary = "canary 8731";
    let mut tried = 0;
    for pointer in [
        "/site",
        "/pulsar/service_url",
        "/pulsar/admin_url",
        "/pulsar/deduplication",
        "/tunnel/listen",
        "/tunnel/edges/0/name",
        "/tunnel/edges/0/keys/0",
        "/tunnel/edges/0/policy/send/0",
        "/tunnel/edges/0/policy/from",
        "/routes/0/name",
        "/routes/0/from",
        "/routes/0/topics/0",
        "/routes/0/subscription",
        "/routes/0/start",
        "/admin/listen",
    ] {
        let value = with(hub(), pointer, json!({"env": "CANARY"}));
        let told = load(&value, &[("CANARY", canary)]).unwrap_err().join("\n");
        assert!(!told.contains("canary"), "{pointer}: {told}");
        tried += 1;
    }
    assert_eq!(tried, 15);
}

#[test]
fn relative_paths_are_relative_to_the_file_that_names_them() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("mounted")).unwrap();
    fs::write(dir.path().join("mounted/where"), "token\n").unwrap();
    let file = dir.path().join("edge.json");
    for (named, expected) in [
        (json!("token"), dir.path().join("token")),
        (json!("/etc/token"), "/etc/token".into()),
        (json!({"file": "mounted/where"}), dir.path().join("mounted/token")),
    ] {
        fs::write(&file, with(edge(), "/tunnel/token_file", named).to_string()).unwrap();
        let config = config::load(&file).unwrap();
        let Tunnel::Edge(tunnel) = config.tunnel else { panic!("no edge") };
        assert_eq!(tunnel.credential, EdgeCredential::Token(expected));
    }
}

#[test]
fn files_that_are_missing_are_all_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("edge.json");
    let value = with(edge(), "/pulsar/auth", json!({"token_file": "pulsar-token"}));
    let value = with(value, "/pulsar/tls", json!({"ca_file": "ca.pem"}));
    fs::write(&file, value.to_string()).unwrap();
    let config = config::load(&file).unwrap();
    let missing = || -> Vec<String> {
        config::missing_files(&config).into_iter().map(|problem| problem.path).collect()
    };
    assert_eq!(missing(), ["pulsar.tls.ca_file", "tunnel.token_file", "pulsar.auth.token_file"]);
    let unset = with(edge(), "/pulsar/auth", json!({"token": {"env": "BRIDGE_TEST_NO_SUCH_TOKEN"}}));
    let named = config::missing_files(&load(&unset, &[]).unwrap());
    assert!(named.iter().any(|problem| problem.to_string()
        == "pulsar.auth.token: the environment has no `BRIDGE_TEST_NO_SUCH_TOKEN`; set it to the broker's token"));
    for name in ["token", "pulsar-token", "ca.pem"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    assert_eq!(missing(), Vec::<String>::new());
}

#[test]
fn topics_keep_the_routes_that_carry_them_and_their_answers() {
    let mut value = hub();
    value["routes"].as_array_mut().unwrap().push(json!(
        {"name": "logs", "from": "bank", "to": "riskfuel", "topics": ["logs"]}
    ));
    value["routes"].as_array_mut().unwrap().push(json!({
        "name": "feeds", "from": "bank", "to": "riskfuel",
        "topics": ["persistent://public/feeds/.*"], "exclude": ["public/feeds/raw"]
    }));
    let config = load(&value, &[]).unwrap();
    let kept = |topics: &[&str]| {
        let mut config = config.clone();
        let topics: Vec<_> = topics.iter().map(ToString::to_string).collect();
        config
            .keep_topics(&topics)
            .map(|()| config.routes.into_iter().map(|route| route.name).collect::<Vec<_>>())
    };
    assert_eq!(kept(&["datagen-requests"]).unwrap(), ["requests", "results"]);
    assert_eq!(kept(&["persistent://public/default/datagen-results"]).unwrap(), ["results"]);
    assert_eq!(kept(&["logs-partition-2", "datagen-results"]).unwrap(), ["results", "logs"]);
    assert_eq!(kept(&["public/feeds/rates-partition-1"]).unwrap(), ["feeds"]);
    assert!(kept(&["public/feeds/raw"]).is_err());
    assert_eq!(
        kept(&["orders"]).unwrap_err().to_string(),
        "no route carries persistent://public/default/orders; the routes are: \
         requests (persistent://public/default/datagen-requests), \
         results (persistent://public/default/datagen-results), logs (persistent://public/default/logs), \
         feeds (persistent://public/feeds/.*)"
    );
    assert!(kept(&["a/b"]).is_err());
    let error = load(&edge(), &[]).unwrap().keep_topics(&["orders".into()]).unwrap_err();
    assert!(error.to_string().contains("declares no routes"), "{error}");
}
