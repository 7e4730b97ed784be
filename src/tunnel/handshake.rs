//! What a Hello, a Welcome and a Refused mean: decided here, sent and received elsewhere.
//! Trusts nothing but the name that TLS authenticated.

use prost::Message;

use super::features::FEATURES;
use super::link::{CONTROL_MESSAGE_LEN_MAX, Link};
use super::reason::Reason;
use super::refusal::Refusal;
use super::wire::{Frame, HELLO, Hello, Kind, LaneAsked, Limits, REFUSED, Refused, WELCOME, Welcome};

/// A process: 16 random bytes.
pub type Instance = [u8; 16];

/// A lane that an authenticated edge asks for, all fields checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The version to speak.
    pub version: u32,
    /// The features that both have.
    pub features: u64,
    /// The edge's process.
    pub instance: Instance,
    /// Grows with each dial of that process.
    pub attempt: u32,
    /// Which lane.
    pub lane: Lane,
    /// Unix milliseconds at the edge.
    pub time_ms: u64,
    /// The edge's budget, Mbit/s; 0: none.
    pub budget_mbit_s: u32,
}

impl Asked {
    /// The link that it asks to join.
    pub fn link(&self) -> Option<u64> {
        match self.lane {
            Lane::Control { renews, .. } => renews,
            Lane::Relay { link, .. } | Lane::Stream { link, .. } => Some(link),
        }
    }
}

/// How far the peer's wall clock is ahead of ours, in milliseconds.
pub fn skew_ms(theirs: u64, ours: u64) -> i64 {
    let clamp = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    clamp(theirs).saturating_sub(clamp(ours))
}

/// Which lane of which link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The first lane of a new link.
    Control {
        /// How many relay lanes the edge would like.
        relay_lanes: u16,
        /// The link that lives and whose place the new one takes.
        renews: Option<u64>,
    },
    /// A relay lane of a link that lives.
    Relay {
        /// The link.
        link: u64,
        /// Index from 0.
        index: u16,
    },
    /// A lane for one stream of a link that lives.
    Stream {
        /// The link.
        link: u64,
        /// The stream's number.
        stream: u32,
    },
}

impl Lane {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Control { .. } => Kind::Control,
            Self::Relay { .. } => Kind::Relay,
            Self::Stream { .. } => Kind::Stream,
        }
    }

    /// Its index within its kind.
    pub fn index(&self) -> u32 {
        match self {
            Self::Control { .. } => 0,
            Self::Relay { index, .. } => (*index).into(),
            Self::Stream { stream, .. } => *stream,
        }
    }
}

/// What the hub, whose name is `hub`, makes of a first frame from the edge that TLS authenticated as `edge`.
pub fn judge_hello(frame: &Frame, edge: &str, hub: &str) -> Result<Asked, Refusal> {
    if frame.kind != HELLO {
        return Err(Refusal::Malformed);
    }
    let hello = Hello::decode(&frame.body[..]).map_err(|_| Refusal::Malformed)?;
    let version = common_version(&hello.versions).ok_or(Refusal::Version)?;
    let takes_us_for_another = !hello.hub.is_empty() && hello.hub != hub;
    if hello.site != edge || takes_us_for_another {
        return Err(Refusal::SiteMismatch);
    }
    let instance = Instance::try_from(&hello.instance[..]).map_err(|_| Refusal::Malformed)?;
    let asked = hello.lane.ok_or(Refusal::Malformed)?;
    Ok(Asked {
        version,
        features: hello.features & FEATURES,
        instance,
        attempt: asked.attempt,
        lane: judge_lane(&asked)?,
        time_ms: hello.time_ms,
        budget_mbit_s: hello.budget_mbit_s,
    })
}

