//! As much of an admin API as tells what lies at the scripted broker's cursor, and keeps a subscription's properties.

use std::collections::BTreeMap;
use std::sync::Arc;

use pulsar_bridge::pulsar::rest::AdminRest;
use pulsar_bridge::pulsar::transport::Dialer;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::broker::Broker;

/// Serves any topic until the test ends.
pub async fn serve(broker: &Broker) -> AdminRest {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let broker = broker.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(answer(socket, broker.clone()));
        }
    });
    AdminRest::new(&url, Dialer::default(), Arc::new(|| Ok(None))).unwrap()
}

async fn answer(mut socket: TcpStream, broker: Broker) {
    let mut request = Vec::new();
    let head_len = loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let head = String::from_utf8_lossy(&request[..head_len]).to_ascii_lowercase();
    let body_len = head.split_once("content-length: ").map_or(0, |(_, rest)| {
        rest.split_once('\r').and_then(|(digits, _)| digits.parse().ok()).unwrap_or_default()
    });
    while request.len() < head_len + body_len {
        if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default();
    let body = match (head.starts_with("put "), path.ends_with("/properties")) {
        (true, true) => {
            let kept: BTreeMap<String, String> = serde_json::from_slice(&request[head_len..]).unwrap();
            broker.with(|state| state.kept = kept);
            json!({})
        }
        (false, true) => json!(broker.with(|state| state.kept.clone())),
        (_, false) => json!({ "cursors": { "bridge.riskfuel.bank": cursor(&broker) } }),
    };
    let body = body.to_string();
    let page = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // Whoever asked may be gone.
    let _ = socket.write_all(page.as_bytes()).await;
}

fn cursor(broker: &Broker) -> serde_json::Value {
    let (properties, mark_delete) = broker.with(|state| (state.properties.clone(), state.mark_delete));
    let properties: BTreeMap<_, _> =
        properties.into_iter().map(|(key, value)| (key, value.cast_signed())).collect();
    let (ledger, entry) = mark_delete.map_or((0, -1), |(ledger, entry)| (ledger, entry.cast_signed()));
    json!({ "markDeletePosition": format!("{ledger}:{entry}"), "properties": properties })
}
