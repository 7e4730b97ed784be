//! `bridge init`: which of its forms is meant, and what it made.

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
    let InitArgs {
        hub,
        edge: edges,
        url,
        out,
        rotate,
        renew_issuer,
        rotate_root,
        repin,
        own_key,
        pin,
        forwards_only,
    } = args;
    if let Some(edge) = rotate {
        return Ok(Request::Rotate { edge, out });
    }
    if !renew_issuer.is_empty() {
        return Ok(Request::RenewIssuer { offline: renew_issuer, out });
    }
    if let Some(offline) = rotate_root {
        return Ok(Request::RotateRoot { offline, out });
    }
    if let Some(token) = repin {
        let pins = init::pins(&pin).map_err(|error| error.to_string())?;
        return Ok(Request::Repin { token, pins, out });
    }
    if own_key {
        let hub = match (hub, pin.is_empty()) {
            (Some(hub), false) => Some(HubPin::parse(&hub, &pin).map_err(|error| error.to_string())?),
            (Some(_), true) => return Err("--hub needs --pin, as the hub's operator told it".into()),
            (None, true) => None,
            (None, false) => return Err("--pin needs --hub, the hub's name".into()),
        };
        return Ok(Request::OwnKey { edge: only(edges)?, out, hub });
    }
    if !pin.is_empty() {
        return Err("--pin goes with --own-key or --repin".into());
    }
    match (hub, url) {
        (Some(hub), Some(url)) => Ok(Request::New { hub, edges, url, out, forwards_only }),
        (Some(_), None) => Err("--hub needs --url tls://HOST:PORT, where edges reach it".into()),
        (None, url) => Ok(Request::AddEdge { edge: only(edges)?, out, url, forwards_only }),
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
        | InitError::NoRoot { .. }
        | InitError::Roots(_)
        | InitError::RootsOfTwoHubs(_, _)
        | InitError::NoToken { .. }
        | InitError::OwnKey(_)
        | InitError::SecretFile(_) => Exit::Usage,
    }
}
