//! How the process ends: the exit codes that scripts and supervisors rely on (those of sysexits.h).

use std::process::ExitCode;

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or drained as told.
    Done = 0,
    /// The arguments make no sense.
    Usage = 2,
    /// The other side does not answer, to a command that does not retry.
    Unavailable = 69,
    /// Our own fault.
    Fault = 70,
    /// What is wanted is in use now: trying again may help.
    InUse = 75,
    /// Not permitted.
    NotPermitted = 77,
    /// The configuration is refused.
    Refused = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
