//! Forwards and budgets that change while connections are open: what is taken away ends, the rest is not touched.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::running::{Running, lanes};
use crate::stage::{Stage, edge};

/// A server that says back what it hears, for as long as the test runs; its address.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut heard = vec![0; 64 << 10];
                while let Ok(len @ 1..) = socket.read(&mut heard) {
                    if socket.write_all(&heard[..len]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address.to_string()
}

/// One that listens at an address of its own, on any port.
fn forward(name: &str, target: &str) -> Value {
    let last = 2 + name.bytes().next().unwrap() - b'a';
    json!({ "name": name, "from": "riskfuel", "listen": format!("127.0.0.{last}:0"), "to": "bank", "target": target })
}

fn row<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["forwards"].as_array().unwrap().iter().find(|row| row["forward"] == name)
}

/// A connection to a forward that listens, over which something went already.
fn connected(site: &Running, name: &str) -> TcpStream {
    let listening = |status: &Value| row(status, name).is_some_and(|row| row["state"] == "listening");
    let status = site.until("it listens", listening);
    let address = row(&status, name).unwrap()["listen"].as_str().unwrap().to_owned();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    answers(&mut socket);
    socket
}

/// The hub has a forward `a` to who gives back what comes: a connection through it.
fn forwarded(stage: &mut Stage) -> TcpStream {
    let target = echo();
    stage.bank_file.change(|edge| edge["policy"]["forward"] = json!([target]));
    stage.bank.loads();
    stage.hub_file.change(|hub| hub["forwards"] = json!([forward("a", &target)]));
    stage.hub.loads();
    connected(&stage.hub, "a")
}

fn answers(socket: &mut TcpStream) {
    socket.write_all(b"ping").unwrap();
    socket.read_exact(&mut [0; 4]).unwrap();
}

/// How the other end ends it.
fn end_of(socket: &mut TcpStream) -> ErrorKind {
    socket.read(&mut [0; 1]).unwrap_err().kind()
}

#[test]
fn a_forward_that_policy_or_the_configuration_takes_away_ends_and_the_others_go_on() {
    let mut stage = Stage::set();
    let targets = [echo(), echo(), echo()];
    stage.bank_file.change(|edge| edge["policy"]["forward"] = json!([targets[0], targets[1]]));
    stage.bank.loads();
    let all: Vec<Value> =
        ["a", "b", "c"].iter().zip(&targets).map(|(name, target)| forward(name, target)).collect();
    stage.hub_file.change(|hub| hub["forwards"] = json!(all[..2]));
    stage.hub.loads();
    let before = lanes(&stage.hub.status(), "bank");
    let (mut untouched, mut taken) = (connected(&stage.hub, "a"), connected(&stage.hub, "b"));

    // The target's side: no longer allowed, and another one is.
    stage.bank_file.change(|edge| edge["policy"]["forward"] = json!([targets[0], targets[2]]));
    let since = Instant::now();
    stage.bank.loads();
    assert_eq!(end_of(&mut taken), ErrorKind::ConnectionReset);
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    answers(&mut untouched);
    stage.bank.until("what is gone is shown no more", |status| {
        row(status, &targets[0]).is_some_and(|row| row["state"] == "allowed")
            && row(status, &targets[1]).is_none()
    });
    assert!(!stage.bank.metrics().contains(&targets[1]));

    // The declaring side: one goes, one comes.
    stage.hub_file.change(|hub| hub["forwards"] = json!([all[0], all[2]]));
    stage.hub.loads();
    let mut new = connected(&stage.hub, "c");
    assert!(row(&stage.hub.status(), "b").is_none());
    stage.hub_file.change(|hub| hub["forwards"] = json!([all[0]]));
    let since = Instant::now();
    stage.hub.loads();
    assert_eq!(end_of(&mut new), ErrorKind::ConnectionReset);
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    answers(&mut untouched);
    assert_eq!(lanes(&stage.hub.status(), "bank"), before);
}

