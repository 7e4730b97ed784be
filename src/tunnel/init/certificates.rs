//! The hub's root and issuer. The root signs issuers only; the issuer signs nothing but this hub's leaves.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData,
};

use crate::tunnel::key::{SpkiHash, sha256};
use crate::tunnel::trust::hub_dns_name;

/// A root that was just made.
pub struct Root {
    /// Its private key, in PEM.
    pub key: String,
    /// What edges know it by.
    pub pin: SpkiHash,
    signer: CertifiedIssuer<'static, KeyPair>,
}

impl Root {
    /// Makes one for a hub, valid from `now`.
    pub fn make(hub: &str, now: SystemTime) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = named(&format!("{ROOT_OF}{hub}"))?;
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + ROOT_LIFE).into();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self {
            key: key.serialize_pem(),
            pin: sha256(&key.subject_public_key_info()),
            signer: CertifiedIssuer::self_signed(params, key)?,
        })
    }

    /// Its certificate, in PEM.
    pub fn certificate(&self) -> String {
        self.signer.pem()
    }

    /// It as a signer, with its certificate.
    pub fn signer(&self) -> (&Issuer<'static, KeyPair>, String) {
        (&self.signer, self.certificate())
    }
}

/// What a hub presents and signs with, in PEM.
pub struct Identity {
    /// The issuer's private key.
    pub issuer_key: String,
    /// For each root the issuer's certificate by it, and the root's own.
    pub chain: String,
    /// From when on the issuer is valid, RFC 3339.
    pub since: String,
}

/// Makes an issuer that each of these roots vouches for, valid from `now`. One key with a certificate by each root, and
/// no root that signs another: a root allows one CA below it, and edges of any version take the certificate that they
/// know the root of.
pub fn issue(
    hub: &str,
    roots: &[(&Issuer<'_, KeyPair>, String)],
    now: SystemTime,
) -> Result<Identity, rcgen::Error> {
    let key = KeyPair::generate()?;
    let params = issuer_params(hub, now)?;
    let mut chain = String::new();
    for (signer, certificate) in roots {
        chain.push_str(&params.signed_by(&key, signer)?.pem());
        chain.push_str(certificate);
    }
    let (date, time) = (params.not_before.date(), params.not_before.time());
    let since = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    );
    Ok(Identity { issuer_key: key.serialize_pem(), chain, since })
}

fn issuer_params(hub: &str, now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
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
    Ok(params)
}

fn named(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

/// How roots call themselves, before the hub's name.
pub const ROOT_OF: &str = "bridge root of ";
const BACKDATED: Duration = Duration::from_secs(3600);
const ISSUER_LIFE: Duration = Duration::from_secs(365 * 86_400);
const ROOT_LIFE: Duration = Duration::from_secs(3653 * 86_400);
