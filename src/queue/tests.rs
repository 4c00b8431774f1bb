//! The bytes that rq 1.16.2, 2.12.0 and 3.0.0 were seen to write, and what holds for all bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::payload::{self, Call, PayloadError, Serializer};
use super::value::{DEPTH_MAX, NODES_MAX, Value, generated};
use super::{json, pickle};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// `run_backup(42)`, as rq's three versions pickle it.
const PICKLE: &str = "8005 95 3000000000000000 28 8c22 6170702e776f726b6572732e6261636b75705f6a6f62732e72756e5f6261636b7570 94 \
                      4e 4b2a 85 94 7d 94 74 94 2e";
const PICKLE_DATA: &str = "789c6b609d6ac000011a3d4a8905057ae5f945d9a945c57a4989c9d9a505f159f949c57a45a579f110fe143f6fadd62\
                           9b5534aa6e801000d4a145d";
/// The same call by the JSONSerializer.
const JSON: &[u8] = br#"["app.workers.backup_jobs.run_backup", null, [42], {}]"#;
const JSON_DATA: &str = "789c8b564a2c28d02bcf2fca4e2d2ad64b4a4cce2e2d88cfca4f2ad62b2acd8b87f0957414f24a73\
                         727414a24d8c627514aa6b630126f71337";

fn run_backup(args: &[i64], serializer: Serializer) -> Call {
    Call {
        function: "app.workers.backup_jobs.run_backup".to_owned(),
        args: args.iter().copied().map(Value::Int).collect(),
        kwargs: Vec::new(),
        serializer,
    }
}

#[test]
fn recorded_calls_are_read() {
    assert_eq!(hex(PICKLE).len(), 59);
    for (data, serializer) in [
        (hex(PICKLE), Serializer::Pickle),
        (hex(PICKLE_DATA), Serializer::Pickle),
        (JSON.to_vec(), Serializer::Json),
        (hex(JSON_DATA), Serializer::Json),
    ] {
        assert_eq!(Call::decode(&data), Ok(run_backup(&[42], serializer)));
    }
    // No arguments, and four of them.
    for (args, values) in [("29", &[][..]), ("284b014b024b034b0474", &[1, 2, 3, 4])] {
        let data = PICKLE.replace("4b2a 85", args);
        let call = Call::decode(&hex(&data)).unwrap();
        assert_eq!(call, run_backup(values, Serializer::Pickle));
    }
}

#[test]
fn calls_are_written_for_every_python() {
    let start =
        "8004 28 8c22 6170702e776f726b6572732e6261636b75705f6a6f62732e72756e5f6261636b7570 4e";
    let named = Call {
        kwargs: vec![("backup_id".to_owned(), Value::Int(42))],
        ..run_backup(&[], Serializer::Pickle)
    };
    for (call, rest) in [
        (run_backup(&[42], Serializer::Pickle), "28 4b2a 74 7d 74 2e"),
        (run_backup(&[], Serializer::Pickle), "29 7d 74 2e"),
        (named, "29 7d 28 8c09 6261636b75705f6964 4b2a 75 74 2e"),
    ] {
        let data = call.encode().unwrap();
        assert_eq!(data[..2], hex("789c"), "zlib, as Python's own level has it");
        assert_eq!(Call::decode(&data), Ok(call.clone()));
        let value = Value::Tuple(vec![
            text(&call.function),
            Value::None,
            Value::Tuple(call.args),
            Value::Dict(
                call.kwargs
                    .into_iter()
                    .map(|(name, value)| (text(&name), value))
                    .collect(),
            ),
        ]);
        assert_eq!(pickle::encode(&value), hex(&format!("{start}{rest}")));
    }
    let data = run_backup(&[42], Serializer::Json).encode().unwrap();
    assert_eq!(Call::decode(&data), Ok(run_backup(&[42], Serializer::Json)));
}

#[test]
fn recorded_results_are_read() {
    let both = Value::Dict(vec![
        (text("restore"), Value::Int(7)),
        (text("safety"), Value::Int(42)),
    ]);
    for (base64, value) in [
        ("gAVLKi4=", Value::Int(42)),
        ("gAWVHAAAAAAAAAB9lCiMB3Jlc3RvcmWUSweMBnNhZmV0eZRLKnUu", both),
    ] {
        assert_eq!(
            payload::decode_return_value(base64.as_bytes()),
            Ok(value.clone())
        );
        for serializer in [Serializer::Pickle, Serializer::Json] {
            let written = serializer.encode_return_value(&value).unwrap().unwrap();
            let read = payload::decode_return_value(written.as_bytes());
            assert_eq!(read, Ok(value.clone()));
        }
    }
    // 80 04 4b 2a 2e: as recorded, but for the protocol.
    let written = Serializer::Pickle.encode_return_value(&Value::Int(42));
    assert_eq!(written, Ok(Some("gARLKi4=".to_owned())));
    assert_eq!(Serializer::Json.encode_return_value(&Value::None), Ok(None));
    assert_eq!(
        payload::decode_return_value(b"gAVLKi4"),
        Err(PayloadError::Base64)
    );
}

