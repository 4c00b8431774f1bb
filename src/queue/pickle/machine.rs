//! The machine that follows a pickle's instructions, as far as they make plain data.

use std::collections::BTreeMap;

use super::opcode::{
    ADDITEMS, APPEND, APPENDS, BINBYTES, BINFLOAT, BINGET, BININT, BININT1, BININT2, BINPUT,
    BINUNICODE, BYTEARRAY8, EMPTY_DICT, EMPTY_LIST, EMPTY_SET, EMPTY_TUPLE, FRAME, FROZENSET, GET,
    LONG_BINGET, LONG_BINPUT, LONG1, MARK, MEMOIZE, NEWFALSE, NEWTRUE, NONE, POP, POP_MARK, PROTO,
    PUT, REFUSED, SETITEM, SETITEMS, SHORT_BINBYTES, SHORT_BINUNICODE, STOP, TUPLE, TUPLE1, TUPLE2,
    TUPLE3,
};
use super::{PROTOCOL_MAX, PickleError};
use crate::queue::value::{Budget, DEPTH_MAX, Limit, NODES_MAX, Value};

/// A pickle may push so often: each value once, and each container's mark.
const PUSHES_MAX: usize = 2 * NODES_MAX;
/// A memo's number as text, as protocol 0 has it: ten digits and the line's end.
const DECIMAL_BYTES_MAX: usize = 11;

/// Where a value is in the arena.
type Index = usize;

/// A value in the arena. Containers hold indices, so that two may share a third, and dropping one never goes deep.
enum Node {
    Plain(Value),
    List(Vec<Index>),
    Tuple { items: Vec<Index>, hashable: bool },
    Set(Vec<Index>),
    Dict(Vec<Index>),
}

pub(super) struct Machine<'a> {
    rest: &'a [u8],
    nodes: Vec<Node>,
    stack: Vec<Index>,
    /// How high the stack was at each MARK.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Index>,
    pushes_left: usize,
}

impl<'a> Machine<'a> {
    pub(super) fn new(pickle: &'a [u8]) -> Self {
        Self {
            rest: pickle,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
            pushes_left: PUSHES_MAX,
        }
    }

    /// Follows the instructions to the end, which bounds their number too: each is a byte at least.
    pub(super) fn run(mut self) -> Result<Value, PickleError> {
        loop {
            if let Some(root) = self.step()? {
                return self.copy(root, &mut Vec::new(), &mut Budget::new());
            }
        }
    }

    /// Follows one instruction; at STOP, the value that is left.
    fn step(&mut self) -> Result<Option<Index>, PickleError> {
        match self.byte()? {
            PROTO => self.protocol()?,
            // How long the next frame is; the whole pickle is here already.
            FRAME => {
                self.array::<8>()?;
            }
            STOP => return self.stop().map(Some),
            MARK => self.mark()?,
            POP if self.marks.last() == Some(&self.stack.len()) => drop(self.pop_to_mark()?),
            POP => {
                self.pop()?;
            }
            POP_MARK => drop(self.pop_to_mark()?),
            EMPTY_TUPLE => self.push_tuple(Vec::new())?,
            TUPLE1 => self.short_tuple(1)?,
            TUPLE2 => self.short_tuple(2)?,
            TUPLE3 => self.short_tuple(3)?,
            TUPLE => {
                let items = self.pop_to_mark()?;
                self.push_tuple(items)?;
            }
            EMPTY_LIST => self.push_node(Node::List(Vec::new()))?,
            EMPTY_DICT => self.push_node(Node::Dict(Vec::new()))?,
            EMPTY_SET => self.push_node(Node::Set(Vec::new()))?,
            FROZENSET => {
                let items = self.pop_to_mark()?;
                self.push_node(Node::Set(Vec::new()))?;
                self.add(items)?;
            }
            APPEND => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            APPENDS => {
                let items = self.pop_to_mark()?;
                self.append(&items)?;
            }
            SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            SETITEMS => {
                let pairs = self.pop_to_mark()?;
                self.set(&pairs)?;
            }
            ADDITEMS => {
                let items = self.pop_to_mark()?;
                self.add(items)?;
            }
            opcode => self.remember_or_push(opcode)?,
        }
        Ok(None)
    }

