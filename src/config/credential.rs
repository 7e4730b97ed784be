//! The text forms of a link's credentials: join tokens (`bt1.…`, secret) and edge keys (`bk1.…`, public).
//! Pure: no files, no randomness, no keys derived; human-chosen secrets are refused.
//!
//! ```text
//! bt1 . <hub> . <edge> . <seed, 32 bytes base64url> . <pin, 32 bytes> [ . <pin2> ] . <crc32, 8 hex>
//! bk1 . <edge> . <SHA-256 of the edge's SPKI> . <crc32, 8 hex>
//! ```
//! The CRC-32 (IEEE) covers everything before the last dot: it finds paste errors and proves nothing else.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::secret::Secret;

/// Why a text is no credential. No variant carries any of the text: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Something else altogether, such as a password that somebody chose.
    #[error("not {expected}: it must begin with `{prefix}`, as `bridge init` wrote it")]
    Foreign {
        /// What was wanted here.
        expected: &'static str,
        /// How that begins.
        prefix: &'static str,
    },
    /// A join token where an edge key belongs.
    #[error(
        "this is a join token (a secret): the hub stores only the edge key, `bk1.…`; rotate the token if others saw it"
    )]
    TokenForKey,
    /// An edge key where a join token belongs.
    #[error("this is an edge key (the public half): the edge needs its join token, `bt1.…`")]
    KeyForToken,
    /// The checksum at the end does not fit.
    #[error("the checksum does not fit: a character is missing or changed, copy it again")]
    Checksum,
    /// The checksum fits but the parts do not.
    #[error("malformed ({0}): make a new one with `bridge init`")]
    Malformed(&'static str),
}

/// The public half of an edge's key, as the hub lists it: `bk1.…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeKey {
    /// The edge that holds the private half.
    pub edge: String,
    /// SHA-256 of the subject public key info of its certificate.
    pub spki_sha256: [u8; 32],
}

impl EdgeKey {
    /// Parses `bk1.…`; space around it is ignored.
    pub fn parse(text: &str) -> Result<Self, CredentialError> {
        if text.trim_start().starts_with(TOKEN_PREFIX) {
            return Err(CredentialError::TokenForKey);
        }
        let body = checked_body(text, "an edge key", KEY_PREFIX)?;
        let [edge, hash] = body.split('.').collect::<Vec<_>>()[..] else {
            return Err(CredentialError::Malformed("it must have an edge and one hash"));
        };
        Ok(Self { edge: site_name(edge)?, spki_sha256: bytes32(hash)? })
    }
}

impl fmt::Display for EdgeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = format!("{KEY_PREFIX}{}.{}", self.edge, URL_SAFE_NO_PAD.encode(self.spki_sha256));
        write!(f, "{body}.{:08x}", crc32fast::hash(body.as_bytes()))
    }
}

/// What an edge needs to join a hub: the seed of its own key, and the pins of the hub's roots.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The hub it leads to.
    pub hub: String,
    /// The edge it makes.
    pub edge: String,
    /// SHA-256 of the public keys (SPKI) of the hub's root, and of its next root while that rotates.
    pub pins: Vec<[u8; 32]>,
    seed: [u8; 32],
}

impl JoinToken {
    /// A token of these parts, when they make one.
    pub fn new(hub: &str, edge: &str, seed: [u8; 32], pins: Vec<[u8; 32]>) -> Result<Self, CredentialError> {
        let (hub, edge) = (site_name(hub)?, site_name(edge)?);
        if hub == edge {
            return Err(CredentialError::Malformed("hub and edge have the same name"));
        }
        if pins.is_empty() || pins.len() > PINS_MAX {
            return Err(CredentialError::Malformed("it must have one pin or two"));
        }
        Ok(Self { hub, edge, pins, seed })
    }

    /// Parses `bt1.…`; space around it is ignored.
    pub fn parse(text: &str) -> Result<Self, CredentialError> {
        if text.trim_start().starts_with(KEY_PREFIX) {
            return Err(CredentialError::KeyForToken);
        }
        let body = checked_body(text, "a join token", TOKEN_PREFIX)?;
        let parts: Vec<&str> = body.split('.').collect();
        let [hub, edge, seed, ref pins @ ..] = parts[..] else {
            return Err(CredentialError::Malformed("it must have hub, edge, seed and pin"));
        };
        let pins = pins.iter().map(|pin| bytes32(pin)).collect::<Result<_, _>>()?;
        Self::new(hub, edge, bytes32(seed)?, pins)
    }

