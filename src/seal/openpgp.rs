//! The only file that names the OpenPGP library.
//!
//! Written: one session key packet, then encrypted data of version 1 with its modification detection code (RFC 4880,
//! sections 5.3, 5.13, 5.14), AES-256, and inside it one literal packet, compressed or not. Nothing newer, because
//! the gpg 2.2 that stands on people's servers reads nothing newer. The key is derived with the library's default,
//! iterated and salted SHA-256 over 65,011,712 bytes, which is the most the format can say.

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sequoia_openpgp as openpgp;

use openpgp::crypto::{Password, S2K, SessionKey};
use openpgp::packet::{PKESK, SKESK, Tag};
use openpgp::parse::stream::{
    DecryptionHelper, Decryptor, DecryptorBuilder, MessageStructure, VerificationHelper,
};
use openpgp::parse::{PacketParser, Parse};
use openpgp::policy::StandardPolicy;
use openpgp::serialize::stream::{self, ArbitraryWriter, LiteralWriter, Message};
use openpgp::types::{CompressionAlgorithm, DataFormat, SymmetricAlgorithm};

use super::digest::Digester;
use super::framing::Framed;
use super::zlib::ZlibWriter;
use super::{Encrypted, Opened, OutputLimit, Packed, Packing, SealError, Sealed};
use crate::model::passphrase::Passphrase;
use crate::telemetry::contain;

/// How much plain text the library holds back while it looks for the end. Trust does not hang on it: nothing is
/// trusted before [`Opener::finish`]. So it is as small as reads are large.
const HELD_BACK_BYTES: usize = 256 * 1024;

static POLICY: StandardPolicy = StandardPolicy::new();

/// Seals what is written to it into a sink: a [`Packer`] on an [`Encryptor`], for what one thread does alone.
#[must_use = "an unfinished seal cannot be opened"]
pub struct Sealer<W: Write + Send + Sync + 'static>(Packer<Encryptor<W>>);

impl<W: Write + Send + Sync + 'static> Sealer<W> {
    /// Starts a message in `sink`, with a fresh random session key and salt.
    ///
    /// # Errors
    /// The sink fails, or the system has no randomness.
    pub fn new(sink: W, passphrase: &Passphrase, packing: Packing) -> Result<Self, SealError> {
        let encryptor = Encryptor::new(sink, passphrase)?;
        Packer::new(encryptor, packing).map(Self)
    }

    /// Seals the next bytes.
    ///
    /// # Errors
    /// The sink fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SealError> {
        self.0.write(bytes)
    }

    /// Ends the message: its authentication code is written and everything is flushed.
    ///
    /// # Errors
    /// The sink fails.
    pub fn finish(self) -> Result<(Sealed, W), SealError> {
        let (packed, encryptor) = self.0.finish()?;
        let (encrypted, sink) = encryptor.finish()?;
        Ok((Sealed::of(packed, encrypted), sink))
    }
}

/// Packs what is written to it: a literal packet, compressed or not, which an [`Encryptor`] takes. Compressing is half of the
/// computing of a backup, so that it has threads of its own, where there is more than a little.
#[must_use = "an unfinished packet cannot be read"]
pub struct Packer<W: Write + Send + Sync + 'static> {
    message: Message<'static>,
    plain: Digester,
    /// What stands between the literal packet and the sink, where it is compressed.
    compressed: Option<Compressed>,
    sink: Arc<Mutex<W>>,
}

/// The stream in a compressed packet.
type Compressed = Arc<Mutex<ZlibWriter<Message<'static>>>>;

