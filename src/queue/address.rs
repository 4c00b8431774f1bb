//! Where Redis is: `REDIS_URL`, parsed once, that prints without its user and password.
//!
//! The forms are those of redis-py, which Python's side of a deployment reads from the same variable.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

/// Redis' port where none is named.
pub const DEFAULT_PORT: u16 = 6379;
/// One more than a server has by default is fine, a million is a slip.
const DATABASE_MAX: u32 = 99_999;

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `redis://`: plain TCP.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// `rediss://`: TLS.
    Tls {
        /// A name or an address, which the certificate must have.
        host: String,
        /// The port.
        port: u16,
        /// A file of the authorities that count, instead of the system's: `ssl_ca_certs`.
        authority: Option<PathBuf>,
    },
    /// `unix://`: a socket.
    Unix(PathBuf),
}

/// A Redis database. Its `Display` names where it is, never who asks.
#[derive(Clone)]
pub struct RedisAddress {
    place: Place,
    database: u32,
    user: Option<String>,
    password: Option<SecretString>,
}

/// Why a text is no address. The text itself is never repeated: it may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// Another scheme.
    #[error(
        "REDIS_URL starts with redis://, rediss:// or unix://\nhint: redis://:PASSWORD@HOST:6379/0"
    )]
    Scheme,
    /// No host, or a port that is none.
    #[error(
        "REDIS_URL has no host, or a port that is no number from 1 to 65535\nhint: redis://:PASSWORD@HOST:6379/0; a password's own / ? # @ are written %2F %3F %23 %40"
    )]
    Host,
    /// No path of a socket.
    #[error("REDIS_URL has no path\nhint: unix:///run/redis/redis.sock?db=0")]
    Path,
    /// No number.
    #[error("REDIS_URL has a database that is no number\nhint: redis://HOST:6379/0")]
    Database,
    /// A percent sign without two hex digits, or bytes that are no UTF-8.
    #[error("REDIS_URL has a part that is not percent-encoded UTF-8")]
    Encoding,
    /// A parameter that would change who is believed.
    #[error(
        "REDIS_URL switches the check of the certificate off, which pgseal does not do\nhint: name the authority's file with ?ssl_ca_certs=/path/to/ca.pem"
    )]
    Unchecked,
}

impl RedisAddress {
    /// Parses a URL: `redis://[USER][:PASSWORD]@HOST[:PORT][/DATABASE]`, the same with `rediss`, or
    /// `unix://[USER][:PASSWORD@]/PATH[?db=DATABASE]`. `username`, `password`, `db` and `ssl_ca_certs` may be parameters;
    /// others, which tune redis-py, are ignored.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = url.trim().split_once("://").ok_or(AddressError::Scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if rest.contains('#') || query.contains('#') {
            return Err(AddressError::Unchecked);
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        // People paste passwords with an unencoded `@`: the last one ends the user information.
        let (user_information, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = user_information
            .split_once(':')
            .unwrap_or((user_information, ""));
        let mut parameters = Parameters::parse(query)?;
        let mut database = parameters.database.take();
        let place = match scheme {
            "unix" if path.len() > 1 => Place::Unix(decode(path)?.into_owned().into()),
            "unix" => return Err(AddressError::Path),
            "redis" | "rediss" => {
                let in_path = path.trim_matches('/');
                if !in_path.is_empty() {
                    database = Some(in_path.to_owned());
                }
                let (host, port) = host_and_port(host)?;
                match scheme {
                    "redis" => Place::Tcp { host, port },
                    _ => Place::Tls {
                        host,
                        port,
                        authority: parameters.authority.take(),
                    },
                }
            }
            _ => return Err(AddressError::Scheme),
        };
        let some = |text: Cow<'_, str>| (!text.is_empty()).then(|| text.into_owned());
        Ok(Self {
            place,
            database: database.map_or(Ok(0), |text| number(&text))?,
            user: some(decode(user)?).or(parameters.user),
            password: some(decode(password)?)
                .or(parameters.password)
                .map(Into::into),
        })
    }

    /// How the server is reached.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What the connection begins with.
    pub(super) fn settings(&self) -> redis::RedisConnectionInfo {
        let mut settings = redis::RedisConnectionInfo::default()
            .set_db(self.database.into())
            .set_lib_name(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password.expose_secret());
        }
        settings
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.database;
        let (scheme, host, port) = match &self.place {
            Place::Unix(path) => {
                return write!(formatter, "unix://{}?db={database}", path.display());
            }
            Place::Tcp { host, port } => ("redis", host, port),
            Place::Tls { host, port, .. } => ("rediss", host, port),
        };
        if host.contains(':') {
            write!(formatter, "{scheme}://[{host}]:{port}/{database}")
        } else {
            write!(formatter, "{scheme}://{host}:{port}/{database}")
        }
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[derive(Default)]
struct Parameters {
    database: Option<String>,
    user: Option<String>,
    password: Option<String>,
    authority: Option<PathBuf>,
}

impl Parameters {
    fn parse(query: &str) -> Result<Self, AddressError> {
        let mut parameters = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value)?.into_owned();
            match name {
                "db" => parameters.database = Some(value),
                "username" => parameters.user = Some(value),
                "password" => parameters.password = Some(value),
                "ssl_ca_certs" => parameters.authority = Some(value.into()),
                "ssl_cert_reqs" if value != "required" => return Err(AddressError::Unchecked),
                "ssl_check_hostname" if !value.eq_ignore_ascii_case("true") => {
                    return Err(AddressError::Unchecked);
                }
                _ => {}
            }
        }
        Ok(parameters)
    }
}

