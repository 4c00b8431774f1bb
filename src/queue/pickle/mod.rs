//! Python's pickles as data: a machine that can make plain values, and nothing else.
//!
//! A pickle is a program (CPython, `Lib/pickletools.py`). What makes it dangerous are the instructions that name, call
//! and build objects; they are not here, so that nothing can be executed. What makes it expensive are references: three
//! hundred bytes can stand for a million million values. So values are made in an arena, in which a reference is a
//! number, and are copied out at the end, within [`Limit`]s. Only that last step goes down by calls, one a level.

mod machine;
mod opcode;

use machine::Machine;
use opcode::{
    APPENDS, BINBYTES, BINFLOAT, BININT, BININT1, BININT2, BINUNICODE, EMPTY_DICT, EMPTY_LIST,
    EMPTY_TUPLE, FROZENSET, LONG1, MARK, NEWFALSE, NEWTRUE, NONE, PROTO, SETITEMS, SHORT_BINBYTES,
    SHORT_BINUNICODE, STOP, TUPLE,
};

use super::value::{BYTES_MAX, Limit, Value};

/// The first byte of every pickle since protocol 2 (Python 2.3): the instruction PROTO.
pub const FIRST_BYTE: u8 = PROTO;

/// The newest protocol there is (Python 3.8).
const PROTOCOL_MAX: u8 = 5;
/// What we write: every Python since 3.4 reads it. Its FRAME and MEMOIZE are for speed and for sharing; we have neither.
const PROTOCOL_WRITTEN: u8 = 4;

/// Why bytes are no pickle that is read here. The bytes themselves are never repeated.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PickleError {
    /// An instruction that could make more than plain data.
    #[error(
        "the pickle has the instruction {0}, which is not followed\nhint: pass ids, numbers, texts, lists and dicts, no objects"
    )]
    Refused(&'static str),
    /// No instruction of any Python.
    #[error("the pickle has an instruction that Python does not have")]
    Unknown,
    /// A later protocol.
    #[error("the pickle has protocol {0}, this program reads up to {PROTOCOL_MAX}")]
    Protocol(u8),
    /// It ends before its STOP.
    #[error("the pickle is cut off")]
    Truncated,
    /// Something follows its STOP.
    #[error("the pickle has more behind its end")]
    Trailing,
    /// An instruction takes what was never put there.
    #[error("the pickle takes more from its stack than it put there, or leaves some")]
    Stack,
    /// A reference to nothing.
    #[error("the pickle refers to a value that it did not remember")]
    Memo,
    /// Items for what holds none.
    #[error("the pickle adds items to a value that takes none of that kind")]
    Shape,
    /// A key, or an item of a set, that can change.
    #[error("the pickle has a list or a dict as a key")]
    Unhashable,
    /// A number beyond 64 bits.
    #[error("the pickle has an integer beyond 64 bits")]
    Integer,
    /// A text that is no UTF-8; Python's lone surrogates are none.
    #[error("the pickle has a text that is not UTF-8")]
    Text,
    /// A container that is inside itself.
    #[error("the pickle has a value that contains itself")]
    Recursive,
    /// Too much of it.
    #[error(transparent)]
    Limit(#[from] Limit),
}

/// Reads a pickle as data. Nothing in it is executed.
///
/// # Errors
/// The bytes are no pickle, or one of more than plain data, or beyond the limits.
pub fn decode(bytes: &[u8]) -> Result<Value, PickleError> {
    if bytes.len() > BYTES_MAX {
        return Err(Limit::Bytes.into());
    }
    Machine::new(bytes).run()
}

/// Writes a value as a pickle that every Python since 3.4 reads. Keys and items of sets must be hashable in Python, as
/// those are that were read; a value must not be deeper than was read.
#[must_use]
pub fn encode(value: &Value) -> Vec<u8> {
    let mut written = vec![PROTO, PROTOCOL_WRITTEN];
    write(value, &mut written);
    written.push(STOP);
    written
}

fn write(value: &Value, written: &mut Vec<u8>) {
    match value {
        Value::None => written.push(NONE),
        Value::Bool(true) => written.push(NEWTRUE),
        Value::Bool(false) => written.push(NEWFALSE),
        Value::Int(number) => write_integer(*number, written),
        Value::Float(number) => {
            written.push(BINFLOAT);
            written.extend(number.to_be_bytes());
        }
        Value::Text(text) => {
            write_counted([SHORT_BINUNICODE, BINUNICODE], text.as_bytes(), written);
        }
        Value::Bytes(bytes) => write_counted([SHORT_BINBYTES, BINBYTES], bytes, written),
        // "No arguments" must not become None: `f(*None)` fails in Python.
        Value::Tuple(items) if items.is_empty() => written.push(EMPTY_TUPLE),
        Value::Tuple(items) => write_marked(items, TUPLE, written),
        Value::Set(items) => write_marked(items, FROZENSET, written),
        Value::List(items) => {
            written.push(EMPTY_LIST);
            if !items.is_empty() {
                write_marked(items, APPENDS, written);
            }
        }
        Value::Dict(pairs) => {
            written.push(EMPTY_DICT);
            if !pairs.is_empty() {
                let flat = pairs.iter().flat_map(|(key, value)| [key, value]);
                write_marked(flat, SETITEMS, written);
            }
        }
    }
}

fn write_marked<'a>(items: impl IntoIterator<Item = &'a Value>, opcode: u8, written: &mut Vec<u8>) {
    written.push(MARK);
    items.into_iter().for_each(|item| write(item, written));
    written.push(opcode);
}

