//! What two sides say on a forward's stream, and on the one by which forwards are declared. Holds no socket; a length is
//! checked before memory is reserved.
//!
//! ```text
//! [ kind u8 | value u24 | body … ]
//!   DATA    value = length of the body, 1 to 64 KiB
//!   END     this direction ended as TCP ends: the other one goes on. Without it an end is a reset
//!   ANSWER  value = 0: the target took the connection; else why not
//!   WORDS   value = length of a declaration or of its answer
//!   MOVED   on the stream: what else this direction says comes on the stream's own lane
//!   ALIVE   on a lane: this side is there and has nothing to say
//! ```

use prost::Message;

use super::reason::Reason;
use super::rules::ForwardSpec;
use crate::policy::{CONNECTIONS_MAX, FORWARDS_MAX, ForwardLimits, Target};

/// The head of a forward's stream.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Open {
    /// The forward's name at its listener, for the log.
    #[prost(string, tag = "1")]
    pub forward: String,
    /// What is to be reached, canonical.
    #[prost(string, tag = "2")]
    pub target: String,
}

/// Everything that the sender wants opened at the receiver. Replaces what it wanted before.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Declaration {
    /// The forwards.
    #[prost(message, repeated, tag = "1")]
    pub forwards: Vec<DeclaredForward>,
    /// Its number on its stream, from 1. Earlier versions have none: 0.
    #[prost(uint32, tag = "2")]
    pub number: u32,
}

/// A declaration that was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// The forwards.
    pub forwards: Vec<ForwardSpec>,
    /// Its number.
    pub number: u32,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeclaredForward {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where to listen, `address:port`.
    #[prost(string, tag = "2")]
    pub listen: String,
    /// Its target at the sender.
    #[prost(string, tag = "3")]
    pub target: String,
    /// Connections at once.
    #[prost(uint32, tag = "4")]
    pub connections: u32,
    /// New connections a second; 0 for any number.
    #[prost(uint32, tag = "5")]
    pub rate: u32,
}

/// How the declared ones are, in their order: 0 for one that listens, else a reason's number.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct States {
    /// The states.
    #[prost(uint32, repeated, tag = "1")]
    pub states: Vec<u32>,
    /// Of which declaration.
    #[prost(uint32, tag = "2")]
    pub number: u32,
}

impl States {
    /// Whether they are of the latest declaration, with this number and so many forwards, or may be: an earlier
    /// version does not say.
    pub fn are_of(&self, number: u32, forwards: usize) -> bool {
        self.number == number || (self.number == 0 && self.states.len() == forwards)
    }

    /// What they are for so many forwards; one of which nothing is said listens.
    pub fn reasons(&self, forwards: usize) -> Vec<Option<Reason>> {
        let said = self
            .states
            .iter()
            .map(|number| Some(*number).filter(|number| *number > 0).map(Reason::from_wire));
        said.chain(std::iter::repeat(None)).take(forwards).collect()
    }
}

/// The first four bytes of whatever is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// So many bytes follow.
    Data(usize),
    /// This direction ended.
    End,
    /// The target took the connection.
    Opened,
    /// Why not.
    Refused(Reason),
    /// So many bytes of a message follow.
    Words(usize),
    /// This direction goes on over a lane of its own.
    Moved,
    /// The lane is not dead.
    Alive,
}

/// What is none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("none of the protocol's words")]
pub struct Nonsense;

impl Said {
    /// Reads a header: the peer's word, checked.
    pub fn parse(header: [u8; HEADER_LEN]) -> Result<Self, Nonsense> {
        let [kind, value @ ..] = header;
        let [high, middle, low] = value.map(usize::from);
        let value = high << 16 | middle << 8 | low;
        match (kind, value) {
            (DATA, 1..=CHUNK_LEN_MAX) => Ok(Self::Data(value)),
            (END, 0) => Ok(Self::End),
            (ANSWER, 0) => Ok(Self::Opened),
            (ANSWER, _) => Ok(Self::Refused(Reason::from_wire(u32::try_from(value).unwrap_or_default()))),
            (WORDS, 0..=WORDS_LEN_MAX) => Ok(Self::Words(value)),
            (MOVED, 0) => Ok(Self::Moved),
            (ALIVE, 0) => Ok(Self::Alive),
            // What the tunnel answers for a kind of stream that it does not know.
            (0, _) => Ok(Self::Refused(Reason::PeerTooOld)),
            (_, _) => Err(Nonsense),
        }
    }

