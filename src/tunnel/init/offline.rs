//! What is done with a hub's root where it is kept: new issuers, and a root that takes its place.
//! Reads that folder and writes beside it; the hub's own files and the edges' are their operators' to replace.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificates::{Identity, ROOT_OF, Root, issue};
use super::files::Files;
use super::{InitError, Outcome};
use crate::config::credential::is_site_name;
use crate::config::secret_file;
use crate::tunnel::identity::{CHAIN_FILE, ISSUER_KEY_FILE, read_chain};
use crate::tunnel::key::{SpkiHash, sha256, spki_sha256};
use crate::tunnel::tombstones;

/// A root where it is kept.
struct Offline {
    hub: String,
    signer: Issuer<'static, KeyPair>,
    certificate: String,
    pin: SpkiHash,
}

impl Offline {
    fn read(folder: &Path) -> Result<Self, InitError> {
        let key_text = secret_file::read(&folder.join(ROOT_KEY_FILE), ROOT_FILE_LEN_MAX)?;
        let file = folder.join(ROOT_FILE);
        let no_root = |wrong: &str| InitError::NoRoot { file: file.clone(), wrong: wrong.to_owned() };
        let chain = read_chain(&file).map_err(|wrong| no_root(&wrong))?;
        let [root] = &chain[..] else {
            return Err(no_root("it does not hold one certificate"));
        };
        let hub = hub_of(root).ok_or_else(|| no_root("it is not the root of a hub"))?;
        let key = KeyPair::from_pem(key_text.expose())
            .map_err(|_| no_root(&format!("{ROOT_KEY_FILE} beside it holds no private key in PEM")))?;
        let pin = sha256(&key.subject_public_key_info());
        if spki_sha256(root) != Some(pin) {
            return Err(no_root(&format!("{ROOT_KEY_FILE} beside it is not its key")));
        }
        Ok(Self { hub, signer: Issuer::from_ca_cert_der(root, key)?, certificate: pem(root), pin })
    }

    fn signer(&self) -> (&Issuer<'static, KeyPair>, String) {
        (&self.signer, self.certificate.clone())
    }
}

/// A new issuer under the root in each of these folders.
pub(super) fn renew_issuer(folders: &[PathBuf], out: &Path, now: SystemTime) -> Result<Outcome, InitError> {
    let roots = folders.iter().map(|folder| Offline::read(folder)).collect::<Result<Vec<_>, _>>()?;
    let Some((first, others)) = roots.split_first() else {
        return Err(InitError::Roots(0));
    };
    if others.len() >= ROOTS_MAX {
        return Err(InitError::Roots(roots.len()));
    }
    if let Some(other) = others.iter().find(|other| other.hub != first.hub) {
        return Err(InitError::RootsOfTwoHubs(first.hub.clone(), other.hub.clone()));
    }
    let signers: Vec<_> = roots.iter().map(Offline::signer).collect();
    let made = issue(&first.hub, &signers, now)?;
    let mut files = Files::in_folder(out);
    add(&mut files, "", &made);
    let written = files.write()?;
    let pins: Vec<_> = roots.iter().map(|root| URL_SAFE_NO_PAD.encode(root.pin)).collect();
    let next_steps = vec![
        replace_identity(out),
        format!(
            "if the old issuer's key was stolen: \"trust_after\": \"{}\" under `tunnel` of every edge",
            made.since
        ),
        format!(
            "edges join whose tokens pin {}: a root that was replaced is not to sign again",
            pins.join(" or ")
        ),
    ];
    Ok(Outcome { written, next_steps })
}

/// A new root beside the one in this folder, and an issuer that both vouch for.
pub(super) fn rotate_root(folder: &Path, out: &Path, now: SystemTime) -> Result<Outcome, InitError> {
    let old = Offline::read(folder)?;
    let new = Root::make(&old.hub, now)?;
    let made = issue(&old.hub, &[old.signer(), new.signer()], now)?;
    let mut files = Files::in_folder(out);
    files.add(&format!("offline/{ROOT_KEY_FILE}"), new.key.clone());
    files.add(&format!("offline/{ROOT_FILE}"), new.certificate());
    add(&mut files, "keys/", &made);
    let written = files.write()?;
    let (old_pin, new_pin) = (URL_SAFE_NO_PAD.encode(old.pin), URL_SAFE_NO_PAD.encode(new.pin));
    let offline = out.join("offline");
    let next_steps = vec![
        format!("move {} to where no network is, beside the old one", offline.display()),
        replace_identity(&out.join("keys")),
        format!(
            "at every edge, then put what it writes in the place of its token: bridge init --repin token --pin {new_pin},{old_pin} --out ."
        ),
        format!(
            "when every edge has done so, end the old root at the hub: bridge init --renew-issuer {} --out DIR",
            offline.display()
        ),
        format!(
            "and at every edge; until then whoever has the old root's key can pose as the hub to it: bridge init --repin token --pin {new_pin} --out ."
        ),
    ];
    Ok(Outcome { written, next_steps })
}

fn add(files: &mut Files, folder: &str, made: &Identity) {
    files.add(&format!("{folder}{ISSUER_KEY_FILE}"), made.issuer_key.clone());
    files.add(&format!("{folder}{CHAIN_FILE}"), made.chain.clone());
}

fn replace_identity(keys: &Path) -> String {
    format!(
        "put {} in the place of those in the hub's `tunnel.identity` (and of hub/keys where `bridge init` adds edges), {CHAIN_FILE} last: it finds them within a second, and no edge is touched; the file `{}` stays there",
        keys.join(format!("{{{ISSUER_KEY_FILE},{CHAIN_FILE}}}")).display(),
        tombstones::FILE
    )
}

/// The hub that a root is of, as `bridge init` named it.
fn hub_of(root: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(root).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    name.strip_prefix(ROOT_OF).filter(|hub| is_site_name(hub)).map(str::to_owned)
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The root's private key, in a folder of its own.
pub(super) const ROOT_KEY_FILE: &str = "root.key";
/// Its certificate, beside it.
pub(super) const ROOT_FILE: &str = "root.crt";
const ROOT_FILE_LEN_MAX: u64 = 4096;
/// The one in use and the one that takes its place; edges take chains no longer than that.
const ROOTS_MAX: usize = 2;
