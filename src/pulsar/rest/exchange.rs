//! One question and one answer over HTTP/1.1: follows redirects between brokers itself, with credentials and
//! body kept, bounded in hops, bytes and time. Knows no topic.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use crate::pulsar::connection::Credentials;
use crate::pulsar::transport::{Address, Dialer, TransportError};

/// Why a question to the admin API has no answer. Names the path that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// The configured address is none.
    #[error("admin url: {0}")]
    Url(TransportError),
    /// No connection.
    #[error("{path}: {source}")]
    Transport {
        /// What was asked for.
        path: String,
        /// Why.
        source: TransportError,
    },
    /// The connection broke, or what came is no HTTP.
    #[error("{path}: {problem}")]
    Broken {
        /// What was asked for.
        path: String,
        /// What happened.
        problem: String,
    },
    /// Too slow.
    #[error("{path}: no answer within {seconds} s")]
    NoAnswer {
        /// What was asked for.
        path: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// More than is reasonable.
    #[error("{path}: the answer is longer than {max} bytes")]
    TooLong {
        /// What was asked for.
        path: String,
        /// The bound.
        max: usize,
    },
    /// 401: the cluster does not know who asks.
    #[error(
        "{path}: not authenticated (401): give pulsar.auth a token, or pulsar.tls a certificate, that this cluster accepts"
    )]
    NotAuthenticated {
        /// What was asked for.
        path: String,
    },
    /// 403: the role may not.
    #[error("{path}: not permitted (403): {needs}")]
    NotPermitted {
        /// What was asked for.
        path: String,
        /// What the role needs.
        needs: &'static str,
    },
    /// Any other status that is no success.
    #[error("{path}: refused with status {status}: {reason}")]
    Refused {
        /// What was asked for.
        path: String,
        /// HTTP status.
        status: u16,
        /// The broker's words, shortened.
        reason: String,
    },
    /// Brokers sent us round.
    #[error("{path}: redirected more than {HOPS_MAX} times")]
    Redirects {
        /// What was asked for.
        path: String,
    },
    /// A redirect that cannot be followed.
    #[error("{path}: redirected to a place that cannot be followed: {problem}")]
    Redirect {
        /// What was asked for.
        path: String,
        /// Why not.
        problem: &'static str,
    },
    /// Not the JSON that this question is answered with.
    #[error("{path}: answer not understood: {problem}")]
    Answer {
        /// What was asked for.
        path: String,
        /// Where it differs.
        problem: String,
    },
    /// The token could not be read.
    #[error("the token could not be read: {0}")]
    Credentials(String),
}

impl RestError {
    /// The cluster answered, and lets this role not.
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, Self::NotAuthenticated { .. } | Self::NotPermitted { .. })
    }
}

/// Asks one cluster's admin API. Each question takes a connection of its own: they are rare, and brokers
/// redirect most of them anyway.
#[derive(Clone)]
pub(super) struct Exchange {
    address: Address,
    /// The url's own path, without a slash at its end.
    prefix: String,
    dialer: Dialer,
    credentials: Credentials,
    deadline: Duration,
}

/// A status and the whole body.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    location: String,
    body: Bytes,
}

