//! The binary's verbs around a configuration: their exit codes, their words, and the stop by signal.

#![expect(clippy::unwrap_used, reason = "a test whose process cannot run has failed")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use pulsar_bridge::config::credential::JoinToken;
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "config/trust.rs"]
mod trust;

fn bridge(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bridge"));
    command.args(args).env_remove("BRIDGE_CONFIG").env_remove("BRIDGE_LOG").env_remove("RUST_LOG");
    command
}

fn ended(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = bridge(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A folder with the configuration and token of an edge whose hub is nowhere.
fn edge() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let token = JoinToken::new("riskfuel", "bank", [3; 32], vec![[4; 32]]).unwrap();
    let token_file = dir.path().join("token");
    fs::write(&token_file, token.encode().expose()).unwrap();
    fs::set_permissions(&token_file, PermissionsExt::from_mode(0o600)).unwrap();
    let config = json!({
        "version": 1,
        "site": "bank",
        "pulsar": { "service_url": "pulsar://127.0.0.1:1" },
        "tunnel": { "connect": ["tls://127.0.0.1:1"], "token_file": "token" },
        "admin": { "listen": "127.0.0.1:0" }
    });
    let file = dir.path().join("edge.json");
    fs::write(&file, config.to_string()).unwrap();
    (dir, file.to_str().unwrap().to_owned())
}

fn shipped(name: &str) -> String {
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("bridge-config").join(name);
    file.to_str().unwrap().to_owned()
}

#[test]
fn odd_arguments_are_usage() {
    for args in [
        &["run", "--for", "30"][..],
        &["run", "--output", "xml"],
        &["fly"],
        &["check", "--config", "a.json", "b.json"],
        &["check", "a.json", "b.json"],
        &[],
        &["status", "--admin", "ftp://x"],
    ] {
        assert_eq!(ended(args).0, 2, "{args:?}");
    }
    let (code, _, stderr) = ended(&["run", "--config", &shipped("hub.json"), "--topics", "orders"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("no route carries persistent://public/default/orders; the routes are: requests"));
    let filtered = bridge(&["run"]).env("BRIDGE_LOG", "bridge=loud").output().unwrap();
    assert_eq!(filtered.status.code(), Some(2));
}

#[test]
fn a_refused_configuration_is_told_whole_and_ends_with_78() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.json");
    fs::write(
        &file,
        r#"{"version": 1, "site": "A", "pulsar": {"service_url": "pulsar://a"}, "tunnel": {}, "colour": "red"}"#,
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let (code, _, stderr) = ended(&["run", "--config", file]);
    assert_eq!(code, 78);
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines[0], format!("bridge: {file}: refused, 3 problems:"));
    assert_eq!(lines.len(), 5, "{stderr}");
    assert!(lines[4].starts_with("  not looked at before the values are right: what has a wrong value "));
    let by_environment = bridge(&["run"]).env("BRIDGE_CONFIG", file).output().unwrap();
    assert_eq!(
        (by_environment.status.code(), by_environment.stderr),
        (Some(78), stderr.clone().into_bytes())
    );
    let (code, stdout, _) = ended(&["check", "--config", file]);
    assert_eq!((code, format!("bridge: {stdout}")), (78, stderr), "one wording");
    for verb in ["run", "check"] {
        let flagged = ended(&[verb, "--config", file]);
        assert_eq!((flagged.0, ended(&[verb, file])), (78, flagged), "with the flag or without");
    }
    let (code, stdout, _) = ended(&["check", "--config", file, "--output", "json"]);
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &told["ok"], told["problems"].as_array().unwrap().len()), (78, &json!(false), 3));
    assert_eq!(told["problems"][0]["path"], "colour");
    assert_eq!(told["looked_at"], json!(["keys and values", "routes against each other"]));
    assert_eq!(told["not_tried"][3], "the files that it names");
}

#[test]
fn a_file_that_is_named_and_missing_is_refused_before_running() {
    for verb in ["run", "check"] {
        let (code, stdout, stderr) = ended(&[verb, "--config", &shipped("edge.json")]);
        let told = stdout + &stderr;
        assert_eq!(code, 78);
        assert!(
            told.contains("tunnel.token_file: ") && told.contains("is not there; run `bridge init`"),
            "{told}"
        );
    }
}

