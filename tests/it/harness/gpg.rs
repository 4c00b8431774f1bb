//! Stock gpg, with a home of its own.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::folder;

/// gpg with a private home. Dropping it ends its agent.
pub struct Gpg {
    home: TempDir,
}

impl Gpg {
    pub fn new() -> Self {
        let home = folder();
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        Self { home }
    }

    /// What a sealed file holds, as `gpg -d FILE` gives it.
    pub fn decrypt(&self, file: &Path, passphrase: &str) -> Vec<u8> {
        self.run(["--decrypt".as_ref(), file.as_os_str()], passphrase, &[])
    }

    /// As `gpg --symmetric` seals by default, or as more options say.
    pub fn encrypt(&self, content: &[u8], passphrase: &str, options: &[&str]) -> Vec<u8> {
        let arguments = options
            .iter()
            .copied()
            .chain(["--symmetric"])
            .map(AsRef::as_ref);
        self.run(arguments, passphrase, content)
    }

    /// gpg's own description of a message's packets.
    pub fn packets(&self, file: &Path, passphrase: &str) -> String {
        let listed = self.run(
            ["--list-packets".as_ref(), file.as_os_str()],
            passphrase,
            &[],
        );
        String::from_utf8_lossy(&listed).into_owned()
    }

    fn run<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a std::ffi::OsStr>,
        passphrase: &str,
        input: &[u8],
    ) -> Vec<u8> {
        let secret = self.home.path().join("passphrase");
        std::fs::write(&secret, passphrase).unwrap();
        let mut command = Command::new("gpg");
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("GNUPGHOME", self.home.path());
        command.args([
            "--batch",
            "--quiet",
            "--no-symkey-cache",
            "--pinentry-mode",
            "loopback",
            "--passphrase-file",
        ]);
        command.arg(&secret).args(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        let fed = feeder.join().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && fed.is_ok(),
            "gpg {}: {said}",
            output.status
        );
        output.stdout
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let mut command = Command::new("gpgconf");
        let _ended = command
            .env("GNUPGHOME", self.home.path())
            .args(["--kill", "all"])
            .output();
    }
}