    /// The header.
    pub fn header(self) -> [u8; HEADER_LEN] {
        let (kind, value) = match self {
            Self::Data(len) => (DATA, len),
            Self::End => (END, 0),
            Self::Opened => (ANSWER, 0),
            Self::Refused(reason) => (ANSWER, reason.wire() as usize),
            Self::Words(len) => (WORDS, len),
            Self::Moved => (MOVED, 0),
            Self::Alive => (ALIVE, 0),
        };
        let [.., high, middle, low] = (value as u32).to_be_bytes();
        [kind, high, middle, low]
    }
}

/// A message with its header; `None` when it is too long.
pub fn words(message: &impl Message) -> Option<Vec<u8>> {
    let body = message.encode_to_vec();
    if body.len() > WORDS_LEN_MAX {
        return None;
    }
    let mut words = Said::Words(body.len()).header().to_vec();
    words.extend(body);
    Some(words)
}

/// Our forwards that `peer` is to open, as a message.
pub fn declaration<'a>(forwards: impl Iterator<Item = &'a ForwardSpec>, number: u32) -> Declaration {
    let declared = |forward: &ForwardSpec| DeclaredForward {
        name: forward.name.clone(),
        listen: forward.listen.to_string(),
        target: forward.target.to_string(),
        connections: forward.limits.connections,
        rate: forward.limits.rate.unwrap_or(0),
    };
    Declaration { forwards: forwards.map(declared).collect(), number }
}

/// What `peer` wants opened at `site`, checked; an honest peer never sends anything else.
pub fn check(words: &[u8], site: &str, peer: &str) -> Result<Declared, Nonsense> {
    // An empty forward has two bytes on the wire and a hundred in memory: the length bounds that.
    let declaration = Declaration::decode(words).map_err(|_| Nonsense)?;
    if declaration.forwards.len() > FORWARDS_MAX {
        return Err(Nonsense);
    }
    let mut specs: Vec<ForwardSpec> = Vec::with_capacity(declaration.forwards.len());
    for declared in declaration.forwards {
        let is_new = specs.iter().all(|spec| spec.name != declared.name);
        if !is_new || !is_name(&declared.name) || declared.connections == 0 {
            return Err(Nonsense);
        }
        specs.push(ForwardSpec {
            name: declared.name,
            from: site.to_owned(),
            listen: declared.listen.parse().map_err(|_| Nonsense)?,
            to: peer.to_owned(),
            target: Target::parse(&declared.target).map_err(|_| Nonsense)?,
            limits: ForwardLimits {
                connections: declared.connections.min(CONNECTIONS_MAX),
                rate: Some(declared.rate).filter(|rate| *rate > 0),
            },
        });
    }
    Ok(Declared { forwards: specs, number: declaration.number })
}

/// What a stream's head asks for.
pub fn check_open(head: &[u8]) -> Result<(String, Target), Nonsense> {
    let open = Open::decode(head).map_err(|_| Nonsense)?;
    let target = Target::parse(&open.target).map_err(|_| Nonsense)?;
    // One form only: what the peer checked is what we check.
    if target.to_string() != open.target || !is_name(&open.forward) {
        return Err(Nonsense);
    }
    Ok((open.forward, target))
}

/// A name that may be logged and shown.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=NAME_LEN_MAX).contains(&text.len()) && text.chars().all(plain)
}

/// Kinds of streams.
pub const FORWARD: u32 = 1;
/// The one by which forwards are declared.
pub const DECLARATION: u32 = 2;