/// The problems that both verbs tell of a file, which must be the same.
fn refused(file: &str) -> Vec<String> {
    let (code, stdout, _) = ended(&["check", "--config", file]);
    let by_run = ended(&["run", "--config", file]);
    assert_eq!((code, by_run), (78, (78, String::new(), format!("bridge: {stdout}"))));
    stdout.lines().skip(1).map(|line| line.trim_start().to_owned()).collect()
}

#[test]
fn files_that_cannot_be_used_are_told_together_and_without_what_is_in_them() {
    let (dir, file) = edge();
    let path = |name: &str| dir.path().join(name);
    set_mode(&path("token"), 0o644);
    fs::write(path("broker-token"), "canary-893").unwrap();
    set_mode(&path("broker-token"), 0o644);
    fs::write(path("ca.pem"), "no certificate").unwrap();
    set(
        &file,
        "/pulsar",
        json!({
            "service_url": "pulsar+ssl://127.0.0.1:1",
            "auth": { "token_file": "broker-token" },
            "tls": { "ca_file": "ca.pem", "cert_file": "cert.pem", "key_file": "key.pem" },
        }),
    );
    fs::write(path("cert.pem"), "no certificate either").unwrap();
    fs::write(path("key.pem"), "canary-894").unwrap();
    set_mode(&path("key.pem"), 0o644);
    let told = refused(&file);
    let begin = |place: &str, name: &str| format!("{place}: {}", path(name).display());
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[0].starts_with(&begin("tunnel.token_file", "token")), "{told:?}");
    assert!(told[0].ends_with(&format!("; run `chmod 0600 {}`", path("token").display())), "{told:?}");
    assert!(
        told[1].starts_with("pulsar.auth.token_file: token file ") && told[1].contains("; run `chmod 0600 "),
        "{told:?}"
    );
    assert!(told[2].starts_with(&begin("pulsar.tls.key_file", "key.pem")), "{told:?}");
    assert!(told[3].starts_with(&begin("pulsar.tls.ca_file", "ca.pem")), "{told:?}");
    assert!(told.iter().all(|line| !line.contains("bt1.") && !line.contains("canary")), "{told:?}");

    set(&file, "/pulsar", json!({ "service_url": "pulsar://127.0.0.1:1" }));
    set_mode(&path("token"), 0o600);
    let token = fs::read_to_string(path("token")).unwrap();
    for (text, message) in [
        (&token[..token.len() - 1], "a character is missing"),
        (&token.replace("bt1.", "bk1."), "this is an edge key"),
        (
            JoinToken::new("riskfuel", "fund", [3; 32], vec![[4; 32]]).unwrap().encode().expose(),
            "the token is of edge `fund`, but this site is `bank`; use this edge's own token",
        ),
    ] {
        fs::write(path("token"), text).unwrap();
        let told = refused(&file);
        assert!(told.len() == 1 && told[0].starts_with("tunnel.token_file: "), "{told:?}");
        assert!(told[0].contains(message), "{told:?}");
    }
}

#[test]
fn a_secret_in_the_place_of_its_file_is_told_and_not_shown() {
    let (dir, file) = edge();
    let token = fs::read_to_string(dir.path().join("token")).unwrap();
    let jwt = format!("eyJhbGciOiJIUzI1NiJ9.{}.canary", "x".repeat(60));
    let looks = "a file is named here, and this looks like the secret itself; write it into a file";
    // A password looks like a name.
    let missing = format!("below {} the file that it names is not there; ", dir.path().display());
    for (of_broker, of_link, why) in [(&*jwt, &*token, looks), ("canary/canary", "canary", &missing)] {
        let pulsar = json!({ "service_url": "pulsar://127.0.0.1:1", "auth": { "token_file": of_broker } });
        set(&file, "/pulsar", pulsar);
        set(&file, "/tunnel/token_file", json!(of_link));
        let told = refused(&file).join("\n");
        for place in ["pulsar.auth.token_file", "tunnel.token_file"] {
            assert!(told.contains(&format!("{place}: {why}")), "{told}");
        }
        assert!(!told.contains("bt1.") && !told.contains("canary"), "{told}");
    }
}

