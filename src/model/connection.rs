//! Which database is meant: a libpq connection URL, parsed once, that prints without its password.
//!
//! The form is PostgreSQL's own (manual, section 34.1.1 "Connection Strings"), with one addition: a driver behind the
//! scheme, as in `postgresql+asyncpg://`, which SQLAlchemy users have in their settings.

use std::collections::BTreeMap;
use std::fmt;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

/// PostgreSQL's port where none is named.
pub const DEFAULT_PORT: u16 = 5432;

/// PostgreSQL's limit for a name, in bytes (NAMEDATALEN - 1). A server cuts a longer one at the door, and then means
/// another database than the one that was named.
pub const NAME_BYTES_MAX: usize = 63;

/// libpq's keywords that children take from the environment, and the variable of each (manual, section 34.15).
const KEYWORDS_WITH_VARIABLE: &[(&str, &str)] = &[
    ("application_name", "PGAPPNAME"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("client_encoding", "PGCLIENTENCODING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("gssdelegation", "PGGSSDELEGATION"),
    ("gssencmode", "PGGSSENCMODE"),
    ("gsslib", "PGGSSLIB"),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("options", "PGOPTIONS"),
    ("passfile", "PGPASSFILE"),
    ("require_auth", "PGREQUIREAUTH"),
    ("requirepeer", "PGREQUIREPEER"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("sslcert", "PGSSLCERT"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("sslcompression", "PGSSLCOMPRESSION"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslkey", "PGSSLKEY"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslsni", "PGSSLSNI"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
];

/// libpq's keywords without a variable; children find them in a private service file.
const KEYWORDS_WITHOUT_VARIABLE: &[&str] = &[
    "fallback_application_name",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "sslpassword",
    "tcp_user_timeout",
];

/// One server that may be tried: libpq takes the first that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A name, an address, or the folder of a Unix socket (starts with `/`). Empty: libpq's default socket.
    pub name: String,
    /// The address to use instead of looking the name up.
    pub address: Option<String>,
    /// The TCP port, or the number in the socket's name.
    pub port: u16,
}

/// A database to connect to. Its `Display` names role, host, port and database, never a password.
#[derive(Clone)]
pub struct Connection {
    hosts: Vec<Host>,
    role: String,
    password: Option<SecretString>,
    database: String,
    settings: BTreeMap<&'static str, SecretString>,
}

/// Why a text is no connection URL. The text itself is never repeated: it may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConnectionError {
    /// Not `postgres://` or `postgresql://`.
    #[error(
        "a connection URL starts with postgres:// or postgresql://\nhint: postgres://ROLE@HOST:5432/DATABASE"
    )]
    Scheme,
    /// No role was named.
    #[error("the connection URL names no role\nhint: postgres://ROLE@HOST:5432/DATABASE")]
    NoRole,
    /// Not a number from 1 to 65535.
    #[error("the connection URL has a port that is no number from 1 to 65535")]
    Port,
    /// A keyword libpq does not have.
    #[error("the connection URL has the parameter {0:?}, which libpq does not know")]
    UnknownParameter(String),
    /// A keyword that pgseal does not carry out.
    #[error(
        "the connection URL has the parameter {0:?}, which pgseal does not support: write its settings into the URL"
    )]
    Unsupported(&'static str),
    /// A percent sign without two hex digits, bytes that are no UTF-8, or a character no setting can hold.
    #[error(
        "the connection URL has a part that is not percent-encoded UTF-8, or that holds a NUL or a line break"
    )]
    Encoding,
    /// A name that the server would cut.
    #[error(
        "the connection URL has a {0} name of more than {NAME_BYTES_MAX} bytes, which PostgreSQL would cut"
    )]
    NameTooLong(&'static str),
    /// `[` without `]`, or as many addresses as hosts are needed.
    #[error("the connection URL has hosts, ports or addresses that do not match")]
    Hosts,
}

