//! What the two sides of the link know each other by, checked: keys of `bridge init`, or an own PKI. Opens no file.

use std::path::PathBuf;

use rustls::pki_types::DnsName;

use super::text::{self, Found};
use super::{Checker, site_name};
use crate::config::field::{Field, Text};
use crate::config::problem::{Place, Refusal};
use crate::config::raw::RawTunnel;
use crate::config::{CertificateFiles, ClientAuthorities, EdgeCredential, EdgePki, HubCertificate};

impl Checker<'_> {
    /// What a hub presents.
    pub(super) fn hub_certificate(&mut self, raw: &mut RawTunnel, place: &Place) -> Option<HubCertificate> {
        let own = is_there(&raw.cert_file) || is_there(&raw.key_file);
        if own && is_there(&raw.identity) {
            let refusal = Refusal::new("identity and cert_file at once", "leave one of them out");
            self.refuse(place, refusal);
            return None;
        }
        if own {
            return self.certificate_files(raw, place).map(HubCertificate::Own);
        }
        let identity = std::mem::take(&mut raw.identity);
        self.required_text(identity, &place.key("identity"), text::path).map(HubCertificate::Issuer)
    }

    /// Who vouches for edges.
    pub(super) fn client_authorities(
        &mut self,
        raw: &mut RawTunnel,
        place: &Place,
    ) -> Option<ClientAuthorities> {
        let crl_place = place.key("crl_file");
        if is_there(&raw.crl_file) && !is_there(&raw.client_ca_file) {
            let refusal = Refusal::new("there is no client_ca_file", "name it too, or leave this out");
            self.refuse(&crl_place, refusal);
        }
        let crl_file = self.text(std::mem::take(&mut raw.crl_file), &crl_place, text::path);
        let ca_file = std::mem::take(&mut raw.client_ca_file);
        let ca_file = self.text(ca_file, &place.key("client_ca_file"), text::path)?;
        Some(ClientAuthorities { ca_file, crl_file })
    }

    /// What an edge presents, and how it knows the hub.
    pub(super) fn edge_credential(&mut self, raw: &mut RawTunnel, place: &Place) -> Option<EdgeCredential> {
        let pki = [&raw.ca_file, &raw.hub_name, &raw.hub_site, &raw.cert_file, &raw.key_file];
        if !pki.into_iter().any(is_there) {
            let token_file = std::mem::take(&mut raw.token_file);
            let token_file = self.required_text(token_file, &place.key("token_file"), text::path);
            return token_file.map(EdgeCredential::Token);
        }
        if is_there(&raw.token_file) {
            let refusal = Refusal::new(
                "token_file and keys of an own PKI at once",
                "leave token_file out, or ca_file, hub_name, hub_site, cert_file and key_file",
            );
            self.refuse(place, refusal);
            return None;
        }
        let after_place = place.key("trust_after");
        if is_there(&raw.trust_after) {
            let refusal = Refusal::new(
                "it is of issuers that a token pins",
                "leave it out: take the authority out of ca_file instead",
            );
            self.refuse(&after_place, refusal);
        }
        let ca_file = self.required_text(std::mem::take(&mut raw.ca_file), &place.key("ca_file"), text::path);
        let hub_name =
            self.required_text(std::mem::take(&mut raw.hub_name), &place.key("hub_name"), dns_name);
        let hub_site =
            self.required_text(std::mem::take(&mut raw.hub_site), &place.key("hub_site"), site_name);
        let own = self.certificate_files(raw, place);
        Some(EdgeCredential::Certificate(EdgePki {
            ca_file: ca_file?,
            hub_name: hub_name?,
            hub_site: hub_site?,
            own: own?,
        }))
    }

    fn certificate_files(&mut self, raw: &mut RawTunnel, place: &Place) -> Option<CertificateFiles> {
        let mut file = |field: &mut Field<Text>, key| -> Option<PathBuf> {
            self.required_text(std::mem::take(field), &place.key(key), text::path)
        };
        let (cert, key) = (file(&mut raw.cert_file, "cert_file"), file(&mut raw.key_file, "key_file"));
        Some(CertificateFiles { cert: cert?, key: key? })
    }
}

/// Whether a key stands in the file.
pub(super) fn is_there<T>(field: &Field<T>) -> bool {
    !matches!(field, Field::Missing)
}

/// A DNS name in lower case; no pattern.
pub(super) fn dns_name(found: &Found) -> Result<String, Refusal> {
    match DnsName::try_from(found.text.as_str()) {
        Ok(name) => Ok(name.to_lowercase_owned().as_ref().to_owned()),
        Err(_) => Err(Refusal::new(
            format!("{} is no dns name", found.shown()),
            "write the name exactly as the certificate has it among its subject alternative names; patterns do not count",
        )),
    }
}