#[test]
fn a_connection_that_is_forwarded_outlives_the_renewal_of_its_link() {
    let mut stage = Stage::set();
    let mut held = forwarded(&mut stage);
    let before = lanes(&stage.hub.status(), "bank");
    stage.bank_file.change(|edge| edge["tunnel"]["lanes"] = json!(2));
    stage.bank.loads();
    stage.bank.line(&["link renewed"]);
    // What comes now takes the new link.
    let mut new = connected(&stage.hub, "a");
    answers(&mut held);
    let status = stage.hub.status();
    let both = lanes(&status, "bank");
    assert!(before.iter().any(|lane| both.contains(lane)), "{status:#}");
    for (site, peer) in [(&stage.hub, "bank"), (&stage.bank, "riskfuel")] {
        site.until("one is up, and one retires", |status| {
            let of_peer = |link: &&Value| link["peer"] == peer;
            let links = status["links"].as_array().unwrap().iter().filter(of_peer);
            let mut states: Vec<_> = links.map(|link| link["state"].as_str().unwrap()).collect();
            states.sort_unstable();
            states == ["retiring", "up"]
        });
    }
    drop(held);
    stage.hub.until("the old link is gone", |status| {
        let now = lanes(status, "bank");
        now.len() == 3 && now.iter().all(|lane| !before.contains(lane))
    });
    answers(&mut new);
    stage.bank.signal(Signal::KILL);
    assert_eq!(end_of(&mut new), ErrorKind::ConnectionReset);
    stage.hub.line(&["forwarded connections were cut by the end of their link", "peer=bank", "cut=1"]);
}

#[test]
fn bounds_that_narrow_count_what_is_open_and_a_target_that_goes_is_shown_no_more() {
    let mut stage = Stage::set();
    let target = echo();
    let allowed = |max: u32| json!([{ "target": target, "max_connections": max }]);
    let own_row = |status: &Value| row(status, &target).cloned();
    stage.bank_file.change(|edge| edge["policy"]["forward"] = allowed(3));
    stage.bank.loads();
    stage.hub_file.change(|hub| hub["forwards"] = json!([forward("a", &target)]));
    stage.hub.loads();
    let mut open: Vec<TcpStream> = (0..3).map(|_| connected(&stage.hub, "a")).collect();
    let address = open[0].peer_addr().unwrap();
    for max in [2, 1] {
        stage.bank_file.change(|edge| edge["policy"]["forward"] = allowed(max));
        stage.bank.loads();
        let mut another = TcpStream::connect(address).unwrap();
        assert_eq!(end_of(&mut another), ErrorKind::ConnectionReset);
    }
    let status = stage.bank.status();
    assert_eq!(own_row(&status).unwrap()["reset"]["too_many_connections"], 2, "{status:#}");
    open.iter_mut().for_each(answers);
    drop(open);
    stage.bank.until("they are gone", |status| own_row(status).unwrap()["open"] == 0);
    answers(&mut connected(&stage.hub, "a"));
    stage.bank_file.change(|edge| edge["policy"]["forward"] = json!([]));
    stage.bank.loads();
    stage.bank.until("it is shown no more", |status| own_row(status).is_none());
}

#[test]
fn another_budget_holds_at_once_for_connections_that_are_open() {
    let mut stage = Stage::set();
    let mut socket = forwarded(&mut stage);
    let before = lanes(&stage.hub.status(), "bank");
    let mut seconds_of_a_megabyte = || {
        let since = Instant::now();
        let mut reader = socket.try_clone().unwrap();
        let read = thread::spawn(move || reader.read_exact(&mut vec![0; 1_000_000]).unwrap());
        socket.write_all(&vec![7; 1_000_000]).unwrap();
        read.join().unwrap();
        since.elapsed().as_secs_f64()
    };
    for (budget_mbit_s, at_least, at_most) in [(4, 1.8, 10.0), (1000, 0.0, 1.0)] {
        stage.hub_file.change(|hub| edge(hub, "bank")["budget_mbit_s"] = json!(budget_mbit_s));
        stage.hub.loads();
        stage.hub.until("it holds", |status| {
            let mut links = status["links"].as_array().unwrap().iter();
            links.any(|link| link["peer"] == "bank" && link["budget_mbit_s"] == budget_mbit_s)
        });
        let told = |status: &Value| status["links"][0]["budget_mbit_s"] == budget_mbit_s;
        stage.bank.until("the other side has heard of it", told);
        let seconds = seconds_of_a_megabyte();
        assert!((at_least..at_most).contains(&seconds), "{budget_mbit_s} Mbit/s: {seconds} s");
    }
    assert_eq!(lanes(&stage.hub.status(), "bank"), before);
}

