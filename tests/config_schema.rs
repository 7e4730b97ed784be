//! The JSON Schema and the README that ship against the loader: the same keys, the same verdicts. The schema
//! is judged by a small validator that refuses keywords it does not know, so that it cannot pass by ignorance.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its files has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use pulsar_bridge::config;
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bridge-config")
}

fn json_file(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder().join(name)).unwrap()).unwrap()
}

#[test]
fn the_schemas_that_ship_are_the_loaders() {
    for (name, schema) in [("schema.json", config::schema()), ("sites.schema.json", config::sites_schema())] {
        let made = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let file = folder().join(name);
        if std::env::var_os("BRIDGE_WRITE_SCHEMA").is_some() {
            fs::write(&file, &made).unwrap();
        }
        let ships = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            ships == made,
            "run `BRIDGE_WRITE_SCHEMA=1 cargo test --test config_schema` and look at the difference in {name}"
        );
    }
}

#[test]
fn the_readme_lists_every_key_and_no_other() {
    let mut keys = BTreeSet::new();
    for schema in [config::schema(), config::sites_schema()] {
        gather(&schema, &schema, "", &mut keys);
    }
    // A site's keys are the same wherever it stands.
    keys.retain(|key| !key.starts_with("sites[]"));
    let readme = fs::read_to_string(folder().join("README.md")).unwrap();
    let listed: BTreeSet<String> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(key, _)| key.to_owned()))
        .collect();
    assert_eq!(keys, listed);
    assert!(keys.len() > 50, "{}", keys.len());
}

fn gather(root: &Value, schema: &Value, path: &str, keys: &mut BTreeSet<String>) {
    let schema = resolved(root, schema);
    if let Some(items) = schema.get("items") {
        gather(root, items, &format!("{path}[]"), keys);
    }
    for (key, value) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        gather(root, value, &path, keys);
        keys.insert(path);
    }
}

#[test]
fn files_that_ship_satisfy_the_schema() {
    for name in ["hub.json", "edge.json", "bridge.json"] {
        assert_eq!(refusals(&json_file(name)), Vec::<String>::new(), "{name}");
    }
}

/// Every value of the shipped files replaced by every kind of value, every key taken away, a strange key put
/// into every object: what one of the two refuses for its shape, the other refuses at the same place.
#[test]
fn schema_and_loader_refuse_the_same_shapes_at_the_same_places() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.json");
    let (mut tried, mut refused) = (0, 0);
    for value in [full_hub(), full_edge(), full_sites()] {
        for changed in changes(&value) {
            fs::write(&file, changed.to_string()).unwrap();
            let by_schema = refusals(&changed);
            let loaded = config::load_setup(&file, &|_, _, _| Err("no trust is made here".into()));
            let problems = loaded.err().map(|errors| errors.problems).unwrap_or_default();
            let told = |place: &String| {
                let near = |path: &String| path.starts_with(place) || place.starts_with(path.as_str());
                problems.iter().any(|problem| near(&problem.path))
            };
            assert!(by_schema.iter().all(told), "schema: {by_schema:#?}\nloader: {problems:#?}\n{changed}");
            for problem in problems.iter().filter(|problem| is_of_shape(&problem.message)) {
                let near =
                    |place: &String| place.starts_with(&problem.path) || problem.path.starts_with(place);
                assert!(by_schema.iter().any(near), "only the loader: {problem:?}\n{changed}");
            }
            tried += 1;
            refused += usize::from(!by_schema.is_empty());
        }
    }
    assert!(tried > 500 && refused > 300, "{tried} tried, {refused} refused");
}

fn is_of_shape(message: &str) -> bool {
    message == "missing"
        || message == "unknown key"
        || message.starts_with("is ")
        || message.ends_with("out of range")
}

fn full_hub() -> Value {
    let mut value = json_file("hub.json");
    value["drain_seconds"] = json!(10);
    value["pulsar"]["auth"] = json!({"token": {"env": "PATH"}});
    value["pulsar"]["tls"] = json!({"ca_file": "a"});
    value["pulsar"]["replicas"] = json!(1);
    value["tunnel"]["limits"] = json!({"handshakes": 5, "handshakes_per_address": 2, "handshake_seconds": 3});
    value["tunnel"]["edges"][0]["max_instances"] = json!(3);
    value["tunnel"]["edges"][0]["policy"]["from"] = json!("earliest");
    let route = &mut value["routes"][0];
    route["generation"] = json!(2);
    route["subscription"] = json!("mine");
    route["start"] = json!("latest");
    route["topics"] = json!(["persistent://public/default/.*"]);
    route["exclude"] = json!(["public/default/x"]);
    route["rename"] = json!({"persistent://public/default": "persistent://riskfuel/datagen"});
    route["partitions"] = json!("any");
    route["onward"] = json!(true);
    route["quarantine"] = json!("persistent://public/default/refused");
    route["batching"] = json!({
        "max_messages": 10, "max_bytes": 2000, "max_delay_ms": 0, "compression": "zstd", "join": "any-key"
    });
    let policy = &mut value["tunnel"]["edges"][0]["policy"];
    policy["forward"] = json!(["git:22", {"target": "10.0.0.7:22", "max_connections": 3, "rate": 2}]);
    policy["listen"] = json!(["127.0.0.1:7000"]);
    value["forwards"] = json!([{
        "name": "kube-api", "from": "riskfuel", "listen": "127.0.0.1:6443", "to": "bank", "target": "kube:443",
        "max_connections": 9, "rate": 5
    }]);
    value["admin"]["hosts"] = json!(["bridge"]);
    assert_eq!(refusals(&value), Vec::<String>::new());
    value
}

