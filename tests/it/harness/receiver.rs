//! A receiver of webhooks, on loopback: keeps what it is sent, and answers as the test wants.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::somebody::until;

/// What was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub path: String,
    /// Names in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

type Answer = Box<dyn Fn(&Sent, usize) -> String + Send>;

/// A server. Dropping it closes its port.
pub struct Receiver {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    sent: Mutex<Vec<Sent>>,
    answer: Mutex<Answer>,
    ended: Mutex<bool>,
}

/// An answer that is only a status.
pub fn status(status: u16) -> String {
    format!("HTTP/1.1 {status} x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
}

impl Receiver {
    pub fn start() -> Self {
        Self::at(0)
    }

    /// On a port that was another one's before.
    pub fn at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            sent: Mutex::new(Vec::new()),
            answer: Mutex::new(Box::new(|_, _| status(200))),
            ended: Mutex::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if *shared.ended.lock().unwrap() {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { port, state }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// How it answers from here on, by what was sent and how much there was before.
    pub fn answers(&self, answer: impl Fn(&Sent, usize) -> String + Send + 'static) {
        *self.state.answer.lock().unwrap() = Box::new(answer);
    }

    pub fn sent(&self) -> Vec<Sent> {
        self.state.sent.lock().unwrap().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        *self.state.ended.lock().unwrap() = true;
        // Wakes the listener up, so that it sees the end and closes the port.
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
        until("the port to be closed", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_err()
        });
    }
}

fn serve(mut stream: TcpStream, state: &State) {
    let Some(sent) = read(&stream) else { return };
    let answer = {
        let mut all = state.sent.lock().unwrap();
        all.push(sent.clone());
        let before = all.len() - 1;
        drop(all);
        state.answer.lock().unwrap()(&sent, before)
    };
    let _written = stream.write_all(answer.as_bytes());
}

fn read(stream: &TcpStream) -> Option<Sent> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    assert_eq!(words.next()?, "POST");
    let path = words.next()?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Sent {
        path,
        headers,
        body: String::from_utf8(body).unwrap(),
    })
}
