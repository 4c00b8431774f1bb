//! The API as it runs: `pgseal serve` as a process, and a client that sends exactly what it is told to.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::cli::{Run, Running};
use super::postgres::free_port;
use super::service::Service;
use super::somebody::until;

/// A dummy that tests look for in logs.
pub const SECRET: &str = "dummy-jwt-secret-canary-of-32-bytes-or-more";

/// A running API.
pub struct Api {
    pub service: Service,
    pub port: u16,
    pub token: String,
    running: Option<Running>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Api {
    /// Everything around it, and the API itself.
    pub fn start() -> Self {
        Self::of(Service::start())
    }

    /// The API of a service that was prepared.
    pub fn of(mut service: Service) -> Self {
        let port = free_port();
        service.pgseal.set("JWT_SECRET", SECRET);
        service
            .pgseal
            .set("BACKUP_LISTEN", format!("127.0.0.1:{port}"));
        let made = service.pgseal.json(&["token", "--subject", "tester"]);
        let token = made["token"].as_str().unwrap().to_owned();
        let mut api = Self {
            service,
            port,
            token,
            running: None,
        };
        api.run();
        api
    }

    /// Starts it, with what the environment is now.
    pub fn run(&mut self) {
        self.running = Some(self.service.pgseal.start(&["serve", "-vv"]));
        until("the API", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// Ends it as a platform does: what it logged.
    pub fn stop(&mut self) -> Run {
        let running = self.running.take().unwrap();
        running.signal(Signal::TERM);
        running.wait()
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().pid()
    }

    /// A request with the administrator's token.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.with(method, path, &[], body)
    }

    pub fn with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = headers.to_vec();
        headers.push(("Authorization", &bearer));
        self.bare(method, path, &headers, body)
    }

    /// A request with exactly these headers.
    pub fn bare(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut text =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            if !headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
            {
                text.push_str("Content-Type: application/json\r\n");
            }
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        self.raw(text.as_bytes())
    }

    /// Exactly these bytes, and all that comes back.
    pub fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // It may answer, and close, before it has read everything.
        let _sent = stream.write_all(bytes);
        let mut all = Vec::new();
        let read = stream.read_to_end(&mut all);
        assert!(
            !all.is_empty(),
            "no answer, {read:?}: {}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(300)])
        );
        Answer::parse(&all)
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
    }

    /// Asks, wants this status, and reads the JSON.
    pub fn json(&self, status: u16, method: &str, path: &str, body: &str) -> Value {
        let answer = self.ask(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer}");
        answer.json()
    }

    /// Asks, and wants a problem of this code.
    pub fn problem(&self, status: u16, code: &str, request: (&str, &str, &str)) -> Value {
        let (method, path, body) = request;
        let answer = self.ask(method, path, body);
        answer.is_problem(status, code)
    }
}

impl Answer {
    fn parse(all: &[u8]) -> Self {
        let end = all.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(all)));
        let head = String::from_utf8_lossy(&all[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let mut answer = Self {
            status: status.unwrap_or_else(|| panic!("no status: {head}")),
            head,
            body: all[end + 4..].to_vec(),
        };
        if answer
            .header("transfer-encoding")
            .is_some_and(|coding| coding == "chunked")
        {
            answer.body = unchunked(&answer.body);
        }
        answer
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// It is a whole problem document.
    pub fn is_problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self}"
        );
        let problem = self.json();
        assert_eq!(problem["code"], code, "{self}");
        assert_eq!(problem["status"], status, "{self}");
        assert_eq!(
            problem["request_id"].as_str(),
            self.header("x-request-id"),
            "{self}"
        );
        problem
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}\n\n{}", self.head, self.text())
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&body[..end]).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        whole.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 4 + size..];
    }
    whole
}
