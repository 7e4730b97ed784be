//! What carries a lane's TLS: the socket itself, or a WebSocket on it. One enum, so that the direct way is a branch and
//! no call through a table. Bytes are counted on the socket, below everything.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client;

use super::meter::{Meter, MeteredSocket};
use super::websocket::ByteStream;

/// A connection below the link's TLS.
#[derive(Debug)]
pub struct Carrier {
    stream: Stream,
    way: Way,
}

#[derive(Debug)]
enum Stream {
    /// TCP.
    Direct(MeteredSocket),
    /// At a hub: an ingress ended somebody's TLS and passes a WebSocket on.
    Upgraded(Box<ByteStream<MeteredSocket>>),
    /// At an edge: a WebSocket inside the ingress's TLS.
    Ingress(Box<ByteStream<client::TlsStream<Carrier>>>),
}

/// How a lane goes, as status and logs show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// `tls`; `wss`; `wss (hub)` where the hub itself ended the TLS of a `wss://` URL.
    pub transport: &'static str,
    /// The edge's proxy.
    pub proxy: Option<String>,
    /// At an edge, inside a WebSocket: who issued the certificate that ended the outer TLS, as that says.
    pub ended_by: Option<String>,
}

impl Way {
    /// The link's own TLS.
    pub const TLS: &'static str = "tls";
    /// Inside a WebSocket.
    pub const WSS: &'static str = "wss";
    /// A `wss://` URL that the hub itself answered.
    pub const WSS_HUB: &'static str = "wss (hub)";
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.transport)?;
        match &self.proxy {
            Some(proxy) => write!(f, " via {proxy}"),
            None => Ok(()),
        }
    }
}

impl Carrier {
    /// TLS will stand directly on the socket.
    pub fn direct(socket: MeteredSocket, way: Way) -> Self {
        Self { stream: Stream::Direct(socket), way }
    }

    /// A caller's WebSocket.
    pub async fn upgraded(socket: MeteredSocket) -> Self {
        let way = Way { transport: Way::WSS, proxy: None, ended_by: None };
        let meter = socket.meter().clone();
        Self { stream: Stream::Upgraded(Box::new(ByteStream::of_server(socket, meter).await)), way }
    }

    /// A WebSocket at an ingress.
    pub async fn ingress(outer: client::TlsStream<Self>, ended_by: Option<String>) -> Self {
        let way = Way { transport: Way::WSS, ended_by, ..outer.get_ref().0.way.clone() };
        let meter = outer.get_ref().0.meter().clone();
        Self { stream: Stream::Ingress(Box::new(ByteStream::of_client(outer, meter).await)), way }
    }

    /// How it goes.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// The socket's meter.
    pub fn meter(&self) -> &Arc<Meter> {
        self.socket().meter()
    }

    /// The other end of the socket, while it is connected.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.socket().remote()
    }

    fn socket(&self) -> &MeteredSocket {
        match &self.stream {
            Stream::Direct(socket) => socket,
            Stream::Upgraded(stream) => stream.get_ref(),
            Stream::Ingress(stream) => stream.get_ref().get_ref().0.socket(),
        }
    }
}

impl AsyncRead for Carrier {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Direct(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Upgraded(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Ingress(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Direct(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Upgraded(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Ingress(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Direct(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Upgraded(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Ingress(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Direct(stream) => stream.is_write_vectored(),
            Stream::Upgraded(stream) => stream.is_write_vectored(),
            Stream::Ingress(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Direct(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Upgraded(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Ingress(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Direct(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Upgraded(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Ingress(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