    /// The memo's instructions, and those that push one plain value.
    fn remember_or_push(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            PUT => self.decimal().and_then(|number| self.put(number)),
            BINPUT => self.byte().and_then(|number| self.put(number.into())),
            LONG_BINPUT => self.length().and_then(|number| self.put(number)),
            // As Python does: the number is how many there are.
            MEMOIZE => {
                let number = u32::try_from(self.memo.len()).map_err(|_| PickleError::Memo)?;
                self.put(number)
            }
            GET => self.decimal().and_then(|number| self.get(number)),
            BINGET => self.byte().and_then(|number| self.get(number.into())),
            LONG_BINGET => self.length().and_then(|number| self.get(number)),
            opcode => {
                let value = self.plain(opcode)?;
                self.push_node(Node::Plain(value))
            }
        }
    }

    fn plain(&mut self, opcode: u8) -> Result<Value, PickleError> {
        Ok(match opcode {
            NONE => Value::None,
            NEWTRUE => Value::Bool(true),
            NEWFALSE => Value::Bool(false),
            BININT1 => Value::Int(self.byte()?.into()),
            BININT2 => Value::Int(u16::from_le_bytes(self.array()?).into()),
            BININT => Value::Int(i32::from_le_bytes(self.array()?).into()),
            LONG1 => {
                let length = self.byte()?;
                Value::Int(integer(self.take(length.into())?)?)
            }
            BINFLOAT => Value::Float(f64::from_be_bytes(self.array()?)),
            SHORT_BINUNICODE => {
                let length = self.byte()?;
                self.text(length.into())?
            }
            BINUNICODE => {
                let length = self.length()?;
                self.text(length.into())?
            }
            SHORT_BINBYTES => {
                let length = self.byte()?;
                Value::Bytes(self.take(length.into())?.to_vec())
            }
            BINBYTES => {
                let length = self.length()?;
                Value::Bytes(self.take(length.into())?.to_vec())
            }
            BYTEARRAY8 => {
                let length = u64::from_le_bytes(self.array()?);
                Value::Bytes(self.take(length)?.to_vec())
            }
            other => return Err(refusal(other)),
        })
    }

    fn protocol(&mut self) -> Result<(), PickleError> {
        match self.byte()? {
            0..=PROTOCOL_MAX => Ok(()),
            later => Err(PickleError::Protocol(later)),
        }
    }

    /// Exactly one value is left, and nothing behind it.
    fn stop(&mut self) -> Result<Index, PickleError> {
        let root = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err(PickleError::Stack);
        }
        if !self.rest.is_empty() {
            return Err(PickleError::Trailing);
        }
        Ok(root)
    }

    fn count_push(&mut self) -> Result<(), Limit> {
        self.pushes_left = self.pushes_left.checked_sub(1).ok_or(Limit::Nodes)?;
        Ok(())
    }

    fn mark(&mut self) -> Result<(), PickleError> {
        self.count_push()?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn push_node(&mut self, node: Node) -> Result<(), PickleError> {
        self.count_push()?;
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    fn push_tuple(&mut self, items: Vec<Index>) -> Result<(), PickleError> {
        let hashable = items.iter().all(|item| self.is_hashable(*item));
        self.push_node(Node::Tuple { items, hashable })
    }

    fn short_tuple(&mut self, length: usize) -> Result<(), PickleError> {
        let from = self.stack.len().checked_sub(length);
        let from = from
            .filter(|from| *from >= self.floor())
            .ok_or(PickleError::Stack)?;
        let items = self.stack.split_off(from);
        self.push_tuple(items)
    }

    /// The last MARK is a floor: what lies below it can be reached only once it is gone.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Index, PickleError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&self) -> Result<Index, PickleError> {
        self.stack[self.floor()..]
            .last()
            .copied()
            .ok_or(PickleError::Stack)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Index>, PickleError> {
        let mark = self.marks.pop().ok_or(PickleError::Stack)?;
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: &[Index]) -> Result<(), PickleError> {
        let top = self.top()?;
        let Node::List(list) = &mut self.nodes[top] else {
            return Err(PickleError::Shape);
        };
        list.extend_from_slice(items);
        Ok(())
    }

    /// Keys and values in turn.
    fn set(&mut self, pairs: &[Index]) -> Result<(), PickleError> {
        let mut keys = pairs.iter().step_by(2);
        if !keys.all(|key| self.is_hashable(*key)) {
            return Err(PickleError::Unhashable);
        }
        let top = self.top()?;
        let Node::Dict(dict) = &mut self.nodes[top] else {
            return Err(PickleError::Shape);
        };
        if pairs.len() % 2 == 1 {
            return Err(PickleError::Stack);
        }
        dict.extend_from_slice(pairs);
        Ok(())
    }

    fn add(&mut self, items: Vec<Index>) -> Result<(), PickleError> {
        if !items.iter().all(|item| self.is_hashable(*item)) {
            return Err(PickleError::Unhashable);
        }
        let top = self.top()?;
        let Node::Set(set) = &mut self.nodes[top] else {
            return Err(PickleError::Shape);
        };
        set.extend(items);
        Ok(())
    }

    fn is_hashable(&self, index: Index) -> bool {
        match &self.nodes[index] {
            Node::Plain(_) | Node::Set(_) => true,
            Node::Tuple { hashable, .. } => *hashable,
            Node::List(_) | Node::Dict(_) => false,
        }
    }

    fn put(&mut self, number: u32) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(number, top);
        // Remembering pushes nothing, so it has a bound of its own.
        if self.memo.len() > NODES_MAX {
            return Err(Limit::Nodes.into());
        }
        Ok(())
    }

    fn get(&mut self, number: u32) -> Result<(), PickleError> {
        let index = *self.memo.get(&number).ok_or(PickleError::Memo)?;
        self.count_push()?;
        self.stack.push(index);
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        self.array().map(|[byte]| byte)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], PickleError> {
        let (array, rest) = self
            .rest
            .split_first_chunk::<LENGTH>()
            .ok_or(PickleError::Truncated)?;
        self.rest = rest;
        Ok(*array)
    }

    fn take(&mut self, length: u64) -> Result<&[u8], PickleError> {
        let length = usize::try_from(length).map_err(|_| PickleError::Truncated)?;
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(PickleError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn length(&mut self) -> Result<u32, PickleError> {
        self.array().map(u32::from_le_bytes)
    }

    fn text(&mut self, length: u64) -> Result<Value, PickleError> {
        let text = str::from_utf8(self.take(length)?).map_err(|_| PickleError::Text)?;
        Ok(Value::Text(text.to_owned()))
    }

    /// A memo's number in decimal, to the end of the line.
    fn decimal(&mut self) -> Result<u32, PickleError> {
        let line = self.rest.iter().take(DECIMAL_BYTES_MAX);
        let length = line.take_while(|byte| byte.is_ascii_digit()).count();
        let number = self.take(length as u64)?;
        let number = str::from_utf8(number)
            .ok()
            .and_then(|text| text.parse().ok());
        let [end] = self.array()?;
        number.filter(|_| end == b'\n').ok_or(PickleError::Memo)
    }

    /// Copies a value out of the arena, together with all that it contains.
    fn copy(
        &self,
        index: Index,
        path: &mut Vec<Index>,
        budget: &mut Budget,
    ) -> Result<Value, PickleError> {
        let items = match &self.nodes[index] {
            Node::Plain(value) => {
                budget.take(content_bytes(value))?;
                return Ok(value.clone());
            }
            Node::List(items)
            | Node::Tuple { items, .. }
            | Node::Set(items)
            | Node::Dict(items) => items,
        };
        if path.contains(&index) {
            return Err(PickleError::Recursive);
        }
        if path.len() == DEPTH_MAX {
            return Err(Limit::Depth.into());
        }
        budget.take(0)?;
        path.push(index);
        let copies = items
            .iter()
            .map(|item| self.copy(*item, path, budget))
            .collect::<Result<Vec<Value>, _>>()?;
        path.pop();
        Ok(match &self.nodes[index] {
            Node::Tuple { .. } => Value::Tuple(copies),
            Node::Set(_) => Value::Set(copies),
            Node::Dict(_) => Value::Dict(pairs(copies)),
            Node::List(_) | Node::Plain(_) => Value::List(copies),
        })
    }
}

fn pairs(values: Vec<Value>) -> Vec<(Value, Value)> {
    let mut values = values.into_iter();
    let mut pairs = Vec::with_capacity(values.len() / 2);
    while let (Some(key), Some(value)) = (values.next(), values.next()) {
        pairs.push((key, value));
    }
    pairs
}

fn content_bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 0,
    }
}

/// Two's complement, the lowest byte first; no bytes are zero.
fn integer(bytes: &[u8]) -> Result<i64, PickleError> {
    let negative = bytes.last().is_some_and(|highest| highest & 0x80 != 0);
    let mut whole = [if negative { 0xff } else { 0 }; 8];
    whole
        .get_mut(..bytes.len())
        .ok_or(PickleError::Integer)?
        .copy_from_slice(bytes);
    Ok(i64::from_le_bytes(whole))
}

fn refusal(opcode: u8) -> PickleError {
    REFUSED
        .iter()
        .find(|(refused, _)| *refused == opcode)
        .map_or(PickleError::Unknown, |(_, name)| PickleError::Refused(name))
}
