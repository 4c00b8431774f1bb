//! Seals stdin to stdout as backups are sealed: `seal LEVEL < dump > dump.gpg`; level 0 does not compress.
//!
//! The passphrase comes from `BACKUP_GPG_PASSPHRASE`. One thread hashes, some compress, another encrypts, as in a backup.
//! The benchmark measures it beside gpg; it also shows how the library is used.

#![allow(
    clippy::disallowed_methods,
    reason = "an example has settings of its own"
)]

use std::io::{BufWriter, Read, Write as _, stdin, stdout};

use pgseal::model::passphrase::Passphrase;
use pgseal::seal::{Encryptor, Packer, Packing, SealError};

const CHUNK_BYTES: usize = 256 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let level = std::env::args().nth(1).unwrap_or_default().parse()?;
    let passphrase = Passphrase::new(std::env::var("BACKUP_GPG_PASSPHRASE")?.into())?;
    let packing = if level == 0 {
        Packing::Stored
    } else {
        Packing::Zlib(level)
    };
    let (mut packed, sink) = std::io::pipe()?;
    let packer = std::thread::spawn(move || -> Result<(), SealError> {
        let mut packer = Packer::new(BufWriter::with_capacity(CHUNK_BYTES, sink), packing)?;
        for_each_chunk(stdin().lock(), |chunk| packer.write(chunk))?;
        packer.finish().map(drop)
    });
    let sink = BufWriter::with_capacity(CHUNK_BYTES, stdout());
    let mut encryptor = Encryptor::new(sink, &passphrase)?;
    for_each_chunk(&mut packed, |chunk| {
        encryptor.write_all(chunk).map_err(reading)
    })?;
    // Only an end that was meant is one.
    packer.join().map_err(|_| "the packer panicked")??;
    encryptor.finish()?.1.flush()?;
    Ok(())
}

fn for_each_chunk(
    mut input: impl Read,
    mut take: impl FnMut(&[u8]) -> Result<(), SealError>,
) -> Result<(), SealError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match input.read(&mut buffer).map_err(reading)? {
            0 => return Ok(()),
            read => take(&buffer[..read])?,
        }
    }
}

fn reading(source: std::io::Error) -> SealError {
    SealError::Io {
        operation: "move the bytes",
        source,
    }
}
