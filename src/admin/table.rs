//! The status as a table for people. Escapes what could steer a terminal; reads nothing.

use std::fmt::Write;

use super::Loaded;
use super::report::Status;
use crate::forward;
use crate::relay::status::{End, State};
use crate::tunnel::status::LaneStatus;

/// The status in aligned columns.
pub fn render(status: &Status) -> String {
    let ready = if status.ready { "ready" } else { "not ready" };
    let progress = if status.progress.ok { "making progress" } else { "NOT making progress" };
    let mut page = format!(
        "{}  bridge {}, up {}, {ready}, {progress}\n",
        plain(&status.site),
        plain(&status.version),
        duration(status.uptime_seconds)
    );
    configuration(&mut page, status);
    section(&mut page, &link_rows(status), LINK_NUMBERS);
    if !status.routes.is_empty() {
        section(&mut page, &route_rows(status), ROUTE_NUMBERS);
    }
    if !status.forwards.is_empty() {
        section(&mut page, &forward_rows(status), FORWARD_NUMBERS);
    }
    quarantined(&mut page, status);
    noticed(&mut page, status);
    were_reset(&mut page, status);
    if !status.progress.ok {
        page.push_str("\nin the way:\n");
    }
    for obstacle in &status.progress.reasons {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "  {}: {}", plain(&obstacle.subject), plain(&obstacle.reason));
        if let Some(remedy) = &obstacle.remedy {
            let _ = writeln!(page, "    -> {}", plain(remedy));
        }
    }
    page
}

/// Which file it runs by, and what is wrong with a later one.
fn configuration(page: &mut String, status: &Status) {
    let Loaded { digest, refused, .. } = &status.configuration;
    if !digest.is_empty() {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "configuration {}", plain(digest));
    }
    if !refused.is_empty() {
        page.push_str("  A LATER ONE WAS REFUSED, this one goes on:\n");
    }
    for problem in refused {
        let _ = writeln!(page, "  {}", plain(problem));
    }
    for warning in &status.warnings {
        let _ = writeln!(page, "warning: {}", plain(warning));
    }
}

/// What was refused and went elsewhere, for whom it may concern: rare, so that it has no column. What was replayed since
/// only the topic knows.
fn quarantined(page: &mut String, status: &Status) {
    let rows = || status.routes.iter().filter(|row| row.quarantined > 0);
    if rows().next().is_some() {
        page.push_str(
            "\nwent to a quarantine since the start, replayed or not (--dry-run lists what is there):\n",
        );
    }
    for row in rows() {
        let (route, topic, to, from) =
            (plain(&row.route), plain(&row.topic), plain(&row.to), plain(&row.from));
        let entries = if row.quarantined == 1 { "entry" } else { "entries" };
        let aside = row.quarantine.as_deref().map_or_else(|| "TOPIC".into(), argument);
        // Writing to a String cannot fail.
        let _ = writeln!(page, "  route {route}, {topic}: quarantined: {} {entries}", row.quarantined);
        let _ = writeln!(
            page,
            "    -> at {to}: bridge replay --config FILE {} --from {} --quarantine {aside}",
            argument(&route),
            argument(&from)
        );
    }
}

/// What was lost elsewhere: the route goes on, so that it is in nobody's way.
fn noticed(page: &mut String, status: &Status) {
    let rows = || status.routes.iter().filter_map(|row| Some((row, row.noticed.as_ref()?)));
    if rows().next().is_some() {
        page.push_str("\nlost elsewhere since the start, of each topic the last:\n");
    }
    for (row, last) in rows() {
        let (route, topic, code, detail) =
            (plain(&row.route), plain(&row.topic), plain(&last.code), plain(&last.detail));
        let (skipped, forgotten) = (row.source_skipped, row.destination_forgotten);
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "  route {route}, {topic}: source_skipped: {skipped}, destination_forgotten: {forgotten}\n    {code}: {detail}"
        );
        let _ = writeln!(page, "    -> {}", plain(&last.remedy));
    }
}

