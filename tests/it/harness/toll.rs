//! Relays between a program and its servers that count what passes, and hold everything up at one moment, so that the
//! program can be killed just there: before a server hears of a request, or once it has done it and nobody knows.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// Ports of relays, and the one count that they share. Dropping it cuts all connections.
pub struct Toll {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    /// How many pieces passed in either direction, by the servers' names.
    passed: BTreeMap<&'static str, usize>,
    /// At which server's which piece everything stops.
    stop: Option<(&'static str, usize)>,
    stopped: bool,
    ended: bool,
}

impl Toll {
    pub fn new() -> Self {
        Self {
            shared: Arc::default(),
        }
    }

    /// A port that leads to a server of this machine.
    pub fn to(&self, name: &'static str, server: u16) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.0.lock().unwrap().ended {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
                    continue;
                };
                let pair = || (client.try_clone().unwrap(), server.try_clone().unwrap());
                let ((from, to), (back_to, back_from)) = (pair(), pair());
                for (from, to) in [(from, to), (back_from, back_to)] {
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || pass(name, from, to, &shared));
                }
            }
        });
        port
    }

    /// From here on everything stops at a server's piece of this number, the first being 1.
    pub fn stop_at(&self, name: &'static str, number: usize) {
        self.shared.0.lock().unwrap().stop = Some((name, number));
    }

    /// From here on everything stops.
    pub fn stop_now(&self) {
        self.shared.0.lock().unwrap().stopped = true;
    }

    /// Everything passes again, what was held up first.
    pub fn go_on(&self) {
        let mut state = self.shared.0.lock().unwrap();
        (state.stopped, state.stop) = (false, None);
        self.shared.1.notify_all();
    }

    /// Whether it has come to that.
    pub fn has_stopped(&self) -> bool {
        self.shared.0.lock().unwrap().stopped
    }

    /// How many pieces passed to and from a server.
    pub fn passed(&self, name: &'static str) -> usize {
        let state = self.shared.0.lock().unwrap();
        state.passed.get(name).copied().unwrap_or(0)
    }
}

impl Drop for Toll {
    fn drop(&mut self) {
        self.shared.0.lock().unwrap().ended = true;
        self.shared.1.notify_all();
    }
}

fn pass(
    name: &'static str,
    mut from: TcpStream,
    mut to: TcpStream,
    shared: &(Mutex<State>, Condvar),
) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        if !may_pass(name, shared) || to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    let _closed = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

/// Counts a piece, and holds it up while everything stands still; `false`: it never arrives.
fn may_pass(name: &'static str, (state, changed): &(Mutex<State>, Condvar)) -> bool {
    let mut state = state.lock().unwrap();
    let passed = state.passed.entry(name).or_default();
    *passed += 1;
    if state.stop == Some((name, state.passed[name])) {
        state.stopped = true;
    }
    while state.stopped && !state.ended {
        state = changed.wait(state).unwrap();
    }
    !state.ended
}
