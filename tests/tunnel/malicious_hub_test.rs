//! A hub with the right key that lies: the edge keeps nothing of it.

use std::sync::Arc;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::bridge::{Keys, edge, in_time};
use crate::downgrade_test::true_hub;
use crate::stranger::{
    CONTROL, Hello, Limits, REFUSED, Refused, Seen, WELCOME, Welcome, hear, hubs_acceptor, say,
};

fn welcome(instance: u8, link: u64, relay_lanes: u32) -> Vec<u8> {
    let limits = Some(Limits { relay_lanes });
    let instance = vec![instance; 16];
    Welcome { version: 1, site: "riskfuel".into(), instance, link, limits }.encode_to_vec()
}

/// Takes the control lane, and sends a relay lane away as if it had come to process 2; then it welcomes that
/// lane, as a link of its own, to process 3. Tells once the edge has let go of it.
async fn lie(acceptor: TlsAcceptor, socket: TcpStream, told: mpsc::Sender<()>) -> std::io::Result<()> {
    let mut tls = acceptor.accept(socket).await?;
    let (_, hello) = hear(&mut tls).await?;
    let lane = Hello::decode(&hello[..]).unwrap().lane.unwrap();
    if lane.kind == CONTROL {
        say(&mut tls, WELCOME, &welcome(1, 7, 1)).await?;
    } else {
        let elsewhere = Refused { code: 5, instance: vec![2; 16] };
        say(&mut tls, REFUSED, &elsewhere.encode_to_vec()).await?;
        hear(&mut tls).await?;
        say(&mut tls, WELCOME, &welcome(3, 8, 0)).await?;
        tls.shutdown().await?;
    }
    while tls.read(&mut [0; 1024]).await.is_ok_and(|len| len > 0) {}
    if lane.kind != CONTROL {
        _ = told.try_send(());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_one_process_in_refused_and_another_in_welcome_leaves_nothing_behind() {
    let keys = Keys::new();
    let acceptor = hubs_acceptor(true_hub(&keys), &[b"bridge/1"], Arc::new(Seen::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, mut lies) = mpsc::channel(1);
    let hub = tokio::spawn(async move {
        let mut lying = tokio::task::JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            lying.spawn(lie(acceptor.clone(), socket, told.clone()));
        }
    });
    let mut bank = edge(keys.edge_tunnel("bank", address, 1), "bank");
    assert_eq!(bank.link_up().await.link.instance, [1; 16]);
    in_time(lies.recv()).await.unwrap();
    // The hub goes: if anything stood for a link still, there would be no row that tells.
    hub.abort();
    bank.reason("unreachable").await;
    assert!(bank.events.try_recv().is_err(), "no link to a process that contradicts itself");
}
