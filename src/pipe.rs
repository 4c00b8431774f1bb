//! A bounded queue of byte chunks between asynchronous code and a thread.
//!
//! It is bounded so that a slow store slows `pg_dump` down instead of filling the memory. Its end is a message of its
//! own: a side that goes away without saying so is an error to the other, never a normal end.

use std::io;

use bytes::Bytes;
use tokio::sync::mpsc;

/// The largest chunk that [`Sender`] passes on as one; longer writes are cut into several.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Makes a queue that holds at most `depth` chunks of at most 1 MiB.
#[must_use]
pub fn channel(depth: usize) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::channel(depth);
    (
        Sender { inner: sender },
        Receiver {
            inner: receiver,
            ended: false,
        },
    )
}

/// The writing side. Dropping it without [`Sender::end`] or [`Sender::end_blocking`] is an error to the reader.
pub struct Sender {
    inner: mpsc::Sender<Option<Bytes>>,
}

/// The reading side.
pub struct Receiver {
    inner: mpsc::Receiver<Option<Bytes>>,
    ended: bool,
}

impl Sender {
    /// Passes a chunk on, waiting while the queue is full.
    ///
    /// # Errors
    /// `BrokenPipe`: the reader is gone.
    pub async fn send(&self, chunk: Bytes) -> io::Result<()> {
        self.inner
            .send(Some(chunk))
            .await
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// As [`Sender::send`], from a thread.
    ///
    /// # Errors
    /// `BrokenPipe`: the reader is gone.
    pub fn send_blocking(&self, chunk: Bytes) -> io::Result<()> {
        self.inner
            .blocking_send(Some(chunk))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Says that nothing follows.
    ///
    /// # Errors
    /// `BrokenPipe`: the reader is gone.
    pub async fn end(self) -> io::Result<()> {
        self.inner
            .send(None)
            .await
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// As [`Sender::end`], from a thread.
    ///
    /// # Errors
    /// `BrokenPipe`: the reader is gone.
    pub fn end_blocking(self) -> io::Result<()> {
        self.inner
            .blocking_send(None)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// For threads: blocks while the queue is full.
impl io::Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = Bytes::copy_from_slice(&bytes[..bytes.len().min(CHUNK_BYTES_MAX)]);
        let length = chunk.len();
        self.inner
            .blocking_send(Some(chunk))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Receiver {
    /// The next chunk; `None` once the writer said that nothing follows.
    ///
    /// # Errors
    /// `UnexpectedEof`: the writer went away without an end.
    pub async fn receive(&mut self) -> io::Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let message = self.inner.recv().await;
        self.settle(message)
    }

    /// As [`Receiver::receive`], from a thread.
    ///
    /// # Errors
    /// `UnexpectedEof`: the writer went away without an end.
    pub fn receive_blocking(&mut self) -> io::Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let message = self.inner.blocking_recv();
        self.settle(message)
    }

    fn settle(&mut self, message: Option<Option<Bytes>>) -> io::Result<Option<Bytes>> {
        match message {
            Some(Some(chunk)) => Ok(Some(chunk)),
            Some(None) => {
                self.ended = true;
                Ok(None)
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn chunks_arrive_in_order_and_the_end_is_said() {
        let (mut sender, mut receiver) = channel(2);
        let writer = tokio::task::spawn_blocking(move || {
            sender.write_all(&vec![7; CHUNK_BYTES_MAX + 1])?;
            sender.end_blocking()
        });
        let mut lengths = Vec::new();
        while let Some(chunk) = receiver.receive().await.unwrap() {
            lengths.push(chunk.len());
        }
        writer.await.unwrap().unwrap();
        assert_eq!(lengths, [CHUNK_BYTES_MAX, 1]);
        assert!(receiver.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_writer_that_vanishes_is_no_end() {
        let (sender, mut receiver) = channel(2);
        sender.send(Bytes::from_static(b"half")).await.unwrap();
        drop(sender);
        assert_eq!(receiver.receive().await.unwrap().unwrap(), "half");
        assert_eq!(
            receiver.receive().await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
