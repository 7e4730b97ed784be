//! `bridge kubeconfig`: a kubeconfig that leads through a forward, made of one that leads to the cluster directly.
//! Certificates go on being verified, by the name that they had; files and credentials are named, not opened.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pulsar_bridge::config::{self, Forward};
use pulsar_bridge::exit::Exit;
use serde_json::{Map, Value, json};

use crate::cli::KubeconfigArgs;

/// Prints it, or writes it into a file of its own.
pub fn kubeconfig(args: &KubeconfigArgs) -> Exit {
    let file = match super::config_file(args.config.as_deref()) {
        Ok(Some(file)) => file,
        Ok(None) => {
            eprintln!(
                "bridge: kubeconfig: name the bridge's configuration: --config FILE, or $BRIDGE_CONFIG"
            );
            return Exit::Usage;
        }
        Err(exit) => return exit,
    };
    let config = match config::load(&file) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("bridge: {errors}");
            return Exit::Refused;
        }
    };
    let made = forward_of(&config.forwards, &args.forward)
        .and_then(|forward| Ok((forward, read(&args.from)?)))
        .and_then(|(forward, source)| through(&source, forward, args.context.as_deref()));
    let Made { text, note } = match made {
        Ok(made) => made,
        Err(problem) => return refused(&problem),
    };
    let exit = match &args.out {
        None => super::tell(&text),
        Some(out) => match write_new(out, &text) {
            Ok(()) => Exit::Done,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                refused(&format!("{} is there already: name another file", out.display()))
            }
            Err(error) => refused(&format!("{}: {error}", out.display())),
        },
    };
    if exit == Exit::Done
        && let Some(note) = note
    {
        eprintln!("bridge: kubeconfig: {note}");
    }
    exit
}

fn refused(problem: &str) -> Exit {
    eprintln!("bridge: kubeconfig: {problem}");
    Exit::Refused
}

/// Writes a file that was not there, for its owner alone: it holds whatever secrets the source holds.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half of one is worse than none; what keeps it there is told by the error that counts.
        _ = std::fs::remove_file(path);
    }
    written
}

/// A kubeconfig and where it lies.
struct Source {
    value: Value,
    dir: std::path::PathBuf,
}

/// What is printed, and what is to be said of it.
struct Made {
    text: String,
    note: Option<String>,
}

fn forward_of<'a>(forwards: &'a [Forward], name: &str) -> Result<&'a Forward, String> {
    forwards.iter().find(|forward| forward.name == name).ok_or_else(|| {
        let names: Vec<_> = forwards.iter().map(|forward| forward.name.as_str()).collect();
        match names[..] {
            [] => "this configuration declares no forwards: name the one that does".to_owned(),
            [..] => format!("no forward `{name}`; there are: {}", names.join(", ")),
        }
    })
}

fn read(file: &Path) -> Result<Source, String> {
    let told = |why: String| format!("{}: {why}", file.display());
    let len = std::fs::metadata(file).map_err(|error| told(error.to_string()))?.len();
    if len > KUBECONFIG_LEN_MAX {
        return Err(told(format!("{len} bytes are no kubeconfig")));
    }
    let text = std::fs::read_to_string(file).map_err(|error| told(error.to_string()))?;
    // The reader's own words may hold parts of the file, which has secrets.
    let value = serde_saphyr::from_str(&text).map_err(|_| told("not readable as yaml".into()))?;
    let file = std::path::absolute(file).map_err(|error| told(error.to_string()))?;
    Ok(Source { value, dir: file.parent().unwrap_or(Path::new("/")).to_owned() })
}

