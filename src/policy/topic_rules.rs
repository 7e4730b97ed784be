//! Which topics a rule allows: exact names and anchored patterns. Pure; refuses patterns that could cost
//! more than a few kilobytes, because a peer's declarations are matched against them.

use std::collections::BTreeSet;

use regex::{Regex, RegexBuilder};

use crate::pulsar::topic::{TopicError, TopicName};

/// A list of topics: exact ones and anchored patterns. The empty list allows nothing.
#[derive(Clone, Debug, Default)]
pub struct TopicRules {
    exact: BTreeSet<TopicName>,
    patterns: Vec<Regex>,
    texts: Vec<String>,
}

/// The texts say everything: they are canonical, and in their order.
impl PartialEq for TopicRules {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Eq for TopicRules {}

/// An item of the list that is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRule {
    /// Its place in the list.
    pub item: usize,
    /// What is wrong with it.
    pub error: RuleError,
}

/// Why an item is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Neither a topic nor a pattern.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// A rule for one partition would make holes in a topic.
    #[error("names one partition")]
    Partition(TopicName),
    /// A pattern that says nothing of tenant and namespace.
    #[error("a pattern that does not begin with persistent://")]
    Unrooted,
    /// A pattern of a route that would have to be looked for in several namespaces.
    #[error("a pattern whose tenant and namespace are not spelled out")]
    NamespaceOpen,
    /// A pattern of a route with alternatives that are not in parentheses.
    #[error("a pattern with alternatives that may lie in several namespaces")]
    Alternatives,
    /// Not a regular expression.
    #[error("not a regular expression: {0}")]
    Syntax(String),
    /// A pattern that is too long or would compile to too much.
    #[error("the pattern is too large")]
    TooLarge,
    /// A list that is too long; the item is the first one too many.
    #[error("more than {ITEMS_MAX} items")]
    TooMany,
}

impl RuleError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Topic(_) => "name a topic such as persistent://public/default/orders".into(),
            Self::Partition(base) => format!("write {base}, which means all of them"),
            Self::Unrooted => "spell out tenant and namespace: persistent://tenant/namespace/.*".into(),
            Self::NamespaceOpen => {
                "brokers list topics by namespace: write persistent://tenant/namespace/.*, one item for each"
                    .into()
            }
            Self::Alternatives => {
                "put them in parentheses behind the namespace, or write one item for each".into()
            }
            Self::Syntax(_) => "write a regular expression that stands for whole topic names".into(),
            Self::TooLarge => format!("keep to {PATTERN_LEN_MAX} characters and small repetitions"),
            Self::TooMany => "write a pattern instead".into(),
        }
    }
}

impl TopicRules {
    /// Parses a list; all bad items are reported, each with its place.
    pub fn parse(items: &[String]) -> Result<Self, Vec<BadRule>> {
        let mut rules = Self::default();
        let mut bad = Vec::new();
        for (item, text) in items.iter().enumerate() {
            if item == ITEMS_MAX {
                bad.push(BadRule { item, error: RuleError::TooMany });
                break;
            }
            if let Err(error) = rules.add(text) {
                bad.push(BadRule { item, error });
            }
        }
        if !bad.is_empty() {
            return Err(bad);
        }
        Ok(rules)
    }

    /// Whether the topic is allowed; a partition is what its topic is.
    pub fn allows(&self, topic: &TopicName) -> bool {
        let base = topic.base();
        if self.exact.contains(&base) {
            return true;
        }
        let text = base.to_string();
        self.patterns.iter().any(|pattern| pattern.is_match(&text))
    }

    /// Whether nothing at all is allowed.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Only those items that are of this kind.
    pub(super) fn of_kind(&self, kind: impl Fn(&Self) -> bool) -> Self {
        let mut rules = Self::default();
        for text in &self.texts {
            let mut one = Self::default();
            // It was an item of the list already.
            if one.add(text).is_ok() && kind(&one) {
                rules.exact.append(&mut one.exact);
                rules.patterns.append(&mut one.patterns);
                rules.texts.append(&mut one.texts);
            }
        }
        rules
    }

    /// The items in canonical form, in their order.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    fn add(&mut self, text: &str) -> Result<(), RuleError> {
        if is_pattern(text) {
            self.patterns.push(anchored(text)?);
            self.texts.push(text.to_owned());
            return Ok(());
        }
        let topic = TopicName::parse(text)?;
        if topic.partition_index().is_some() {
            return Err(RuleError::Partition(topic.base()));
        }
        self.texts.push(topic.to_string());
        self.exact.insert(topic);
        Ok(())
    }
}

/// Whether a text is meant as a pattern: none of these characters is sensible in a topic's name.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '+', '?', '[', '(', '|', '\\', '^', '$'])
}

fn anchored(text: &str) -> Result<Regex, RuleError> {
    if text.len() > PATTERN_LEN_MAX {
        return Err(RuleError::TooLarge);
    }
    if text.starts_with("non-persistent:") {
        return Err(TopicError::NonPersistent.into());
    }
    if !text.trim_start_matches('^').starts_with("persistent://") {
        return Err(RuleError::Unrooted);
    }
    // By itself first: `a)|(?:.*` would climb out of the group that anchors it.
    compile(text)?;
    compile(&format!(r"\A(?:{text})\z"))
}

