//! The way through an egress proxy: HTTP CONNECT with Basic (RFC 9110, 7617), SOCKS5 with a password (RFC 1928, 1929).
//! Judges the proxy's answers by their codes; never repeats its words, and never tells it more than where to.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::reason::Reason;
use super::upgrade::{HeadError, read_head};
use crate::config::secret::Secret;
use crate::config::secret_file;
use crate::config::{LinkUrl, Login, Proxy, ProxyKind};

/// Has a proxy connect a socket on to a link's host. Afterwards the socket is the host's.
pub(super) async fn ask<S>(proxy: &Proxy, socket: &mut S, url: &LinkUrl) -> Result<(), Reason>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let login = proxy.login.as_ref().map(|login| Ok((login.user.as_str(), password(login)?))).transpose()?;
    match proxy.kind {
        ProxyKind::Http => connect(socket, url, login).await,
        ProxyKind::Socks5 => socks(socket, url, login).await,
    }
}

/// Read at every use: a changed one counts at the next dial.
fn password(login: &Login) -> Result<Secret, Reason> {
    let read = secret_file::read(&login.password_file, PASSWORD_FILE_LEN_MAX);
    let text = read.map_err(|error| Reason::ProxyPassword { problem: error.to_string() })?;
    Ok(Secret::new(text.expose().trim_end_matches(['\r', '\n']).to_owned()))
}

async fn connect<S>(socket: &mut S, url: &LinkUrl, login: Option<(&str, Secret)>) -> Result<(), Reason>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let to = url.authority();
    let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: pulsar-bridge\r\n");
    if let Some((user, password)) = login {
        let pair = STANDARD.encode(format!("{user}:{}", password.expose()));
        request += &format!("Proxy-Authorization: Basic {pair}\r\n");
    }
    request += "\r\n";
    socket.write_all(request.as_bytes()).await.map_err(|error| gone(&error))?;
    socket.flush().await.map_err(|error| gone(&error))?;
    match read_head(socket).await {
        Ok(head) => judge_connect(&head),
        // The body of a refusal: what counts stands before it.
        Err(HeadError::Early(head)) => judge_connect(&head).and(Err(refused(Said::NoProxy))),
        Err(HeadError::TooLong) => Err(refused(Said::NoProxy)),
        Err(HeadError::Io(error)) => Err(gone(&error)),
    }
}

/// What a proxy's answer to CONNECT means.
pub(super) fn judge_connect(head: &[u8]) -> Result<(), Reason> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    if !matches!(answer.parse(head), Ok(httparse::Status::Complete(_))) {
        return Err(refused(Said::NoProxy));
    }
    match answer.code {
        Some(200..=299) => Ok(()),
        Some(407) => {
            let offers =
                answer.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("proxy-authenticate"));
            let offered = |scheme: &&&str| {
                offers.clone().any(|header| {
                    let scheme = scheme.as_bytes();
                    header.value.get(..scheme.len()).is_some_and(|front| front.eq_ignore_ascii_case(scheme))
                })
            };
            Err(Reason::ProxyAuth { offered: SCHEMES.iter().filter(offered).copied().collect() })
        }
        Some(status @ (502..=504)) => {
            Err(Reason::Unreachable { error: format!("the proxy does not reach the hub: status {status}") })
        }
        Some(status) => Err(refused(Said::Status(status))),
        None => Err(refused(Said::NoProxy)),
    }
}

async fn socks<S>(socket: &mut S, url: &LinkUrl, login: Option<(&str, Secret)>) -> Result<(), Reason>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let greeting: &[u8] = if login.is_some() { &[5, 2, NO_LOGIN, PASSWORD] } else { &[5, 1, NO_LOGIN] };
    match (exchange::<S, 2>(socket, greeting).await?, login) {
        ([5, NO_LOGIN], _) => {}
        ([5, PASSWORD], Some((user, password))) => {
            let (Some(user), Some(password)) = (counted(user), counted(password.expose())) else {
                return Err(Reason::ProxyAuth { offered: Vec::new() });
            };
            // RFC 1929: any status but 0 is a refusal.
            match exchange::<S, 2>(socket, &[&[1], &user[..], &password].concat()).await? {
                [1, 0] => {}
                _ => return Err(Reason::ProxyAuth { offered: Vec::new() }),
            }
        }
        ([5, _], _) => return Err(Reason::ProxyAuth { offered: Vec::new() }),
        _ => return Err(refused(Said::NoProxy)),
    }
    // VER CMD RSV ATYP; a name goes as it is, for the proxy to resolve.
    let to = match url.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => [&[1], &address.octets()[..]].concat(),
        Ok(IpAddr::V6(address)) => [&[4], &address.octets()[..]].concat(),
        Err(_) => [vec![3], counted(&url.host).unwrap_or_default()].concat(),
    };
    let request = [&[5, 1, 0], &to[..], &url.port.to_be_bytes()].concat();
    let [version, reply, _, kind] = exchange::<S, 4>(socket, &request).await?;
    if version != 5 {
        return Err(refused(Said::NoProxy));
    }
    match reply {
        0 => {}
        // Network or host unreachable, connection refused, time to live.
        3..=6 => {
            let error = format!("the proxy does not reach the hub: SOCKS5 reply {reply}");
            return Err(Reason::Unreachable { error });
        }
        _ => return Err(refused(Said::Socks(reply))),
    }
    // The address that it bound, which nobody needs.
    let len = match kind {
        1 => 4,
        4 => 16,
        3 => usize::from(socket.read_u8().await.map_err(|error| gone(&error))?),
        _ => return Err(refused(Said::NoProxy)),
    };
    let mut bound = vec![0; len + 2];
    socket.read_exact(&mut bound).await.map_err(|error| gone(&error))?;
    Ok(())
}

