//! `bridge perf`: what measurements need.

#[cfg(feature = "embedded")]
mod broker;
#[cfg(feature = "load")]
mod lines;
#[cfg(feature = "load")]
mod report;
#[cfg(feature = "load")]
mod traffic;

use pulsar_bridge::exit::Exit;

use crate::cli::Perf;

/// Does one of them.
pub fn perf(verb: Perf) -> Exit {
    match verb {
        #[cfg(feature = "embedded")]
        Perf::Broker(args) => broker::broker(args),
        #[cfg(feature = "load")]
        Perf::Produce(args) => traffic::run(traffic::produce(args)),
        #[cfg(feature = "load")]
        Perf::Consume(args) => traffic::run(traffic::consume(args)),
        #[cfg(feature = "load")]
        Perf::Relay(args) => traffic::run(traffic::relay(args)),
        #[cfg(feature = "load")]
        Perf::Report(args) => report::report(&args),
    }
}