/// Why clients of forwards were reset, where somebody can do something about it.
fn were_reset(page: &mut String, status: &Status) {
    let with_row = |row| move |remedy| (row, remedy);
    let mut rows =
        status.forwards.iter().flat_map(|row| row.reset_remedies.iter().map(with_row(row))).peekable();
    if rows.peek().is_some() {
        page.push_str("\nconnections of forwards that were reset since the start:\n");
    }
    for (row, (code, remedy)) in rows {
        let (target, code, remedy) = (plain(&row.target), plain(code), plain(remedy));
        // Of one that the other side declares, its target is all that is known here.
        let subject = if row.forward == row.target {
            format!("target {target}")
        } else {
            format!("forward {}, {target}", plain(&row.forward))
        };
        let count = row.reset.get(&code).copied().unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(page, "  {subject}: {code}: {count}");
        let _ = writeln!(page, "    -> {remedy}");
    }
}

fn link_rows(status: &Status) -> Vec<Vec<String>> {
    let mut rows =
        vec![titles(&["LINK", "STATE", "ID", "REMOTE", "LANES", "IN", "OUT", "KEY", "ROOT", "REASON"])];
    for link in &status.links {
        // All that a process of an earlier version tells is what the lanes of now have carried.
        let of_lanes = |of: fn(&LaneStatus) -> u64| link.lanes.iter().map(of).sum::<u64>();
        rows.push(vec![
            plain(&link.peer),
            plain(&link.state),
            optional(link.link.as_deref()),
            optional(link.remote.as_deref()),
            link.lanes.len().to_string(),
            bytes(link.bytes_in.max(of_lanes(|lane| lane.bytes_in))),
            bytes(link.bytes_out.max(of_lanes(|lane| lane.bytes_out))),
            link.edge_key.as_deref().map_or_else(|| optional(None), fingerprint),
            link.hub_root.as_deref().map_or_else(|| optional(None), fingerprint),
            optional(link.reason.as_deref()),
        ]);
    }
    rows
}

/// The beginning of each key's hash: enough to tell two of them apart. A name stays whole.
fn fingerprint(text: &str) -> String {
    let short = |part: &str| {
        let hash = part.strip_prefix("bk1.").and_then(|rest| rest.split('.').nth(1)).unwrap_or(part);
        let is_hash = hash.len() == HASH_TEXT_LEN && hash.is_ascii() && !hash.contains('.');
        plain(if is_hash { &hash[..FINGERPRINT_LEN] } else { part })
    };
    text.split(',').map(short).collect::<Vec<_>>().join(",")
}

fn route_rows(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![titles(&[
        "ROUTE",
        "TOPIC",
        "WAY",
        "END",
        "STATE",
        "ENTRIES",
        "BYTES",
        "CONFIRMED",
        "FLYING",
        "AGAIN",
        "STALLED",
        "PROMISE",
        "REASON",
    ])];
    for row in &status.routes {
        let short = |topic: &str| plain(topic.strip_prefix("persistent://").unwrap_or(topic));
        let topic = match &row.destination {
            Some(destination) => format!("{} as {}", short(&row.topic), short(destination)),
            None => short(&row.topic),
        };
        rows.push(vec![
            plain(&row.route),
            topic,
            plain(&format!("{} > {}", row.from, row.to)),
            match row.end {
                End::Source => "source".into(),
                End::Sink => "sink".into(),
            },
            match row.state {
                State::Waiting => "waiting".into(),
                State::Running => "running".into(),
                State::Stopped => "STOPPED".into(),
            },
            row.entries.to_string(),
            bytes(row.bytes),
            row.confirmed.to_string(),
            row.in_flight.to_string(),
            row.duplicates.to_string(),
            duration(row.stalled_ms / 1000),
            optional(row.promise.as_deref()),
            optional(row.reason.as_deref()),
        ]);
    }
    rows
}

fn forward_rows(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![titles(&[
        "FORWARD", "END", "PEER", "LISTEN", "TARGET", "STATE", "OPEN", "TOTAL", "IN", "OUT", "RESET",
        "REASON",
    ])];
    for row in &status.forwards {
        let reset: Vec<_> =
            row.reset.iter().map(|(code, count)| format!("{}:{count}", plain(code))).collect();
        rows.push(vec![
            plain(&row.forward),
            match row.end {
                forward::status::End::Listen => "listen".into(),
                forward::status::End::Target => "target".into(),
            },
            plain(&row.peer),
            optional(row.listen.as_deref()),
            plain(&row.target),
            plain(&row.state),
            match row.stuck {
                0 => row.open.to_string(),
                stuck => format!("{} ({stuck} stuck)", row.open),
            },
            row.connections.to_string(),
            bytes(row.bytes_in),
            bytes(row.bytes_out),
            if reset.is_empty() { "-".into() } else { reset.join(",") },
            optional(row.reason.as_deref()),
        ]);
    }
    rows
}

