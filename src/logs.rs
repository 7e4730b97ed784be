//! Log lines to stderr, as text or JSON; never a colour where no person looks.

use std::env;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt;

use crate::cli::LogFormat;

/// The filter that somebody chose is no filter.
#[derive(Debug, thiserror::Error)]
#[error("${variable}: {error}; write for example info or pulsar_bridge=debug,warn")]
pub struct BadFilter {
    variable: &'static str,
    error: ParseError,
}

/// From here on, events become lines; from `default` upwards where nobody chose a filter.
pub fn start(format: LogFormat, default: &str) -> Result<(), BadFilter> {
    let lines = fmt().with_env_filter(filter(default)?).with_writer(io::stderr);
    match format {
        LogFormat::Text => {
            lines.with_ansi(io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none()).init()
        }
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

/// What it would say of frames are a peer's words, unescaped.
const NEVER: [&str; 2] = ["tungstenite=warn", "tokio_tungstenite=warn"];

fn filter(default: &str) -> Result<EnvFilter, BadFilter> {
    let never = NEVER.iter().filter_map(|directive| directive.parse().ok());
    Ok(never.fold(chosen(default)?, EnvFilter::add_directive))
}

fn chosen(default: &str) -> Result<EnvFilter, BadFilter> {
    for variable in ["BRIDGE_LOG", "RUST_LOG"] {
        let Ok(text) = env::var(variable) else { continue };
        if !text.is_empty() {
            return EnvFilter::try_new(text).map_err(|error| BadFilter { variable, error });
        }
    }
    Ok(EnvFilter::new(default))
}