fn judge_lane(asked: &LaneAsked) -> Result<Lane, Refusal> {
    let small = |n: u32| u16::try_from(n).map_err(|_| Refusal::LaneRefused);
    match (Kind::try_from(asked.kind), asked.link) {
        (Ok(Kind::Control), link) if asked.index == 0 => {
            let renews = (link != 0).then_some(link);
            Ok(Lane::Control { relay_lanes: small(asked.relay_lanes)?, renews })
        }
        (Ok(Kind::Relay), link) if link != 0 => Ok(Lane::Relay { link, index: small(asked.index)? }),
        (Ok(Kind::Stream), link) if link != 0 => Ok(Lane::Stream { link, stream: asked.index }),
        (Ok(Kind::Check), _) => Err(Refusal::Checked),
        (Ok(Kind::Control | Kind::Relay | Kind::Stream | Kind::Unset) | Err(_), _) => {
            Err(Refusal::LaneRefused)
        }
    }
}

fn common_version(theirs: &[u32]) -> Option<u32> {
    VERSIONS.into_iter().filter(|ours| theirs.contains(ours)).max()
}

/// The hub's yes, ready to encode.
pub fn welcome(asked: &Asked, site: &str, instance: Instance, link: &Link, now_ms: u64) -> Welcome {
    Welcome {
        version: asked.version,
        features: asked.features,
        site: site.to_owned(),
        instance: instance.to_vec(),
        link: link.id,
        limits: Some(Limits {
            relay_lanes: link.relay_lanes.into(),
            budget_mbit_s: link.budget.mbit_s(),
            control_message_len: u32::try_from(CONTROL_MESSAGE_LEN_MAX).unwrap_or(u32::MAX),
        }),
        policy_digest: Vec::new(),
        time_ms: now_ms,
    }
}

/// The edge's Hello to the hub of this name, ready to encode.
pub fn hello(
    (site, hub): (&str, &str),
    instance: Instance,
    lane: &Lane,
    attempt: u32,
    budget_mbit_s: u32,
    now_ms: u64,
) -> Hello {
    let (link, relay_lanes) = match lane {
        Lane::Control { relay_lanes, renews } => (renews.unwrap_or(0), *relay_lanes),
        Lane::Relay { link, .. } | Lane::Stream { link, .. } => (*link, 0),
    };
    Hello {
        versions: VERSIONS.to_vec(),
        features: FEATURES,
        site: site.to_owned(),
        instance: instance.to_vec(),
        lane: Some(LaneAsked {
            link,
            index: lane.index(),
            kind: lane.kind().into(),
            attempt,
            relay_lanes: relay_lanes.into(),
        }),
        policy_digest: Vec::new(),
        time_ms: now_ms,
        budget_mbit_s,
        hub: hub.to_owned(),
    }
}

/// A Hello that asks for nothing but the hub's judgement.
pub fn check_hello(sites: (&str, &str), instance: Instance, now_ms: u64) -> Hello {
    let lane = Lane::Control { relay_lanes: 0, renews: None };
    let hello = hello(sites, instance, &lane, 0, 0, now_ms);
    Hello { lane: hello.lane.map(|lane| LaneAsked { kind: Kind::Check.into(), ..lane }), ..hello }
}

/// What the hub of this name answered to it: `Ok` when it knows this edge. Its bound of instances is not asked:
/// a check from beside an edge that runs cannot be told from one more edge.
pub fn judge_checked(frame: &Frame, hub: &str) -> Result<(), Reason> {
    match judge_answer(frame, hub, &Lane::Control { relay_lanes: 0, renews: None }) {
        // A hub of an earlier version knows no such lane, and looked at all the rest.
        Err(Declined { reason: Reason::Checked | Reason::LaneRefused, .. }) => Ok(()),
        Err(declined) => Err(declined.reason),
        Ok(_) => Err(Reason::Malformed),
    }
}

/// A Welcome, all fields checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The features that both have.
    pub features: u64,
    /// The hub's process.
    pub instance: Instance,
    /// The link.
    pub link: u64,
    /// How many relay lanes to dial.
    pub relay_lanes: u16,
    /// Unix milliseconds at the hub.
    pub time_ms: u64,
    /// The hub's word on the budget, Mbit/s; 0: none.
    pub budget_mbit_s: u32,
}

