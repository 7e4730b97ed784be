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

/// What they would say of frames are a peer's words, unescaped; and an error for each frame that breaks its protocol, of
/// which a peer sends as many as it likes.
const NEVER: [&str; 3] = ["tungstenite=warn", "tokio_tungstenite=warn", "yamux=off"];

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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_peer_that_breaks_the_multiplexers_protocol_writes_no_lines_into_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let lines = fmt().with_writer(Arc::new(File::create(&path).unwrap()));
        let lines = lines.with_env_filter(filter("trace").unwrap()).finish();
        tracing::subscriber::with_default(lines, || {
            tracing::error!(target: "yamux::connection", "invalid stream id 2");
            tracing::info!("ours");
        });
        let said = std::fs::read_to_string(&path).unwrap();
        assert!(said.contains("ours") && !said.contains("invalid stream id"), "{said}");
    }
}
