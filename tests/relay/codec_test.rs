//! Pass-through never decodes a payload: of codecs only the one is linked that joined batches are compressed with, and
//! nothing but measurements unpacks. Reads the dependency tree and the source, because an absence cannot be seen by
//! running.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates that pack or unpack what Pulsar's producers pack: zlib, lz4, zstd, snappy.
const CODECS: &[&str] =
    &["flate2", "libdeflate", "libz", "lz4", "miniz", "pulsar", "snap", "zlib", "zopfli", "zstd"];

fn crates(edges: &str) -> BTreeSet<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none", "--edges", edges])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn codecs(crates: &BTreeSet<String>) -> Vec<&String> {
    crates
        .iter()
        .filter(|name| CODECS.iter().any(|codec| name.starts_with(codec)))
        .filter(|name| *name != env!("CARGO_PKG_NAME"))
        .collect()
}

/// Every file of the source but those of a room.
fn sources(dir: &Path, without: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for item in fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        match path.is_dir() {
            true if path == without => {}
            true => files.extend(sources(&path, without)),
            false => files.push(path),
        }
    }
    files
}

/// The lines of a file, without the tests at its end, that name the codec.
fn naming(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().filter(|line| line.contains("zstd::")).map(str::to_owned).collect()
}

#[test]
fn of_codecs_only_zstd_is_linked_into_the_binary() {
    let linked = crates("normal");
    assert!(linked.len() > 50 && linked.contains("crc32c"), "no dependency tree: {linked:?}");
    assert_eq!(codecs(&linked), ["zstd", "zstd-safe", "zstd-sys"]);
    // The same look finds the foreign client, which only tests and examples have.
    assert!(codecs(&crates("normal,dev")).iter().any(|name| *name == "pulsar"));
}

#[test]
fn nothing_but_measurements_unpacks() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let relaying = sources(&source, &source.join("load"));
    let naming: Vec<String> = relaying.iter().flat_map(|file| naming(file)).collect();
    assert_eq!(naming, ["use zstd::bulk::Compressor;"]);
}