impl Connection {
    /// Parses a URL.
    ///
    /// # Errors
    /// The text is no PostgreSQL URL, or says something that pgseal cannot carry out.
    pub fn parse(url: &str) -> Result<Self, ConnectionError> {
        let rest = without_scheme(url).ok_or(ConnectionError::Scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        // People paste passwords with an unencoded `@`: the last one ends the user information.
        let (user_information, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (role, password) = user_information
            .split_once(':')
            .unwrap_or((user_information, ""));

        let mut parts = Parts {
            role: decode(role)?,
            password: decode(password)?,
            database: decode(database)?,
            ..Parts::default()
        };
        parts.take_hosts(hosts)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (keyword, value) = pair.split_once('=').ok_or(ConnectionError::Encoding)?;
            parts.take_parameter(&decode(keyword)?, decode(value)?)?;
        }
        parts.build()
    }

    /// The servers to try, in order.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The role to log in as.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.role
    }

    /// The database's name, exactly as the server has it.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The password, where the URL has one.
    #[must_use]
    pub fn password(&self) -> Option<&str> {
        self.password.as_ref().map(ExposeSecret::expose_secret)
    }

    /// The value of a libpq keyword, where the URL has it.
    #[must_use]
    pub fn setting(&self, keyword: &str) -> Option<&str> {
        self.settings.get(keyword).map(ExposeSecret::expose_secret)
    }

    /// The settings that children take from the environment: variable and value. Hosts, role, database and password
    /// are not among them.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        KEYWORDS_WITH_VARIABLE
            .iter()
            .filter_map(|(keyword, variable)| Some((*variable, self.setting(keyword)?)))
    }

    /// The settings that have no variable: keyword and value, for a service file.
    pub fn service_settings(&self) -> impl Iterator<Item = (&'static str, &str)> {
        KEYWORDS_WITHOUT_VARIABLE
            .iter()
            .filter_map(|keyword| Some((*keyword, self.setting(keyword)?)))
    }

    /// The same server and role, another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        Self {
            database: database.to_owned(),
            ..self.clone()
        }
    }

    /// The same, under this name among the server's sessions.
    #[must_use]
    pub fn with_application_name(&self, name: &str) -> Self {
        let mut named = self.clone();
        named
            .settings
            .insert("application_name", name.to_owned().into());
        named
    }

    /// The same, with one of the server's settings said when a session begins; beside those that the URL says.
    #[must_use]
    pub fn with_server_setting(&self, name: &str, value: &str) -> Self {
        let mut set = self.clone();
        let before = self.setting("options").unwrap_or_default();
        let options = format!("{before} -c {name}={value}").trim().to_owned();
        set.settings.insert("options", options.into());
        set
    }

    /// The same, with this password.
    #[must_use]
    pub fn with_password(self, password: String) -> Self {
        Self {
            password: Some(password.into()),
            ..self
        }
    }

    /// Fills in what the URL left out from libpq's own variables, as its own programs would. Hosts, role and database
    /// are the URL's alone: a stray PGHOST must not send a restore somewhere else.
    #[must_use]
    pub fn with_defaults(mut self, variable: impl Fn(&str) -> Option<String>) -> Self {
        for (keyword, name) in KEYWORDS_WITH_VARIABLE {
            if !self.settings.contains_key(keyword) {
                let value = variable(name);
                self.settings
                    .extend(value.map(|value| (*keyword, value.into())));
            }
        }
        if self.password.is_none() {
            self.password = variable("PGPASSWORD").map(Into::into);
        }
        self
    }

    /// The same, but with one server only: the one that answered.
    #[must_use]
    pub fn with_host(&self, host: Host) -> Self {
        Self {
            hosts: vec![host],
            ..self.clone()
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "postgres://{}@", self.role)?;
        for (index, host) in self.hosts.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(formatter, "{comma}{}:{}", host.name, host.port)?;
        }
        write!(formatter, "/{}", self.database)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

fn without_scheme(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.split('+').next()?;
    matches!(scheme, "postgres" | "postgresql").then_some(rest)
}

