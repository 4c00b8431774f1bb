//! A real mail server, aiosmtpd, on loopback.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::postgres::free_port;
use super::somebody::until;
use super::{fixture, run, tool};

/// A server. Dropping it ends it.
pub struct MailServer {
    pub port: u16,
    process: Child,
    messages: Arc<Mutex<Vec<Value>>>,
}

/// A message that arrived.
pub struct Mail(pub Value);

impl MailServer {
    pub fn start(options: &[&str]) -> Self {
        Self::at(free_port(), options)
    }

    /// On a port that was chosen before.
    pub fn at(port: u16, options: &[&str]) -> Self {
        let package = tool("aiosmtpd/version").parent().unwrap().to_owned();
        let mut process = Command::new("python3")
            .arg(fixture("mail_server.py"))
            .arg(port.to_string())
            .args(options)
            .env("PYTHONPATH", package)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "\"ready\"");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&messages);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock()
                    .unwrap()
                    .push(serde_json::from_str(&line).unwrap());
            }
        });
        Self {
            port,
            process,
            messages,
        }
    }

    pub fn messages(&self) -> Vec<Mail> {
        self.messages
            .lock()
            .unwrap()
            .iter()
            .cloned()
            .map(Mail)
            .collect()
    }

    /// Waits for so many.
    pub fn until_messages(&self, number: usize) -> Vec<Mail> {
        until(&format!("{number} mails"), || {
            self.messages().len() >= number
        });
        self.messages()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _ended = self.process.wait();
    }
}

impl Mail {
    /// Every value of a header, so that one which came in twice is seen.
    pub fn header(&self, name: &str) -> Vec<&str> {
        let headers = self.0["headers"].as_array().unwrap();
        let named = headers.iter().filter(|header| header[0] == name);
        named.map(|header| header[1].as_str().unwrap()).collect()
    }

    pub fn body(&self) -> &str {
        self.0["body"].as_str().unwrap()
    }
}

/// A certificate for 127.0.0.1 and its key, which nobody vouches for.
pub fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let [key, certificate] = ["mail-key.pem", "mail.pem"].map(|name| folder.join(name));
    run(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            "/CN=dummy",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate));
    (certificate, key)
}
