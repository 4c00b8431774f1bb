//! What a job calls and what it answers, between bytes in Redis and [`Value`]s.
//!
//! Nothing in Redis names the serializer: the first byte tells it, and an answer must be in the one of the call.

use std::collections::BTreeSet;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::write::ZlibEncoder;
use flate2::{Compression, Decompress, FlushDecompress, Status};

use super::json::{self, JsonError};
use super::pickle::{self, PickleError};
use super::value::{BYTES_MAX, Limit, Value};

/// zlib's own default, which Python uses too.
const COMPRESSION_LEVEL: u32 = 6;
/// Inflated at a time: a payload of ours needs one such piece.
const PIECE_BYTES: usize = 4096;

/// How values became bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serializer {
    /// rq's default.
    Pickle,
    /// rq's JSONSerializer.
    Json,
}

/// One call of a function, as a producer asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The function's whole name, with dots.
    pub function: String,
    /// What was passed by position.
    pub args: Vec<Value>,
    /// What was passed by name; each name once.
    pub kwargs: Vec<(String, Value)>,
    /// What the answer must be written with.
    pub serializer: Serializer,
}

/// Why bytes are no payload. The bytes themselves are never repeated: arguments may be secrets.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PayloadError {
    /// Neither zlib nor a serializer's bytes, or damaged.
    #[error("the payload is neither a whole zlib stream nor uncompressed")]
    Zlib,
    /// Another serializer.
    #[error(
        "the payload is neither a pickle nor a JSON list\nhint: enqueue with rq's own serializer, or with its JSONSerializer"
    )]
    Serializer,
    /// No base64.
    #[error("the value is not base64")]
    Base64,
    /// A text that is no UTF-8.
    #[error("the text is not UTF-8")]
    Text,
    /// A value, but no call.
    #[error("the payload is no call: {0}")]
    Shape(&'static str),
    /// The pickle's fault.
    #[error("read the payload's pickle")]
    Pickle(#[from] PickleError),
    /// The JSON's fault.
    #[error("read or write the payload's JSON")]
    Json(#[from] JsonError),
    /// Too much of it.
    #[error(transparent)]
    Limit(#[from] Limit),
}

impl Serializer {
    /// Which one wrote these bytes, if one of both did.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        match bytes.first() {
            Some(&pickle::FIRST_BYTE) => Self::Pickle,
            _ => Self::Json,
        }
    }

    /// Reads a value; `meta` is one, uncompressed.
    ///
    /// # Errors
    /// The bytes are no value, or one that is not read.
    pub fn decode(self, bytes: &[u8]) -> Result<Value, PayloadError> {
        Ok(match self {
            Self::Pickle => pickle::decode(bytes)?,
            Self::Json => json::decode(bytes)?,
        })
    }

    /// Writes a value.
    ///
    /// # Errors
    /// JSON has no form for it.
    pub fn encode(self, value: &Value) -> Result<Vec<u8>, PayloadError> {
        Ok(match self {
            Self::Pickle => pickle::encode(value),
            Self::Json => json::encode(value)?,
        })
    }

    /// The field `return_value`; `None` where it stays away, because the function returned `None`.
    ///
    /// # Errors
    /// JSON has no form for it.
    pub fn encode_return_value(self, value: &Value) -> Result<Option<String>, PayloadError> {
        if *value == Value::None {
            return Ok(None);
        }
        self.encode(value).map(|bytes| Some(BASE64.encode(bytes)))
    }
}

impl Call {
    /// Reads the field `data`.
    ///
    /// # Errors
    /// The bytes are no call of a plain function, or one that is not read.
    pub fn decode(data: &[u8]) -> Result<Self, PayloadError> {
        let inflated;
        // Neither first byte can start a zlib stream: the lower half of that one is 8 (RFC 1950, section 2.2).
        let bytes = if matches!(data.first(), Some(&pickle::FIRST_BYTE | b'[')) {
            data
        } else {
            inflated = inflate(data)?;
            &inflated
        };
        if !matches!(bytes.first(), Some(&pickle::FIRST_BYTE | b'[')) {
            return Err(PayloadError::Serializer);
        }
        let serializer = Serializer::of(bytes);
        let (Value::Tuple(items) | Value::List(items)) = serializer.decode(bytes)? else {
            return Err(PayloadError::Shape("it is no sequence"));
        };
        let [function, instance, args, kwargs] = <[Value; 4]>::try_from(items)
            .map_err(|_| PayloadError::Shape("it has not four parts"))?;
        let (Value::Text(function), Value::None) = (function, instance) else {
            return Err(PayloadError::Shape("it calls no plain function"));
        };
        let (Value::Tuple(args) | Value::List(args)) = args else {
            return Err(PayloadError::Shape("its arguments are no sequence"));
        };
        Ok(Self {
            function,
            args,
            kwargs: keywords(kwargs)?,
            serializer,
        })
    }

    /// Writes the field `data`.
    ///
    /// # Errors
    /// The call is to be JSON, which has no form for an argument.
    pub fn encode(&self) -> Result<Vec<u8>, PayloadError> {
        let kwargs = self.kwargs.iter();
        let kwargs = kwargs.map(|(name, value)| (Value::Text(name.clone()), value.clone()));
        let call = Value::Tuple(vec![
            Value::Text(self.function.clone()),
            Value::None,
            Value::Tuple(self.args.clone()),
            Value::Dict(kwargs.collect()),
        ]);
        Ok(deflate(&self.serializer.encode(&call)?))
    }
}

/// Each name once: which of two counts is not for a reader to choose.
fn keywords(kwargs: Value) -> Result<Vec<(String, Value)>, PayloadError> {
    let Value::Dict(pairs) = kwargs else {
        return Err(PayloadError::Shape("its keyword arguments are no dict"));
    };
    let mut keywords: Vec<(String, Value)> = Vec::with_capacity(pairs.len());
    let mut names = BTreeSet::new();
    for (name, value) in pairs {
        let Value::Text(name) = name else {
            return Err(PayloadError::Shape("a keyword is no text"));
        };
        if !names.insert(name.clone()) {
            return Err(PayloadError::Shape("a keyword is there twice"));
        }
        keywords.push((name, value));
    }
    Ok(keywords)
}

/// Reads the field `return_value`, which is there only for another value than `None`.
///
/// # Errors
/// The text is no base64 of a value that is read.
pub fn decode_return_value(base64: &[u8]) -> Result<Value, PayloadError> {
    let bytes = from_base64(base64)?;
    Serializer::of(&bytes).decode(&bytes)
}

/// The field `exc_string`: why a job failed.
#[must_use]
pub fn encode_exc_string(message: &str) -> String {
    BASE64.encode(deflate(message.as_bytes()))
}

/// Reads the field `exc_string`.
///
/// # Errors
/// The text is no base64 of compressed UTF-8, or too long.
pub fn decode_exc_string(base64: &[u8]) -> Result<String, PayloadError> {
    decode_exc_info(&from_base64(base64)?)
}

/// Reads the field `exc_info` of a job, which is as `exc_string`, but without base64.
///
/// # Errors
/// The bytes are no compressed UTF-8, or too long.
pub fn decode_exc_info(compressed: &[u8]) -> Result<String, PayloadError> {
    String::from_utf8(inflate(compressed)?).map_err(|_| PayloadError::Text)
}

fn from_base64(base64: &[u8]) -> Result<Vec<u8>, PayloadError> {
    // Four characters hold three bytes.
    if base64.len() / 4 * 3 > BYTES_MAX {
        return Err(Limit::Bytes.into());
    }
    BASE64.decode(base64).map_err(|_| PayloadError::Base64)
}

fn deflate(plain: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(COMPRESSION_LEVEL));
    encoder
        .write_all(plain)
        .and_then(|()| encoder.finish())
        .expect("a vector takes everything")
}

