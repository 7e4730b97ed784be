//! A link between two honest sides: up, used, broken, up again.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::FutureExt;
use pulsar_bridge::tunnel::KEEPALIVE;
use pulsar_bridge::tunnel::status::LinkStatus;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::bridge::{Keys, edge, hub, in_time};
use crate::stranger::proxy;

#[tokio::test(flavor = "multi_thread")]
async fn a_link_comes_up_and_carries_control_messages_both_ways() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut edge = edge(keys.edge_tunnel("bank", address, 1), "bank");
    let (mut at_hub, mut at_edge) = (hub.link_up().await, edge.link_up().await);
    assert_eq!(at_hub.link.id, at_edge.link.id);
    assert_eq!((at_hub.link.peer.as_str(), at_edge.link.peer.as_str()), ("bank", "riskfuel"));
    assert_eq!((at_hub.link.relay_lanes, at_edge.link.relay_lanes), (1, 1));
    let large = Bytes::from(vec![7; 1 << 20]);
    at_hub.outbound.send(large.clone()).await.unwrap();
    at_edge.outbound.send(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(in_time(at_edge.inbound.recv()).await.unwrap(), large);
    assert_eq!(&in_time(at_hub.inbound.recv()).await.unwrap()[..], b"hello");

    let (lane_at_hub, lane_at_edge) = (hub.relay_lane().await, edge.relay_lane().await);
    assert_eq!((lane_at_hub.index, lane_at_edge.index), (0, 0));
    let both = |row: &LinkStatus| row.lanes.len() == 2;
    let ids =
        |row: LinkStatus| row.lanes.into_iter().map(|lane| (lane.kind, lane.lane_id)).collect::<Vec<_>>();
    let (hub_row, edge_row) = (hub.row(both).await, edge.row(both).await);
    assert_eq!(hub_row.link, edge_row.link);
    let told = |row: &LinkStatus| [row.edge_key.clone(), row.hub_root.clone()].map(Option::unwrap);
    let pin = URL_SAFE_NO_PAD.encode(keys.token("bank").pins[0]);
    assert_eq!(told(&hub_row), [keys.edge_keys()[0].to_string(), pin], "what the trust rests on");
    assert_eq!(told(&hub_row), told(&edge_row));
    assert_eq!(ids(hub_row), ids(edge_row), "lane ids are the evidence that nobody sat between");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_dies_and_comes_back_is_dialled_again_with_all_lanes() {
    let keys = Keys::new();
    let mut cfg = keys.hub_tunnel();
    let (mut first, address) = hub(&cfg).await;
    let mut bank = edge(keys.edge_tunnel("bank", address, 2), "bank");
    let before = bank.link_up().await;
    let _lanes = (bank.relay_lane().await, bank.relay_lane().await);
    first.link_up().await;
    first.stop.cancel();
    in_time(first.task).await.unwrap();
    in_time(before.link.ended.cancelled()).await;
    bank.reason("unreachable").await;
    cfg.listen = address;
    let (mut second, _) = hub(&cfg).await;
    let (at_hub, at_bank) = (second.link_up().await, bank.link_up().await);
    assert_eq!(at_hub.link.id, at_bank.link.id);
    assert_ne!(before.link.id, at_bank.link.id);
    let mut indexes = [second.relay_lane().await.index, second.relay_lane().await.index];
    indexes.sort_unstable();
    assert_eq!(indexes, [0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_lane_that_its_holder_drops_is_dialled_again_and_the_link_stays() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut bank = edge(keys.edge_tunnel("bank", address, 1), "bank");
    let (at_hub, at_bank) = (hub.link_up().await, bank.link_up().await);
    let (far, mut near) = (hub.relay_lane().await, bank.relay_lane().await);
    let ended = far.ended.clone();
    drop(far);
    assert!(ended.is_cancelled());
    // The other holder reads the end, lets go as well, and both get a new lane.
    assert!(!matches!(in_time(near.stream.read(&mut [0; 1])).await, Ok(1..)));
    drop(near);
    let (far, near) = (hub.relay_lane().await, bank.relay_lane().await);
    assert_eq!((far.index, near.index), (0, 0));
    assert!(!at_hub.link.ended.is_cancelled() && !at_bank.link.ended.is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_whose_packets_vanish_is_noticed_by_both_sides_and_its_lanes_go_with_it() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let way = proxy(vec![address]).await;
    let mut bank = edge(keys.edge_tunnel("bank", way.address, 1), "bank");
    let (at_hub, at_bank) = (hub.link_up().await, bank.link_up().await);
    let (mut far, mut near) = (hub.relay_lane().await, bank.relay_lane().await);
    way.black_hole.cancel();
    let since = Instant::now();
    // Whoever reads a lane is woken when it is gone.
    let (mut at_far, mut at_near) = ([0; 1], [0; 1]);
    let (far_read, near_read) = tokio::join!(
        in_time(far.stream.read(&mut at_far).map(|read| (read, since.elapsed()))),
        in_time(near.stream.read(&mut at_near).map(|read| (read, since.elapsed()))),
    );
    in_time(at_hub.link.ended.cancelled()).await;
    in_time(at_bank.link.ended.cancelled()).await;
    for (read, after) in [far_read, near_read] {
        assert!(read.is_err());
        assert!(after > Duration::from_secs(4) && after < Duration::from_secs(15), "{after:?}");
    }
    hub.row(|row| row.peer == "bank" && row.reason.as_deref() == Some("silence")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_reads_no_messages_for_long_keeps_its_link_and_loses_none() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut bank = edge(keys.edge_tunnel("bank", address, 0), "bank");
    let (at_hub, mut at_bank) = (hub.link_up().await, bank.link_up().await);
    // More than all queues and windows hold: the hub's pings now wait behind its own messages.
    let sending = tokio::spawn(async move {
        for n in 0..MANY_MESSAGES {
            let message = Bytes::from(vec![n; 1 << 20]);
            at_hub.outbound.send(message).await.unwrap();
        }
        at_hub
    });
    // Real time, for the sockets are real: longer than the silence that ends a lane.
    tokio::time::sleep(2 * KEEPALIVE + Duration::from_secs(3)).await;
    assert!(!at_bank.link.ended.is_cancelled());
    for n in 0..MANY_MESSAGES {
        let message = in_time(at_bank.inbound.recv()).await.unwrap();
        assert_eq!((message.len(), message[0]), (1 << 20, n));
    }
    let at_hub = in_time(sending).await.unwrap();
    assert!(!at_hub.link.ended.is_cancelled() && !at_bank.link.ended.is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_lands_at_another_hub_process_becomes_a_link_of_its_own() {
    let keys = Keys::new();
    let (mut one, at_one) = hub(&keys.hub_tunnel()).await;
    let (mut two, at_two) = hub(&keys.hub_tunnel()).await;
    // A load balancer: the control lane goes to one, its relay lane to two, and so on in turn.
    let balancer = proxy(vec![at_one, at_two]).await;
    let mut bank = edge(keys.edge_tunnel("bank", balancer.address, 1), "bank");
    let first = bank.link_up().await;
    let at_hub_one = one.link_up().await;
    assert_eq!(first.link.id, at_hub_one.link.id);
    let at_hub_two = two.link_up().await;
    let second = bank.link_up().await;
    assert_eq!(second.link.id, at_hub_two.link.id);
    // Taking turns could keep the two lanes at the wrong process for long. Kept: a lane that is dropped is
    // dialled again.
    let to = |process| *balancer.targets.lock().unwrap() = vec![process];
    to(at_one);
    let _lanes_at_one = (one.relay_lane().await, bank.relay_lane().await);
    to(at_two);
    let _lanes_at_two = (two.relay_lane().await, bank.relay_lane().await);
    assert!(!first.link.ended.is_cancelled() && !second.link.ended.is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_process_of_an_edge_that_may_have_two_is_refused_until_one_leaves() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let first = edge(keys.edge_tunnel("bank", address, 0), "bank");
    let _first_link = hub.link_up().await;
    let _second = edge(keys.edge_tunnel("bank", address, 0), "bank");
    let _second_link = hub.link_up().await;
    let third = edge(keys.edge_tunnel("bank", address, 0), "bank");
    let row = third.reason("too_many_instances").await;
    assert_eq!(row.state, "refused");
    assert!(hub.events.try_recv().is_err());
    first.stop.cancel();
    in_time(first.task).await.unwrap();
    assert_eq!(hub.link_up().await.link.peer, "bank");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_does_not_answer_is_named_and_the_next_one_is_tried() {
    let keys = Keys::new();
    let (_hub, address) = hub(&keys.hub_tunnel()).await;
    // Bound and dropped: nobody listens there.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut cfg = keys.edge_tunnel("bank", closed, 0);
    let lonely = edge(cfg.clone(), "bank");
    assert_eq!(lonely.reason("unreachable").await.state, "dialling");
    cfg.connect.extend(keys.edge_tunnel("bank", address, 0).connect);
    let mut bank = edge(cfg, "bank");
    bank.link_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_a_link_on_one_side_ends_it_on_the_other_and_a_stopped_side_leaves_no_row() {
    let keys = Keys::new();
    let (mut hub, address) = hub(&keys.hub_tunnel()).await;
    let mut bank = edge(keys.edge_tunnel("bank", address, 0), "bank");
    let (at_hub, at_bank) = (hub.link_up().await, bank.link_up().await);
    at_hub.link.ended.cancel();
    in_time(at_bank.link.ended.cancelled()).await;
    let again = bank.link_up().await;
    assert_ne!(again.link.id, at_bank.link.id);
    bank.stop.cancel();
    in_time(bank.task).await.unwrap();
    assert_eq!(bank.board.rows(), []);
    hub.row(|row| row.peer == "bank" && row.link.is_none() && row.state == "waiting").await;
    hub.stop.cancel();
    in_time(hub.task).await.unwrap();
    assert_eq!(hub.metrics.links.get(), 0);
    assert_eq!(hub.metrics.unauthenticated.get(), 0);
}

const CHUNK_LEN: usize = 1 << 16;
const CHUNKS: u32 = 1600;
const MANY_MESSAGES: u8 = 200;
