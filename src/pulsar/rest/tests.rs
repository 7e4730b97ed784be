//! Against a small HTTP server on a free port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;

/// What questions looked like.
type Seen = Arc<Mutex<Vec<String>>>;
type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers every request by `answer(method and target)`; notes what came.
async fn serve<F>(answer: F) -> (SocketAddr, Seen)
where
    F: Fn(&str) -> Response<Body> + Clone + Send + Sync + 'static,
{
    let seen = Seen::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let notes = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (notes, answer) = (notes.clone(), answer.clone());
            let service = service_fn(move |request| {
                let (notes, answer) = (notes.clone(), answer.clone());
                async move { Ok::<_, Infallible>(answer(&note(request, &notes).await)) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (address, seen)
}

async fn note(request: Request<Incoming>, notes: &Seen) -> String {
    let line = format!("{} {}", request.method(), request.uri());
    let token = request.headers().get(header::AUTHORIZATION);
    let token = token.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body);
    notes.lock().unwrap().push(format!("{line} [{token}] {body}"));
    line
}

fn whole(text: &str) -> Body {
    Full::new(Bytes::copy_from_slice(text.as_bytes())).boxed_unsync()
}

fn streamed(chunks: impl stream::Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    Response::new(StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync())
}

fn status(status: u16, body: &str) -> Response<Body> {
    Response::builder().status(status).body(whole(body)).unwrap()
}

fn redirect(to: &str) -> Response<Body> {
    Response::builder().status(307).header(header::LOCATION, to).body(whole("")).unwrap()
}

/// The broker's own words for what is not there.
fn missing() -> Response<Body> {
    status(404, r#"{"reason":"Topic not found"}"#)
}

fn client(address: SocketAddr) -> AdminRest {
    let token: Credentials = Arc::new(|| Ok(Some(Bytes::from_static(b"s3cret"))));
    AdminRest::new(&format!("http://{address}"), Dialer::default(), token).unwrap()
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

#[tokio::test]
async fn deduplication_is_that_of_the_weakest_partition() {
    let (address, _) = serve(|line| match line {
        "GET /admin/v2/persistent/public/default/t/partitions" => {
            status(200, r#"{"partitions":3,"deleted":false}"#)
        }
        line if line.contains("t-partition-1/stats") => {
            status(200, r#"{"deduplicationStatus":"Recovering"}"#)
        }
        line if line.contains("t-partition-2/stats") => missing(),
        line if line.contains("t-partition-0/stats") => status(200, r#"{"deduplicationStatus":"Enabled"}"#),
        line if line.contains("/plain/partitions") => status(200, r#"{"partitions":0}"#),
        line if line.contains("/plain/stats") => status(200, r#"{"deduplicationStatus":"Disabled"}"#),
        _ => missing(),
    })
    .await;
    let rest = client(address);
    assert_eq!(rest.deduplication(&topic("t")).await.unwrap(), Some(Deduplication::Changing));
    assert_eq!(rest.deduplication(&topic("t-partition-0")).await.unwrap(), None);
    assert_eq!(rest.deduplication(&topic("plain")).await.unwrap(), Some(Deduplication::Disabled));
    assert_eq!(rest.deduplication(&topic("nowhere")).await.unwrap(), None);
}

#[tokio::test]
async fn a_redirect_to_another_broker_keeps_credentials_and_body() {
    let (owner, at_owner) = serve(|_| status(204, "")).await;
    let (first, at_first) = serve(move |line| {
        let target = line.split_once(' ').unwrap().1;
        redirect(&format!("http://{owner}{target}?authoritative=true"))
    })
    .await;
    assert!(client(first).create_partitioned(&topic("a/b/c"), 12).await.unwrap());
    let line = "PUT /admin/v2/persistent/a/b/c/partitions";
    assert_eq!(*at_first.lock().unwrap(), [format!("{line} [Bearer s3cret] 12")]);
    assert_eq!(*at_owner.lock().unwrap(), [format!("{line}?authoritative=true [Bearer s3cret] 12")]);
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let (address, seen) = serve(|_| redirect("/round")).await;
    let error = client(address).partitions(&topic("t")).await.unwrap_err();
    assert!(matches!(error, RestError::Redirects { .. }), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 11);
    let (address, _) = serve(|_| redirect("ftp://elsewhere/")).await;
    let error = client(address).partitions(&topic("t")).await.unwrap_err();
    assert!(matches!(error, RestError::Redirect { .. }), "{error}");
}

#[tokio::test]
async fn refusals_name_the_path_and_what_the_role_needs_and_no_token() {
    let (address, _) = serve(|line| match line {
        line if line.starts_with("PUT") => status(403, ""),
        line if line.starts_with("POST") => status(409, r#"{"reason":"fewer\npartitions"}"#),
        line if line.contains("/stats") => status(401, ""),
        line if line.contains("/subscriptions") => status(404, "<html>no such page"),
        _ => status(200, "[]"),
    })
    .await;
    let rest = client(address);
    let topic = topic("a/b/c");
    let errors = [
        rest.create_unpartitioned(&topic).await.unwrap_err(),
        rest.grow(&topic, 2).await.unwrap_err(),
        rest.stats(&topic).await.unwrap_err(),
        rest.subscriptions(&topic).await.unwrap_err(),
        rest.partitions(&topic).await.unwrap_err(),
    ];
    let expected = [
        "not permitted (403): make its role an admin of the tenant",
        "refused with status 409: fewer partitions",
        "not authenticated (401): give pulsar.auth a token",
        "refused with status 404: <html>no such page",
        "answer not understood",
    ];
    for (error, expected) in errors.iter().zip(expected) {
        let (shown, debugged) = (error.to_string(), format!("{error:?}"));
        assert!(shown.starts_with("/admin/v2/persistent/a/b/c") && shown.contains(expected), "{shown}");
        assert!(!shown.contains("s3cret") && !debugged.contains("s3cret"));
    }
}

#[tokio::test]
async fn what_is_there_already_is_not_created_again() {
    let (address, seen) = serve(|_| status(409, r#"{"reason":"This topic already exists"}"#)).await;
    let rest = client(address);
    assert!(!rest.create_partitioned(&topic("t"), 4).await.unwrap());
    assert!(!rest.create_unpartitioned(&topic("t")).await.unwrap());
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn an_endless_answer_and_a_silent_broker_are_given_up() {
    let (address, _) = serve(|_| streamed(stream::repeat(Bytes::from_static(&[b' '; 65536])))).await;
    let error = client(address).partitions(&topic("t")).await.unwrap_err();
    assert!(matches!(error, RestError::TooLong { .. }), "{error}");

    let (address, _) = serve(|_| streamed(stream::pending())).await;
    let mut rest = client(address);
    rest.exchange.set_deadline(Duration::from_millis(100));
    let error = rest.partitions(&topic("t")).await.unwrap_err();
    assert!(matches!(error, RestError::NoAnswer { .. }), "{error}");
}

#[tokio::test]
async fn cursors_backlogs_subscriptions_and_clusters_are_read() {
    let (address, _) = serve(|line| match line.split(['?']).next().unwrap_or_default() {
        "GET /admin/v2/persistent/a/b/c/internalStats" => status(
            200,
            r#"{"ledgers":[{"ledgerId":3,"entries":5,"size":9},{"ledgerId":7,"entries":0}],"currentLedgerEntries":2,"cursors":{"bridge.a.b":{"markDeletePosition":"3:4","properties":{"hole":-1,"n":7}},
                "a+b%2F%C3%BC*%7E.c":{"properties":{}}}}"#,
        ),
        "GET /admin/v2/persistent/a/b/c/stats" => status(
            200,
            r#"{"msgRateIn":0.5,"subscriptions":{"bridge.a.b":{"msgBacklog":12,"consumers":[
                {"consumerName":"r1","metadata":{"link":"pin"},"permits":3}]},"odd":{"msgBacklog":-3}}}"#,
        ),
        "GET /admin/v2/persistent/a/b/c/subscriptions" => status(200, r#"["bridge.a.b","odd"]"#),
        "GET /admin/v2/namespaces/a/b/replication" => status(200, r#"["here","there"]"#),
        _ => missing(),
    })
    .await;
    let rest = client(address);
    let topic = topic("a/b/c");
    let cursor = rest.cursor(&topic, "bridge.a.b").await.unwrap().unwrap();
    assert_eq!(cursor.properties, BTreeMap::from([("hole".into(), u64::MAX), ("n".into(), 7)]));
    assert_eq!(cursor.mark_delete, Some((3, 4)));
    assert_eq!(rest.cursor(&topic, "a b/ü*~.c").await.unwrap(), Some(Cursor::default()));
    assert_eq!(rest.cursor(&topic, "none").await.unwrap(), None);
    let ledgers = rest.ledgers(&topic).await.unwrap().unwrap();
    let counts: Vec<_> = ledgers.iter().map(|ledger| (ledger.ledger_id, ledger.entries)).collect();
    assert_eq!(counts, [(3, 5), (7, 2)]);
    assert_eq!(rest.backlog(&topic, "bridge.a.b").await.unwrap(), Some(12));
    assert_eq!(rest.backlog(&topic, "odd").await.unwrap(), Some(0));
    assert_eq!(rest.backlog(&topic, "none").await.unwrap(), None);
    let stats = rest.stats(&topic).await.unwrap().unwrap();
    assert_eq!(stats.subscriptions["bridge.a.b"].consumers[0].metadata["link"], "pin");
    assert_eq!(stats.deduplication(), Deduplication::Disabled);
    assert_eq!(rest.subscriptions(&topic).await.unwrap().unwrap(), ["bridge.a.b", "odd"]);
    assert_eq!(rest.replication_clusters(&topic).await.unwrap().unwrap(), ["here", "there"]);
}

#[tokio::test]
async fn the_token_is_read_anew_for_every_question() {
    let (address, seen) = serve(|_| missing()).await;
    let turn = Arc::new(Mutex::new(0));
    let token: Credentials = Arc::new(move || {
        let mut turn = turn.lock().unwrap();
        *turn += 1;
        match *turn {
            1 => Ok(None),
            2 => Ok(Some(Bytes::from_static(b"second"))),
            3 => Ok(Some(Bytes::from_static(b"broken\n"))),
            _ => Err("token file is gone".into()),
        }
    });
    let rest = AdminRest::new(&format!("http://{address}/proxy/"), Dialer::default(), token).unwrap();
    assert_eq!(rest.partitions(&topic("t")).await.unwrap(), None);
    assert_eq!(rest.partitions(&topic("t")).await.unwrap(), None);
    let line = "GET /proxy/admin/v2/persistent/public/default/t/partitions";
    assert_eq!(*seen.lock().unwrap(), [format!("{line} [] "), format!("{line} [Bearer second] ")]);
    let broken = rest.partitions(&topic("t")).await.unwrap_err().to_string();
    assert!(broken.contains("line break") && !broken.contains("broken"), "{broken}");
    assert!(rest.partitions(&topic("t")).await.unwrap_err().to_string().ends_with("token file is gone"));
}

#[test]
fn no_topic_name_leaves_its_place_in_the_path() {
    let paths = [
        ("a/b/c d", None),
        ("a/b/c?x=1&y#z%2F", Some("/admin/v2/persistent/a/b/c%3Fx%3D1%26y%23z%252F")),
        ("a/../..", Some("/admin/v2/persistent/a/%2E%2E/%2E%2E")),
        ("a/b/v1.2_x-y", Some("/admin/v2/persistent/a/b/v1.2_x-y")),
        ("a/b/ü", Some("/admin/v2/persistent/a/b/%C3%BC")),
    ];
    for (name, path) in paths {
        let encoded = TopicName::parse(name).ok().map(|topic| topic_path(&topic, ""));
        assert_eq!(encoded.as_deref(), path);
    }
}