impl Exchange {
    pub fn new(url: &str, dialer: Dialer, credentials: Credentials) -> Result<Self, RestError> {
        let address = Address::parse(url).map_err(RestError::Url)?;
        let (_, rest) = url.split_once("://").unwrap_or_default();
        let prefix = rest.split_once('/').map_or("", |(_, path)| path).trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Self { address, prefix, dialer, credentials, deadline: DEADLINE })
    }

    #[cfg(test)]
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// Asks and reads the whole answer. 401 and 403 are errors here, with what the role `needs`.
    pub async fn run(
        &self,
        method: Method,
        path: &str,
        body: String,
        needs: &'static str,
    ) -> Result<Answer, RestError> {
        let hops = self.follow(method, path, body.into());
        let answer = tokio::time::timeout(self.deadline, hops).await.map_err(|_| {
            let seconds = self.deadline.as_secs();
            RestError::NoAnswer { path: path.to_owned(), seconds }
        })??;
        let path = || path.to_owned();
        match answer.status {
            StatusCode::UNAUTHORIZED => Err(RestError::NotAuthenticated { path: path() }),
            StatusCode::FORBIDDEN => Err(RestError::NotPermitted { path: path(), needs }),
            _ => Ok(answer),
        }
    }

    async fn follow(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, RestError> {
        let mut address = self.address.clone();
        let mut target = format!("{}{path}", self.prefix);
        for _ in 0..=HOPS_MAX {
            let request = self.request(&method, &address, &target, body.clone(), path)?;
            let answer = self.ask(&address, request, path).await?;
            if ![StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT].contains(&answer.status) {
                return Ok(answer);
            }
            (address, target) = next_hop(&address, &answer.location)
                .map_err(|problem| RestError::Redirect { path: path.to_owned(), problem })?;
        }
        Err(RestError::Redirects { path: path.to_owned() })
    }

    fn request(
        &self,
        method: &Method,
        address: &Address,
        target: &str,
        body: Bytes,
        path: &str,
    ) -> Result<Request<Full<Bytes>>, RestError> {
        let host = match address.host.contains(':') {
            true => format!("[{}]:{}", address.host, address.port),
            false => format!("{}:{}", address.host, address.port),
        };
        let mut request = Request::builder().method(method.clone()).uri(target).header(HOST, host);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = (self.credentials)().map_err(RestError::Credentials)? {
            let bearer = [b"Bearer ", &token[..]].concat();
            let mut bearer = HeaderValue::from_bytes(&bearer)
                .map_err(|_| RestError::Credentials("it holds a line break or a control character".into()))?;
            bearer.set_sensitive(true);
            request = request.header(AUTHORIZATION, bearer);
        }
        request
            .body(Full::new(body))
            .map_err(|error| RestError::Broken { path: path.to_owned(), problem: error.to_string() })
    }

    async fn ask(
        &self,
        address: &Address,
        request: Request<Full<Bytes>>,
        path: &str,
    ) -> Result<Answer, RestError> {
        let dialled = self.dialer.dial(address).await;
        let stream = dialled.map_err(|source| RestError::Transport { path: path.to_owned(), source })?;
        let broken =
            |error: hyper::Error| RestError::Broken { path: path.to_owned(), problem: error.to_string() };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let answer = async { read_whole(sender.send_request(request).await.map_err(broken)?, path).await };
        tokio::pin!(connection, answer);
        let mut connected = true;
        loop {
            // Both live in this task, so whoever gives up closes the socket too. A broker may close before
            // the answer was read to its end from memory; an error of the connection reaches `answer`.
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                _ = &mut connection, if connected => connected = false,
            }
        }
    }
}

impl Answer {
    /// Its JSON, when it is a success.
    pub fn read<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T, RestError> {
        self.accepted(path)?;
        serde_json::from_slice(&self.body)
            .map_err(|error| RestError::Answer { path: path.to_owned(), problem: error.to_string() })
    }

    /// Whether the broker says that the thing asked for is not there. A 404 in other words is a wrong url.
    pub fn says_missing(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.broker_reason().is_some()
    }

    /// Whether it is a success at all.
    pub fn accepted(&self, path: &str) -> Result<(), RestError> {
        if self.status.is_success() {
            return Ok(());
        }
        Err(RestError::Refused { path: path.to_owned(), status: self.status.as_u16(), reason: self.reason() })
    }

    fn reason(&self) -> String {
        let said = self.broker_reason();
        let said = said.unwrap_or_else(|| String::from_utf8_lossy(&self.body).into_owned());
        let printable = said.chars().map(|c| if c.is_control() { ' ' } else { c });
        printable.take(REASON_LEN_MAX).collect()
    }

    /// Brokers say `{"reason": …}`; proxies and wrong places say anything.
    fn broker_reason(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Refusal {
            reason: String,
        }
        let refusal: Refusal = serde_json::from_slice(&self.body).ok()?;
        Some(refusal.reason)
    }
}

async fn read_whole(response: Response<hyper::body::Incoming>, path: &str) -> Result<Answer, RestError> {
    let status = response.status();
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.unwrap_or_default().to_owned();
    let collected = Limited::new(response.into_body(), BODY_LEN_MAX).collect().await;
    let body = collected.map_err(|error| match error.is::<LengthLimitError>() {
        true => RestError::TooLong { path: path.to_owned(), max: BODY_LEN_MAX },
        false => RestError::Broken { path: path.to_owned(), problem: error.to_string() },
    })?;
    Ok(Answer { status, location, body: body.to_bytes() })
}

/// Where a `Location` points, seen from `from`.
fn next_hop(from: &Address, location: &str) -> Result<(Address, String), &'static str> {
    if location.starts_with('/') && !location.starts_with("//") {
        return Ok((from.clone(), location.to_owned()));
    }
    let to = Address::parse(location).map_err(|_| "it is no http or https url")?;
    if from.tls && !to.tls {
        return Err("it leaves TLS, and the credentials would travel in the clear");
    }
    let (_, rest) = location.split_once("://").unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    Ok((to, format!("/{path}")))
}

/// A whole question, redirects included. Statistics of a large topic take seconds.
const DEADLINE: Duration = Duration::from_secs(30);
/// Brokers redirect to a leader, then to an owner; more is a loop.
const HOPS_MAX: usize = 10;
/// internalStats of a topic with very many ledgers has some megabytes.
const BODY_LEN_MAX: usize = 16 << 20;
/// As much of a refusal as a log line should hold.
const REASON_LEN_MAX: usize = 256;
