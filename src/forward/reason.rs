//! Why a forward does not listen or a connection was reset: the one catalogue of codes, what follows and remedies.
//! Only the codes' numbers cross the link; texts are ours.

/// A typed reason, shown in status, counted in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// There is no link to the site that has the target.
    NoLink,
    /// The other side's version has no forwards.
    PeerTooOld,
    /// Something else listens at the address.
    AddressInUse,
    /// The address is not this machine's, or the port is not for everybody.
    AddressUnavailable,
    /// The listening site's policy does not have the address.
    ListenNotAllowed,
    /// The target's site does not let it be reached.
    TargetNotAllowed,
    /// The target's name leads nowhere there.
    TargetUnresolved,
    /// The target does not answer there.
    TargetUnreachable,
    /// As many connections are open as may be.
    TooManyConnections,
    /// More new connections in a second than may be.
    RateLimited,
    /// The link ended while the connection was open.
    LinkLost,
    /// A new configuration does not allow it any more.
    NoLongerAllowed,
    /// What the other side said is none of the protocol's.
    Malformed,
    /// The other side gave a number that this version does not know.
    Unknown,
}

/// What follows from a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The address refuses connections until it is over.
    Refuses,
    /// One connection was reset.
    Reset,
}

impl Reason {
    /// All of them, in the order of the documents.
    pub const ALL: [Self; 14] = [
        Self::NoLink,
        Self::PeerTooOld,
        Self::AddressInUse,
        Self::AddressUnavailable,
        Self::ListenNotAllowed,
        Self::TargetNotAllowed,
        Self::TargetUnresolved,
        Self::TargetUnreachable,
        Self::TooManyConnections,
        Self::RateLimited,
        Self::LinkLost,
        Self::NoLongerAllowed,
        Self::Malformed,
        Self::Unknown,
    ];

    /// The code: stable, for scripts and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoLink => "no_link",
            Self::PeerTooOld => "peer_too_old",
            Self::AddressInUse => "address_in_use",
            Self::AddressUnavailable => "address_unavailable",
            Self::ListenNotAllowed => "listen_not_allowed",
            Self::TargetNotAllowed => "target_not_allowed",
            Self::TargetUnresolved => "target_unresolved",
            Self::TargetUnreachable => "target_unreachable",
            Self::TooManyConnections => "too_many_connections",
            Self::RateLimited => "rate_limited",
            Self::LinkLost => "link_lost",
            Self::NoLongerAllowed => "no_longer_allowed",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
        }
    }

    /// What follows.
    pub fn effect(self) -> Effect {
        match self {
            Self::NoLink
            | Self::PeerTooOld
            | Self::AddressInUse
            | Self::AddressUnavailable
            | Self::ListenNotAllowed => Effect::Refuses,
            Self::TargetNotAllowed
            | Self::TargetUnresolved
            | Self::TargetUnreachable
            | Self::TooManyConnections
            | Self::RateLimited
            | Self::LinkLost
            | Self::NoLongerAllowed
            | Self::Malformed
            | Self::Unknown => Effect::Reset,
        }
    }

    /// Whether somebody can do something about it.
    pub fn asks_somebody(self) -> bool {
        !matches!(self, Self::LinkLost | Self::NoLongerAllowed)
    }

    /// What an operator can do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::NoLink => "see the link's own reason; the address accepts again as soon as a link is up",
            Self::PeerTooOld => "upgrade the other side: its version has no forwards",
            Self::AddressInUse => "stop what listens there, or give the forward another `listen`",
            Self::AddressUnavailable => {
                "name an address of that machine and a port that its user may open (above 1023)"
            }
            Self::ListenNotAllowed => {
                "add the address to `policy.listen` at the site that listens, or declare the forward there"
            }
            Self::TargetNotAllowed => {
                "add the target, exactly as the forward names it, to `policy.forward` at its site; an address of the machine itself, its link or its cloud's metadata only as a literal"
            }
            Self::TargetUnresolved => "look the name up at the target's site: its resolver does not know it",
            Self::TargetUnreachable => {
                "start the target, and see from its site's bridge whether host and port answer"
            }
            Self::TooManyConnections => {
                "raise `max_connections` of the forward and of its item in `policy.forward`, or find who keeps them open"
            }
            Self::RateLimited => "raise `rate` of the forward and of its item in `policy.forward`",
            Self::LinkLost => {
                "none needed: the client connects anew; the link's own reason says what happened"
            }
            Self::NoLongerAllowed => "none needed: the configuration was changed",
            Self::Malformed => "upgrade the older side; if both are equal, report it with both logs",
            Self::Unknown => "upgrade this side: the other one knows a newer reason",
        }
    }

    /// Its number on the link.
    pub fn wire(self) -> u32 {
        match self {
            Self::TargetNotAllowed => 1,
            Self::TargetUnresolved => 2,
            Self::TargetUnreachable => 3,
            Self::TooManyConnections => 4,
            Self::RateLimited => 5,
            Self::ListenNotAllowed => 6,
            Self::AddressInUse => 7,
            Self::AddressUnavailable => 8,
            Self::Malformed => 9,
            Self::NoLongerAllowed => 10,
            // Not said to the other side.
            Self::NoLink | Self::PeerTooOld | Self::LinkLost | Self::Unknown => 11,
        }
    }

    /// What a number of the other side means.
    pub fn from_wire(number: u32) -> Self {
        Self::ALL.into_iter().find(|reason| reason.wire() == number && number < 11).unwrap_or(Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_crosses_the_link_arrives_as_it_was_meant_and_anything_else_as_unknown() {
        let crossing = Reason::ALL.into_iter().filter(|reason| reason.wire() < 11);
        assert_eq!(crossing.clone().count(), 10);
        for reason in crossing {
            assert_eq!(Reason::from_wire(reason.wire()), reason);
        }
        for number in [0, 11, 12, u32::MAX] {
            assert_eq!(Reason::from_wire(number), Reason::Unknown);
        }
    }
}
