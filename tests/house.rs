//! The house: who may import whom, how long a file may be, how it begins, what it may be called. Reads the
//! sources as text, because no compiler knows these rules.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the sources has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each room, and each file beside the rooms, may import: a whole room, or one module of it.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("exit", &[]),
    ("pulsar", &[]),
    ("policy", &["pulsar::topic"]),
    ("config", &["pulsar::topic", "policy"]),
    ("tunnel", &["config", "policy"]),
    ("relay", &["pulsar", "tunnel", "policy"]),
    ("forward", &["tunnel", "policy"]),
    ("embedded", &["pulsar"]),
    ("admin", &["relay::status", "forward::status", "tunnel::status"]),
    ("load", &["pulsar"]),
    ("site", &["exit", "pulsar", "policy", "config", "tunnel", "relay", "forward", "admin"]),
    ("fuzzed", &["pulsar::fuzzed", "relay::fuzzed", "tunnel::fuzzed", "forward::fuzzed", "config::fuzzed"]),
    ("stack", &["exit", "config", "site", "embedded", "load"]),
    // The binary.
    ("main", &["exit"]),
    ("cli", &["config::LinkUrl", "config::ServiceUrl", "pulsar::topic"]),
    ("logs", &[]),
    (
        "commands",
        &[
            "exit",
            "config",
            "policy",
            "tunnel::init",
            "relay::record",
            "relay::replay",
            "relay::status",
            "relay::window",
            "pulsar",
            "admin",
            "site",
            "stack",
            "embedded",
            "load",
        ],
    ),
];

const LINES_MAX: usize = 500;

/// Names of drawers: what is in such a file could be anywhere.
const DRAWERS: &[&str] =
    &["common", "data", "helper", "helpers", "info", "manager", "misc", "shared", "util", "utils"];

/// A source file, its path relative to the crate.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The room it belongs to: the folder in `src`, or the file itself.
    fn room(&self) -> Option<String> {
        let below = self.path.strip_prefix("src").ok()?;
        let first = below.components().next()?;
        let name = Path::new(first.as_os_str()).file_stem()?.to_str()?;
        Some(name.to_owned())
    }

    /// How many modules it lies below the crate's root.
    fn depth(&self) -> usize {
        let is_folder = self.path.file_name().is_some_and(|name| name == "mod.rs");
        self.path.components().count() - 1 - usize::from(is_folder)
    }

    /// Its text without comments.
    fn code(&self) -> String {
        self.text.lines().map(without_comment).collect::<Vec<_>>().join("\n")
    }
}

fn without_comment(line: &str) -> &str {
    match line.find("//") {
        // `https://` and its kin stand in strings.
        Some(at) if !line[..at].ends_with(':') => &line[..at],
        Some(_) | None => line,
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below these folders, in order.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut files = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(Source {
                    text: fs::read_to_string(&path).unwrap(),
                    path: path.strip_prefix(root()).unwrap().to_owned(),
                });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn everything() -> Vec<Source> {
    sources(&["src", "tests", "benches", "examples", "fuzz", "testbed"])
}

#[test]
fn every_room_imports_only_what_it_may() {
    let rules: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let (mut met, mut imports, mut broken) = (BTreeSet::new(), 0, Vec::new());
    for source in sources(&["src"]) {
        let room = source.room().unwrap();
        if room == "lib" {
            continue;
        }
        let Some(allowed) = rules.get(room.as_str()) else {
            panic!("{}: give `{room}` a line in MAY_IMPORT", source.path.display());
        };
        for import in imported(&source, &rules) {
            imports += 1;
            let fits = |rule: &&str| import == *rule || import.starts_with(&format!("{rule}::"));
            let own = import.split("::").next() == Some(room.as_str());
            let own_binary =
                BINARY.contains(&room.as_str()) && BINARY.iter().any(|file| import.starts_with(file));
            if !own && !own_binary && !allowed.iter().any(fits) {
                broken.push(format!("{}: {room} must not know {import}", source.path.display()));
            }
        }
        met.insert(room);
    }
    assert_eq!(broken, Vec::<String>::new());
    assert!(imports > 40, "only {imports} imports were seen");
    assert_eq!(met, rules.keys().map(ToString::to_string).collect(), "MAY_IMPORT and src differ");
}

/// The files of the binary, which may know each other.
const BINARY: &[&str] = &["main", "cli", "logs", "commands"];

/// What a file names of the crate: `room` or `room::module`.
fn imported(source: &Source, rules: &BTreeMap<&str, &[&str]>) -> BTreeSet<String> {
    let code = source.code();
    let mut found = BTreeSet::new();
    for start in ["crate::", "pulsar_bridge::"] {
        for (at, _) in code.match_indices(start) {
            // `$crate::` and `pub(in crate::…)` name the crate as well; `my_crate::` does not.
            if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                named(&code[at + start.len()..], &mut found);
            }
        }
    }
    found.extend(climbed(&code, source.depth(), rules));
    // A room imported whole tells nothing yet: what is taken from it does.
    let whole: Vec<String> = found.iter().filter(|import| !import.contains("::")).cloned().collect();
    for room in whole {
        let start = format!("{room}::");
        let mut uses = BTreeSet::new();
        for (at, _) in code.match_indices(&start) {
            if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                named(&code[at..], &mut uses);
            }
        }
        if !uses.is_empty() {
            found.remove(&room);
            found.extend(uses);
        }
    }
    found
}

