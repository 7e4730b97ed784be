//! Texts of the configuration: as they stand, from the environment or from a file, then parsed. What came
//! from elsewhere is never shown, because it may be a secret put in the wrong place.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Checker;
use crate::config::field::{Field, Text};
use crate::config::problem::{Place, Refusal, looks_secret, shown};

/// A text with where it came from.
pub(super) struct Found {
    pub(super) text: String,
    /// `$NAME` or a file's name; `None` when it stood in the configuration itself.
    origin: Option<String>,
    /// What relative paths in it are relative to.
    dir: PathBuf,
}

impl Found {
    /// How a message may speak of it.
    pub(super) fn shown(&self) -> String {
        match &self.origin {
            Some(origin) => format!("what {origin} holds"),
            None => shown(&self.text),
        }
    }

    /// Parses it by a parser that shows what it refuses.
    pub(super) fn parse<T>(&self, parse: impl FnOnce(&str) -> Result<T, Refusal>) -> Result<T, Refusal> {
        parse(&self.text).map_err(|refusal| match self.origin {
            Some(_) => Refusal::new(format!("{} is refused", self.shown()), refusal.remedy),
            None => refusal,
        })
    }
}

impl Checker<'_> {
    /// A text that may be left out.
    pub(super) fn text<T>(
        &mut self,
        field: Field<Text>,
        place: &Place,
        parse: impl FnOnce(&Found) -> Result<T, Refusal>,
    ) -> Option<T> {
        let text = self.optional(field, place)?;
        let parsed = self.found(text).and_then(|found| parse(&found));
        match parsed {
            Ok(value) => Some(value),
            Err(refusal) => {
                self.refuse(place, refusal);
                None
            }
        }
    }

    /// A text that must be there.
    pub(super) fn required_text<T>(
        &mut self,
        field: Field<Text>,
        place: &Place,
        parse: impl FnOnce(&Found) -> Result<T, Refusal>,
    ) -> Option<T> {
        if matches!(field, Field::Missing) {
            self.required(field, place);
            return None;
        }
        self.text(field, place, parse)
    }

    /// A list of texts, each parsed; the bad ones are reported by their index.
    pub(super) fn texts<T>(
        &mut self,
        fields: Vec<Field<Text>>,
        place: &Place,
        parse: impl Fn(&Found) -> Result<T, Refusal>,
    ) -> Vec<T> {
        let mut parsed = Vec::with_capacity(fields.len());
        for (index, field) in fields.into_iter().enumerate() {
            parsed.extend(self.required_text(field, &place.item(index), &parse));
        }
        parsed
    }

    fn found(&self, text: Text) -> Result<Found, Refusal> {
        match text {
            Text::Plain(text) => Ok(Found { text, origin: None, dir: self.dir.to_owned() }),
            Text::Env(from) => Ok(Found {
                text: self.variable(&from.env)?,
                origin: Some(format!("${}", from.env)),
                dir: self.dir.to_owned(),
            }),
            Text::File(from) => {
                let path = path_of(self.dir, &from.file)?;
                Ok(Found {
                    text: file_text(&path)?,
                    origin: Some(path.display().to_string()),
                    dir: path.parent().unwrap_or(self.dir).to_owned(),
                })
            }
        }
    }

    fn variable(&self, name: &str) -> Result<String, Refusal> {
        (self.env)(name).ok_or_else(|| {
            Refusal::new(
                format!("the environment has no {}", shown(name)),
                "set it, or write the value itself",
            )
        })
    }
}

fn file_text(path: &Path) -> Result<String, Refusal> {
    let refused = |why: String| {
        Refusal::new(
            format!("cannot read {}: {why}", path.display()),
            "put the value there, or name another file",
        )
    };
    let len = fs::metadata(path).map_err(|error| refused(error.to_string()))?.len();
    if len > FILE_LEN_MAX {
        return Err(refused(format!("{len} bytes are too many for one value")));
    }
    let text = fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// An address and port to listen at.
pub(super) fn socket_addr(found: &Found) -> Result<SocketAddr, Refusal> {
    found.text.parse().map_err(|_| {
        Refusal::new(
            format!("{} is no address and port", found.shown()),
            "write an IP address and a port, such as 127.0.0.1:9600, 0.0.0.0:8001 or [::]:8001",
        )
    })
}

/// A time, RFC 3339, as Unix seconds.
pub(super) fn unix_seconds(found: &Found) -> Result<u64, Refusal> {
    let time = OffsetDateTime::parse(&found.text, &Rfc3339).ok();
    time.and_then(|time| u64::try_from(time.unix_timestamp()).ok()).ok_or_else(|| {
        Refusal::new(format!("{} is no time", found.shown()), "write it as 2026-11-22T20:00:00Z (RFC 3339)")
    })
}

/// A path, made absolute by what named it.
pub(super) fn path(found: &Found) -> Result<PathBuf, Refusal> {
    path_of(&found.dir, &found.text)
}

fn path_of(dir: &Path, text: &str) -> Result<PathBuf, Refusal> {
    if looks_secret(text) {
        let remedy = "write it into a file that only this user can read, and name that file";
        return Err(Refusal::new("a file is named here, and this looks like the secret itself", remedy));
    }
    Ok(dir.join(text))
}

/// Values are short; a larger file is the wrong one.
const FILE_LEN_MAX: u64 = 64 << 10;