/// A host, an address, or an address of IPv6 in brackets; and a port.
fn host_and_port(text: &str) -> Result<(String, u16), AddressError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']').ok_or(AddressError::Host)?;
            let port = behind.strip_prefix(':');
            if port.is_none() && !behind.is_empty() {
                return Err(AddressError::Host);
            }
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| AddressError::Host)?,
        None => DEFAULT_PORT,
    };
    let host = if host.is_empty() { "localhost" } else { host };
    if port == 0 || host.contains(char::is_whitespace) {
        return Err(AddressError::Host);
    }
    Ok((decode(host)?.into_owned(), port))
}

fn number(text: &str) -> Result<u32, AddressError> {
    let number: u32 = text.parse().map_err(|_| AddressError::Database)?;
    if number > DATABASE_MAX {
        return Err(AddressError::Database);
    }
    Ok(number)
}

fn decode(text: &str) -> Result<Cow<'_, str>, AddressError> {
    let digits = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(digits) {
        return Err(AddressError::Encoding);
    }
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| AddressError::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_redis_py_is_read() {
        for (url, shown) in [
            ("redis://", "redis://localhost:6379/0"),
            ("redis://h", "redis://h:6379/0"),
            ("redis://h:7000/3", "redis://h:7000/3"),
            ("redis://h/?db=4", "redis://h:6379/4"),
            ("redis://u:canary@h:7000", "redis://h:7000/0"),
            ("redis://:can%2Fary@h", "redis://h:6379/0"),
            ("redis://:can@ary@h", "redis://h:6379/0"),
            ("redis://h?password=canary", "redis://h:6379/0"),
            ("rediss://[::1]:7/0?socket_timeout=5", "rediss://[::1]:7/0"),
            (
                "unix:///run/r.sock?db=2&password=canary",
                "unix:///run/r.sock?db=2",
            ),
            ("unix://u:canary@/run/r.sock", "unix:///run/r.sock?db=0"),
        ] {
            let address = RedisAddress::parse(url).unwrap();
            assert_eq!(address.to_string(), shown, "{url}");
            assert!(!format!("{address:?} {:?}", address.settings()).contains("canary"));
        }
    }

    #[test]
    fn user_and_password_are_what_was_meant() {
        for (url, user, password) in [
            ("redis://h", None, None),
            ("redis://:can%2Fary%40@h", None, Some("can/ary@")),
            ("redis://:can@ary@h", None, Some("can@ary")),
            ("redis://u:p@h", Some("u"), Some("p")),
            ("unix:///s?username=u&password=p", Some("u"), Some("p")),
        ] {
            let settings = RedisAddress::parse(url).unwrap().settings();
            assert_eq!((settings.username(), settings.password()), (user, password));
        }
        let url = "rediss://h?ssl_ca_certs=%2Fetc/ca.pem";
        let address = RedisAddress::parse(url).unwrap();
        let authority = Some(PathBuf::from("/etc/ca.pem"));
        assert!(
            matches!(address.place(), Place::Tls { authority: found, .. } if *found == authority)
        );
    }

    #[test]
    fn slips_are_named_without_the_url() {
        for (url, error) in [
            ("", AddressError::Scheme),
            ("canary", AddressError::Scheme),
            ("http://canary", AddressError::Scheme),
            ("redis://:canary@h:x", AddressError::Host),
            ("redis://:canary@h:0", AddressError::Host),
            ("redis://:canary@[::1", AddressError::Host),
            ("redis://:can/ary@h:1", AddressError::Host),
            ("redis://:canary@h/-1", AddressError::Database),
            ("redis://:canary@h/1000000", AddressError::Database),
            ("redis://:canary%zz@h", AddressError::Encoding),
            ("redis://:canary%ff@h", AddressError::Encoding),
            ("unix://canary", AddressError::Path),
            ("rediss://:canary@h#insecure", AddressError::Unchecked),
            (
                "rediss://:canary@h?ssl_cert_reqs=none",
                AddressError::Unchecked,
            ),
        ] {
            let found = RedisAddress::parse(url).unwrap_err();
            assert_eq!(found, error, "{url}");
            assert!(!format!("{found} {found:?}").contains("canary"));
        }
    }
}
