//! `bridge init`: makes keys, tokens and configurations, and says what to do with them.
//! The only place that makes trust; overwrites nothing, and half of a set is never left behind knowingly.

mod certificates;
mod configuration;
mod files;
mod offline;
mod pins;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::identity::{CHAIN_FILE, ISSUER_KEY_FILE, read_chain};
use super::key::{self, EdgeCertificate, SpkiHash, spki_sha256};
use super::tombstones;
use super::trust::is_root;
use crate::config::LinkUrl;
use crate::config::credential::{EdgeKey, JoinToken, is_site_name};
use crate::config::secret_file;
use certificates::{Root, issue};
use configuration::Carries;
use files::Files;
use offline::{ROOT_FILE, ROOT_KEY_FILE};

pub use pins::{HubPin, pins};

/// What to make.
#[derive(Clone, Debug)]
pub enum Request {
    /// Everything for one hub and its first edges.
    New {
        /// The hub's site name.
        hub: String,
        /// The edges' site names.
        edges: Vec<String>,
        /// Where the edges reach the hub.
        url: LinkUrl,
        /// Where to write.
        out: PathBuf,
        /// Whether the sites have no clusters.
        forwards_only: bool,
    },
    /// One more edge for a hub that was made in `out`.
    AddEdge {
        /// Its site name.
        edge: String,
        /// Where the hub's files are.
        out: PathBuf,
        /// Where the edge reaches the hub; otherwise as the other edges do.
        url: Option<LinkUrl>,
        /// Whether it has no cluster; as the hub, otherwise.
        forwards_only: bool,
    },
    /// A second key for an edge.
    Rotate {
        /// Its site name.
        edge: String,
        /// Where the hub's files are.
        out: PathBuf,
    },
    /// A new issuer for a hub, under the roots that are kept in these folders.
    RenewIssuer {
        /// Where `root.key` and `root.crt` are; two while roots rotate.
        offline: Vec<PathBuf>,
        /// Where to write.
        out: PathBuf,
    },
    /// A new root for a hub, and an issuer under it and the old one.
    RotateRoot {
        /// Where the old `root.key` and `root.crt` are.
        offline: PathBuf,
        /// Where to write.
        out: PathBuf,
    },
    /// At the edge: its token with other pins, and the key that it has.
    Repin {
        /// The token's file.
        token: PathBuf,
        /// The hub's roots.
        pins: Vec<SpkiHash>,
        /// Where to write.
        out: PathBuf,
    },
    /// At the edge: a key that nobody else ever sees.
    OwnKey {
        /// Its site name.
        edge: String,
        /// Where to write.
        out: PathBuf,
        /// The hub, once its operator told name and pin: then the token is written too.
        hub: Option<HubPin>,
    },
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The files, in order.
    pub written: Vec<PathBuf>,
    /// What the operator does next, one line each. No secret is in them.
    pub next_steps: Vec<String>,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Nothing is ever overwritten.
    #[error("{0} exists: nothing was written; choose another --out, or move it away")]
    Exists(PathBuf),
    /// No site can have this name.
    #[error("`{0}` is no site name: 1 to 32 of a-z, 0-9 and inner hyphens")]
    Name(String),
    /// The name is taken by init's own folders.
    #[error("an edge cannot be called `{0}`: the folder of that name holds other keys; choose another")]
    ReservedName(String),
    /// Two sites with one name.
    #[error("`{0}` is named twice: every site needs a name of its own")]
    Twice(String),
    /// No edges.
    #[error("no edge is named: add --edge NAME")]
    NoEdge,
    /// Not a pin.
    #[error(
        "the pin is not 32 bytes in base64url: copy the 43 characters that `bridge init` printed at the hub; two with a comma while its roots rotate"
    )]
    Pin,
    /// There is no hub that the edge could join.
    #[error("{file}: {wrong}: give the --out of the `bridge init` that made the hub")]
    NoHub {
        /// What was looked for.
        file: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// There is no such edge to give a second key to.
    #[error(
        "no edge `{edge}` was made in {out}: it has no folder there and no entry in hub/hub.json; write the name of one that was made, or make it: bridge init --edge {edge} --out {out}"
    )]
    NoSuchEdge {
        /// Its name.
        edge: String,
        /// Where it was looked for.
        out: PathBuf,
    },
    /// Nobody told the URL.
    #[error("no other edge's edge.json in {0} tells the hub's URL: add --url")]
    NoUrl(PathBuf),
    /// The file system's word.
    #[error("{file}: {source}; choose another --out")]
    Io {
        /// The file.
        file: PathBuf,
        /// Its word.
        source: std::io::Error,
    },
    /// The offline folder holds no root.
    #[error("{file}: {wrong}: give the `offline` folder that `bridge init` made for the hub")]
    NoRoot {
        /// What was looked for.
        file: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// More roots than edges take.
    #[error("{0} roots: name one folder, or two while roots rotate")]
    Roots(usize),
    /// Roots of two hubs do not make one chain.
    #[error("the roots are of two hubs, `{0}` and `{1}`: name folders of one hub")]
    RootsOfTwoHubs(String, String),
    /// No token to give other pins.
    #[error("{file}: {wrong}: name the token's file of this edge")]
    NoToken {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// An own key that is not one.
    #[error("{0}: not the key that `bridge init --own-key` wrote: move it away and make a new one")]
    OwnKey(PathBuf),
    /// The key could not be read safely.
    #[error("{0}; {remedy}", remedy = .0.remedy())]
    SecretFile(#[from] secret_file::SecretFileError),
    /// Certificates or keys could not be made.
    #[error("cannot make keys: {0}")]
    Keys(String),
}

impl From<rcgen::Error> for InitError {
    fn from(error: rcgen::Error) -> Self {
        Self::Keys(error.to_string())
    }
}

impl From<rustls::Error> for InitError {
    fn from(error: rustls::Error) -> Self {
        Self::Keys(error.to_string())
    }
}

/// Makes what was asked; `now` dates the certificates.
pub fn init(request: &Request, now: SystemTime) -> Result<Outcome, InitError> {
    match request {
        Request::New { hub, edges, url, out, forwards_only } => {
            new_bridge(hub, edges, (url, Carries::of(*forwards_only)), out, now)
        }
        Request::AddEdge { edge, out, url, forwards_only } => {
            add_edge(edge, out, url.as_ref(), *forwards_only)
        }
        Request::Rotate { edge, out } => rotate(edge, out),
        Request::RenewIssuer { offline, out } => offline::renew_issuer(offline, out, now),
        Request::RotateRoot { offline, out } => offline::rotate_root(offline, out, now),
        Request::Repin { token, pins, out } => pins::repin(token, pins, out),
        Request::OwnKey { edge, out, hub } => own_key(edge, out, hub.as_ref()),
    }
}

fn new_bridge(
    hub: &str,
    edges: &[String],
    (url, carries): (&LinkUrl, Carries),
    out: &Path,
    now: SystemTime,
) -> Result<Outcome, InitError> {
    site_name(hub)?;
    let mut names = BTreeSet::from([hub]);
    for edge in edges {
        edge_name(edge)?;
        if !names.insert(edge) {
            return Err(InitError::Twice(edge.clone()));
        }
    }
    if edges.is_empty() {
        return Err(InitError::NoEdge);
    }
    let root = Root::make(hub, now)?;
    let identity = issue(hub, &[root.signer()], now)?;
    let mut files = Files::in_folder(out);
    files.add(&format!("offline/{ROOT_KEY_FILE}"), root.key.clone());
    files.add(&format!("offline/{ROOT_FILE}"), root.certificate());
    files.add(&format!("hub/keys/{ISSUER_KEY_FILE}"), identity.issuer_key);
    files.add(&format!("hub/keys/{CHAIN_FILE}"), identity.chain);
    files.add(&format!("hub/keys/{}", tombstones::FILE), tombstones::HEAD.to_owned());
    let mut keys = Vec::new();
    for edge in edges {
        let made = make_edge(hub, edge, vec![root.pin], (url, carries))?;
        keys.push(made.key);
        files.add(&format!("{edge}/edge.json"), made.configuration);
        files.add(&format!("{edge}/token"), made.token);
    }
    files.add("hub/hub.json", configuration::hub(hub, url, &keys, carries));
    let mut next_steps = vec![
        format!(
            "move {} away from here, to where no network is: it signs issuers only, the hub does not need it",
            out.join("offline").display()
        ),
        match carries {
            Carries::Topics => "in hub.json and edge.json set each side's own Pulsar addresses".to_owned(),
            Carries::Ports => "in hub.json say what the forward is to reach and where to listen, and in edge.json the same target in policy.forward".to_owned(),
        },
        format!("on the hub: bridge run --config {}", out.join("hub/hub.json").display()),
        format!(
            "keep {} with the keys beside it, wherever they go and whenever they are restored, in its latest form: it keeps out the edges' keys that were taken away",
            out.join("hub/keys").join(tombstones::FILE).display()
        ),
    ];
    for edge in edges {
        next_steps.push(format!(
            "bring {} to the edge by a way that nobody else can read (token is a secret), there: bridge run --config edge.json",
            out.join(edge).display()
        ));
    }
    next_steps.push(format!(
        "an edge that makes its own key wants: --hub {hub} --pin {}",
        URL_SAFE_NO_PAD.encode(root.pin)
    ));
    let written = files.write()?;
    Ok(Outcome { written, next_steps })
}

fn add_edge(
    edge: &str,
    out: &Path,
    url: Option<&LinkUrl>,
    forwards_only: bool,
) -> Result<Outcome, InitError> {
    edge_name(edge)?;
    let hub = Hub::read(out)?;
    if hub.name == edge {
        return Err(InitError::Twice(edge.to_owned()));
    }
    let url = match url {
        Some(url) => url.clone(),
        None => configuration::url_of_siblings(out).ok_or_else(|| InitError::NoUrl(out.to_owned()))?,
    };
    let carries = Carries::of(forwards_only || configuration::has_no_cluster(&out.join("hub/hub.json")));
    let made = make_edge(&hub.name, edge, hub.pins, (&url, carries))?;
    let mut files = Files::in_folder(out);
    files.add(&format!("{edge}/edge.json"), made.configuration);
    files.add(&format!("{edge}/token"), made.token);
    let written = files.write()?;
    let next_steps = vec![
        format!("add to tunnel.edges of hub.json: {}", configuration::edge_entry(&made.key, carries)),
        match carries {
            Carries::Topics => {
                "add its routes to `routes` of hub.json, then reload the hub (SIGHUP)".to_owned()
            }
            Carries::Ports => {
                "add its forwards to `forwards` of hub.json, then reload the hub (SIGHUP)".to_owned()
            }
        },
        format!("bring {} to the edge by a way that nobody else can read", out.join(edge).display()),
    ];
    Ok(Outcome { written, next_steps })
}

fn rotate(edge: &str, out: &Path) -> Result<Outcome, InitError> {
    edge_name(edge)?;
    let hub = Hub::read(out)?;
    // Either may be gone: the folder was brought to the edge, or hub.json is kept elsewhere by now.
    if !out.join(edge).is_dir() && !configuration::lists(&out.join("hub/hub.json"), edge) {
        return Err(InitError::NoSuchEdge { edge: edge.to_owned(), out: out.to_owned() });
    }
    let token = JoinToken::new(&hub.name, edge, key::random()?, hub.pins).map_err(malformed)?;
    let key = EdgeCertificate::of_token(&token)?.edge_key;
    let mut files = Files::in_folder(out);
    let file = files.first_free(|number| format!("{edge}/token-{number}"))?;
    files.add(&file, token.encode().expose().to_owned() + "\n");
    let written = files.write()?;
    let next_steps = vec![
        format!("add to the keys of `{edge}` in tunnel.edges of hub.json, beside the old one: \"{key}\""),
        format!(
            "reload the hub (SIGHUP), then put {file} in the place of the edge's token: it finds it by itself"
        ),
        format!(
            "when `bridge status` at the hub shows the edge's link by the new key, and none as `retiring` (what is forwarded on such a link goes with the old key): remove the old key of `{edge}` from hub.json and reload the hub"
        ),
    ];
    Ok(Outcome { written, next_steps })
}

fn own_key(edge: &str, out: &Path, hub: Option<&HubPin>) -> Result<Outcome, InitError> {
    edge_name(edge)?;
    let mut files = Files::in_folder(out);
    let own_file = format!("{edge}/own.key");
    let path = out.join(&own_file);
    let seed = match path.exists() {
        true => read_own_key(&path)?,
        false => {
            let seed: [u8; 32] = key::random()?;
            files.add(&own_file, URL_SAFE_NO_PAD.encode(seed) + "\n");
            seed
        }
    };
    let public = EdgeCertificate::of_seed(edge, &seed)?.edge_key;
    let mut next_steps = vec![format!(
        "tell the hub's operator (it is not secret), for the keys of `{edge}` in tunnel.edges: {public}"
    )];
    match hub {
        Some(hub) => {
            let token = JoinToken::new(&hub.name, edge, seed, hub.pins.clone()).map_err(malformed)?;
            files.add(&format!("{edge}/token"), token.encode().expose().to_owned() + "\n");
            next_steps.push("set tunnel.token_file of edge.json to the token".to_owned());
        }
        None => next_steps.push(
            "then run this again with the --hub NAME --pin PIN that they tell, to make the token".to_owned(),
        ),
    }
    let written = files.write()?;
    Ok(Outcome { written, next_steps })
}

fn read_own_key(path: &Path) -> Result<[u8; 32], InitError> {
    let text = secret_file::read(path, OWN_KEY_LEN_MAX)?;
    let bytes = URL_SAFE_NO_PAD.decode(text.expose().trim()).ok();
    let seed = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    seed.ok_or_else(|| InitError::OwnKey(path.to_owned()))
}

/// An edge's files, and its public key for the hub.
struct MadeEdge {
    key: EdgeKey,
    token: String,
    configuration: String,
}

fn make_edge(
    hub: &str,
    edge: &str,
    pins: Vec<SpkiHash>,
    (url, carries): (&LinkUrl, Carries),
) -> Result<MadeEdge, InitError> {
    let token = JoinToken::new(hub, edge, key::random()?, pins).map_err(malformed)?;
    Ok(MadeEdge {
        key: EdgeCertificate::of_token(&token)?.edge_key,
        token: token.encode().expose().to_owned() + "\n",
        configuration: configuration::edge(edge, url, carries),
    })
}

/// A hub that init made before: its name, and the pins of its roots.
struct Hub {
    name: String,
    pins: Vec<SpkiHash>,
}

impl Hub {
    fn read(out: &Path) -> Result<Self, InitError> {
        let file = out.join("hub/hub.json");
        let name = configuration::site_of(&file).map_err(|wrong| InitError::NoHub { file, wrong })?;
        let file = out.join("hub/keys").join(CHAIN_FILE);
        let no_hub = |wrong: &str| InitError::NoHub { file: file.clone(), wrong: wrong.to_owned() };
        let chain = read_chain(&file).map_err(|wrong| no_hub(&wrong))?;
        // While roots rotate the last is the next one, and there is an issuer's certificate by each.
        let pins: Vec<SpkiHash> =
            chain.iter().filter(|it| is_root(it)).filter_map(spki_sha256).rev().collect();
        if pins.is_empty() {
            return Err(no_hub("it holds no root certificate after the issuer"));
        }
        Ok(Self { name, pins })
    }
}

fn site_name(name: &str) -> Result<&str, InitError> {
    match is_site_name(name) {
        true => Ok(name),
        false => Err(InitError::Name(super::reason::shown(name))),
    }
}

fn edge_name(name: &str) -> Result<(), InitError> {
    match site_name(name)? {
        "hub" | "offline" => Err(InitError::ReservedName(name.to_owned())),
        _ => Ok(()),
    }
}

fn malformed(error: crate::config::credential::CredentialError) -> InitError {
    InitError::Keys(error.to_string())
}

const OWN_KEY_LEN_MAX: u64 = 256;
