//! A slow line: a TCP relay on loopback that lets what a client sends through at a rate, or not at all.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Bytes are let through in pieces of this size.
const PIECE_BYTES: usize = 16 * 1024;

/// How fast the client's bytes pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// So many bytes a second, over all connections.
    BytesPerSecond(u64),
    /// As fast as they come, until so many have passed in all; then none.
    UntilBytes(u64),
    /// As fast as they come.
    Free,
}

/// A relay to a port of this machine. Dropping it ends it.
pub struct SlowLine {
    port: u16,
    state: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    rate: Rate,
    passed: u64,
    /// When the next piece may pass.
    next: Instant,
    ended: bool,
}

impl SlowLine {
    pub fn to(port: u16, rate: Rate) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let state = State {
            rate,
            passed: 0,
            next: Instant::now(),
            ended: false,
        };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.0.lock().unwrap().ended {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                relay(client, server, &shared);
            }
        });
        Self {
            port: own_port,
            state,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, rate: Rate) {
        let mut state = self.state.0.lock().unwrap();
        state.rate = rate;
        state.next = Instant::now();
        self.state.1.notify_all();
    }

    /// How many of the clients' bytes have passed.
    pub fn passed(&self) -> u64 {
        self.state.0.lock().unwrap().passed
    }
}

impl Drop for SlowLine {
    fn drop(&mut self) {
        self.state.0.lock().unwrap().ended = true;
        self.state.1.notify_all();
        // Wakes the listener up, so that it sees the end.
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn relay(client: TcpStream, server: TcpStream, state: &Arc<(Mutex<State>, Condvar)>) {
    let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ended = std::io::copy(&mut answers, &mut back);
        let _closed = back.shutdown(Shutdown::Write);
    });
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        let (mut client, mut server) = (client, server);
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(read @ 1..) = client.read(&mut piece) {
            if !may_pass(&state, read as u64) || server.write_all(&piece[..read]).is_err() {
                break;
            }
        }
        let _closed = server.shutdown(Shutdown::Write);
    });
}

/// Waits until so many bytes may pass; `false` at the end of the test.
fn may_pass((state, changed): &(Mutex<State>, Condvar), bytes: u64) -> bool {
    let mut state = state.lock().unwrap();
    loop {
        let wait = match state.rate {
            _ if state.ended => return false,
            Rate::Free => Duration::ZERO,
            Rate::UntilBytes(limit) if state.passed < limit => Duration::ZERO,
            Rate::UntilBytes(_) => Duration::MAX,
            Rate::BytesPerSecond(_) => state.next.saturating_duration_since(Instant::now()),
        };
        if wait.is_zero() {
            break;
        }
        state = if wait == Duration::MAX {
            changed.wait(state).unwrap()
        } else {
            changed.wait_timeout(state, wait).unwrap().0
        };
    }
    state.passed += bytes;
    if let Rate::BytesPerSecond(rate) = state.rate {
        state.next =
            state.next.max(Instant::now()) + Duration::from_micros(bytes * 1_000_000 / rate);
    }
    true
}
