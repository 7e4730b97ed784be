//! JSON to a checked configuration: unknown keys refused, all problems at once, each with its path.

pub mod credential;
pub mod secret;
