//! The hub's root and issuer. The root signs issuers only; the issuer signs nothing but this hub's leaves.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData,
};

use crate::tunnel::key::{SpkiHash, sha256};
use crate::tunnel::trust::hub_dns_name;

/// Keys and certificates of a hub, in PEM.
pub struct Authority {
    pub root_key: String,
    pub root: String,
    pub issuer_key: String,
    pub issuer: String,
    pub pin: SpkiHash,
}

/// Makes them, valid from `now`.
pub fn make(hub: &str, now: SystemTime) -> Result<Authority, rcgen::Error> {
    let root_key = KeyPair::generate()?;
    let pin = sha256(&root_key.subject_public_key_info());
    let mut params = named(&format!("bridge root of {hub}"))?;
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + ROOT_LIFE).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root_key_pem = root_key.serialize_pem();
    let root = CertifiedIssuer::self_signed(params, root_key)?;

    let issuer_key = KeyPair::generate()?;
    let mut params = named(&format!("bridge issuer of {hub}"))?;
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + ISSUER_LIFE).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(hub_dns_name(hub))],
        excluded_subtrees: Vec::new(),
    });
    params.use_authority_key_identifier_extension = true;
    let issuer = params.signed_by(&issuer_key, &root)?;
    Ok(Authority {
        root_key: root_key_pem,
        root: root.pem(),
        issuer_key: issuer_key.serialize_pem(),
        issuer: issuer.pem(),
        pin,
    })
}

fn named(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

const BACKDATED: Duration = Duration::from_secs(3600);
const ISSUER_LIFE: Duration = Duration::from_secs(365 * 86_400);
const ROOT_LIFE: Duration = Duration::from_secs(3653 * 86_400);
