//! The outer shape of a sealed message, checked byte by byte as it passes.
//!
//! The OpenPGP library reads as far as it needs: it accepts data behind a long message, accepts messages that are not
//! encrypted at all, and panics on some cut ones. So the packets' own lengths (RFC 4880, section 4.2) are followed
//! here as well: one to eight Symmetric-Key Encrypted Session Key packets, one Symmetrically Encrypted Integrity
//! Protected Data packet, then the end of the input. Whatever else comes is named and refused.

use std::io::{self, Read};

use super::SealError;

/// Symmetric-Key Encrypted Session Key packet (RFC 4880, section 5.3).
const TAG_SKESK: u8 = 3;
/// Sym. Encrypted Integrity Protected Data packet (RFC 4880, section 5.13).
const TAG_SEIPD: u8 = 18;
/// Each session key packet costs a key derivation a passphrase, so a message may not bring ten thousand of them.
const SKESKS_MAX: u8 = 8;
/// Version, cipher, S2K specifier and an encrypted session key of 33 bytes fit many times over.
const SKESK_BYTES_MAX: u64 = 255;

/// What a message's outer shape broke; the first fault stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Structure(String),
    Truncated(u64),
    TrailingData(u64),
}

impl From<Fault> for SealError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Structure(what) => Self::Structure(what),
            Fault::Truncated(at) => Self::Truncated(at),
            Fault::TrailingData(at) => Self::TrailingData(at),
        }
    }
}

/// Passes a source's bytes on and follows the packets in them.
pub(super) struct Framed<R> {
    source: R,
    packets: Packets,
    fault: Option<Fault>,
    failure: Option<io::Error>,
}

impl<R: Read> Framed<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            packets: Packets::default(),
            fault: None,
            failure: None,
        }
    }

    /// The source again, for another try.
    pub(super) fn into_inner(self) -> R {
        self.source
    }

    /// What went wrong below the library, which knows less about it.
    pub(super) fn take_error(&mut self) -> Option<SealError> {
        let failure = self.failure.take().map(|source| SealError::Io {
            operation: "read the sealed message",
            source,
        });
        failure.or_else(|| self.fault.clone().map(SealError::from))
    }

    /// Reads what the library left, and requires the end of the message and of the input.
    pub(super) fn drain(&mut self) -> Result<(), SealError> {
        let mut rest = [0; 4096];
        loop {
            match self.read(&mut rest) {
                Ok(0) => return self.take_error().map_or(Ok(()), Err),
                Ok(_) => {}
                Err(source) => {
                    let fallback = SealError::Io {
                        operation: "read the sealed message",
                        source,
                    };
                    return Err(self.take_error().unwrap_or(fallback));
                }
            }
        }
    }
}

impl<R: Read> Read for Framed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.fault.is_some() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = self.source.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failure = Some(error);
            }
            io::Error::from(kind)
        })?;
        let checked = if read == 0 {
            self.packets.end()
        } else {
            self.packets.follow(&buffer[..read])
        };
        checked.map_err(|fault| {
            self.fault = Some(fault);
            io::Error::from(io::ErrorKind::InvalidData)
        })?;
        Ok(read)
    }
}

/// Where in the packets the stream is.
#[derive(Default)]
struct Packets {
    position: u64,
    state: State,
    skesks: u8,
}

#[derive(Default)]
enum State {
    /// At a packet's first byte.
    #[default]
    Tag,
    /// Inside a length; `header` holds its bytes so far.
    Length {
        tag: u8,
        form: LengthForm,
        header: Vec<u8>,
    },
    /// Inside a body: so many bytes, then another length (partial) or the packet's end.
    Body { tag: u8, left: u64, partial: bool },
    /// Behind the one SEIPD packet.
    Complete,
}

#[derive(Clone, Copy)]
enum LengthForm {
    /// RFC 4880, section 4.2.1: this many bytes, big-endian.
    Old(usize),
    /// RFC 4880, section 4.2.2: the first byte says how many.
    New,
}

