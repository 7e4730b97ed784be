//! By which names this server may be asked. A page of somewhere else can make a browser ask us under its own
//! name (DNS rebinding); an address, `localhost` or a configured name cannot be such a one. Pure.

use std::net::IpAddr;

/// Whether a `Host` header names us.
pub(super) fn is_ours(host: &str, configured: &[String]) -> bool {
    let Some(name) = name_of(host) else { return false };
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || configured.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether an `Origin` header is a page of ours.
pub(super) fn is_our_page(origin: &str, configured: &[String]) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| is_ours(authority, configured))
}

/// The name without its port and brackets; `None` when there is more to it.
fn name_of(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    let is_port =
        port.is_empty() || (port.starts_with(':') && digits.bytes().all(|byte| byte.is_ascii_digit()));
    is_port.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_configured_names_are_ours() {
        let configured = ["Bridge-Hub".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:9600",
            "10.1.2.3:80",
            "[::1]:9600",
            "[::1]",
            "localhost:9600",
            "LOCALHOST",
            "bridge-hub:9600",
        ] {
            assert!(is_ours(host, &configured), "{host}");
        }
        assert!(is_our_page("http://127.0.0.1:9600", &configured));
    }

    #[test]
    fn other_names_are_not() {
        for host in [
            "",
            "evil.example",
            "evil.example:9600",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "127.0.0.1:80:80",
            "127.0.0.1@evil.example",
            "[::1",
            "[::1]x",
            "127.0.0.1:x",
        ] {
            assert!(!is_ours(host, &[]), "{host}");
        }
        for origin in ["null", "http://evil.example", "127.0.0.1", "file://127.0.0.1"] {
            assert!(!is_our_page(origin, &[]), "{origin}");
        }
    }
}