    /// The text form, for the token file and nothing else.
    pub fn encode(&self) -> Secret {
        let mut body =
            format!("{TOKEN_PREFIX}{}.{}.{}", self.hub, self.edge, URL_SAFE_NO_PAD.encode(self.seed));
        for pin in &self.pins {
            body.push('.');
            body.push_str(&URL_SAFE_NO_PAD.encode(pin));
        }
        let crc = crc32fast::hash(body.as_bytes());
        Secret::new(format!("{body}.{crc:08x}"))
    }

    /// The seed of the edge's key.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("hub", &self.hub).field("edge", &self.edge).finish_non_exhaustive()
    }
}

/// Whether a text can name a site: `[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?`.
pub fn is_site_name(text: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match text.as_bytes() {
        [] => false,
        [only] => plain(only),
        [first, middle @ .., last] => {
            text.len() <= SITE_NAME_LEN_MAX
                && plain(first)
                && plain(last)
                && middle.iter().all(|byte| plain(byte) || *byte == b'-')
        }
    }
}

/// What stands between the prefix and the checksum, once the checksum fits.
fn checked_body<'a>(
    text: &'a str,
    expected: &'static str,
    prefix: &'static str,
) -> Result<&'a str, CredentialError> {
    let text = text.trim();
    if !text.starts_with(prefix) {
        return Err(CredentialError::Foreign { expected, prefix });
    }
    if text.len() > CREDENTIAL_LEN_MAX {
        return Err(CredentialError::Malformed("it is too long"));
    }
    let (covered, crc) = text.rsplit_once('.').ok_or(CredentialError::Checksum)?;
    if crc != format!("{:08x}", crc32fast::hash(covered.as_bytes())) {
        return Err(CredentialError::Checksum);
    }
    covered.strip_prefix(prefix).ok_or(CredentialError::Checksum)
}

fn site_name(text: &str) -> Result<String, CredentialError> {
    if !is_site_name(text) {
        return Err(CredentialError::Malformed("site names are 1 to 32 of a-z, 0-9 and inner hyphens"));
    }
    Ok(text.to_owned())
}

fn bytes32(text: &str) -> Result<[u8; 32], CredentialError> {
    let malformed = CredentialError::Malformed("seed, pins and hashes are 32 bytes in base64url");
    let mut bytes = [0; 32];
    // 43 characters and nothing else: the engine refuses padding and stray last bits.
    match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
        Ok(32) if text.len() == 43 => Ok(bytes),
        _ => Err(malformed),
    }
}

