//! Carries the bytes of one TCP connection to the other side and back, until both directions ended as TCP ends. Whatever
//! else ends it becomes a reset at the socket, and at the stream's other side. Asks nobody.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf as SocketReader, WriteHalf as SocketWriter};
use tokio::time::timeout;

use super::frames::{HEADER_LEN, LANE_PIECE_LEN_MAX, PIECE_LEN_MAX, Said};
use super::reason::Reason;
use super::status::Row;
use super::ways::{Inward, Outward, Pace, Wish, ways};
use crate::tunnel::budget::{Budget, Class};
use crate::tunnel::link::Link;
use crate::tunnel::streams::LinkStream;

/// What ended a connection before both its directions ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The TCP peer at this side reset it, or is gone.
    Socket,
    /// The other side reset it, or the link is gone.
    Stream,
    /// The lane that it had for itself is gone.
    Lane,
    /// The other side refused it.
    Refused(Reason),
}

/// The side that waits for an answer before anything comes back; what it has to send it sends at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It accepted the connection and opened the stream.
    Listener,
    /// It has connected to the target, and says so first.
    Target,
}

/// A socket whose peer sees a reset when it is dropped, also by a process that dies, and never an end that looks like
/// all there was. Nothing on it waits for more to send, and a peer that is gone is noticed some day.
#[derive(Debug)]
pub struct Guarded(TcpStream);

impl Guarded {
    /// Guards a socket; one that cannot be is gone already.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
        let options = SockRef::from(&socket);
        options.set_linger(Some(Duration::ZERO))?;
        options.set_tcp_keepalive(&keepalive)?;
        socket.set_nodelay(true)?;
        Ok(Self(socket))
    }

    /// Ends it as TCP ends: what was written arrives.
    fn end(self) {
        if let Err(error) = SockRef::from(&self.0).set_linger(None) {
            tracing::debug!(%error, "a socket is gone already");
        }
    }
}

/// Carries bytes until both directions have ended; otherwise, and when the link ends, the socket is reset.
pub async fn splice(
    mut socket: Guarded,
    stream: LinkStream,
    role: Role,
    row: &Row,
    link: &Link,
) -> Result<(), Cut> {
    let flooded = stream.flooded();
    let (mut outward, mut inward, wish) = ways(stream);
    // A peer that reads nothing keeps both directions waiting, where nobody would hear of the link's end.
    tokio::select! {
        biased;
        () = link.ended.cancelled() => return Err(Cut::Stream),
        () = flooded.cancelled() => return Err(Cut::Refused(Reason::Malformed)),
        ended = carry(&mut socket.0, &mut outward, &mut inward, &wish, (role, row, &link.budget)) => ended?,
    }
    socket.end();
    // The other side may still hand on what came last: the link is in use until it says that it is done.
    tokio::select! {
        biased;
        () = link.ended.cancelled() => {}
        _ = async { outward.close().await; inward.until_gone().await } => {}
    }
    Ok(())
}

async fn carry(
    socket: &mut TcpStream,
    outward: &mut Outward,
    inward: &mut Inward,
    wish: &Wish,
    (role, row, budget): (Role, &Row, &Budget),
) -> Result<(), Cut> {
    let (from_socket, mut to_socket) = socket.split();
    let out = async {
        if role == Role::Target {
            outward.say(Said::Opened).await?;
        }
        carry_out(&from_socket, outward, wish, &row.bytes_out, budget).await
    };
    let back = async {
        if role == Role::Listener {
            answer(inward).await?;
        }
        carry_back(inward, &mut to_socket, wish, row).await
    };
    tokio::pin!(out);
    let back_ended = {
        tokio::pin!(back);
        // One task polls both; the first that is cut takes the other with it.
        tokio::select! {
            ended = &mut out => {
                ended?;
                return back.await;
            }
            ended = &mut back => ended,
        }
    };
    back_ended?;
    // The other side has nothing more to say, but must be there to listen.
    tokio::select! {
        biased;
        ended = out => ended,
        cut = inward.until_gone() => Err(cut),
    }
}

