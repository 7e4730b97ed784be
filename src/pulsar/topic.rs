//! Topic names: one canonical form, parsed once. Refuses what a broker would refuse.

use std::fmt;

/// Why a text is no topic of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Non-persistent topics have no positions, so nothing can be promised about them.
    #[error("non-persistent topics have no positions and cannot be relayed (non_persistent)")]
    NonPersistent,
    /// Not of the form `persistent://tenant/namespace/topic`.
    #[error("`{0}` is not a topic: write persistent://tenant/namespace/topic")]
    Malformed(String),
}

/// A persistent topic: `persistent://tenant/namespace/name`, perhaps one partition of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName {
    tenant: String,
    namespace: String,
    name: String,
}

impl TopicName {
    /// Parses a full name, `tenant/namespace/topic`, or a short name (in `public/default`).
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let malformed = || TopicError::Malformed(text.chars().take(NAME_LEN_MAX).collect());
        let rest = match text.split_once("://") {
            Some(("persistent", rest)) => rest,
            Some(("non-persistent", _)) => return Err(TopicError::NonPersistent),
            Some(_) => return Err(malformed()),
            None => text,
        };
        // A scheme that was mistyped: taken for a tenant, its topic would be waited for, for ever.
        let is_mistyped = rest.starts_with("persistent:") || rest.starts_with("non-persistent:");
        let is_odd = |c: char| c.is_control() || c.is_whitespace();
        if text.len() > NAME_LEN_MAX + SUFFIX_LEN_MAX || is_mistyped || rest.chars().any(is_odd) {
            return Err(malformed());
        }
        let parts: Vec<&str> = rest.split('/').collect();
        let (tenant, namespace, name) = match parts[..] {
            [name] if !text.contains("://") => ("public", "default", name),
            [tenant, namespace, name] => (tenant, namespace, name),
            _ => return Err(malformed()),
        };
        if tenant.is_empty() || namespace.is_empty() || name.is_empty() {
            return Err(malformed());
        }
        let topic = Self { tenant: tenant.into(), namespace: namespace.into(), name: name.into() };
        // As it is written for others: what one side takes, the other takes too, and with it every partition.
        if topic.base().to_string().len() > NAME_LEN_MAX {
            return Err(malformed());
        }
        Ok(topic)
    }

    /// This partition of it.
    pub fn partition(&self, index: u32) -> Self {
        let name = format!("{}{PARTITION_MARK}{index}", self.name);
        Self { name, ..self.clone() }
    }

    /// Its partition index, when the name carries one: as the broker writes it, without leading zeros or a sign
    /// (`TopicName.getPartitionIndex`).
    pub fn partition_index(&self) -> Option<u32> {
        let (_, text) = self.name.rsplit_once(PARTITION_MARK)?;
        let index: u32 = text.parse().ok()?;
        (index.to_string() == text).then_some(index)
    }

    /// The topic without a partition suffix.
    pub fn base(&self) -> Self {
        match (self.partition_index(), self.name.rsplit_once(PARTITION_MARK)) {
            (Some(_), Some((base, _))) => Self { name: base.into(), ..self.clone() },
            _ => self.clone(),
        }
    }

    /// Where it lies.
    pub fn namespace(&self) -> Namespace {
        Namespace { tenant: self.tenant.clone(), name: self.namespace.clone() }
    }

    /// Its name within its namespace, with its partition suffix.
    pub fn local_name(&self) -> &str {
        &self.name
    }

    /// The topic of the same name in another namespace.
    pub fn moved_to(&self, namespace: &Namespace) -> Self {
        let (tenant, name) = (namespace.tenant.clone(), self.name.clone());
        Self { tenant, namespace: namespace.name.clone(), name }
    }

    /// `tenant/namespace/name`, as the admin API's paths want it (not yet percent-encoded).
    pub fn rest_parts(&self) -> [&str; 3] {
        [&self.tenant, &self.namespace, &self.name]
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "persistent://{}/{}/{}", self.tenant, self.namespace, self.name)
    }
}

/// A namespace: where topics lie, and by which brokers list them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace {
    tenant: String,
    name: String,
}

