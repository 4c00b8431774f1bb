//! One zlib stream (RFC 1950) by several threads: compressing is half of the computing of a backup, and one core alone would
//! be what everything else waits for.
//!
//! Blocks are compressed beside each other, as pigz does it: each has the end of the one before as its dictionary, and ends
//! on a byte, by a sync flush, so that one behind the other they are one stream for every reader. The crate that does the
//! same (`gzp`) makes zlib streams with C libraries alone.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use flate2::{Compress, Compression, FlushCompress, Status};
use simd_adler32::Adler32;

/// Large enough that its end, some five bytes, costs nothing.
const BLOCK_BYTES: usize = 256 * 1024;
/// What deflate can refer back to (RFC 1951, section 2).
const WINDOW_BYTES: usize = 32 * 1024;
/// pg_dump gives no more than that many can compress.
const THREADS_MAX: usize = 4;
/// For each thread: what it works on, and the next one.
const BLOCKS_FOR_EACH: usize = 2;

/// Compresses what is written to it into a sink.
pub(super) struct ZlibWriter<W: Write> {
    sink: W,
    level: Compression,
    block: Block,
    checksum: Adler32,
    /// None before there is a second block: what is small is compressed where it is.
    threads: Vec<Compressing>,
    /// Blocks that were given to the threads, in turn, and those that came back.
    given: usize,
    taken: usize,
}

/// A part of the stream, with what may be referred to before it.
#[derive(Default)]
struct Block {
    window: Vec<u8>,
    bytes: Vec<u8>,
    is_last: bool,
}

impl Block {
    /// What stands behind this one, as yet empty.
    fn next(&self) -> Self {
        let from = self.bytes.len().saturating_sub(WINDOW_BYTES);
        Self {
            window: self.bytes[from..].to_vec(),
            bytes: Vec::with_capacity(BLOCK_BYTES),
            is_last: false,
        }
    }
}

impl<W: Write> ZlibWriter<W> {
    /// Starts a stream, at a level from 1 to 9.
    ///
    /// # Errors
    /// The sink fails.
    pub(super) fn new(mut sink: W, level: u8) -> io::Result<Self> {
        sink.write_all(&header(level))?;
        Ok(Self {
            sink,
            level: Compression::new(u32::from(level)),
            block: Block::default(),
            checksum: Adler32::new(),
            threads: Vec::new(),
            given: 0,
            taken: 0,
        })
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// The sink fails.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.block.is_last = true;
        if self.threads.is_empty() {
            let compressed = compress(&mut compressor(self.level), &self.block)?;
            self.sink.write_all(&compressed)?;
        } else {
            self.give()?;
            while self.taken < self.given {
                self.take()?;
            }
        }
        let checksum = self.checksum.finish().to_be_bytes();
        self.sink.write_all(&checksum)?;
        Ok(self.sink)
    }

    /// Gives the block to the thread whose turn it is, once that has room.
    fn give(&mut self) -> io::Result<()> {
        if self.threads.is_empty() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            // With fewer than that it is slower, and no worse.
            let threads = (0..cores.min(THREADS_MAX)).map_while(|_| Compressing::start(self.level));
            self.threads.extend(threads);
        }
        let full = self.threads.len() * BLOCKS_FOR_EACH;
        if full > 0 && self.given - self.taken == full {
            self.take()?;
        }
        let next = self.block.next();
        let block = std::mem::replace(&mut self.block, next);
        if self.threads.is_empty() {
            let compressed = compress(&mut compressor(self.level), &block)?;
            return self.sink.write_all(&compressed);
        }
        let thread = &self.threads[self.given % self.threads.len()];
        thread.blocks.send(block).map_err(|_| gone())?;
        self.given += 1;
        Ok(())
    }

    /// Passes the oldest block on, once it is compressed.
    fn take(&mut self) -> io::Result<()> {
        let thread = &self.threads[self.taken % self.threads.len()];
        let compressed = thread.compressed.recv().map_err(|_| gone())??;
        self.taken += 1;
        self.sink.write_all(&compressed)
    }
}

impl<W: Write> Write for ZlibWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only where something follows, because the last block is another one.
        if self.block.bytes.len() == BLOCK_BYTES {
            self.give()?;
        }
        let room = BLOCK_BYTES - self.block.bytes.len();
        let bytes = &bytes[..bytes.len().min(room)];
        self.block.bytes.extend_from_slice(bytes);
        self.checksum.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// A thread that compresses blocks. It ends when nobody has any more for it.
struct Compressing {
    blocks: SyncSender<Block>,
    compressed: Receiver<io::Result<Vec<u8>>>,
}