async fn exchange<S, const N: usize>(socket: &mut S, words: &[u8]) -> Result<[u8; N], Reason>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    socket.write_all(words).await.map_err(|error| gone(&error))?;
    socket.flush().await.map_err(|error| gone(&error))?;
    let mut answer = [0; N];
    socket.read_exact(&mut answer).await.map_err(|error| gone(&error))?;
    Ok(answer)
}

/// A text behind its length.
fn counted(text: &str) -> Option<Vec<u8>> {
    let len = u8::try_from(text.len()).ok().filter(|len| *len > 0)?;
    Some([&[len], text.as_bytes()].concat())
}

/// How a proxy refused, beyond asking who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// A status of HTTP's.
    Status(u16),
    /// A reply of SOCKS5's.
    Socks(u8),
    /// What no proxy says.
    NoProxy,
}

fn refused(said: Said) -> Reason {
    Reason::ProxyRefused { said }
}

fn gone(error: &std::io::Error) -> Reason {
    if error.kind() == std::io::ErrorKind::QuotaExceeded {
        return refused(Said::NoProxy);
    }
    Reason::Unreachable { error: format!("the proxy closed the connection: {}", error.kind()) }
}

const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
/// The schemes that are told by their name; only the first is spoken.
const SCHEMES: &[&str] = &["Basic", "Digest", "NTLM", "Negotiate"];
const HEADERS_MAX: usize = 64;
const PASSWORD_FILE_LEN_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tokio::io::duplex;

    use super::*;

    /// What the proxy wants to hear, what it then says; several of them.
    type Script<'a> = &'a [(&'a [u8], &'a [u8])];

    /// Asks a proxy that follows a script.
    async fn asked(kind: ProxyKind, host: &str, login: bool, script: Script<'_>) -> Result<(), Reason> {
        let dir = tempfile::tempdir().unwrap();
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, "canary\n").unwrap();
        std::fs::set_permissions(&password_file, PermissionsExt::from_mode(0o600)).unwrap();
        let login = login.then(|| Login { user: "me".into(), password_file });
        let proxy = Proxy { kind, host: "egress".into(), port: 3128, login };
        let url = LinkUrl::parse(&format!("tls://{host}:8001")).unwrap();
        let (mut near, mut far) = duplex(64 * 1024);
        let plays = async {
            for (heard, said) in script {
                let mut buffer = vec![0; heard.len()];
                far.read_exact(&mut buffer).await.unwrap();
                assert_eq!(String::from_utf8_lossy(&buffer), String::from_utf8_lossy(heard));
                far.write_all(said).await.unwrap();
            }
            far
        };
        let (outcome, _far) = tokio::join!(ask(&proxy, &mut near, &url), plays);
        outcome
    }

    const CONNECT: &[u8] =
        b"CONNECT hub:8001 HTTP/1.1\r\nHost: hub:8001\r\nUser-Agent: pulsar-bridge\r\n\r\n";

    fn code(outcome: Result<(), Reason>) -> &'static str {
        outcome.map_or_else(|reason| reason.code(), |()| "connected")
    }

    #[tokio::test]
    async fn connect_is_asked_for_with_basic_where_there_is_a_login() {
        let yes = b"HTTP/1.1 200 Connection established\r\n\r\n";
        assert_eq!(asked(ProxyKind::Http, "hub", false, &[(CONNECT, yes)]).await, Ok(()));
        let with_login =
            b"CONNECT [fd00::1]:8001 HTTP/1.1\r\nHost: [fd00::1]:8001\r\nUser-Agent: pulsar-bridge\r\n\
                           Proxy-Authorization: Basic bWU6Y2FuYXJ5\r\n\r\n";
        assert_eq!(asked(ProxyKind::Http, "[fd00::1]", true, &[(with_login, yes)]).await, Ok(()));
    }

    #[tokio::test]
    async fn a_password_file_that_cannot_be_used_is_named_and_the_proxy_not_asked() {
        let dir = tempfile::tempdir().unwrap();
        let password_file = dir.path().join("password");
        let login = Some(Login { user: "me".into(), password_file: password_file.clone() });
        let proxy = Proxy { kind: ProxyKind::Http, host: "egress".into(), port: 3128, login };
        let url = LinkUrl::parse("tls://hub:8001").unwrap();
        for makes_readable_for_all in [false, true] {
            if makes_readable_for_all {
                std::fs::write(&password_file, "canary").unwrap();
                std::fs::set_permissions(&password_file, PermissionsExt::from_mode(0o644)).unwrap();
            }
            let (mut near, mut far) = duplex(1024);
            let reason = ask(&proxy, &mut near, &url).await.unwrap_err();
            assert_eq!(reason.code(), "proxy_password");
            let told = reason.to_string();
            assert!(
                told.contains(&password_file.display().to_string()) && !told.contains("canary"),
                "{told}"
            );
            drop(near);
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"");
        }
    }

    #[tokio::test]
    async fn what_a_proxy_answers_has_its_reason_and_none_of_its_words() {
        for (said, expected) in [
            ("HTTP/1.1 403 canary\r\nX: canary\r\n\r\n<html>canary", "proxy_refused"),
            ("HTTP/1.0 503 Service Unavailable\r\n\r\n", "unreachable"),
            ("HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic realm=\"canary\"\r\n\r\n", "proxy_auth"),
            ("SSH-2.0-canary\r\n\r\n", "proxy_refused"),
            // A server that speaks before its time is no hub behind a proxy.
            ("HTTP/1.1 200 OK\r\n\r\ncanary", "proxy_refused"),
        ] {
            let outcome = asked(ProxyKind::Http, "hub", false, &[(CONNECT, said.as_bytes())]).await;
            let told = format!("{outcome:?} {}", outcome.clone().unwrap_err());
            assert_eq!(code(outcome), expected, "{said}");
            assert!(!told.contains("canary"), "{told}");
        }
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 60_000]].concat();
        assert_eq!(code(asked(ProxyKind::Http, "hub", false, &[(CONNECT, &endless)]).await), "proxy_refused");
    }

    #[tokio::test]
    async fn a_proxy_that_takes_only_ntlm_is_told_as_such() {
        let said = b"HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\nproxy-authenticate: negotiate abc\r\n\r\n";
        let reason = asked(ProxyKind::Http, "hub", false, &[(CONNECT, said)]).await.unwrap_err();
        assert_eq!(reason, Reason::ProxyAuth { offered: vec!["NTLM", "Negotiate"] });
        assert!(
            reason.to_string().contains("NTLM, Negotiate") && reason.remedy().contains("cntlm"),
            "{reason}"
        );
    }

    #[tokio::test]
    async fn socks5_gets_the_name_to_resolve_and_the_password_where_it_wants_one() {
        let hub = b"\x05\x01\x00\x03\x03hub\x1f\x41";
        let connected = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00";
        let open: [(&[u8], &[u8]); 2] = [(b"\x05\x01\x00", b"\x05\x00"), (hub, connected)];
        assert_eq!(asked(ProxyKind::Socks5, "hub", false, &open).await, Ok(()));
        let closed: [(&[u8], &[u8]); 3] = [
            (b"\x05\x02\x00\x02", b"\x05\x02"),
            (b"\x01\x02me\x06canary", b"\x01\x00"),
            (b"\x05\x01\x00\x01\x0a\x00\x00\x07\x1f\x41", b"\x05\x00\x00\x03\x01x\x00\x00"),
        ];
        assert_eq!(asked(ProxyKind::Socks5, "10.0.0.7", true, &closed).await, Ok(()));
    }

    #[tokio::test]
    async fn what_a_socks5_proxy_refuses_has_its_reason() {
        let greeting: &[u8] = b"\x05\x01\x00";
        let hub: &[u8] = b"\x05\x01\x00\x03\x03hub\x1f\x41";
        let scripts: [(Script<'_>, &str); 5] = [
            (&[(greeting, b"\x05\xff")], "proxy_auth"),
            (&[(greeting, b"\x05\x02")], "proxy_auth"),
            (&[(greeting, b"HT")], "proxy_refused"),
            (&[(greeting, b"\x05\x00"), (hub, b"\x05\x02\x00\x01")], "proxy_refused"),
            (&[(greeting, b"\x05\x00"), (hub, b"\x05\x05\x00\x01")], "unreachable"),
        ];
        for (script, expected) in scripts {
            assert_eq!(code(asked(ProxyKind::Socks5, "hub", false, script).await), expected, "{script:?}");
        }
        let wrong: [(&[u8], &[u8]); 2] =
            [(b"\x05\x02\x00\x02", b"\x05\x02"), (b"\x01\x02me\x06canary", b"\x01\x01")];
        assert_eq!(code(asked(ProxyKind::Socks5, "hub", true, &wrong).await), "proxy_auth");
    }
}
