//! JSON as data, for producers that chose rq's JSONSerializer: the same values and limits as in a pickle.

use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};

use super::value::{BYTES_MAX, Budget, DEPTH_MAX, Limit, Value};

/// Why bytes are no JSON that is read here, or a value cannot be written as such. What they hold is never repeated.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JsonError {
    /// No JSON. Python's NaN and Infinity are none.
    #[error("the JSON is broken at line {line}, column {column}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// A number beyond 64 bits.
    #[error("the JSON has an integer beyond 64 bits")]
    Integer,
    /// Bytes, a set, a float that is no number, or a key that is no text.
    #[error("the value cannot be written as JSON")]
    NotJson,
    /// Too much of it.
    #[error(transparent)]
    Limit(#[from] Limit),
}

/// Reads JSON. An integer of more than 20 digits comes as a float, as the JSON library has it.
///
/// # Errors
/// The bytes are no JSON, or beyond the limits.
pub fn decode(bytes: &[u8]) -> Result<Value, JsonError> {
    if bytes.len() > BYTES_MAX {
        return Err(Limit::Bytes.into());
    }
    let mut state = State {
        budget: Budget::new(),
        fault: None,
    };
    let reader = Reader {
        state: &mut state,
        depth: 0,
    };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = reader
        .deserialize(&mut json)
        .and_then(|value| json.end().map(|()| value));
    read.map_err(|error| {
        state.fault.unwrap_or(JsonError::Syntax {
            line: error.line(),
            column: error.column(),
        })
    })
}

/// Writes a value as JSON; a tuple becomes a list, as in Python.
///
/// # Errors
/// JSON has no form for it.
pub fn encode(value: &Value) -> Result<Vec<u8>, JsonError> {
    // Writing into a vector cannot fail, so that only the value can be at fault.
    serde_json::to_vec(&Written(value)).map_err(|_| JsonError::NotJson)
}

struct State {
    budget: Budget,
    /// What our own check found; the JSON library carries texts only.
    fault: Option<JsonError>,
}

impl State {
    fn fail<E: serde::de::Error>(&mut self, fault: JsonError) -> E {
        self.fault = Some(fault);
        E::custom("beyond what is read")
    }

    fn take<E: serde::de::Error>(&mut self, content_bytes: usize) -> Result<(), E> {
        self.budget
            .take(content_bytes)
            .map_err(|limit| self.fail(limit.into()))
    }
}

/// Reads one value that has so many containers around it.
struct Reader<'a> {
    state: &'a mut State,
    depth: usize,
}

impl Reader<'_> {
    fn inner(&mut self) -> Reader<'_> {
        Reader {
            state: self.state,
            depth: self.depth + 1,
        }
    }

    fn container<E: serde::de::Error>(&mut self) -> Result<(), E> {
        if self.depth == DEPTH_MAX {
            return Err(self.state.fail(Limit::Depth.into()));
        }
        self.state.take(0)
    }

    fn scalar<E: serde::de::Error>(self, value: Value) -> Result<Value, E> {
        self.state.take::<E>(0)?;
        Ok(value)
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value of JSON")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.scalar(Value::None)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.scalar(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.scalar(Value::Int(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        match i64::try_from(value) {
            Ok(value) => self.scalar(Value::Int(value)),
            Err(_) => Err(self.state.fail(JsonError::Integer)),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.scalar(Value::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.state.take::<E>(value.len())?;
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        self.container::<A::Error>()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.inner())? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        self.container::<A::Error>()?;
        let mut dict = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.state.take::<A::Error>(key.len())?;
            dict.push((Value::Text(key), entries.next_value_seed(self.inner())?));
        }
        Ok(Value::Dict(dict))
    }
}

struct Written<'a>(&'a Value);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::None => json.serialize_unit(),
            Value::Bool(value) => json.serialize_bool(*value),
            Value::Int(value) => json.serialize_i64(*value),
            Value::Float(value) if value.is_finite() => json.serialize_f64(*value),
            Value::Text(text) => json.serialize_str(text),
            Value::List(items) | Value::Tuple(items) => json.collect_seq(items.iter().map(Written)),
            Value::Dict(pairs) => {
                let mut map = json.serialize_map(Some(pairs.len()))?;
                for (key, value) in pairs {
                    let Value::Text(key) = key else {
                        return Err(S::Error::custom("a key that is no text"));
                    };
                    map.serialize_entry(key, &Written(value))?;
                }
                map.end()
            }
            Value::Float(_) | Value::Bytes(_) | Value::Set(_) => {
                Err(S::Error::custom("no value of JSON"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_python_writes_them() {
        let read = decode(br#"[null, true, -1, 1.5, "\u00e9", {"b": [], "a": {}}]"#).unwrap();
        let dict = vec![
            (Value::Text("b".into()), Value::List(vec![])),
            (Value::Text("a".into()), Value::Dict(vec![])),
        ];
        let expected = Value::List(vec![
            Value::None,
            Value::Bool(true),
            Value::Int(-1),
            Value::Float(1.5),
            Value::Text("é".into()),
            Value::Dict(dict),
        ]);
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_broken_or_too_much_is_refused() {
        let nested = |levels| [b"[".repeat(levels), b"]".repeat(levels)].concat();
        assert!(decode(&nested(DEPTH_MAX)).is_ok());
        for levels in [DEPTH_MAX + 1, 200_000] {
            assert_eq!(decode(&nested(levels)), Err(Limit::Depth.into()));
        }
        let many = [&b"["[..], &b"0,".repeat(1 << 17), b"0]"].concat();
        assert_eq!(decode(&many), Err(Limit::Nodes.into()));
        let long = vec![b' '; BYTES_MAX + 1];
        assert_eq!(decode(&long), Err(Limit::Bytes.into()));
        assert_eq!(decode(b"9223372036854775808"), Err(JsonError::Integer));
        for broken in ["", "[", "NaN", "1 2", "{1: 2}", r#""\ud800""#, "[1}"] {
            let error = decode(broken.as_bytes()).unwrap_err();
            assert!(
                matches!(error, JsonError::Syntax { .. }),
                "{broken}: {error}"
            );
        }
    }

    #[test]
    fn what_json_does_not_have_is_not_written() {
        let number_key = Value::Dict(vec![(Value::Int(1), Value::None)]);
        for value in [
            Value::Float(f64::NAN),
            Value::Bytes(vec![]),
            Value::Set(vec![]),
            number_key,
        ] {
            assert_eq!(encode(&value), Err(JsonError::NotJson), "{value:?}");
        }
        let tuple = Value::Tuple(vec![Value::Int(1)]);
        assert_eq!(encode(&tuple).unwrap(), b"[1]");
    }
}
