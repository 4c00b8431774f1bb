//! Which `pg_dump` and `pg_restore` are on this machine, and which of them fits a server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::archive::Codec;
use super::child::Spawn;
use super::error::PgError;

/// From this major on, an archive carries `SET transaction_timeout`, which older servers do not know.
const ARCHIVE_CANNOT_GO_BACK_FROM: u32 = 17;
/// The first major whose programs know zstd and lz4, if they were built with them.
const CODECS_FROM: u32 = 16;

/// Where to look, in order; the first find of a major wins.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// `BACKUP_PG_BINDIRS`.
    pub folders: Vec<PathBuf>,
    /// `PATH`.
    pub path: Vec<PathBuf>,
}

/// A pair of client programs of one major version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The major version.
    pub major: u32,
    /// What `pg_dump --version` says.
    pub version: String,
    /// The folder that holds both.
    pub folder: PathBuf,
}

impl Client {
    pub(super) fn pg_dump(&self) -> PathBuf {
        self.folder.join("pg_dump")
    }

    pub(super) fn pg_restore(&self) -> PathBuf {
        self.folder.join("pg_restore")
    }

    /// Whether this pg_dump was built with zstd.
    pub async fn has_zstd(&self) -> bool {
        self.has(Codec::Zstd).await
    }

    /// Whether this pair was built with a compression. It is asked, not guessed: pg_dump checks its compression setting
    /// before it connects, so a connection that cannot work tells the two apart.
    async fn has(&self, codec: Codec) -> bool {
        if self.major < CODECS_FROM {
            return false;
        }
        let compress = format!("--compress={}:1", codec.name());
        let arguments = [
            "--format=custom",
            &compress,
            "--file=/dev/null",
            "--no-password",
            "--host=/nonexistent",
            "--dbname=x",
        ];
        let spawn = Spawn {
            name: "pg_dump",
            program: &self.pg_dump(),
            arguments: arguments.map(Into::into).into(),
            connection: None,
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            on_line: None,
        };
        let Ok(child) = spawn.start() else {
            return false;
        };
        matches!(child.finish().await, Err(PgError::Client { stderr, .. }) if stderr.contains("connection to server"))
    }
}

/// Every client that was found, by major.
#[derive(Clone, Debug, Default)]
pub struct Clients(BTreeMap<u32, Client>);

impl Clients {
    /// Looks in the named folders, then in Debian's and Red Hat's places, then in `PATH`.
    pub async fn find(search: &Search) -> Self {
        let mut folders = search.folders.clone();
        folders.extend(installed("/usr/lib/postgresql", ""));
        folders.extend(installed("/usr", "pgsql-"));
        folders.extend(search.path.iter().cloned());
        let mut clients = BTreeMap::new();
        for folder in folders {
            if let Some(client) = client_in(&folder).await {
                clients.entry(client.major).or_insert(client);
            }
        }
        Self(clients)
    }

    /// Every client, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Client> {
        self.0.values()
    }

    /// The client to dump a server of major `server` with: its own major, else the next newer one.
    ///
    /// # Errors
    /// There is none, or only one whose archive that server could not take back (unless `allow_newer`).
    pub fn for_dump(&self, server: u32, allow_newer: bool) -> Result<&Client, PgError> {
        let client = self.at_least(server)?;
        let goes_back = client.major == server || client.major < ARCHIVE_CANNOT_GO_BACK_FROM;
        if goes_back || server >= ARCHIVE_CANNOT_GO_BACK_FROM || allow_newer {
            return Ok(client);
        }
        Err(PgError::OnlyNewerClient {
            server,
            newer: client.major,
        })
    }

    /// The client to restore with into a server of major `server`: its own major where that reads an archive written
    /// by major `archive`, else the oldest that reads it. pg_restore of 17 or later sets what older servers do not know.
    ///
    /// # Errors
    /// None reads it, or none was built with its compression.
    pub async fn for_restore(
        &self,
        server: u32,
        archive: u32,
        codec: Option<Codec>,
    ) -> Result<&Client, PgError> {
        let loaders = self.loaders(server, archive);
        self.reading(codec, loaders).await.map_err(|error| {
            error.unwrap_or_else(|| PgError::NoClient {
                wanted: archive,
                found: self.majors(),
            })
        })
    }

    /// The client to prove an archive with: the newest that was built with its compression.
    ///
    /// # Errors
    /// There is none.
    pub async fn for_proof(&self, codec: Option<Codec>) -> Result<&Client, PgError> {
        let newest_first = self.0.values().rev().collect();
        let found = self.reading(codec, newest_first).await;
        found.map_err(|error| error.unwrap_or_else(|| self.none_at_all()))
    }

    /// The clients that load an archive into a server, the best first.
    fn loaders(&self, server: u32, archive: u32) -> Vec<&Client> {
        let fits = |client: &&Client| {
            client.major < ARCHIVE_CANNOT_GO_BACK_FROM || server >= ARCHIVE_CANNOT_GO_BACK_FROM
        };
        let own = self.0.get(&server).filter(|own| own.major >= archive);
        let others = self.0.range(archive..).map(|(_, client)| client);
        own.into_iter()
            .chain(others.filter(|client| client.major != server))
            .filter(fits)
            .collect()
    }

    /// The first that was built with a compression; an error without content where there is nothing to choose from.
    async fn reading<'a>(
        &self,
        codec: Option<Codec>,
        choice: Vec<&'a Client>,
    ) -> Result<&'a Client, Option<PgError>> {
        let found: Vec<u32> = choice.iter().map(|client| client.major).collect();
        for client in choice {
            match codec {
                Some(codec) if !client.has(codec).await => {}
                _ => return Ok(client),
            }
        }
        Err(codec
            .filter(|_| !found.is_empty())
            .map(|codec| PgError::NoCodec {
                codec: codec.name(),
                found: numbers(found),
            }))
    }

    /// The oldest client that is not older than `major`.
    ///
    /// # Errors
    /// There is none.
    pub fn at_least(&self, major: u32) -> Result<&Client, PgError> {
        self.0
            .range(major..)
            .next()
            .map(|(_, client)| client)
            .ok_or_else(|| PgError::NoClient {
                wanted: major,
                found: self.majors(),
            })
    }

    /// The newest client: it lists every archive that any of them lists.
    ///
    /// # Errors
    /// There is none at all.
    pub fn newest(&self) -> Result<&Client, PgError> {
        self.0
            .values()
            .next_back()
            .ok_or_else(|| self.none_at_all())
    }

    fn none_at_all(&self) -> PgError {
        const NEWEST_MAJOR_KNOWN: u32 = 18;
        PgError::NoClient {
            wanted: NEWEST_MAJOR_KNOWN,
            found: self.majors(),
        }
    }

    fn majors(&self) -> String {
        if self.0.is_empty() {
            return "none".to_owned();
        }
        numbers(self.0.keys().copied())
    }
}

