//! The site's own cluster, checked.

use std::net::SocketAddr;

use super::Checker;
use super::text::{self, Found};
use crate::config::field::{Field, Text};
use crate::config::problem::{Place, Refusal};
use crate::config::raw::{RawAuth, RawPulsar, RawTls};
use crate::config::secret::Secret;
use crate::config::url::{self, ServiceUrl};
use crate::config::{BrokerTls, Pulsar, TokenSource};

impl Checker<'_> {
    pub(super) fn pulsar(&mut self, raw: RawPulsar, place: &Place) -> Option<Pulsar> {
        self.unknown::<RawPulsar>(raw.unknown, place);
        let embedded_place = place.key("embedded");
        let is_embedded = !matches!(raw.embedded, Field::Missing);
        if is_embedded && !matches!(raw.service_url, Field::Missing) {
            let refusal = Refusal::new("embedded and service_url at once", "leave one of them out");
            self.refuse(&embedded_place, refusal);
        }
        let embedded = self.text(raw.embedded, &embedded_place, loopback);
        let service_url = if is_embedded {
            embedded.and_then(|address| ServiceUrl::parse(&format!("pulsar://{address}")).ok())
        } else {
            self.required_text(raw.service_url, &place.key("service_url"), |found| {
                found.parse(ServiceUrl::parse)
            })
        };
        let admin_url =
            self.text(raw.admin_url, &place.key("admin_url"), |found| found.parse(url::admin_url));
        let auth = self.optional(raw.auth, &place.key("auth"));
        let token = auth.and_then(|raw| self.auth(raw, &place.key("auth")));
        let tls = self.optional(raw.tls, &place.key("tls"));
        let tls = tls.map(|raw| self.tls(raw, &place.key("tls"))).unwrap_or_default();
        let wants_tls = service_url.as_ref().is_some_and(|url| url.tls)
            || admin_url.as_ref().is_some_and(|url| url.starts_with("https:"));
        if wants_tls && tls.ca_file.is_none() {
            let refusal = Refusal::new(
                "TLS to the brokers needs their authority",
                "name the PEM file of the authorities that sign the brokers' certificates",
            );
            self.refuse(&place.key("tls").key("ca_file"), refusal);
        }
        // Nobody else has a broker that lives in this process.
        let default = if embedded.is_some() { 1 } else { 2 };
        let replicas = self.number(raw.replicas, &place.key("replicas"), 1..=1000, default);
        let asserted = self.text(raw.deduplication, &place.key("deduplication"), asserted);
        Some(Pulsar {
            service_url: service_url?,
            embedded,
            admin_url,
            token,
            tls,
            replicas,
            deduplication_asserted: asserted.is_some() || embedded.is_some(),
        })
    }

    fn auth(&mut self, raw: RawAuth, place: &Place) -> Option<TokenSource> {
        self.unknown::<RawAuth>(raw.unknown, place);
        let both = !matches!(raw.token, Field::Missing) && !matches!(raw.token_file, Field::Missing);
        if both {
            let refusal = Refusal::new("token and token_file at once", "leave one of them out");
            self.refuse(place, refusal);
        }
        let file = self.text(raw.token_file, &place.key("token_file"), text::path);
        if let Some(path) = file {
            return Some(TokenSource::File(path));
        }
        // Where it is comes along, not what it is now: a token is read again whenever it is needed.
        match self.optional(raw.token, &place.key("token"))? {
            Text::Plain(text) => Some(TokenSource::Value(Secret::new(text))),
            Text::Env(from) => Some(TokenSource::Env(from.env)),
            Text::File(from) => Some(TokenSource::File(self.dir.join(from.file))),
        }
    }

    fn tls(&mut self, raw: RawTls, place: &Place) -> BrokerTls {
        self.unknown::<RawTls>(raw.unknown, place);
        let tls = BrokerTls {
            ca_file: self.text(raw.ca_file, &place.key("ca_file"), text::path),
            cert_file: self.text(raw.cert_file, &place.key("cert_file"), text::path),
            key_file: self.text(raw.key_file, &place.key("key_file"), text::path),
        };
        if tls.cert_file.is_some() != tls.key_file.is_some() {
            let refusal = Refusal::new("cert_file and key_file need each other", "name both, or neither");
            self.refuse(place, refusal);
        }
        tls
    }
}

/// The broker in memory knows no credentials and no TLS.
fn loopback(found: &Found) -> Result<SocketAddr, Refusal> {
    let address = text::socket_addr(found)?;
    if !address.ip().is_loopback() {
        return Err(Refusal::new(
            "a broker in memory lets everybody in",
            "keep it on this machine: 127.0.0.1 and a port",
        ));
    }
    Ok(address)
}

fn asserted(found: &Found) -> Result<(), Refusal> {
    if found.text != "asserted" {
        return Err(Refusal::new(
            format!("{} is no word for it", found.shown()),
            "write \"asserted\", or leave it out and name admin_url",
        ));
    }
    Ok(())
}
