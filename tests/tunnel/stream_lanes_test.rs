//! Connections that carry much go on over a lane of their own, and nobody who uses them sees a difference.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use pulsar_bridge::tunnel::status::LaneStatus;
use pulsar_bridge::tunnel::stream_lanes::STREAM_LANES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bridge::{in_time, row_of};
use crate::forwarding::{End, Pair, echo, held, pair_to, read_out, says_back};

/// Enough to be worth a lane.
const MUCH: usize = 3 << 20;

fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| (((n + seed) * 7) >> 3) as u8).collect()
}

/// A connection through both sides, and its far end.
async fn connection() -> (Pair, TcpStream, TcpStream) {
    let (target, mut accepted) = held().await;
    let (pair, listen) = pair_to(target).await;
    let client = TcpStream::connect(listen).await.unwrap();
    let far = in_time(accepted.recv()).await.unwrap();
    (pair, client, far)
}

/// Sends and hears so much that it moves, and is still open.
async fn moved(listen: SocketAddr, pair: &Pair) -> TcpStream {
    let mut client = TcpStream::connect(listen).await.unwrap();
    give_and_take(&mut client, &bytes(MUCH, 0)).await;
    for end in [&pair.hub, &pair.edge] {
        lanes(end, 1).await;
    }
    client
}

/// Through a target that gives back what it gets.
async fn give_and_take(client: &mut TcpStream, words: &[u8]) {
    let (mut read, mut write) = client.split();
    let mut heard = vec![0; words.len()];
    let (sent, read) =
        tokio::join!(write.write_all(words), async { in_time(read.read_exact(&mut heard)).await });
    sent.unwrap();
    read.unwrap();
    assert!(heard == words);
}

/// The lanes of streams at one side, once there are so many.
async fn lanes(end: &End, count: usize) -> Vec<LaneStatus> {
    let of_streams = |lanes: &[LaneStatus]| lanes.iter().filter(|lane| lane.kind == "stream").count();
    let row = row_of(|| end.side.board.rows(), |row| of_streams(&row.lanes) == count).await;
    row.lanes.into_iter().filter(|lane| lane.kind == "stream").collect()
}

