//! An organisation's own authorities: whether they vouch for a certificate, for this purpose and now, and under which
//! names. Knows no site, and asks nobody over the network: revocation is what the file of lists says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::CertificateError;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::key::sha256;
use super::reason::{Reason, Unvouched};
use super::revocation::RevocationLists;
use super::trust::validity;

/// Authorities and their revocation lists, as files gave them.
#[derive(Debug)]
pub struct Authorities {
    anchors: Vec<Anchor>,
    /// None: nobody revokes.
    lists: Option<RevocationLists>,
    fingerprint: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Anchor {
    anchor: TrustAnchor<'static>,
    key: SubjectPublicKeyInfoDer<'static>,
    /// webpki does not look at it.
    validity: (u64, u64),
}

/// Why a file of certificates, keys or lists is not used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {wrong}")]
pub struct PkiError {
    /// Which key of `tunnel` names it.
    pub key: &'static str,
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub wrong: String,
}

impl PkiError {
    /// Where the configuration names the file.
    pub fn place(&self) -> &'static str {
        match self.key {
            "ca_file" => "tunnel.ca_file",
            "cert_file" => "tunnel.cert_file",
            "client_ca_file" => "tunnel.client_ca_file",
            "crl_file" => "tunnel.crl_file",
            _ => "tunnel.key_file",
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self.key {
            "crl_file" => {
                "put the current list of each authority in client_ca_file there, and of those between them and certificates, in PEM (openssl crl -outform pem)"
            }
            "key_file" => "put the key of the certificate in cert_file there, in PEM",
            _ => "put the certificates there, in PEM",
        }
    }
}

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An edge's.
    ClientAuth,
    /// A hub's.
    ServerAuth,
}

/// When a judgement is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// At the handshake: lists must be current, and cover the whole path.
    Joining,
    /// Of a lane that lives: only a list that names it ends it, not one that has expired since or is missing.
    Living,
}

/// Why nobody vouches for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// No path to an authority.
    NoPath,
    /// It is not for this purpose.
    Purpose,
    /// Only its dates, or those of what signed it, are wrong.
    Dates {
        /// How far now lies outside of them, at least.
        skew: Duration,
        /// Whether now is past their end.
        ahead: bool,
    },
    /// An authority took it back.
    Revoked,
    /// The lists have expired, or there is none of one of the authorities on the way.
    Lists,
}

