//! Forwards over a real link: what TCP says at one side is what TCP says at the other, and nothing else is reached.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use pulsar_bridge::forward::rules::ForwardSpec;
use pulsar_bridge::forward::status::ForwardStatus;
use pulsar_bridge::policy::ForwardLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::bridge::{in_time, row_of};
use crate::forwarding::{
    EDGE, HUB, Ours, Pair, echo, forward, held, pair_to, reaching, read_out, says_back, silent,
};

async fn reset_soon(socket: &mut TcpStream) {
    assert_eq!(read_out(socket).await, Err(ErrorKind::ConnectionReset));
}

/// The reset may come before the client has looked at its connection.
async fn connects_to_a_reset(address: SocketAddr) {
    match TcpStream::connect(address).await {
        Ok(mut client) => reset_soon(&mut client).await,
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_said_everything_still_hears_all_of_the_answer() {
    let (pair, listen) = pair_to(echo().await).await;
    let mut client = TcpStream::connect(listen).await.unwrap();
    let words: Vec<u8> = (0..3_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let (mut read, mut write) = client.split();
    let mut heard = Vec::new();
    let (sent, _) = tokio::join!(
        async {
            write.write_all(&words).await.unwrap();
            // The echo goes on long after this end.
            write.shutdown().await
        },
        async { in_time(read.read_to_end(&mut heard)).await.unwrap() }
    );
    sent.unwrap();
    assert!(heard == words, "{} of {} bytes", heard.len(), words.len());
    let row = pair.hub.row(|row| row.open == 0 && row.connections == 1).await;
    assert_eq!((row.bytes_in, row.bytes_out), (3_000_000, 3_000_000));
    let row = pair.edge.row(|row| row.open == 0 && row.connections == 1).await;
    assert_eq!((row.bytes_in, row.bytes_out), (3_000_000, 3_000_000));
    assert_eq!((row.peer.as_str(), row.reset.len()), (HUB, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_one_direction_reaches_the_target_while_the_other_goes_on() {
    let (target, mut accepted) = held().await;
    let (_pair, listen) = pair_to(target).await;
    let mut client = TcpStream::connect(listen).await.unwrap();
    let mut far = in_time(accepted.recv()).await.unwrap();
    // The target ends first, and still listens.
    far.write_all(b"bye").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(read_out(&mut client).await.unwrap(), b"bye");
    client.write_all(b"wait").await.unwrap();
    let mut heard = [0; 4];
    in_time(far.read_exact(&mut heard)).await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!((&heard, read_out(&mut far).await), (b"wait", Ok(Vec::new())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_at_one_side_is_a_reset_at_the_other_and_never_an_end() {
    let (target, mut accepted) = held().await;
    let (_pair, listen) = pair_to(target).await;
    for by_client in [true, false] {
        for ended_before in [false, true] {
            let mut client = TcpStream::connect(listen).await.unwrap();
            let mut far = in_time(accepted.recv()).await.unwrap();
            let (near, other) = if by_client { (&mut client, &mut far) } else { (&mut far, &mut client) };
            if ended_before {
                // The one that will see the reset had nothing more to say.
                other.shutdown().await.unwrap();
                assert_eq!(read_out(near).await, Ok(Vec::new()));
            }
            near.write_all(b"half").await.unwrap();
            let mut heard = [0; 4];
            in_time(other.read_exact(&mut heard)).await.unwrap();
            socket2::SockRef::from(&*near).set_linger(Some(Duration::ZERO)).unwrap();
            if by_client {
                drop(client);
                reset_soon(&mut far).await;
            } else {
                drop(far);
                reset_soon(&mut client).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_without_a_word_of_tls_is_a_reset_at_both_sides_and_never_an_end() {
    let (target, mut accepted) = held().await;
    let (pair, listen) = pair_to(target).await;
    let mut client = TcpStream::connect(listen).await.unwrap();
    let mut far = in_time(accepted.recv()).await.unwrap();
    client.write_all(b"half of something").await.unwrap();
    let mut heard = [0; 17];
    in_time(far.read_exact(&mut heard)).await.unwrap();
    pair.wire.cut();
    let (at_client, at_target) = tokio::join!(read_out(&mut client), read_out(&mut far));
    assert_eq!((at_client, at_target), (Err(ErrorKind::ConnectionReset), Err(ErrorKind::ConnectionReset)));
    pair.hub.row(|row| row.reset.get("link_lost") == Some(&1)).await;
    // The edge dials again, and the same address serves again.
    assert_eq!(pair.hub.listening("app").await, listen);
    // It may have listened a moment longer than the old link lived: then the connection is reset.
    let again = async {
        loop {
            if let Ok(mut client) = TcpStream::connect(listen).await {
                tokio::select! {
                    far = accepted.recv() => return (client, far.unwrap()),
                    _ = client.read_u8() => {}
                }
            }
            tokio::task::yield_now().await;
        }
    };
    let (mut client, mut far) = in_time(again).await;
    far.write_all(b"back").await.unwrap();
    let mut heard = [0; 4];
    in_time(client.read_exact(&mut heard)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_link_the_address_refuses_connections_as_a_server_that_is_down_does() {
    let target = echo().await;
    let (pair, listen) = pair_to(target).await;
    says_back(&mut TcpStream::connect(listen).await.unwrap(), b"up").await;
    pair.edge.side.stop.cancel();
    in_time(pair.edge.side.task).await.unwrap();
    let row = pair.hub.row(|row| row.state == "refusing").await;
    assert_eq!(row.reason.as_deref(), Some("no_link"));
    // The row is written when the listener is gone.
    let refused = TcpStream::connect(listen).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // And nobody else on this machine can take it meanwhile, to be taken for the other side.
    assert_eq!(std::net::TcpListener::bind(listen).unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_target_reads_nothing_ends_with_its_link() {
    let (target, mut accepted) = held().await;
    let (pair, listen) = pair_to(target).await;
    let mut client = TcpStream::connect(listen).await.unwrap();
    let mut far = in_time(accepted.recv()).await.unwrap();
    // Until everything on the way is full.
    let chunk = vec![7; 1 << 20];
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), client.write(&chunk)).await {
        assert!(written.unwrap() > 0);
    }
    pair.wire.cut();
    let (at_client, at_target) = tokio::join!(read_out(&mut client), read_out(&mut far));
    assert_eq!((at_client, at_target), (Err(ErrorKind::ConnectionReset), Err(ErrorKind::ConnectionReset)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_policy_does_not_name_sees_no_connection() {
    let (allowed, (forbidden, mut accepted)) = (echo().await, held().await);
    let spec = forward("forbidden", HUB, EDGE, forbidden);
    let ours = Ours { declared: vec![spec], ..Ours::default() };
    let theirs = Ours { policy: reaching(&[allowed]), ..Ours::default() };
    let pair = Pair::new(ours, theirs).await;
    let listen = pair.hub.listening("forbidden").await;
    connects_to_a_reset(listen).await;
    let row = pair.hub.row(|row| row.reset.contains_key("target_not_allowed")).await;
    assert_eq!((row.open, row.reset["target_not_allowed"]), (0, 1));
    assert!(pair.edge.board.rows().is_empty(), "what a peer asks for makes no row");
    assert!(accepted.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_resets_the_client_with_a_counted_reason() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = closed.local_addr().unwrap();
    drop(closed);
    let (pair, listen) = pair_to(target).await;
    connects_to_a_reset(listen).await;
    // Handed over, and reached nothing.
    for (end, connections) in [(&pair.hub, 1), (&pair.edge, 0)] {
        let row = end.row(|row| row.reset.get("target_unreachable") == Some(&1)).await;
        assert_eq!(row.connections, connections);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_a_bound_are_reset_at_the_side_whose_bound_it_is() {
    let target = echo().await;
    let limited = |limits| {
        let mut spec = forward("app", HUB, EDGE, target);
        spec.limits = limits;
        spec
    };
    let (one, rare) =
        (ForwardLimits { connections: 1, rate: None }, ForwardLimits { connections: 9, rate: Some(1) });
    for (ours, theirs, reason, at_hub) in [
        (one, ForwardLimits::default(), "too_many_connections", 1),
        (ForwardLimits::default(), one, "too_many_connections", 1),
        (rare, ForwardLimits::default(), "rate_limited", 1),
        (ForwardLimits::default(), rare, "rate_limited", 1),
    ] {
        let mut policy = reaching(&[]);
        policy.forward.allow(limited(ours).target, theirs);
        let ours = Ours { declared: vec![limited(ours)], ..Ours::default() };
        let pair = Pair::new(ours, Ours { policy, ..Ours::default() }).await;
        let listen = pair.hub.listening("app").await;
        let mut first = TcpStream::connect(listen).await.unwrap();
        says_back(&mut first, b"first").await;
        connects_to_a_reset(listen).await;
        pair.hub.row(|row| row.reset.get(reason) == Some(&at_hub)).await;
        says_back(&mut first, b"still").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_targets_side_may_declare_and_the_listening_sides_policy_decides() {
    let target = echo().await;
    let free = free_address().await;
    let spec = |name: &str, listen| {
        let mut spec = forward(name, HUB, EDGE, target);
        spec.listen = listen;
        spec
    };
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (busy, unlisted) = (taken.local_addr().unwrap(), free_address().await);
    let declared = vec![spec("good", free), spec("busy", busy), spec("unlisted", unlisted)];
    let mut policy = reaching(&[]);
    policy.listen.extend([free, busy]);
    let pair = Pair::new(Ours { policy, ..Ours::default() }, Ours { declared, ..Ours::default() }).await;
    assert_eq!(pair.hub.listening("good").await, free);
    says_back(&mut TcpStream::connect(free).await.unwrap(), b"declared there").await;
    pair.hub.row(|row| row.forward == "busy" && row.reason.as_deref() == Some("address_in_use")).await;
    assert!(pair.hub.board.rows().iter().all(|row| row.forward != "unlisted"));
    // All three lead to one target here, and each is shown as it is.
    for (name, state, reason) in [
        ("good", "allowed", None),
        ("busy", "refusing", Some("address_in_use")),
        ("unlisted", "refusing", Some("listen_not_allowed")),
    ] {
        let is = |row: &ForwardStatus| (row.state.as_str(), row.reason.as_deref()) == (state, reason);
        pair.edge.row(|row| row.forward == name && row.peer == HUB && is(row)).await;
    }
    let refused = TcpStream::connect(unlisted).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    drop(taken);
    pair.hub.listening("busy").await;
    says_back(&mut TcpStream::connect(busy).await.unwrap(), b"free at last").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_counts_for_the_forward_by_which_it_came_and_for_no_other_to_its_target() {
    let target = echo().await;
    let spec = |name, listen| ForwardSpec { listen, ..forward(name, HUB, EDGE, target) };
    let (good, unlisted) = (free_address().await, free_address().await);
    let mut policy = reaching(&[]);
    policy.listen.insert(good);
    let ours = Ours { declared: vec![forward("web", HUB, EDGE, target)], policy };
    let declared = vec![spec("back", unlisted), spec("good", good)];
    let pair = Pair::new(ours, Ours { declared, policy: reaching(&[target]) }).await;
    pair.edge.row(|row| row.forward == "back" && row.reason.as_deref() == Some("listen_not_allowed")).await;
    for (name, row_of_it) in [("web", target.to_string()), ("good", "good".to_owned())] {
        let listen = pair.hub.listening(name).await;
        says_back(&mut TcpStream::connect(listen).await.unwrap(), b"through it").await;
        pair.edge.row(|row| row.forward == row_of_it && row.connections == 1 && row.bytes_in == 10).await;
    }
    let row = pair.edge.row(|row| row.forward == "back").await;
    assert_eq!((row.connections, row.bytes_in, row.reset.len()), (0, 0, 0), "nobody can use it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_only_a_forward_of_ours_names_is_shown_by_itself_no_longer_than_it_is_used() {
    let target = echo().await;
    let ours = Ours { declared: vec![forward("web", HUB, EDGE, target)], ..Ours::default() };
    let declared = vec![forward("back", HUB, EDGE, target)];
    let pair = Pair::new(ours, Ours { declared, ..Ours::default() }).await;
    let listen = pair.hub.listening("web").await;
    let mut client = TcpStream::connect(listen).await.unwrap();
    says_back(&mut client, b"through theirs").await;
    pair.edge.row(|row| row.forward == target.to_string() && row.open == 1).await;
    drop(client);
    let only_ours = async {
        while pair.edge.board.rows().iter().any(|row| row.forward != "back") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(only_ours).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declarer_that_comes_back_without_its_last_forward_takes_it_back() {
    let target = echo().await;
    let free = free_address().await;
    let spec = ForwardSpec { listen: free, ..forward("app", HUB, EDGE, target) };
    let mut policy = reaching(&[]);
    policy.listen.insert(free);
    let pair =
        Pair::new(Ours { policy, ..Ours::default() }, Ours { declared: vec![spec], ..Ours::default() }).await;
    assert_eq!(pair.hub.listening("app").await, free);
    pair.edge.row(|row| row.forward == "app" && row.state == "allowed").await;
    // Between two links nobody else gets the address.
    pair.edge.side.stop.cancel();
    in_time(pair.edge.side.task).await.unwrap();
    for board in [&pair.hub.board, &pair.edge.board] {
        row_of(|| board.rows(), |row| row.reason.as_deref() == Some("no_link")).await;
    }
    assert_eq!(std::net::TcpListener::bind(free).unwrap_err().kind(), ErrorKind::AddrInUse);
    let edge = pair.keys.edge(pair.wire.address, Ours::default());
    let gone = async {
        while !pair.hub.board.rows().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(gone).await;
    let free_again = async { while std::net::TcpListener::bind(free).is_err() {} };
    in_time(free_again).await;
    drop(edge);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_of_a_site_declares_does_not_take_away_what_another_did() {
    let target = echo().await;
    let (first, second) = (free_address().await, free_address().await);
    let spec = |name, listen| ForwardSpec { listen, ..forward(name, HUB, EDGE, target) };
    let mut policy = reaching(&[]);
    policy.listen.extend([first, second]);
    let ours = Ours { declared: vec![spec("first", first)], ..Ours::default() };
    let pair = Pair::new(Ours { policy, ..Ours::default() }, ours).await;
    pair.hub.listening("first").await;
    let other = Ours { declared: vec![spec("second", second)], ..Ours::default() };
    let other = pair.keys.edge(pair.wire.address, other);
    pair.hub.listening("second").await;
    pair.hub.listening("first").await;
    other.side.stop.cancel();
    in_time(other.side.task).await.unwrap();
    let only_first = async {
        while pair.hub.board.rows().iter().any(|row| row.forward == "second") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(only_first).await;
    says_back(&mut TcpStream::connect(first).await.unwrap(), b"still there").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_from_the_edge_reaches_the_hubs_side() {
    let target = echo().await;
    let ours = Ours { policy: reaching(&[target]), ..Ours::default() };
    let theirs = Ours { declared: vec![forward("git", EDGE, HUB, target)], ..Ours::default() };
    let pair = Pair::new(ours, theirs).await;
    let listen = pair.edge.listening("git").await;
    says_back(&mut TcpStream::connect(listen).await.unwrap(), b"the other way").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_holds_up_neither_others_nor_the_control_stream() {
    let (target, mut accepted) = held().await;
    let (mut pair, listen) = pair_to(target).await;
    let (mut at_hub, at_edge) = (pair.hub.side.link_up().await, pair.edge.side.link_up().await);
    let _stuck = TcpStream::connect(listen).await.unwrap();
    let far = in_time(accepted.recv()).await.unwrap();
    // More than sockets and windows hold: it ends in waiting.
    let flood = vec![7; 64 << 20];
    let mut full = tokio::spawn(async move {
        let mut far = far;
        far.write_all(&flood).await
    });
    pair.edge.row(|row| row.bytes_out > 300_000).await;
    for _ in 0..100 {
        at_edge.outbound.send(Bytes::from_static(b"a receipt")).await.unwrap();
        assert_eq!(&in_time(at_hub.inbound.recv()).await.unwrap()[..], b"a receipt");
    }
    let mut other = TcpStream::connect(listen).await.unwrap();
    let mut far = in_time(accepted.recv()).await.unwrap();
    far.write_all(b"not stuck").await.unwrap();
    let mut heard = [0; 9];
    in_time(other.read_exact(&mut heard)).await.unwrap();
    let flooded = tokio::time::timeout(Duration::from_millis(1), &mut full).await;
    assert!(flooded.is_err(), "the flood was bounded by nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rules_end_what_they_forbid_and_touch_nothing_else() {
    let (kept, gone) = (echo().await, echo().await);
    let both = vec![forward("kept", HUB, EDGE, kept), forward("gone", HUB, EDGE, gone)];
    let ours = Ours { declared: both, ..Ours::default() };
    let theirs = Ours { policy: reaching(&[kept, gone]), ..Ours::default() };
    let pair = Pair::new(ours.clone(), theirs).await;
    let (at_kept, at_gone) = (pair.hub.listening("kept").await, pair.hub.listening("gone").await);
    let mut stays = TcpStream::connect(at_kept).await.unwrap();
    let mut goes = TcpStream::connect(at_gone).await.unwrap();
    says_back(&mut stays, b"one").await;
    says_back(&mut goes, b"two").await;
    // The target's side takes its word back …
    pair.edge.forwards.apply(Ours { policy: reaching(&[kept]), ..Ours::default() }.rules(EDGE));
    reset_soon(&mut goes).await;
    let shown_no_more = async {
        while pair.edge.board.rows().iter().any(|row| row.target == gone.to_string()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(shown_no_more).await;
    says_back(&mut stays, b"untouched").await;
    // … and then the listening side no longer declares it.
    let mut less = ours;
    less.declared.truncate(1);
    pair.hub.forwards.apply(less.rules(HUB));
    let refused = async { while TcpStream::connect(at_gone).await.is_ok() {} };
    in_time(refused).await;
    says_back(&mut stays, b"untouched again").await;
    assert_eq!(pair.hub.listening("kept").await, at_kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_forbidden_while_it_is_being_found_is_given_up() {
    let (target, _held) = silent().await;
    let (pair, listen) = pair_to(target).await;
    let mut client = TcpStream::connect(listen).await.unwrap();
    pair.edge.row(|row| row.peer == HUB).await;
    pair.hub.row(|row| row.open == 1).await;
    pair.edge.forwards.apply(Ours::default().rules(EDGE));
    reset_soon(&mut client).await;
    pair.hub.row(|row| row.reset.get("no_longer_allowed") == Some(&1)).await;
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
