//! Python itself as the judge: it pickles for us, unpickles what we wrote, and shows what a hostile pickle would do.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgseal::queue::payload::{self, Call, PayloadError, Serializer};
use pgseal::queue::pickle::{self, PickleError};
use pgseal::queue::rq::description;
use pgseal::queue::value::Value;

use crate::harness::{fixture, folder};

/// Runs `tests/fixtures/pickles.py` with these lines on its stdin, and returns what it printed: JSON, line by line.
fn python(arguments: &[&str], lines: &[String]) -> Vec<serde_json::Value> {
    let mut child = Command::new("python3")
        .arg(fixture("pickles.py"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines.join("\n").as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: see its traceback");
    let printed = String::from_utf8(output.stdout).unwrap();
    printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &serde_json::Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// A value with the name of its type, as `tagged` in `pickles.py` has it: JSON alone would not tell a tuple from a list.
fn tagged(value: &Value) -> serde_json::Value {
    let all = |items: &[Value]| items.iter().map(tagged).collect::<Vec<_>>();
    match value {
        Value::None => serde_json::json!(["none"]),
        Value::Bool(value) => serde_json::json!(["bool", value]),
        Value::Int(number) => serde_json::json!(["int", number.to_string()]),
        Value::Float(number) => serde_json::json!(["float", hex(&number.to_be_bytes())]),
        Value::Text(text) => serde_json::json!(["str", text]),
        Value::Bytes(bytes) => serde_json::json!(["bytes", hex(bytes)]),
        Value::List(items) => serde_json::json!(["list", all(items)]),
        Value::Tuple(items) => serde_json::json!(["tuple", all(items)]),
        Value::Set(items) => {
            let mut items = all(items);
            items.sort_by_key(ToString::to_string);
            serde_json::json!(["set", items])
        }
        Value::Dict(pairs) => {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(key, value)| serde_json::json!([tagged(key), tagged(value)]))
                .collect();
            serde_json::json!(["dict", pairs])
        }
    }
}

/// Every value of the fixture in every protocol: plain data in our instructions is read, all else is refused.
#[test]
fn what_python_pickles_is_read_where_it_is_plain_data() {
    let cases = python(&["write"], &[]);
    let (mut read, mut refused) = (0, 0);
    for case in &cases {
        let bytes = unhex(&case["pickle"]);
        match pickle::decode(&bytes) {
            Ok(value) => {
                assert_eq!(case["plain"], true, "{case}");
                assert_eq!(tagged(&value), case["tagged"], "{case}");
                read += 1;
            }
            Err(error) => {
                assert_eq!(case["plain"], false, "{error}: {case}");
                if let PickleError::Refused(name) = error {
                    let named = case["opcodes"].as_array().unwrap();
                    assert!(named.contains(&name.into()), "{name}: {case}");
                }
                refused += 1;
            }
        }
    }
    assert!(read > 150 && refused > 60, "{read} read, {refused} refused");
}

/// rq's own way to `data`, in both serializers: compressed, or as it is.
#[test]
fn calls_that_python_enqueues_are_read() {
    let calls = python(&["calls"], &[]);
    assert!(calls.len() > 20, "{}", calls.len());
    for case in &calls {
        let call = Call::decode(&unhex(&case["data"])).unwrap();
        assert_eq!(call.function, case["function"].as_str().unwrap());
        let args: Vec<_> = call.args.iter().map(tagged).collect();
        assert_eq!(serde_json::json!(args), case["args"], "{case}");
        let kwargs = call
            .kwargs
            .iter()
            .map(|(name, value)| (name.clone(), tagged(value)));
        let kwargs: serde_json::Map<_, _> = kwargs.collect();
        assert_eq!(serde_json::Value::Object(kwargs), case["kwargs"], "{case}");
        let json = case["serializer"] == "json";
        assert_eq!(call.serializer == Serializer::Json, json, "{case}");
        // Python made the description as rq does.
        assert_eq!(description::of(&call), case["description"], "{case}");
    }
}

fn values() -> Vec<Value> {
    let text = |text: &str| Value::Text(text.to_owned());
    let mut values: Vec<Value> = [0, 1, 255, 256, 65_535, 65_536, -1, i64::MAX, i64::MIN]
        .into_iter()
        .chain([2_147_483_647, 2_147_483_648, -2_147_483_648, -2_147_483_649])
        .map(Value::Int)
        .collect();
    values.extend([0.0, -0.0, 0.1, 1e300, f64::INFINITY, f64::NAN].map(Value::Float));
    let letters = [
        "",
        "ä",
        "\u{10ffff}",
        "a\0b",
        &"x".repeat(255),
        &"x".repeat(70_000),
    ];
    values.extend(letters.map(text));
    values.extend([0, 255, 256].map(|length| Value::Bytes(vec![7; length])));
    values.extend([Value::None, Value::Bool(true), Value::Bool(false)]);
    let some = values.clone();
    values.extend([
        Value::Tuple(vec![]),
        Value::List(vec![]),
        Value::Dict(vec![]),
        Value::Set(vec![]),
        Value::Tuple(some[..3].to_vec()),
        Value::List(some),
        Value::Set(vec![text("a"), Value::Tuple(vec![Value::Int(1)])]),
        Value::Dict(vec![
            (text("b"), Value::List(vec![Value::Dict(vec![])])),
            (Value::Int(1), Value::Tuple(vec![Value::Tuple(vec![])])),
            (Value::Set(vec![Value::Int(2)]), Value::None),
        ]),
    ]);
    values
}

#[test]
fn python_reads_what_is_written() {
    let values = values();
    let lines: Vec<String> = values
        .iter()
        .map(|value| hex(&pickle::encode(value)))
        .collect();
    let read = python(&["read"], &lines);
    assert_eq!(read.len(), values.len());
    for (value, read) in values.iter().zip(&read) {
        assert_eq!(tagged(value), *read);
    }
}

#[test]
fn python_reads_calls_results_and_reasons() {
    let call = |serializer| Call {
        function: "app.workers.restore_jobs.run_restore".to_owned(),
        args: vec![],
        kwargs: vec![("restore_id".to_owned(), Value::Int(7))],
        serializer,
    };
    let reason = "Job stopped by user, ä.";
    let mut lines = vec![format!("exc_string {}", payload::encode_exc_string(reason))];
    for (word, serializer) in [("pickle", Serializer::Pickle), ("json", Serializer::Json)] {
        let data = call(serializer).encode().unwrap();
        lines.push(format!("{word}_data {}", hex(&data)));
        let value = Value::Dict(vec![(Value::Text("restore".into()), Value::Int(7))]);
        let result = serializer.encode_return_value(&value).unwrap().unwrap();
        lines.push(format!("{word}_return_value {result}"));
    }
    let read = python(&["fields"], &lines);
    let function = "app.workers.restore_jobs.run_restore";
    assert_eq!(read[0], reason);
    for position in [1, 3] {
        let expected = serde_json::json!([function, null, [], {"restore_id": 7}]);
        assert_eq!(read[position], expected);
        assert_eq!(read[position + 1], serde_json::json!({"restore": 7}));
    }
}

/// A pickle that runs a command when Python reads it. Here it is data that is refused.
#[test]
fn a_hostile_pickle_executes_nothing() {
    let folder = folder();
    let marker = folder.path().join("executed");
    let marker_text = marker.to_str().unwrap();
    let hostile = python(&["hostile", marker_text], &[]);
    assert_eq!(
        hostile.len(),
        12,
        "protocols 0 to 5, by class and in a call"
    );
    for case in &hostile {
        let bytes = unhex(case);
        let error = pickle::decode(&bytes).unwrap_err();
        let objects = ["GLOBAL", "STACK_GLOBAL", "UNICODE"].map(PickleError::Refused);
        assert!(objects.contains(&error), "{error}");
        let error = Call::decode(&bytes).unwrap_err();
        let refused = matches!(
            error,
            PayloadError::Pickle(PickleError::Refused(_)) | PayloadError::Zlib
        );
        assert!(refused, "{error}");
        assert!(!marker.exists(), "it was executed");
    }
    // They are what they are meant to be.
    for case in &hostile {
        python(&["loads"], &[case.as_str().unwrap().to_owned()]);
        assert!(marker.exists(), "Python executed nothing: {case}");
        std::fs::remove_file(&marker).unwrap();
    }
}

#[test]
fn bombs_end_quickly() {
    let start = b"\x80\x04".to_vec();
    let with = |body: Vec<u8>| [start.clone(), body, b".".to_vec()].concat();
    // Each level has the level before twice: 2^60 values in 430 bytes.
    let doubling = (0..60_u8).flat_map(|level| [b'h', level, b'h', level, 0x86, 0x94, b'0']);
    let mut doubling: Vec<u8> = [b"]\x940".to_vec(), doubling.collect()].concat();
    doubling.extend([b'h', 60]);
    let huge_long =
        |length: u32| [&[0x8b][..], &length.to_le_bytes(), &[7].repeat(1 << 20)].concat();
    let text = [&b"(X\0\0\x10\0"[..], &b"a".repeat(1 << 20), b"\x94"].concat();
    let bombs = [
        ("memo doubling", with(doubling)),
        (
            "one text many times",
            with([text, b"h\0".repeat(60_000), b"t".to_vec()].concat()),
        ),
        (
            "DUP",
            with([b"]".to_vec(), b"2\x86".repeat(200_000)].concat()),
        ),
        (
            "nested lists",
            with([b"]".repeat(200_000), b"a".repeat(199_999)].concat()),
        ),
        (
            "few nested lists",
            with([b"]".repeat(60_000), b"a".repeat(59_999)].concat()),
        ),
        (
            "nested tuples",
            with([b")".to_vec(), b"\x85".repeat(60_000)].concat()),
        ),
        ("open marks", with(b"(".repeat(200_000))),
        ("LONG4", with(huge_long(1 << 20))),
        ("LONG4 of nothing", with(huge_long(u32::MAX))),
        ("LONG1", with([&[0x8a, 255][..], &[7; 255]].concat())),
        ("text of nothing", with(b"X\xff\xff\xff\xff".to_vec())),
        (
            "bytearray of nothing",
            with([&[0x96][..], &[0xff; 8]].concat()),
        ),
        ("frame of nothing", with([&[0x95][..], &[0xff; 8]].concat())),
    ];
    for (name, bomb) in bombs {
        let started = Instant::now();
        assert!(pickle::decode(&bomb).is_err(), "{name}");
        assert!(Call::decode(&bomb).is_err(), "{name}");
        let taken = started.elapsed();
        assert!(taken < Duration::from_secs(2), "{name}: {taken:?}");
    }
}
