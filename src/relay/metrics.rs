//! The relay's bounds and what is used of them, for Prometheus. The routes' own counters come from the board.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::context::Context;

/// Reads the relay's budgets when asked.
pub struct RelayMetrics {
    context: Arc<Context>,
}

impl RelayMetrics {
    /// Of this relay.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Adds them to what `/metrics` shows.
    pub fn register(self, registry: &mut Registry) {
        registry.register_collector(Box::new(self));
    }
}

impl fmt::Debug for RelayMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayMetrics")
    }
}

impl Collector for RelayMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Context { source_budget, sink_budget, lanes, .. } = &*self.context;
        let rows: [(&str, &str, usize); 6] = [
            ("bridge_source_bytes_max", "Bytes that all sources may hold unread", source_budget.total()),
            ("bridge_source_bytes_granted", "Of these, shared out", source_budget.taken()),
            ("bridge_sink_bytes_max", "Bytes that all sinks may hold unconfirmed", sink_budget.total()),
            ("bridge_sink_bytes_granted", "Of these, shared out", sink_budget.taken()),
            (
                "bridge_window_entries_max",
                "Entries of one partition that may be unconfirmed",
                super::lane::WINDOW_ENTRIES as usize,
            ),
            ("bridge_relay_lanes", "Relay lanes that are up", lanes.count()),
        ];
        for (name, help, value) in rows {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