/// Decodes one part. NUL and line breaks are refused because neither a variable nor libpq's files can hold them.
fn decode(part: &str) -> Result<String, ConnectionError> {
    let bytes = part.as_bytes();
    let incomplete = |at: usize| {
        !bytes
            .get(at + 1..at + 3)
            .is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    };
    if bytes
        .iter()
        .enumerate()
        .any(|(at, byte)| *byte == b'%' && incomplete(at))
    {
        return Err(ConnectionError::Encoding);
    }
    let text = percent_decode_str(part)
        .decode_utf8()
        .map_err(|_| ConnectionError::Encoding)?;
    if text.contains(['\0', '\n', '\r']) {
        return Err(ConnectionError::Encoding);
    }
    Ok(text.into_owned())
}

/// What was read so far; later parameters win over earlier parts, as in libpq.
#[derive(Default)]
struct Parts {
    names: Vec<String>,
    ports: Vec<String>,
    addresses: Vec<String>,
    role: String,
    password: String,
    database: String,
    settings: BTreeMap<&'static str, SecretString>,
}

impl Parts {
    fn take_hosts(&mut self, hosts: &str) -> Result<(), ConnectionError> {
        if hosts.is_empty() {
            return Ok(());
        }
        for host in hosts.split(',') {
            let (name, port) = match host.strip_prefix('[') {
                Some(rest) => {
                    let (address, tail) = rest.split_once(']').ok_or(ConnectionError::Hosts)?;
                    (address, tail.strip_prefix(':').unwrap_or(tail))
                }
                None => host.split_once(':').unwrap_or((host, "")),
            };
            self.names.push(decode(name)?);
            self.ports.push(decode(port)?);
        }
        Ok(())
    }

    fn take_parameter(&mut self, keyword: &str, value: String) -> Result<(), ConnectionError> {
        let list = |value: &str| value.split(',').map(str::to_owned).collect();
        match keyword {
            "host" => self.names = list(&value),
            "hostaddr" => self.addresses = list(&value),
            "port" => self.ports = list(&value),
            "user" => self.role = value,
            "password" => self.password = value,
            "dbname" => self.database = value,
            "service" => return Err(ConnectionError::Unsupported("service")),
            "replication" => return Err(ConnectionError::Unsupported("replication")),
            // libpq takes JDBC's spelling for this one value.
            "ssl" if value == "true" => drop(self.settings.insert("sslmode", "require".into())),
            _ => {
                let known = KEYWORDS_WITH_VARIABLE
                    .iter()
                    .map(|(keyword, _)| keyword)
                    .chain(KEYWORDS_WITHOUT_VARIABLE);
                let keyword = known
                    .copied()
                    .find(|known| *known == keyword)
                    .ok_or_else(|| ConnectionError::UnknownParameter(keyword.to_owned()))?;
                self.settings.insert(keyword, value.into());
            }
        }
        Ok(())
    }

    fn build(self) -> Result<Connection, ConnectionError> {
        if self.role.is_empty() {
            return Err(ConnectionError::NoRole);
        }
        let hosts = self.hosts()?;
        let database = if self.database.is_empty() {
            self.role.clone()
        } else {
            self.database
        };
        for (what, name) in [("role", &self.role), ("database", &database)] {
            if name.len() > NAME_BYTES_MAX {
                return Err(ConnectionError::NameTooLong(what));
            }
        }
        let password = (!self.password.is_empty()).then(|| self.password.into());
        Ok(Connection {
            hosts,
            role: self.role,
            password,
            database,
            settings: self.settings,
        })
    }

