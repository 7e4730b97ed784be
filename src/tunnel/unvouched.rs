//! Why a hub does not take an edge's certificate of an own PKI: codes, messages and remedies, as part of the catalogue.

use std::fmt;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unvouched {
    /// No authority of the hub vouches for it.
    Untrusted,
    /// It is not valid at the hub's time.
    Expired,
    /// An authority took it back.
    Revoked,
    /// The hub's revocation lists have expired, or do not cover it.
    ListsStale,
}

impl Unvouched {
    /// The code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Untrusted => "certificate_untrusted",
            Self::Expired => "certificate_expired",
            Self::Revoked => "certificate_revoked",
            Self::ListsStale => "crl_stale",
        }
    }

    /// What an operator can do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Untrusted => {
                "have an authority of the hub's tunnel.client_ca_file sign the edge's certificate for clientAuth, with what lies between in the edge's cert_file; where the hub's log has crl_stale, replace its tunnel.crl_file"
            }
            Self::Expired => "renew the edge's certificate (tunnel.cert_file), or set both clocks",
            Self::Revoked => "none if it was meant, else give the edge another (tunnel.cert_file)",
            Self::ListsStale => {
                "put the current list of every authority between the edge's certificate and tunnel.client_ca_file into tunnel.crl_file"
            }
        }
    }
}

impl fmt::Display for Unvouched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untrusted => "no authority of the hub vouches for the edge's certificate",
            Self::Expired => "the edge's certificate is not valid at the hub's time",
            Self::Revoked => "the edge's certificate was revoked",
            Self::ListsStale => "the revocation lists have expired, or do not cover the edge's certificate",
        })
    }
}
