//! The edge's proxy: of the environment, as curl takes it, and of the configuration, which comes first.

use pulsar_bridge::config::Tunnel;
use serde_json::{Value, json};

use super::{edge, load, with};

/// Which proxy the edge takes for a host.
fn proxy(value: &Value, env: &[(&str, &str)], host: &str) -> Option<String> {
    let Tunnel::Edge(edge) = load(value, env).unwrap().tunnel else {
        panic!("an edge");
    };
    edge.egress.proxy_for(host).map(ToString::to_string)
}

#[test]
fn the_environments_proxy_is_taken_as_curl_takes_it_and_the_files_comes_first() {
    let both = [("HTTPS_PROXY", "http://big:1"), ("https_proxy", "small:2"), ("NO_PROXY", "corp,10.0.0.0/8")];
    assert_eq!(proxy(&edge(), &both, "hub").as_deref(), Some("http://small:2"));
    for exempt in ["a.corp", "10.1.1.1", "localhost", "127.0.0.1"] {
        assert_eq!(proxy(&edge(), &both, exempt), None, "{exempt}");
    }
    assert_eq!(proxy(&edge(), &[("HTTPS_PROXY", "")], "hub"), None);
    let named = with(edge(), "/tunnel/proxy", json!("socks5://own:3"));
    assert_eq!(proxy(&named, &both, "a.corp").as_deref(), Some("socks5://own:3"));
    assert_eq!(proxy(&with(edge(), "/tunnel/proxy", json!("none")), &both, "hub"), None);
}

#[test]
fn a_proxy_for_everything_counts_where_there_is_none_for_https_as_with_curl() {
    let all = [("ALL_PROXY", "socks5://all:1"), ("NO_PROXY", " corp  lan,\t10.0.0.0/8 ")];
    assert_eq!(proxy(&edge(), &all, "hub").as_deref(), Some("socks5://all:1"));
    for exempt in ["a.corp", "lan", "10.1.1.1"] {
        assert_eq!(proxy(&edge(), &all, exempt), None, "{exempt}");
    }
    let lower = [("all_proxy", "small:2"), ("ALL_PROXY", "big:1")];
    assert_eq!(proxy(&edge(), &lower, "hub").as_deref(), Some("http://small:2"));
    let both = [("all_proxy", "all:2"), ("HTTPS_PROXY", "big:1"), ("https_proxy", "")];
    assert_eq!(proxy(&edge(), &both, "hub").as_deref(), Some("http://big:1"));
    let blank = [("ALL_PROXY", "all:2"), ("no_proxy", " "), ("NO_PROXY", "hub")];
    assert_eq!(proxy(&edge(), &blank, "hub").as_deref(), Some("http://all:2"));
}

#[test]
fn an_environments_proxy_that_nobody_would_ask_is_not_judged() {
    let unusable = ("HTTPS_PROXY", "https://tls-proxy:1");
    assert!(load(&edge(), &[unusable]).is_err());
    assert_eq!(proxy(&edge(), &[unusable, ("NO_PROXY", "*")], "hub"), None);
}

#[test]
fn a_password_in_the_environments_proxy_is_refused_by_the_variables_name_and_not_shown() {
    let told = load(&edge(), &[("HTTPS_PROXY", "http://me:canary@big:1")]).unwrap_err();
    assert!(told[0].starts_with("tunnel.proxy: the environment's HTTPS_PROXY carries a user"), "{told:?}");
    assert!(told[0].contains("tunnel.proxy_password_file") && !told[0].contains("canary"), "{told:?}");
}