fn full_edge() -> Value {
    let mut value = json_file("edge.json");
    value["tunnel"]["lanes"] = json!(4);
    value["pulsar"]["deduplication"] = json!("asserted");
    assert_eq!(refusals(&value), Vec::<String>::new());
    value
}

fn full_sites() -> Value {
    let mut value = json_file("bridge.json");
    let hub = json_file("hub.json");
    value["sites"][0]["tunnel"]["identity"] = json!("keys");
    value["sites"][0]["tunnel"]["edges"][0]["keys"] = hub["tunnel"]["edges"][0]["keys"].clone();
    value["sites"][1]["tunnel"]["token_file"] = json!("token");
    value["load"]["requester"]["rate"] = json!(100);
    assert_eq!(refusals(&value), Vec::<String>::new());
    value
}

/// All versions of the value with one thing changed.
fn changes(value: &Value) -> Vec<Value> {
    let mut pointers = Vec::new();
    walk(value, String::new(), &mut pointers);
    let mut changed = Vec::new();
    for pointer in &pointers {
        for new in
            [json!(true), json!(0), json!(-1), json!(1.5), json!(1e9), json!("x"), json!([]), json!({})]
        {
            let mut copy = value.clone();
            *copy.pointer_mut(pointer).unwrap() = new;
            changed.push(copy);
        }
        let mut copy = value.clone();
        if let Some(object) = copy.pointer_mut(pointer).unwrap().as_object_mut() {
            object.insert("strange".into(), json!(1));
            changed.push(copy);
        }
        let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
        let mut copy = value.clone();
        if let Some(object) = copy.pointer_mut(parent).unwrap().as_object_mut()
            && object.remove(&key.replace("~1", "/")).is_some()
        {
            changed.push(copy);
        }
    }
    changed
}

fn walk(value: &Value, pointer: String, pointers: &mut Vec<String>) {
    for (key, child) in value.as_object().into_iter().flatten() {
        walk(child, format!("{pointer}/{}", key.replace('/', "~1")), pointers);
    }
    for (index, child) in value.as_array().into_iter().flatten().enumerate() {
        walk(child, format!("{pointer}/{index}"), pointers);
    }
    pointers.push(pointer);
}

/// Where the value does not satisfy the schema.
fn refusals(value: &Value) -> Vec<String> {
    static SITE: LazyLock<Value> = LazyLock::new(config::schema);
    static SITES: LazyLock<Value> = LazyLock::new(config::sites_schema);
    let several = value.get("sites").is_some() || value.get("load").is_some();
    let schema = if several { &SITES } else { &SITE };
    let mut places = Vec::new();
    judge(schema, schema, value, "", &mut places);
    places
}

fn satisfies(root: &Value, schema: &Value, value: &Value) -> bool {
    let mut places = Vec::new();
    judge(root, schema, value, "", &mut places);
    places.is_empty()
}

fn judge(root: &Value, schema: &Value, value: &Value, path: &str, places: &mut Vec<String>) {
    for (keyword, rule) in schema.as_object().unwrap() {
        let fits = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "format" => true,
            "$ref" => {
                judge(root, resolved(root, schema), value, path, places);
                true
            }
            "type" => has_type(value, rule.as_str().unwrap()),
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
            "anyOf" => rule.as_array().unwrap().iter().any(|one| satisfies(root, one, value)),
            "oneOf" => rule.as_array().unwrap().iter().filter(|one| satisfies(root, one, value)).count() == 1,
            "required" => {
                for key in rule.as_array().unwrap().iter().map(|key| key.as_str().unwrap()) {
                    if value.as_object().is_some_and(|object| !object.contains_key(key)) {
                        places.push(joined(path, key));
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (key, child) in value.as_object().into_iter().flatten() {
                    if known.is_some_and(|known| known.contains_key(key)) {
                        continue;
                    }
                    if *rule == Value::Bool(false) {
                        places.push(joined(path, key));
                    } else {
                        judge(root, rule, child, &joined(path, key), places);
                    }
                }
                true
            }
            "properties" => {
                for (key, one) in rule.as_object().unwrap() {
                    if let Some(child) = value.get(key) {
                        judge(root, one, child, &joined(path, key), places);
                    }
                }
                true
            }
            "items" => {
                for (index, child) in value.as_array().into_iter().flatten().enumerate() {
                    judge(root, rule, child, &format!("{path}[{index}]"), places);
                }
                true
            }
            unknown => panic!("this validator does not know `{unknown}`"),
        };
        if !fits {
            places.push(path.to_owned());
        }
    }
}

fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let Some(reference) = schema.get("$ref") else {
        return schema;
    };
    root.pointer(reference.as_str().unwrap().strip_prefix('#').unwrap()).unwrap()
}

fn joined(path: &str, key: &str) -> String {
    // As messages write a key that is no word.
    if key.contains('/') {
        return format!("{path}[\"{key}\"]");
    }
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        unknown => panic!("this validator does not know the type `{unknown}`"),
    }
}