/// Inflates a whole zlib stream. flate2's own readers take a stream that is cut off for one that has ended.
fn inflate(stream: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let mut inflater = Decompress::new(true);
    let mut plain = Vec::new();
    let mut rest = stream;
    loop {
        plain.reserve(PIECE_BYTES);
        let (input_bytes, output_bytes) = (inflater.total_in(), plain.len());
        let status = inflater
            .decompress_vec(rest, &mut plain, FlushDecompress::None)
            .map_err(|_| PayloadError::Zlib)?;
        if plain.len() > BYTES_MAX {
            return Err(Limit::Bytes.into());
        }
        let taken = usize::try_from(inflater.total_in() - input_bytes)
            .expect("no more is taken than there is");
        rest = &rest[taken..];
        match status {
            Status::StreamEnd if rest.is_empty() => return Ok(plain),
            Status::StreamEnd => return Err(PayloadError::Zlib),
            _ if taken == 0 && plain.len() == output_bytes => return Err(PayloadError::Zlib),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(value: &Value) -> Result<Call, PayloadError> {
        Call::decode(&pickle::encode(value))
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn only_calls_of_plain_functions_are_calls() {
        let parts = [
            text("f"),
            Value::None,
            Value::List(vec![]),
            Value::Dict(vec![]),
        ];
        let whole = call(&Value::List(parts.to_vec())).unwrap();
        assert_eq!((whole.function.as_str(), whole.args.len()), ("f", 0));
        let twice = Value::Dict(vec![(text("a"), Value::None), (text("a"), Value::None)]);
        let number = Value::Dict(vec![(Value::Int(1), Value::None)]);
        for (part, wrong) in [
            (0, Value::Int(1)),
            (1, text("an instance")),
            (2, Value::None),
            (3, Value::None),
            (3, twice),
            (3, number),
        ] {
            let mut parts = parts.to_vec();
            parts[part] = wrong;
            let error = call(&Value::Tuple(parts)).unwrap_err();
            assert!(matches!(error, PayloadError::Shape(_)), "{part}: {error}");
        }
        assert!(call(&Value::None).is_err());
        assert!(call(&Value::Tuple(parts[..3].to_vec())).is_err());
    }

    #[test]
    fn a_stream_that_is_cut_damaged_or_followed_by_more_is_refused() {
        let plain: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
        let whole = deflate(&plain);
        assert_eq!(inflate(&whole).unwrap(), plain);
        let small = deflate(b"small");
        for cut in 0..small.len() {
            assert_eq!(inflate(&small[..cut]), Err(PayloadError::Zlib), "{cut}");
        }
        let mut damaged = small.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(inflate(&damaged), Err(PayloadError::Zlib));
        let followed = [&small[..], b"x"].concat();
        assert_eq!(inflate(&followed), Err(PayloadError::Zlib));
    }

    #[test]
    fn a_stream_inflates_to_four_megabytes_at_most() {
        assert_eq!(
            inflate(&deflate(&vec![0; BYTES_MAX])).unwrap().len(),
            BYTES_MAX
        );
        let bomb = deflate(&vec![0; 64 << 20]);
        assert!(bomb.len() < 1 << 20);
        assert_eq!(inflate(&bomb), Err(Limit::Bytes.into()));
        assert_eq!(decode_exc_info(&bomb), Err(Limit::Bytes.into()));
        assert_eq!(Call::decode(&bomb), Err(Limit::Bytes.into()));
        let base64 = vec![b'A'; 2 * BYTES_MAX];
        assert_eq!(decode_return_value(&base64), Err(Limit::Bytes.into()));
    }

    #[test]
    fn an_error_does_not_repeat_the_payload() {
        for data in [
            &b"canary"[..],
            b"[\"canary\", ",
            b"[\"canary\", \"canary\", \"canary\", \"canary\"]",
            b"\x80\x04\x8c\x06canary.",
            b"\x80\x04\x8c\x06canary\xff.",
        ] {
            let mut error: Option<&dyn std::error::Error> = None;
            let found = Call::decode(data).unwrap_err();
            error.replace(&found);
            while let Some(link) = error {
                let shown = format!("{link} {link:?}");
                assert!(!shown.contains("canary"), "{shown}");
                error = link.source();
            }
        }
    }
}
