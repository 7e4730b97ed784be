//! The relay of a site without a cluster: keeps the links' control messages flowing and refuses every route that a peer
//! declares. Relays nothing.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::control::{self, DeclarationError, RefusedTopic};
use super::reason::Reason;
use crate::tunnel::link::{LinkUp, TunnelEvent};

/// Refuses until it is stopped.
pub async fn run(site: &str, mut events: mpsc::Receiver<TunnelEvent>, stop: CancellationToken) {
    loop {
        // Losing the race loses nothing: `recv` takes nothing before it completes.
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            event = events.recv() => event,
        };
        match event {
            Some(TunnelEvent::LinkUp(up)) => _ = tokio::spawn(refuse(site.to_owned(), up)),
            // None was asked for.
            Some(TunnelEvent::RelayLane(lane)) => drop(lane),
            None => return,
        }
    }
}

async fn refuse(site: String, mut up: LinkUp) {
    while let Some(message) = up.inbound.recv().await {
        let refusals = match refusals(&message, &site) {
            Ok(refusals) => refusals,
            Err(problem) => {
                tracing::warn!(peer = %up.link.peer, %problem, "the peer's declaration ends the link");
                up.link.ended.cancel();
                return;
            }
        };
        if let Some(first) = refusals.first() {
            tracing::warn!(
                peer = %up.link.peer, count = refusals.len(), route = %first.route,
                "the peer declares routes, but this site has no cluster (`pulsar`): they are refused"
            );
        }
        if let Some(answer) = control::encode_refusals(refusals).filter(|answer| !answer.is_empty())
            && up.outbound.send(answer).await.is_err()
        {
            return;
        }
    }
}

/// All that would go out from here.
fn refusals(message: &[u8], site: &str) -> Result<Vec<RefusedTopic>, DeclarationError> {
    let declared = control::decode(message)?.declaration.unwrap_or_default();
    let from_here = declared.routes.into_iter().filter(|route| route.from == site);
    let code = Reason::RefusedByPolicy.code();
    let refused = from_here.flat_map(|route| {
        let name = if control::is_name(&route.name) { route.name } else { String::new() };
        let all = route.topics.into_iter().chain(route.patterns);
        all.map(move |topic| RefusedTopic { route: name.clone(), topic, code: code.into() })
    });
    Ok(refused.collect())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::relay::control::{ControlMessage, Declaration, DeclaredRoute};

    #[test]
    fn what_would_go_out_is_refused_and_nonsense_is_told() {
        let route = |from: &str| DeclaredRoute {
            name: "results".into(),
            from: from.into(),
            to: "riskfuel".into(),
            topics: vec!["persistent://a/b/c".into()],
            patterns: vec!["persistent://a/b/x.*".into()],
            ..DeclaredRoute::default()
        };
        let routes = vec![route("bank"), route("riskfuel")];
        let message = ControlMessage { declaration: Some(Declaration { routes }), refusals: Vec::new() };
        let refused = refusals(&message.encode_to_vec(), "bank").unwrap();
        let told: Vec<_> = refused.iter().map(|refused| refused.topic.as_str()).collect();
        assert_eq!(told, ["persistent://a/b/c", "persistent://a/b/x.*"]);
        assert!(
            refused.iter().all(|refused| refused.route == "results" && refused.code == "refused_by_policy")
        );
        assert!(refusals(b"\xff", "bank").is_err());
    }
}
