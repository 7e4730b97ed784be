//! The read-only HTTP server. Refuses other methods than GET and HEAD and names that are not ours; keeps no
//! connection longer than one answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{AdminState, host};

/// Answers until it is stopped; then lets the last answers out.
pub async fn serve(listener: TcpListener, state: AdminState, stop: CancellationToken) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "admin: listening");
    }
    let state = Arc::new(state);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        // Losing the race loses nothing: a socket that was not accepted stays in the listener's queue.
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else {
            // Out of file descriptors, most likely: the listener stays readable and would spin.
            tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!("admin: too many connections, one is closed");
            continue;
        };
        let state = Arc::clone(&state);
        let open = state.connections.clone();
        open.inc();
        connections.spawn(async move {
            let answered = tokio::time::timeout(CONNECTION_TIME_MAX, answer_one(socket, state)).await;
            if answered.is_err() {
                tracing::debug!("admin: a connection took too long and is closed");
            }
            open.dec();
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn answer_one(socket: TcpStream, state: Arc<AdminState>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(&request, &state);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(REQUEST_LEN_MAX)
        .serve_connection(TokioIo::new(socket), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "admin: a connection broke");
    }
}

fn answer<B>(request: &Request<B>, state: &AdminState) -> Response<Full<Bytes>> {
    if let Some(refused) = refusal(request, state) {
        return refused;
    }
    match request.uri().path() {
        "/" => plain(StatusCode::OK, INDEX),
        "/healthz" => plain(StatusCode::OK, "alive\n"),
        "/ready" if state.ready.load(Ordering::Relaxed) => plain(StatusCode::OK, "ready\n"),
        "/ready" => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        "/progress" => progress(state),
        "/metrics" => metrics(state),
        "/api/v1/status" => json(StatusCode::OK, &state.status()),
        _ => plain(StatusCode::NOT_FOUND, INDEX),
    }
}

fn refusal<B>(request: &Request<B>, state: &AdminState) -> Option<Response<Full<Bytes>>> {
    let header =
        |name: HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let hosts = state.names.hosts();
    if !header(HOST).is_some_and(|host| host::is_ours(host, &hosts)) {
        return Some(plain(StatusCode::FORBIDDEN, WRONG_HOST));
    }
    if header(ORIGIN).is_some_and(|origin| !host::is_our_page(origin, &hosts)) {
        return Some(plain(StatusCode::FORBIDDEN, "pages of other sites may not ask here\n"));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "this server is read-only\n");
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return Some(refused);
    }
    None
}

fn progress(state: &AdminState) -> Response<Full<Bytes>> {
    let progress = state.status().progress;
    let code = if progress.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(code, &progress)
}

fn metrics(state: &AdminState) -> Response<Full<Bytes>> {
    let mut page = String::new();
    match text::encode(&mut page, &state.registry) {
        Ok(()) => response(StatusCode::OK, OPEN_METRICS, page),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
    }
}

fn json(code: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(text) => response(code, "application/json", text + "\n"),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the status cannot be written\n"),
    }
}

fn plain(code: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(code, "text/plain; charset=utf-8", text)
}

fn response(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
    ] {
        headers.insert(name, hyper::header::HeaderValue::from_static(value));
    }
    response
}

const INDEX: &str =
    "the bridge; read-only:\n  /healthz\n  /ready\n  /progress\n  /metrics\n  /api/v1/status\n";
const WRONG_HOST: &str = "ask by address or as localhost, or list the name in admin.hosts\n";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Probes, a monitor and some people.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// One request and one answer, to somebody slow.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);
/// The head of a request; hyper takes no less.
const REQUEST_LEN_MAX: usize = 8192;

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use prometheus_client::registry::Registry;

    use super::*;

    fn state() -> AdminState {
        AdminState::new("bank", Registry::default(), <_>::default(), <_>::default(), <_>::default())
    }

    fn ask(state: &AdminState, method: Method, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = answer(&request.body(()).unwrap(), state);
        let code = response.status().as_u16();
        let body = futures::executor::block_on(response.into_body().collect()).unwrap().to_bytes();
        (code, String::from_utf8(body.into()).unwrap())
    }

    const OURS: &[(&str, &str)] = &[("host", "127.0.0.1:9600")];

    #[test]
    fn each_path_answers_what_it_is_for() {
        let state = state();
        let get = |path: &str| ask(&state, Method::GET, path, OURS);
        assert_eq!(get("/healthz"), (200, "alive\n".into()));
        assert_eq!(get("/ready").0, 503);
        state.ready.store(true, Ordering::Relaxed);
        assert_eq!(get("/ready"), (200, "ready\n".into()));
        let (code, progress) = get("/progress");
        assert_eq!(code, 503);
        assert!(progress.contains("no_link"), "{progress}");
        let status: crate::admin::report::Status = serde_json::from_str(&get("/api/v1/status").1).unwrap();
        assert_eq!((status.site.as_str(), status.ready), ("bank", true));
        let metrics = get("/metrics").1;
        assert!(
            metrics.contains("\nbridge_admin_connections 0\n") && metrics.ends_with("# EOF\n"),
            "{metrics}"
        );
        assert!(get("/").1.contains("/progress"));
        assert_eq!(get("/nowhere").0, 404);
    }

    #[test]
    fn strangers_names_pages_and_methods_are_refused() {
        let state = state();
        let get = |headers| ask(&state, Method::GET, "/api/v1/status", headers).0;
        assert_eq!(get(&[("host", "evil.example")]), 403);
        assert_eq!(get(&[]), 403);
        assert_eq!(get(&[("host", "localhost"), ("origin", "http://evil.example")]), 403);
        assert_eq!(get(&[("host", "localhost"), ("origin", "http://localhost:9600")]), 200);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::CONNECT] {
            assert_eq!(ask(&state, method, "/healthz", OURS).0, 405);
        }
        assert_eq!(ask(&state, Method::HEAD, "/healthz", OURS).0, 200);
    }
}