/// From the socket to the other side, and its end as an end.
async fn carry_out(
    socket: &SocketReader<'_>,
    outward: &mut Outward,
    wish: &Wish,
    bytes: &AtomicU64,
    budget: &Budget,
) -> Result<(), Cut> {
    let mut pace = Pace::new();
    loop {
        // Idle connections hold no buffer.
        outward.meanwhile(|| socket.readable()).await?.map_err(|_| Cut::Socket)?;
        let mut frame = BytesMut::new();
        loop {
            // Of a budget, nobody takes much at a time.
            let takes_much = outward.has_lane() && budget.mbit_s() == 0;
            let piece_len = if takes_much { LANE_PIECE_LEN_MAX } else { PIECE_LEN_MAX };
            frame.clear();
            frame.reserve(HEADER_LEN + piece_len);
            frame.put_bytes(0, HEADER_LEN);
            match socket.try_read_buf(&mut (&mut frame).limit(piece_len)) {
                Ok(0) => return outward.say(Said::End).await,
                Ok(len) => {
                    frame[..HEADER_LEN].copy_from_slice(&Said::Data(len).header());
                    outward.meanwhile(|| budget.turn(Class::Forwards)).await?;
                    budget.sent(frame.len());
                    outward.write(&frame).await?;
                    bytes.fetch_add(len as u64, Ordering::Relaxed);
                    wish.carried(&mut pace, len);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(Cut::Socket),
            }
        }
    }
}

/// From the other side to the socket, and its end as an end.
async fn carry_back(
    inward: &mut Inward,
    socket: &mut SocketWriter<'_>,
    wish: &Wish,
    row: &Row,
) -> Result<(), Cut> {
    let mut pace = Pace::new();
    loop {
        match inward.heard().await? {
            Said::Data(mut left) => {
                let piece_len = if inward.has_lane() { LANE_PIECE_LEN_MAX } else { PIECE_LEN_MAX };
                let mut chunk = BytesMut::with_capacity(left.min(piece_len));
                while left > 0 {
                    chunk.clear();
                    let room = left.min(piece_len);
                    let len = inward.take(&mut (&mut chunk).limit(room)).await?;
                    if len == 0 {
                        return Err(Cut::Stream);
                    }
                    write_on(socket, &chunk, row).await.map_err(|_| Cut::Socket)?;
                    row.bytes_in.fetch_add(len as u64, Ordering::Relaxed);
                    wish.carried(&mut pace, len);
                    left -= len;
                }
            }
            Said::End => {
                return socket.shutdown().await.map_err(|_| Cut::Socket);
            }
            Said::Refused(reason) => return Err(Cut::Refused(reason)),
            Said::Opened | Said::Words(_) | Said::Moved | Said::Alive => {
                return Err(Cut::Refused(Reason::Malformed));
            }
        }
    }
}

/// Writes all, however long it takes: whoever reads slowly keeps its place, and is counted meanwhile.
async fn write_on(socket: &mut (impl AsyncWrite + Unpin), bytes: &[u8], row: &Row) -> io::Result<()> {
    let mut writing = std::pin::pin!(socket.write_all(bytes));
    if let Ok(written) = timeout(STUCK_AFTER, &mut writing).await {
        return written;
    }
    let _stuck = row.stuck();
    writing.await
}

async fn answer(inward: &mut Inward) -> Result<(), Cut> {
    match timeout(ANSWER_TIME_MAX, inward.heard()).await {
        Ok(Ok(Said::Opened)) => Ok(()),
        Ok(Ok(Said::Refused(reason))) => Err(Cut::Refused(reason)),
        Ok(Ok(Said::Data(_) | Said::End | Said::Words(_) | Said::Moved | Said::Alive)) => {
            Err(Cut::Refused(Reason::Malformed))
        }
        Ok(Err(cut)) => Err(cut),
        Err(_) => Err(Cut::Refused(Reason::TargetUnreachable)),
    }
}

/// Longer than a target's side looks for it, in all its addresses.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// A client or target that leaves a piece waiting for so long is counted.
const STUCK_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::forward::status::{End, Key};

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_counted_until_it_goes_on() {
        let key = Key {
            forward: "kube".into(),
            declared_by: "riskfuel".into(),
            peer: "bank".into(),
            end: End::Listen,
        };
        let row = Row::new(key, "kube:443".into(), None);
        let (mut near, mut far) = tokio::io::duplex(4);
        let mut read = [0; 8];
        let slow = async {
            tokio::time::sleep(STUCK_AFTER / 2).await;
            far.read_exact(&mut read[..4]).await.unwrap();
            assert_eq!(row.status().stuck, 0);
            tokio::time::sleep(STUCK_AFTER).await;
            assert_eq!(row.status().stuck, 1);
            far.read_exact(&mut read).await.unwrap();
        };
        let (written, ()) = tokio::join!(write_on(&mut near, b"twelve bytes", &row), slow);
        written.unwrap();
        assert_eq!((row.status().stuck, &read), (0, b"ve bytes"));
    }
}
