//! What tools show of a job: the call as Python would print it.

use crate::queue::payload::Call;
use crate::queue::value::Value;

/// As much of an argument is shown; rq cuts there, and puts dots.
const ARGUMENT_CHARS_MAX: usize = 75;

/// The description that rq gives a job whose producer gave none: `run_backup(42, label='x')`.
#[must_use]
pub fn of(call: &Call) -> String {
    let mut arguments: Vec<String> = call.args.iter().map(argument).collect();
    let mut named: Vec<String> = call
        .kwargs
        .iter()
        .map(|(name, value)| format!("{name}={}", argument(value)))
        .collect();
    // Sorted as whole texts, as rq does.
    named.sort();
    arguments.extend(named);
    format!("{}({})", call.function, arguments.join(", "))
}

fn argument(value: &Value) -> String {
    let mut shown = Shown::default();
    shown.value(value);
    if shown.chars > ARGUMENT_CHARS_MAX {
        let cut: String = shown.text.chars().take(ARGUMENT_CHARS_MAX).collect();
        return format!("{cut}...");
    }
    shown.text
}

/// Python's `repr`, as far as it is shown.
#[derive(Default)]
struct Shown {
    text: String,
    chars: usize,
}

impl Shown {
    fn is_full(&self) -> bool {
        self.chars > ARGUMENT_CHARS_MAX
    }

    fn push(&mut self, part: &str) {
        self.text.push_str(part);
        self.chars += part.chars().count();
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::None => self.push("None"),
            Value::Bool(true) => self.push("True"),
            Value::Bool(false) => self.push("False"),
            Value::Int(number) => self.push(&number.to_string()),
            Value::Float(number) => self.push(&float(*number)),
            Value::Text(text) => self.text(text),
            Value::Bytes(bytes) => self.bytes(bytes),
            Value::List(items) => self.items("[", items, "]"),
            Value::Tuple(items) if items.len() == 1 => self.items("(", items, ",)"),
            Value::Tuple(items) => self.items("(", items, ")"),
            Value::Set(items) if items.is_empty() => self.push("set()"),
            Value::Set(items) => self.items("{", items, "}"),
            Value::Dict(pairs) => {
                self.push("{");
                for (index, (key, value)) in pairs.iter().enumerate() {
                    if self.is_full() {
                        return;
                    }
                    self.push(if index > 0 { ", " } else { "" });
                    self.value(key);
                    self.push(": ");
                    self.value(value);
                }
                self.push("}");
            }
        }
    }

    fn items(&mut self, open: &str, items: &[Value], close: &str) {
        self.push(open);
        for (index, item) in items.iter().enumerate() {
            if self.is_full() {
                return;
            }
            self.push(if index > 0 { ", " } else { "" });
            self.value(item);
        }
        self.push(close);
    }

    fn text(&mut self, text: &str) {
        let quote = quote(|wanted| text.contains(wanted));
        self.push(quote.encode_utf8(&mut [0; 4]));
        for c in text.chars() {
            if self.is_full() {
                return;
            }
            match c {
                '\\' => self.push("\\\\"),
                '\n' => self.push("\\n"),
                '\r' => self.push("\\r"),
                '\t' => self.push("\\t"),
                c if c == quote => self.push(&format!("\\{c}")),
                c if is_printable(c) => self.push(c.encode_utf8(&mut [0; 4])),
                c => self.push(&match u32::from(c) {
                    code @ ..=0xff => format!("\\x{code:02x}"),
                    code @ ..=0xffff => format!("\\u{code:04x}"),
                    code => format!("\\U{code:08x}"),
                }),
            }
        }
        self.push(quote.encode_utf8(&mut [0; 4]));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let quote = quote(|wanted| bytes.iter().any(|byte| char::from(*byte) == wanted));
        self.push(&format!("b{quote}"));
        for byte in bytes {
            if self.is_full() {
                return;
            }
            match char::from(*byte) {
                '\\' => self.push("\\\\"),
                '\n' => self.push("\\n"),
                '\r' => self.push("\\r"),
                '\t' => self.push("\\t"),
                c if c == quote => self.push(&format!("\\{c}")),
                c @ ' '..='~' => self.push(c.encode_utf8(&mut [0; 4])),
                _ => self.push(&format!("\\x{byte:02x}")),
            }
        }
        self.push(quote.encode_utf8(&mut [0; 4]));
    }
}

/// Python takes the double quotes only where that saves it an escape.
fn quote(contains: impl Fn(char) -> bool) -> char {
    if contains('\'') && !contains('"') {
        '"'
    } else {
        '\''
    }
}

/// Rust's and Python's tables name the same Unicode categories. Behind another character, Rust also leaves those alone
/// that join it, as Python always does.
fn is_printable(c: char) -> bool {
    let behind = format!("a{c}");
    c == '\'' || c == '"' || behind.escape_debug().nth(1) == Some(c)
}

/// Rust changes to an exponent at the same sizes as Python, and then writes fewer characters.
fn float(number: f64) -> String {
    let shown = format!("{number:?}");
    if number.is_nan() {
        return "nan".to_owned();
    }
    let Some((digits, exponent)) = shown.split_once('e') else {
        return shown;
    };
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::payload::Serializer;

    fn described(args: &[Value], kwargs: &[(&str, Value)]) -> String {
        of(&Call {
            function: "f".into(),
            args: args.to_vec(),
            kwargs: kwargs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            serializer: Serializer::Pickle,
        })
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    // tests/it/pickle.rs asks Python itself.
    #[test]
    fn a_call_is_shown_as_python_prints_it() {
        assert_eq!(described(&[], &[]), "f()");
        let kwargs = [
            ("B", text("x")),
            ("a", Value::None),
            ("a1", Value::Bool(true)),
        ];
        assert_eq!(
            described(&[Value::Int(42), text("it's")], &kwargs),
            r#"f(42, "it's", B='x', a1=True, a=None)"#
        );
        let nested = Value::Dict(vec![(text("k"), Value::Tuple(vec![Value::Float(1e16)]))]);
        assert_eq!(described(&[nested], &[]), "f({'k': (1e+16,)})");
    }

    #[test]
    fn each_argument_is_cut_at_75_characters() {
        let long = "ä".repeat(1 << 20);
        let shown = described(&[text(&long), Value::Int(1)], &[("k", text(&long))]);
        let cut = format!("'{}...", "ä".repeat(74));
        assert_eq!(shown, format!("f({cut}, 1, k={cut})"));
        let fits = "a".repeat(73);
        assert_eq!(described(&[text(&fits)], &[]), format!("f('{fits}')"));
        let list = Value::List(vec![Value::Int(0); 1 << 16]);
        assert_eq!(described(&[list], &[]).len(), "f(...)".len() + 75);
    }
}
