//! What `run` and `check` do alike: read the configuration, make its temporary trust, open the files it names.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::SystemTime;

use pulsar_bridge::config::{self, ConfigErrors, LinkUrl, Load, Setup};
use pulsar_bridge::exit::Exit;
use pulsar_bridge::site::{self, Site};
use pulsar_bridge::stack;
use pulsar_bridge::tunnel::init::{self, Request};
use tempfile::TempDir;

use super::reload::Keys;

/// Sites that can run, and what drives them.
pub struct Opened {
    /// The file, as messages call it.
    pub file: PathBuf,
    /// The sites.
    pub sites: Vec<Site>,
    /// The load.
    pub load: Option<Load>,
    /// The files of the sites' keys as they were before they were read.
    pub keys: Keys,
}

/// Why not.
pub enum NotOpened {
    /// The configuration.
    Config(ConfigErrors),
    /// `--topics`.
    Usage(String),
}

impl NotOpened {
    /// Says so on stderr.
    pub fn told(&self) -> Exit {
        match self {
            Self::Config(errors) => {
                eprintln!("bridge: {errors}");
                Exit::Refused
            }
            Self::Usage(message) => {
                eprintln!("bridge: --topics: {message}");
                Exit::Usage
            }
        }
    }
}

/// Reads the file, or the built-in configuration without one, and keeps the routes of these topics.
pub fn open(file: Option<PathBuf>, topics: &[String]) -> Result<Opened, NotOpened> {
    let trust = std::cell::OnceCell::new();
    let make = |hub: &str, edges: &[String], url: &LinkUrl| {
        make_trust(hub, edges, url).map(|dir| {
            let out = dir.path().join("trust");
            // Asked for once a file.
            let _ = trust.set(dir);
            out
        })
    };
    let setup = match &file {
        Some(file) => config::load_setup(file, &make),
        None => config::built_in(&make),
    };
    let mut setup = setup.map_err(NotOpened::Config)?;
    if !topics.is_empty() {
        setup.keep_topics(topics).map_err(|error| NotOpened::Usage(error.to_string()))?;
    }
    let file = file.unwrap_or_else(|| config::BUILT_IN_NAME.into());
    let Setup { sites, load } = setup;
    let count = sites.len();
    let key_files: Vec<_> = sites.iter().flat_map(site::key_files).collect();
    let mut keys = Keys::look(&key_files);
    let mut opened = Vec::with_capacity(count);
    let mut problems: Vec<_> = stack::not_built(&sites, load.as_ref()).collect();
    for (index, site) in sites.into_iter().enumerate() {
        let placed = |problem| stack::placed(count, index, problem);
        match Site::open(site) {
            Ok(site) => opened.push(site),
            Err(found) => problems.extend(found.into_iter().map(placed)),
        }
    }
    if !problems.is_empty() {
        return Err(NotOpened::Config(ConfigErrors { file, problems, files_opened: true }));
    }
    // Every file has been read by now, and nothing of the keys shall outlive even a process that is killed.
    if trust.into_inner().map(drop).is_some() {
        keys = Keys::look(&key_files);
    }
    Ok(Opened { file, sites: opened, load, keys })
}

/// Keys and tokens in a folder that only we may read and that goes when we do.
fn make_trust(hub: &str, edges: &[String], url: &LinkUrl) -> Result<TempDir, String> {
    let dir = tempfile::Builder::new()
        .prefix("bridge-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .map_err(|error| error.to_string())?;
    let request = Request::New {
        forwards_only: false,
        hub: hub.to_owned(),
        edges: edges.to_vec(),
        url: url.clone(),
        out: dir.path().join("trust"),
    };
    init::init(&request, SystemTime::now()).map_err(|error| error.to_string())?;
    Ok(dir)
}
