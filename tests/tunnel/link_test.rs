//! A link between two honest sides: up, used, broken, up again.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bridge::{Keys, edge, hub, in_time};

#[tokio::test(flavor = "multi_thread")]
async fn a_link_comes_up_and_carries_control_messages_both_ways() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut edge = edge(keys.edge_tunnel("bank", address, 1), "bank");
    let (mut at_hub, mut at_edge) = (hub.link_up().await, edge.link_up().await);
    assert_eq!(at_hub.link.id, at_edge.link.id);
    assert_eq!(
        (at_hub.link.peer.as_str(), at_edge.link.peer.as_str()),
        ("bank", "riskfuel")
    );
    assert_eq!((at_hub.link.relay_lanes, at_edge.link.relay_lanes), (1, 1));
    let large = Bytes::from(vec![7; 1 << 20]);
    at_hub.outbound.send(large.clone()).await.unwrap();
    at_edge.outbound.send(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(in_time(at_edge.inbound.recv()).await.unwrap(), large);
    assert_eq!(&in_time(at_hub.inbound.recv()).await.unwrap()[..], b"hello");

    let (lane_at_hub, lane_at_edge) = (hub.relay_lane().await, edge.relay_lane().await);
    assert_eq!((lane_at_hub.index, lane_at_edge.index), (0, 0));
    let both = |row: &pulsar_bridge::tunnel::status::LinkStatus| row.lanes.len() == 2;
    let ids = |row: pulsar_bridge::tunnel::status::LinkStatus| {
        row.lanes
            .into_iter()
            .map(|lane| (lane.kind, lane.lane_id))
            .collect::<Vec<_>>()
    };
    let (hub_row, edge_row) = (hub.row(both).await, edge.row(both).await);
    assert_eq!(hub_row.link, edge_row.link);
    assert_eq!(
        ids(hub_row),
        ids(edge_row),
        "lane ids are the evidence that nobody sat between"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_lane_carries_a_hundred_megabytes_there_and_back() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut edge = edge(keys.edge_tunnel("bank", address, 1), "bank");
    let _links = (hub.link_up().await, edge.link_up().await);
    let (mut far, near) = (hub.relay_lane().await, edge.relay_lane().await);
    let echo = tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(&mut far.stream);
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let (mut read, mut write) = tokio::io::split(near.stream);
    let sent = tokio::spawn(async move {
        let mut crc = 0;
        for n in 0..CHUNKS {
            let chunk: Vec<u8> = (0..CHUNK_LEN).map(|at| ((at * 31) as u32 ^ n) as u8).collect();
            crc = crc32c::crc32c_append(crc, &chunk);
            write.write_all(&chunk).await.unwrap();
        }
        write.shutdown().await.unwrap();
        crc
    });
    let (mut received, mut crc, mut buffer) = (0, 0, vec![0; CHUNK_LEN]);
    loop {
        let len = in_time(read.read(&mut buffer)).await.unwrap();
        if len == 0 {
            break;
        }
        crc = crc32c::crc32c_append(crc, &buffer[..len]);
        received += len;
    }
    assert_eq!(received, CHUNK_LEN * CHUNKS as usize);
    assert_eq!(crc, sent.await.unwrap());
    echo.await.unwrap();
}

const CHUNK_LEN: usize = 1 << 16;
const CHUNKS: u32 = 1600;