impl Packets {
    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while let Some((&first, rest)) = bytes.split_first() {
            if let State::Body { left, .. } = &mut self.state {
                let take = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                *left -= take as u64;
                self.position += take as u64;
                bytes = &bytes[take..];
                self.leave_body();
                continue;
            }
            self.header_byte(first)?;
            self.position += 1;
            bytes = rest;
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Fault> {
        match self.state {
            State::Complete => Ok(()),
            _ => Err(Fault::Truncated(self.position)),
        }
    }

    /// An empty body is left at once, so this is asked after every step that may have emptied it.
    fn leave_body(&mut self) {
        if let State::Body {
            tag,
            left: 0,
            partial,
        } = self.state
        {
            self.state = match (partial, tag) {
                (true, _) => State::Length {
                    tag,
                    form: LengthForm::New,
                    header: Vec::new(),
                },
                (false, TAG_SEIPD) => State::Complete,
                (false, _) => State::Tag,
            };
        }
    }

    fn header_byte(&mut self, byte: u8) -> Result<(), Fault> {
        match &mut self.state {
            State::Complete => Err(Fault::TrailingData(self.position)),
            State::Tag => {
                self.state = self.start_packet(byte)?;
                Ok(())
            }
            State::Length { tag, form, header } => {
                header.push(byte);
                if let Some((length, partial)) = length_of(*form, header) {
                    let tag = *tag;
                    if tag == TAG_SKESK && (partial || length > SKESK_BYTES_MAX) {
                        return Err(Fault::Structure("a session key packet of that size".into()));
                    }
                    self.state = State::Body {
                        tag,
                        left: length,
                        partial,
                    };
                    self.leave_body();
                }
                Ok(())
            }
            State::Body { .. } => unreachable!("follow() consumes bodies"),
        }
    }

    fn start_packet(&mut self, byte: u8) -> Result<State, Fault> {
        let refuse = |what: &str| Err(Fault::Structure(what.to_owned()));
        if self.position == 0 && byte & 0x80 == 0 {
            return refuse(match byte {
                b'-' => "it is ASCII-armored; run gpg --dearmor on it first",
                b'P' => "it is not encrypted (a plain pg_dump archive begins like this)",
                _ => "it does not begin as an OpenPGP packet",
            });
        }
        let (tag, form) = match byte >> 6 {
            0b11 => (byte & 0x3f, LengthForm::New),
            0b10 if byte & 3 < 3 => ((byte >> 2) & 0xf, LengthForm::Old(1 << (byte & 3))),
            0b10 => return refuse("a packet of indeterminate length"),
            _ => return refuse("bytes between packets that are no packet"),
        };
        match tag {
            TAG_SKESK if self.skesks == SKESKS_MAX => {
                return refuse("more than 8 session key packets");
            }
            TAG_SKESK => self.skesks += 1,
            TAG_SEIPD if self.skesks > 0 => {}
            TAG_SEIPD => {
                return refuse("no session key packet for a passphrase before the encrypted data");
            }
            1 => return refuse("it is encrypted to a public key, not with a passphrase"),
            9 => return refuse("encrypted data without integrity protection"),
            20 => {
                return refuse(
                    "GnuPG's own AEAD packet, which the OpenPGP standard does not have; make it with gpg --rfc4880",
                );
            }
            8 | 11 => return refuse("it is not encrypted"),
            2 | 4 => return refuse("it is signed, not encrypted"),
            tag => {
                return Err(Fault::Structure(format!(
                    "an unexpected packet of type {tag}"
                )));
            }
        }
        Ok(State::Length {
            tag,
            form,
            header: Vec::new(),
        })
    }
}

/// The length in `header`, once it is whole, and whether another one follows its bytes.
fn length_of(form: LengthForm, header: &[u8]) -> Option<(u64, bool)> {
    let big_endian = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    match form {
        LengthForm::Old(wanted) => (header.len() == wanted).then(|| (big_endian(header), false)),
        LengthForm::New => match (header[0], header.len()) {
            (first @ 0..=191, 1) => Some((u64::from(first), false)),
            (first @ 192..=223, 2) => Some((
                (u64::from(first - 192) << 8) + u64::from(header[1]) + 192,
                false,
            )),
            (first @ 224..=254, 1) => Some((1 << (first & 0x1f), true)),
            (255, 5) => Some((big_endian(&header[1..]), false)),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &[u8], chunk: usize) -> Result<(), Fault> {
        let mut packets = Packets::default();
        message
            .chunks(chunk)
            .try_for_each(|bytes| packets.follow(bytes))?;
        packets.end()
    }

    /// A session key packet of 3 bytes, then encrypted data in a partial piece of 2 and a last one of 1.
    const MESSAGE: &[u8] = &[0x8c, 3, 4, 9, 3, 0xd2, 0xe1, 1, 2, 1, 7];

    #[test]
    fn follows_packets_over_any_chunks() {
        for chunk in 1..=MESSAGE.len() {
            assert_eq!(check(MESSAGE, chunk), Ok(()));
        }
    }

    #[test]
    fn every_cut_and_every_addition_is_named() {
        for cut in 0..MESSAGE.len() {
            assert_eq!(
                check(&MESSAGE[..cut], 3),
                Err(Fault::Truncated(cut as u64)),
                "cut at {cut}"
            );
        }
        let longer = [MESSAGE, &[0]].concat();
        assert_eq!(
            check(&longer, 4),
            Err(Fault::TrailingData(MESSAGE.len() as u64))
        );
        assert!(check(&[MESSAGE, MESSAGE].concat(), 4).is_err());
    }

    #[test]
    fn lengths_are_read_as_the_standard_has_them() {
        // The examples of RFC 4880, section 4.2.3.
        assert_eq!(length_of(LengthForm::New, &[0x64]), Some((100, false)));
        assert_eq!(length_of(LengthForm::New, &[0xc5]), None);
        assert_eq!(
            length_of(LengthForm::New, &[0xc5, 0xfb]),
            Some((1723, false))
        );
        assert_eq!(
            length_of(LengthForm::New, &[0xff, 0, 1, 0x86, 0xa0]),
            Some((100_000, false))
        );
        assert_eq!(length_of(LengthForm::New, &[0xef]), Some((32_768, true)));
        assert_eq!(length_of(LengthForm::Old(2), &[1]), None);
        assert_eq!(length_of(LengthForm::Old(2), &[1, 0]), Some((256, false)));
    }

    #[test]
    fn other_messages_are_refused_with_a_reason() {
        let cases: [(&[u8], &str); 7] = [
            (b"-----BEGIN PGP MESSAGE-----", "dearmor"),
            (b"PGDMP", "not encrypted"),
            (&[0xcb, 2, b'b', 0], "not encrypted"),
            (&[0x85, 0, 0], "public key"),
            (&[0xd2, 1, 1], "no session key"),
            (&[0x8c, 1, 4, 0xc9, 1], "without integrity"),
            (&[0x8c, 1, 4].repeat(9), "more than 8"),
        ];
        for (message, reason) in cases {
            let Err(Fault::Structure(said)) = check(message, 64) else {
                panic!("{reason}: was taken")
            };
            assert!(said.contains(reason), "{said}");
        }
    }
}
