//! What a configuration names and what must be there before it runs. Looks at files; opens none.

use std::path::Path;

use super::{Config, Problem, TokenSource, Tunnel};

/// Files and variables that are named and not there, for `run` to refuse at once: only `init` makes trust.
pub fn missing_files(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut look = |path: &Path, place: &str, remedy: &str| {
        if !path.exists() {
            let message = format!("{} is not there", path.display());
            problems.push(problem(place, message, remedy));
        }
    };
    let by_init = "run `bridge init`, and bring here what it wrote for this site";
    match &config.tunnel {
        Tunnel::Hub(hub) => look(&hub.identity, "tunnel.identity", by_init),
        Tunnel::Edge(edge) => {
            look(&edge.token_file, "tunnel.token_file", by_init);
            if let Some(login) = edge.egress.proxy.as_ref().and_then(|proxy| proxy.login.as_ref()) {
                look(&login.password_file, "tunnel.proxy_password_file", "put the proxy's password there");
            }
            if let Some(file) = &edge.outer_ca_file {
                look(file, "tunnel.outer_ca_file", "put it there, or leave the key out");
            }
        }
    }
    let Some(pulsar) = &config.pulsar else {
        return problems;
    };
    if let Some(TokenSource::File(path)) = &pulsar.token {
        look(path, "pulsar.auth.token_file", "put the broker's token there");
    }
    let tls = &pulsar.tls;
    for (place, path) in [
        ("pulsar.tls.ca_file", &tls.ca_file),
        ("pulsar.tls.cert_file", &tls.cert_file),
        ("pulsar.tls.key_file", &tls.key_file),
    ] {
        if let Some(path) = path {
            look(path, place, "put it there, or leave the key out");
        }
    }
    if let Some(TokenSource::Env(name)) = &pulsar.token
        && std::env::var_os(name).is_none()
    {
        let message = format!("the environment has no `{name}`");
        problems.push(problem("pulsar.auth.token", message, "set it to the broker's token"));
    }
    problems
}

fn problem(place: &str, message: String, remedy: &str) -> Problem {
    Problem { path: place.into(), message, remedy: remedy.into() }
}
