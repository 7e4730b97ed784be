//! Rows for this room's tests.

use crate::forward::status::{End as ForwardEnd, ForwardStatus};
use crate::relay::status::{End, PartitionStatus, State};
use crate::tunnel::status::LinkStatus;

pub(super) fn link(peer: &str, state: &str) -> LinkStatus {
    LinkStatus {
        peer: peer.into(),
        link: None,
        state: state.into(),
        reason: (state != "up").then(|| "intercepted".into()),
        remedy: None,
        remote: None,
        budget_mbit_s: 0,
        edge_key: None,
        hub_root: None,
        bytes_in: 0,
        bytes_out: 0,
        lanes: Vec::new(),
    }
}

pub(super) fn forward(declared_by: &str, reason: Option<&str>) -> ForwardStatus {
    ForwardStatus {
        forward: "kube".into(),
        declared_by: declared_by.into(),
        end: ForwardEnd::Listen,
        peer: "bank".into(),
        listen: Some("127.0.0.1:6443".into()),
        target: "kube:443".into(),
        state: if reason.is_some() { "refusing" } else { "listening" }.into(),
        reason: reason.map(str::to_owned),
        remedy: reason.map(|_| "do this".into()),
        open: 0,
        stuck: 0,
        connections: 0,
        reset: Default::default(),
        reset_remedies: Default::default(),
        bytes_out: 0,
        bytes_in: 0,
    }
}

pub(super) fn route(name: &str, state: State) -> PartitionStatus {
    PartitionStatus {
        route: name.into(),
        topic: "persistent://a/b/c".into(),
        destination: None,
        from: "riskfuel".into(),
        to: "bank".into(),
        end: End::Source,
        state,
        reason: None,
        remedy: None,
        promise: Some("effectively-once".into()),
        session: 1,
        link: None,
        lane: None,
        entries: 7,
        messages: 70,
        bytes: 3 << 29,
        confirmed: 5,
        duplicates: 0,
        skipped: 0,
        quarantined: 0,
        quarantine: None,
        source_skipped: 0,
        destination_forgotten: 0,
        noticed: None,
        in_flight: 2,
        acknowledged: Some("7:8".into()),
        stalled_ms: 0,
    }
}
