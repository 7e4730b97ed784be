//! The edge's side of one handshake: from a URL to a lane that joined, or a reason by name.
//! Always a full handshake, under one absolute time limit.

use std::sync::Arc;

use tokio::time::timeout;

use super::connection::{HANDSHAKE_TIME_MAX, Tls, lane_id, meter_of, now_ms, receive, send};
use super::edge::Edge;
use super::edge_trust::EdgeTrust;
use super::handshake::{self, Agreed, Declined, Lane, judge_answer};
use super::hub_certificates::gauge;
use super::hub_proof::HubProof;
use super::reason::{Reason, Unvouched};
use super::wire::HELLO;
use crate::config::LinkUrl;

/// A lane that got its Welcome.
pub(super) struct Dialled {
    pub(super) tls: Tls,
    pub(super) agreed: Agreed,
    pub(super) lane_id: String,
    /// What it was dialled by.
    pub(super) trust: Arc<EdgeTrust>,
    /// What the hub proved itself by.
    pub(super) proof: HubProof,
}

/// A lane that did not.
pub(super) struct Failed {
    pub(super) declined: Declined,
    /// The connection, when it came to a hub process that does not have the link: it may ask once more.
    pub(super) elsewhere: Option<Box<(Tls, Arc<EdgeTrust>)>>,
}

impl From<Reason> for Failed {
    fn from(reason: Reason) -> Self {
        Self { declined: reason.into(), elsewhere: None }
    }
}

/// An alert about a certificate is about the sender's peer: here about ours.
pub(super) fn of_own_certificate(reason: Reason) -> Reason {
    if reason == Reason::CertificateRefused { Reason::Unvouched(Unvouched::Untrusted) } else { reason }
}

/// Whether it is our key that the hub does not take.
pub(super) fn is_of_key(reason: &Reason) -> bool {
    matches!(reason, Reason::RefusedUnknownKey | Reason::Unvouched(Unvouched::Untrusted))
}

impl Edge {
    /// Dials a URL for a link; where the hub does not know our key yet, by the one that was welcomed before.
    pub(super) async fn dial_for_link(
        &self,
        url: &LinkUrl,
        lane: &Lane,
        trust: &Arc<EdgeTrust>,
    ) -> Result<Dialled, Failed> {
        let failed = match self.dial(url, lane, trust.clone()).await {
            Err(failed) if is_of_key(&failed.declined.reason) => failed,
            dialled => return dialled,
        };
        let Some(before) = self.welcomed_by().and_then(|welcomed| trust.with_key_of(&welcomed)) else {
            return Err(failed);
        };
        self.metrics.count_end(&failed.declined.reason);
        // Why the other one is refused says nothing to whoever has put this one in its place.
        self.dial(url, lane, Arc::new(before)).await.map_err(|_| failed)
    }

    /// Dials a URL for a lane, by this key and trust.
    pub(super) async fn dial(
        &self,
        url: &LinkUrl,
        lane: &Lane,
        trust: Arc<EdgeTrust>,
    ) -> Result<Dialled, Failed> {
        let dialled = timeout(HANDSHAKE_TIME_MAX, async {
            self.metrics.certificate_expires.set(trust.own_expires().map_or(0, gauge));
            let tls = trust.connector.connect(url).await?;
            self.greet(tls, lane, trust).await
        });
        dialled.await.unwrap_or_else(|_| Err(Reason::Timeout.into()))
    }

    /// Says Hello once more on a connection that stands.
    pub(super) async fn greet_in_time(
        &self,
        (tls, trust): (Tls, Arc<EdgeTrust>),
        lane: &Lane,
    ) -> Result<Dialled, Failed> {
        let greeted = timeout(HANDSHAKE_TIME_MAX, self.greet(tls, lane, trust));
        greeted.await.unwrap_or_else(|_| Err(Reason::Timeout.into()))
    }

    async fn greet(&self, mut tls: Tls, lane: &Lane, trust: Arc<EdgeTrust>) -> Result<Dialled, Failed> {
        let proof = HubProof::of(&tls);
        self.believe(&trust, &proof)?;
        let hello = handshake::hello(
            (&self.site, &self.hub),
            self.instance,
            lane,
            self.next_attempt(),
            trust.cfg.budget_mbit_s,
            now_ms(),
        );
        // A hub that refuses the key says so now, perhaps while we still write: its alert is what counts.
        let sent = send(&mut tls, HELLO, &hello).await;
        let answer = receive(&mut tls).await.map_err(of_own_certificate)?;
        let hello = sent?;
        match judge_answer(&answer, &self.hub, lane) {
            Ok(agreed) => {
                self.believe(&trust, &proof)?;
                self.note_clock(&agreed);
                meter_of(&tls).trust();
                let lane_id = lane_id(&tls, &hello, &answer.body)?;
                Ok(Dialled { tls, agreed, lane_id, trust, proof })
            }
            Err(declined) => {
                let elsewhere = (declined.reason == Reason::NoSuchLink).then(|| Box::new((tls, trust)));
                Err(Failed { declined, elsewhere })
            }
        }
    }

    /// Whom a reload stopped believing while a lane was dialled is told nothing more.
    fn believe(&self, dialled_by: &Arc<EdgeTrust>, proof: &HubProof) -> Result<(), Reason> {
        let trust = self.trust.now();
        if Arc::ptr_eq(&trust, dialled_by) { Ok(()) } else { trust.believes(proof) }
    }

    fn note_clock(&self, agreed: &Agreed) {
        let skew_ms = handshake::skew_ms(agreed.time_ms, now_ms());
        self.metrics.clock_skew.set(skew_ms);
        if skew_ms.abs() > handshake::SKEW_WORTH_TELLING_MS {
            tracing::warn!(hub = self.hub, skew_ms, "the hub's clock differs from ours");
        }
    }
}
