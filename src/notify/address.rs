//! Where channels lead: URLs that may hold secrets, which are read once and never repeated. Pure.

use std::fmt;
use std::net::IpAddr;

use hyper::Uri;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};

/// Whether an event may travel without TLS to another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainText {
    /// It may not.
    Refused,
    /// It may.
    Allowed,
}

/// Why a text is no address. The text itself is never repeated: it may hold a secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// Not a URL, or one with parts that nobody can mean.
    #[error("{0}")]
    Wrong(&'static str),
    /// It would go over the network in the clear.
    #[error(
        "it would tell another machine, {0}, without TLS\nhint: use TLS, or set BACKUP_NOTIFY_ALLOW_PLAIN=true on a network you trust"
    )]
    Plain(String),
}

/// A URL of HTTP.
#[derive(Clone)]
pub struct HttpAddress {
    url: SecretString,
    host: String,
}

/// A mail server.
#[derive(Clone)]
pub struct SmtpAddress {
    /// Its name or address, without brackets.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
    /// How it is talked to.
    pub(super) security: SmtpSecurity,
    /// Who sends, where the server wants to know.
    pub(super) credentials: Option<(String, SecretString)>,
}

/// How a mail server is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SmtpSecurity {
    /// TLS from the first byte.
    Tls,
    /// TLS after STARTTLS; a server that does not offer it is not told anything.
    StartTls,
    /// None.
    None,
}

impl HttpAddress {
    /// Reads a URL: `https`, or `http` where it stays on this machine or was allowed.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(url: &SecretString, plain: PlainText) -> Result<Self, AddressError> {
        let text = url.expose_secret().trim();
        let uri: Uri = text.parse().map_err(|_| {
            AddressError::Wrong("it is no URL\nhint: https://HOST/PATH, percent-encoded")
        })?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(AddressError::Wrong("it is no URL\nhint: https://HOST/PATH"));
        };
        if authority.as_str().contains('@') {
            return Err(AddressError::Wrong(
                "it holds a user's name or a password, which are not sent\nhint: use a URL whose path is the secret",
            ));
        }
        if text.contains('#') {
            return Err(AddressError::Wrong("it has a fragment"));
        }
        let host = without_brackets(authority.host());
        match scheme {
            "https" => {}
            "http" if is_loopback(&host) || plain == PlainText::Allowed => {}
            "http" => return Err(AddressError::Plain(host)),
            _ => {
                return Err(AddressError::Wrong("its scheme is neither https nor http"));
            }
        }
        Ok(Self {
            url: text.into(),
            host,
        })
    }

    /// The host, which is all that may be printed of it.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn url(&self) -> &str {
        self.url.expose_secret()
    }
}

impl fmt::Debug for HttpAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HttpAddress({})", self.host)
    }
}

impl SmtpAddress {
    /// Reads `smtps://USER:PASSWORD@HOST:465`, or `smtp://…:587`, which begins TLS by STARTTLS; on this machine without.
    /// `?tls=required` wants TLS there too, `?tls=none` does without elsewhere, where that was allowed.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(url: &SecretString, plain: PlainText) -> Result<Self, AddressError> {
        const FORM: AddressError = AddressError::Wrong(
            "it is no mail server's URL\nhint: smtps://USER:PASSWORD@HOST:465 or smtp://USER:PASSWORD@HOST:587, percent-encoded",
        );
        let text = url.expose_secret().trim();
        let (scheme, rest) = text.split_once("://").ok_or(FORM)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        // As in a database's URL, the last one ends the user's part.
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let (host, port) = host_and_port(place).ok_or(FORM)?;
        let security = match (scheme, query) {
            ("smtps", "" | "tls=required") => SmtpSecurity::Tls,
            ("smtp", "") if is_loopback(&host) => SmtpSecurity::None,
            ("smtp", "" | "tls=required") => SmtpSecurity::StartTls,
            ("smtp", "tls=none") if is_loopback(&host) || plain == PlainText::Allowed => {
                SmtpSecurity::None
            }
            ("smtp", "tls=none") => return Err(AddressError::Plain(host)),
            _ => return Err(FORM),
        };
        let port = port.unwrap_or(match security {
            SmtpSecurity::Tls => 465,
            SmtpSecurity::StartTls => 587,
            SmtpSecurity::None => 25,
        });
        let credentials = match user {
            Some(user) => {
                let (name, password) = user.split_once(':').ok_or(FORM)?;
                Some((
                    decoded(name).ok_or(FORM)?,
                    decoded(password).ok_or(FORM)?.into(),
                ))
            }
            None => None,
        };
        Ok(Self {
            host,
            port,
            security,
            credentials,
        })
    }
}

