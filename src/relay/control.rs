//! What two agents' relays tell each other on the control stream of their link: which routes each declares.
//! Plain strings on the wire, checked before they become routes. Holds no socket.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::context::{RouteSpec, Start};
use crate::policy::{PATTERNS_MAX, Pattern, Patterns, RENAMES_MAX, Renaming, TopicRules};
use crate::pulsar::fields::{Field, Fields, Value};
use crate::pulsar::packing::Compression;
use crate::pulsar::topic::TopicName;
use crate::tunnel::budget::Class;
use crate::tunnel::link::CONTROL_MESSAGE_LEN_MAX;

/// A message on the control stream.
#[derive(Clone, PartialEq, Message)]
pub struct ControlMessage {
    /// Everything that the sender declares towards the receiver. Replaces what it declared before.
    #[prost(message, optional, tag = "1")]
    pub declaration: Option<Declaration>,
    /// What of the receiver's declaration the sender does not let happen.
    #[prost(message, repeated, tag = "2")]
    pub refusals: Vec<RefusedTopic>,
}

/// What one site declares.
#[derive(Clone, PartialEq, Message)]
pub struct Declaration {
    /// The routes.
    #[prost(message, repeated, tag = "1")]
    pub routes: Vec<DeclaredRoute>,
}

/// A topic that does not go out.
#[derive(Clone, PartialEq, Message)]
pub struct RefusedTopic {
    /// The route's name.
    #[prost(string, tag = "1")]
    pub route: String,
    /// The topic, as declared.
    #[prost(string, tag = "2")]
    pub topic: String,
    /// A code of `Reason`.
    #[prost(string, tag = "3")]
    pub code: String,
}

/// One route, as its declarer has it.
#[derive(Clone, PartialEq, Message)]
pub struct DeclaredRoute {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The source site.
    #[prost(string, tag = "2")]
    pub from: String,
    /// The destination site.
    #[prost(string, tag = "3")]
    pub to: String,
    /// Full topic names.
    #[prost(string, repeated, tag = "4")]
    pub topics: Vec<String>,
    /// Generation, from 1.
    #[prost(uint32, tag = "5")]
    pub generation: u32,
    /// The subscription at the source.
    #[prost(string, tag = "6")]
    pub subscription: String,
    /// Joining, where it is wanted.
    #[prost(message, optional, tag = "7")]
    pub joining: Option<DeclaredJoining>,
    /// Patterns of topics; `topics` may then be empty.
    #[prost(string, repeated, tag = "8")]
    pub patterns: Vec<String>,
    /// Topics and patterns that the patterns do not take.
    #[prost(string, repeated, tag = "9")]
    pub exclude: Vec<String>,
    /// Names at the destination.
    #[prost(message, repeated, tag = "10")]
    pub rename: Vec<DeclaredName>,
    /// Passes on what bridges brought.
    #[prost(bool, tag = "11")]
    pub onward: bool,
    /// The destination may have another number of partitions.
    #[prost(bool, tag = "12")]
    pub any_partitions: bool,
    /// The topic at the destination for what its broker refuses, where there is one.
    #[prost(string, optional, tag = "14")]
    pub quarantine: Option<String>,
    /// Its messages answer those of another route.
    #[prost(bool, tag = "15")]
    pub answers: bool,
}

/// A topic or namespace, and what it is called at the destination.
#[derive(Clone, PartialEq, Message)]
pub struct DeclaredName {
    /// At the source.
    #[prost(string, tag = "1")]
    pub from: String,
    /// At the destination.
    #[prost(string, tag = "2")]
    pub to: String,
}

/// How far small entries are joined.
#[derive(Clone, PartialEq, Message)]
pub struct DeclaredJoining {
    /// Messages in a batch.
    #[prost(uint32, tag = "1")]
    pub messages: u32,
    /// Bytes in a batch.
    #[prost(uint32, tag = "2")]
    pub bytes: u32,
    /// Across keys.
    #[prost(bool, tag = "3")]
    pub any_key: bool,
    /// Milliseconds that something may wait for company.
    #[prost(uint32, tag = "4")]
    pub delay_ms: u32,
    /// How a batch is compressed: `CompressionType`, of which this version knows zstd.
    #[prost(int32, tag = "5")]
    pub compression: i32,
}