/// Writes the rows in columns as wide as their widest cell; numbers stand to the right.
fn section(page: &mut String, rows: &[Vec<String>], numbers: std::ops::RangeInclusive<usize>) {
    let Some(titles) = rows.first() else { return };
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    page.push('\n');
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if numbers.contains(&column) {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        page.push_str(line.trim_end());
        page.push('\n');
    }
}

/// 32 bytes in base64url.
const HASH_TEXT_LEN: usize = 43;
const FINGERPRINT_LEN: usize = 8;
const LINK_NUMBERS: std::ops::RangeInclusive<usize> = 4..=6;
const ROUTE_NUMBERS: std::ops::RangeInclusive<usize> = 5..=10;
const FORWARD_NUMBERS: std::ops::RangeInclusive<usize> = 6..=9;

fn titles(titles: &[&str]) -> Vec<String> {
    titles.iter().map(|title| (*title).to_owned()).collect()
}

fn optional(text: Option<&str>) -> String {
    text.map_or_else(|| "-".into(), plain)
}

fn plain(text: &str) -> String {
    let escaped = |c: char| {
        if c.is_control() { c.escape_debug().collect() } else { String::from(c) }
    };
    text.chars().map(escaped).collect()
}

/// As a shell takes it for one word, and nothing else: names are others' words, and the line is there to be copied.
fn argument(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/');
    let text = plain(text);
    if !text.starts_with('-') && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Binary units: what memory and windows are counted in.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B");
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} m {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} m"),
        (_, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fixture;
    use crate::admin::report::{Obstacle, Progress};
    use crate::relay::status::PartitionStatus;
    use crate::tunnel::status::LinkStatus;

    fn status() -> Status {
        let lane = |index| LaneStatus {
            index,
            kind: "relay".into(),
            lane_id: "0011223344556677".into(),
            transport: "tls".into(),
            bytes_in: 512,
            bytes_out: 12,
        };
        let row = |route: &str, state, reason: Option<&str>| PartitionStatus {
            reason: reason.map(str::to_owned),
            topic: "persistent://public/default/orders-partition-3".into(),
            entries: 1_000_000,
            confirmed: 999_990,
            in_flight: 10,
            stalled_ms: 90_500,
            ..fixture::route(route, state)
        };
        Status {
            version: "0.1.0".into(),
            site: "riskfuel".into(),
            uptime_seconds: 7_384,
            ready: true,
            configuration: Loaded::default(),
            warnings: Vec::new(),
            progress: Progress {
                ok: false,
                reasons: vec![Obstacle {
                    subject: "route results, persistent://a/b/c".into(),
                    reason: "pois\u{1b}[31mon".into(),
                    remedy: Some("look at the entry".into()),
                }],
            },
            links: vec![LinkStatus {
                link: Some("42".into()),
                remote: Some("10.0.0.7:5123".into()),
                edge_key: Some(format!("bk1.bank.{}.9a0b1c2d", "Kq3x-9Zt".repeat(6).split_at(43).0)),
                hub_root: Some(format!("{0},{0}", "b".repeat(43))),
                // More than the lanes that it has now.
                bytes_in: 1 << 20,
                bytes_out: 24,
                lanes: vec![lane(0), lane(1)],
                ..fixture::link("bank", "up")
            }],
            routes: vec![
                row("requests", State::Running, None),
                row("results", State::Stopped, Some("poison")),
            ],
            forwards: Vec::new(),
        }
    }

    #[test]
    fn the_table_is_aligned_and_tells_what_is_in_the_way() {
        let page = render(&status());
        let expected = "\
riskfuel  bridge 0.1.0, up 2 h 3 m, ready, NOT making progress

LINK  STATE  ID  REMOTE         LANES       IN   OUT  KEY       ROOT               REASON
bank  up     42  10.0.0.7:5123      2  1.0 MiB  24 B  Kq3x-9Zt  bbbbbbbb,bbbbbbbb  -

ROUTE     TOPIC                              WAY              END     STATE    ENTRIES    BYTES  CONFIRMED  FLYING  AGAIN   STALLED  PROMISE           REASON
requests  public/default/orders-partition-3  riskfuel > bank  source  running  1000000  1.5 GiB     999990      10      0  1 m 30 s  effectively-once  -
results   public/default/orders-partition-3  riskfuel > bank  source  STOPPED  1000000  1.5 GiB     999990      10      0  1 m 30 s  effectively-once  poison

in the way:
  route results, persistent://a/b/c: pois\\u{1b}[31mon
    -> look at the entry
";
        assert_eq!(page, expected);
        let mut older = status();
        (older.links[0].bytes_in, older.links[0].bytes_out) = (0, 0);
        assert!(render(&older).contains(" 2  1.0 KiB  24 B  "), "it tells only what its lanes carried");
    }

    #[test]
    fn forwards_have_a_table_of_their_own_with_what_was_reset() {
        let mut status = status();
        let board = forward::status::Board::default();
        let key = forward::status::Key {
            forward: "kube-api".into(),
            declared_by: "riskfuel".into(),
            peer: "bank".into(),
            end: forward::status::End::Listen,
        };
        let row = board.row(key, "kube:443", Some("127.0.0.1:6443".into()));
        let _open = row.opened();
        let key = forward::status::Key {
            forward: "nas:22".into(),
            declared_by: "bank".into(),
            peer: "bank".into(),
            end: forward::status::End::Target,
        };
        board.row(key, "nas:22", None);
        status.forwards = board.rows();
        status.forwards[1].reset.insert("target_unreachable".into(), 2);
        status.forwards[1].reset_remedies.insert("target_unreachable".into(), "start the target".into());
        status.forwards[0].reset.insert("rate_limited".into(), 3);
        status.forwards[0].reset.insert("link_lost".into(), 1);
        status.forwards[0].reset_remedies.insert("rate_limited".into(), "raise `rate`".into());
        let told = "\
\nFORWARD   END     PEER  LISTEN          TARGET    STATE     OPEN  TOTAL   IN  OUT  RESET                       REASON
kube-api  listen  bank  127.0.0.1:6443  kube:443  refusing     1      1  0 B  0 B  link_lost:1,rate_limited:3  no_link
nas:22    target  bank  -               nas:22    allowed      0      0  0 B  0 B  target_unreachable:2        -

connections of forwards that were reset since the start:
  forward kube-api, kube:443: rate_limited: 3
    -> raise `rate`
  target nas:22: target_unreachable: 2
    -> start the target

in the way:
";
        let page = render(&status);
        assert!(page.contains(told), "{page}");
        status.routes.clear();
        assert!(!render(&status).contains("ROUTE"), "no routes, no head of them");
    }

    #[test]
    fn what_lies_in_quarantine_is_told_with_the_way_back() {
        let mut status = status();
        status.routes[0].quarantined = 3;
        status.routes[0].quarantine = Some("persistent://a/b/refused".into());
        let told = "\
\nwent to a quarantine since the start, replayed or not (--dry-run lists what is there):
  route requests, persistent://public/default/orders-partition-3: quarantined: 3 entries
    -> at bank: bridge replay --config FILE requests --from riskfuel --quarantine persistent://a/b/refused
";
        let page = render(&status);
        assert!(page.contains(told), "{page}");
    }

    #[test]
    fn what_was_lost_elsewhere_is_told_though_the_route_goes_on() {
        let mut status = status();
        status.routes[0].source_skipped = 12;
        status.routes[0].noticed = Some(crate::relay::status::Noticed {
            code: "source_skipped".into(),
            detail: "12 entries".into(),
            remedy: "raise the TTL".into(),
        });
        let told = "\
\nlost elsewhere since the start, of each topic the last:
  route requests, persistent://public/default/orders-partition-3: source_skipped: 12, destination_forgotten: 0
    source_skipped: 12 entries
    -> raise the TTL
";
        let page = render(&status);
        assert!(page.contains(told), "{page}");
    }

    #[test]
    fn a_name_that_a_shell_would_read_otherwise_is_quoted() {
        for (name, quoted) in
            [("a/b-c:d", "a/b-c:d"), ("a;rm$(b)", "'a;rm$(b)'"), ("it's", "'it'\\''s'"), ("-x", "'-x'")]
        {
            assert_eq!(argument(name), quoted);
        }
    }

    #[test]
    fn amounts_are_told_in_the_unit_that_fits() {
        for (count, told) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 40, "5.0 TiB")] {
            assert_eq!(bytes(count), told);
        }
        for (seconds, told) in
            [(0, "0 s"), (59, "59 s"), (61, "1 m 1 s"), (3600, "1 h 0 m"), (90_000, "1 d 1 h")]
        {
            assert_eq!(duration(seconds), told);
        }
    }
}
