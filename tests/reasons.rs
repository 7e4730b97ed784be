//! The tables of reasons in README.md are the catalogue of the code: same codes, same order, same remedies; and each
//! reason of a route has a test that follows its remedy.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the documents has failed")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use pulsar_bridge::forward::reason::{Effect, Reason as ForwardReason};
use pulsar_bridge::relay::notice::Notice;
use pulsar_bridge::relay::reason::{Reason as RouteReason, Verdict};
use pulsar_bridge::tunnel::reason::{KnownBy, Reason as LinkReason, Said, Unvouched};

/// Code, what follows, remedy.
type Row = (String, String, String);

#[test]
fn the_routes_reasons_stand_in_the_readme_with_what_follows_and_their_remedies() {
    let reasons = RouteReason::ALL.iter().map(|reason| {
        let then = match reason.verdict() {
            Verdict::Soon => "again soon",
            Verdict::Later => "every 30 s",
            Verdict::Stop => "**stopped**",
        };
        row(reason.code(), then, reason.remedy())
    });
    assert_eq!(table("### Of a route"), reasons.collect::<Vec<_>>());
}

#[test]
fn the_links_reasons_stand_in_the_readme_with_what_follows_and_their_remedies() {
    let reasons = links_reasons();
    let rows = reasons.iter().map(|reason| {
        let then = if reason.is_refusal() { "**act**" } else { "again soon" };
        row(reason.code(), then, reason.remedy())
    });
    assert_eq!(table("### Of a link"), rows.collect::<Vec<_>>());
}

#[test]
fn the_forwards_reasons_stand_in_the_readme_with_what_follows_and_their_remedies() {
    let rows = ForwardReason::ALL.iter().map(|reason| {
        let then = match reason.effect() {
            Effect::Refuses => "refuses",
            Effect::Reset => "reset",
        };
        row(reason.code(), then, reason.remedy())
    });
    assert_eq!(table("### Of a forward"), rows.collect::<Vec<_>>());
}

#[test]
fn every_reason_of_a_route_has_a_test_that_follows_its_remedy() {
    let listed = read("docs/remedies.md");
    let rows: Vec<_> = listed.lines().filter(|line| line.starts_with("| `")).collect();
    let codes: Vec<_> = rows.iter().map(|row| row.split('`').nth(1).unwrap()).collect();
    assert_eq!(codes, RouteReason::ALL.iter().map(|reason| reason.code()).collect::<Vec<_>>());
    let tests = all_of("tests/relay", "rs");
    let cases = all_of("testbed/suite", "py");
    let ran = read("testbed/suite/run.py");
    for row in rows {
        let (_, tested) = row.trim_end_matches(" |").rsplit_once(" | ").unwrap();
        assert!(tested.contains('`'), "{row}");
        for test in tested.split(", ") {
            let name = test.trim_start_matches("suite ").trim_matches('`');
            let is_there = if test.starts_with("suite ") {
                cases.contains(&format!("\ndef {name}(stage):\n")) && ran.contains(&format!(".{name},"))
            } else {
                tests.contains(&format!("\nasync fn {name}()"))
            };
            assert!(is_there, "there is no test {test}");
        }
    }
}

/// The text of all files of a kind there.
fn all_of(folder: &str, extension: &str) -> String {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == extension));
    files.map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn losses_elsewhere_stand_in_the_readme_with_their_remedies() {
    let rows = Notice::ALL.iter().map(|notice| {
        let unit = match notice {
            Notice::SourceSkipped => "entries",
            Notice::DestinationForgotten => "times",
        };
        row(notice.code(), unit, notice.remedy())
    });
    assert_eq!(table("### Losses that the bridge does not cause"), rows.collect::<Vec<_>>());
}

/// The list below is complete: it has every code that the source files have.
#[test]
fn no_reason_of_a_link_is_left_out() {
    let source = read("src/tunnel/unvouched.rs");
    let (_, from_codes) = source.split_once("fn code(").unwrap();
    let (unvouched, _) = from_codes.split_once("fn remedy(").unwrap();
    let source = read("src/tunnel/reason.rs").replace("Self::Unvouched(why) => why.code(),", unvouched);
    let (_, from_codes) = source.split_once("fn code(").unwrap();
    let (codes, _) = from_codes.split_once("fn is_refusal(").unwrap();
    let codes: Vec<_> =
        codes.lines().filter_map(|line| line.split_once("=> \"")?.1.strip_suffix("\",")).collect();
    let listed: Vec<_> = links_reasons().iter().map(LinkReason::code).collect();
    assert_eq!(codes, listed);
}

fn links_reasons() -> Vec<LinkReason> {
    vec![
        LinkReason::Intercepted {
            issuer: String::new(),
            leaf_sha256: String::new(),
            via: None,
            known_by: KnownBy::Pin,
        },
        LinkReason::Clock { skew: Duration::ZERO, ahead: false },
        LinkReason::IssuerDistrusted,
        LinkReason::RefusedUnknownKey,
        LinkReason::RefusedSiteMismatch,
        LinkReason::Revoked,
        LinkReason::TooManyInstances,
        LinkReason::NoSuchLink,
        LinkReason::Superseded,
        LinkReason::LaneRefused,
        LinkReason::Version,
        LinkReason::Malformed,
        LinkReason::CertificateRefused,
        LinkReason::Unvouched(Unvouched::Untrusted),
        LinkReason::Unvouched(Unvouched::Expired),
        LinkReason::Unvouched(Unvouched::Revoked),
        LinkReason::Unvouched(Unvouched::ListsStale),
        LinkReason::NotABridge,
        LinkReason::Unreachable { error: String::new() },
        LinkReason::ProxyAuth { offered: Vec::new() },
        LinkReason::ProxyPassword { problem: String::new() },
        LinkReason::ProxyRefused { said: Said::NoProxy },
        LinkReason::UpgradeRefused { status: 404 },
        LinkReason::IngressTls,
        LinkReason::ProxyHeader,
        LinkReason::Timeout,
        LinkReason::Silence,
        LinkReason::Unread,
        LinkReason::LaneAge,
        LinkReason::AddressGone,
        LinkReason::PeerClosed,
        LinkReason::Checked,
        LinkReason::Displaced,
        LinkReason::Ended,
        LinkReason::RefusedUnknownCode(0),
    ]
}

/// The rows of the first table below a heading: code, what follows, remedy; the third column explains freely.
fn table(heading: &str) -> Vec<Row> {
    let readme = read("README.md");
    let (_, below) = readme.split_once(&format!("\n{heading}\n")).unwrap();
    below
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [code, then, meaning, remedy] = cells[..] else {
                panic!("four columns: {line}");
            };
            assert!(!meaning.is_empty(), "{line}");
            row(code.trim_matches('`'), then, remedy)
        })
        .collect()
}

fn row(code: &str, then: &str, remedy: &str) -> Row {
    (code.into(), then.into(), remedy.into())
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}