/// The chosen context of `source`, its server replaced by the forward's address.
fn through(source: &Source, forward: &Forward, context: Option<&str>) -> Result<Made, String> {
    let Source { value, dir } = source;
    let current = value.get("current-context").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = context.or(current).ok_or("the kubeconfig has no current context: choose one by --context")?;
    let mut context = entry(value, "contexts", "context", name)?;
    let mut cluster = entry(value, "clusters", "cluster", named(&context, "cluster")?)?;
    let mut user = match named(&context, "user") {
        Ok(user) => Some(entry(value, "users", "user", user)?),
        Err(_) => None,
    };
    let note = lead(&mut cluster, forward)?;
    absolute(&mut cluster, dir, &["certificate-authority"]);
    if let Some(user) = &mut user {
        absolute(user, dir, &["client-certificate", "client-key", "tokenFile"]);
        // kubectl looks a bare name up in $PATH, and anything with a slash beside the kubeconfig.
        if let Some(exec) = user.get_mut("exec").and_then(Value::as_object_mut)
            && exec.get("command").and_then(Value::as_str).is_some_and(|command| command.contains('/'))
        {
            absolute(exec, dir, &["command"]);
        }
    }
    context.insert("cluster".into(), json!(forward.name));
    let mut made = value.as_object().cloned().unwrap_or_default();
    made.insert("clusters".into(), json!([{ "name": forward.name, "cluster": cluster }]));
    if let Some(user) = user {
        context.insert("user".into(), json!(forward.name));
        made.insert("users".into(), json!([{ "name": forward.name, "user": user }]));
    }
    made.insert("contexts".into(), json!([{ "name": forward.name, "context": context }]));
    made.insert("current-context".into(), json!(forward.name));
    let text = serde_saphyr::to_string(&Value::Object(made))
        .map_err(|error| format!("the kubeconfig cannot be written: {error}"))?;
    Ok(Made { text, note })
}

/// Replaces a cluster's server, and keeps the name by which its certificate is verified.
fn lead(cluster: &mut Map<String, Value>, forward: &Forward) -> Result<Option<String>, String> {
    let server = cluster.get("server").and_then(Value::as_str).ok_or("the cluster has no server")?;
    let Some(rest) = server.strip_prefix("https://") else {
        return Err("the cluster's server is no https:// address: nothing could be verified".into());
    };
    if cluster.get("insecure-skip-tls-verify").is_some_and(|skip| *skip != json!(false)) {
        return Err(
            "the cluster says insecure-skip-tls-verify: whoever holds the other end of the forward could \
                    answer; name its certificate-authority instead"
                .into(),
        );
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    if host.is_empty() || authority.contains('@') {
        return Err("the cluster's server names no host".into());
    }
    let mut listen = forward.listen;
    if listen.ip().is_unspecified() {
        let loopback: [std::net::IpAddr; 2] =
            [std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
        listen.set_ip(loopback[usize::from(listen.is_ipv6())]);
    }
    let plain = if authority.trim_end_matches(']').ends_with(host) {
        format!("{authority}:443")
    } else {
        authority.to_owned()
    };
    let note = (plain.to_ascii_lowercase() != forward.target.to_string()).then(|| {
        format!("the forward leads to {}, which must be the server that was {authority}", forward.target)
    });
    let (server, host) = (format!("https://{listen}{path}"), host.to_owned());
    cluster.insert("server".into(), json!(server));
    cluster.entry("tls-server-name").or_insert(json!(host));
    cluster.remove("proxy-url");
    Ok(note)
}

/// Files relative to the source's folder, wherever the result will lie.
fn absolute(object: &mut Map<String, Value>, dir: &Path, keys: &[&str]) {
    for key in keys {
        if let Some(Value::String(path)) = object.get_mut(*key)
            && !path.is_empty()
        {
            *path = dir.join(&*path).to_string_lossy().into_owned();
        }
    }
}

/// The entry of this name in one of a kubeconfig's lists.
fn entry(value: &Value, list: &str, key: &str, name: &str) -> Result<Map<String, Value>, String> {
    let entries = value.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let found = entries.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name));
    let found = found.and_then(|entry| entry.get(key)).and_then(Value::as_object);
    found.cloned().ok_or_else(|| format!("the kubeconfig has no `{name}` in {list}"))
}

fn named<'a>(context: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    context.get(key).and_then(Value::as_str).ok_or_else(|| format!("the context names no {key}"))
}

/// Larger than any that people have, with all their certificates.
const KUBECONFIG_LEN_MAX: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = r#"
apiVersion: v1
kind: Config
preferences: {}
current-context: prod
contexts:
- name: prod
  context: { cluster: bank, user: me, namespace: jobs }
- name: other
  context: { cluster: six, user: robot }
- name: loose
  context: { cluster: loose, user: me }
- name: plain
  context: { cluster: plain, user: me }