/// Waits until such a lane has carried so much each way: the board is written once a second.
async fn carried_at_least(end: &End, bytes_in: u64, bytes_out: u64) {
    let has =
        |lane: &LaneStatus| lane.kind == "stream" && lane.bytes_in >= bytes_in && lane.bytes_out >= bytes_out;
    row_of(|| end.side.board.rows(), |row| row.lanes.iter().any(has)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_carries_much_moves_to_a_lane_of_its_own_and_every_byte_arrives() {
    let (pair, listen) = pair_to(echo().await).await;
    let mut client = moved(listen, &pair).await;
    let (at_hub, at_edge) = (lanes(&pair.hub, 1).await, lanes(&pair.edge, 1).await);
    assert_eq!((&at_hub[0].lane_id, at_hub[0].index), (&at_edge[0].lane_id, at_edge[0].index));
    give_and_take(&mut client, &bytes(2 * MUCH, 1)).await;
    for end in [&pair.hub, &pair.edge] {
        carried_at_least(end, 2 * MUCH as u64, 2 * MUCH as u64).await;
    }
    // An end of one direction is one here too.
    client.shutdown().await.unwrap();
    assert_eq!(read_out(&mut client).await, Ok(Vec::new()));
    for end in [&pair.hub, &pair.edge] {
        lanes(end, 0).await;
        let link = &end.side.board.rows()[0];
        let carried = link.bytes_in.min(link.bytes_out);
        assert!(carried >= 3 * MUCH as u64, "a lane that ends takes nothing along: {carried}");
        let row = end.row(|row| row.open == 0 && row.connections == 1).await;
        assert_eq!((row.bytes_in, row.bytes_out, row.reset.len()), (3 * MUCH as u64, 3 * MUCH as u64, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_direction_that_has_ended_keeps_the_other_from_nothing() {
    let (pair, mut client, mut far) = connection().await;
    client.shutdown().await.unwrap();
    assert_eq!(read_out(&mut far).await, Ok(Vec::new()));
    let words = bytes(3 * MUCH, 2);
    let said = words.clone();
    let saying = tokio::spawn(async move {
        far.write_all(&said).await.unwrap();
        far
    });
    let mut heard = vec![0; words.len()];
    in_time(client.read_exact(&mut heard)).await.unwrap();
    let mut far = saying.await.unwrap();
    assert!(heard == words);
    lanes(&pair.hub, 1).await;
    far.write_all(b"last").await.unwrap();
    drop(far);
    assert_eq!(read_out(&mut client).await, Ok(b"last".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_a_reset_there_too_and_a_lane_that_breaks_is_one() {
    for by_client in [true, false] {
        let (pair, mut client, mut far) = connection().await;
        let mut heard = vec![0; MUCH];
        let words = bytes(MUCH, 3);
        let (said, read) = tokio::join!(client.write_all(&words), in_time(far.read_exact(&mut heard)));
        said.unwrap();
        read.unwrap();
        lanes(&pair.hub, 1).await;
        let (near, other) = if by_client { (client, &mut far) } else { (far, &mut client) };
        socket2::SockRef::from(&near).set_linger(Some(Duration::ZERO)).unwrap();
        drop(near);
        assert_eq!(read_out(other).await, Err(ErrorKind::ConnectionReset));
    }
    let (pair, listen) = pair_to(echo().await).await;
    let mut client = moved(listen, &pair).await;
    pair.wire.cut();
    assert_eq!(read_out(&mut client).await, Err(ErrorKind::ConnectionReset));
    lanes(&pair.hub, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_whose_connection_stands_still_is_kept_alive_by_both_sides() {
    let (pair, listen) = pair_to(echo().await).await;
    let mut client = moved(listen, &pair).await;
    let before = lanes(&pair.hub, 1).await.remove(0);
    carried_at_least(&pair.hub, before.bytes_in + 1, before.bytes_out + 1).await;
    says_back(&mut client, b"still here").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_may_have_one_all_carry_what_they_are_given() {
    let (pair, listen) = pair_to(echo().await).await;
    let mut open = Vec::new();
    for n in 0..STREAM_LANES_MAX + 2 {
        let mut client = TcpStream::connect(listen).await.unwrap();
        give_and_take(&mut client, &bytes(MUCH, n)).await;
        lanes(&pair.hub, (n + 1).min(STREAM_LANES_MAX)).await;
        open.push(client);
    }
    for (n, client) in open.iter_mut().enumerate() {
        give_and_take(client, &bytes(MUCH, n)).await;
    }
    assert_eq!(lanes(&pair.edge, STREAM_LANES_MAX).await.len(), STREAM_LANES_MAX);
}

/// A target that says much at the pace of a slow line, to a client that looks away meanwhile for longer than any silence
/// is borne: it hears all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_look_away_for_as_long_as_it_likes() {
    const LOOKS_AWAY: Duration = Duration::from_secs(15);
    let (pair, mut client, mut far) = connection().await;
    let words = bytes(10 * MUCH, 5);
    let said = words.clone();
    let saying = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        for piece in said.chunks(100 << 10) {
            pace.tick().await;
            far.write_all(piece).await.unwrap();
        }
        far
    });
    let mut heard = vec![0; words.len()];
    in_time(client.read_exact(&mut heard[..MUCH])).await.unwrap();
    lanes(&pair.hub, 1).await;
    tokio::time::sleep(LOOKS_AWAY).await;
    in_time(client.read_exact(&mut heard[MUCH..])).await.unwrap();
    assert!(heard == words);
    saying.await.unwrap();
}

/// The target is done, and so is its side; the client has not read yet when nobody else uses the link any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_stays_in_use_until_the_last_byte_is_handed_on() {
    let (pair, mut client, mut far) = connection().await;
    client.shutdown().await.unwrap();
    assert_eq!(read_out(&mut far).await, Ok(Vec::new()));
    let words = bytes(3 * MUCH, 6);
    let said = words.clone();
    // Ends when all of it is on its way.
    let saying = tokio::spawn(async move { far.write_all(&said).await });
    let mut heard = vec![0; words.len()];
    in_time(client.read_exact(&mut heard[..MUCH])).await.unwrap();
    in_time(saying).await.unwrap().unwrap();
    // Said by the edge, and not yet handed on by the hub.
    let row = pair.edge.row(|row| row.bytes_out == words.len() as u64).await;
    assert_eq!(row.open, 1, "the edge is done with what the hub still has");
    in_time(client.read_exact(&mut heard[MUCH..])).await.unwrap();
    assert!(heard == words);
    assert_eq!(read_out(&mut client).await, Ok(Vec::new()));
    pair.edge.row(|row| row.open == 0).await;
}
