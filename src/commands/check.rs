//! `bridge check`: validates a configuration and says what it looked at. Tries no broker and no link.

use std::path::Path;

use pulsar_bridge::config::{self, Config, ConfigErrors, Problem, Tunnel};
use pulsar_bridge::exit::Exit;
use pulsar_bridge::site::Site;
use serde_json::json;

use crate::cli::{CheckArgs, Output};

/// Validates the file.
pub fn check(args: &CheckArgs) -> Exit {
    let file = match super::config_file(args.config.file()) {
        Ok(file) => file,
        Err(exit) => return exit,
    };
    let looked = look(&file);
    let shown = file.display().to_string();
    let told = match (args.output, &looked) {
        (Output::Text, Ok(site)) => text(&shown, site.config()),
        (Output::Text, Err(errors)) => format!("{errors}\n"),
        (Output::Json, Ok(_)) => json(&shown, &[], true),
        (Output::Json, Err(errors)) => json(&shown, &errors.problems, errors.files_opened),
    };
    let exit = super::tell(&told);
    if exit == Exit::Done && looked.is_err() {
        return Exit::Refused;
    }
    exit
}

/// All that `run` does before it binds and dials.
fn look(file: &Path) -> Result<Site, ConfigErrors> {
    let config = config::load(file)?;
    Site::open(config).map_err(|problems| ConfigErrors {
        file: file.to_owned(),
        problems,
        files_opened: true,
    })
}

fn text(file: &str, config: &Config) -> String {
    let side = match &config.tunnel {
        Tunnel::Hub(hub) => {
            let edges: Vec<_> = hub.edges.iter().map(|edge| edge.name.as_str()).collect();
            format!("a hub at {}, edges: {}", hub.listen, edges.join(", "))
        }
        Tunnel::Edge(edge) => {
            let urls: Vec<_> = edge.connect.iter().map(ToString::to_string).collect();
            format!("an edge of {}", urls.join(", "))
        }
    };
    let mut told = format!("{file}: valid\n  site {}, {side}\n", config.site);
    for route in &config.routes {
        let topics: Vec<_> = route.topics.iter().map(ToString::to_string).collect();
        told += &format!("  route {}: {} > {}: {}\n", route.name, route.from, route.to, topics.join(", "));
    }
    told + &format!("  looked at: {}\n  not tried: {}\n", LOOKED_AT.join(", "), NOT_TRIED.join(", "))
}

fn json(file: &str, problems: &[Problem], files_opened: bool) -> String {
    let (mut looked_at, mut not_tried) = (LOOKED_AT.to_vec(), NOT_TRIED.to_vec());
    if !files_opened {
        not_tried.extend(looked_at.pop());
    }
    let value = json!({
        "file": file,
        "ok": problems.is_empty(),
        "problems": problems,
        "looked_at": looked_at,
        "not_tried": not_tried,
    });
    format!("{value}\n")
}

/// The files last: where values are wrong, they are not looked at.
const LOOKED_AT: [&str; 3] = ["keys and values", "routes against each other", "the files that it names"];
const NOT_TRIED: [&str; 3] = ["the cluster", "the link", "the other side's policy"];
