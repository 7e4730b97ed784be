//! Asks a running bridge for its status, as `bridge status` does. One request, one answer, no redirects.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::report::Status;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Not a URL that this command can ask.
    #[error("`{0}` is no admin URL: write http://host:port, as in the configuration's admin.listen")]
    Url(String),
    /// Nobody answers there.
    #[error("{url}: {reason}: is the bridge running, and is admin.listen that address?")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// What happened.
        reason: String,
    },
    /// Somebody answers, but no bridge of this kind.
    #[error(
        "{url}: not a bridge's answer ({reason}): is admin.listen that address, and the bridge of this version?"
    )]
    Foreign {
        /// Who was asked.
        url: String,
        /// What was odd.
        reason: String,
    },
}

/// The status of the bridge at `http://host:port`.
pub async fn status(url: &str) -> Result<Status, AskError> {
    let authority = authority(url)?;
    let unreachable = |reason: String| AskError::Unreachable { url: url.to_owned(), reason };
    let asked = tokio::time::timeout(ANSWER_TIME_MAX, ask(&authority));
    let (code, body) = match asked.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(unreachable(error)),
        Err(_) => {
            return Err(unreachable(format!("no answer within {} s", ANSWER_TIME_MAX.as_secs())));
        }
    };
    let foreign = |reason: String| AskError::Foreign { url: url.to_owned(), reason };
    if code != 200 {
        return Err(foreign(format!("HTTP {code}")));
    }
    serde_json::from_slice(&body).map_err(|error| foreign(error.to_string()))
}

async fn ask(authority: &str) -> Result<(u16, Bytes), String> {
    let socket = TcpStream::connect(authority).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|error| error.to_string())?;
    let request = Request::get("/api/v1/status")
        .header(HOST, authority)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), STATUS_LEN_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((code, body.to_bytes()))
    };
    // The connection does its work beside the request; its end without an answer is the request's error.
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

/// `host:port` of the URL.
fn authority(url: &str) -> Result<String, AskError> {
    let refused = || AskError::Url(url.chars().take(200).flat_map(char::escape_debug).collect());
    let rest = url.strip_prefix("http://").ok_or_else(refused)?;
    let authority = rest.trim_end_matches('/');
    let has_port = authority
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !has_port || authority.contains(['/', '@', '?', '#', ' ']) {
        return Err(refused());
    }
    Ok(authority.to_owned())
}

const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// Some ten thousand rows.
const STATUS_LEN_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::admin::{AdminState, serve};

    #[tokio::test]
    async fn a_running_bridge_tells_its_status_and_stops_when_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state =
            AdminState::new("bank", Registry::default(), <_>::default(), <_>::default(), <_>::default());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, state.clone(), stop.clone()));
        let told = status(&url).await.unwrap();
        assert_eq!((told.site, told.links), ("bank".into(), state.links.rows()));
        stop.cancel();
        serving.await.unwrap();
        let error = status(&url).await.unwrap_err();
        assert!(matches!(error, AskError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(&url), "{error}");
    }

    #[tokio::test]
    async fn another_server_is_told_apart() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            assert!(socket.read(&mut request).await.unwrap() > 0);
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
        });
        let error = status(&url).await.unwrap_err();
        assert!(matches!(error, AskError::Foreign { .. }), "{error}");
        serving.await.unwrap();
    }

    #[test]
    fn other_urls_are_refused() {
        for url in
            ["", "127.0.0.1:9600", "https://a:1", "http://a", "http://a:x", "http://a:1/x", "http://u@a:1"]
        {
            assert!(matches!(authority(url), Err(AskError::Url(_))), "{url}");
        }
        assert_eq!(authority("http://[::1]:9600/").unwrap(), "[::1]:9600");
    }
}
