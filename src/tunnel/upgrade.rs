//! The upgrade from HTTP/1.1 to WebSocket (RFC 6455 §4), both sides of it, as texts. Holds no socket, and carries no
//! credential: who is who is told by the TLS inside.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::key;
use super::reason::Reason;
use crate::config::LinkUrl;

/// The key of a request: 16 random bytes, base64.
pub(super) struct Key(String);

impl Key {
    /// A new one.
    pub(super) fn new() -> Result<Self, Reason> {
        let random = key::random::<16>().map_err(|_| Reason::Ended)?;
        Ok(Self(STANDARD.encode(random)))
    }

    /// RFC 6455 §1.3's, for tests and fuzzing.
    #[cfg(any(test, feature = "fuzzed"))]
    pub(super) fn sample() -> Self {
        Self("dGhlIHNhbXBsZSBub25jZQ==".into())
    }

    fn accept(key: &str) -> String {
        let joined = [key.as_bytes(), GUID].concat();
        STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &joined))
    }
}

/// What an edge asks an ingress.
pub(super) fn request(url: &LinkUrl, key: &Key) -> String {
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\nUser-Agent: pulsar-bridge\r\n\r\n",
        url.path,
        url.authority(),
        key.0
    )
}

/// What the edge makes of the answer.
pub(super) fn judge_answer(head: &[u8], key: &Key) -> Result<(), Reason> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    if !matches!(answer.parse(head), Ok(httparse::Status::Complete(_))) {
        return Err(Reason::NotABridge);
    }
    match answer.code {
        Some(101) => {}
        // An ingress whose upstream is away.
        Some(status @ (502..=504)) => {
            let error = format!("the ingress does not reach the hub: status {status}");
            return Err(Reason::Unreachable { error });
        }
        Some(status) => return Err(Reason::UpgradeRefused { status }),
        None => return Err(Reason::NotABridge),
    }
    let headers = Headers(answer.headers);
    let accepted = headers.only("sec-websocket-accept") == Some(&Key::accept(&key.0));
    let speaks = headers.only("sec-websocket-protocol") == Some(PROTOCOL);
    if headers.lists("upgrade", "websocket") && headers.lists("connection", "upgrade") && accepted && speaks {
        return Ok(());
    }
    Err(Reason::NotABridge)
}

/// A request that the hub takes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// What to answer.
    pub(super) answer: String,
    /// Every value of `X-Forwarded-For`, joined: the caller, then each proxy on the way as the next one saw it.
    pub(super) forwarded_for: String,
}

/// What the hub makes of a request, or what it answers before it closes. Any path will do: an ingress may have
/// rewritten it.
pub(super) fn judge_request(head: &[u8]) -> Result<Asked, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(head), Ok(httparse::Status::Complete(_))) {
        return Err(BAD_REQUEST);
    }
    let headers = Headers(request.headers);
    let upgrades = headers.lists("upgrade", "websocket") && headers.lists("connection", "upgrade");
    if request.method != Some("GET") || request.version != Some(1) || !upgrades {
        return Err(UPGRADE_REQUIRED);
    }
    let has_body = headers.raw("transfer-encoding").next().is_some()
        || headers.raw("content-length").any(|len| len.trim_ascii() != b"0");
    let key = headers.only("sec-websocket-key").unwrap_or_default();
    let key_is_right = STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16);
    if has_body || !key_is_right {
        return Err(BAD_REQUEST);
    }
    if headers.only("sec-websocket-version") != Some("13")
        || !headers.lists("sec-websocket-protocol", PROTOCOL)
    {
        return Err(UPGRADE_REQUIRED);
    }
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n",
        Key::accept(key)
    );
    Ok(Asked { answer, forwarded_for: headers.joined("x-forwarded-for") })
}

