//! Which topics a route takes besides those that it names: what matches a pattern and is not excluded. Pure. A
//! pattern stays in one namespace, because brokers list topics by namespace; a broker's own topics never match.

use std::collections::BTreeSet;

use super::topic_rules::{RuleError, TopicRules, is_pattern};
use crate::pulsar::topic::{Namespace, TopicName};

/// A route's patterns. The default takes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    items: Vec<Pattern>,
    exclude: TopicRules,
    /// Where the patterns are another site's word: what may go out.
    within: Option<TopicRules>,
}

/// One anchored pattern, whose tenant and namespace are literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    namespace: Namespace,
    rule: TopicRules,
}

impl Pattern {
    /// Parses `persistent://tenant/namespace/regular expression`.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        // It is shown, and told to the other site.
        if !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(RuleError::Syntax("a character that no topic here has".into()));
        }
        let rooted = text.trim_start_matches('^').strip_prefix("persistent://");
        let rule = TopicRules::parse(&[text.to_owned()]);
        let rule = rule.map_err(|mut bad| bad.swap_remove(0).error)?;
        let mut parts = rooted.ok_or(RuleError::Unrooted)?.splitn(3, '/');
        let (Some(tenant), Some(namespace), Some(local)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(RuleError::NamespaceOpen);
        };
        // `persistent://a/b/*` would be the slash, any number of times.
        if !is_pattern(text) || local.is_empty() || local.starts_with(['*', '+', '?', '{']) {
            return Err(RuleError::NamespaceOpen);
        }
        if has_bare_alternatives(local) {
            return Err(RuleError::Alternatives);
        }
        let namespace =
            Namespace::parse(&format!("{tenant}/{namespace}")).map_err(|_| RuleError::NamespaceOpen)?;
        Ok(Self { namespace, rule })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        self.rule.texts().first().map_or("", String::as_str)
    }

    /// Where its topics lie.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Whether the topic matches; a partition is what its topic is.
    pub fn matches(&self, topic: &TopicName) -> bool {
        !is_of_the_system(topic) && topic.namespace() == self.namespace && self.rule.allows(topic)
    }
}

impl Patterns {
    /// What these match, except what is excluded.
    pub fn new(items: Vec<Pattern>, exclude: TopicRules) -> Self {
        Self { items, exclude, within: None }
    }

    /// The same, as far as these allow it. Of the rules only those count that can allow something in the patterns'
    /// namespaces, so that another rule makes no other patterns.
    pub fn within(self, rules: &TopicRules) -> Self {
        let counts = |rule: &TopicRules| self.items.iter().any(|it| may_allow_in(rule, &it.namespace));
        let within = (!self.items.is_empty()).then(|| rules.of_kind(counts));
        Self { within, ..self }
    }

    /// Takes away the patterns in whose namespaces these can allow nothing: nobody has to list those.
    pub fn remove_beyond(&mut self, rules: &TopicRules) -> Vec<Pattern> {
        let patterns = std::mem::take(&mut self.items);
        let (kept, removed) =
            patterns.into_iter().partition(|pattern| may_allow_in(rules, &pattern.namespace));
        self.items = kept;
        removed
    }

    /// Whether the topic is taken.
    pub fn take(&self, topic: &TopicName) -> bool {
        self.match_all(topic) && self.within.as_ref().is_none_or(|rules| rules.allows(topic))
    }

    /// Whether the topic would be taken, were it allowed.
    pub fn match_all(&self, topic: &TopicName) -> bool {
        self.items.iter().any(|pattern| pattern.matches(topic)) && !self.exclude.allows(topic)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Each.
    pub fn items(&self) -> &[Pattern] {
        &self.items
    }

    /// What they do not take.
    pub fn exclude(&self) -> &TopicRules {
        &self.exclude
    }

    /// Where their topics lie, each namespace once.
    pub fn namespaces(&self) -> BTreeSet<&Namespace> {
        self.items.iter().map(Pattern::namespace).collect()
    }
}

/// Whether a topic of this namespace can be allowed: yes, where a rule does not say in which namespace.
fn may_allow_in(rules: &TopicRules, namespace: &Namespace) -> bool {
    rules.texts().iter().any(|text| match (is_pattern(text), Pattern::parse(text)) {
        (true, Ok(pattern)) => pattern.namespace == *namespace,
        (true, Err(_)) => true,
        (false, _) => TopicName::parse(text).is_ok_and(|topic| topic.namespace() == *namespace),
    })
}

/// Topics that brokers keep for themselves (`SystemTopicNames`).
fn is_of_the_system(topic: &TopicName) -> bool {
    let base = topic.base();
    base.local_name().starts_with("__") || base.local_name().ends_with("__transaction_pending_ack")
}

/// Whether a `|` stands outside of all parentheses and brackets: what is behind it is anchored to no namespace.
fn has_bare_alternatives(regex: &str) -> bool {
    let (mut depth, mut brackets) = (0_usize, 0_usize);
    let mut chars = regex.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '[' => brackets += 1,
            ']' => brackets = brackets.saturating_sub(1),
            '(' if brackets == 0 => depth += 1,
            ')' if brackets == 0 => depth = depth.saturating_sub(1),
            '|' if brackets == 0 && depth == 0 => return true,
            _ => {}
        }
    }
    false
}

