//! The boards as metrics: what a row tells is counted once, by whoever writes the row.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::relay::status::{End, PartitionStatus, State};
use crate::tunnel::status::LinkStatus;
use crate::{relay, tunnel};

/// Makes the boards' rows visible. Their number is bounded as the boards are.
pub(super) fn register(
    registry: &mut Registry,
    links: &tunnel::status::Board,
    routes: &relay::status::Board,
) {
    registry.register_collector(Box::new(Boards { links: links.clone(), routes: routes.clone() }));
}

struct Boards {
    links: tunnel::status::Board,
    routes: relay::status::Board,
}

impl fmt::Debug for Boards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Boards")
    }
}

impl Collector for Boards {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let routes = self.routes.rows();
        for (name, help, value) in COUNTERS {
            family(&mut encoder, name, help, &routes, |row| ConstCounter::new(value(row)))?;
        }
        for (name, help, value) in GAUGES {
            family(&mut encoder, name, help, &routes, |row| ConstGauge::new(value(row)))?;
        }
        link_lanes(&mut encoder, &self.links.rows())
    }
}

type Value<N> = fn(&PartitionStatus) -> N;

const COUNTERS: &[(&str, &str, Value<u64>)] = &[
    ("bridge_route_entries", "Entries sent (source) or published (sink), repeats included", |row| {
        row.entries
    }),
    ("bridge_route_messages", "Messages in those entries, as their metadata claims", |row| row.messages),
    ("bridge_route_bytes", "Bytes of those entries as stored", |row| row.bytes),
    ("bridge_route_confirmed", "Entries confirmed by the destination", |row| row.confirmed),
    ("bridge_route_duplicates", "Receipts that said duplicate", |row| row.duplicates),
    ("bridge_route_skipped", "Entries skipped because a bridge wrote them", |row| row.skipped),
    ("bridge_route_quarantined", "Refused entries that went to the quarantine topic instead", |row| {
        row.quarantined
    }),
    (
        "bridge_route_source_skipped",
        "Entries that left the source's backlog before a bridge was handed them",
        |row| row.source_skipped,
    ),
    (
        "bridge_route_destination_forgotten",
        "Times the destination did not know what it had confirmed",
        |row| row.destination_forgotten,
    ),
];

const GAUGES: &[(&str, &str, Value<i64>)] = &[
    (
        "bridge_route_in_flight",
        "Entries sent and not yet confirmed, also those of a session that was cut off",
        |row| signed(row.in_flight),
    ),
    (
        "bridge_route_stalled_milliseconds",
        "How long what was read waits for its confirmation, or the route for something unhealthy; 0 while idle, advancing \
         or in a healthy wait",
        |row| signed(row.stalled_ms),
    ),
    (
        "bridge_route_running",
        "1 while entries may flow; 0 also in healthy waits, such as for a source topic",
        |row| i64::from(row.state == State::Running),
    ),
    ("bridge_route_stopped", "1 when it will not go on by itself", |row| {
        i64::from(row.state == State::Stopped)
    }),
];

fn family<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: &[PartitionStatus],
    metric: impl Fn(&PartitionStatus) -> M,
) -> Result<(), fmt::Error> {
    let Some(first) = rows.first() else { return Ok(()) };
    let mut family = encoder.encode_descriptor(name, help, None, metric(first).metric_type())?;
    for row in rows {
        let end = match row.end {
            End::Source => "source",
            End::Sink => "sink",
        };
        let labels = [("route", row.route.as_str()), ("topic", row.topic.as_str()), ("end", end)];
        metric(row).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn link_lanes(encoder: &mut DescriptorEncoder<'_>, links: &[LinkStatus]) -> Result<(), fmt::Error> {
    let up = |peer: &str| links.iter().filter(|link| link.peer == peer && link.state == "up").count();
    let mut peers: Vec<&str> = links.iter().map(|link| link.peer.as_str()).collect();
    peers.sort_unstable();
    peers.dedup();
    let Some(first) = peers.first() else { return Ok(()) };
    let gauge = |peer: &str| ConstGauge::new(signed(up(peer) as u64));
    let mut family = encoder.encode_descriptor(
        "bridge_links_up",
        "Links that are up",
        None,
        gauge(first).metric_type(),
    )?;
    for peer in peers {
        gauge(peer).encode(family.encode_family(&[("peer", peer)])?)?;
    }
    Ok(())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_metrics_with_their_labels_escaped() {
        let (links, routes) = (tunnel::status::Board::default(), relay::status::Board::default());
        let mut registry = Registry::default();
        register(&mut registry, &links, &routes);
        let page = |registry: &Registry| {
            let mut page = String::new();
            prometheus_client::encoding::text::encode(&mut page, registry).unwrap();
            page
        };
        assert_eq!(page(&registry), "# EOF\n");
        routes.put(crate::admin::fixture::route("requests", State::Running));
        links.put("a", crate::admin::fixture::link("bank\"", "up"));
        links.put("b", crate::admin::fixture::link("mint", "dialling"));
        let page = page(&registry);
        for line in [
            r#"bridge_route_entries_total{route="requests",topic="persistent://a/b/c",end="source"} 7"#,
            r#"bridge_route_running{route="requests",topic="persistent://a/b/c",end="source"} 1"#,
            r#"bridge_route_stopped{route="requests",topic="persistent://a/b/c",end="source"} 0"#,
            r#"bridge_links_up{peer="bank\""} 1"#,
            r#"bridge_links_up{peer="mint"} 0"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line} not in\n{page}");
        }
    }
}
