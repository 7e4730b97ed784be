//! Forwards that the target's site declares: told to the site that listens, on a stream of their own, and judged there
//! by its own policy. What came of each is told back by its number.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::Instant;

use super::agent::Inner;
use super::frames::{self, DECLARATION, Declared, HEADER_LEN, Nonsense, Said, States};
use super::links::Way;
use super::reason::Reason;
use super::rules::ForwardSpec;
use super::waiting::Waiting;
use crate::policy::FORWARDS_MAX;
use crate::tunnel::link::Link;
use crate::tunnel::streams::LinkStream;

/// Tells the other side of a link what we want opened there, again whenever that changes, until the link ends.
pub async fn declare(inner: &Arc<Inner>, way: &Way) {
    let peer = &way.link.peer;
    let mut rules = inner.rules.subscribe();
    let mut wanted: Vec<ForwardSpec> = rules.borrow_and_update().declared_to(peer).cloned().collect();
    while !way.opener.is_understood() {
        for forward in &wanted {
            inner.show_declared(peer, forward, Some(Reason::PeerTooOld));
            tell_refused(inner, peer, forward, Reason::PeerTooOld);
        }
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
        let mut latest: Option<Told> = None;
        loop {
            let told = match latest.take_if(|told| told.forwards == wanted) {
                Some(told) => told,
                None => {
                    let number = latest.take().map_or(1, |told| told.number + 1);
                    let Some(words) = frames::words(&frames::declaration(wanted.iter(), number)) else {
                        tracing::error!(%peer, "the declared forwards do not fit into one message: declare fewer");
                        return;
                    };
                    if write.write_all(&words).await.is_err() {
                        return;
                    }
                    Told { forwards: wanted.clone(), number, waiting: Waiting::default() }
                }
            };
            let told = latest.insert(told);
            // Losing the race loses nothing: what was said is read again, and what is due stays so.
            tokio::select! {
                biased;
                words = states.recv() => {
                    let Some(Ok(states)) = words.map(|words| States::decode(&words[..])) else {
                        return;
                    };
                    told.hear(inner, peer, &states);
                }
                () = until(told.waiting.next()) => told.tell_due(inner, peer),
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

/// What we declared last on a link.
struct Told {
    forwards: Vec<ForwardSpec>,
    number: u32,
    waiting: Waiting,
}

impl Told {
    /// Shows what the peer says of it.
    fn hear(&mut self, inner: &Inner, peer: &str, states: &States) {
        // What it says of an earlier one is about other forwards, or was judged by what is over.
        if !states.are_of(self.number, self.forwards.len()) {
            return;
        }
        let reasons = states.reasons(self.forwards.len());
        for (forward, reason) in self.forwards.iter().zip(&reasons) {
            inner.show_declared(peer, forward, *reason);
        }
        let names = self.forwards.iter().map(|forward| forward.name.as_str());
        self.waiting.hear(names.zip(reasons), Instant::now());
    }

    /// Says what has stayed.
    fn tell_due(&mut self, inner: &Inner, peer: &str) {
        for (name, reason) in self.waiting.due(Instant::now()) {
            let of_name = self.forwards.iter().filter(|forward| forward.name == name);
            of_name.for_each(|forward| tell_refused(inner, peer, forward, reason));
        }
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Says once of one that we declare that its peer does not open it, unless that is over.
fn tell_refused(inner: &Inner, peer: &str, forward: &ForwardSpec, reason: Reason) {
    if inner.declared(peer, forward).is_some_and(|row| row.is_untold(reason)) {
        tracing::warn!(
            forward = %forward.name, %peer, listen = %forward.listen,
            reason = reason.code(), remedy = reason.remedy(), "the peer does not open a forward"
        );
    }
}

/// Takes what the other side of a link wants opened here, until the link ends.
pub async fn hear(inner: &Arc<Inner>, link: &Link, stream: LinkStream) {
    let flooded = stream.flooded();
    let (mut read, mut write) = tokio::io::split(stream);
    let mut rules = inner.rules.subscribe();
    let mut wanted = Declared::default();
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
                    states = inner.open_for(link, &wanted.forwards);
                }
                _ = rules.changed() => {
                    rules.mark_unchanged();
                    states = inner.open_for(link, &wanted.forwards);
                }
                _ = moved.changed() => states = inner.states_of(&link.peer, &wanted.forwards),
                () = any => {}
            }
            let reasons: Vec<_> = states.iter_mut().map(|state| *state.borrow_and_update()).collect();
            // One that has just begun, or ends, is not judged yet: nobody hears of it over a link that is none.
            if !reasons.contains(&Some(Reason::NoLink)) {
                let states = reasons.into_iter().map(|reason| reason.map_or(0, Reason::wire)).collect();
                answer.send_replace(States { states, number: wanted.number });
            }
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