/// Patterns and exclusions of all routes that one site declares to another: each is compiled, at a peer's word too.
pub const PATTERNS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(items: &[&str], exclude: &[&str]) -> Patterns {
        let items = items.iter().map(|text| Pattern::parse(text).unwrap()).collect();
        let exclude: Vec<String> = exclude.iter().map(ToString::to_string).collect();
        Patterns::new(items, TopicRules::parse(&exclude).unwrap())
    }

    fn takes(patterns: &Patterns, topic: &str) -> bool {
        patterns.take(&TopicName::parse(topic).unwrap())
    }

    #[test]
    fn a_pattern_takes_what_matches_it_in_its_namespace_and_is_not_excluded() {
        let all = patterns(&["persistent://a/b/.*"], &["persistent://a/b/.*-tmp", "a/b/secret"]);
        for topic in ["a/b/c", "a/b/d-partition-3", "a/b/tmp", "a/b/c-DLQ"] {
            assert!(takes(&all, topic), "{topic}");
        }
        for topic in ["a/b/c-tmp", "a/b/c-tmp-partition-0", "a/b/secret", "a/bb/c", "x/b/c"] {
            assert!(!takes(&all, topic), "{topic}");
        }
        assert!(!takes(&Patterns::default(), "a/b/c"));
        assert_eq!(all.namespaces().into_iter().map(ToString::to_string).collect::<Vec<_>>(), ["a/b"]);
    }

    #[test]
    fn a_dot_in_a_namespace_is_a_dot() {
        let dotted = patterns(&["persistent://a/b.c/.*"], &[]);
        assert!(takes(&dotted, "a/b.c/x") && !takes(&dotted, "a/bxc/x"));
    }

    #[test]
    fn a_brokers_own_topics_never_match() {
        let all = patterns(&["persistent://a/b/.*"], &[]);
        for topic in ["a/b/__change_events", "a/b/__x-partition-0", "a/b/c-sub__transaction_pending_ack"] {
            assert!(!takes(&all, topic), "{topic}");
        }
    }

    #[test]
    fn what_a_site_lets_out_narrows_what_a_pattern_takes() {
        let within = TopicRules::parse(&["a/b/c".into()]).unwrap();
        let narrowed = patterns(&["persistent://a/b/.*"], &[]).within(&within);
        assert!(takes(&narrowed, "a/b/c-partition-1") && !takes(&narrowed, "a/b/d"));
        assert!(narrowed.match_all(&TopicName::parse("a/b/d").unwrap()));
        let more = TopicRules::parse(&["a/b/c".into(), "x/y/z".into()]).unwrap();
        let same = patterns(&["persistent://a/b/.*"], &[]).within(&more);
        assert_eq!(same, narrowed, "a rule elsewhere makes another route");
        assert_eq!(patterns(&[], &[]).within(&more), Patterns::default());
    }

    #[test]
    fn a_namespace_from_which_nothing_may_go_out_is_not_looked_at() {
        let removed = |allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            let mut both = patterns(&["persistent://a/b/.*", "persistent://c/d/.*"], &[]);
            let removed = both.remove_beyond(&TopicRules::parse(&allowed).unwrap());
            assert_eq!(both.items().len() + removed.len(), 2);
            removed.iter().map(|pattern| pattern.text().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(removed(&[]).len(), 2);
        assert_eq!(removed(&["a/b/x"]), ["persistent://c/d/.*"]);
        assert_eq!(removed(&["persistent://c/d/x.*"]), ["persistent://a/b/.*"]);
        assert_eq!(removed(&["persistent://.*/x"]), [""; 0]);
    }

    #[test]
    fn a_pattern_without_a_literal_namespace_is_refused() {
        use RuleError::{Alternatives, NamespaceOpen, Syntax, Unrooted};
        for (text, error) in [
            (".*", Unrooted),
            ("persistent://.*", NamespaceOpen),
            ("persistent://a/.*", NamespaceOpen),
            ("persistent://.*/b/c", NamespaceOpen),
            ("persistent://a/[bc]/d", NamespaceOpen),
            ("persistent://a/b*/.*", NamespaceOpen),
            ("persistent://a/b/*", NamespaceOpen),
            ("persistent://a/b/c", NamespaceOpen),
            ("persistent://a/b/c|persistent://x/y/d", Alternatives),
            ("persistent://a/b/c|.*", Alternatives),
            ("persistent://a/b/ü.*", Syntax("a character that no topic here has".into())),
            ("persistent://a/b/[", Syntax("unclosed character class".into())),
        ] {
            assert_eq!(Pattern::parse(text).unwrap_err(), error, "{text}");
            assert!(!error.remedy().is_empty());
        }
        for text in [
            "persistent://a/b/(c|d)",
            "^persistent://a/b/c[|]d$",
            r"persistent://a/b/c\|d",
            "persistent://a/b/.+",
        ] {
            assert_eq!(Pattern::parse(text).unwrap().text(), text);
        }
    }
}