clusters:
- name: bank
  cluster:
    server: https://Kube.bank.internal:6443/prefix
    certificate-authority: pki/ca.crt
    proxy-url: http://proxy:3128
    extensions:
    - name: kept
      extension: { anything: "yes" }
- name: six
  cluster: { server: "https://[2001:db8::7]", tls-server-name: api, certificate-authority-data: QUJD }
- name: loose
  cluster: { server: "https://kube:443", insecure-skip-tls-verify: true }
- name: plain
  cluster: { server: "http://kube:80" }
users:
- name: me
  user: { client-certificate: me.crt, client-key: /keys/me.key, token: "0123" }
- name: robot
  user:
    tokenFile: robot.token
    exec: { command: ./bin/login, args: ["--x"], apiVersion: client.authentication.k8s.io/v1 }
"#;

    fn forward(listen: &str) -> Forward {
        Forward {
            name: "kube-api".into(),
            from: "riskfuel".into(),
            listen: listen.parse().unwrap(),
            to: "bank".into(),
            target: pulsar_bridge::policy::Target::parse("kube.bank.internal:6443").unwrap(),
            limits: pulsar_bridge::policy::ForwardLimits::default(),
        }
    }

    fn made(context: Option<&str>, listen: &str) -> Result<(Value, Option<String>), String> {
        let value = serde_saphyr::from_str(KUBECONFIG).unwrap();
        let source = Source { value, dir: "/home/me/.kube".into() };
        let Made { text, note } = through(&source, &forward(listen), context)?;
        Ok((serde_saphyr::from_str(&text).unwrap(), note))
    }

    #[test]
    fn the_current_context_leads_through_the_forward_and_is_verified_as_before() {
        let (value, note) = made(None, "127.0.0.1:6443").unwrap();
        assert_eq!(note, None);
        assert_eq!(
            value,
            json!({
                "apiVersion": "v1",
                "kind": "Config",
                "preferences": {},
                "current-context": "kube-api",
                "contexts": [{
                    "name": "kube-api",
                    "context": { "cluster": "kube-api", "user": "kube-api", "namespace": "jobs" }
                }],
                "clusters": [{
                    "name": "kube-api",
                    "cluster": {
                        "server": "https://127.0.0.1:6443/prefix",
                        "tls-server-name": "Kube.bank.internal",
                        "certificate-authority": "/home/me/.kube/pki/ca.crt",
                        "extensions": [{ "name": "kept", "extension": { "anything": "yes" } }]
                    }
                }],
                "users": [{
                    "name": "kube-api",
                    "user": {
                        "client-certificate": "/home/me/.kube/me.crt",
                        "client-key": "/keys/me.key",
                        "token": "0123"
                    }
                }]
            })
        );
    }

    #[test]
    fn another_context_keeps_its_own_server_name_and_the_files_it_needs() {
        let (value, note) = made(Some("other"), "[::]:7443").unwrap();
        let (cluster, user) = (&value["clusters"][0]["cluster"], &value["users"][0]["user"]);
        assert_eq!(
            (&cluster["server"], &cluster["tls-server-name"]),
            (&json!("https://[::1]:7443"), &json!("api"))
        );
        assert_eq!(user["tokenFile"], "/home/me/.kube/robot.token");
        assert_eq!(user["exec"]["command"], "/home/me/.kube/./bin/login");
        assert!(note.unwrap().contains("2001:db8::7"));
    }

    #[test]
    fn a_file_of_it_is_its_owners_alone_and_never_takes_the_place_of_another() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bank.conf");
        write_new(&file, "first").unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(write_new(&file, "second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "first");
        // Nor is anything written through a link.
        let link = dir.path().join("link");
        symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert_eq!(write_new(&link, "x").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_could_not_be_verified_is_refused() {
        for (context, told) in [
            ("loose", "insecure-skip-tls-verify"),
            ("plain", "no https:// address"),
            ("nobody", "no `nobody` in contexts"),
        ] {
            let problem = made(Some(context), "127.0.0.1:6443").unwrap_err();
            assert!(problem.contains(told), "{problem}");
        }
        assert!(forward_of(&[], "a").unwrap_err().contains("no forwards"));
        assert!(forward_of(&[forward("127.0.0.1:1")], "a").unwrap_err().contains("kube-api"));
    }
}