/// The first two segments of every path that begins here: one path, or a group of them.
fn named(rest: &str, found: &mut BTreeSet<String>) {
    for path in items(rest) {
        let first = word(path);
        let Some(rest) = path[first.len()..].strip_prefix("::") else {
            found.insert(first.to_owned());
            continue;
        };
        found.extend(items(rest).iter().map(|second| format!("{first}::{}", word(second))));
    }
}

/// The texts at which the items of a group begin; without a group, the text itself.
fn items(text: &str) -> Vec<&str> {
    let Some(group) = text.strip_prefix('{') else {
        return vec![text];
    };
    let mut items = Vec::new();
    let (mut depth, mut begins) = (0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && !c.is_whitespace() => {
                items.push(&group[at..]);
                begins = false;
            }
            _ => {}
        }
    }
    items
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// Rooms that are reached by climbing: `super::super::room`.
fn climbed(code: &str, depth: usize, rules: &BTreeMap<&str, &[&str]>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut steps = 0;
        while let Some(above) = rest.strip_prefix("super::") {
            rest = above;
            steps += 1;
        }
        if steps >= depth && rules.contains_key(word(rest)) {
            named(rest, &mut found);
        }
    }
    found
}

#[test]
fn the_reader_of_imports_sees_every_form_of_them() {
    let text = "use crate::{relay, tunnel::status};\nuse crate::config::Route; // crate::gone::x\n\
                fn f() -> relay::source::Source { crate::pulsar::topic::parse(\"http://crate\") }\n\
                use crate::{\n    admin::{table, client},\n    site::run,\n};\nuse super::super::policy::Policy;\n\
                use pulsar_bridge::exit::Exit; use my_crate::no::x; relay::status::Board";
    let source = Source { path: "src/room/file.rs".into(), text: text.into() };
    let rules = MAY_IMPORT.iter().copied().collect();
    let seen: Vec<_> = imported(&source, &rules).into_iter().collect();
    let expected = [
        "admin::client",
        "admin::table",
        "config::Route",
        "exit::Exit",
        "policy::Policy",
        "pulsar::topic",
        "relay::source",
        "relay::status",
        "site::run",
        "tunnel::status",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn every_file_is_short_says_what_it_is_and_is_no_drawer() {
    let sources = everything();
    let mut broken = Vec::new();
    for source in &sources {
        let path = source.path.display();
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            broken.push(format!("{path}: {lines} lines, at most {LINES_MAX}"));
        }
        if !source.text.starts_with("//!") {
            broken.push(format!("{path}: begin it with //!: what it is, what it refuses to do"));
        }
        let mut names = source.path.components().filter_map(|part| Path::new(part.as_os_str()).file_stem());
        if let Some(drawer) = names.find(|name| DRAWERS.iter().any(|drawer| name == drawer)) {
            broken.push(format!("{path}: `{}` is a drawer: name the thing", drawer.display()));
        }
    }
    assert_eq!(broken, Vec::<String>::new());
    assert!(sources.len() > FILES_MIN, "only {} files were read", sources.len());
}

/// What the crate had when this was written.
const FILES_MIN: usize = 45;

#[test]
fn the_map_names_every_room() {
    let Ok(map) = fs::read_to_string(root().join("ARCHITECTURE.md")) else {
        assert!(!root().join("README.md").exists(), "a README, but no ARCHITECTURE.md");
        return;
    };
    let rooms: BTreeSet<String> = sources(&["src"]).iter().filter_map(Source::room).collect();
    let missing: Vec<_> = rooms.iter().filter(|room| !map.contains(room.as_str())).collect();
    assert_eq!(missing, Vec::<&String>::new());
    assert!(rooms.len() >= 8, "{rooms:?}");
}
