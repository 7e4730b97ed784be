//! An organisation's own PKI in a folder, made for one test: an authority, certificates by it, and its list of those
//! that it took back. Nothing but tests knows of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CrlDistributionPoint, CrlIssuingDistributionPoint, CrlScope, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

pub struct Organisation {
    dir: tempfile::TempDir,
    root: CertifiedIssuer<'static, KeyPair>,
    /// What certificates are signed by, and lies between them and the root.
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate is made of.
#[derive(Clone)]
pub struct Made<'a> {
    /// The first of them names the files too.
    pub names: &'a [&'a str],
    pub usage: Option<ExtendedKeyUsagePurpose>,
    pub serial: u64,
    /// Days from now on which it ends; negative ones are past.
    pub ends: i64,
    /// Where its list is to be had, if it says so.
    pub lists_at: Option<&'a str>,
}

/// An edge's, which is all right.
pub const CLIENT: Made<'static> = Made {
    names: &["bank.example.com"],
    usage: Some(ExtendedKeyUsagePurpose::ClientAuth),
    serial: 7,
    ends: 9,
    lists_at: None,
};

impl Organisation {
    pub fn new() -> Self {
        Self::called("Example")
    }

    pub fn called(organisation: &str) -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params
        };
        let root = CertifiedIssuer::self_signed(
            authority(&format!("{organisation} Root")),
            KeyPair::generate().unwrap(),
        )
        .unwrap();
        let issuer = CertifiedIssuer::signed_by(
            authority(&format!("{organisation} Issuer")),
            KeyPair::generate().unwrap(),
            &root,
        )
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), root.pem()).unwrap();
        Self { dir, root, issuer }
    }

    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate with its issuer's, and its key.
    pub fn certify(&self, made: Made<'_>) -> (PathBuf, PathBuf) {
        let names: Vec<String> = made.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = days_from_now(-20).into();
        params.not_after = days_from_now(made.ends).into();
        params.extended_key_usages = made.usage.into_iter().collect();
        params.serial_number = Some(SerialNumber::from(made.serial));
        params.crl_distribution_points = made.lists_at.into_iter().map(place).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let number = fs::read_dir(self.dir.path()).unwrap().count();
        let stem = format!("{}-{number}", made.names.first().unwrap_or(&"nameless"));
        let (cert, private) = (self.file(&stem, "crt"), self.file(&stem, "key"));
        put(&(certificate.pem() + &self.issuer.pem()), &cert);
        put(&key.serialize_pem(), &private);
        (cert, private)
    }

    /// The lists of both authorities: the issuer takes these back. They are to be replaced so many days from now.
    pub fn revokes(&self, serials: &[u64], ends: i64) -> PathBuf {
        self.revokes_at(None, serials, ends)
    }

    /// The same, and the issuer's list is only for this place, and such certificates.
    pub fn revokes_at(&self, at: Option<(&str, CrlScope)>, serials: &[u64], ends: i64) -> PathBuf {
        let list =
            |serials: &[u64], signer: &CertifiedIssuer<'static, KeyPair>, at: Option<(&str, CrlScope)>| {
                let revoked = serials.iter().map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: days_from_now(-1).into(),
                    reason_code: None,
                    invalidity_date: None,
                });
                let params = CertificateRevocationListParams {
                    this_update: days_from_now(-10).into(),
                    next_update: days_from_now(ends).into(),
                    crl_number: SerialNumber::from(1_u64),
                    issuing_distribution_point: at.map(|(at, scope)| CrlIssuingDistributionPoint {
                        distribution_point: place(at),
                        scope: Some(scope),
                    }),
                    revoked_certs: revoked.collect(),
                    key_identifier_method: KeyIdMethod::Sha256,
                };
                params.signed_by(signer).unwrap().pem().unwrap()
            };
        let file = self.dir.path().join("crl.pem");
        put(&(list(serials, &self.issuer, at) + &list(&[], &self.root, None)), &file);
        file
    }

    fn file(&self, stem: &str, ending: &str) -> PathBuf {
        self.dir.path().join(format!("{stem}.{ending}"))
    }
}

fn place(at: &str) -> CrlDistributionPoint {
    CrlDistributionPoint { uris: vec![at.to_owned()] }
}

/// In one step, as who replaces a file that is in use does it.
fn put(text: &str, file: &Path) {
    let next = file.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(next, file).unwrap();
}

fn days_from_now(days: i64) -> SystemTime {
    let length = Duration::from_secs(days.unsigned_abs() * 86_400);
    if days < 0 { SystemTime::now() - length } else { SystemTime::now() + length }
}
