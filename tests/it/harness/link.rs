//! A TCP link to a server that can be cut in the middle, as a firewall or a dying machine does: both sides get a reset.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

    /// From here on everything passes.
    pub fn mend(&self) {
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
        self.state.cut.store(true, Ordering::SeqCst);
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
    for (from, to, counts) in [(&client, &server, false), (&server, &client, true)] {
        let (from, to, state) = (Arc::clone(from), Arc::clone(to), Arc::clone(state));
        std::thread::spawn(move || copy(&from, &to, &state, counts));
    }
}

/// Until one side ends, or the link is cut; then both threads let go of both streams.
fn copy(mut from: &TcpStream, mut to: &TcpStream, state: &State, counts: bool) {
    let mut buffer = [0; 16 * 1024];
    while !state.cut.load(Ordering::SeqCst) {
        let read = match from.read(&mut buffer) {
            Ok(0) => {
                let _gone = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(read) => read,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                continue;
            }
            Err(_) => return,
        };
        if counts {
            let left = state
                .left
                .load(Ordering::SeqCst)
                .saturating_sub(read as u64);
            state.left.store(left, Ordering::SeqCst);
            if left == 0 {
                state.cut.store(true, Ordering::SeqCst);
                return;
            }
        }
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}