impl<W: Write + Send + Sync + 'static> Packer<W> {
    /// Starts a packet in `sink`.
    ///
    /// # Errors
    /// The sink fails.
    pub fn new(sink: W, packing: Packing) -> Result<Self, SealError> {
        let sink = Arc::new(Mutex::new(sink));
        let message = Message::new(Shared(Arc::clone(&sink)));
        let (message, compressed) = match packing {
            Packing::Stored => (message, None),
            Packing::Zlib(level) => {
                let compressed = compressed_packet(message, level)?;
                (
                    Message::new(Shared(Arc::clone(&compressed))),
                    Some(compressed),
                )
            }
        };
        let message = LiteralWriter::new(message)
            .format(DataFormat::Binary)
            .build()
            .map_err(write_error)?;
        Ok(Self {
            message,
            plain: Digester::default(),
            compressed,
            sink,
        })
    }

    /// Packs the next bytes.
    ///
    /// # Errors
    /// The sink fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SealError> {
        self.plain.update(bytes);
        self.message.write_all(bytes).map_err(sink_error)
    }

    /// Ends the packet.
    ///
    /// # Errors
    /// The sink fails.
    pub fn finish(self) -> Result<(Packed, W), SealError> {
        self.message.finalize().map_err(write_error)?;
        if let Some(compressed) = self.compressed {
            let packet = taken_back(compressed).finish().map_err(sink_error)?;
            packet.finalize().map_err(write_error)?;
        }
        let (plain_bytes, plain_sha256) = self.plain.finish();
        let packed = Packed {
            plain_bytes,
            plain_sha256,
        };
        Ok((packed, taken_back(self.sink)))
    }
}

/// A Compressed Data packet (RFC 4880, section 5.6), whose content is compressed by several threads; the library's own
/// compressor has one.
fn compressed_packet(message: Message<'static>, level: u8) -> Result<Compressed, SealError> {
    let packet = ArbitraryWriter::new(message, Tag::CompressedData);
    let mut packet = packet.map_err(write_error)?;
    let algorithm = [u8::from(CompressionAlgorithm::Zlib)];
    packet.write_all(&algorithm).map_err(sink_error)?;
    let writer = ZlibWriter::new(packet, level).map_err(sink_error)?;
    Ok(Arc::new(Mutex::new(writer)))
}

/// Encrypts the packets that are written to it into a message in a sink.
#[must_use = "an unfinished message cannot be opened"]
pub struct Encryptor<W: Write + Send + Sync + 'static> {
    message: Message<'static>,
    sink: Arc<Mutex<Counted<W>>>,
}

/// A sink whose bytes are counted and hashed.
struct Counted<W> {
    writer: W,
    digester: Digester,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.digester.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}

impl<W: Write + Send + Sync + 'static> Encryptor<W> {
    /// Starts a message in `sink`, with a fresh random session key and salt.
    ///
    /// # Errors
    /// The sink fails, or the system has no randomness.
    pub fn new(sink: W, passphrase: &Passphrase) -> Result<Self, SealError> {
        let sink = Arc::new(Mutex::new(Counted {
            writer: sink,
            digester: Digester::default(),
        }));
        let password = Password::from(passphrase.expose());
        let message = Message::new(Shared(Arc::clone(&sink)));
        let message = stream::Encryptor::with_passwords(message, Some(password))
            .symmetric_algo(SymmetricAlgorithm::AES256)
            .build()
            .map_err(write_error)?;
        Ok(Self { message, sink })
    }

    /// Ends the message: its authentication code is written and everything is flushed.
    ///
    /// # Errors
    /// The sink fails.
    pub fn finish(self) -> Result<(Encrypted, W), SealError> {
        self.message.finalize().map_err(write_error)?;
        let mut sink = taken_back(self.sink);
        sink.flush().map_err(|source| SealError::Io {
            operation: "flush the sealed message",
            source,
        })?;
        let (sealed_bytes, sealed_sha256) = sink.digester.finish();
        let encrypted = Encrypted {
            sealed_bytes,
            sealed_sha256,
        };
        Ok((encrypted, sink.writer))
    }
}

impl<W: Write + Send + Sync + 'static> Write for Encryptor<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.message.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.message.flush()
    }
}

/// The library takes its sink and never gives it back, so both sides hold it.
struct Shared<W>(Arc<Mutex<W>>);

impl<W: Write> Write for Shared<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        lock(&self.0).flush()
    }
}

fn taken_back<W>(sink: Arc<Mutex<W>>) -> W {
    Arc::into_inner(sink)
        .expect("the message, the only other holder, was consumed")
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Opens a sealed message. What it hands out is unauthenticated until [`Opener::finish`] returned.
#[must_use = "an opening that was not finished proves nothing"]
pub struct Opener<R: Read + Send + 'static> {
    decryptor: Decryptor<'static, Inspector>,
    source: Arc<Mutex<Framed<R>>>,
    plain: Digester,
    bytes_max: u64,
    ended: bool,
}

struct SharedSource<R>(Arc<Mutex<Framed<R>>>);

