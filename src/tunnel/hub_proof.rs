//! What a hub proved itself by when a lane was dialled, and the lane's end once a reload believes it no longer. Dates are
//! those of the handshake: what expires later ends nothing here.

use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use tokio_util::sync::CancellationToken;

use super::connection::{Tls, reason_of_tls};
use super::edge_trust::EdgeTrust;
use super::hub_trust::Presented;
use super::lane;
use super::meter::Meter;
use super::reason::Reason;
use super::shown::{RestsOn, ShownLink};
use super::standing::Standing;
use super::trust::hub_dns_name;
use super::wire::Kind;

/// The chain that a hub presented, and when.
pub(super) struct HubProof {
    chain: Presented,
    at: UnixTime,
}

impl HubProof {
    /// Of a handshake that was done a moment ago.
    pub(super) fn of(tls: &Tls) -> Self {
        let (_, session) = tls.get_ref();
        let chain = session.peer_certificates().unwrap_or_default();
        Self { chain: chain.iter().map(|it| it.clone().into_owned()).collect(), at: UnixTime::now() }
    }
}

impl EdgeTrust {
    /// Whether it would have let an edge in with a hub of this proof.
    pub(super) fn believes(&self, proof: &HubProof) -> Result<(), Reason> {
        let (leaf, others) = proof.chain.split_first().ok_or(Reason::NotABridge)?;
        let name = ServerName::try_from(hub_dns_name(&self.hub)).map_err(|_| Reason::NotABridge)?;
        let verifier = &self.connector.tls.verifier;
        let judged = verifier.verify_server_cert(leaf, others, &name, &[], proof.at);
        judged.map(|_| ()).map_err(|error| reason_of_tls(&error))
    }
}

impl EdgeTrust {
    /// What a link rests on whose hub proved itself by this.
    pub(super) fn rests_on(&self, proof: &HubProof) -> RestsOn {
        let known_by = |(leaf, others)| self.connector.tls.verifier.known_by(leaf, others, proof.at);
        RestsOn {
            edge_key: Some(self.listed_as.clone()),
            hub_root: proof.chain.split_first().and_then(known_by),
        }
    }
}

/// Looks at an edge's lane until it ends, as [`lane::watch`] does, or its hub is believed no longer.
pub(super) async fn watch(
    kind: Kind,
    meter: &Meter,
    shown: &ShownLink,
    ended: &CancellationToken,
    (trust, proof): (&Standing<EdgeTrust>, &HubProof),
) -> Reason {
    tokio::select! {
        biased;
        reason = lane::watch(kind, meter, shown, ended) => reason,
        reason = distrusted(trust, |trust| trust.believes(proof)) => {
            ended.cancel();
            reason
        }
    }
}

/// Waits until what holds says no, and still does after a moment for another link to take the place.
async fn distrusted<T>(trust: &Standing<T>, believes: impl Fn(&T) -> Result<(), Reason>) -> Reason {
    let mut replaced = trust.watch();
    loop {
        let now = replaced.borrow_and_update().clone();
        if believes(&now).is_err() {
            tokio::time::sleep(GOES_ON).await;
            if let Err(reason) = believes(&trust.now()) {
                return reason;
            }
        }
        if replaced.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Within two seconds of a reload such a lane is gone.
const GOES_ON: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hub_that_is_believed_no_longer_has_less_than_two_seconds() {
        let trust = Standing::new(true);
        let believes = |believed: &bool| if *believed { Ok(()) } else { Err(Reason::IssuerDistrusted) };
        let watched = trust.clone();
        let ended = tokio::spawn(async move { distrusted(&watched, believes).await });
        tokio::time::sleep(Duration::from_secs(60)).await;
        // Taken back in time.
        trust.replace(false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        trust.replace(true);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!ended.is_finished());
        let since = Instant::now();
        trust.replace(false);
        let reason = timeout(Duration::from_secs(2), ended).await.unwrap().unwrap();
        assert_eq!((reason, since.elapsed()), (Reason::IssuerDistrusted, GOES_ON));
    }
}