impl Authorities {
    /// Reads authorities, and the lists if there is a file of them.
    pub fn load(
        (ca_key, ca_file): (&'static str, &Path),
        crl_file: Option<&Path>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, PkiError> {
        let refused = |wrong: String| PkiError { key: ca_key, file: ca_file.to_owned(), wrong };
        let authorities = certificates(ca_key, ca_file)?;
        let fingerprint = sha256(&bytes_of(&authorities));
        let anchors = authorities.iter().map(Anchor::of).collect::<Option<_>>();
        let anchors = anchors.ok_or_else(|| refused("one of its certificates is of no authority".into()))?;
        let lists = crl_file.map(|file| RevocationLists::load(file, &authorities, algorithms));
        Ok(Self { anchors, lists: lists.transpose()?, fingerprint, algorithms })
    }

    /// Of the authorities, so that another loading is known for the same.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// When the first of its authorities expires, Unix seconds.
    pub fn expire(&self) -> u64 {
        self.anchors.iter().map(|anchor| anchor.validity.1).min().unwrap_or(0)
    }

    /// When the first of its lists is to be replaced, Unix seconds; `None` without lists.
    pub fn lists_expire(&self) -> Option<u64> {
        self.lists.as_ref().map(|lists| lists.expire)
    }

    /// Whether they vouch for a certificate. Its names are not looked at.
    pub fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        purpose: Purpose,
        moment: Moment,
        now: UnixTime,
    ) -> Result<(), Doubt> {
        let Err(error) = self.path(leaf, others, purpose, moment, now) else {
            return if is_for(leaf, purpose) { Ok(()) } else { Err(Doubt::Purpose) };
        };
        if let Some(doubt) = doubt_of(&error) {
            return Err(doubt);
        }
        // What a path would be valid at another time says that it is only a matter of dates.
        let all = others.iter().chain([leaf]).filter_map(validity);
        let common = all.reduce(|one, other| (one.0.max(other.0), one.1.min(other.1)));
        let Some((start, end)) = common.filter(|(start, end)| start <= end) else {
            return Err(Doubt::NoPath);
        };
        let then = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().clamp(start, end)));
        match self.path(leaf, others, purpose, Moment::Living, then) {
            Ok(()) => Err(self.dates(start, end, now)),
            Err(error) => Err(doubt_of(&error).unwrap_or(Doubt::NoPath)),
        }
    }

    fn path(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        purpose: Purpose,
        moment: Moment,
        at: UnixTime,
    ) -> Result<(), webpki::Error> {
        let end_entity = EndEntityCert::try_from(leaf)?;
        let seconds = at.as_secs();
        let valid = self.anchors.iter().filter(|it| (it.validity.0..=it.validity.1).contains(&seconds));
        let anchors: Vec<_> = valid.map(|it| it.anchor.clone()).collect();
        let usage = match purpose {
            Purpose::ClientAuth => KeyUsage::client_auth(),
            Purpose::ServerAuth => KeyUsage::server_auth(),
        };
        let algorithms = self.algorithms.all;
        // Not by webpki, which looks at the first list with an issuer's name, whoever signed it.
        let by_lists = |path: &VerifiedPath<'_>| self.judge_by_lists(path, moment, at);
        end_entity.verify_for_usage(algorithms, &anchors, others, at, usage, None, Some(&by_lists)).map(drop)
    }

    fn judge_by_lists(
        &self,
        path: &VerifiedPath<'_>,
        moment: Moment,
        at: UnixTime,
    ) -> Result<(), webpki::Error> {
        let Some(lists) = &self.lists else {
            return Ok(());
        };
        let anchor = self.anchors.iter().find(|it| it.anchor == *path.anchor());
        let anchor = anchor.ok_or(webpki::Error::UnknownIssuer)?;
        let covered = lists.judge(path, &anchor.key, at)?;
        if moment == Moment::Joining && !covered {
            return Err(webpki::Error::UnknownRevocationStatus);
        }
        Ok(())
    }

    fn dates(&self, start: u64, end: u64, now: UnixTime) -> Doubt {
        let anchors = self.anchors.iter().map(|it| it.validity);
        let now = now.as_secs();
        let skews = anchors.chain([(start, end)]).map(|(start, end)| {
            let (early, late) = (start.saturating_sub(now), now.saturating_sub(end));
            (early.max(late), late > early)
        });
        let (skew, ahead) = skews.max().unwrap_or_default();
        Doubt::Dates { skew: Duration::from_secs(skew), ahead }
    }
}

impl Anchor {
    fn of(certificate: &CertificateDer<'static>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let anchor = anchor_from_trusted_cert(certificate).ok()?.to_owned();
        let key = parsed.public_key().raw.to_vec().into();
        parsed.is_ca().then_some(Self { anchor, key, validity: validity(certificate)? })
    }
}

impl Doubt {
    /// It as rustls carries it, and as the alert that the other side gets.
    pub fn error(&self) -> CertificateError {
        match self {
            Self::NoPath => CertificateError::UnknownIssuer,
            Self::Purpose => CertificateError::InvalidPurpose,
            Self::Dates { .. } => CertificateError::Expired,
            Self::Revoked => CertificateError::Revoked,
            Self::Lists => CertificateError::UnknownRevocationStatus,
        }
    }

    /// The hub's reason for an edge's certificate.
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls' errors are open-ended")]
    pub fn of_edge(error: &CertificateError) -> Option<Reason> {
        Some(match error {
            CertificateError::UnknownIssuer | CertificateError::InvalidPurpose => {
                Reason::Unvouched(Unvouched::Untrusted)
            }
            CertificateError::Expired => Reason::Unvouched(Unvouched::Expired),
            CertificateError::Revoked => Reason::Unvouched(Unvouched::Revoked),
            CertificateError::UnknownRevocationStatus => Reason::Unvouched(Unvouched::ListsStale),
            _ => return None,
        })
    }
}

/// webpki's errors that tell more than that there is no path.
#[expect(clippy::wildcard_enum_match_arm, reason = "webpki's errors are open-ended")]
fn doubt_of(error: &webpki::Error) -> Option<Doubt> {
    use webpki::Error;
    match error {
        Error::CertRevoked => Some(Doubt::Revoked),
        Error::UnknownRevocationStatus => Some(Doubt::Lists),
        Error::RequiredEkuNotFoundContext(_) => Some(Doubt::Purpose),
        _ => None,
    }
}

/// Whether a certificate names the purpose; one that names none is not for ours.
fn is_for(leaf: &CertificateDer<'_>, purpose: Purpose) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
        return false;
    };
    let Ok(Some(usage)) = parsed.extended_key_usage() else {
        return false;
    };
    match purpose {
        Purpose::ClientAuth => usage.value.client_auth,
        Purpose::ServerAuth => usage.value.server_auth,
    }
}