fn numbers(majors: impl IntoIterator<Item = u32>) -> String {
    let majors: Vec<String> = majors.into_iter().map(|major| major.to_string()).collect();
    majors.join(", ")
}

/// `bin` folders below a parent, as distributions lay them out: `/usr/lib/postgresql/15/bin`, `/usr/pgsql-16/bin`.
fn installed(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(folders) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    let is_version = |name: &str| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.parse::<u32>().is_ok())
    };
    let mut found: Vec<_> = folders
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_version))
        .map(|entry| entry.path().join("bin"))
        .collect();
    found.sort();
    found
}

async fn client_in(folder: &Path) -> Option<Client> {
    let pg_dump = folder.join("pg_dump");
    // Debian's /usr/bin/pg_dump is a Perl script that picks one of the others by its own rules.
    let is_wrapper = std::fs::canonicalize(&pg_dump).ok()?.file_name()? == "pg_wrapper";
    if is_wrapper || !folder.join("pg_restore").exists() {
        return None;
    }
    let spawn = Spawn {
        name: "pg_dump",
        program: &pg_dump,
        arguments: vec!["--version".into()],
        connection: None,
        stdin: Stdio::null(),
        stdout: Stdio::piped(),
        on_line: None,
    };
    let mut child = spawn.start().ok()?;
    let mut version = String::new();
    let mut stdout = tokio::io::AsyncReadExt::take(child.take_stdout()?, 1024);
    tokio::io::AsyncReadExt::read_to_string(&mut stdout, &mut version)
        .await
        .ok()?;
    child.finish().await.ok()?;
    let version = version.trim().to_owned();
    Some(Client {
        major: major_of(&version)?,
        version,
        folder: folder.to_owned(),
    })
}

/// `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` -> 15; betas and developer builds (`18beta1`, `19devel`) too.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(majors: &[u32]) -> Clients {
        let client = |major: &u32| {
            (
                *major,
                Client {
                    major: *major,
                    version: String::new(),
                    folder: PathBuf::new(),
                },
            )
        };
        Clients(majors.iter().map(client).collect())
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(
            major_of("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"),
            Some(15)
        );
        assert_eq!(major_of("pg_dump (PostgreSQL) 19devel"), Some(19));
        assert_eq!(major_of("something else"), None);
    }

    #[test]
    fn a_dump_takes_the_servers_own_major_else_the_next_newer() {
        assert_eq!(
            clients(&[14, 15, 16]).for_dump(15, false).unwrap().major,
            15
        );
        assert_eq!(
            clients(&[14, 16, 18]).for_dump(15, false).unwrap().major,
            16
        );
        assert_eq!(clients(&[17, 18]).for_dump(17, false).unwrap().major, 17);
        assert_eq!(clients(&[18]).for_dump(17, false).unwrap().major, 18);
        assert!(matches!(
            clients(&[14]).for_dump(15, true),
            Err(PgError::NoClient { wanted: 15, .. })
        ));
        assert!(matches!(
            clients(&[17]).for_dump(15, false),
            Err(PgError::OnlyNewerClient {
                server: 15,
                newer: 17
            })
        ));
        assert_eq!(clients(&[17]).for_dump(15, true).unwrap().major, 17);
    }

    #[test]
    fn a_restore_takes_the_targets_own_major_where_it_reads_the_archive() {
        let best = |majors: &[u32], server, archive| {
            let clients = clients(majors);
            clients
                .loaders(server, archive)
                .first()
                .map(|client| client.major)
        };
        assert_eq!(best(&[15, 17], 15, 15), Some(15));
        assert_eq!(best(&[15, 17], 17, 15), Some(17));
        assert_eq!(best(&[16, 17, 18], 18, 17), Some(18));
        assert_eq!(best(&[15, 16], 15, 16), Some(16));
        assert_eq!(best(&[15], 15, 17), None);
        // What pg_restore 17 sets, PostgreSQL 15 does not know.
        assert_eq!(best(&[15, 17], 15, 16), None);
    }
}