const TOKEN_PREFIX: &str = "bt1.";
const KEY_PREFIX: &str = "bk1.";
const SITE_NAME_LEN_MAX: usize = 32;
/// The longest token has two names, a seed, two pins and a checksum: 4 + 2·33 + 3·44 + 8 = 210.
const CREDENTIAL_LEN_MAX: usize = 210;
/// The hub's root and the one that replaces it.
const PINS_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken::new("riskfuel", "bank", [7; 32], vec![[1; 32], [2; 32]]).unwrap()
    }

    fn key() -> EdgeKey {
        EdgeKey { edge: "bank".into(), spki_sha256: [9; 32] }
    }

    #[test]
    fn a_token_survives_the_round_trip_with_one_pin_and_with_two() {
        let one = JoinToken::new("h", "an-edge-of-thirty-two-characters", [255; 32], vec![[0; 32]]).unwrap();
        for token in [token(), one] {
            let text = token.encode();
            assert!(JoinToken::parse(text.expose()).unwrap() == token);
            assert!(JoinToken::parse(&format!(" {}\r\n", text.expose())).unwrap() == token);
        }
    }

    #[test]
    fn the_text_forms_are_what_other_releases_wrote() {
        let key = EdgeKey { edge: "bank".into(), spki_sha256: [0; 32] };
        assert_eq!(key.to_string(), "bk1.bank.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.8536ea62");
        let token = JoinToken::new("riskfuel", "bank", [0; 32], vec![[0; 32]]).unwrap();
        assert_eq!(
            token.encode().expose(),
            "bt1.riskfuel.bank.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.73f6e568"
        );
    }

    #[test]
    fn the_longest_token_is_accepted() {
        let name = |c: &str| c.repeat(SITE_NAME_LEN_MAX);
        let token = JoinToken::new(&name("a"), &name("b"), [1; 32], vec![[1; 32]; 2]).unwrap();
        assert_eq!(token.encode().expose().len(), CREDENTIAL_LEN_MAX);
        assert!(JoinToken::parse(token.encode().expose()).unwrap() == token);
    }

    #[test]
    fn one_character_missing_or_changed_anywhere_is_noticed() {
        let (token, key) = (token().encode().expose().to_owned(), key().to_string());
        let mut tried = 0;
        for (text, parse) in
            [(&token, (|t| JoinToken::parse(t).err()) as fn(&str) -> _), (&key, |t| EdgeKey::parse(t).err())]
        {
            for at in 0..text.len() {
                let (head, tail) = (&text[..at], &text[at + 1..]);
                // Every other character, of one byte and of two, and none at all.
                for put in (' '..='~').chain(['é', '\0']).map(String::from).chain([String::new()]) {
                    let wrong = format!("{head}{put}{tail}");
                    if wrong.trim() == text.as_str() {
                        continue;
                    }
                    let Some(error) = parse(&wrong) else {
                        panic!("accepted with {put:?} at {at}");
                    };
                    if at >= 4 {
                        assert_eq!(error, CredentialError::Checksum, "{put:?} at {at}");
                    }
                    tried += 1;
                }
            }
        }
        assert!(tried > 20_000, "{tried} tried");
    }

    #[test]
    fn other_texts_are_refused_by_name_and_never_repeated() {
        let secret = token().encode().expose().to_owned();
        assert_eq!(EdgeKey::parse(&secret), Err(CredentialError::TokenForKey));
        assert_eq!(JoinToken::parse(&key().to_string()).err(), Some(CredentialError::KeyForToken));
        let human = JoinToken::parse("correct horse battery staple").unwrap_err();
        assert_eq!(
            human.to_string(),
            "not a join token: it must begin with `bt1.`, as `bridge init` wrote it"
        );
        assert!(matches!(JoinToken::parse(""), Err(CredentialError::Foreign { .. })));
    }

    #[test]
    fn parts_that_do_not_fit_are_refused_even_with_a_good_checksum() {
        let seed = "A".repeat(43);
        let bodies = [
            "bt1.".into(),
            "bt1.hub.edge".into(),
            format!("bt1.hub.edge.{seed}"),
            format!("bt1.hub.edge.{seed}.{seed}.{seed}.{seed}"),
            format!("bt1.hub.hub.{seed}.{seed}"),
            format!("bt1.Hub.edge.{seed}.{seed}"),
            format!("bt1.hub.edge.{seed}A.{seed}"),
            format!("bt1.hub.edge.{seed}=.{seed}"),
            format!("bt1.hub.edge.{}B.{seed}", &seed[1..]),
            format!("bt1.hub.edge.password.{seed}"),
            format!("bt1.hub.edge.{seed}.{}", "x".repeat(10_000)),
        ];
        for body in bodies {
            let text = format!("{body}.{:08x}", crc32fast::hash(body.as_bytes()));
            assert!(matches!(JoinToken::parse(&text), Err(CredentialError::Malformed(_))), "{body}");
        }
    }

    #[test]
    fn debugging_a_token_does_not_show_its_seed() {
        assert_eq!(format!("{:?}", token()), r#"JoinToken { hub: "riskfuel", edge: "bank", .. }"#);
    }

    #[test]
    fn site_names_are_lower_case_with_inner_hyphens() {
        for good in ["a", "7", "bank", "bank-2", "a--b", &"x".repeat(32)] {
            assert!(is_site_name(good), "{good}");
        }
        for bad in ["", "-", "-a", "a-", "Bank", "a.b", "a b", "é", "a\n", &"x".repeat(33)] {
            assert!(!is_site_name(bad), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC*", tail in "[a-z0-9.]{0,200}") {
            for text in [text.clone(), format!("bt1.{text}"), format!("bk1.{tail}"), format!("bt1.{tail}")] {
                let (_, _) = (JoinToken::parse(&text).is_ok(), EdgeKey::parse(&text).is_ok());
            }
        }
    }
}