/// A refusal as the edge understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declined {
    /// Why.
    pub reason: Reason,
    /// The hub's wish, capped at [`RETRY_AFTER_MS_MAX`].
    pub retry_after_ms: u32,
    /// The hub's process, where it told.
    pub instance: Option<Instance>,
}

impl From<Reason> for Declined {
    fn from(reason: Reason) -> Self {
        Self { reason, retry_after_ms: 0, instance: None }
    }
}

/// What the edge makes of the answer to `asked` from the hub that TLS authenticated as `hub`.
pub fn judge_answer(frame: &Frame, hub: &str, asked: &Lane) -> Result<Agreed, Declined> {
    match frame.kind {
        WELCOME => {}
        REFUSED => return Err(judge_refused(frame)),
        _ => return Err(Reason::Malformed.into()),
    }
    let welcome = Welcome::decode(&frame.body[..]).map_err(|_| Reason::Malformed)?;
    if !VERSIONS.contains(&welcome.version) {
        return Err(Reason::Version.into());
    }
    if welcome.site != hub {
        return Err(Reason::RefusedSiteMismatch.into());
    }
    let instance = Instance::try_from(&welcome.instance[..]).map_err(|_| Reason::Malformed)?;
    let limits = welcome.limits.unwrap_or_default();
    let relay_lanes = match asked {
        // The hub may tell fewer than we like, never more.
        Lane::Control { relay_lanes, .. } => {
            u16::try_from(limits.relay_lanes).unwrap_or(u16::MAX).min(*relay_lanes)
        }
        Lane::Relay { link, .. } | Lane::Stream { link, .. } if *link == welcome.link => 0,
        Lane::Relay { .. } | Lane::Stream { .. } => return Err(Reason::Malformed.into()),
    };
    if welcome.link == 0 {
        return Err(Reason::Malformed.into());
    }
    let features = welcome.features & FEATURES;
    Ok(Agreed {
        features,
        instance,
        link: welcome.link,
        relay_lanes,
        time_ms: welcome.time_ms,
        budget_mbit_s: limits.budget_mbit_s,
    })
}

fn judge_refused(frame: &Frame) -> Declined {
    let Ok(refused) = Refused::decode(&frame.body[..]) else {
        return Reason::Malformed.into();
    };
    let reason = match Refusal::from_code(refused.code) {
        Some(refusal) => refusal.reason(),
        None => Reason::RefusedUnknownCode(refused.code),
    };
    Declined {
        reason,
        retry_after_ms: refused.retry_after_ms.min(RETRY_AFTER_MS_MAX),
        instance: Instance::try_from(&refused.instance[..]).ok(),
    }
}