impl fmt::Debug for SmtpAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SmtpAddress({}:{})", self.host, self.port)
    }
}

fn host_and_port(place: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0)?),
        None if port.is_empty() => None,
        None => return None,
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    (!host.is_empty() && host.chars().all(is_host)).then(|| (host.to_owned(), port))
}

fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    // It becomes part of a line of SMTP.
    (!text.contains(['\r', '\n', '\0'])).then(|| text.into_owned())
}

fn without_brackets(host: &str) -> String {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned()
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(url: &str, plain: PlainText) -> Result<HttpAddress, AddressError> {
        HttpAddress::parse(&url.into(), plain)
    }

    fn smtp(url: &str, plain: PlainText) -> Result<SmtpAddress, AddressError> {
        SmtpAddress::parse(&url.into(), plain)
    }

    #[test]
    fn plain_text_stays_on_this_machine_unless_allowed() {
        for url in [
            "http://hooks/x",
            "http://10.0.0.7/x",
            "http://127.0.0.1.evil/x",
        ] {
            let error = http(url, PlainText::Refused).unwrap_err().to_string();
            assert!(error.contains("BACKUP_NOTIFY_ALLOW_PLAIN"), "{error}");
            assert!(http(url, PlainText::Allowed).is_ok(), "{url}");
        }
        for url in [
            "http://127.0.0.1:9/x",
            "http://[::1]/x",
            "http://localhost/x",
        ] {
            assert!(http(url, PlainText::Refused).is_ok(), "{url}");
        }
        let elsewhere = "smtp://mail.example?tls=none";
        assert!(matches!(
            smtp(elsewhere, PlainText::Refused),
            Err(AddressError::Plain(_))
        ));
        let allowed = smtp(elsewhere, PlainText::Allowed).unwrap();
        assert_eq!((allowed.security, allowed.port), (SmtpSecurity::None, 25));
    }

    #[test]
    fn mail_servers_are_read_with_their_usual_ports() {
        let read = |url| {
            let address = smtp(url, PlainText::Refused).unwrap();
            (address.security, address.host, address.port)
        };
        let mail = || "mail.example".to_owned();
        assert_eq!(
            read("smtps://mail.example"),
            (SmtpSecurity::Tls, mail(), 465)
        );
        assert_eq!(
            read("smtp://mail.example/"),
            (SmtpSecurity::StartTls, mail(), 587)
        );
        assert_eq!(
            read("smtp://mail.example:25"),
            (SmtpSecurity::StartTls, mail(), 25)
        );
        assert_eq!(
            read("smtp://[::1]:2525"),
            (SmtpSecurity::None, "::1".to_owned(), 2525)
        );
        assert_eq!(
            read("smtp://localhost:2525?tls=required"),
            (SmtpSecurity::StartTls, "localhost".to_owned(), 2525)
        );
        let address = smtp("smtps://a%40b:p%2Fq@w@mail.example", PlainText::Refused).unwrap();
        let (user, password) = address.credentials.unwrap();
        assert_eq!((user.as_str(), password.expose_secret()), ("a@b", "p/q@w"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_not_repeated() {
        for url in [
            "",
            "canary",
            "ftp://h/canary",
            "https://user:canary@h/",
            "https:///canary",
            "https://h/#canary",
            "https://h/can ary",
        ] {
            let error = http(url, PlainText::Allowed).unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
        for url in [
            "",
            "mail.example",
            "https://mail.example",
            "smtp://canary@mail.example",
            "smtp://u:canary@",
            "smtp://u:canary%0d%0aRSET@h",
            "smtp://h:0",
            "smtp://h:port",
            "smtp://h o",
            "smtps://h?tls=none",
            "smtp://h?tls=opportunistic",
        ] {
            let error = smtp(url, PlainText::Allowed).unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
        let address = http("https://h/canary", PlainText::Refused).unwrap();
        assert_eq!(format!("{address:?}"), "HttpAddress(h)");
    }
}
