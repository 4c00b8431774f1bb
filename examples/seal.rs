//! Seals stdin to stdout as backups are sealed: `seal LEVEL < dump > dump.gpg`; level 0 does not compress.
//!
//! The passphrase comes from `BACKUP_GPG_PASSPHRASE`. The benchmark measures it beside gpg; it also shows the library's use.

#![allow(
    clippy::disallowed_methods,
    reason = "an example has settings of its own"
)]

use std::io::{Read as _, stdin, stdout};

use pgseal::model::passphrase::Passphrase;
use pgseal::seal::{Packing, Sealer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let level = std::env::args().nth(1).unwrap_or_default().parse()?;
    let passphrase = Passphrase::new(std::env::var("BACKUP_GPG_PASSPHRASE")?.into())?;
    let packing = if level == 0 {
        Packing::Stored
    } else {
        Packing::Zlib(level)
    };
    let mut sealer = Sealer::new(stdout(), &passphrase, packing)?;
    let (mut input, mut buffer) = (stdin().lock(), vec![0; 256 * 1024]);
    loop {
        match input.read(&mut buffer)? {
            0 => break,
            read => sealer.write(&buffer[..read])?,
        }
    }
    sealer.finish()?;
    Ok(())
}