impl Namespace {
    /// Parses `persistent://tenant/namespace` or `tenant/namespace`.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        let malformed = || TopicError::Malformed(text.chars().take(NAME_LEN_MAX).collect());
        let rest = text.strip_prefix("persistent://").unwrap_or(text);
        let (tenant, name) = rest.split_once('/').ok_or_else(malformed)?;
        let is_plain = |part: &str| !part.is_empty() && part.chars().all(is_plain_char);
        if text.len() > NAME_LEN_MAX || !is_plain(tenant) || !is_plain(name) {
            return Err(malformed());
        }
        Ok(Self { tenant: tenant.into(), name: name.into() })
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.name)
    }
}

/// What brokers allow in names of tenants and namespaces (`NamedEntity.NAMED_ENTITY_PATTERN`).
fn is_plain_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '=' | ':' | '.' | '_')
}

const PARTITION_MARK: &str = "-partition-";
/// Brokers keep names in metadata paths; anything longer is an accident or an attack.
const NAME_LEN_MAX: usize = 1024;
/// Of `-partition-4294967295`.
const SUFFIX_LEN_MAX: usize = PARTITION_MARK.len() + 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_names_meet_in_one_form() {
        for text in ["orders", "public/default/orders", "persistent://public/default/orders"] {
            assert_eq!(TopicName::parse(text).unwrap().to_string(), "persistent://public/default/orders");
        }
        let with_colon = TopicName::parse("a/b/urn:c").unwrap();
        assert_eq!(with_colon.to_string(), "persistent://a/b/urn:c");
    }

    #[test]
    fn a_partition_knows_its_base_and_index() {
        let topic = TopicName::parse("a/b/c").unwrap();
        let third = topic.partition(3);
        assert_eq!(third.to_string(), "persistent://a/b/c-partition-3");
        assert_eq!((third.partition_index(), third.base()), (Some(3), topic.clone()));
        assert_eq!((topic.partition_index(), topic.base()), (None, topic));
    }

    #[test]
    fn the_longest_topic_reads_back_as_it_is_written_and_so_do_its_partitions() {
        let prefix_len = "persistent://public/default/".len();
        let longest = TopicName::parse(&"t".repeat(NAME_LEN_MAX - prefix_len)).unwrap();
        for topic in [longest.partition(u32::MAX), longest] {
            assert_eq!(TopicName::parse(&topic.to_string()).unwrap(), topic);
        }
        for text in ["t".repeat(NAME_LEN_MAX - prefix_len + 1), "t".repeat(NAME_LEN_MAX)] {
            assert!(TopicName::parse(&text).is_err());
        }
    }

    #[test]
    fn a_number_that_a_broker_would_not_write_is_no_partition() {
        for text in ["a/b/c-partition-00", "a/b/c-partition-+1", "a/b/c-partition-"] {
            let topic = TopicName::parse(text).unwrap();
            assert_eq!((topic.partition_index(), topic.base()), (None, topic), "{text}");
        }
    }

    #[test]
    fn a_topic_moves_to_another_namespace_with_its_name_and_partition() {
        let topic = TopicName::parse("a/b/c-partition-3").unwrap();
        let moved = topic.moved_to(&Namespace::parse("persistent://x/y").unwrap());
        assert_eq!(moved.to_string(), "persistent://x/y/c-partition-3");
        assert_eq!((moved.namespace().to_string().as_str(), moved.local_name()), ("x/y", "c-partition-3"));
        for bad in ["", "a", "a/", "/b", "a/b/c", "persistent://a", "non-persistent://a/b", "a/b*", "a/b "] {
            assert!(matches!(Namespace::parse(bad), Err(TopicError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn what_is_no_topic_is_refused() {
        assert_eq!(TopicName::parse("non-persistent://a/b/c"), Err(TopicError::NonPersistent));
        let bad = [
            "",
            "a/b",
            "a//c",
            "persistent://a/b",
            "http://a/b/c",
            "a/b/c/d",
            "a/b/c d",
            "persistent://x",
            "persistent:/public/x",
            "persistent:a",
        ];
        for text in bad {
            assert!(matches!(TopicName::parse(text), Err(TopicError::Malformed(_))), "{text}");
        }
    }
}