#[test]
fn recorded_reasons_are_read() {
    let recorded = "eJzzyk9SKC7JLyhITVFIqlQoLU4t0lEozy/K1s3ILypOVShJLcrNzEssSU3RAwBbIQ/t";
    let message = "Job stopped by user, work-horse terminated.";
    assert_eq!(
        payload::decode_exc_string(recorded.as_bytes()),
        Ok(message.to_owned())
    );
    let written = payload::encode_exc_string(message);
    assert_eq!(
        payload::decode_exc_string(written.as_bytes()),
        Ok(message.to_owned())
    );
    assert_eq!(
        payload::decode_exc_info(&hex("789c030000000001")),
        Ok(String::new())
    );
}

#[test]
fn recorded_metadata_is_read() {
    let meta = hex("80 05 95 0a00000000000000 7d 94 8c0161 94 4b01 73 2e");
    let value = Value::Dict(vec![(text("a"), Value::Int(1))]);
    assert_eq!(Serializer::of(&meta), Serializer::Pickle);
    assert_eq!(Serializer::Pickle.decode(&meta), Ok(value.clone()));
    let written = Serializer::Pickle.encode(&value).unwrap();
    assert_eq!(written, hex("80 04 7d 28 8c0161 4b01 75 2e"));
    assert_eq!(Serializer::of(b"{\"a\": 1}"), Serializer::Json);
    assert_eq!(Serializer::Json.decode(b"{\"a\": 1}"), Ok(value));
}

#[test]
fn a_call_of_objects_is_refused_and_not_followed() {
    // `("f", None, (os.system("true"),), {})` by __reduce__, protocol 4.
    let hostile = b"\x80\x04(\x8c\x01fN\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R\x85}t.";
    let error = Call::decode(hostile).unwrap_err();
    assert_eq!(
        error,
        PayloadError::Pickle(pickle::PickleError::Refused("STACK_GLOBAL"))
    );
    assert_eq!(error.to_string(), "read the payload's pickle");
}

/// How many values there are, and how many containers in each other.
fn extent(value: &Value) -> (usize, usize) {
    let items: Vec<&Value> = match value {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => items.iter().collect(),
        Value::Dict(pairs) => pairs.iter().flat_map(|(key, value)| [key, value]).collect(),
        _ => return (1, 0),
    };
    items
        .into_iter()
        .map(extent)
        .fold((1, 1), |(nodes, depth), (more, deeper)| {
            (nodes + more, depth.max(deeper + 1))
        })
}

/// Whole instructions in any order, so that they come further than any bytes do; the last one makes a tuple of whatever
/// they left, which is a value more often than not.
fn almost_a_pickle() -> impl Strategy<Value = Vec<u8>> {
    let pushes: [&[u8]; 10] = [
        b"N",
        b"K\x01",
        b"\x8c\x01a",
        b"C\x01a",
        b"G\x7f\xf8\0\0\0\0\0\0",
        b"]",
        b"}",
        b")",
        b"\x8f",
        b"(",
    ];
    let makes: [&[u8]; 15] = [
        b"a", b"e", b"s", b"u", b"t", b"\x85", b"\x86", b"\x90", b"\x91", b"0", b"1", b"\x94",
        b"h\0", b"h\x01", b"c",
    ];
    let instruction = prop_oneof![
        3 => proptest::sample::select(pushes.to_vec()),
        2 => proptest::sample::select(makes.to_vec()),
    ];
    vec(instruction, 0..12)
        .prop_map(|body| [b"\x80\x04(".as_slice(), &body.concat(), b"t."].concat())
}

fn within_limits(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(value) = pickle::decode(bytes) {
        let (nodes, depth) = extent(&value);
        prop_assert!(nodes <= NODES_MAX && depth <= DEPTH_MAX);
        let written = pickle::encode(&value);
        let again = pickle::decode(&written);
        // Floats that are no numbers differ from themselves; their bytes do not.
        prop_assert_eq!(again.map(|again| pickle::encode(&again)), Ok(written));
    }
    if let Ok(call) = Call::decode(bytes) {
        let written = call.encode().unwrap();
        let again = Call::decode(&written).and_then(|again| again.encode());
        prop_assert_eq!(again, Ok(written));
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_is_pickled_is_read(value in generated::pickle()) {
        prop_assert_eq!(pickle::decode(&pickle::encode(&value)), Ok(value));
    }

    #[test]
    fn what_is_json_is_read(value in generated::json()) {
        prop_assert_eq!(json::decode(&json::encode(&value).unwrap()), Ok(value));
    }

    #[test]
    fn calls_are_read_as_they_were_written(
        function in "[a-z.]{1,20}",
        args in vec(generated::json(), 0..4),
        kwargs in proptest::collection::btree_map("[a-z_]{1,8}", generated::json(), 0..4),
        serializer in prop_oneof![Just(Serializer::Pickle), Just(Serializer::Json)],
    ) {
        let call = Call { function, args, kwargs: kwargs.into_iter().collect(), serializer };
        prop_assert_eq!(Call::decode(&call.encode().unwrap()), Ok(call));
    }

    #[test]
    fn any_bytes_are_an_error_or_a_value_within_limits(bytes: Vec<u8>) {
        within_limits(&bytes)?;
        within_limits(&[b"\x80\x05", &bytes[..]].concat())?;
        within_limits(&[b"[", &bytes[..]].concat())?;
        drop(payload::decode_return_value(&bytes));
        drop(payload::decode_exc_string(&bytes));
        drop(payload::decode_exc_info(&bytes));
    }

    #[test]
    fn almost_pickles_are_an_error_or_a_value_within_limits(bytes in almost_a_pickle()) {
        within_limits(&bytes)?;
    }
}
