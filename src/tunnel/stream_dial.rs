//! The edge's side of lanes for single streams: dials one for each stream that asks, as long as there is room. A stream
//! that gets none stays where it is. Decides nothing about who asks.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::connection::{meter_of, way_of};
use super::dial::{Dialled, Failed};
use super::edge::Edge;
use super::handshake::Lane;
use super::hub_proof::watch;
use super::lane::HandedOut;
use super::reason::Reason;
use super::renewal::Carried;
use super::stream_lanes::STREAM_LANES_MAX;
use super::wire::{Kind, STREAM_TAKEN, write_frame};

impl Edge {
    /// Dials what is asked for until the link ends.
    pub(super) async fn dial_stream_lanes(self: Arc<Self>, carried: Carried, mut asked: mpsc::Receiver<u32>) {
        let places = Arc::new(Semaphore::new(STREAM_LANES_MAX));
        while let Some(Some(stream)) = carried.link.ended.run_until_cancelled(asked.recv()).await {
            // It asks again while it carries much; by then a place may be free.
            let Ok(place) = places.clone().try_acquire_owned() else {
                continue;
            };
            if carried.link.stream_lanes.begin(stream) {
                self.tasks.spawn(self.clone().keep_stream_lane(carried.clone(), stream, place));
            }
        }
    }

    async fn keep_stream_lane(self: Arc<Self>, carried: Carried, stream: u32, _place: OwnedSemaphorePermit) {
        let Carried { link, shown, url, trust, .. } = &carried;
        let lane = Lane::Stream { link: link.id, stream };
        let dialling = async {
            let mut dialled = self.dial(url, &lane, trust.clone()).await;
            // A load balancer may lead to processes that do not have the link.
            for _ in 1..DIALS_MAX {
                match &dialled {
                    Err(Failed { declined, .. }) if declined.reason == Reason::NoSuchLink => {}
                    Ok(_) | Err(_) => break,
                }
                dialled = self.dial(url, &lane, trust.clone()).await;
            }
            dialled
        };
        let Dialled { mut tls, lane_id, proof, .. } = match link.ended.run_until_cancelled(dialling).await {
            Some(Ok(dialled)) => dialled,
            Some(Err(failed)) => {
                let reason = failed.declined.reason;
                self.metrics.count_end(&reason);
                tracing::debug!(peer = %link.peer, stream, reason = reason.code(), "a stream gets no lane of its own: {reason}");
                return;
            }
            None => return,
        };
        if write_frame(&mut tls, STREAM_TAKEN, &[]).await.is_err() {
            return;
        }
        let (meter, ended) = (meter_of(&tls), link.ended.child_token());
        let _shown = shown.lane(Kind::Stream, stream, &lane_id, meter.clone(), way_of(&tls));
        tracing::debug!(peer = %link.peer, stream, %lane_id, "a stream has a lane of its own");
        link.stream_lanes.hand(stream, HandedOut::new(tls, &ended), ended.clone());
        let reason = watch(Kind::Stream, &meter, shown, &ended, (&self.trust, &proof)).await;
        self.metrics.count_end(&reason);
        tracing::debug!(peer = %link.peer, stream, %lane_id, reason = reason.code(), "it ended: {reason}");
    }
}

/// For one stream.
const DIALS_MAX: usize = 4;
