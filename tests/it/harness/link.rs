//! A TCP link to a server that can be cut in the middle, as a firewall or a dying machine does: both sides get a reset.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

/// Listens on a port of its own and passes everything on. Dropping it cuts it for good.
pub struct Link {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    server_port: u16,
    /// Bytes from the server that still pass, over all connections.
    left: AtomicU64,
    cut: AtomicBool,
    /// An answer that holds this does not pass any more, and is the last.
    needle: Mutex<Option<&'static [u8]>>,
    /// How often it was cut: no connection outlives a cut, however soon the link is mended.
    cuts: AtomicU64,
}

impl State {
    fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
        self.cut.store(true, Ordering::SeqCst);
    }

    /// Whether a connection still stands that began after so many cuts.
    fn holds(&self, since: u64) -> bool {
        !self.cut.load(Ordering::SeqCst) && self.cuts.load(Ordering::SeqCst) == since
    }
}

impl Link {
    /// A link that is cut once the server has sent so many bytes.
    pub fn cut_after(server_port: u16, bytes: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            server_port,
            left: AtomicU64::new(bytes),
            cut: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
            needle: Mutex::new(None),
        });
        let of_thread = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                pass_on(&of_thread, client);
            }
        });
        Self { port, state }
    }

    pub fn is_cut(&self) -> bool {
        self.state.cut.load(Ordering::SeqCst)
    }

    /// From here on it is cut once the server has sent so many bytes more.
    pub fn cut_after_more(&self, bytes: u64) {
        self.state.left.store(bytes, Ordering::SeqCst);
    }

    /// From here on it is cut by the first answer that holds these bytes: the server has done what it answers to, and
    /// nobody hears of it.
    pub fn cut_at(&self, answer: &'static [u8]) {
        *self.state.needle.lock().unwrap() = Some(answer);
    }

    /// From here on everything passes.
    pub fn mend(&self) {
        *self.state.needle.lock().unwrap() = None;
        self.mend_for(u64::MAX);
    }

    /// From here on so many bytes pass, before it is cut once more.
    pub fn mend_for(&self, bytes: u64) {
        self.state.left.store(bytes, Ordering::SeqCst);
        self.state.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.cut();
    }
}

fn pass_on(state: &Arc<State>, client: TcpStream) {
    let server = TcpStream::connect(("127.0.0.1", state.server_port)).unwrap();
    for stream in [&client, &server] {
        // Closing it then resets the connection instead of ending it in order.
        set_socket_linger(stream, Some(Duration::ZERO)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        stream.set_nodelay(true).unwrap();
    }
    let (client, server) = (Arc::new(client), Arc::new(server));
    let since = state.cuts.load(Ordering::SeqCst);
    for (from, to, counts) in [(&client, &server, false), (&server, &client, true)] {
        let (from, to, state) = (Arc::clone(from), Arc::clone(to), Arc::clone(state));
        std::thread::spawn(move || copy(&from, &to, (&state, since), counts));
    }
}

/// Until one side ends, or the link is cut; then both threads let go of both streams.
fn copy(mut from: &TcpStream, mut to: &TcpStream, (state, since): (&State, u64), counts: bool) {
    let mut buffer = [0; 16 * 1024];
    while state.holds(since) {
        let read = match from.read(&mut buffer) {
            Ok(0) => {
                let _gone = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(read) => read,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                continue;
            }
            // A side that reset the connection is gone; the other one hears of it.
            Err(_) => {
                let _gone = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
                return;
            }
        };
        if !state.holds(since) {
            return;
        }
        if counts {
            let left = state
                .left
                .load(Ordering::SeqCst)
                .saturating_sub(read as u64);
            state.left.store(left, Ordering::SeqCst);
            let needle = *state.needle.lock().unwrap();
            let holds = |needle: &[u8]| {
                let mut windows = buffer[..read].windows(needle.len());
                windows.any(|window| window == needle)
            };
            if left == 0 || needle.is_some_and(holds) {
                state.cut();
                return;
            }
        }
        if to.write_all(&buffer[..read]).is_err() {
            let _gone = from.shutdown(Shutdown::Both);
            return;
        }
    }
}