#[test]
fn a_hub_whose_identity_is_not_whole_is_told_which_file_to_bring() {
    let dir = tempfile::tempdir().unwrap();
    init(&dir, &["--hub", "riskfuel", "--edge", "bank", "--url", "tls://127.0.0.1:8001"]);
    let file = dir.path().join("made/hub/hub.json").to_str().unwrap().to_owned();
    let keys = dir.path().join("made/hub/keys");
    for (name, text, message) in [
        ("chain.pem", Some(""), "it must hold the issuer and its root; copy the file"),
        ("chain.pem", None, "No such file"),
        ("issuer.key", Some("no key"), "no private key in PEM; copy the file"),
        ("issuer.key", None, "copy here what `bridge init` wrote for this hub"),
    ] {
        match text {
            Some(text) => fs::write(keys.join(name), text).unwrap(),
            None => fs::remove_file(keys.join(name)).unwrap(),
        }
        let told = refused(&file);
        let begin = format!("tunnel.identity: {}: ", keys.join(name).display());
        assert!(told.len() == 1 && told[0].starts_with(&begin) && told[0].contains(message), "{told:?}");
    }
}

fn set_mode(file: &Path, mode: u32) {
    fs::set_permissions(file, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn check_says_what_it_looked_at_and_what_not() {
    let (_dir, file) = edge();
    let (code, stdout, stderr) = ended(&["check", "--config", &file]);
    let expected = "valid\n  site bank, an edge of tls://127.0.0.1:1\n  trust: a token, which pins \
                    the hub's root; nothing of it expires\n  pin of the hub's root: \
                    BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ\n  link tls://127.0.0.1:1: the hub is not reached; \
                    unreachable: no connection: Connection refused (os error 111); check address, DNS, route and \
                    firewall, and that the hub is running\n  looked at: keys and values, \
                    routes against each other, the files that it names\n  not tried: the cluster, \
                    the other side's policy\n";
    assert_eq!((code, stdout, stderr.as_str()), (0, format!("{file}: {expected}"), ""));
}

#[test]
fn what_names_no_configuration_checks_nothing_and_an_empty_name_starts_no_demonstration() {
    for (verb, variable, expected) in [("check", None, 2), ("check", Some(""), 78), ("run", Some(""), 78)] {
        let mut command = bridge(&[verb]);
        variable.map(|value| command.env("BRIDGE_CONFIG", value));
        let Output { status, stdout, stderr } = command.output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!((status.code(), stdout.len()), (Some(expected), 0), "{verb} {variable:?}: {stderr}");
        assert!(stderr.contains("$BRIDGE_CONFIG"), "{stderr}");
    }
}

#[test]
fn a_run_of_limited_time_ends_with_its_summary_as_one_line() {
    let (_dir, file) = edge();
    let (code, stdout, stderr) = ended(&["run", "--config", &file, "--for", "50ms", "--output", "json"]);
    assert_eq!(code, 0, "{stderr}");
    let summary: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((stdout.lines().count(), summary.is_object()), (1, true));
}

#[test]
fn nobody_there_is_69_and_names_the_url() {
    let (code, stdout, stderr) = ended(&["status", "--admin", "http://127.0.0.1:1"]);
    assert_eq!((code, stdout.as_str()), (69, ""));
    assert!(stderr.contains("http://127.0.0.1:1: ") && stderr.contains("admin.listen"), "{stderr}");
}

/// A bridge that runs, with its log.
struct Running {
    process: Child,
    log: BufReader<ChildStderr>,
    admin: String,
}

impl Running {
    fn start(file: &str) -> Self {
        let mut command = bridge(&["run", "--config", file, "--log-format", "json"]);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap());
        let mut running = Self { process, log, admin: String::new() };
        let line = running.line("admin: listening");
        running.admin = format!("http://{}", line["address"].as_str().unwrap());
        running
    }

    /// Reads on to the line with this message.
    fn line(&mut self, message: &str) -> Value {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["message"].as_str().is_some_and(|text| text.starts_with(message)) {
                return event;
            }
            line.clear();
        }
        panic!("the log ended without: {message}");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_signal_drains_and_ends_with_0() {
    let (_dir, file) = edge();
    for name in ["-TERM", "-INT"] {
        let mut running = Running::start(&file);
        running.signal("-HUP");
        running.line("the configuration is loaded");
        running.signal(name);
        running.line("told to stop: draining");
        running.line("drained: everything that was sent is confirmed");
        assert_eq!(running.process.wait().unwrap().code(), Some(0), "{name}");
    }
}

#[test]
fn a_promise_that_cannot_be_better_is_said_at_the_start() {
    let (_dir, file) = edge();
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    config["policy"] = json!({ "receive": ["orders"] });
    fs::write(&file, config.to_string()).unwrap();
    let (code, _, stderr) = ended(&["run", "--config", &file, "--for", "300ms"]);
    let told = |line: &str| line.contains("WARN") && line.contains("routes into this site are at-least-once");
    assert!(code == 0 && stderr.lines().any(told), "{stderr}");
}

#[test]
fn status_shows_a_running_bridge() {
    let (_dir, file) = edge();
    let running = Running::start(&file);
    let (code, stdout, stderr) = ended(&["status", "--admin", &running.admin]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("bank  bridge ") && stdout.contains("\nLINK "), "{stdout}");
    let (code, stdout, _) = ended(&["status", "--admin", &running.admin, "--output", "json"]);
    let status: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &status["site"], &status["progress"]["ok"]), (0, &json!("bank"), &json!(false)));
}

