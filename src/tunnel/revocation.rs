//! An organisation's revocation lists, as a file gave them, and what they say of a path to its authorities. Refuses what
//! cannot be the lists of its authorities; a list counts for nothing but what the key vouches for that signed it.

use std::collections::HashSet;
use std::path::Path;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, SubjectPublicKeyInfoDer, UnixTime};
use webpki::{BorrowedCertRevocationList, Cert, CertRevocationList, Error, RawPublicKeyEntity, VerifiedPath};
use x509_parser::extensions::{DistributionPointName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_EXT_CRL_DISTRIBUTION_POINTS, OID_X509_EXT_ISSUER_DISTRIBUTION_POINT,
};
use x509_parser::prelude::{CertificateRevocationList, FromDer, GeneralName, X509Certificate};

use super::pki::{PkiError, read};
use super::reason::shown;

/// Lists that were read.
#[derive(Debug)]
pub struct RevocationLists {
    lists: Vec<List>,
    /// When the first of them is to be replaced, Unix seconds.
    pub expire: u64,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct List {
    issuer: Vec<u8>,
    revoked: HashSet<Vec<u8>>,
    /// When it is to be replaced, Unix seconds.
    next: u64,
    scope: Scope,
    signed: Vec<u8>,
    signature: Vec<u8>,
    /// By which algorithm, in DER.
    algorithm: Vec<u8>,
}

/// Which of its issuer's certificates a list is complete for (RFC 5280, 5.2.5).
#[derive(Debug, Default)]
struct Scope {
    leaves: bool,
    authorities: bool,
    /// Only those that name one of these places for their list, or none at all; `None`: all.
    places: Option<Vec<String>>,
}

impl RevocationLists {
    /// The lists of a PEM file, for what these authorities vouch for.
    pub fn load(
        file: &Path,
        authorities: &[CertificateDer<'_>],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, PkiError> {
        let refused = |wrong: String| PkiError { key: "crl_file", file: file.to_owned(), wrong };
        let text = read(file, LISTS_LEN_MAX).map_err(refused)?;
        let mut found = Self { lists: Vec::new(), expire: u64::MAX, algorithms };
        let (mut issuers, mut is_of_authority) = (Vec::new(), false);
        for der in CertificateRevocationListDer::pem_slice_iter(&text) {
            let der = der.map_err(|error| refused(error.to_string()))?;
            let wrong = |error: &dyn ToString| refused(error.to_string());
            let (_, parsed) = CertificateRevocationList::from_der(&der).map_err(|error| wrong(&error))?;
            let list = List::read(&der, &parsed).map_err(|error| wrong(&error))?;
            found.expire = found.expire.min(list.next);
            let issuer = shown(&parsed.issuer().to_string());
            let signer = list.signer(&parsed, authorities, algorithms);
            found.lists.push(list);
            match signer {
                Signer::Authority => is_of_authority = true,
                Signer::Forger => {
                    return Err(refused(format!(
                        "its list of `{issuer}` is not signed by the authority of that name in client_ca_file"
                    )));
                }
                Signer::Other => issuers.push(format!("`{issuer}`")),
            }
        }
        if found.lists.is_empty() {
            return Err(refused("it holds no revocation list in PEM".into()));
        }
        // Every path ends at an authority, so that nobody at all could join.
        if !is_of_authority {
            issuers.truncate(ISSUERS_SHOWN_MAX);
            return Err(refused(format!(
                "none of its lists is of an authority in client_ca_file, but of {}",
                issuers.join(", ")
            )));
        }
        Ok(found)
    }

    /// Whether current lists cover a path that ends at an authority with this key. A certificate is refused that any
    /// list names, late or not, if its issuer's key signed the list: an authority whose key was renewed has one for
    /// each key, all under one name.
    pub fn judge(
        &self,
        path: &VerifiedPath<'_>,
        authority: &SubjectPublicKeyInfoDer<'_>,
        at: UnixTime,
    ) -> Result<bool, Error> {
        let leaf: &Cert<'_> = path.end_entity();
        let certificates: Vec<_> = std::iter::once(leaf).chain(path.intermediate_certificates()).collect();
        let mut all_covered = true;
        for (place, certificate) in certificates.iter().enumerate() {
            let issuer = certificates.get(place + 1);
            let key = issuer.map_or_else(|| authority.clone(), |issuer| issuer.subject_public_key_info());
            let signs_lists = issuer.is_none_or(|issuer| signs_lists(issuer));
            let mut covered = false;
            for list in self.lists.iter().filter(|list| list.issuer == certificate.issuer()) {
                let names_it = list.revoked.contains(certificate.serial());
                let is_current = at.as_secs() < list.next;
                let covers_it =
                    !covered && signs_lists && is_current && list.scope.holds(certificate, place == 0);
                // Few are looked at so closely: webpki's bound on a path's signatures holds for these too.
                if (names_it || covers_it) && list.is_signed_by(&key, self.algorithms) {
                    if names_it {
                        return Err(Error::CertRevoked);
                    }
                    covered = true;
                }
            }
            all_covered &= covered;
        }
        Ok(all_covered)
    }
}

/// Whose a list is.
enum Signer {
    /// An authority's.
    Authority,
    /// Somebody's who has only an authority's name.
    Forger,
    /// Of what lies between them and certificates, perhaps: that is known when one is presented.
    Other,
}

impl List {
    /// Refuses what webpki does: those of other lists' issuers, of some reasons only, and what changed since another.
    fn read(
        der: &CertificateRevocationListDer<'_>,
        parsed: &CertificateRevocationList<'_>,
    ) -> Result<Self, Error> {
        let list = BorrowedCertRevocationList::from_der(der)?;
        let serials = list.into_iter().map(|revoked| Ok(revoked?.serial_number.to_vec()));
        let revoked = serials.collect::<Result<_, Error>>()?;
        let next = parsed.next_update().and_then(|next| u64::try_from(next.timestamp()).ok());
        Ok(Self {
            issuer: CertRevocationList::from(list).issuer().to_vec(),
            revoked,
            next: next.unwrap_or(0),
            scope: Scope::of(parsed),
            signed: parsed.tbs_cert_list.as_ref().to_vec(),
            signature: parsed.signature_value.data.to_vec(),
            algorithm: parsed.signature_algorithm.algorithm.as_bytes().to_vec(),
        })
    }

