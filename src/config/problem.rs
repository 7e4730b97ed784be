//! What is wrong with a configuration, where, and what to do about it. Knows no file format but JSON's paths.

use std::fmt;
use std::path::PathBuf;

/// One thing to put right.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Where in the JSON, such as `tunnel.edges[0].keys[1]`; empty for the whole file.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}; {}", self.message, self.remedy)
    }
}

/// Everything that is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file.
    pub file: PathBuf,
    /// Its problems, at least one.
    pub problems: Vec<Problem>,
    /// Whether the files that it names were opened too: they are not before all values are right.
    pub files_opened: bool,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "{}: refused, {count} problem{plural}:", self.file.display())?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        if !self.files_opened && has_values(&self.problems) {
            write!(f, "\n  not looked at before the values are right: {}", NOT_BEFORE.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Whether there were values to look at: a file that cannot be read, or is no JSON object, has none.
pub fn has_values(problems: &[Problem]) -> bool {
    problems.iter().all(|problem| !problem.path.is_empty())
}

/// What is not looked at where values are wrong.
pub const NOT_BEFORE: [&str; 2] =
    ["what has a wrong value against the rest of the file", "the files that it names"];

/// A place in the JSON, grown key by key while it is walked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place(String);

impl Place {
    /// The value of a key here.
    pub(super) fn key(&self, key: &str) -> Self {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let shown: String = key.chars().take(SHOWN_LEN_MAX).collect();
        if shown.is_empty() || !shown.chars().all(plain) {
            return Self(format!("{}[{shown:?}]", self.0));
        }
        if self.0.is_empty() {
            return Self(shown);
        }
        Self(format!("{}.{shown}", self.0))
    }

    /// An item of the list here.
    pub(super) fn item(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// What is wrong at this place.
    pub(super) fn problem(&self, refusal: Refusal) -> Problem {
        Problem { path: self.0.clone(), message: refusal.message, remedy: refusal.remedy }
    }
}

/// Why a value is refused, not yet knowing its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {remedy}")]
pub struct Refusal {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Refusal {
    /// What is wrong, and what to do about it.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

/// A text of the configuration as a message may show it: one line, not all of it, and nothing of a secret in the wrong
/// place.
pub(super) fn shown(text: &str) -> String {
    if looks_secret(text) {
        return "what looks like a secret".into();
    }
    let mut shown: String = text.chars().take(SHOWN_LEN_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_LEN_MAX).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// Whether a text is, by its looks, a join token, a JWT or a private key.
pub(super) fn looks_secret(text: &str) -> bool {
    let text = text.trim_start();
    let begins = ["bt1.", "eyJ"].iter().any(|begin| text.starts_with(begin));
    begins && text.len() >= SECRET_LEN_MIN && !text.contains('/') || text.contains("PRIVATE KEY-----")
}

const SHOWN_LEN_MAX: usize = 80;
/// No file has so long a name that begins like a secret; a whole join token is twice as long.
const SECRET_LEN_MIN: usize = 40;
