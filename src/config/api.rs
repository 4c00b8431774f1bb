//! What the API listens on, whom it believes, and how strict it is.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret as _, SecretString};

use super::ConfigError;
use super::environment::{environment, is_set, secret};

/// A key's file may be this large, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;
const PUBLIC_KEY: &str = "JWT_PUBLIC_KEY";
const PUBLIC_KEY_FILE: &str = "JWT_PUBLIC_KEY_FILE";

/// How the API is served.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "API")]
pub struct ApiArgs {
    /// Address and port to listen on
    #[arg(
        long,
        env = "BACKUP_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8000"
    )]
    pub listen: SocketAddr,
    /// Origins whose pages may call the API from a browser, separated by commas [default: none]
    #[arg(
        long,
        env = "BACKUP_CORS_ORIGINS",
        value_name = "ORIGINS",
        value_delimiter = ','
    )]
    pub cors_origins: Vec<String>,
    /// Whether a restore has to be confirmed by the database's name
    #[arg(
        long,
        env = "BACKUP_RESTORE_CONFIRM",
        value_name = "WHETHER",
        default_value = "optional"
    )]
    pub restore_confirm: ConfirmArg,
    /// How many requests a second one token's subject may make
    #[arg(long, env = "BACKUP_REQUESTS_PER_SECOND", value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000), hide_short_help = true)]
    pub requests_per_second: u32,
}

/// Whether a restore has to be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConfirmArg {
    /// Only where no safety backup is made
    Optional,
    /// Always
    Required,
}

/// Which tokens are believed. The secret is in JWT_SECRET, the public key in JWT_PUBLIC_KEY, or in files that
/// JWT_SECRET_FILE and JWT_PUBLIC_KEY_FILE name.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Tokens")]
pub struct JwtArgs {
    /// The one algorithm that tokens are signed with; never the token's own choice
    #[arg(
        long,
        env = "JWT_ALGORITHM",
        value_name = "NAME",
        default_value = "HS256"
    )]
    pub jwt_algorithm: AlgorithmArg,
    /// Who must have issued them
    #[arg(long, env = "JWT_ISSUER", value_name = "TEXT", hide_short_help = true)]
    pub jwt_issuer: Option<String>,
    /// Whom they must be for
    #[arg(
        long,
        env = "JWT_AUDIENCE",
        value_name = "TEXT",
        hide_short_help = true
    )]
    pub jwt_audience: Option<String>,
    /// The claim that has the role admin, as a text or in a list; points lead into it [default: role or roles]
    #[arg(
        long,
        env = "JWT_ROLE_CLAIM",
        value_name = "NAME",
        hide_short_help = true
    )]
    pub jwt_role_claim: Option<String>,
    /// The id of the key that they must name
    #[arg(long, env = "JWT_KEY_ID", value_name = "TEXT", hide_short_help = true)]
    pub jwt_key_id: Option<String>,
}

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AlgorithmArg {
    /// HMAC with SHA-256, by a secret
    #[value(name = "HS256")]
    Hs256,
    /// RSA with SHA-256, by a public key
    #[value(name = "RS256")]
    Rs256,
    /// ECDSA on P-256, by a public key
    #[value(name = "ES256")]
    Es256,
    /// Ed25519, by a public key
    #[value(name = "EdDSA")]
    EdDsa,
}

impl JwtArgs {
    /// Whether a key is named at all, by its variable or a file.
    #[must_use]
    pub fn is_set(&self) -> bool {
        let names = ["JWT_SECRET", "JWT_SECRET_FILE", PUBLIC_KEY, PUBLIC_KEY_FILE];
        names.into_iter().any(is_set)
    }

    /// What tokens are checked with: the secret for HS256, else the public key's PEM.
    ///
    /// # Errors
    /// It is not set, or the other one is: a public key used as a secret would let everybody sign.
    pub fn key(&self) -> Result<SecretString, ConfigError> {
        let shared = secret("JWT_SECRET", None)?;
        let public = public_key()?;
        let half = |text: &str| Err(ConfigError::Tokens(text.to_owned()));
        match (self.jwt_algorithm, shared, public) {
            (AlgorithmArg::Hs256, Some(shared), None) => Ok(shared),
            (AlgorithmArg::Hs256, None, _) => half(
                "JWT_ALGORITHM is HS256 and JWT_SECRET is not set\nhint: set JWT_SECRET to at least 32 random bytes, as openssl rand -base64 32 prints them",
            ),
            (AlgorithmArg::Hs256, Some(_), Some(_)) => half(
                "JWT_PUBLIC_KEY is set and JWT_ALGORITHM is HS256, which has none\nhint: set JWT_ALGORITHM to RS256, ES256 or EdDSA, or unset JWT_PUBLIC_KEY",
            ),
            (_, None, Some(public)) => Ok(public),
            (_, _, None) => half(
                "JWT_ALGORITHM needs a public key and none is set\nhint: set JWT_PUBLIC_KEY_FILE to a PEM file",
            ),
            (_, Some(_), Some(_)) => half(
                "JWT_SECRET is set and JWT_ALGORITHM uses a public key\nhint: unset JWT_SECRET, or set JWT_ALGORITHM to HS256",
            ),
        }
    }
}

/// A PEM has several lines, so its file is read whole.
fn public_key() -> Result<Option<SecretString>, ConfigError> {
    let file = environment(PUBLIC_KEY_FILE).filter(|value| !value.is_empty());
    let Some(path) = file.map(PathBuf::from) else {
        return secret(PUBLIC_KEY, None);
    };
    if environment(PUBLIC_KEY).is_some_and(|value| !value.is_empty()) {
        return Err(ConfigError::Twice(PUBLIC_KEY));
    }
    let failed = |source| ConfigError::SecretFile {
        variable: PUBLIC_KEY_FILE.to_owned(),
        path: path.clone(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(&path).map_err(failed)?;
    let mut limited = std::io::Read::take(file, KEY_FILE_BYTES_MAX);
    std::io::Read::read_to_string(&mut limited, &mut text).map_err(failed)?;
    let text = SecretString::from(text);
    if text.expose_secret().trim().is_empty() {
        return Err(ConfigError::EmptySecretFile {
            variable: PUBLIC_KEY_FILE.to_owned(),
            path,
        });
    }
    Ok(Some(text))
}
