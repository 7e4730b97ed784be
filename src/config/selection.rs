//! `--topics`: the part of a configuration that carries these topics. Pure.

use std::collections::BTreeSet;

use super::{Config, Route};
use crate::pulsar::topic::{TopicError, TopicName};

/// Why the routes cannot be narrowed to these topics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicsError {
    /// Not a topic.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// No route has it.
    #[error("no route carries {topic}; the routes are: {routes}")]
    NoRoute {
        /// The topic asked for.
        topic: TopicName,
        /// Every route with its topics.
        routes: String,
    },
    /// Routes are declared at the other site.
    #[error("this configuration declares no routes: use --topics at the site that declares them")]
    NoRoutes,
}

impl Config {
    /// Keeps only the routes that carry one of these topics, and the routes that answer them.
    pub fn keep_topics(&mut self, topics: &[String]) -> Result<(), TopicsError> {
        if self.routes.is_empty() {
            return Err(TopicsError::NoRoutes);
        }
        let mut kept = BTreeSet::new();
        for text in topics {
            let topic = TopicName::parse(text.trim())?;
            let carriers = self.routes.iter().filter(|route| route.carries(&topic));
            let carriers: Vec<_> = carriers.map(|route| route.name.clone()).collect();
            if carriers.is_empty() {
                let routes = self.routes.iter().map(described).collect::<Vec<_>>().join(", ");
                return Err(TopicsError::NoRoute { topic, routes });
            }
            kept.extend(carriers);
        }
        let kept = |route: &Route| {
            kept.contains(&route.name) || route.answers.as_ref().is_some_and(|answers| kept.contains(answers))
        };
        self.routes.retain(kept);
        Ok(())
    }
}

fn described(route: &Route) -> String {
    let patterns = route.patterns.items().iter().map(|pattern| pattern.text().to_owned());
    let topics: Vec<_> = route.topics.iter().map(TopicName::to_string).chain(patterns).collect();
    format!("{} ({})", route.name, topics.join(", "))
}
