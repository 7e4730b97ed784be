//! `bridge init`: which of its four forms is meant, and what it made.

use std::io::ErrorKind;
use std::time::SystemTime;

use pulsar_bridge::exit::Exit;
use pulsar_bridge::tunnel::init::{self, HubPin, InitError, Outcome, Request};

use crate::cli::InitArgs;

/// Makes keys, tokens and configurations.
pub fn init(args: InitArgs) -> Exit {
    let request = match request(args) {
        Ok(request) => request,
        Err(message) => {
            eprintln!("bridge: init: {message}");
            return Exit::Usage;
        }
    };
    match init::init(&request, SystemTime::now()) {
        Ok(outcome) => super::tell(&told(&outcome)),
        Err(error) => {
            eprintln!("bridge: init: {error}");
            exit(&error)
        }
    }
}

fn request(args: InitArgs) -> Result<Request, String> {
    let InitArgs { hub, edge: edges, url, out, rotate, own_key, pin } = args;
    if let Some(edge) = rotate {
        return Ok(Request::Rotate { edge, out });
    }
    if own_key {
        let hub = match (hub, pin) {
            (Some(hub), Some(pin)) => Some(HubPin::parse(&hub, &pin).map_err(|error| error.to_string())?),
            (Some(_), None) => return Err("--hub needs --pin, as the hub's operator told it".into()),
            (None, _) => None,
        };
        return Ok(Request::OwnKey { edge: only(edges)?, out, hub });
    }
    match (hub, url) {
        (Some(hub), Some(url)) => Ok(Request::New { hub, edges, url, out }),
        (Some(_), None) => Err("--hub needs --url tls://HOST:PORT, where edges reach it".into()),
        (None, url) => Ok(Request::AddEdge { edge: only(edges)?, out, url }),
    }
}

fn only(mut edges: Vec<String>) -> Result<String, String> {
    match (edges.pop(), edges.is_empty()) {
        (Some(edge), true) => Ok(edge),
        (_, _) => Err("name one edge; several only with --hub and --url".into()),
    }
}

fn told(outcome: &Outcome) -> String {
    let files = outcome.written.iter().map(|file| format!("wrote {}\n", file.display()));
    let steps = outcome.next_steps.iter().enumerate().map(|(index, step)| format!("{}. {step}\n", index + 1));
    format!("{}next:\n{}", files.collect::<String>(), steps.collect::<String>())
}

fn exit(error: &InitError) -> Exit {
    match error {
        InitError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => Exit::NotPermitted,
        InitError::Keys(_) => Exit::Fault,
        InitError::Io { .. }
        | InitError::Exists(_)
        | InitError::Name(_)
        | InitError::ReservedName(_)
        | InitError::Twice(_)
        | InitError::NoEdge
        | InitError::Pin
        | InitError::NoHub { .. }
        | InitError::NoSuchEdge { .. }
        | InitError::NoUrl(_)
        | InitError::OwnKey(_)
        | InitError::SecretFile(_) => Exit::Usage,
    }
}