fn compile(pattern: &str) -> Result<Regex, RuleError> {
    let regex =
        RegexBuilder::new(pattern).size_limit(COMPILED_LEN_MAX).dfa_size_limit(COMPILED_LEN_MAX).build()?;
    Ok(regex)
}

impl From<regex::Error> for RuleError {
    fn from(error: regex::Error) -> Self {
        if matches!(error, regex::Error::CompiledTooBig(_)) {
            return Self::TooLarge;
        }
        Self::Syntax(last_line(&error.to_string()))
    }
}

/// The crate draws a picture of several lines; its last one says what is wrong.
fn last_line(text: &str) -> String {
    let line = text.lines().next_back().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

const ITEMS_MAX: usize = 1000;
const PATTERN_LEN_MAX: usize = 256;
const COMPILED_LEN_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(items: &[&str]) -> Result<TopicRules, Vec<BadRule>> {
        TopicRules::parse(&items.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn allows(rules: &TopicRules, topic: &str) -> bool {
        rules.allows(&TopicName::parse(topic).unwrap())
    }

    #[test]
    fn the_empty_list_allows_nothing() {
        assert!(!allows(&TopicRules::default(), "orders"));
        assert!(!allows(&rules(&[]).unwrap(), "persistent://a/b/c"));
        assert!(rules(&[]).unwrap().is_empty());
    }

    #[test]
    fn an_exact_topic_allows_itself_and_its_partitions_only() {
        let rules = rules(&["persistent://a/b/c", "orders"]).unwrap();
        for topic in ["persistent://a/b/c", "a/b/c-partition-0", "a/b/c-partition-12", "orders"] {
            assert!(allows(&rules, topic), "{topic}");
        }
        for topic in ["a/b/cd", "a/b/", "a/x/c", "x/b/c", "a/b/c-partition-x", "a/b/xc", "a/b/orders"] {
            let Ok(topic) = TopicName::parse(topic) else {
                continue;
            };
            assert!(!rules.allows(&topic), "{topic}");
        }
        assert_eq!(rules.texts(), ["persistent://a/b/c", "persistent://public/default/orders"]);
    }

    #[test]
    fn a_dot_in_an_exact_topic_is_a_dot() {
        let rules = rules(&["persistent://a/b/c.d"]).unwrap();
        assert!(allows(&rules, "a/b/c.d"));
        assert!(!allows(&rules, "a/b/cxd"));
    }

    #[test]
    fn a_pattern_is_anchored_at_both_ends() {
        let rules = rules(&["persistent://a/b/c[0-9]+|persistent://a/b/d"]).unwrap();
        for topic in ["a/b/c1", "a/b/c42-partition-3", "a/b/d"] {
            assert!(allows(&rules, topic), "{topic}");
        }
        for topic in ["a/b/c", "a/b/c1x", "a/b/dd", "a/b/d-partition-1x", "x/a/c1"] {
            assert!(!allows(&rules, topic), "{topic}");
        }
    }

    #[test]
    fn a_namespace_pattern_stays_in_its_namespace() {
        let rules = rules(&["^persistent://public/datagen/.*$"]).unwrap();
        assert!(allows(&rules, "public/datagen/anything"));
        assert!(!allows(&rules, "public/datagen2/anything"));
        assert!(!allows(&rules, "xpublic/datagen/anything"));
    }

    #[test]
    fn a_pattern_cannot_climb_out_of_its_anchors() {
        for text in ["persistent://a/b/c)|(?:.*", "persistent://a/b/(", "persistent://a/b/(?x)c #"] {
            assert!(
                matches!(rules(&[text]).unwrap_err()[..], [BadRule { item: 0, error: RuleError::Syntax(_) }]),
                "{text}"
            );
        }
        let multi_line = rules(&["(?m)persistent://a/b/c$"]).unwrap_err();
        assert_eq!(multi_line[0].error, RuleError::Unrooted);
    }

    #[test]
    fn all_bad_items_are_reported_with_their_places() {
        let long = format!("persistent://a/b/.*{}", "x".repeat(PATTERN_LEN_MAX));
        let bad = rules(&[
            "persistent://a/b/c",
            "a/b",
            "non-persistent://a/b/c",
            "persistent://a/b/c-partition-3",
            ".*",
            "persistent://a/b/[",
            &long,
            r"persistent://a/b/(\w{200}){200}",
            "non-persistent://a/b/.*",
        ])
        .unwrap_err();
        let told: Vec<_> = bad.iter().map(|bad| (bad.item, bad.error.to_string())).collect();
        let expected = [
            (1, "`a/b` is not a topic: write persistent://tenant/namespace/topic"),
            (2, "non-persistent topics have no positions and cannot be relayed (non_persistent)"),
            (3, "names one partition"),
            (4, "a pattern that does not begin with persistent://"),
            (5, "not a regular expression: unclosed character class"),
            (6, "the pattern is too large"),
            (7, "the pattern is too large"),
            (8, "non-persistent topics have no positions and cannot be relayed (non_persistent)"),
        ];
        assert_eq!(told, expected.map(|(item, text)| (item, text.to_owned())));
    }

    #[test]
    fn a_list_has_an_end() {
        let items: Vec<String> = (0..=ITEMS_MAX).map(|n| format!("topic-{n}")).collect();
        assert_eq!(
            TopicRules::parse(&items).unwrap_err(),
            [BadRule { item: ITEMS_MAX, error: RuleError::TooMany }]
        );
        assert!(TopicRules::parse(&items[1..]).is_ok());
    }
}
