//! The plain data that calls, results and metadata are made of, and the limits that every reader of them keeps.

/// What Python's plain values are here. More than these is never read and never made.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`, or JSON's `null`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An `int`. Python's have no bounds; one beyond 64 bits is refused, never rounded.
    Int(i64),
    /// A `float`.
    Float(f64),
    /// A `str`.
    Text(String),
    /// `bytes`. A `bytearray` is read as the same: the two are equal in Python.
    Bytes(Vec<u8>),
    /// A `list`.
    List(Vec<Self>),
    /// A `tuple`.
    Tuple(Vec<Self>),
    /// A `set` or `frozenset`: the two are equal in Python. Written as a `frozenset`, which may stand everywhere.
    Set(Vec<Self>),
    /// A `dict`, in its order. A key that was written twice stands here twice; in Python the later one counts.
    Dict(Vec<(Self, Self)>),
}

/// What a payload may have, inflated. A job carries an id, a result two: four megabytes are a mistake or an attack.
pub const BYTES_MAX: usize = 4 << 20;
/// How many values a payload may have, counted where they stand: a list that is there twice counts twice.
pub const NODES_MAX: usize = 1 << 16;
/// How deep containers may stand in each other. Readers and `Drop` go down one call a level.
pub const DEPTH_MAX: usize = 64;

/// What each value counts beside its content: more than either serializer writes for it, so that what was read can
/// always be written and read again.
const NODE_BYTES: usize = 32;

/// A payload that is too much.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Limit {
    /// Too long.
    #[error("the payload has more than {} MiB", BYTES_MAX >> 20)]
    Bytes,
    /// Too many values.
    #[error("the payload has more than {NODES_MAX} values")]
    Nodes,
    /// Too many containers in each other.
    #[error("the payload has more than {DEPTH_MAX} containers in each other")]
    Depth,
}

/// What a reader may still make.
pub(super) struct Budget {
    nodes: usize,
    bytes: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            nodes: NODES_MAX,
            bytes: BYTES_MAX,
        }
    }

    /// Pays for one value that holds so many bytes of its own.
    pub(super) fn take(&mut self, content_bytes: usize) -> Result<(), Limit> {
        self.nodes = self.nodes.checked_sub(1).ok_or(Limit::Nodes)?;
        self.bytes = self
            .bytes
            .checked_sub(content_bytes.saturating_add(NODE_BYTES))
            .ok_or(Limit::Bytes)?;
        Ok(())
    }
}

/// Values for property tests: everything that either serializer can hold, NaN apart (which equals nothing).
#[cfg(test)]
pub(super) mod generated {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::Value;

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::None),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            // The borders between the opcodes.
            (0..=33_u32, -2_i64..=2).prop_map(|(power, off)| Value::Int((1 << power) + off)),
            (prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL)
                .prop_map(Value::Float),
            ".{0,12}".prop_map(Value::Text),
            "a{250,260}".prop_map(Value::Text),
        ]
    }

    /// What JSON can hold: no bytes, no tuples, no sets, and dicts by text.
    pub(in crate::queue) fn json() -> impl Strategy<Value = Value> {
        scalar().prop_recursive(6, 60, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Value::List),
                vec((".{0,5}".prop_map(Value::Text), inner), 0..6).prop_map(Value::Dict),
            ]
        })
    }

    /// What pickle can hold.
    pub(in crate::queue) fn pickle() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            4 => scalar(),
            1 => vec(any::<u8>(), 0..300).prop_map(Value::Bytes)
        ];
        leaf.prop_recursive(6, 60, 6, |inner| {
            let key = prop_oneof![scalar(), vec(scalar(), 0..4).prop_map(Value::Tuple)];
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Value::List),
                vec(inner.clone(), 0..6).prop_map(Value::Tuple),
                vec(key.clone(), 0..4).prop_map(Value::Set),
                vec((key, inner), 0..6).prop_map(Value::Dict),
            ]
        })
    }
}