impl<R: Read> Read for SharedSource<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        lock(&self.0).read(buffer)
    }
}

impl<R: Read + Seek + Send + 'static> Opener<R> {
    /// Starts to open `source` from its beginning, with the first of `passphrases` that fits.
    ///
    /// # Errors
    /// No passphrase fits, or the message is not of the one accepted structure.
    pub fn open(
        mut source: R,
        passphrases: &[Passphrase],
        limit: OutputLimit,
    ) -> Result<Self, SealError> {
        let mut error = SealError::WrongPassphraseOrChanged;
        for passphrase in passphrases {
            source
                .seek(SeekFrom::Start(0))
                .map_err(|source| SealError::Io {
                    operation: "rewind the sealed message",
                    source,
                })?;
            match Self::try_one(source, passphrase, limit) {
                Ok(opener) => return Ok(opener),
                // Another passphrase cannot mend a broken frame or a failing source.
                Err((tried, returned)) => match (tried, returned) {
                    (tried @ SealError::WrongPassphraseOrChanged, Some(returned)) => {
                        (error, source) = (tried, returned);
                    }
                    (tried, _) => return Err(tried),
                },
            }
        }
        Err(error)
    }

    fn try_one(
        source: R,
        passphrase: &Passphrase,
        limit: OutputLimit,
    ) -> Result<Self, (SealError, Option<R>)> {
        let framed = Arc::new(Mutex::new(Framed::new(source)));
        let shared = SharedSource(Arc::clone(&framed));
        let inspector = Inspector {
            password: Password::from(passphrase.expose()),
            seen: Vec::new(),
        };
        let built = contain(|| {
            DecryptorBuilder::from_reader(shared)?
                .mapping(false)
                .buffer_size(HELD_BACK_BYTES)
                .with_policy(&POLICY, None, inspector)
        });
        let error = match built {
            Ok(Ok(decryptor)) => {
                let bytes_max = limit.bytes_max();
                return Ok(Self {
                    decryptor,
                    source: framed,
                    plain: Digester::default(),
                    bytes_max,
                    ended: false,
                });
            }
            Ok(Err(error)) => refusal(&error),
            Err(_panic) => SealError::Panicked,
        };
        // The library's reader went down with it; where a panic kept it alive there is nothing to try again with.
        let mut framed = Arc::into_inner(framed)
            .map(|framed| framed.into_inner().unwrap_or_else(PoisonError::into_inner));
        let error = framed
            .as_mut()
            .and_then(Framed::take_error)
            .unwrap_or(error);
        Err((error, framed.map(Framed::into_inner)))
    }
}

impl<R: Read + Send + 'static> Opener<R> {
    /// Opens the next bytes into `buffer`; 0 at the end of the content.
    ///
    /// # Errors
    /// The message is cut, changed, followed by something, or holds more than the limit allows.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SealError> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let read = match contain(|| self.decryptor.read(buffer)) {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => return Err(self.fault(SealError::WrongPassphraseOrChanged)),
            Err(_panic) => return Err(self.fault(SealError::Panicked)),
        };
        self.ended = read == 0;
        self.plain.update(&buffer[..read]);
        if self.plain.bytes() > self.bytes_max {
            return Err(SealError::TooLarge(self.bytes_max));
        }
        Ok(read)
    }

    /// Reads what is left, and vouches for everything that was handed out.
    ///
    /// # Errors
    /// As [`Opener::read`]; and the message is not whole, not authentic, or not the end of the input.
    pub fn finish(mut self) -> Result<Opened, SealError> {
        let mut rest = vec![0; HELD_BACK_BYTES];
        while self.read(&mut rest)? > 0 {}
        let authentic =
            self.decryptor.message_processed() && self.decryptor.helper_ref().is_complete();
        lock(&self.source).drain()?;
        if !authentic {
            return Err(SealError::WrongPassphraseOrChanged);
        }
        let (plain_bytes, plain_sha256) = self.plain.finish();
        Ok(Opened {
            plain_bytes,
            plain_sha256,
        })
    }

    fn fault(&mut self, otherwise: SealError) -> SealError {
        self.ended = true;
        lock(&self.source).take_error().unwrap_or(otherwise)
    }
}

/// Gives the library the passphrase and refuses every packet that has no place in a sealed backup.
struct Inspector {
    password: Password,
    seen: Vec<Tag>,
}

