//! The files of docker-compose.yml without an engine: the configurations load with the keys that the script makes,
//! and what two files have to agree on agrees. That containers really run with them is tried by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its files has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pulsar_bridge::config::{self, Setup, Tunnel};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// Runs compose/init.sh with our binary in a folder.
fn make_keys(folder: &Path) -> Output {
    let bin = Path::new(env!("CARGO_BIN_EXE_bridge")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let script = root().join("compose/init.sh");
    Command::new("sh").arg(script).arg(folder).env("PATH", path).output().unwrap()
}

/// A site's configuration beside its own secrets, as its container sees them.
fn mounted(folder: &Path, name: &str, secrets: &str) -> PathBuf {
    let site = folder.join(name).with_extension("mounted");
    fs::create_dir(&site).unwrap();
    fs::copy(root().join("compose").join(name), site.join("bridge.json")).unwrap();
    symlink(folder.join(secrets), site.join("secrets")).unwrap();
    site.join("bridge.json")
}

fn loaded(file: &Path) -> Setup {
    config::load_setup(file, &|_, _, _| Err("no trust is made here".into())).unwrap()
}

#[test]
fn every_configuration_is_valid_with_the_keys_that_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let made = make_keys(dir.path());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let hub = mounted(dir.path(), "hub.json", "hub");
    let edge = mounted(dir.path(), "edge.json", "bank");
    let compose = root().join("compose");
    for file in [&hub, &edge, &compose.join("requester.json"), &compose.join("worker.json")] {
        let checked = Command::new(env!("CARGO_BIN_EXE_bridge")).arg("check").arg(file).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }
    let names: BTreeSet<_> = fs::read_dir(compose)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    let checked = ["edge.json", "hub.json", "requester.json", "worker.json"].map(str::to_owned);
    assert_eq!(names, BTreeSet::from(checked), "a configuration that this test does not know");
}

#[test]
fn the_keys_are_made_once_and_a_lost_one_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["hub/keys/issuer.key", "hub/bank.key", "bank/token", "offline/root.key"];
    let read = || files.map(|file| fs::read_to_string(dir.path().join(file)).unwrap());
    assert!(make_keys(dir.path()).status.success());
    let first = read();
    assert!(first[1].starts_with("bk1.bank."), "{}", first[1]);
    assert!(make_keys(dir.path()).status.success());
    assert_eq!(read(), first);
    fs::remove_file(dir.path().join("bank/token")).unwrap();
    let again = make_keys(dir.path());
    assert!(!again.status.success());
    let told = String::from_utf8(again.stderr).unwrap();
    assert!(told.contains("bank/token is not there") && told.contains("--volumes"), "{told}");
}

#[test]
fn the_compose_file_and_what_it_mounts_agree() {
    let compose = text("docker-compose.yml");
    let mounts: Vec<_> = compose
        .split_whitespace()
        .filter_map(|word| word.trim_matches(['[', ']', '"']).strip_prefix("./")?.split_once(':'))
        .collect();
    assert!(mounts.len() >= 6, "{mounts:?}");
    for (file, _) in mounts {
        assert!(root().join(file).is_file(), "{file}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(make_keys(dir.path()).status.success());
    let prometheus = text("compose/prometheus.yml");
    for (name, secrets, host) in [("hub.json", "hub", "hub"), ("edge.json", "bank", "edge")] {
        let site = loaded(&mounted(dir.path(), name, secrets)).sites.remove(0);
        let admin = site.admin.listen.unwrap();
        assert!(compose.contains(&format!("ipv4_address: {} }}", admin.ip())), "{admin}");
        assert!(compose.contains(&format!("\"http://{admin}\"")), "{admin}");
        assert!(prometheus.contains(&format!("\"{host}:{}\"", admin.port())), "{admin}");
        assert_eq!(site.admin.hosts, [host]);
        if let Tunnel::Edge(edge) = site.tunnel {
            assert_eq!(edge.connect[0].to_string(), "tls://hub:8001");
        }
    }
}

#[test]
fn the_image_is_built_by_the_rust_of_the_crate_and_goes_without_the_features_for_trials() {
    let cargo = text("Cargo.toml");
    let version = cargo.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap();
    let dockerfile = text("Dockerfile");
    assert!(dockerfile.contains(&format!("ARG RUST_VERSION={}\n", version.trim_matches('"'))));
    let builds: Vec<_> = dockerfile
        .lines()
        .filter_map(|line| line.trim().strip_prefix("cargo build --locked --release --no-default-features "))
        .filter_map(|line| line.split_once("&&"))
        .map(|(features, _)| features.trim())
        .collect();
    assert_eq!(builds, ["", "--features load"]);
}
