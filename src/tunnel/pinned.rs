//! The hub by a pin: the judgement on a presented chain. Never asks the system's roots, and accepts nothing for its
//! name only.

use std::time::Duration;

use rustls::Error;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::key::{SpkiHash, hex, sha256, spki_sha256};
use super::reason::{KnownBy, Reason, shown};
use super::trust::{hub_dns_name, validity};

/// A hub as a token tells it: a presented root with a pinned key is the only anchor; under it path, EKU
/// serverAuth and the name `<hub>.hub.bridge.internal`.
#[derive(Debug)]
pub struct PinnedHub {
    pins: Vec<SpkiHash>,
    name: ServerName<'static>,
    /// Issuers from before, Unix seconds, vouch for nobody.
    trust_after: u64,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedHub {
    /// The hub of this name under one of these pins.
    pub fn new(hub: &str, pins: Vec<SpkiHash>, algorithms: WebPkiSupportedAlgorithms) -> Result<Self, Error> {
        let name = ServerName::try_from(hub_dns_name(hub))
            .map_err(|_| Error::General(format!("`{hub}` does not make a dns name")))?;
        Ok(Self { pins, name, trust_after: 0, algorithms })
    }

    /// The same, which believes no issuer that is valid from before this time, Unix seconds.
    pub fn after(self, trust_after: u64) -> Self {
        Self { trust_after, ..self }
    }

    /// The judgement on a presented chain at a time.
    pub fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Reason> {
        // Leaf, issuer and root, and room for a second root; more only costs us work before anybody is known.
        if others.len() > CHAIN_LEN_MAX {
            return Err(intercepted(leaf, KnownBy::Pin));
        }
        let mut why = None;
        for anchor in others.iter().filter(|other| self.is_pinned(other)) {
            match self.judge_under(leaf, others, anchor, now) {
                Ok(()) => return Ok(()),
                // While roots rotate, one of them may be past its end.
                Err(reason) => why = why.or(reason),
            }
        }
        Err(why.unwrap_or_else(|| intercepted(leaf, KnownBy::Pin)))
    }

    /// Its pins, in the order of the token.
    pub fn pins(&self) -> &[SpkiHash] {
        &self.pins
    }

    /// Those of its pins that vouch for a chain at a time, in their order, whatever that of the chain is: while roots
    /// rotate that says whether the new one is known.
    pub fn pins_of(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Vec<SpkiHash> {
        let vouches = |pin: &&SpkiHash| {
            let mut anchors = others.iter().filter(|other| spki_sha256(other).as_ref() == Some(*pin));
            anchors.any(|anchor| self.judge_under(leaf, others, anchor, now).is_ok())
        };
        self.pins.iter().filter(vouches).copied().collect()
    }

    /// The judgement under one pinned root; a reason only when the pinned key is behind the chain after all.
    fn judge_under(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        anchor: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<(), Option<Reason>> {
        if self.path_is_valid(leaf, &self.recent(others), anchor, now) {
            return out_of_validity(&[anchor], now).map_or(Ok(()), |clock| Err(Some(clock)));
        }
        if self.path_is_valid(leaf, others, anchor, now) {
            return Err(Some(Reason::IssuerDistrusted));
        }
        // A chain that only its dates make invalid says that a clock is wrong, nothing worse.
        let clock = others.iter().find_map(|issuer| {
            let path = [leaf, issuer, anchor];
            out_of_validity(&path, now).filter(|_| self.is_signed_through(path))
        });
        Err(clock)
    }

    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        spki_sha256(certificate).is_some_and(|hash| self.pins.contains(&hash))
    }

    /// Those that may vouch. A pinned root is an anchor, whenever it was made.
    fn recent<'a>(&self, others: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
        let is_recent =
            |other: &&CertificateDer<'a>| validity(other).is_some_and(|(start, _)| start >= self.trust_after);
        others.iter().filter(is_recent).cloned().collect()
    }

    fn path_is_valid(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        anchor: &CertificateDer<'_>,
        at: UnixTime,
    ) -> bool {
        let (Ok(end_entity), Ok(trusted)) = (EndEntityCert::try_from(leaf), anchor_from_trusted_cert(anchor))
        else {
            return false;
        };
        let anchors = [trusted];
        let usage = KeyUsage::required(EKU_SERVER_AUTH);
        let path = end_entity.verify_for_usage(self.algorithms.all, &anchors, others, at, usage, None, None);
        path.is_ok()
            && end_entity.verify_is_valid_for_subject_name(&self.name).is_ok()
            && self.is_signed(anchor, anchor)
    }

    /// Whether the pinned key signed the root's dates and constraints too, the root the issuer, and that the
    /// leaf. Dates do not count here.
    fn is_signed_through(&self, [leaf, issuer, anchor]: [&CertificateDer<'_>; 3]) -> bool {
        self.is_signed(anchor, anchor) && self.is_signed(issuer, anchor) && self.is_signed(leaf, issuer)
    }

    fn is_signed(&self, certificate: &CertificateDer<'_>, signer: &CertificateDer<'_>) -> bool {
        let (Ok((_, parsed)), Ok(key)) =
            (X509Certificate::from_der(certificate), EndEntityCert::try_from(signer))
        else {
            return false;
        };
        let (signed, signature) = (parsed.tbs_certificate.as_ref(), &parsed.signature_value.data);
        let mut algorithms = self.algorithms.all.iter();
        algorithms.any(|algorithm| key.verify_signature(*algorithm, signed, signature).is_ok())
    }
}

/// What is said of a certificate that is not the hub's.
pub(super) fn intercepted(leaf: &CertificateDer<'_>, known_by: KnownBy) -> Reason {
    let issuer = match X509Certificate::from_der(leaf) {
        Ok((_, parsed)) => shown(&parsed.issuer().to_string()),
        Err(_) => "(unreadable)".to_owned(),
    };
    Reason::Intercepted { issuer, leaf_sha256: hex(&sha256(leaf)), via: None, known_by }
}

/// How far `now` lies outside the certificates' validity at most; webpki does not look at an anchor's.
fn out_of_validity(certificates: &[&CertificateDer<'_>], now: UnixTime) -> Option<Reason> {
    let now = now.as_secs();
    let skews = certificates.iter().filter_map(|certificate| {
        let (start, end) = validity(certificate)?;
        let (early, late) = (start.saturating_sub(now), now.saturating_sub(end));
        Some((early.max(late), late > early))
    });
    let (skew, ahead) = skews.max()?;
    (skew > 0).then_some(Reason::Clock { skew: Duration::from_secs(skew), ahead })
}

/// id-kp-serverAuth, RFC 5280 §4.2.1.12.
const EKU_SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];

/// Certificates beside the leaf.
const CHAIN_LEN_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        PublicKeyData,
    };

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    /// What a chain is made of; by default all is right.
    struct Made {
        name: &'static str,
        usages: Vec<ExtendedKeyUsagePurpose>,
        root_days: u32,
    }

