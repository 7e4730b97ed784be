//! Pass-through never decodes a payload: nothing that could is linked into the binary. Reads the dependency tree,
//! because an absence cannot be seen by running.

use std::collections::BTreeSet;
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

#[test]
fn no_codec_is_linked_into_the_binary() {
    let linked = crates("normal");
    assert!(linked.len() > 50 && linked.contains("crc32c"), "no dependency tree: {linked:?}");
    assert_eq!(codecs(&linked), Vec::<&String>::new());
    // The same look finds the foreign client, which only tests and examples have.
    assert!(codecs(&crates("normal,dev")).iter().any(|name| *name == "pulsar"));
}
