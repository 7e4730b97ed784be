//! `bridge perf`: what measurements need.

#[cfg(feature = "embedded")]
mod broker;
#[cfg(feature = "load")]
mod report;

use pulsar_bridge::exit::Exit;

use crate::cli::Perf;

/// Does one of them.
pub fn perf(verb: Perf) -> Exit {
    match verb {
        #[cfg(feature = "embedded")]
        Perf::Broker(args) => broker::broker(args),
        #[cfg(feature = "load")]
        Perf::Report(args) => report::report(&args),
    }
}
