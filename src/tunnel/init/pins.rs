//! Pins as the hub's operator tells them, and an edge's token with others. Makes no key.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::files::Files;
use super::{InitError, Outcome, malformed, site_name};
use crate::config::credential::JoinToken;
use crate::config::secret_file;
use crate::tunnel::key::SpkiHash;

/// What the hub's operator tells an edge that makes its own key. Not secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubPin {
    /// The hub's site name.
    pub name: String,
    /// The pin of its root, and of the next one while roots rotate.
    pub pins: Vec<SpkiHash>,
}

impl HubPin {
    /// From the hub's name and the pins that `bridge init` printed.
    pub fn parse(name: &str, texts: &[String]) -> Result<Self, InitError> {
        Ok(Self { name: site_name(name)?.to_owned(), pins: pins(texts)? })
    }
}

/// Pins of 43 characters each, one or two.
pub fn pins(texts: &[String]) -> Result<Vec<SpkiHash>, InitError> {
    if !(1..=2).contains(&texts.len()) {
        return Err(InitError::Pin);
    }
    let pin = |text: &String| URL_SAFE_NO_PAD.decode(text.trim()).ok()?.try_into().ok();
    texts.iter().map(pin).collect::<Option<_>>().ok_or(InitError::Pin)
}

/// The same key in a token with these pins.
pub(super) fn repin(file: &Path, pins: &[SpkiHash], out: &Path) -> Result<Outcome, InitError> {
    let text = secret_file::read(file, TOKEN_FILE_LEN_MAX)?;
    let token = JoinToken::parse(text.expose())
        .map_err(|error| InitError::NoToken { file: file.to_owned(), wrong: error.to_string() })?;
    let token = JoinToken::new(&token.hub, &token.edge, *token.seed(), pins.to_vec()).map_err(malformed)?;
    let mut files = Files::in_folder(out);
    let path = files.first_free(|number| format!("token-{number}"))?;
    files.add(&path, token.encode().expose().to_owned() + "\n");
    let written = files.write()?;
    let next_steps = vec![format!(
        "put {} in the place of {} (the key in it is the same): an edge that runs finds it within a second",
        out.join(path).display(),
        file.display()
    )];
    Ok(Outcome { written, next_steps })
}

const TOKEN_FILE_LEN_MAX: u64 = 4096;
