//! `bridge replay`: at the site that refused them, brings a route's refused entries from its quarantine topic to the
//! topics that they were for, or lists them.

use pulsar_bridge::config::Route;
use pulsar_bridge::exit::Exit;
use pulsar_bridge::pulsar::connection::ConnectionError;
use pulsar_bridge::pulsar::proto::ServerError;
use pulsar_bridge::relay::record::Record;
use pulsar_bridge::relay::replay::{Outcome, Replay, Summary, Told};
use pulsar_bridge::relay::window::Position;
use pulsar_bridge::site::Site;

use super::opened;
use crate::cli::ReplayArgs;

/// Replays, a line for each record on stdout.
pub fn replay(args: &ReplayArgs) -> Exit {
    let file = match super::config_file(args.config.as_deref()) {
        Ok(Some(file)) => file,
        Ok(None) => {
            eprintln!("bridge: replay: name the configuration of the route's destination with --config");
            return Exit::Usage;
        }
        Err(exit) => return exit,
    };
    let opened = match opened::open(Some(file), &[]) {
        Ok(opened) => opened,
        Err(not) => return not.told(),
    };
    let replay = match chosen(args, &opened.sites) {
        Ok(replay) => replay,
        Err(problem) => {
            eprintln!("bridge: replay: {problem}");
            return Exit::Usage;
        }
    };
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let mut exit = Exit::Done;
    let outcome = runtime.block_on(replay.run(|told| {
        let told = super::tell(&line(told));
        if told != Exit::Done {
            exit = told;
        }
    }));
    match outcome {
        Ok(summary) => {
            let told = super::tell(&last_line(&replay, summary));
            match summary.refused {
                0 if exit == Exit::Done => told,
                0 => exit,
                _ => Exit::Unavailable,
            }
        }
        Err(error) => {
            eprintln!("bridge: replay: {}: {error}; what was not told stays", replay.quarantine);
            refusal(&error)
        }
    }
}

/// What the arguments mean with these sites.
fn chosen<'a>(args: &ReplayArgs, sites: &'a [Site]) -> Result<Replay<'a>, String> {
    let name = &args.route;
    let of =
        |site: &'a Site| site.config().routes.iter().find(|route| route.name == *name).map(|r| (site, r));
    let found: Vec<(&Site, &Route)> = sites.iter().filter_map(of).collect();
    let here = found.iter().find(|(site, route)| route.to == site.config().site);
    let (site, from, quarantine, route) = match (here, &args.from, &args.quarantine) {
        (Some((site, route)), _, None) => {
            let quarantine =
                route.quarantine.clone().ok_or_else(|| format!("route `{name}` has no quarantine"))?;
            (*site, route.from.clone(), quarantine, Some(*route))
        }
        (Some((site, route)), _, Some(named)) => (*site, route.from.clone(), named.clone(), Some(*route)),
        (None, Some(from), Some(named)) => match sites {
            [site] => (site, from.clone(), named.clone(), None),
            _ => return Err("name the configuration of one site".into()),
        },
        (None, _, _) => {
            let to = found.first().map(|(_, route)| route.to.as_str());
            return Err(match to {
                Some(to) => format!("route `{name}` leads to {to}: run it there"),
                None => format!(
                    "no route `{name}` here: where the other site declares it, say --from and --quarantine"
                ),
            });
        }
    };
    let client = site.client().ok_or("this site has no cluster: add `pulsar` to its configuration")?;
    let peer = from.clone();
    let allows = move |record: &Record| {
        let (topic, destination) = (record.topic.base(), record.destination.base());
        let declared =
            |route: &Route| route.carries(&topic) && route.renaming.destination(&topic) == destination;
        route.is_some_and(declared) || site.may_receive(&peer, &destination)
    };
    Ok(Replay {
        client,
        quarantine,
        route: name.clone(),
        from,
        to: site.config().site.clone(),
        allows: Box::new(allows),
        position: args.position.map(|(ledger, entry)| Position { ledger, entry }),
        limit: args.limit.unwrap_or(u64::MAX),
        dry_run: args.dry_run,
    })
}

fn line(told: &Told) -> String {
    let (record, outcome, schema_lost) = match told {
        Told::Other(problem) => return format!("{}: left alone\n", plain(problem)),
        Told::Record { record, outcome, schema_lost } => (record, outcome, schema_lost),
    };
    let destination = &record.destination;
    let schema = if *schema_lost { ", without its schema, which the destination did not know" } else { "" };
    let became = match outcome {
        Outcome::Listed => format!("waits for {destination}"),
        Outcome::Replayed => format!("replayed to {destination}{schema}; its place in the order is lost"),
        Outcome::There => format!("is at {destination} already"),
        Outcome::RefusedAgain(said) => format!("REFUSED AGAIN by {destination}, stays here: {}", plain(said)),
        Outcome::NotAllowed => format!("NOT ALLOWED to {destination} by this configuration, stays here"),
    };
    let messages = if record.messages == 1 { "message" } else { "messages" };
    format!(
        "{} of {}, {} {messages}, {}: {became}\n",
        record.position,
        record.topic,
        record.messages,
        plain(&record.reason)
    )
}

fn last_line(replay: &Replay<'_>, summary: Summary) -> String {
    let Summary { records, replayed, refused } = summary;
    let count = match records {
        1 => "1 record".to_owned(),
        _ => format!("{records} records"),
    };
    match replay.dry_run {
        true => format!("{count} in {}\n", replay.quarantine),
        false => format!("{count} in {}: {replayed} replayed, {refused} left\n", replay.quarantine),
    }
}

fn refusal(error: &ConnectionError) -> Exit {
    match error.server_error() {
        Some(ServerError::Authentication | ServerError::Authorization) => Exit::NotPermitted,
        Some(ServerError::ConsumerBusy) => Exit::InUse,
        Some(_) | None => Exit::Unavailable,
    }
}

/// Others' words, on one line and harmless to a terminal.
fn plain(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_debug().collect() } else { String::from(c) };
    text.chars().map(escaped).collect()
}
