//! What of a peer's declaration happens here: the routes from this site that its policy lets out, and what it does not.
//! Decides, again whenever the rules change; starts nothing.

use super::context::{RouteSpec, Start};
use super::control::{self, Declaration, DeclarationError, RefusedTopic};
use super::reason::Reason;
use super::ruling::Ruling;
use crate::policy::TopicRules;

/// What is made of a declaration.
#[derive(Debug, Default)]
pub(super) struct Believed {
    /// What runs.
    pub(super) routes: Vec<RouteSpec>,
    /// What may not go out.
    pub(super) refusals: Vec<RefusedTopic>,
    /// Names of routes that this site declares itself: its own count.
    pub(super) clashes: Vec<String>,
}

/// Judges what `peer` declares towards `site`.
pub(super) fn believe(
    ruling: &Ruling,
    site: &str,
    peer: &str,
    declaration: Declaration,
) -> Result<Believed, DeclarationError> {
    let policy = ruling.policies.of(peer);
    let earliest = policy.is_some_and(|policy| policy.from_earliest);
    let start = if earliest { Start::Earliest } else { Start::FromGrant };
    let send = policy.map(|policy| policy.send.clone()).unwrap_or_default();
    let mut believed = Believed::default();
    let declared = control::check(declaration, site, peer, start)?;
    for mut route in declared.into_iter().filter(|route| route.from == site) {
        if ruling.declared.iter().any(|own| own.name == route.name && own.from == route.from) {
            believed.clashes.push(route.name);
            continue;
        }
        let refused = |topic: &str| {
            let code = Reason::RefusedByPolicy.code().into();
            RefusedTopic { route: route.name.clone(), topic: topic.to_owned(), code }
        };
        // Another name could be somebody's own subscription, and its messages be acknowledged for good.
        let is_its_own = route.subscription == own_subscription(&route.from, &route.to);
        let send = if is_its_own { send.clone() } else { TopicRules::default() };
        let beyond = route.topics.extract_if(.., |topic| !send.allows(topic));
        believed.refusals.extend(beyond.map(|topic| refused(&topic.to_string())));
        let beyond = route.patterns.remove_beyond(&send);
        believed.refusals.extend(beyond.iter().map(|pattern| refused(pattern.text())));
        route.patterns = route.patterns.within(&send);
        if !route.topics.is_empty() || !route.patterns.is_empty() {
            believed.routes.push(route);
        }
    }
    Ok(believed)
}

/// What a peer may name as the source's cursor: the one that nobody else has.
fn own_subscription(from: &str, to: &str) -> String {
    format!("bridge.{from}.{to}")
}