/// Writes another value at a place of a configuration.
fn set(file: &str, pointer: &str, value: Value) {
    let mut config: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    *config.pointer_mut(pointer).unwrap() = value;
    fs::write(file, config.to_string()).unwrap();
}

#[test]
fn a_site_that_cannot_start_does_not_say_that_it_listens() {
    let dir = tempfile::tempdir().unwrap();
    let occupied = TcpListener::bind("0.0.0.0:0").unwrap();
    let url = format!("tls://127.0.0.1:{}", occupied.local_addr().unwrap().port());
    init(&dir, &["--hub", "riskfuel", "--edge", "bank", "--url", &url]);
    let file = dir.path().join("made/hub/hub.json").to_str().unwrap().to_owned();
    set(&file, "/admin/listen", json!("127.0.0.1:0"));
    let (_, stdout, stderr) = ended(&["run", "--config", &file]);
    assert_eq!((stdout.as_str(), stderr.lines().count()), ("", 1), "{stderr}");
    assert!(stderr.contains("cannot run") && stderr.contains("tunnel.listen 0.0.0.0:"), "{stderr}");
}

#[test]
fn an_address_in_use_is_75_and_one_that_cannot_be_had_78() {
    let dir = tempfile::tempdir().unwrap();
    init(&dir, &["--hub", "riskfuel", "--edge", "bank", "--url", "tls://127.0.0.1:8001"]);
    let file = dir.path().join("made/hub/hub.json").to_str().unwrap().to_owned();
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = json!(occupied.local_addr().unwrap().to_string());
    // TEST-NET-1: an address of nobody's.
    let nowhere = json!("192.0.2.1:0");
    for (tunnel, admin, expected) in [
        (json!("127.0.0.1:0"), in_use.clone(), 75),
        (in_use, json!("127.0.0.1:0"), 75),
        (json!("127.0.0.1:0"), nowhere.clone(), 78),
        (nowhere, json!("127.0.0.1:0"), 78),
    ] {
        set(&file, "/tunnel/listen", tunnel);
        set(&file, "/admin/listen", admin);
        let (code, _, stderr) = ended(&["run", "--config", &file]);
        assert_eq!(code, expected, "{stderr}");
        assert_eq!(stderr.contains("perhaps another bridge of this site"), code == 75, "{stderr}");
    }
}

#[test]
fn completions_know_the_verbs() {
    let (code, stdout, _) = ended(&["completions", "bash"]);
    assert_eq!(code, 0);
    assert!(["run", "check", "status"].iter().all(|verb| stdout.contains(verb)));
}

/// `bridge init` in a folder of its own.
fn init(dir: &TempDir, args: &[&str]) -> (i32, String, String) {
    let out = dir.path().join("made");
    let mut all = vec!["init", "--out", out.to_str().unwrap()];
    all.extend(args);
    ended(&all)
}