struct Headers<'a>(&'a [httparse::Header<'a>]);

impl<'a> Headers<'a> {
    fn raw(&self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value)
    }

    fn named(&self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.raw(name).filter_map(|value| std::str::from_utf8(value).ok().map(str::trim))
    }

    /// The value of a header that stands there once.
    fn only(&self, name: &'a str) -> Option<&'a str> {
        let mut values = self.named(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Whether a list of words has this one.
    fn lists(&self, name: &'a str, word: &str) -> bool {
        self.named(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    }

    fn joined(&self, name: &'a str) -> String {
        // What is no text of the one who asked must not take the word of the one who forwards along.
        self.raw(name).map(String::from_utf8_lossy).collect::<Vec<_>>().join(",")
    }
}

/// Why a head did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadError {
    /// The socket's word.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Longer than [`HEAD_LEN_MAX`].
    #[error("a head of more than {HEAD_LEN_MAX} bytes")]
    TooLong,
    /// Something stands behind it, where the other side has to wait for us; the head alone.
    #[error("bytes behind the head")]
    Early(Vec<u8>),
}

/// Reads an HTTP/1.1 head to its empty line; nothing may stand behind it yet.
pub(super) async fn read_head<S: AsyncRead + Unpin>(from: &mut S) -> Result<Vec<u8>, HeadError> {
    let mut head = Vec::with_capacity(1024);
    loop {
        let seen = head.len();
        if from.read_buf(&mut head).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        // The empty line may have been cut by the reads.
        let from_there = seen.saturating_sub(END.len() - 1);
        let end = head[from_there..].windows(END.len()).position(|window| window == END);
        match end.map(|at| from_there + at + END.len()) {
            Some(end) if end == head.len() => return Ok(head),
            Some(end) => {
                head.truncate(end);
                return Err(HeadError::Early(head));
            }
            None if head.len() > HEAD_LEN_MAX => return Err(HeadError::TooLong),
            None => {}
        }
    }
}

/// The subprotocol: what is inside the binary frames.
pub(super) const PROTOCOL: &str = "bridge.1";
/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const END: &[u8] = b"\r\n\r\n";
/// What ingresses and proxies say at most; those that say more say it to somebody else.
const HEAD_LEN_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
const BAD_REQUEST: &str = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const UPGRADE_REQUIRED: &str = "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\
                                Sec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (String, Key) {
        let key = Key::sample();
        (request(&LinkUrl::parse("wss://hub.example/bridge").unwrap(), &key), key)
    }

    #[test]
    fn what_the_edge_asks_the_hub_takes_and_what_it_answers_the_edge_takes() {
        let (request, key) = sample();
        assert!(request.starts_with("GET /bridge HTTP/1.1\r\nHost: hub.example:443\r\n"), "{request}");
        let asked = judge_request(request.as_bytes()).unwrap();
        assert!(
            asked.answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
            "{}",
            asked.answer
        );
        assert_eq!(judge_answer(asked.answer.as_bytes(), &key), Ok(()));
        assert_eq!(asked.forwarded_for, "");
    }

    #[test]
    fn an_ingress_may_write_headers_in_its_own_way_and_add_some() {
        let (request, key) = sample();
        let rewritten = request
            .replace("Upgrade: websocket", "upgrade: WebSocket")
            .replace("Connection: Upgrade", "connection: keep-alive, upgrade")
            .replace(
                "\r\n\r\n",
                "\r\nX-Forwarded-For: 192.0.2.1\r\nx-forwarded-for: 10.0.0.1, 10.0.0.2\r\n\r\n",
            );
        let asked = judge_request(rewritten.as_bytes()).unwrap();
        assert_eq!(asked.forwarded_for, "192.0.2.1,10.0.0.1, 10.0.0.2");
        let answer = asked.answer.replace("Upgrade: websocket", "upgrade:  websocket\r\nServer: nginx");
        assert_eq!(judge_answer(answer.as_bytes(), &key), Ok(()));
    }

    #[test]
    fn whatever_is_missing_from_a_request_is_missed() {
        let (request, _) = sample();
        for (from, to) in [
            ("GET", "POST"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("Upgrade: websocket\r\n", ""),
            ("Connection: Upgrade\r\n", ""),
            ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"),
            ("bridge.1", "chat"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="),
            ("User-Agent:", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nUser-Agent:"),
            ("User-Agent:", "Content-Length: 5\r\nUser-Agent:"),
            ("User-Agent:", "\u{0}:"),
        ] {
            let changed = request.replacen(from, to, 1);
            assert_ne!(changed, request, "{from}");
            assert!(judge_request(changed.as_bytes()).is_err(), "{from} -> {to}");
        }
        let many = "X: y\r\n".repeat(HEADERS_MAX);
        let changed = request.replace("User-Agent:", &format!("{many}User-Agent:"));
        assert_eq!(judge_request(changed.as_bytes()), Err(BAD_REQUEST));
    }

    #[test]
    fn an_answer_that_is_not_ours_has_its_reason() {
        let (request, key) = sample();
        let answer = judge_request(request.as_bytes()).unwrap().answer;
        let judged = |answer: &str| judge_answer(answer.as_bytes(), &key).unwrap_err().code();
        assert_eq!(judged("HTTP/1.1 404 Not Found\r\n\r\n"), "upgrade_refused");
        assert_eq!(judged("HTTP/1.1 200 OK\r\n\r\n"), "upgrade_refused");
        assert_eq!(judged("HTTP/1.1 502 Bad Gateway\r\n\r\n"), "unreachable");
        assert_eq!(judged("SSH-2.0-x\r\n\r\n"), "not_a_bridge");
        assert_eq!(judged(&answer.replace("s3pP", "S3pP")), "not_a_bridge");
        assert_eq!(judged(&answer.replace("Sec-WebSocket-Protocol: bridge.1\r\n", "")), "not_a_bridge");
    }

    #[tokio::test]
    async fn a_head_cut_anywhere_is_read_to_its_end_and_not_beyond() {
        let (request, _) = sample();
        for cut in 1..request.len() {
            let mut parts = tokio_test_reader(&request.as_bytes()[..cut], &request.as_bytes()[cut..]);
            assert_eq!(read_head(&mut parts).await.unwrap(), request.as_bytes(), "cut at {cut}");
        }
        let mut early = tokio_test_reader(request.as_bytes(), b"");
        assert!(read_head(&mut early).await.is_ok());
        let beyond = [request.as_bytes(), b"x"].concat();
        assert!(matches!(read_head(&mut &beyond[..]).await, Err(HeadError::Early(_))));
        let endless = vec![b'x'; HEAD_LEN_MAX * 2];
        assert!(matches!(read_head(&mut &endless[..]).await, Err(HeadError::TooLong)));
        assert!(matches!(read_head(&mut &b"GET"[..]).await, Err(HeadError::Io(_))));
    }

    fn tokio_test_reader<'a>(first: &'a [u8], then: &'a [u8]) -> impl AsyncRead + Unpin + 'a {
        AsyncReadExt::chain(first, then)
    }
}
