//! What peers open: connections to targets here, and their declarations. Each is asked for by name, allowed by this
//! site's own rules, and re-judged when they change.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, watch};

use super::agent::Inner;
use super::declaring;
use super::frames::{DECLARATION, FORWARD, Said, check_open};
use super::links::{Way, is_lost};
use super::reason::Reason;
use super::rules::{ForwardSpec, Rules};
use super::splice::{Cut, Guarded, Role, splice};
use super::status::{End, Key, Verdict};
use crate::policy::Target;
use crate::tunnel::streams::{Inbound, LinkStream, unwanted};

/// One stream of a peer, from its head to its end.
pub async fn serve(inner: Arc<Inner>, way: Way, declares: Arc<Semaphore>, inbound: Inbound) {
    let link = &way.link;
    match inbound.kind {
        FORWARD => reach(&inner, &way, &inbound.head, inbound.stream).await,
        DECLARATION => match declares.try_acquire() {
            Ok(_declares) => declaring::hear(&inner, link, inbound.stream).await,
            // An honest peer has one; a second is reset.
            Err(_) => {
                if let Some(count) = inner.count_strange(&link.peer, Reason::Malformed, 1) {
                    tracing::warn!(peer = %link.peer, count, "a peer declares its forwards twice on one link");
                }
            }
        },
        kind => {
            tracing::debug!(peer = %link.peer, kind, "a stream of an unknown kind");
            unwanted(inbound.stream).await;
        }
    }
}

async fn reach(inner: &Arc<Inner>, way: &Way, head: &[u8], mut stream: LinkStream) {
    let link = &*way.link;
    let id = stream.id();
    let (forward, target) = match check_open(head) {
        Ok(asked) => asked,
        Err(_) => return refuse(&mut stream, Reason::Malformed).await,
    };
    let _uses = link.retiring.user();
    let mut rules = inner.rules.subscribe();
    let Some((row, places)) = inner.admit(&link.peer, &forward, &target) else {
        // No row of its own: what the peer asks for is the peer's word.
        if let Some(count) = inner.count_strange(&link.peer, Reason::TargetNotAllowed, 1) {
            let (reason, remedy) = (Reason::TargetNotAllowed.code(), Reason::TargetNotAllowed.remedy());
            tracing::info!(peer = %link.peer, forward, %target, count, reason, remedy, "connections were refused");
        }
        return refuse(&mut stream, Reason::TargetNotAllowed).await;
    };
    let link_id = format!("{:016x}", link.id);
    let connected = async {
        let place = places.take()?;
        let socket = inner.targets.connect(&target).await?;
        Ok((place, Guarded::new(socket).map_err(|_| Reason::TargetUnreachable)?))
    };
    // A target that is slow to answer may be forbidden meanwhile, and nobody reads what comes for it.
    let flooded = stream.flooded();
    let connected = tokio::select! {
        biased;
        () = until_forbidden(&mut rules, &link.peer, &target) => Err(Reason::NoLongerAllowed),
        () = flooded.cancelled() => Err(Reason::Malformed),
        connected = connected => connected,
    };
    let mut carried = None;
    let refused = match connected {
        Err(reason) => {
            refuse(&mut stream, reason).await;
            Some(reason)
        }
        Ok((place, socket)) => {
            tracing::debug!(forward, peer = %link.peer, link = link_id, stream = id, %target, "connection opened");
            let one = row.opened();
            carried = Some(way.carried.one());
            let ended = tokio::select! {
                biased;
                ended = splice(socket, stream, Role::Target, &row, link) => ended,
                () = until_forbidden(&mut rules, &link.peer, &target) => Err(Cut::Refused(Reason::NoLongerAllowed)),
            };
            drop((one, place));
            match ended {
                Err(Cut::Refused(reason)) => Some(reason),
                Err(Cut::Lane) => Some(Reason::LinkLost),
                Err(Cut::Stream) if is_lost(link).await => {
                    way.carried.count_cut();
                    Some(Reason::LinkLost)
                }
                Ok(()) | Err(Cut::Stream | Cut::Socket) => None,
            }
        }
    };
    tracing::debug!(forward, peer = %link.peer, link = link_id, stream = id, ?refused, "connection ended");
    if let Some(reason) = refused
        && let Some(count) = row.count_reset(reason)
    {
        tracing::info!(
            forward, peer = %link.peer, %target, count, reason = reason.code(), remedy = reason.remedy(),
            "connections were reset"
        );
    }
    if let (Some(_carried), Some(reason)) = (carried, refused) {
        way.count_if_gone(reason).await;
    }
}

/// What the row of a forward that we declared for `forward.from` is found by.
pub fn key_of(forward: &ForwardSpec) -> Key {
    Key {
        forward: forward.name.clone(),
        declared_by: forward.to.clone(),
        peer: forward.from.clone(),
        end: End::Target,
    }
}

/// What the row of a target that a peer reaches by no forward of ours is found by.
pub fn key_of_target(peer: &str, target: &Target) -> Key {
    Key { forward: target.to_string(), declared_by: peer.to_owned(), peer: peer.to_owned(), end: End::Target }
}

/// What a connection to a target is counted by: the forward of this name that we declared for it, or the target itself.
/// The name is the peer's word: it chooses among ours, and makes none.
pub fn key(rules: &Rules, peer: &str, forward: &str, target: &Target) -> Key {
    let mut declared = rules.declared_to(peer);
    let of_name = declared.find(|own| own.name == forward && own.target == *target);
    of_name.map_or_else(|| key_of_target(peer, target), key_of)
}

/// What the rules say of a target's row: it is one of a forward that we declared, or of what policy names.
pub fn verdict(rules: &Rules, row: &Key, target: &Target) -> Verdict {
    if rules.may_reach(&row.peer, target).is_none() {
        return Verdict::Refused;
    }
    let mut declared = rules.declared_to(&row.peer);
    let is_of_policy =
        || key_of_target(&row.peer, target) == *row && rules.by_policy(&row.peer, target).is_some();
    if declared.any(|own| own.target == *target && key_of(own) == *row) || is_of_policy() {
        Verdict::Allowed
    } else {
        Verdict::Renamed
    }
}

async fn until_forbidden(rules: &mut watch::Receiver<Arc<Rules>>, peer: &str, target: &Target) {
    // Its sender lives as long as the agent.
    while rules.changed().await.is_ok() {
        if rules.borrow_and_update().may_reach(peer, target).is_none() {
            return;
        }
    }
    std::future::pending().await
}

async fn refuse(stream: &mut LinkStream, reason: Reason) {
    // Who is gone needs no answer; the rest of the stream goes with it.
    _ = stream.write_all(&Said::Refused(reason).header()).await;
}