/// Why a declaration is not believed. Ends the link: an honest peer never sends such.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeclarationError {
    /// Not decodable.
    #[error("the declaration of routes cannot be decoded")]
    Malformed,
    /// More than anybody configures.
    #[error(
        "more than {ROUTES_MAX} routes, {TOPICS_MAX} topics or {PATTERNS_MAX} patterns are declared or refused"
    )]
    TooMany,
    /// A name, topic or number that no configuration would accept.
    #[error("a declared route is not valid: {0}")]
    Route(&'static str),
    /// A route between other sites.
    #[error("a route was declared that is not between the two sites of the link")]
    Foreign,
}

/// Our routes towards `peer`, as a message; `None` if they do not fit into one.
pub fn encode(routes: &[RouteSpec], peer: &str) -> Option<Bytes> {
    let declared =
        routes.iter().filter(|route| route.from == peer || route.to == peer).map(|route| DeclaredRoute {
            name: route.name.clone(),
            from: route.from.clone(),
            to: route.to.clone(),
            topics: route.topics.iter().map(ToString::to_string).collect(),
            generation: route.generation,
            subscription: route.subscription.clone(),
            joining: route.joining.map(|limits| DeclaredJoining {
                messages: limits.messages,
                bytes: u32::try_from(limits.bytes).unwrap_or(u32::MAX),
                any_key: limits.any_key,
                delay_ms: u32::try_from(limits.delay.as_millis()).unwrap_or(u32::MAX),
                compression: limits.compression.codec(),
            }),
            patterns: route.patterns.items().iter().map(|pattern| pattern.text().to_owned()).collect(),
            exclude: route.patterns.exclude().texts().to_vec(),
            rename: route.renaming.rules().map(|(from, to)| DeclaredName { from, to }).collect(),
            onward: route.onward,
            any_partitions: route.any_partitions,
            quarantine: route.quarantine.as_ref().map(ToString::to_string),
            answers: route.class == Class::Results,
        });
    let declaration = Some(Declaration { routes: declared.collect() });
    encode_message(&ControlMessage { declaration, refusals: Vec::new() })
}

/// What we do not let out, as a message; `None` if it does not fit into one.
pub fn encode_refusals(refusals: Vec<RefusedTopic>) -> Option<Bytes> {
    encode_message(&ControlMessage { declaration: None, refusals })
}

fn encode_message(message: &ControlMessage) -> Option<Bytes> {
    (message.encoded_len() <= CONTROL_MESSAGE_LEN_MAX).then(|| message.encode_to_vec().into())
}

/// What came on the control stream.
pub fn decode(message: &[u8]) -> Result<ControlMessage, DeclarationError> {
    count(message)?;
    ControlMessage::decode(message).map_err(|_| DeclarationError::Malformed)
}

/// Counts what is repeated before any of it is decoded: an empty route has two bytes on the wire and some 160 in
/// memory.
fn count(message: &[u8]) -> Result<(), DeclarationError> {
    let (mut routes, mut topics, mut patterns, mut names) = (0, 0, 0, 0);
    // A declaration that stands twice is joined, so both count.
    for declaration in parts(message, DECLARATION) {
        for route in parts(declaration?, ROUTES) {
            routes += 1;
            let route = route?;
            for topic in parts(route, TOPICS) {
                topic?;
                topics += 1;
            }
            patterns += parts(route, PATTERNS).chain(parts(route, EXCLUDE)).count();
            names += parts(route, RENAME).count();
        }
    }
    let refusals = parts(message, REFUSALS).count();
    let too_many = topics > TOPICS_MAX || refusals > TOPICS_MAX || patterns > PATTERNS_MAX;
    if too_many || names > RENAMES_MAX || routes > ROUTES_MAX {
        Err(DeclarationError::TooMany)
    } else {
        Ok(())
    }
}