/// An address of this machine where nothing listens, for a while.
fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn what_a_peer_declares_is_shown_and_told_as_it_is_and_goes_when_it_is_taken_back() {
    let mut stage = Stage::set();
    let (target, [before, after]) = (echo(), [free(), free()]);
    let listens = |listen: &str| json!({ "name": "a", "from": "riskfuel", "listen": listen, "to": "bank", "target": target });
    let is = |listen: &str, state: &str| {
        let (listen, state) = (listen.to_owned(), state.to_owned());
        move |status: &Value| {
            row(status, "a").is_some_and(|row| row["listen"] == listen && row["state"] == state)
        }
    };
    stage.hub_file.change(|hub| edge(hub, "bank")["policy"]["listen"] = json!([before]));
    stage.hub.loads();
    stage.bank_file.change(|bank| bank["forwards"] = json!([listens(&before)]));
    stage.bank.loads();
    stage.hub.until("it listens", is(&before, "listening"));
    stage.bank.until("both know", is(&before, "allowed"));
    // Both sides change it, one after the other: for a moment the old one is refused, and that is no news.
    stage.hub_file.change(|hub| edge(hub, "bank")["policy"]["listen"] = json!([after]));
    stage.hub.loads();
    stage.bank.until("the old one is refused", is(&before, "refusing"));
    stage.bank_file.change(|bank| bank["forwards"] = json!([listens(&after)]));
    stage.bank.loads();
    stage.hub.until("the new one listens", is(&after, "listening"));
    stage.bank.until("both know", is(&after, "allowed"));
    assert!(!stage.bank.text().contains("does not open a forward"), "{}", stage.bank.text());
    // What stays is told, and is in the way of who declares it.
    stage.hub_file.change(|hub| edge(hub, "bank")["policy"]["listen"] = json!([]));
    stage.hub.loads();
    stage.bank.line(&["the peer does not open a forward", "forward=a", "listen_not_allowed"]);
    let status = stage.bank.status();
    let obstacles = status["progress"]["reasons"].as_array().unwrap().clone();
    assert!(obstacles.iter().any(|it| it["subject"] == format!("forward a, {after}")), "{status:#}");
    // Taken back, nothing of it is left at either side.
    stage.bank_file.change(|bank| bank["forwards"] = json!([]));
    stage.bank.loads();
    for site in [&stage.hub, &stage.bank] {
        site.until("no row", |status| status["forwards"] == json!([]));
        assert!(!site.metrics().contains("bridge_forward_refusing{"));
    }
}

#[test]
fn a_forward_that_is_changed_at_its_address_is_never_told_to_be_in_its_own_way() {
    let mut stage = Stage::set();
    let (target, address) = (echo(), free());
    stage.bank_file.change(|edge| edge["policy"]["forward"] = json!([target]));
    stage.bank.loads();
    for max in 1..=10 {
        let mut changed = forward("a", &target);
        changed["listen"] = json!(address);
        changed["max_connections"] = json!(max);
        stage.hub_file.change(|hub| hub["forwards"] = json!([changed]));
        stage.hub.loads();
        answers(&mut connected(&stage.hub, "a"));
    }
    assert!(!stage.hub.text().contains("cannot listen"), "{}", stage.hub.text());
    assert!(stage.hub.metrics().contains(r#"end="listen"} 0"#));
}

#[test]
fn a_revoked_edge_loses_its_connections_and_both_sides_say_how_many() {
    let mut stage = Stage::set();
    let mut held = forwarded(&mut stage);
    stage.hub_file.change(|hub| {
        hub["tunnel"]["edges"].as_array_mut().unwrap().retain(|edge| edge["name"] != "bank");
        hub["routes"]
            .as_array_mut()
            .unwrap()
            .retain(|route| route["to"] != "bank" && route["from"] != "bank");
        hub["forwards"] = json!([]);
    });
    stage.hub.loads();
    assert_eq!(end_of(&mut held), ErrorKind::ConnectionReset);
    for (site, peer) in [(&stage.hub, "peer=bank"), (&stage.bank, "peer=riskfuel")] {
        site.line(&["forwarded connections were cut by the end of their link", peer, "cut=1"]);
    }
}
