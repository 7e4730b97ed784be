//! Rows for this room's tests.

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
        lanes: Vec::new(),
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