    /// Pairs names, addresses and ports: one port may serve every host (manual, section 34.1.1.3).
    fn hosts(&self) -> Result<Vec<Host>, ConnectionError> {
        let count = self.names.len().max(self.addresses.len()).max(1);
        let fits = |length: usize| length == 0 || length == count;
        if !fits(self.names.len())
            || !fits(self.addresses.len())
            || !(fits(self.ports.len()) || self.ports.len() == 1)
        {
            return Err(ConnectionError::Hosts);
        }
        (0..count)
            .map(|index| {
                let port = self
                    .ports
                    .get(index)
                    .or_else(|| self.ports.first())
                    .map_or("", String::as_str);
                let port = match port {
                    "" => DEFAULT_PORT,
                    text => text
                        .parse()
                        .ok()
                        .filter(|port| *port > 0)
                        .ok_or(ConnectionError::Port)?,
                };
                let name = self.names.get(index).cloned().unwrap_or_default();
                let address = self
                    .addresses
                    .get(index)
                    .filter(|address| !address.is_empty())
                    .cloned();
                Ok(Host {
                    name,
                    address,
                    port,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(url: &str) -> Connection {
        Connection::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn reads_what_libpq_reads() {
        let connection = parse(
            "postgresql+asyncpg://app:s3cret%2F@db.example:6432/shop?sslmode=require&keepalives_idle=30",
        );
        assert_eq!(connection.role(), "app");
        assert_eq!(connection.password(), Some("s3cret/"));
        assert_eq!(connection.database(), "shop");
        assert_eq!(
            connection.hosts(),
            [Host {
                name: "db.example".into(),
                address: None,
                port: 6432
            }]
        );
        assert_eq!(
            connection.variables().collect::<Vec<_>>(),
            [("PGSSLMODE", "require")]
        );
        assert_eq!(
            connection.service_settings().collect::<Vec<_>>(),
            [("keepalives_idle", "30")]
        );

        let several = parse("postgres://app@one:1,two,[::1]:3/shop?target_session_attrs=primary");
        let hosts: Vec<_> = several
            .hosts()
            .iter()
            .map(|host| (host.name.as_str(), host.port))
            .collect();
        assert_eq!(hosts, [("one", 1), ("two", 5432), ("::1", 3)]);

        let socket = parse("postgres:///shop?host=/var/run/postgresql&port=5433&user=app");
        assert_eq!(
            socket.hosts()[0],
            Host {
                name: "/var/run/postgresql".into(),
                address: None,
                port: 5433
            }
        );
        assert_eq!(
            parse("postgres://app@%2Ftmp%2Fsock/").hosts()[0].name,
            "/tmp/sock"
        );
        assert_eq!(parse("postgres://app@/").database(), "app");
        assert_eq!(parse("postgres://app:p@ss@h/").password(), Some("p@ss"));
    }

    #[test]
    fn refuses_with_a_reason_and_without_the_text() {
        let cases = [
            ("mysql://app:canary@h/d", ConnectionError::Scheme),
            (
                "host=evil dbname=x password=canary",
                ConnectionError::Scheme,
            ),
            ("postgres://:canary@h/d", ConnectionError::NoRole),
            ("postgres://a:canary@h:0/d", ConnectionError::Port),
            ("postgres://a:canary@h:x/d", ConnectionError::Port),
            ("postgres://a:canary%@h/d", ConnectionError::Encoding),
            ("postgres://a:canary%0A@h/d", ConnectionError::Encoding),
            ("postgres://a:canary%zz@h/d", ConnectionError::Encoding),
            ("postgres://a:canary@[::1/d", ConnectionError::Hosts),
            (
                "postgres://a:canary@h,g,f/d?port=1,2",
                ConnectionError::Hosts,
            ),
            (
                "postgres://a:canary@h/d?sslmod=require",
                ConnectionError::UnknownParameter("sslmod".into()),
            ),
            (
                "postgres://a:canary@h/d?service=x",
                ConnectionError::Unsupported("service"),
            ),
        ];
        for (url, expected) in cases {
            let error = Connection::parse(url).unwrap_err();
            assert_eq!(error, expected, "{url}");
            assert!(!error.to_string().contains("canary"));
        }
    }

    proptest! {
        #[test]
        fn a_password_never_prints(password in "[a-zA-Z0-9@:,!%]{8,20}") {
            let encoded = percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC);
            let connection = parse(&format!("postgres://r@h/d?password={encoded}&sslpassword={encoded}"));
            prop_assert_eq!(connection.password(), Some(password.as_str()));
            let shown = format!("{connection} {connection:?}");
            prop_assert!(!shown.contains(&password));
        }

        #[test]
        fn any_text_parses_or_is_refused(url in "(postgres://)?.{0,60}") {
            let _parsed = Connection::parse(&url);
        }
    }
}
