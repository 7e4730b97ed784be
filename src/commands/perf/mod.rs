//! `bridge perf`: what measurements need.

#[cfg(feature = "embedded")]
mod broker;

use pulsar_bridge::exit::Exit;

use crate::cli::Perf;

/// Does one of them.
pub fn perf(verb: Perf) -> Exit {
    match verb {
        #[cfg(feature = "embedded")]
        Perf::Broker(args) => broker::broker(args),
    }
}
