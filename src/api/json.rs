//! JSON that is taken only if it says each thing once: of two values under one name, two readers may take different ones.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

/// Reads bytes; too deep, too long or doubled JSON is an error, whose text has no content of it beyond names.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    // serde_json itself ends at 128 levels.
    let Once(value) = serde_json::from_slice(bytes)?;
    serde_json::from_value(value)
}

/// As [`read`], for what has to be an object: a list of a struct's fields is none.
pub(super) fn object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let map: Map<String, Value> = read(bytes)?;
    serde_json::from_value(Value::Object(map))
}

/// What serde's text says of us: which names or values are known where something else stood, and the name of a field that is
/// not, if it is a plain word. Values of whoever asks are not repeated.
pub(super) fn what_is_wrong(text: &str) -> Option<String> {
    const NAME_CHARS_MAX: usize = 40;
    let (before, expected) = text.rsplit_once("expected ")?;
    let unknown = before.split_once("unknown field `");
    let name = unknown.and_then(|(_, rest)| rest.split('`').next());
    let is_plain = |name: &&str| {
        let letters = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        letters && !name.is_empty() && name.len() <= NAME_CHARS_MAX
    };
    let expected = expected.split(" at line ").next().unwrap_or_default();
    Some(match name.filter(is_plain) {
        Some(name) => format!("{name} is not known here, expected {expected}"),
        None => format!("expected {expected}"),
    })
}

/// A value without doubled names, at any depth.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Self)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Once(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Once(value))) = entries.next_entry::<String, Once>()? {
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("a name is given twice"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_said_and_values_are_not() {
        let wrong = |text| what_is_wrong(text).unwrap_or_default();
        assert_eq!(
            wrong("unknown field `tarrget`, expected `target` or `kind` at line 1 column 9"),
            "tarrget is not known here, expected `target` or `kind`"
        );
        assert_eq!(
            wrong("status: unknown variant `<script>`, expected `ok` or `lost`"),
            "expected `ok` or `lost`"
        );
        assert_eq!(
            wrong("invalid type: string \"dummy-secret\", expected u32"),
            "expected u32"
        );
        assert_eq!(
            wrong("unknown field `a b\n`, expected `target`"),
            "expected `target`"
        );
        assert_eq!(what_is_wrong("a name is given twice"), None);
    }

    #[test]
    fn what_is_said_twice_or_too_deep_is_refused() {
        let kept: Value = read(br#"{"a": [1, -2, 2.5, null, true, "x"], "b": {"a": 1}}"#).unwrap();
        assert_eq!(kept["a"][2], 2.5);
        assert_eq!(kept["b"]["a"], 1);
        for doubled in [r#"{"a":1,"a":2}"#, r#"[{"b":{"a":1,"\u0061":1}}]"#] {
            assert!(read::<Value>(doubled.as_bytes()).is_err(), "{doubled}");
        }
        let deep = "[".repeat(100_000);
        assert!(read::<Value>(deep.as_bytes()).is_err());
    }
}