/// Clocks that differ more are worth a line in the log: certificates live by them.
pub const SKEW_WORTH_TELLING_MS: i64 = 60_000;
/// Versions that this build speaks.
pub const VERSIONS: [u32; 1] = [1];
/// A hub cannot send an edge away for longer than this.
pub const RETRY_AFTER_MS_MAX: u32 = 60_000;
#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::tunnel::budget::Budget;
    use crate::tunnel::refusal::{ALL_REFUSALS, refused};
    use crate::tunnel::retiring::Retiring;
    use crate::tunnel::stream_lanes::StreamLanes;

    const CONTROL: Lane = Lane::Control { relay_lanes: 2, renews: None };

    fn frame(kind: u8, message: &impl Message) -> Frame {
        Frame { kind, body: message.encode_to_vec().into() }
    }

    fn a_hello() -> Hello {
        hello(("bank", "riskfuel"), [7; 16], &CONTROL, 3, 40, 1_000)
    }

    fn link(relay_lanes: u16) -> Link {
        Link {
            id: 5,
            peer: "bank".into(),
            instance: [7; 16],
            relay_lanes,
            features: 0,
            budget: Budget::new(30),
            retiring: Retiring::default(),
            stream_lanes: StreamLanes::default(),
            ended: CancellationToken::new(),
        }
    }

    fn asked() -> Asked {
        judge_hello(&frame(HELLO, &a_hello()), "bank", "riskfuel").unwrap()
    }

    #[test]
    fn a_right_hello_is_understood() {
        assert_eq!(
            asked(),
            Asked {
                version: 1,
                features: FEATURES,
                instance: [7; 16],
                attempt: 3,
                lane: CONTROL,
                time_ms: 1_000,
                budget_mbit_s: 40,
            }
        );
        for lane in [
            Lane::Relay { link: 5, index: 1 },
            Lane::Stream { link: 5, stream: u32::MAX },
            Lane::Control { relay_lanes: 2, renews: Some(5) },
        ] {
            let hello = hello(("bank", "riskfuel"), [7; 16], &lane, 4, 0, 0);
            assert_eq!(judge_hello(&frame(HELLO, &hello), "bank", "riskfuel").unwrap().lane, lane);
        }
        let relay = Lane::Relay { link: 5, index: 1 };
        let asked = judge_hello(
            &frame(HELLO, &hello(("bank", "riskfuel"), [7; 16], &relay, 4, 0, 0)),
            "bank",
            "riskfuel",
        )
        .unwrap();
        assert_eq!(asked.lane, relay);
    }

    #[test]
    fn an_edge_that_names_itself_after_another_is_refused() {
        assert_eq!(judge_hello(&frame(HELLO, &a_hello()), "other", "riskfuel"), Err(Refusal::SiteMismatch));
    }

    #[test]
    fn an_edge_that_takes_the_hub_for_another_is_refused_and_an_earlier_version_does_not_say() {
        let hello = frame(HELLO, &a_hello());
        assert_eq!(judge_hello(&hello, "bank", "elsewhere"), Err(Refusal::SiteMismatch));
        let earlier = frame(HELLO, &Hello { hub: String::new(), ..a_hello() });
        assert_eq!(judge_hello(&earlier, "bank", "elsewhere"), Ok(asked()));
    }

    #[test]
    fn who_only_checks_is_told_the_judgement_and_gets_no_lane() {
        let hello = check_hello(("bank", "riskfuel"), [7; 16], 1_000);
        let judged = |edge, hub| judge_hello(&frame(HELLO, &hello), edge, hub).unwrap_err();
        assert_eq!(judged("bank", "riskfuel"), Refusal::Checked);
        assert_eq!(judged("other", "riskfuel"), Refusal::SiteMismatch);
        assert_eq!(judged("bank", "elsewhere"), Refusal::SiteMismatch);
        let told = |refusal| judge_checked(&frame(REFUSED, &refused(refusal, [9; 16])), "riskfuel");
        for refusal in ALL_REFUSALS {
            let fine = matches!(refusal, Refusal::Checked | Refusal::LaneRefused);
            assert_eq!(told(refusal), if fine { Ok(()) } else { Err(refusal.reason()) });
        }
    }

    #[test]
    fn versions_without_a_common_one_are_refused() {
        for versions in [vec![], vec![0], vec![2, 99]] {
            let hello = Hello { versions, ..a_hello() };
            assert_eq!(judge_hello(&frame(HELLO, &hello), "bank", "riskfuel"), Err(Refusal::Version));
        }
        let newer = Hello { versions: vec![1, 2, 3], ..a_hello() };
        assert_eq!(judge_hello(&frame(HELLO, &newer), "bank", "riskfuel").unwrap().version, 1);
    }

    #[test]
    fn what_only_one_side_has_is_not_counted_on() {
        let of = |features| {
            judge_hello(&frame(HELLO, &Hello { features, ..a_hello() }), "bank", "riskfuel").unwrap()
        };
        assert_eq!(of(0).features, 0);
        assert_eq!(of(u64::MAX).features, FEATURES);
        let older = welcome(&of(0), "riskfuel", [9; 16], &link(2), 1);
        assert_eq!(older.features, 0);
        for (said, counted) in [(0, 0), (u64::MAX, FEATURES)] {
            let welcome = Welcome { features: said, ..older.clone() };
            let agreed = judge_answer(&frame(WELCOME, &welcome), "riskfuel", &CONTROL).unwrap();
            assert_eq!(agreed.features, counted);
        }
    }

    #[test]
    fn malformed_hellos_are_refused_by_name() {
        let lane = |lane: LaneAsked| Hello { lane: Some(lane), ..a_hello() };
        let asked = LaneAsked { kind: Kind::Relay.into(), ..LaneAsked::default() };
        let cases = [
            (Hello { instance: vec![1; 15], ..a_hello() }, Refusal::Malformed),
            (Hello { lane: None, ..a_hello() }, Refusal::Malformed),
            (lane(LaneAsked::default()), Refusal::LaneRefused),
            (lane(asked), Refusal::LaneRefused),
            (lane(LaneAsked { link: 1, index: 70_000, ..asked }), Refusal::LaneRefused),
            (lane(LaneAsked { kind: 9, ..asked }), Refusal::LaneRefused),
            (lane(LaneAsked { kind: Kind::Control.into(), index: 1, ..asked }), Refusal::LaneRefused),
        ];
        for (hello, refusal) in cases {
            assert_eq!(judge_hello(&frame(HELLO, &hello), "bank", "riskfuel"), Err(refusal), "{hello:?}");
        }
        let garbage = Frame { kind: HELLO, body: vec![0xff; 40].into() };
        assert_eq!(judge_hello(&garbage, "bank", "riskfuel"), Err(Refusal::Malformed));
        assert_eq!(judge_hello(&frame(WELCOME, &a_hello()), "bank", "riskfuel"), Err(Refusal::Malformed));
    }

    #[test]
    fn a_welcome_is_taken_only_from_the_authenticated_hub_and_for_the_lane_asked() {
        let good = welcome(&asked(), "riskfuel", [9; 16], &link(2), 1);
        let agreed = judge_answer(&frame(WELCOME, &good), "riskfuel", &CONTROL).unwrap();
        assert_eq!((agreed.link, agreed.relay_lanes, agreed.instance), (5, 2, [9; 16]));
        assert_eq!(agreed.budget_mbit_s, 30);
        let other_link = Lane::Relay { link: 6, index: 0 };
        let cases = [
            (judge_answer(&frame(WELCOME, &good), "other", &CONTROL), Reason::RefusedSiteMismatch),
            (judge_answer(&frame(WELCOME, &good), "riskfuel", &other_link), Reason::Malformed),
            (judge_answer(&frame(HELLO, &good), "riskfuel", &CONTROL), Reason::Malformed),
            (
                judge_answer(&frame(WELCOME, &Welcome { version: 7, ..good.clone() }), "riskfuel", &CONTROL),
                Reason::Version,
            ),
            (
                judge_answer(&frame(WELCOME, &Welcome { link: 0, ..good.clone() }), "riskfuel", &CONTROL),
                Reason::Malformed,
            ),
        ];
        for (answer, reason) in cases {
            assert_eq!(answer.unwrap_err().reason, reason);
        }
    }

    #[test]
    fn the_hub_cannot_make_the_edge_dial_more_lanes_than_it_wants() {
        let greedy = welcome(&asked(), "riskfuel", [9; 16], &link(60_000), 1);
        let agreed = judge_answer(&frame(WELCOME, &greedy), "riskfuel", &CONTROL).unwrap();
        assert_eq!(agreed.relay_lanes, 2);
    }

    #[test]
    fn every_refusal_arrives_as_the_reason_that_was_meant() {
        let answer = |code, retry_after_ms| {
            let refused = Refused { code, retry_after_ms, instance: vec![3; 16] };
            judge_answer(&frame(REFUSED, &refused), "riskfuel", &CONTROL).unwrap_err()
        };
        for refusal in ALL_REFUSALS {
            assert_eq!(answer(refusal.code(), 0).reason, refusal.reason());
        }
        assert_eq!(answer(99, 0).reason, Reason::RefusedUnknownCode(99));
        assert_eq!(answer(4, u32::MAX).retry_after_ms, RETRY_AFTER_MS_MAX);
    }
}