/// The parts of a message that have this number.
fn parts(message: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], DeclarationError>> {
    Fields::of(message).filter_map(move |field| match field {
        Ok(Field { number: found, value: Value::Bytes(part), .. }) if found == number => Some(Ok(part)),
        Ok(_) => None,
        Err(_) => Some(Err(DeclarationError::Malformed)),
    })
}

/// What `peer` declares towards `site`, as [`decode`] gave it, checked. `start` is where its subscriptions here begin.
pub fn check(
    declaration: Declaration,
    site: &str,
    peer: &str,
    start: Start,
) -> Result<Vec<RouteSpec>, DeclarationError> {
    let mut names = BTreeSet::new();
    if !declaration.routes.iter().all(|route| names.insert(&route.name)) {
        return Err(DeclarationError::Route("its name, which another has"));
    }
    declaration.routes.into_iter().map(|route| check_route(route, site, peer, start)).collect()
}

fn check_route(
    route: DeclaredRoute,
    site: &str,
    peer: &str,
    start: Start,
) -> Result<RouteSpec, DeclarationError> {
    if (route.from != site || route.to != peer) && (route.from != peer || route.to != site) {
        return Err(DeclarationError::Foreign);
    }
    if !is_name(&route.name) || !is_name(&route.subscription) {
        return Err(DeclarationError::Route("its name or its subscription"));
    }
    // Reserved by the broker (`PersistentTopic.checkSubscriptionTypesEnable…`), or another's cursor.
    if route.subscription.starts_with("pulsar.") {
        return Err(DeclarationError::Route("its subscription is reserved"));
    }
    let topics = route.topics.iter().map(|topic| TopicName::parse(topic));
    let topics = topics.collect::<Result<Vec<_>, _>>().map_err(|_| DeclarationError::Route("a topic"))?;
    let mut seen = BTreeSet::new();
    let is_plain = |topic: &TopicName| topic.partition_index().is_none() && topic.to_string().is_ascii();
    if !topics.iter().all(|topic| is_plain(topic) && seen.insert(topic)) {
        return Err(DeclarationError::Route("a topic that is a partition, repeated, or not ASCII"));
    }
    let patterns = check_patterns(&route.patterns, &route.exclude)?;
    let mut renaming = Renaming::default();
    for name in &route.rename {
        renaming
            .add(&name.from, &name.to)
            .map_err(|_| DeclarationError::Route("a name at the destination"))?;
    }
    let quarantine = route.quarantine.as_deref().map(TopicName::parse).transpose();
    let quarantine = quarantine.map_err(|_| DeclarationError::Route("its quarantine"))?;
    let own = |topic: &TopicName| Some(renaming.destination(topic)) == quarantine;
    if quarantine.as_ref().is_some_and(|topic| !is_plain(topic) || topics.iter().any(own)) {
        return Err(DeclarationError::Route("its quarantine"));
    }
    if route.generation == 0 {
        return Err(DeclarationError::Route("its generation"));
    }
    let joining = route.joining.map(|joining| super::batching::Limits {
        messages: joining.messages.clamp(2, JOINED_MESSAGES_MAX),
        bytes: joining.bytes.clamp(1024, JOINED_BYTES_MAX) as usize,
        any_key: joining.any_key,
        delay: Duration::from_millis(joining.delay_ms.min(JOINED_DELAY_MS_MAX).into()),
        compression: Compression::of_codec(joining.compression),
    });
    Ok(RouteSpec {
        name: route.name,
        from: route.from,
        to: route.to,
        topics,
        patterns,
        renaming,
        onward: route.onward,
        any_partitions: route.any_partitions,
        generation: route.generation,
        subscription: route.subscription,
        start,
        joining,
        class: if route.answers { Class::Results } else { Class::Requests },
        quarantine,
    })
}

