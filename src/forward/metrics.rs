//! The forwards' board for Prometheus. Labels are names of our own configuration, or of a policy of ours; never a peer's
//! free words.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::status::{Board, End, ForwardStatus};

/// Makes a board's rows visible.
pub fn register(registry: &mut Registry, board: &Board) {
    registry.register_collector(Box::new(Forwards(board.clone())));
}

struct Forwards(Board);

impl fmt::Debug for Forwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forwards")
    }
}

impl Collector for Forwards {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let rows = self.0.rows();
        let counter = |of: fn(&ForwardStatus) -> u64| move |row: &ForwardStatus| ConstCounter::new(of(row));
        let connections = counter(|row| row.connections);
        family(&mut encoder, "bridge_forward_connections", "Connections carried", &rows, connections)?;
        let out = counter(|row| row.bytes_out);
        family(&mut encoder, "bridge_forward_bytes_out", "Bytes sent to the other site", &rows, out)?;
        let back = counter(|row| row.bytes_in);
        family(&mut encoder, "bridge_forward_bytes_in", "Bytes from the other site", &rows, back)?;
        family(&mut encoder, "bridge_forward_open", "Connections that are open", &rows, |row| {
            ConstGauge::new(i64::try_from(row.open).unwrap_or(i64::MAX))
        })?;
        family(
            &mut encoder,
            "bridge_forward_stuck",
            "Open ones whose peer here lets bytes wait",
            &rows,
            |row| ConstGauge::new(i64::try_from(row.stuck).unwrap_or(i64::MAX)),
        )?;
        family(
            &mut encoder,
            "bridge_forward_refusing",
            "1 while its address refuses connections",
            &rows,
            |row| ConstGauge::new(i64::from(row.reason.is_some())),
        )?;
        resets(&mut encoder, &rows)
    }
}

fn family<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: &[ForwardStatus],
    metric: impl Fn(&ForwardStatus) -> M,
) -> Result<(), fmt::Error> {
    let Some(first) = rows.first() else { return Ok(()) };
    let mut family = encoder.encode_descriptor(name, help, None, metric(first).metric_type())?;
    for row in rows {
        metric(row).encode(family.encode_family(&labels(row))?)?;
    }
    Ok(())
}

fn resets(encoder: &mut DescriptorEncoder<'_>, rows: &[ForwardStatus]) -> Result<(), fmt::Error> {
    let mut rows = rows.iter().filter(|row| !row.reset.is_empty()).peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    let kind = ConstCounter::new(0_u64).metric_type();
    let help = "Connections that were reset, by reason";
    let mut family = encoder.encode_descriptor("bridge_forward_resets", help, None, kind)?;
    for row in rows {
        for (reason, count) in &row.reset {
            let [forward, declared_by, peer, end] = labels(row);
            let labels = [forward, declared_by, peer, end, ("reason", reason.as_str())];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn labels(row: &ForwardStatus) -> [(&'static str, &str); 4] {
    let end = match row.end {
        End::Listen => "listen",
        End::Target => "target",
    };
    // A peer may choose another name every time; the address is one that our policy has.
    let chosen_by_peer = row.end == End::Listen && row.declared_by == row.peer;
    let forward = row.listen.as_deref().filter(|_| chosen_by_peer).unwrap_or(&row.forward);
    [("forward", forward), ("declared_by", &row.declared_by), ("peer", &row.peer), ("end", end)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::reason::Reason;
    use crate::forward::status::Key;

    #[test]
    fn a_name_that_the_peer_chose_is_no_label() {
        let board = Board::default();
        let mut registry = Registry::default();
        register(&mut registry, &board);
        let key = Key {
            forward: "anything".into(),
            declared_by: "bank".into(),
            peer: "bank".into(),
            end: End::Listen,
        };
        board.row(key, "kube:443", Some("127.0.0.1:6443".into()));
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        assert!(page.contains(r#"forward="127.0.0.1:6443",declared_by="bank""#), "{page}");
        assert!(!page.contains("anything"), "{page}");
    }

    #[test]
    fn rows_become_metrics() {
        let board = Board::default();
        let mut registry = Registry::default();
        register(&mut registry, &board);
        let page = |registry: &Registry| {
            let mut page = String::new();
            prometheus_client::encoding::text::encode(&mut page, registry).unwrap();
            page
        };
        assert_eq!(page(&registry), "# EOF\n");
        let key = Key {
            forward: "kube".into(),
            declared_by: "riskfuel".into(),
            peer: "bank".into(),
            end: End::Listen,
        };
        let row = board.row(key, "kube:443", None);
        let _open = row.opened();
        row.count_reset(Reason::RateLimited);
        let page = page(&registry);
        for line in [
            r#"bridge_forward_connections_total{forward="kube",declared_by="riskfuel",peer="bank",end="listen"} 1"#,
            r#"bridge_forward_open{forward="kube",declared_by="riskfuel",peer="bank",end="listen"} 1"#,
            r#"bridge_forward_refusing{forward="kube",declared_by="riskfuel",peer="bank",end="listen"} 1"#,
            r#"bridge_forward_resets_total{forward="kube",declared_by="riskfuel",peer="bank",end="listen",reason="rate_limited"} 1"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line} not in\n{page}");
        }
    }
}