    fn is_signed_by(&self, key: &SubjectPublicKeyInfoDer<'_>, algorithms: WebPkiSupportedAlgorithms) -> bool {
        let Ok(key) = RawPublicKeyEntity::try_from(key) else {
            return false;
        };
        // An identifier in DER: a tag, a length, the name, and perhaps more.
        let fitting = algorithms.all.iter().filter(|algorithm| {
            let identifier = algorithm.signature_alg_id();
            identifier.get(2..).is_some_and(|name| name.starts_with(&self.algorithm))
        });
        let mut fitting = fitting.copied();
        fitting.any(|algorithm| key.verify_signature(algorithm, &self.signed, &self.signature).is_ok())
    }

    fn signer(
        &self,
        parsed: &CertificateRevocationList<'_>,
        authorities: &[CertificateDer<'_>],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Signer {
        let mut signer = Signer::Other;
        // One authority may have two keys while they change.
        for authority in authorities {
            let Ok((_, authority)) = X509Certificate::from_der(authority) else {
                continue;
            };
            if authority.subject().as_raw() == parsed.issuer().as_raw() {
                if self.is_signed_by(&authority.public_key().raw.into(), algorithms) {
                    return Signer::Authority;
                }
                signer = Signer::Forger;
            }
        }
        signer
    }
}

impl Scope {
    fn of(list: &CertificateRevocationList<'_>) -> Self {
        let mut scope = Self { leaves: true, authorities: true, places: None };
        for extension in list.extensions() {
            if extension.oid != OID_X509_EXT_ISSUER_DISTRIBUTION_POINT {
                continue;
            }
            let ParsedExtension::IssuingDistributionPoint(point) = extension.parsed_extension() else {
                // It names what it names, and is complete for nothing that we know.
                return Self::default();
            };
            scope = Self {
                leaves: !point.only_contains_ca_certs,
                authorities: !point.only_contains_user_certs,
                places: Some(addresses(point.distribution_point.as_ref()).map(str::to_owned).collect()),
            };
        }
        scope
    }

    fn holds(&self, certificate: &Cert<'_>, is_leaf: bool) -> bool {
        if !(if is_leaf { self.leaves } else { self.authorities }) {
            return false;
        }
        let Some(places) = &self.places else {
            return true;
        };
        let der = certificate.der();
        let Ok((_, parsed)) = X509Certificate::from_der(&der) else {
            return false;
        };
        let named = parsed.get_extension_unique(&OID_X509_EXT_CRL_DISTRIBUTION_POINTS);
        match named.map(|extension| extension.map(|it| it.parsed_extension())) {
            Ok(None) => true,
            Ok(Some(ParsedExtension::CRLDistributionPoints(points))) => points.iter().any(|point| {
                let whole = point.reasons.is_none() && point.crl_issuer.is_none();
                whole
                    && addresses(point.distribution_point.as_ref()).any(|it| places.iter().any(|at| at == it))
            }),
            Ok(Some(_)) | Err(_) => false,
        }
    }
}

fn addresses<'a>(point: Option<&'a DistributionPointName<'_>>) -> impl Iterator<Item = &'a str> {
    let names = match point {
        Some(DistributionPointName::FullName(names)) => names.as_slice(),
        Some(DistributionPointName::NameRelativeToCRLIssuer(_)) | None => &[],
    };
    names.iter().filter_map(|name| if let GeneralName::URI(address) = name { Some(*address) } else { None })
}

/// Whether an issuer's key may sign lists: if it says what its key is for, then this too.
fn signs_lists(issuer: &Cert<'_>) -> bool {
    let der = issuer.der();
    let Ok((_, parsed)) = X509Certificate::from_der(&der) else {
        return false;
    };
    parsed.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()))
}

/// Some hundred thousand revoked certificates.
const LISTS_LEN_MAX: u64 = 32 << 20;
/// In an error.
const ISSUERS_SHOWN_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::super::organisation::Organisation;
    use super::super::pki::certificates;
    use super::*;

    fn loaded(by: &Organisation, file: &Path) -> Result<RevocationLists, String> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let authorities = certificates("client_ca_file", &by.ca_file()).unwrap();
        RevocationLists::load(file, &authorities, algorithms).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_of_another_authority_are_refused_whatever_it_calls_itself() {
        let (by, namesake) = (Organisation::new(), Organisation::new());
        let stranger = Organisation::called("Elsewhere");
        assert_eq!(loaded(&by, &by.revokes(&[7], 1)).unwrap().lists.len(), 2);
        let error = loaded(&by, &namesake.revokes(&[], 1)).unwrap_err();
        let told =
            "its list of `CN=Example Root` is not signed by the authority of that name in client_ca_file";
        assert!(error.ends_with(told), "{error}");
        let error = loaded(&by, &stranger.revokes(&[], 1)).unwrap_err();
        let told = "none of its lists is of an authority in client_ca_file, but of `CN=Elsewhere Issuer`, `CN=Elsewhere Root`";
        assert!(error.ends_with(told), "{error}");
    }
}
