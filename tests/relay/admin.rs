//! As much of an admin API as tells what lies at the scripted broker's cursor.

use std::fmt::Write;
use std::sync::Arc;

use pulsar_bridge::pulsar::rest::AdminRest;
use pulsar_bridge::pulsar::transport::Dialer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::broker::Broker;

/// Serves `internalStats` of any topic until the test ends.
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
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let properties = broker.with(|state| state.properties.clone());
    let properties: Vec<String> =
        properties.iter().map(|(key, value)| format!("\"{key}\":{}", value.cast_signed())).collect();
    let cursor = format!("{{\"properties\":{{{}}}}}", properties.join(","));
    let body = format!("{{\"cursors\":{{\"bridge.riskfuel.bank\":{cursor}}}}}");
    let mut page = String::from("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n");
    write!(page, "Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    // Whoever asked may be gone.
    let _ = socket.write_all(page.as_bytes()).await;
}
