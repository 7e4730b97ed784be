//! The hub by a name that an organisation's own authorities vouch for. A name alone is nothing, and so is a pattern.

use rustls::pki_types::{CertificateDer, UnixTime};

use super::pinned::intercepted;
use super::pki::{Authorities, Doubt, Moment, Purpose, dns_names};
use super::reason::{KnownBy, Reason, shown};

/// A hub as `ca_file` and `hub_name` tell it.
#[derive(Debug)]
pub struct NamedHub {
    authorities: Authorities,
    name: String,
}

impl NamedHub {
    /// The hub of this DNS name, under these.
    pub fn new(authorities: Authorities, name: &str) -> Self {
        Self { authorities, name: name.to_ascii_lowercase() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The judgement on a presented chain at a time.
    pub fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Reason> {
        let names = dns_names(leaf);
        let not_the_hub = || intercepted(leaf, KnownBy::Name { presented: shown(&names.join(", ")).into() });
        if !names.contains(&self.name) {
            return Err(not_the_hub());
        }
        let judged = self.authorities.judge(leaf, others, Purpose::ServerAuth, Moment::Joining, now);
        judged.map_err(|doubt| match doubt {
            Doubt::Dates { skew, ahead } => Reason::Clock { skew, ahead },
            Doubt::NoPath | Doubt::Purpose | Doubt::Revoked | Doubt::Lists => not_the_hub(),
        })
    }
}
