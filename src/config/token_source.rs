//! Where a broker's token comes from. It is read again at every use, so that a renewed one is found.

use std::path::PathBuf;

use super::secret::Secret;
use super::secret_file::{self, SecretFileError};

/// Where a token is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// In a file.
    File(PathBuf),
    /// In the environment.
    Env(String),
    /// In the configuration itself.
    Value(Secret),
}

/// Why there is no token now.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be used.
    #[error("token file {0}")]
    File(#[from] SecretFileError),
    /// The environment does not have it.
    #[error("the environment has no `{0}`")]
    Unset(String),
    /// Nothing is there.
    #[error("the token is empty")]
    Empty,
}

impl TokenError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::File(error) => error.remedy(),
            Self::Unset(_) | Self::Empty => "set it to the broker's token".into(),
        }
    }
}

impl TokenSource {
    /// The token as it is now, without space around it.
    pub fn read(&self) -> Result<Secret, TokenError> {
        let token = match self {
            Self::File(path) => secret_file::read(path, TOKEN_LEN_MAX)?.expose().to_owned(),
            Self::Env(name) => std::env::var(name).map_err(|_| TokenError::Unset(name.clone()))?,
            Self::Value(secret) => secret.expose().to_owned(),
        };
        if token.trim().is_empty() {
            return Err(TokenError::Empty);
        }
        Ok(Secret::new(token.trim()))
    }
}

/// Tokens are a few kilobytes at most (a JWT with many claims).
const TOKEN_LEN_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_file_is_read_again_at_every_use() {
        let dir = tempfile::tempdir().unwrap();
        let source = TokenSource::File(dir.path().join("token"));
        assert!(matches!(source.read(), Err(TokenError::File(_))));
        for token in ["first", "second"] {
            std::fs::write(dir.path().join("token"), format!("{token}\n")).unwrap();
            std::fs::set_permissions(dir.path().join("token"), PermissionsExt::from_mode(0o600)).unwrap();
            assert_eq!(source.read().unwrap().expose(), token);
        }
        std::fs::write(dir.path().join("token"), "\n").unwrap();
        assert!(matches!(source.read(), Err(TokenError::Empty)));
        std::fs::set_permissions(dir.path().join("token"), PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(source.read(), Err(TokenError::File(SecretFileError::TooOpen { .. }))));
    }

    #[test]
    fn a_token_in_the_configuration_is_not_shown() {
        let source = TokenSource::Value(Secret::new("canary"));
        assert_eq!(source.read().unwrap().expose(), "canary");
        assert_eq!(format!("{source:?}"), "Value(***)");
    }

    #[test]
    fn an_unset_variable_is_named() {
        let source = TokenSource::Env("BRIDGE_TEST_NO_SUCH_TOKEN".into());
        assert!(source.read().unwrap_err().to_string().contains("BRIDGE_TEST_NO_SUCH_TOKEN"));
    }
}
