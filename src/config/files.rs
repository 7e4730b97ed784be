//! The files that a configuration names and that must be there before it runs. Looks; does not open.

use std::path::Path;

use super::{Config, Problem, TokenSource, Tunnel};

/// Files that are named and not there, for `run` to refuse at once: only `init` makes trust.
pub fn missing_files(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut look = |path: &Path, place: &str, remedy: &str| {
        if !path.exists() {
            problems.push(Problem {
                path: place.into(),
                message: format!("{} is not there", path.display()),
                remedy: remedy.into(),
            });
        }
    };
    let by_init = "run `bridge init`, and bring here what it wrote for this site";
    match &config.tunnel {
        Tunnel::Hub(hub) => look(&hub.identity, "tunnel.identity", by_init),
        Tunnel::Edge(edge) => look(&edge.token_file, "tunnel.token_file", by_init),
    }
    let Some(pulsar) = &config.pulsar else {
        return problems;
    };
    if let Some(TokenSource::File(path)) = &pulsar.token {
        look(path, "pulsar.auth", "put the broker's token there");
    }
    let tls = &pulsar.tls;
    for (key, path) in [
        ("ca_file", &tls.ca_file),
        ("cert_file", &tls.cert_file),
        ("key_file", &tls.key_file),
    ] {
        if let Some(path) = path {
            look(
                path,
                &format!("pulsar.tls.{key}"),
                "put it there, or leave the key out",
            );
        }
    }
    problems
}
