//! The edge's way out and the hub's trusted proxies, checked. Shows nothing of a variable that may hold a password.

use ipnet::IpNet;

use super::Checker;
use super::text::{self, Found};
use crate::config::field::{Field, Text};
use crate::config::problem::{Place, Refusal};
use crate::config::{Egress, Exempt, LinkUrl, Login, Proxy};

/// The keys of the way out.
pub(super) struct RawEgress {
    pub(super) proxy: Field<Text>,
    pub(super) user: Field<Text>,
    pub(super) password_file: Field<Text>,
}

impl Checker<'_> {
    pub(super) fn egress(&mut self, raw: RawEgress, connect: &[LinkUrl], place: &Place) -> Egress {
        let proxy_place = place.key("proxy");
        let of_environment = matches!(raw.proxy, Field::Missing);
        let mut egress = if of_environment {
            self.environments_egress(connect, &proxy_place)
        } else {
            let named = self.text(raw.proxy, &proxy_place, named_proxy);
            Egress { proxy: named.flatten(), exempt: Exempt::default() }
        };
        let (user_place, file_place) = (place.key("proxy_user"), place.key("proxy_password_file"));
        let there = [&raw.user, &raw.password_file].map(|field| !matches!(field, Field::Missing));
        let user = self.text(raw.user, &user_place, user);
        let password_file = self.text(raw.password_file, &file_place, text::path);
        match there {
            [true, false] => {
                self.refuse(&file_place, Refusal::new("missing", "name the file with the password"))
            }
            [false, true] => {
                self.refuse(&user_place, Refusal::new("missing", "name the user of the password"))
            }
            [true, true] | [false, false] => {}
        }
        if let (Some(user), Some(password_file)) = (user, password_file) {
            match &mut egress.proxy {
                Some(proxy) => proxy.login = Some(Login { user, password_file }),
                // An environment may have a proxy on one machine and none on another.
                None if of_environment => {}
                None => self.refuse(
                    &user_place,
                    Refusal::new("there is no proxy", "leave it out, or name the proxy"),
                ),
            }
        }
        egress
    }

    /// `https_proxy`, `HTTPS_PROXY`, `all_proxy`, `ALL_PROXY`: the first that is set, as with curl; `no_proxy`, else
    /// `NO_PROXY`.
    fn environments_egress(&mut self, connect: &[LinkUrl], place: &Place) -> Egress {
        let set = |name: &'static str| Some((name, (self.env)(name)?));
        // One that is empty is not set; one of blanks is, and exempts nobody.
        let mut exempt = ["no_proxy", "NO_PROXY"].into_iter().filter_map(set);
        let exempt = exempt.find(|(_, value)| !value.is_empty()).map_or_else(String::new, |(_, value)| value);
        let exempt = Exempt::parse(&exempt);
        let mut named = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"].into_iter().filter_map(set);
        let Some((name, value)) = named.find(|(_, value)| !value.trim().is_empty()) else {
            return Egress::default();
        };
        match Proxy::parse(value.trim()) {
            Ok(proxy) => Egress { proxy: Some(proxy), exempt },
            // Nobody would be asked.
            Err(_) if connect.iter().all(|url| exempt.has(&url.host)) => Egress::default(),
            Err(refusal) => {
                // A part of it may be a password, whatever is wrong with it.
                let message = match value.contains('@') {
                    true => format!("the environment's {name} carries a user or password"),
                    false => format!("the environment's {name} is refused"),
                };
                let remedy = format!("{}; or write the proxy into this key, or \"none\"", refusal.remedy);
                self.refuse(place, Refusal::new(message, remedy));
                Egress::default()
            }
        }
    }

    pub(super) fn trusted_proxies(&mut self, field: Field<Vec<Field<Text>>>, place: &Place) -> Vec<IpNet> {
        let items = self.optional(field, place).unwrap_or_default();
        if items.len() > TRUSTED_MAX {
            let refusal = Refusal::new("too many", format!("name at most {TRUSTED_MAX}, as networks"));
            self.refuse(place, refusal);
        }
        self.texts(items, place, network)
    }
}

/// A proxy, or none at all.
fn named_proxy(found: &Found) -> Result<Option<Proxy>, Refusal> {
    if found.text == "none" {
        return Ok(None);
    }
    found.parse(|text| match text.contains("://") {
        true => Proxy::parse(text).map(Some),
        false => Err(Refusal::new("no proxy's URL", "write http://host:port, socks5://host:port or none")),
    })
}

/// A user's name as both HTTP (RFC 7617) and SOCKS5 (RFC 1929) can carry it.
fn user(found: &Found) -> Result<String, Refusal> {
    let text = &found.text;
    if text.is_empty()
        || text.len() > LOGIN_LEN_MAX
        || text.contains(':')
        || text.chars().any(char::is_control)
    {
        return Err(Refusal::new("no user's name", "write 1 to 255 bytes without a colon"));
    }
    Ok(text.clone())
}

fn network(found: &Found) -> Result<IpNet, Refusal> {
    let address = || found.text.parse::<std::net::IpAddr>().map(IpNet::from);
    found.text.parse().or_else(|_| address()).map_err(|_| {
        Refusal::new(
            format!("{} is no address or network", found.shown()),
            "write an address such as 10.0.0.7, or a network such as 10.0.0.0/28 or fd00:1:2:3::/64",
        )
    })
}

/// RFC 1929's longest.
const LOGIN_LEN_MAX: usize = 255;
/// Each is looked at for every connection.
const TRUSTED_MAX: usize = 256;
