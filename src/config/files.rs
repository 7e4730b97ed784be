//! What a configuration names and what must be there before it runs. Looks at files; opens none. Where a secret's file
//! is named and not there, the name may be the secret itself, pasted in its place: it is not shown.

use std::path::{Path, PathBuf};

use super::{ClientAuthorities, Config, EdgeCredential, HubCertificate, Problem, TokenSource, Tunnel};

/// Files and variables that are named and not there, for `run` to refuse at once: only `init` makes trust.
pub fn missing_files(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut look = |path: &Path, place: &str, remedy: &str| {
        if !path.exists() {
            let message = format!("{} is not there", path.display());
            problems.push(problem(place, message, remedy));
        }
    };
    let mut secrets: Vec<(&PathBuf, &str, &str)> = Vec::new();
    let by_init = "run `bridge init`, and bring here what it wrote for this site";
    match &config.tunnel {
        Tunnel::Hub(hub) => {
            match &hub.certificate {
                HubCertificate::Issuer(dir) => look(dir, "tunnel.identity", by_init),
                HubCertificate::Own(files) => {
                    look(&files.cert, "tunnel.cert_file", "put it there");
                    secrets.push((&files.key, "tunnel.key_file", "put it there"));
                }
            }
            if let Some(ClientAuthorities { ca_file, crl_file }) = &hub.client_authorities {
                look(ca_file, "tunnel.client_ca_file", "put it there");
                if let Some(file) = crl_file {
                    look(file, "tunnel.crl_file", "put it there, or leave the key out");
                }
            }
        }
        Tunnel::Edge(edge) => {
            match &edge.credential {
                EdgeCredential::Token(file) => secrets.push((file, "tunnel.token_file", by_init)),
                EdgeCredential::Certificate(pki) => {
                    look(&pki.ca_file, "tunnel.ca_file", "put it there");
                    look(&pki.own.cert, "tunnel.cert_file", "put it there");
                    secrets.push((&pki.own.key, "tunnel.key_file", "put it there"));
                }
            }
            if let Some(login) = edge.egress.proxy.as_ref().and_then(|proxy| proxy.login.as_ref()) {
                let remedy = "put the proxy's password there";
                secrets.push((&login.password_file, "tunnel.proxy_password_file", remedy));
            }
            if let Some(file) = &edge.outer_ca_file {
                look(file, "tunnel.outer_ca_file", "put it there, or leave the key out");
            }
        }
    }
    if let Some(pulsar) = &config.pulsar {
        if let Some(TokenSource::File(path)) = &pulsar.token {
            secrets.push((path, "pulsar.auth.token_file", "put the broker's token there"));
        }
        let tls = &pulsar.tls;
        for (place, path) in [("pulsar.tls.ca_file", &tls.ca_file), ("pulsar.tls.cert_file", &tls.cert_file)]
        {
            if let Some(path) = path {
                look(path, place, "put it there, or leave the key out");
            }
        }
        if let Some(path) = &tls.key_file {
            secrets.push((path, "pulsar.tls.key_file", "put it there, or leave the key out"));
        }
        if let Some(TokenSource::Env(name)) = &pulsar.token
            && std::env::var_os(name).is_none()
        {
            let message = format!("the environment has no `{name}`");
            problems.push(problem("pulsar.auth.token", message, "set it to the broker's token"));
        }
    }
    let missing = secrets.into_iter().filter(|(path, ..)| !path.exists());
    problems.extend(missing.map(|(path, place, remedy)| problem(place, missing_secret(path), remedy)));
    problems
}

/// As far down as there is something: that is no secret.
fn missing_secret(path: &Path) -> String {
    match path.ancestors().skip(1).find(|dir| dir.is_dir()) {
        Some(dir) => format!("below {} the file that it names is not there", dir.display()),
        None => "the file that it names is not there".into(),
    }
}

fn problem(place: &str, message: String, remedy: &str) -> Problem {
    Problem { path: place.into(), message, remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_pasted_in_the_place_of_its_file_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let long = "x".repeat(5000);
        for pasted in ["canary", "bt1.hub.canary", "can/ary/canary", long.as_str()] {
            let told = missing_secret(&dir.path().join(pasted));
            let expected = format!("below {} the file that it names is not there", dir.path().display());
            assert_eq!(told, expected);
        }
    }
}