#[test]
fn init_makes_configurations_that_check_finds_valid() {
    let dir = tempfile::tempdir().unwrap();
    let first = ["--hub", "riskfuel", "--edge", "bank,mint", "--url", "tls://127.0.0.1:8001"];
    let (code, stdout, stderr) = init(&dir, &first);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains("/made/hub/hub.json\n") && stdout.contains("\nnext:\n1. "), "{stdout}");
    let mut valid = 0;
    for file in ["hub/hub.json", "bank/edge.json", "mint/edge.json"] {
        let file = dir.path().join("made").join(file);
        let (code, stdout, _) = ended(&["check", "--config", file.to_str().unwrap()]);
        assert_eq!(code, 0, "{stdout}");
        valid += 1;
    }
    assert_eq!(valid, 3);
    let (code, _, stderr) = init(&dir, &first);
    assert_eq!(code, 2);
    assert!(stderr.contains("exists: nothing was written"), "{stderr}");
    let (code, stdout, _) = init(&dir, &["--edge", "third"]);
    assert!(code == 0 && stdout.contains("\"bk1.third.") && !stdout.contains("bt1."), "{stdout}");
    let (code, _, stderr) = init(&dir, &["--rotate", "fourth"]);
    assert!(code == 2 && stderr.contains("no edge `fourth` was made in "), "{stderr}");
    let (code, stdout, _) = init(&dir, &["--rotate", "bank"]);
    assert!(code == 0 && stdout.contains("\"bk1.bank.") && !stdout.contains("bt1."), "{stdout}");
}

#[test]
fn an_edges_own_key_never_leaves_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = init(&dir, &["--own-key", "--edge", "bank"]);
    let secret = fs::read_to_string(dir.path().join("made/bank/own.key")).unwrap();
    assert!(code == 0 && stdout.contains("bk1.bank."), "{stdout}{stderr}");
    assert!(!stdout.contains(secret.trim()) && !stderr.contains(secret.trim()));
    let pin = "A".repeat(43);
    let (code, stdout, stderr) =
        init(&dir, &["--own-key", "--edge", "bank", "--hub", "riskfuel", "--pin", &pin]);
    assert!(code == 0 && !stdout.contains("bt1."), "{stdout}{stderr}");
    let token = fs::read_to_string(dir.path().join("made/bank/token")).unwrap();
    assert_eq!(JoinToken::parse(&token).unwrap().hub, "riskfuel");
}

#[test]
fn forms_of_init_that_do_not_exist_are_usage() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["--hub", "riskfuel"][..],
        &["--hub", "riskfuel", "--edge", "bank"],
        &["--hub", "riskfuel", "--edge", "bank", "--url", "ws://a"],
        &["--hub", "riskfuel", "--edge", "Bank", "--url", "tls://a:1"],
        &["--hub", "riskfuel", "--edge", "offline", "--url", "tls://a:1"],
        &["--edge", "a,b"],
        &["--edge", "a"],
        &["--rotate", "a", "--edge", "a"],
        &["--own-key", "--edge", "a", "--hub", "b"],
        &["--edge", "a", "--pin", "x"],
        &[],
    ] {
        let (code, stdout, stderr) = init(&dir, args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(!dir.path().join("made").exists(), "{args:?}");
    }
}

#[test]
fn init_where_nothing_can_be_written_is_usage_and_says_what_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "in the way").unwrap();
    for out in [file.clone(), file.join("below"), "/proc/made".into()] {
        let args = ["init", "--hub", "riskfuel", "--edge", "bank", "--url", "tls://a:1", "--out"];
        let (code, _, stderr) = ended(&[&args[..], &[out.to_str().unwrap()]].concat());
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("choose another --out"), "{stderr}");
    }
}

#[test]
fn what_is_to_be_said_of_a_kubeconfig_is_said_of_one_that_was_written() {
    let (dir, file) = edge();
    let [from, out] = ["from", "out"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    config["forwards"] = json!([{ "name": "a", "from": "bank", "listen": "127.0.0.1:1", "to": "riskfuel", "target": "kube:2" }]);
    fs::write(&file, config.to_string()).unwrap();
    let kube = r#"{"current-context":"p","contexts":[{"name":"p","context":{"cluster":"p"}}],"clusters":[{"name":"p","cluster":{"server":"https://x"}}]}"#;
    fs::write(&from, kube).unwrap();
    let args = ["kubeconfig", "--forward", "a", "--from", &from, "--config", &file, "--out", &out];
    for (code, is_said) in [(0, true), (78, false)] {
        let (ended_with, _, stderr) = ended(&args);
        assert_eq!((ended_with, stderr.contains("leads to kube:2")), (code, is_said), "{stderr}");
    }
}