fn check_patterns(patterns: &[String], exclude: &[String]) -> Result<Patterns, DeclarationError> {
    let items = patterns.iter().map(|text| Pattern::parse(text)).collect::<Result<_, _>>();
    let items = items.map_err(|_| DeclarationError::Route("a pattern"))?;
    let exclude = TopicRules::parse(exclude).map_err(|_| DeclarationError::Route("an exclusion"))?;
    Ok(Patterns::new(items, exclude))
}

/// A name that may be logged and shown: short, printable, one word.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_LEN_MAX && text.chars().all(|c| c.is_ascii_graphic())
}

/// Numbers of the messages above.
const DECLARATION: u32 = 1;
const REFUSALS: u32 = 2;
const ROUTES: u32 = 1;
const TOPICS: u32 = 4;
const PATTERNS: u32 = 8;
const EXCLUDE: u32 = 9;
const RENAME: u32 = 10;
/// Routes of one declaration.
pub const ROUTES_MAX: usize = 1000;
/// Messages and bytes of a joined batch, as a configuration may have them.
const JOINED_MESSAGES_MAX: u32 = 10_000;
const JOINED_BYTES_MAX: u32 = 4 << 20;
const JOINED_DELAY_MS_MAX: u32 = 1000;
/// Topics of one declaration, and of the refusals that answer it.
pub const TOPICS_MAX: usize = 10_000;
const NAME_LEN_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulsar::fields;

    fn spec() -> RouteSpec {
        let mut renaming = Renaming::default();
        renaming.add("persistent://a/b", "persistent://c/d").unwrap();
        RouteSpec {
            renaming,
            onward: true,
            any_partitions: true,
            name: "results".into(),
            from: "bank".into(),
            to: "riskfuel".into(),
            topics: vec![TopicName::parse("a/b/c").unwrap()],
            patterns: check_patterns(&["persistent://a/b/x.*".into()], &["a/b/xx".into()]).unwrap(),
            generation: 2,
            subscription: "bridge.bank.riskfuel".into(),
            start: Start::Latest,
            joining: Some(super::super::batching::Limits {
                messages: 10,
                bytes: 2000,
                any_key: true,
                delay: Duration::from_millis(3),
                compression: Compression::Zstd,
            }),
            class: Class::Results,
            quarantine: Some(TopicName::parse("a/b/refused").unwrap()),
        }
    }

    fn received(message: &[u8], site: &str, start: Start) -> Result<Vec<RouteSpec>, DeclarationError> {
        check(decode(message)?.declaration.unwrap(), site, "riskfuel", start)
    }

    #[test]
    fn a_declaration_arrives_as_it_was_sent_with_the_receivers_start() {
        let message = encode(&[spec()], "bank").unwrap();
        let routes = received(&message, "bank", Start::FromGrant).unwrap();
        assert_eq!(routes, [RouteSpec { start: Start::FromGrant, ..spec() }]);
        let others = encode(&[spec()], "elsewhere").unwrap();
        assert_eq!(received(&others, "elsewhere", Start::Latest), Ok(Vec::new()));
    }

    #[test]
    fn what_is_repeated_is_counted_before_it_is_decoded() {
        let route = |topics: usize| DeclaredRoute { topics: vec![String::new(); topics], ..<_>::default() };
        let declared = |routes: usize, topics: usize| {
            let mut routes = vec![route(0); routes];
            routes[0] = route(topics / 2);
            routes[1] = route(topics - topics / 2);
            ControlMessage { declaration: Some(Declaration { routes }), refusals: Vec::new() }
        };
        let refused = |count: usize| {
            let refusals = vec![RefusedTopic::default(); count];
            ControlMessage { declaration: None, refusals }
        };
        for message in [declared(ROUTES_MAX, TOPICS_MAX), refused(TOPICS_MAX)] {
            assert_eq!(decode(&message.encode_to_vec()), Ok(message));
        }
        let matching = |patterns: usize| {
            let exclude = vec!["a".to_owned(); patterns / 2];
            let patterns = vec!["a".to_owned(); patterns - patterns / 2];
            let routes = vec![DeclaredRoute { patterns, exclude, ..<_>::default() }];
            ControlMessage { declaration: Some(Declaration { routes }), refusals: Vec::new() }.encode_to_vec()
        };
        assert!(decode(&matching(PATTERNS_MAX)).is_ok());
        assert_eq!(decode(&matching(PATTERNS_MAX + 1)), Err(DeclarationError::TooMany));
        let half = declared(ROUTES_MAX, 0).encode_to_vec();
        let twice = [half.clone(), half].concat();
        let full = declared(CONTROL_MESSAGE_LEN_MAX / 2 - 4, 0).encode_to_vec();
        assert!(full.len() <= CONTROL_MESSAGE_LEN_MAX, "{}", full.len());
        for message in [
            full,
            twice,
            declared(ROUTES_MAX + 1, 0).encode_to_vec(),
            declared(2, TOPICS_MAX + 1).encode_to_vec(),
            refused(TOPICS_MAX + 1).encode_to_vec(),
        ] {
            assert_eq!(decode(&message), Err(DeclarationError::TooMany));
        }
        // A group, which prost skips, hides nothing behind it.
        let mut hiding = vec![0xa3, 0x06, 0xa4, 0x06];
        hiding.extend(route(TOPICS_MAX + 1).encode_to_vec());
        let mut message = Vec::new();
        for number in [ROUTES, DECLARATION] {
            message.clear();
            fields::put_bytes(&mut message, number, &hiding);
            hiding.clone_from(&message);
        }
        assert!(ControlMessage::decode(&message[..]).is_ok());
        assert_eq!(decode(&message), Err(DeclarationError::Malformed));
    }

    #[test]
    fn what_no_configuration_would_accept_is_refused() {
        let cases = [
            RouteSpec { name: "with\nnewline".into(), ..spec() },
            RouteSpec { name: "x".repeat(300), ..spec() },
            RouteSpec { subscription: "pulsar.dedup".into(), ..spec() },
            RouteSpec { generation: 0, ..spec() },
            RouteSpec {
                quarantine: Some(TopicName::parse("a/b/c").unwrap()),
                renaming: Renaming::default(),
                ..spec()
            },
            RouteSpec { quarantine: Some(TopicName::parse("a/b/x-partition-1").unwrap()), ..spec() },
        ];
        for case in cases {
            let message = encode(&[case], "bank").unwrap();
            assert!(matches!(received(&message, "bank", Start::Latest), Err(DeclarationError::Route(_))));
        }
        let declared = |patterns: &str, exclude: &str| DeclaredRoute {
            name: "results".into(),
            from: "bank".into(),
            to: "riskfuel".into(),
            generation: 1,
            subscription: "bridge.bank.riskfuel".into(),
            patterns: vec![patterns.into()],
            exclude: vec![exclude.into()],
            ..DeclaredRoute::default()
        };
        let huge = r"persistent://a/b/(\w{200}){200}";
        for (pattern, exclude, fits) in [
            ("persistent://a/b/.*", "a/b/c", true),
            (".*", "a/b/c", false),
            ("persistent://a/.*", "a/b/c", false),
            (huge, "a/b/c", false),
            ("persistent://a/b/.*", huge, false),
            ("persistent://a/b/x\ny.*", "a/b/c", false),
            ("persistent://a/b/.*", "non-persistent://a/b/c", false),
        ] {
            let declaration = Declaration { routes: vec![declared(pattern, exclude)] };
            let checked = check(declaration, "bank", "riskfuel", Start::Latest);
            assert_eq!(checked.is_ok(), fits, "{pattern} {exclude}");
        }
        let foreign = encode(&[RouteSpec { to: "third".into(), ..spec() }], "bank").unwrap();
        assert_eq!(received(&foreign, "bank", Start::Latest), Err(DeclarationError::Foreign));
        assert_eq!(decode(b"\xff"), Err(DeclarationError::Malformed));
    }
}
