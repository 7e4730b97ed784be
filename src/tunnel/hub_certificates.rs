//! What a hub presents: leaves that its issuer signs, or a certificate of its organisation's own PKI.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::server::ResolvesServerCert;

use super::forewarning::Expiry;
use super::identity::{CHAIN_FILE, HubIdentity, ISSUER_KEY_FILE};
use super::own_certificate::OwnCertificate;
use super::pki::dns_names;
use super::{TunnelError, TunnelMetrics, connection};
use crate::config::HubCertificate;

/// A hub's identity. Cheap to clone.
#[derive(Clone, Debug)]
pub enum HubCertificates {
    /// As `bridge init` made it.
    Issued(Arc<HubIdentity>),
    /// Its organisation's.
    Own(Arc<OwnCertificate>),
}

impl HubCertificates {
    /// Reads what the configuration names.
    pub fn load(cfg: &HubCertificate, site: &str) -> Result<Self, TunnelError> {
        let provider = connection::provider();
        Ok(match cfg {
            HubCertificate::Issuer(dir) => Self::Issued(Arc::new(HubIdentity::load(dir, site, provider)?)),
            HubCertificate::Own(files) => Self::Own(Arc::new(OwnCertificate::load(files, &provider)?)),
        })
    }

    /// The files that it is loaded from.
    pub fn files(cfg: &HubCertificate) -> Vec<PathBuf> {
        match cfg {
            HubCertificate::Issuer(dir) => {
                [ISSUER_KEY_FILE, CHAIN_FILE].iter().map(|file| dir.join(file)).collect()
            }
            HubCertificate::Own(files) => vec![files.cert.clone(), files.key.clone()],
        }
    }

    /// For TLS.
    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        match self {
            Self::Issued(identity) => identity.clone(),
            Self::Own(certificate) => certificate.clone(),
        }
    }

    /// By what edges know it: pins, or the names in its certificate.
    pub fn known_by(&self) -> String {
        match self {
            Self::Issued(identity) => identity.pins().join(","),
            Self::Own(certificate) => {
                certificate.certified().cert.first().map(dns_names).unwrap_or_default().join(",")
            }
        }
    }

    /// The pins of its roots, the newest first; none of an own PKI.
    pub fn pins(&self) -> Vec<String> {
        match self {
            Self::Issued(identity) => identity.pins(),
            Self::Own(_) => Vec::new(),
        }
    }

    /// What expires, and when, Unix seconds.
    pub fn expiries(&self) -> Vec<Expiry> {
        match self {
            Self::Issued(identity) => vec![
                Expiry {
                    what: "the hub's issuer",
                    at: identity.issuer_expires(),
                    warn_days: 60,
                    then: NOBODY_JOINS,
                    remedy: "make another where the root is: bridge init --renew-issuer",
                },
                Expiry {
                    what: "the hub's root",
                    at: identity.root_expires(),
                    warn_days: 60,
                    then: NOBODY_JOINS,
                    remedy: "replace it in steps that keep no edge out: bridge init --rotate-root",
                },
            ],
            Self::Own(certificate) => vec![Expiry {
                what: "the certificate in cert_file",
                at: certificate.expires(),
                warn_days: 14,
                then: NOBODY_JOINS,
                remedy: RENEW_CERTIFICATE,
            }],
        }
    }

    /// Publishes when it expires.
    pub fn measure(&self, metrics: &TunnelMetrics) {
        let (issuer, root, certificate) = match self {
            Self::Issued(identity) => (identity.issuer_expires(), identity.root_expires(), 0),
            Self::Own(certificate) => (0, 0, certificate.expires()),
        };
        metrics.issuer_expires.set(gauge(issuer));
        metrics.root_expires.set(gauge(root));
        metrics.certificate_expires.set(gauge(certificate));
    }
}

const NOBODY_JOINS: &str = "no edge joins";
/// For either side's own certificate.
pub(super) const RENEW_CERTIFICATE: &str =
    "put a renewed one and its key into tunnel.cert_file and key_file, they are found within a second";

/// Seconds as a gauge takes them.
pub fn gauge(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