/// The DNS names in a certificate, in lower case; patterns stay patterns, and so equal no name.
pub fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for name in &names.value.general_names {
        if let GeneralName::DNSName(name) = name {
            found.push(name.to_ascii_lowercase());
        }
    }
    found
}

/// Certificates one after the other, for a fingerprint.
pub fn bytes_of(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates.iter().flat_map(|certificate| certificate.iter().copied()).collect()
}

/// The certificates of a PEM file, at least one.
pub fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let refused = |wrong: String| PkiError { key, file: file.to_owned(), wrong };
    let text = read(file, CERTIFICATES_LEN_MAX).map_err(refused)?;
    let read = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let certificates = read.map_err(|error| refused(error.to_string()))?;
    if certificates.is_empty() {
        return Err(refused("it holds no certificate in PEM".into()));
    }
    Ok(certificates)
}

/// What a file holds, if it is not longer than this.
pub(super) fn read(file: &Path, len_max: u64) -> Result<Vec<u8>, String> {
    let len = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if len > len_max {
        return Err(format!("longer than {len_max} bytes"));
    }
    std::fs::read(file).map_err(|error| error.to_string())
}

/// Dozens of authorities.
const CERTIFICATES_LEN_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use rcgen::{CrlScope, ExtendedKeyUsagePurpose};

    use super::super::organisation::{CLIENT, Made, Organisation};
    use super::*;

    struct Judge<'a> {
        by: &'a Organisation,
        lists: Option<PathBuf>,
        moment: Moment,
    }

    impl Judge<'_> {
        fn judges(&self, presented: &[CertificateDer<'_>]) -> Result<(), Doubt> {
            let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
            let ca_file = self.by.ca_file();
            let by = Authorities::load(("client_ca_file", &ca_file), self.lists.as_deref(), algorithms);
            let (leaf, others) = presented.split_first().unwrap();
            by.unwrap().judge(leaf, others, Purpose::ClientAuth, self.moment, UnixTime::now())
        }

        fn of(&self, made: Made<'_>) -> Result<(), Doubt> {
            self.judges(&presented(self.by, made))
        }
    }

    /// The list of the one's root, and of the other's issuer.
    fn without_issuers_list(by: &Organisation, other: &Organisation) -> PathBuf {
        let [ours, theirs] = [by, other].map(|it| std::fs::read_to_string(it.revokes(&[], 1)).unwrap());
        let root = ours.rfind("-----BEGIN").unwrap();
        let file = by.revokes(&[], 1);
        std::fs::write(&file, theirs[..theirs.rfind("-----BEGIN").unwrap()].to_owned() + &ours[root..])
            .unwrap();
        file
    }

    fn presented(by: &Organisation, made: Made<'_>) -> Vec<CertificateDer<'static>> {
        certificates("cert_file", &by.certify(made).0).unwrap()
    }

    #[test]
    fn an_authority_vouches_for_what_it_signed_for_this_purpose_and_not_yet_ended() {
        let (by, other) = (Organisation::new(), Organisation::new());
        let judge = Judge { by: &by, lists: None, moment: Moment::Joining };
        assert_eq!(judge.of(CLIENT), Ok(()));
        for usage in [None, Some(ExtendedKeyUsagePurpose::ServerAuth), Some(ExtendedKeyUsagePurpose::Any)] {
            assert_eq!(judge.of(Made { usage, ..CLIENT }), Err(Doubt::Purpose));
        }
        let Err(Doubt::Dates { skew, ahead: true }) = judge.of(Made { ends: -3, ..CLIENT }) else {
            panic!("a matter of dates")
        };
        assert!(skew.as_secs().abs_diff(3 * 86_400) < 60, "{skew:?}");
        assert_eq!(judge.judges(&presented(&other, CLIENT)), Err(Doubt::NoPath));
        let expired = Made { ends: -3, ..CLIENT };
        assert_eq!(judge.judges(&presented(&other, expired)), Err(Doubt::NoPath), "not its clock's fault");
        let without_issuer = &presented(&by, CLIENT)[..1];
        assert_eq!(judge.judges(without_issuer), Err(Doubt::NoPath));
        assert_eq!(judge.judges(&[CertificateDer::from(vec![1, 2, 3])]), Err(Doubt::NoPath));
    }

    #[test]
    fn a_list_revokes_and_one_that_has_expired_or_is_missing_lets_nobody_join() {
        let by = Organisation::new();
        let joining = |lists| Judge { by: &by, lists: Some(lists), moment: Moment::Joining };
        assert_eq!(joining(by.revokes(&[8, 9], 1)).of(CLIENT), Ok(()));
        assert_eq!(joining(by.revokes(&[8, 7], 1)).of(CLIENT), Err(Doubt::Revoked));
        // Also of what has expired meanwhile, which is the less of it.
        assert_eq!(joining(by.revokes(&[7], 1)).of(Made { ends: -1, ..CLIENT }), Err(Doubt::Revoked));
        assert_eq!(joining(by.revokes(&[], -1)).of(CLIENT), Err(Doubt::Lists));
        // What lives goes on by a list that was not replaced in time, but not once it is revoked.
        let living = |lists| Judge { by: &by, lists: Some(lists), moment: Moment::Living };
        assert_eq!(living(by.revokes(&[], -1)).of(CLIENT), Ok(()));
        assert_eq!(living(by.revokes(&[7], -1)).of(CLIENT), Err(Doubt::Revoked));
        // Lists that do not cover what lies between say nothing of it: nobody joins, and nobody ends.
        for other in [Organisation::new(), Organisation::called("Elsewhere")] {
            let uncovered = without_issuers_list(&by, &other);
            assert_eq!(joining(uncovered.clone()).of(CLIENT), Err(Doubt::Lists));
            assert_eq!(living(uncovered.clone()).of(CLIENT), Ok(()));
            let expired = Made { ends: -1, ..CLIENT };
            assert!(matches!(living(uncovered).of(expired), Err(Doubt::Dates { .. })));
        }
    }

    #[test]
    fn of_two_lists_of_one_name_that_counts_which_the_issuers_key_signed_in_either_order() {
        let (by, namesake) = (Organisation::new(), Organisation::new());
        let text = |it: &Organisation, serials: &[u64], ends| {
            std::fs::read_to_string(it.revokes(serials, ends)).unwrap()
        };
        let issuers = |it: &Organisation, serials: &[u64], ends| {
            let both = text(it, serials, ends);
            both[..both.rfind("-----BEGIN").unwrap()].to_owned()
        };
        // Of a key that the issuer had before; and of its key now, but late.
        for (other, revokes_ours) in [
            (issuers(&namesake, &[7], 1), false),
            (issuers(&by, &[], -1), false),
            (issuers(&by, &[7], -1), true),
        ] {
            for revoked in [&[][..], &[7]] {
                let ours = text(&by, revoked, 1);
                let told = if revoked.is_empty() && !revokes_ours { Ok(()) } else { Err(Doubt::Revoked) };
                for lists in [format!("{other}{ours}"), format!("{ours}{other}")] {
                    let file = by.ca_file().with_file_name("both.pem");
                    std::fs::write(&file, lists).unwrap();
                    for moment in [Moment::Joining, Moment::Living] {
                        let judge = Judge { by: &by, lists: Some(file.clone()), moment };
                        assert_eq!(judge.of(CLIENT), told, "{moment:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_list_of_a_part_is_enough_for_that_part_and_revokes_whatever_it_names() {
        let by = Organisation::new();
        let (here, there) = ("http://lists.example.com/1", "http://lists.example.com/2");
        let joining = |scope, serials: &[u64], made| {
            let lists = Some(by.revokes_at(Some((here, scope)), serials, 1));
            Judge { by: &by, lists, moment: Moment::Joining }.of(made)
        };
        for (lists_at, told) in [(None, Ok(())), (Some(here), Ok(())), (Some(there), Err(Doubt::Lists))] {
            let made = Made { lists_at, ..CLIENT };
            assert_eq!(joining(CrlScope::UserCertsOnly, &[], made.clone()), told, "{lists_at:?}");
            assert_eq!(joining(CrlScope::CaCertsOnly, &[], made.clone()), Err(Doubt::Lists));
            assert_eq!(joining(CrlScope::CaCertsOnly, &[7], made), Err(Doubt::Revoked));
        }
    }

    #[test]
    fn files_that_hold_something_else_are_refused_by_name() {
        let by = Organisation::new();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let (cert, key) = by.certify(CLIENT);
        for (ca_file, crl_file, key_of_it, wrong) in [
            (&cert, None, "client_ca_file", "one of its certificates is of no authority"),
            (&key, None, "client_ca_file", "it holds no certificate in PEM"),
            (&by.ca_file(), Some(&cert), "crl_file", "it holds no revocation list in PEM"),
        ] {
            let loaded =
                Authorities::load(("client_ca_file", ca_file), crl_file.map(PathBuf::as_path), algorithms);
            let error = loaded.unwrap_err();
            assert_eq!((error.key, error.wrong.as_str()), (key_of_it, wrong));
        }
    }
}
