//! Producers and consumers that find somebody in their way who may be dead: they wait until that is sure
//! (`ServerCnx.checkConnectionLiveness`), and are forgotten when they are closed meanwhile. Closes who does not answer.

use std::time::Duration;

use prost::Message;

use super::commands::Question;
use super::connection::{Connection, End};
use super::topic::Refused;

/// Who waits, by its number on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    Producer(u64),
    Consumer(u64),
}

/// A question, and what became of whoever was in its way.
#[derive(Debug)]
pub struct Probed {
    who: Who,
    request_id: u64,
    question: Question,
    /// Why it is refused: the other lives.
    refused: Option<Refused>,
}

impl Connection {
    /// Refuses, unless somebody is in the way who may be dead: then the question is asked again when that is sure.
    pub(super) fn refuse_or_probe(
        &mut self,
        who: Who,
        request_id: u64,
        refused: Refused,
        question: Question,
    ) {
        let is_short = question.encoded_len() <= PROBED_LEN_MAX;
        let Some(holder) = refused.holder.clone().filter(|_| is_short) else {
            self.refuse(request_id, &refused);
            return;
        };
        let Ok(permit) = self.again.clone().try_reserve_owned() else {
            self.refuse(request_id, &refused);
            return;
        };
        self.probed.insert(who, request_id);
        tokio::spawn(async move {
            let is_alive = holder.is_alive().await;
            if !is_alive {
                holder.closed.cancel();
                let _ = tokio::time::timeout(LEAVING_DEADLINE, holder.gone.cancelled()).await;
            }
            permit.send(Probed { who, request_id, question, refused: is_alive.then_some(refused) });
        });
    }

    /// Answers a question that has waited, unless its client has closed what it asked for.
    pub(super) fn ask_again(&mut self, probed: Probed) -> Result<(), End> {
        if self.probed.get(&probed.who) != Some(&probed.request_id) {
            return Ok(());
        }
        self.probed.remove(&probed.who);
        match probed.refused {
            Some(refused) => self.refuse(probed.request_id, &refused),
            None => self.ask(probed.question)?,
        }
        Ok(())
    }
}

/// A question that waits is kept meanwhile.
const PROBED_LEN_MAX: usize = 32 * 1024;
/// A connection that was closed lets go of its producers and consumers at once.
const LEAVING_DEADLINE: Duration = Duration::from_secs(5);