/// Length of a header.
pub const HEADER_LEN: usize = 4;
/// What is read from a socket or a stream at once: of each direction of each connection that stands still, one such
/// piece waits. A TLS record holds no more.
pub const PIECE_LEN_MAX: usize = 16 << 10;
/// The same on a lane that the connection has for itself: with its header four records of TLS.
pub const LANE_PIECE_LEN_MAX: usize = CHUNK_LEN_MAX - HEADER_LEN;
/// Longest piece of data that is taken from the other side.
pub const CHUNK_LEN_MAX: usize = 64 << 10;
/// Longest message: [`FORWARDS_MAX`] forwards with the longest names.
pub const WORDS_LEN_MAX: usize = 32 << 10;
const NAME_LEN_MAX: usize = 64;
// Above the first byte of the tunnel's own frames, which is 0.
const DATA: u8 = 0x10;
const END: u8 = 0x11;
const ANSWER: u8 = 0x12;
const WORDS: u8 = 0x13;
const MOVED: u8 = 0x14;
const ALIVE: u8 = 0x15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_arrives_as_it_was_said() {
        for said in [
            Said::Data(1),
            Said::Data(0x1234),
            Said::Data(CHUNK_LEN_MAX),
            Said::End,
            Said::Opened,
            Said::Refused(Reason::TargetNotAllowed),
            Said::Words(0),
            Said::Words(WORDS_LEN_MAX),
            Said::Moved,
            Said::Alive,
        ] {
            assert_eq!(Said::parse(said.header()), Ok(said));
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_anything_is_reserved() {
        for header in [
            [DATA, 1, 0, 1],
            [DATA, 0, 0, 0],
            [WORDS, 0, 0x80, 1],
            [END, 0, 0, 1],
            [MOVED, 0, 0, 1],
            [0x20, 0, 0, 0],
        ] {
            assert_eq!(Said::parse(header), Err(Nonsense), "{header:?}");
        }
        assert_eq!(Said::parse([ANSWER, 9, 9, 9]), Ok(Said::Refused(Reason::Unknown)));
        assert_eq!(Said::parse([0, 0, 0, 5]), Ok(Said::Refused(Reason::PeerTooOld)));
    }

    fn spec() -> ForwardSpec {
        ForwardSpec {
            name: "kube-api".into(),
            from: "bank".into(),
            listen: "127.0.0.1:6443".parse().unwrap(),
            to: "riskfuel".into(),
            target: Target::parse("kube.svc:443").unwrap(),
            limits: ForwardLimits { connections: 7, rate: Some(3) },
        }
    }

    #[test]
    fn a_declaration_arrives_as_it_was_sent() {
        let sent = declaration([&spec()].into_iter(), 7);
        let declared = Declared { forwards: vec![spec()], number: 7 };
        assert_eq!(check(&sent.encode_to_vec(), "bank", "riskfuel"), Ok(declared));
    }

    #[test]
    fn states_are_of_the_declaration_that_they_name_and_an_earlier_version_names_none() {
        let of = |number| States { states: vec![0, 6], number };
        assert!(of(3).are_of(3, 2) && !of(2).are_of(3, 2));
        assert!(of(0).are_of(3, 2) && !of(0).are_of(3, 1));
    }

    #[test]
    fn as_many_forwards_as_may_be_fit_into_one_message_with_the_longest_names() {
        let longest = |n: usize| ForwardSpec {
            name: format!("{n:x<64}"),
            listen: "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap(),
            target: Target::parse(&format!("{}:65535", "x".repeat(63) + &".y".repeat(95))).unwrap(),
            limits: ForwardLimits { connections: u32::MAX, rate: Some(u32::MAX) },
            ..spec()
        };
        let all: Vec<_> = (0..FORWARDS_MAX).map(longest).collect();
        let words = words(&declaration(all.iter(), u32::MAX)).unwrap();
        assert_eq!(check(&words[HEADER_LEN..], "bank", "riskfuel").unwrap().forwards.len(), FORWARDS_MAX);
    }

    #[test]
    fn what_no_configuration_would_accept_ends_it() {
        let good = || declaration([&spec()].into_iter(), 1).forwards.remove(0);
        let cases = [
            vec![DeclaredForward { name: "with\nnewline".into(), ..good() }],
            vec![DeclaredForward { name: String::new(), ..good() }],
            vec![DeclaredForward { name: "x".repeat(65), ..good() }],
            vec![DeclaredForward { listen: "localhost:1".into(), ..good() }],
            vec![DeclaredForward { target: "udp://a:1".into(), ..good() }],
            vec![DeclaredForward { connections: 0, ..good() }],
            vec![good(), good()],
            (0..=FORWARDS_MAX).map(|n| DeclaredForward { name: n.to_string(), ..good() }).collect(),
        ];
        for forwards in cases {
            let words = Declaration { forwards, number: 1 }.encode_to_vec();
            assert_eq!(check(&words, "bank", "riskfuel"), Err(Nonsense));
        }
        assert_eq!(check(b"\xff", "bank", "riskfuel"), Err(Nonsense));
    }

    #[test]
    fn a_head_names_its_target_in_the_one_form_or_not_at_all() {
        let head = |forward: &str, target: &str| {
            check_open(&Open { forward: forward.into(), target: target.into() }.encode_to_vec())
        };
        assert_eq!(head("a", "kube:443"), Ok(("a".into(), Target::parse("kube:443").unwrap())));
        for (forward, target) in
            [("a", "KUBE:443"), ("a", "10.0.0.7.:443"), ("", "kube:443"), ("a", "127.1:1")]
        {
            assert_eq!(head(forward, target), Err(Nonsense), "{forward} {target}");
        }
        assert_eq!(check_open(b"\xff"), Err(Nonsense));
    }
}
