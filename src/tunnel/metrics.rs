//! The tunnel's metrics: every bound of it can be seen from outside. Labels never carry a peer's words.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A code of the catalogue in [`reason`](super::reason).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// The code.
    pub reason: &'static str,
}

/// A kind of lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// `control` or `relay`.
    pub kind: &'static str,
}

/// Which bound made a socket go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BoundLabel {
    /// `sockets`, `address` or `computing`.
    pub bound: &'static str,
}

/// When something expires, Unix seconds; there is no such series where there is no such thing: 0 would be 1970.
#[derive(Clone, Debug, Default)]
pub struct Expires(Gauge);

impl Expires {
    /// It is then; 0: there is no such thing.
    pub fn set(&self, at: i64) {
        self.0.set(at);
    }
}

impl EncodeMetric for Expires {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.0.metric_type()
    }

    fn is_empty(&self) -> bool {
        self.0.get() == 0
    }
}

/// All of them; clones count into the same.
#[derive(Clone, Debug, Default)]
pub struct TunnelMetrics {
    /// Links that are up.
    pub links: Gauge,
    /// Lanes that are up.
    pub lanes: Family<KindLabel, Gauge>,
    /// Sockets that have no Welcome yet; bounded by the configuration.
    pub unauthenticated: Gauge,
    /// TLS handshakes that compute; at most eight for each core.
    pub computing: Gauge,
    /// Sockets given up for newer ones.
    pub displaced: Family<BoundLabel, Counter>,
    /// Connections that ended before or instead of Welcome, and lanes that ended, by reason.
    pub ended: Family<ReasonLabel, Counter>,
    /// Lanes that got their Welcome.
    pub joined: Family<KindLabel, Counter>,
    /// Links that another one replaced without a break.
    pub renewed: Counter,
    /// Errors of accept(2).
    pub accept_errors: Counter,
    /// Control messages waiting for the link, over all links.
    pub control_waiting: Gauge,
    /// Round trip of the last control ping, microseconds.
    pub control_round_trip: Gauge,
    /// Streams of peers that were dropped: there were too many.
    pub streams_dropped: Counter,
    /// When the hub's issuer expires, Unix seconds.
    pub issuer_expires: Expires,
    /// When its root expires, Unix seconds.
    pub root_expires: Expires,
    /// When this side's own certificate expires, where it has one of an own PKI, Unix seconds.
    pub certificate_expires: Expires,
    /// When the first of the revocation lists is to be replaced, Unix seconds.
    pub lists_expire: Expires,
    /// Wall clock of the peer against ours at the last handshake, milliseconds.
    pub clock_skew: Gauge,
}

impl TunnelMetrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("bridge_tunnel");
        r.register("links", "Links that are up", self.links.clone());
        r.register("lanes", "Lanes that are up", self.lanes.clone());
        r.register(
            "unauthenticated_sockets",
            "Sockets without a Welcome yet, bounded by tunnel.limits.handshakes",
            self.unauthenticated.clone(),
        );
        r.register(
            "computing_handshakes",
            "TLS handshakes between ClientHello and Finished, at most 8 for each core",
            self.computing.clone(),
        );
        r.register(
            "displaced_sockets",
            "Unauthenticated sockets given up for newer ones, by the bound that was met",
            self.displaced.clone(),
        );
        r.register("ended", "Connections and lanes that ended, by reason", self.ended.clone());
        r.register("joined", "Lanes that got their Welcome", self.joined.clone());
        r.register("renewed", "Links replaced by another without a break", self.renewed.clone());
        r.register("accept_errors", "Errors of accept", self.accept_errors.clone());
        r.register(
            "control_messages_waiting",
            "Control messages not yet written",
            self.control_waiting.clone(),
        );
        r.register(
            "control_round_trip_microseconds",
            "Round trip of the last control ping",
            self.control_round_trip.clone(),
        );
        r.register(
            "streams_dropped",
            "Streams that a peer opened beyond its bound, or without having agreed on streams",
            self.streams_dropped.clone(),
        );
        r.register(
            "issuer_expires_timestamp_seconds",
            "When the hub's issuer expires",
            self.issuer_expires.clone(),
        );
        r.register(
            "root_expires_timestamp_seconds",
            "When the hub's root expires",
            self.root_expires.clone(),
        );
        r.register(
            "certificate_expires_timestamp_seconds",
            "When this side's own certificate (tunnel.cert_file) expires",
            self.certificate_expires.clone(),
        );
        r.register(
            "revocation_lists_expire_timestamp_seconds",
            "When the first list in tunnel.crl_file is to be replaced",
            self.lists_expire.clone(),
        );
        r.register(
            "peer_clock_skew_milliseconds",
            "Wall clock of the peer minus ours at the last handshake",
            self.clock_skew.clone(),
        );
    }

    /// Counts an end by its reason.
    pub fn count_end(&self, reason: &super::reason::Reason) {
        let label = ReasonLabel { reason: reason.code() };
        self.ended.get_or_create(&label).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_appears_under_its_contract_name() {
        let metrics = TunnelMetrics::default();
        metrics.count_end(&crate::tunnel::reason::Reason::Silence);
        metrics.unauthenticated.set(3);
        metrics.issuer_expires.set(5);
        metrics.lists_expire.set(4);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("bridge_tunnel_unauthenticated_sockets 3"), "{text}");
        assert!(text.contains("bridge_tunnel_issuer_expires_timestamp_seconds 5"), "{text}");
        for what in ["root", "certificate"] {
            assert!(!text.contains(&format!("bridge_tunnel_{what}_expires")), "there is none: {text}");
        }
        assert!(text.contains("bridge_tunnel_revocation_lists_expire_timestamp_seconds 4"), "{text}");
        assert!(text.contains("bridge_tunnel_ended_total{reason=\"silence\"} 1"), "{text}");
    }
}