impl Compressing {
    /// `None`: the system gives no further thread.
    fn start(level: Compression) -> Option<Self> {
        let (blocks, waiting) = sync_channel::<Block>(BLOCKS_FOR_EACH);
        let (done, compressed) = sync_channel(BLOCKS_FOR_EACH);
        let work = move || {
            let mut compressor = compressor(level);
            for block in waiting {
                if done.send(compress(&mut compressor, &block)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("compress".to_owned())
            .spawn(work)
            .ok()?;
        Some(Self { blocks, compressed })
    }
}

/// Without a header of its own: that is the whole stream's.
fn compressor(level: Compression) -> Compress {
    Compress::new(level, false)
}

fn compress(compressor: &mut Compress, block: &Block) -> io::Result<Vec<u8>> {
    compressor.reset();
    if !block.window.is_empty() {
        compressor.set_dictionary(&block.window)?;
    }
    let flush = if block.is_last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    // What cannot be compressed gets a little longer.
    let mut compressed = Vec::with_capacity(block.bytes.len() + block.bytes.len() / 1000 + 64);
    // A dictionary may count as read.
    let before = compressor.total_in();
    loop {
        let read = usize::try_from(compressor.total_in() - before).map_err(io::Error::other)?;
        let status = compressor.compress_vec(&block.bytes[read..], &mut compressed, flush)?;
        let all_is_out = match status {
            Status::StreamEnd => true,
            // With room left, nothing is held back any more.
            Status::Ok | Status::BufError => {
                !block.is_last && compressed.len() < compressed.capacity()
            }
        };
        if all_is_out {
            return Ok(compressed);
        }
        compressed.reserve(BLOCK_BYTES / 4);
    }
}

/// Deflate with the largest window, no dictionary, and how hard it was tried (RFC 1950, section 2.2).
fn header(level: u8) -> [u8; 2] {
    const METHOD: u8 = 0x78;
    let tried: u8 = match level {
        0 | 1 => 0,
        2..=5 => 1,
        6 => 2,
        _ => 3,
    };
    let flags = tried << 6;
    let rest = (u16::from(METHOD) * 256 + u16::from(flags)) % 31;
    // Both bytes together are a multiple of 31.
    let check = u8::try_from((31 - rest) % 31).unwrap_or_default();
    [METHOD, flags | check]
}

fn gone() -> io::Error {
    io::Error::other("a thread that compresses has panicked")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::ZlibDecoder;
    use proptest::prelude::*;

    use super::*;

    fn inflated(compressed: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        let mut decoder = ZlibDecoder::new(compressed);
        decoder.read_to_end(&mut plain).unwrap();
        assert_eq!(decoder.total_in(), compressed.len() as u64);
        plain
    }

    fn deflated(level: u8, plain: &[u8], piece: usize) -> Vec<u8> {
        let mut writer = ZlibWriter::new(Vec::new(), level).unwrap();
        for piece in plain.chunks(piece.max(1)) {
            writer.write_all(piece).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn headers_are_those_of_zlib() {
        let headers = [1, 3, 6, 9].map(header);
        assert_eq!(
            headers,
            [[0x78, 0x01], [0x78, 0x5e], [0x78, 0x9c], [0x78, 0xda]]
        );
    }

    #[test]
    fn blocks_refer_to_the_ones_before() {
        // Noise of less than a window, again and again: each time of it is a reference.
        let noise: Vec<u8> = (0..20_000_u32)
            .map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        let plain = noise.repeat(100);
        let compressed = deflated(6, &plain, 4096);
        assert!(
            compressed.len() < 2 * noise.len() + plain.len() / 100,
            "{}",
            compressed.len()
        );
        assert_eq!(inflated(&compressed), plain);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_stream_is_what_went_in(
            level in 1..=9_u8,
            // Around the ends of blocks most of all.
            length in prop_oneof![0..100_usize, BLOCK_BYTES - 2..BLOCK_BYTES + 3, 9 * BLOCK_BYTES - 2..9 * BLOCK_BYTES + 3, 0..12 * BLOCK_BYTES],
            piece in prop_oneof![1..5_usize, 1000..9000_usize, BLOCK_BYTES..3 * BLOCK_BYTES],
            alphabet in prop_oneof![Just(1_u32), Just(7), Just(251), Just(u32::MAX)],
            seed: u32,
        ) {
            let mut state = seed | 1;
            let plain: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ((state >> 16) % alphabet).to_le_bytes()[0]
                })
                .collect();
            let piece = if length > 1 << 20 { piece.max(1000) } else { piece };
            prop_assert_eq!(inflated(&deflated(level, &plain, piece)), plain);
        }
    }
}
