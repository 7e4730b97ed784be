//! One end of the line: a TUN device in a network namespace. Whole packets out of it and into it; segmentation offload
//! is undone right here, so that nothing longer than the device's MTU gets to the line.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::str::FromStr;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, SyncDevice, VIRTIO_NET_HDR_LEN};

/// Where an end is: `NAMESPACE:ADDRESS`.
#[derive(Clone, Debug)]
pub struct Place {
    /// As `ip netns` names it.
    pub namespace: String,
    /// Its own address on the line.
    pub address: Ipv4Addr,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, address) = text.split_once(':').ok_or("NAMESPACE:ADDRESS is meant")?;
        let address = address.parse().map_err(|error| format!("`{address}`: {error}"))?;
        Ok(Self { namespace: namespace.into(), address })
    }
}

/// An end, open.
pub struct End {
    device: SyncDevice,
    /// What a read gives: up to 64 KiB that the kernel left to us to cut.
    whole: Vec<u8>,
    pieces: Vec<Vec<u8>>,
    lens: Vec<usize>,
    /// What arrived and is to be written; each has room for what is put together again.
    arrived: Vec<Vec<u8>>,
    waiting: usize,
    table: GROTable,
}

impl End {
    /// Makes the device in its namespace; the other end's address is routed to it.
    pub fn open(place: &Place, other: &Place) -> io::Result<Self> {
        let (place, other) = (place.clone(), other.address);
        // A thread of its own: it stays in that namespace until it ends, the device for good.
        let thread = std::thread::spawn(move || -> io::Result<SyncDevice> {
            let namespace = File::open(Path::new("/run/netns").join(&place.namespace))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let device = DeviceBuilder::new()
                .name(DEVICE)
                .mtu(MTU)
                .ipv4(place.address, 32, Some(other))
                .with(|builder| {
                    builder.offload(true).tx_queue_len(DEVICE_QUEUE_LEN);
                })
                .build_sync()?;
            device.set_nonblocking(true)?;
            Ok(device)
        });
        let device =
            thread.join().map_err(|_| io::Error::other("the thread that opens a device panicked"))??;
        Ok(Self {
            device,
            whole: vec![0; VIRTIO_NET_HDR_LEN + WHOLE_LEN_MAX],
            pieces: vec![vec![0; usize::from(MTU)]; IDEAL_BATCH_SIZE],
            lens: vec![0; IDEAL_BATCH_SIZE],
            arrived: (0..IDEAL_BATCH_SIZE)
                .map(|_| Vec::with_capacity(2 * VIRTIO_NET_HDR_LEN + WHOLE_LEN_MAX))
                .collect(),
            waiting: 0,
            table: GROTable::default(),
        })
    }

    /// To wait on.
    pub fn device(&self) -> &SyncDevice {
        &self.device
    }

    /// Gives each packet that was sent into the device to `take`, of one read; `false` when there was none.
    pub fn read(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
        let read = self.device.recv_multiple(&mut self.whole, &mut self.pieces, &mut self.lens, 0);
        let count = match read {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        for (piece, len) in self.pieces.iter().zip(&self.lens).take(count) {
            take(&piece[..*len]);
        }
        Ok(true)
    }

    /// Puts a packet beside those that are written next.
    pub fn push(&mut self, packet: &[u8]) -> io::Result<()> {
        let place = &mut self.arrived[self.waiting];
        place.clear();
        place.extend_from_slice(&[0; VIRTIO_NET_HDR_LEN]);
        place.extend_from_slice(packet);
        self.waiting += 1;
        if self.waiting == self.arrived.len() { self.write() } else { Ok(()) }
    }

    /// Writes what was pushed. Successive segments of a TCP connection go into the kernel together, as a network card
    /// that receives them hands them over (GRO).
    pub fn write(&mut self) -> io::Result<()> {
        let batch = &mut self.arrived[..self.waiting];
        self.waiting = 0;
        self.device.send_multiple(&mut self.table, batch, VIRTIO_NET_HDR_LEN).map(|_| ())
    }
}

/// What the device is called, in each namespace.
const DEVICE: &str = "far";
const MTU: u16 = 1500;
/// Reads are quick, and what the kernel drops here nobody has asked for.
const DEVICE_QUEUE_LEN: u32 = 10_000;
/// The most that is handed over at once, either way.
const WHOLE_LEN_MAX: usize = 65_535;
