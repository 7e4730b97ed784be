//! Forwards that the target's site declares: told to the site that listens, on a stream of their own, and judged there
//! by its own policy. What came of each is told back by its number.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::agent::Inner;
use super::frames::{self, DECLARATION, HEADER_LEN, Nonsense, Said, States};
use super::links::Way;
use super::reason::Reason;
use super::rules::ForwardSpec;
use super::serving::key;
use crate::policy::FORWARDS_MAX;
use crate::tunnel::link::Link;
use crate::tunnel::streams::LinkStream;

/// Tells the other side of a link what we want opened there, again whenever that changes, until the link ends.
pub async fn declare(inner: &Arc<Inner>, way: &Way) {
    let peer = &way.link.peer;
    let mut rules = inner.rules.subscribe();
    let mut wanted: Vec<ForwardSpec> = rules.borrow_and_update().declared_to(peer).cloned().collect();
    while !way.opener.is_understood() {
        show(inner, peer, &wanted, |_| Some(Reason::PeerTooOld));
        if rules.changed().await.is_err() {
            return;
        }
        wanted = rules.borrow_and_update().declared_to(peer).cloned().collect();
    }
    let Ok(stream) = way.opener.open(DECLARATION, Vec::new()).await else {
        return;
    };
    let (mut read, mut write) = tokio::io::split(stream);
    let (heard, mut states) = tokio::sync::mpsc::channel(1);
    let reading = async {
        while let Ok(words) = read_words(&mut read).await {
            if heard.send(words).await.is_err() {
                return;
            }
        }
    };
    let telling = async {
        // None at all is told too: it takes back what an earlier process of ours declared.
        let mut told: Option<Vec<ForwardSpec>> = None;
        loop {
            if told.as_ref() != Some(&wanted) {
                let declaration = frames::declaration(wanted.iter());
                let Some(words) = frames::words(&declaration) else {
                    tracing::error!(%peer, "the declared forwards do not fit into one message: declare fewer");
                    return;
                };
                if write.write_all(&words).await.is_err() {
                    return;
                }
                told = Some(wanted.clone());
            }
            // Losing the race loses nothing: either is read again.
            tokio::select! {
                biased;
                words = states.recv() => {
                    let Some(Ok(States { states })) = words.map(|words| States::decode(&words[..])) else {
                        return;
                    };
                    show(inner, peer, told.as_deref().unwrap_or_default(), |at| {
                        states.get(at).filter(|number| **number > 0).map(|number| Reason::from_wire(*number))
                    });
                }
                changed = rules.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    wanted = rules.borrow_and_update().declared_to(peer).cloned().collect();
                }
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = telling => {}
    }
}

/// Shows at the target's end what became of what we declared.
fn show(inner: &Inner, peer: &str, declared: &[ForwardSpec], reason: impl Fn(usize) -> Option<Reason>) {
    let rules = inner.rules.borrow().clone();
    for (at, forward) in declared.iter().enumerate() {
        let row = inner.board.row(key(&rules, peer, &forward.target), &forward.target.to_string(), None);
        row.listens_at(forward.listen.to_string());
        let reason = reason(at);
        if row.refuses(reason)
            && let Some(reason) = reason
        {
            tracing::warn!(
                forward = %forward.name, %peer, listen = %forward.listen,
                reason = reason.code(), remedy = reason.remedy(), "the peer does not open a forward"
            );
        }
    }
}

/// Takes what the other side of a link wants opened here, until the link ends.
pub async fn hear(inner: &Arc<Inner>, link: &Link, stream: LinkStream) {
    let flooded = stream.flooded();
    let (mut read, mut write) = tokio::io::split(stream);
    let mut rules = inner.rules.subscribe();
    let mut wanted: Vec<ForwardSpec> = Vec::new();
    let mut states: Vec<watch::Receiver<Option<Reason>>> = Vec::new();
    let mut moved = inner.wishes_moved.subscribe();
    let (heard, mut words) = tokio::sync::mpsc::channel(1);
    let reading = async {
        while let Ok(words) = read_words(&mut read).await {
            if heard.send(words).await.is_err() {
                return;
            }
            tokio::time::sleep(DECLARE_EVERY).await;
        }
    };
    // A peer that reads no answers keeps us from writing, not from judging: the latest answer waits for it.
    let (answer, mut answers) = watch::channel(States::default());
    let answering = async {
        while answers.changed().await.is_ok() {
            let states = answers.borrow_and_update().clone();
            if tell(&mut write, &states).await.is_err() {
                return;
            }
        }
    };
    let judging = async {
        loop {
            let any = any_changed(&mut states);
            tokio::select! {
                biased;
                words = words.recv() => {
                    let site = rules.borrow_and_update().site.clone();
                    match words.map(|words| frames::check(&words, &site, &link.peer)) {
                        Some(Ok(declared)) => wanted = declared,
                        Some(Err(Nonsense)) => {
                            tracing::warn!(peer = %link.peer, "the peer's declaration of forwards is none");
                            return;
                        }
                        None => return,
                    }
                    states = inner.open_for(link, &wanted);
                }
                _ = rules.changed() => {
                    rules.mark_unchanged();
                    states = inner.open_for(link, &wanted);
                }
                _ = moved.changed() => states = inner.states_of(&link.peer, &wanted),
                () = any => {}
            }
            let numbers = states.iter_mut().map(|state| state.borrow_and_update().map_or(0, Reason::wire));
            answer.send_replace(States { states: numbers.collect() });
        }
    };
    tokio::select! {
        () = reading => {}
        () = answering => {}
        () = judging => {}
        () = flooded.cancelled() => {}
    }
    inner.forget_wishes(link);
}

/// Waits until one of the states is another; for ever when there is none, or all their listeners are gone.
async fn any_changed(states: &mut [watch::Receiver<Option<Reason>>]) {
    let mut changes: FuturesUnordered<_> = states.iter_mut().map(watch::Receiver::changed).collect();
    while let Some(changed) = changes.next().await {
        if changed.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

async fn tell(write: &mut WriteHalf<LinkStream>, states: &States) -> std::io::Result<()> {
    match frames::words(states) {
        Some(words) => write.write_all(&words).await,
        // As many as were declared, so it always fits.
        None => Ok(()),
    }
}

async fn read_words(read: &mut ReadHalf<LinkStream>) -> Result<Vec<u8>, Nonsense> {
    let mut header = [0; HEADER_LEN];
    read.read_exact(&mut header).await.map_err(|_| Nonsense)?;
    let Said::Words(len) = Said::parse(header)? else {
        return Err(Nonsense);
    };
    let mut words = vec![0; len];
    read.read_exact(&mut words).await.map_err(|_| Nonsense)?;
    Ok(words)
}

/// A peer that declares more often is read no faster.
const DECLARE_EVERY: Duration = Duration::from_secs(2);
/// One link's declaring stream looks at no more states than this.
const _: () = assert!(FORWARDS_MAX <= 64);