/// A structure that is refused; the library carries it up as its error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unexpected(String);

impl Inspector {
    /// Whether the packets were those of a whole message: keys, container, content, authentication code.
    fn is_complete(&self) -> bool {
        self.seen.contains(&Tag::SEIP) && self.seen.last() == Some(&Tag::MDC)
    }
}

impl VerificationHelper for Inspector {
    fn inspect(&mut self, packet: &PacketParser<'_>) -> openpgp::Result<()> {
        let tag = packet.packet.tag();
        let fits = matches!(
            (self.seen.last().copied(), tag),
            (None | Some(Tag::SKESK), Tag::SKESK)
                | (Some(Tag::SKESK), Tag::SEIP)
                | (Some(Tag::SEIP), Tag::CompressedData | Tag::Literal)
                | (Some(Tag::CompressedData), Tag::Literal)
                | (Some(Tag::Literal), Tag::MDC)
        );
        self.seen.push(tag);
        let new_container = tag == Tag::SEIP && packet.packet.version() != Some(1);
        if new_container {
            let what = "encrypted data of another version than 1, which gpg 2.2 does not read";
            return Err(Unexpected(what.to_owned()).into());
        }
        if fits {
            return Ok(());
        }
        Err(Unexpected(format!("a {tag} packet where none belongs")).into())
    }

    fn get_certs(&mut self, _ids: &[openpgp::KeyHandle]) -> openpgp::Result<Vec<openpgp::Cert>> {
        Ok(Vec::new())
    }

    fn check(&mut self, _structure: MessageStructure<'_>) -> openpgp::Result<()> {
        // Signatures never get this far: inspect() refuses their packets.
        Ok(())
    }
}

impl DecryptionHelper for Inspector {
    fn decrypt(
        &mut self,
        _pkesks: &[PKESK],
        skesks: &[SKESK],
        _algorithm: Option<SymmetricAlgorithm>,
        decrypt: &mut dyn FnMut(Option<SymmetricAlgorithm>, &SessionKey) -> bool,
    ) -> openpgp::Result<Option<openpgp::Cert>> {
        let mut refused = None;
        for skesk in skesks {
            let derivation = match skesk {
                SKESK::V4(version_4) => {
                    refused_derivation(version_4.s2k()).map_or(Ok(version_4), Err)
                }
                _ => Err("a session key packet that is not of version 4"),
            };
            let version_4 = match derivation {
                Ok(version_4) => version_4,
                Err(what) => {
                    refused = Some(what);
                    continue;
                }
            };
            if let Ok((algorithm, key)) = version_4.decrypt(&self.password) {
                if decrypt(Some(algorithm), &key) {
                    return Ok(None);
                }
            }
        }
        if let (Some(what), true) = (refused, skesks.len() == 1) {
            return Err(Unexpected(what.to_owned()).into());
        }
        Err(openpgp::Error::InvalidPassword.into())
    }
}

/// What a passphrase may cost is ours to say: of the accepted kinds, the dearest hashes 65,011,712 bytes (RFC 4880, section
/// 3.7.1.3), which is what we write ourselves.
fn refused_derivation(s2k: &S2K) -> Option<&'static str> {
    #[expect(deprecated, reason = "salted is what gpg --s2k-mode 1 writes")]
    match s2k {
        S2K::Iterated { .. } | S2K::Salted { .. } => None,
        S2K::Argon2 { .. } => Some(
            "its key is derived with Argon2, which lets a message choose how much memory that takes",
        ),
        _ => Some("its key is derived without a salt, or in a way that is not known"),
    }
}

fn refusal(error: &openpgp::anyhow::Error) -> SealError {
    error
        .downcast_ref::<Unexpected>()
        .map_or(SealError::WrongPassphraseOrChanged, |unexpected| {
            SealError::Structure(unexpected.to_string())
        })
}

fn sink_error(source: std::io::Error) -> SealError {
    SealError::Io {
        operation: "write the sealed message",
        source,
    }
}

fn write_error(error: openpgp::anyhow::Error) -> SealError {
    match error.downcast::<std::io::Error>() {
        Ok(source) => sink_error(source),
        Err(error) => SealError::Write(error.into()),
    }
}

/// A panic inside the library poisons nothing of ours: counters and digests stay what they were.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
