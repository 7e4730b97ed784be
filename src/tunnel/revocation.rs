//! An organisation's revocation lists, as a file gave them. Refuses what cannot be the lists of its authorities; whether
//! a certificate is on one of them is not judged here.

use std::path::Path;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::pki::{PkiError, read};
use super::reason::shown;

/// Lists that were read.
#[derive(Debug)]
pub struct RevocationLists {
    /// They.
    pub lists: Vec<CertRevocationList<'static>>,
    /// When the first of them is to be replaced, Unix seconds.
    pub expire: u64,
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
        let mut found = Self { lists: Vec::new(), expire: u64::MAX };
        let (mut issuers, mut is_of_authority) = (Vec::new(), false);
        for der in CertificateRevocationListDer::pem_slice_iter(&text) {
            let der = der.map_err(|error| refused(error.to_string()))?;
            let list = OwnedCertRevocationList::from_der(&der).map_err(|error| refused(error.to_string()))?;
            let (_, parsed) =
                CertificateRevocationList::from_der(&der).map_err(|error| refused(error.to_string()))?;
            let next = parsed.next_update().and_then(|next| u64::try_from(next.timestamp()).ok());
            found.expire = found.expire.min(next.unwrap_or(0));
            found.lists.push(list.into());
            let issuer = shown(&parsed.issuer().to_string());
            match judge(&parsed, authorities, algorithms) {
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

fn judge(
    list: &CertificateRevocationList<'_>,
    authorities: &[CertificateDer<'_>],
    algorithms: WebPkiSupportedAlgorithms,
) -> Signer {
    let is_named = |authority: &&CertificateDer<'_>| {
        let parsed = X509Certificate::from_der(authority);
        parsed.is_ok_and(|(_, parsed)| parsed.subject().as_raw() == list.issuer().as_raw())
    };
    let (signed, signature) = (list.tbs_cert_list.as_ref(), &list.signature_value.data);
    let has_signed = |authority: &CertificateDer<'_>| {
        let Ok(key) = EndEntityCert::try_from(authority) else {
            return false;
        };
        algorithms.all.iter().any(|algorithm| key.verify_signature(*algorithm, signed, signature).is_ok())
    };
    // One authority may have two keys while they change.
    let named: Vec<_> = authorities.iter().filter(is_named).collect();
    if named.is_empty() {
        return Signer::Other;
    }
    if named.into_iter().any(has_signed) { Signer::Authority } else { Signer::Forger }
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