    const RIGHT: Made = Made { name: "riskfuel.hub.bridge.internal", usages: Vec::new(), root_days: 3650 };

    /// Leaf, issuer and root, and the root's pin; valid from two days ago.
    fn chain(made: &Made) -> (Vec<CertificateDer<'static>>, SpkiHash) {
        let from = |days: u32| {
            let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
            params.not_before = (SystemTime::now() - 2 * DAY).into();
            params.not_after = (SystemTime::now() - 2 * DAY + days * DAY).into();
            params
        };
        let (root_key, issuer_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let pin = sha256(&root_key.subject_public_key_info());
        let mut params = from(made.root_days);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        let root = CertifiedIssuer::self_signed(params, root_key).unwrap();
        let mut params = from(365);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = CertifiedIssuer::signed_by(params, issuer_key, &root).unwrap();
        let mut params = from(9);
        params.subject_alt_names = CertificateParams::new([made.name.to_owned()]).unwrap().subject_alt_names;
        params.extended_key_usages = made.usages.clone();
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        (vec![leaf.der().clone(), issuer.der().clone(), root.der().clone()], pin)
    }

    fn right() -> Made {
        Made { usages: vec![ExtendedKeyUsagePurpose::ServerAuth], ..RIGHT }
    }

    fn judge(chain: &[CertificateDer<'_>], pin: SpkiHash, days_from_now: i64) -> Result<(), Reason> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let verifier = PinnedHub::new("riskfuel", vec![[0; 32], pin], algorithms).unwrap();
        let now = UnixTime::now().as_secs().saturating_add_signed(days_from_now * 86_400);
        verifier.judge(&chain[0], &chain[1..], UnixTime::since_unix_epoch(Duration::from_secs(now)))
    }

    fn code(judged: Result<(), Reason>) -> &'static str {
        judged.map_or_else(|reason| reason.code(), |()| "accepted")
    }

    #[test]
    fn the_pinned_root_vouches_for_the_hub_and_for_nothing_else() {
        let (right_chain, pin) = chain(&right());
        assert_eq!(code(judge(&right_chain, pin, 0)), "accepted");
        assert_eq!(code(judge(&right_chain, [9; 32], 0)), "intercepted");
        let other_name = Made { name: "other.hub.bridge.internal", ..right() };
        let client = Made { usages: vec![ExtendedKeyUsagePurpose::ClientAuth], ..RIGHT };
        for made in [other_name, client, RIGHT] {
            let (chain, pin) = chain(&made);
            assert_eq!(code(judge(&chain, pin, 0)), "intercepted", "{} {:?}", made.name, made.usages);
        }
        let (stranger, _) = chain(&right());
        let mixed = [stranger[0].clone(), right_chain[1].clone(), right_chain[2].clone()];
        assert_eq!(code(judge(&mixed, pin, 0)), "intercepted");
        let without_root = &right_chain[..2];
        assert_eq!(code(judge(without_root, pin, 0)), "intercepted");
        let garbage = [CertificateDer::from(vec![1, 2, 3]), right_chain[2].clone()];
        assert_eq!(code(judge(&garbage, pin, 0)), "intercepted");
    }

    #[test]
    fn an_issuer_from_before_a_time_vouches_for_nobody_and_the_root_may_be_older() {
        let (chain, pin) = chain(&right());
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let two_days_ago = UnixTime::now().as_secs() - 2 * 86_400;
        for (trust_after, expected) in
            [(two_days_ago - 60, "accepted"), (two_days_ago + 60, "issuer_distrusted")]
        {
            let verifier = PinnedHub::new("riskfuel", vec![pin], algorithms).unwrap().after(trust_after);
            assert_eq!(code(verifier.judge(&chain[0], &chain[1..], UnixTime::now())), expected);
        }
    }

    #[test]
    fn dates_alone_are_a_matter_of_clocks_with_their_measure() {
        let (chain, pin) = chain(&right());
        assert_eq!(code(judge(&chain, pin, 6)), "accepted");
        for (days_from_now, at_least, is_ahead) in [(365, 358, true), (-365, 363, false), (8, 1, true)] {
            match judge(&chain, pin, days_from_now) {
                Err(Reason::Clock { skew, ahead }) => {
                    assert_eq!(ahead, is_ahead);
                    assert!(skew >= at_least * DAY - Duration::from_secs(60), "{skew:?}");
                }
                other => panic!("{days_from_now}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_chain_under_two_roots_counts_for_whoever_knows_one_of_them_though_the_other_has_expired() {
        let dated = |days: u32| {
            let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
            params.not_before = (SystemTime::now() - 2 * DAY).into();
            params.not_after = (SystemTime::now() - 2 * DAY + days * DAY).into();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let root = |days| CertifiedIssuer::self_signed(dated(days), KeyPair::generate().unwrap()).unwrap();
        let (old, new) = (root(1), root(3650));
        let pins = [&old, &new].map(|root| sha256(&root.key().subject_public_key_info()));
        let mut issuer = dated(365);
        issuer.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let [by_old, by_new] = [&old, &new].map(|root| issuer.signed_by(&key, root).unwrap().der().clone());
        let mut leaf = dated(9);
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.subject_alt_names = CertificateParams::new([right().name.to_owned()]).unwrap().subject_alt_names;
        leaf.extended_key_usages = right().usages;
        let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(issuer, key)).unwrap();
        let chain = [leaf.der(), &by_old, old.der(), &by_new, new.der()].map(Clone::clone);
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let judged = |pins: &[SpkiHash]| {
            let verifier = PinnedHub::new("riskfuel", pins.to_vec(), algorithms).unwrap();
            code(verifier.judge(&chain[0], &chain[1..], UnixTime::now()))
        };
        assert_eq!(
            [judged(&pins), judged(&pins[1..]), judged(&pins[..1])],
            ["accepted", "accepted", "clock"]
        );
        assert_eq!(judged(&[[9; 32]]), "intercepted");
    }

    #[test]
    fn an_expired_root_is_noticed_though_the_path_under_it_is_valid() {
        let (chain, pin) = chain(&Made { root_days: 1, ..right() });
        assert_eq!(code(judge(&chain, pin, 0)), "clock");
    }

    #[test]
    fn a_root_that_the_pinned_key_did_not_sign_is_no_root() {
        let (mut chain, _) = chain(&right());
        let (public, forger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let forger = CertifiedIssuer::self_signed(params.clone(), forger).unwrap();
        let forged = params.signed_by(&public, &forger).unwrap();
        chain[2] = forged.der().clone();
        let pin = sha256(&public.subject_public_key_info());
        assert_eq!(code(judge(&chain, pin, 0)), "intercepted");
    }
}