fn write_integer(number: i64, written: &mut Vec<u8>) {
    if let Ok(byte) = u8::try_from(number) {
        written.extend([BININT1, byte]);
    } else if let Ok(short) = u16::try_from(number) {
        written.push(BININT2);
        written.extend(short.to_le_bytes());
    } else if let Ok(int) = i32::try_from(number) {
        written.push(BININT);
        written.extend(int.to_le_bytes());
    } else {
        written.extend([LONG1, 8]);
        written.extend(number.to_le_bytes());
    }
}

/// The bytes behind their count, which is a byte, or four where that is too little.
fn write_counted([short, long]: [u8; 2], bytes: &[u8], written: &mut Vec<u8>) {
    if let Ok(length) = u8::try_from(bytes.len()) {
        written.extend([short, length]);
    } else {
        let length = u32::try_from(bytes.len()).expect("a payload has at most BYTES_MAX");
        written.push(long);
        written.extend(length.to_le_bytes());
    }
    written.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::opcode::{BINGET, LONG_BINPUT, MEMOIZE, POP, REFUSED, TUPLE2};
    use super::*;
    use crate::queue::value::{DEPTH_MAX, NODES_MAX};

    fn wrapped(body: &[u8]) -> Result<Value, PickleError> {
        decode(&[&[PROTO, 4], body, &[STOP]].concat())
    }

    #[test]
    fn integers_have_up_to_64_bits() {
        for (body, expected) in [
            (&b"K\xff"[..], 255),
            (b"M\x00\x01", 256),
            (b"J\xff\xff\xff\xff", -1),
            (b"\x8a\x00", 0),
            (b"\x8a\x01\x80", -128),
            (b"\x8a\x05\x00\x00\x00\x80\x00", 1 << 31),
            (b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80", i64::MIN),
        ] {
            assert_eq!(wrapped(body), Ok(Value::Int(expected)), "{body:?}");
        }
        let beyond = [&[LONG1, 9][..], &[0; 7], &[0x80, 0]].concat();
        assert_eq!(wrapped(&beyond), Err(PickleError::Integer));
    }

    #[test]
    fn an_instruction_that_makes_objects_is_named() {
        for (opcode, name) in REFUSED {
            assert_eq!(wrapped(&[*opcode]), Err(PickleError::Refused(name)));
        }
        assert_eq!(wrapped(b"\xff"), Err(PickleError::Unknown));
        assert_eq!(decode(b"\x80\x06N."), Err(PickleError::Protocol(6)));
    }

    #[test]
    fn every_instruction_is_followed_or_refused() {
        // Python has 68 (pickletools.opcodes), and nothing is in both lists.
        let mut followed = 0;
        for opcode in 0..=u8::MAX {
            match wrapped(&[opcode]) {
                Err(PickleError::Refused(_) | PickleError::Unknown) => {}
                _ => followed += 1,
            }
        }
        assert_eq!(followed + REFUSED.len(), 68);
    }

    #[test]
    fn what_was_shared_is_there_twice() {
        let list = Value::List(vec![Value::Int(1)]);
        // The list is remembered empty, and filled afterwards.
        let shared = wrapped(b"]\x94K\x01ah\x00\x86").unwrap();
        assert_eq!(shared, Value::Tuple(vec![list.clone(), list]));
        let old = wrapped(b"(Np0\ng0\nr\x07\x00\x00\x00j\x07\x00\x00\x00t").unwrap();
        assert_eq!(old, Value::Tuple(vec![Value::None; 3]));
    }

    #[test]
    fn the_stack_has_floors_and_must_end_empty() {
        for body in [
            &b""[..],
            b"NN",
            b"(N",
            b"t",
            b"1",
            b"0",
            b"N(\x85",
            b"](a",
            b"}(Nu",
            b"N(0(t",
            // What lies below a mark, taken before the mark is gone.
            b"N(\x850",
            b"NN(\x86t",
            b"](Na0",
            b"}(NNs0",
        ] {
            assert_eq!(wrapped(body), Err(PickleError::Stack), "{body:?}");
        }
        // POP takes a mark that lies on top, POP_MARK what lies on it.
        assert_eq!(wrapped(b"N(0"), Ok(Value::None));
        assert_eq!(wrapped(b"N(NN1"), Ok(Value::None));
        assert_eq!(wrapped(b"NN0"), Ok(Value::None));
    }

    #[test]
    fn misuse_is_refused() {
        for (body, error) in [
            (&b"NNa"[..], PickleError::Shape),
            (b"](NNu", PickleError::Shape),
            (b"](N\x90", PickleError::Shape),
            (b"}]Ns", PickleError::Unhashable),
            (b"}]\x85Ns", PickleError::Unhashable),
            (b"(}\x91", PickleError::Unhashable),
            (b"h\x00", PickleError::Memo),
            (b"Npx\n", PickleError::Memo),
            (b"Np99999999999\n", PickleError::Memo),
            (b"\x8c\x01\xff", PickleError::Text),
            (b"\x8c\x03\xed\xa0\x80", PickleError::Text),
            (b"X\xff\xff\xff\xff", PickleError::Truncated),
            (b"N.N", PickleError::Trailing),
        ] {
            assert_eq!(wrapped(body), Err(error), "{body:?}");
        }
    }

    #[test]
    fn what_contains_itself_is_refused() {
        for body in [&b"]\x94h\x00a"[..], b"]\x94h\x00\x85a", b"}\x94Nh\x00s"] {
            assert_eq!(wrapped(body), Err(PickleError::Recursive), "{body:?}");
        }
    }

    #[test]
    fn bombs_end_at_a_limit() {
        let doubled: Vec<u8> = (0..60_u8)
            .flat_map(|level| [BINGET, level, BINGET, level, TUPLE2, MEMOIZE, POP])
            .collect();
        let doubled = [&b"]\x940"[..], &doubled, &[BINGET, 60]].concat();
        assert_eq!(wrapped(&doubled), Err(Limit::Nodes.into()));

        let text = [&b"(X\x00\x00\x10\x00"[..], &b"a".repeat(1 << 20), b"\x94"].concat();
        let texts = [&text[..], &b"h\x00".repeat(3), b"t"].concat();
        assert_eq!(wrapped(&texts), Err(Limit::Bytes.into()));

        let nested = |levels: usize| [b"]".repeat(levels), b"a".repeat(levels - 1)].concat();
        assert_eq!(wrapped(&nested(DEPTH_MAX + 1)), Err(Limit::Depth.into()));
        assert!(wrapped(&nested(DEPTH_MAX)).is_ok());
        for endless in [&b"("[..], b"]", b"N", b")", b"N\x850]", b"Nh\x00"] {
            let many = [&b"N\x94"[..], &endless.repeat(200_000)].concat();
            assert_eq!(decode(&many), Err(Limit::Nodes.into()), "{endless:?}");
        }
        let puts: Vec<u8> = (0..=u32::try_from(NODES_MAX).unwrap())
            .flat_map(|number| [&[LONG_BINPUT][..], &number.to_le_bytes()].concat())
            .collect();
        assert_eq!(
            wrapped(&[b"N", &puts[..]].concat()),
            Err(Limit::Nodes.into())
        );
        assert_eq!(decode(&vec![NONE; BYTES_MAX + 1]), Err(Limit::Bytes.into()));
    }

    #[test]
    fn every_cut_is_noticed() {
        let whole = b"\x80\x05\x95\x00\x00\x00\x00\x00\x00\x00\x00(\x8c\x01aNG\0\0\0\0\0\0\0\0t.";
        assert!(decode(whole).is_ok());
        for cut in 0..whole.len() {
            assert_eq!(decode(&whole[..cut]), Err(PickleError::Truncated), "{cut}");
        }
    }
}
