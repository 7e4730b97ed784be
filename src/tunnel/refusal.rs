//! The hub's ways to say no: what crosses the link is a code, the words are each side's own.

use super::handshake::Instance;
use super::reason::Reason;
use super::wire::Refused;

/// Why the hub says no. Only the code crosses the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not decodable, or fields missing.
    Malformed,
    /// No version in common.
    Version,
    /// `site` is not the authenticated name.
    SiteMismatch,
    /// Too many processes with this key.
    TooManyInstances,
    /// The link does not live here.
    NoSuchLink,
    /// A newer socket of this process is here.
    Superseded,
    /// No such lane.
    LaneRefused,
    /// The key was taken away during the handshake.
    UnknownKey,
    /// No lane was asked for, and all but the bound of instances is as it should be.
    Checked,
}

impl Refusal {
    /// Its code on the wire.
    pub fn code(self) -> u32 {
        match self {
            Self::Malformed => 1,
            Self::Version => 2,
            Self::SiteMismatch => 3,
            Self::TooManyInstances => 4,
            Self::NoSuchLink => 5,
            Self::Superseded => 6,
            Self::LaneRefused => 7,
            Self::UnknownKey => 8,
            Self::Checked => 9,
        }
    }

    /// The reason to show, on either side.
    pub fn reason(self) -> Reason {
        match self {
            Self::Malformed => Reason::Malformed,
            Self::Version => Reason::Version,
            Self::SiteMismatch => Reason::RefusedSiteMismatch,
            Self::TooManyInstances => Reason::TooManyInstances,
            Self::NoSuchLink => Reason::NoSuchLink,
            Self::Superseded => Reason::Superseded,
            Self::LaneRefused => Reason::LaneRefused,
            Self::UnknownKey => Reason::RefusedUnknownKey,
            Self::Checked => Reason::Checked,
        }
    }

    /// The refusal of a code; `None` for one of a newer version.
    pub fn from_code(code: u32) -> Option<Self> {
        ALL_REFUSALS.into_iter().find(|refusal| refusal.code() == code)
    }
}

/// The hub's no, ready to encode.
pub fn refused(refusal: Refusal, instance: Instance) -> Refused {
    let retry_after_ms = match refusal {
        // Processes leave when somebody stops them; asking every second would only fill logs.
        Refusal::TooManyInstances => TOO_MANY_RETRY_MS,
        Refusal::Malformed
        | Refusal::Version
        | Refusal::SiteMismatch
        | Refusal::NoSuchLink
        | Refusal::Superseded
        | Refusal::LaneRefused
        | Refusal::UnknownKey
        | Refusal::Checked => 0,
    };
    Refused { code: refusal.code(), retry_after_ms, instance: instance.to_vec() }
}

const TOO_MANY_RETRY_MS: u32 = 10_000;
/// Each of them.
pub const ALL_REFUSALS: [Refusal; 9] = [
    Refusal::Malformed,
    Refusal::Version,
    Refusal::SiteMismatch,
    Refusal::TooManyInstances,
    Refusal::NoSuchLink,
    Refusal::Superseded,
    Refusal::LaneRefused,
    Refusal::UnknownKey,
    Refusal::Checked,
];
