//! Pickles of PyTorch, read as data: the opcodes and names that dictionaries of tensors use, and nothing else. Nothing
//! is ever called. Values lie in one list and name each other by number, so nesting costs no stack and sharing no
//! memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::state_dict::{MAX_RANK, Name, Storage, TensorPlace, known_name};
use crate::error::shown;

/// Longest pickle that is read: names, shapes and offsets, never the numbers themselves.
pub(super) const MAX_BYTES: u64 = 64 << 20;
/// Most values of a pickle; a checkpoint of a thousand tensors with its optimizer has some 100,000.
const MAX_VALUES: usize = 1 << 21;
/// Most tensors among them: each takes some hundred bytes, and as few as six of the pickle.
const MAX_TENSORS: usize = 1 << 17;

/// What a pickle holds.
pub(super) struct Unpickled {
    /// Tensors of the dictionary at the top, or of its `state_dict` or `model` where it holds none itself.
    pub tensors: BTreeMap<String, Arc<TensorPlace>>,
    /// By key.
    pub storages: BTreeMap<String, Storage>,
}

type Id = u32;

enum Value<'a> {
    /// Nothing, truth, a float, or an object that no weight needs.
    Other,
    Int(i64),
    Text(&'a str),
    Name(Name),
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Storage(&'a str, Storage),
    Tensor(Arc<TensorPlace>),
}

/// Reads the pickle at the start of `bytes`; says also how long it is.
///
/// # Errors
/// It ends early, or has an opcode, a name or a tensor that dictionaries of weights do not have.
pub(super) fn tensors(bytes: &[u8]) -> Result<(Unpickled, usize)> {
    let (machine, root, end) = run(bytes)?;
    let mut tensors = machine.tensors_of(root);
    for key in ["state_dict", "model"] {
        if tensors.is_empty()
            && let Some(inner) = machine.entry(root, key)
        {
            tensors = machine.tensors_of(inner);
        }
    }
    Ok((Unpickled { tensors, storages: machine.storages }, end))
}

/// Reads the pickle of a list of texts; says also how long it is.
///
/// # Errors
/// As [`tensors`], or it is something else.
pub(super) fn texts(bytes: &[u8]) -> Result<(Vec<String>, usize)> {
    let (machine, root, end) = run(bytes)?;
    let texts = machine.sequence(root)?.iter().map(|&id| Ok(machine.text(id)?.to_string()));
    Ok((texts.collect::<Result<_>>()?, end))
}

/// Passes over one pickle; says how long it is.
///
/// # Errors
/// As [`tensors`].
pub(super) fn skip(bytes: &[u8]) -> Result<usize> {
    Ok(run(bytes)?.2)
}

fn run(bytes: &[u8]) -> Result<(Machine<'_>, Id, usize)> {
    let mut machine = Machine {
        bytes,
        at: 0,
        values: Vec::new(),
        tensors: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        storages: BTreeMap::new(),
    };
    loop {
        let start = machine.at;
        let stop = machine.step().with_context(|| format!("byte {start} of the pickle"))?;
        if stop {
            let root = machine.pop()?;
            let end = machine.at;
            return Ok((machine, root, end));
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    /// Tensors among them.
    tensors: usize,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    storages: BTreeMap<String, Storage>,
}

impl<'a> Machine<'a> {
    /// One opcode; whether it was the last.
    fn step(&mut self) -> Result<bool> {
        match self.take::<1>()?[0] {
            b'.' => return Ok(true),
            0x80 => drop(self.take::<1>()?),
            b'(' => {
                ensure!(self.marks.len() < MAX_VALUES, "has more than {MAX_VALUES} marks");
                self.marks.push(self.stack.len());
            }
            b'N' | 0x88 | 0x89 => self.push(Value::Other)?,
            b'G' => {
                self.take::<8>()?;
                self.push(Value::Other)?;
            }
            b'K' => self.push_int(|m| Ok(i64::from(m.take::<1>()?[0])))?,
            b'M' => self.push_int(|m| Ok(i64::from(u16::from_le_bytes(m.take()?))))?,
            b'J' => self.push_int(|m| Ok(i64::from(i32::from_le_bytes(m.take()?))))?,
            0x8a => self.long()?,
            b'X' | b'T' => self.push_text(|m| Ok(u32::from_le_bytes(m.take()?)))?,
            b'U' => self.push_text(|m| Ok(u32::from(m.take::<1>()?[0])))?,
            b'c' => self.name()?,
            b')' | b']' => self.push(Value::Sequence(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b't' | b'l' => {
                let items = self.pop_mark()?;
                self.push(Value::Sequence(items))?;
            }
            op @ 0x85..=0x87 => {
                let mut items = (0..op - 0x84).map(|_| self.pop()).collect::<Result<Vec<Id>>>()?;
                items.reverse();
                self.push(Value::Sequence(items))?;
            }
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Value::Dict(Vec::new()))?;
                self.put(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.extend(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.put(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.put(&items)?;
            }
            b'q' => self.remember(|m| Ok(u32::from(m.take::<1>()?[0])))?,
            b'r' => self.remember(|m| Ok(u32::from_le_bytes(m.take()?)))?,
            b'h' => self.recall(|m| Ok(u32::from(m.take::<1>()?[0])))?,
            b'j' => self.recall(|m| Ok(u32::from_le_bytes(m.take()?)))?,
            b'Q' => self.storage()?,
            b'R' | 0x81 => self.reduce()?,
            b'b' => self.build()?,
            op => bail!("opcode 0x{op:02x} is none of those that dictionaries of tensors use"),
        }
        Ok(false)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.slice(N)?.try_into()?)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8]> {
        let slice = self.bytes.get(self.at..).and_then(|rest| rest.get(..length)).context("it ends early")?;
        self.at += length;
        Ok(slice)
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        ensure!(self.values.len() < MAX_VALUES, "has more than {MAX_VALUES} values");
        self.values.push(value);
        self.push_id(self.values.len() as Id - 1)
    }

    fn push_id(&mut self, id: Id) -> Result<()> {
        ensure!(self.stack.len() < MAX_VALUES, "has more than {MAX_VALUES} values at once");
        self.stack.push(id);
        Ok(())
    }

    fn push_int(&mut self, read: impl FnOnce(&mut Self) -> Result<i64>) -> Result<()> {
        let value = read(self)?;
        self.push(Value::Int(value))
    }

    fn push_text(&mut self, length: impl FnOnce(&mut Self) -> Result<u32>) -> Result<()> {
        let length = length(self)? as usize;
        let text = std::str::from_utf8(self.slice(length)?).context("a text is not UTF-8")?;
        self.push(Value::Text(text))
    }

    /// A whole number of up to 255 bytes; one that no shape could have is as good as none.
    fn long(&mut self) -> Result<()> {
        let length = usize::from(self.take::<1>()?[0]);
        let bytes = self.slice(length)?;
        if length > 8 {
            return self.push(Value::Other);
        }
        let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
        let mut all = [fill; 8];
        all[..length].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(all)))
    }

    fn name(&mut self) -> Result<()> {
        let mut line = || -> Result<&'a str> {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let length = rest.iter().position(|&b| b == b'\n').context("it ends early")?;
            let line = self.slice(length + 1)?;
            std::str::from_utf8(&line[..length]).context("a name is not UTF-8")
        };
        let (module, name) = (line()?, line()?);
        let known = known_name(module, name).with_context(|| {
            format!("{}.{} is none of the names that dictionaries of tensors use", shown(module), shown(name))
        })?;
        self.push(Value::Name(known))
    }

    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        ensure!(self.stack.len() > floor, "takes a value where there is none");
        self.stack.pop().context("takes a value where there is none")
    }

    /// All above the last mark, which goes too.
    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().context("closes what was not opened")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&mut self) -> Result<&mut Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let id = self.stack.get(floor..).and_then(<[Id]>::last).context("changes a value where there is none")?;
        Ok(&mut self.values[*id as usize])
    }

    fn extend(&mut self, items: &[Id]) -> Result<()> {
        let Value::Sequence(list) = self.top()? else { bail!("appends to what is no list") };
        list.extend_from_slice(items);
        Ok(())
    }

    /// Keys and values by turns into the dictionary on top.
    fn put(&mut self, items: &[Id]) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        ensure!(rest.is_empty(), "has a key without a value");
        let Value::Dict(dict) = self.top()? else { bail!("sets an item of what is no dictionary") };
        dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn remember(&mut self, key: impl FnOnce(&mut Self) -> Result<u32>) -> Result<()> {
        let key = key(self)?;
        ensure!(self.memo.len() < MAX_VALUES, "remembers more than {MAX_VALUES} values");
        let id = *self.stack.last().context("remembers a value where there is none")?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, key: impl FnOnce(&mut Self) -> Result<u32>) -> Result<()> {
        let key = key(self)?;
        let id = *self.memo.get(&key).with_context(|| format!("recalls value {key}, which was not remembered"))?;
        self.push_id(id)
    }

    fn sequence(&self, id: Id) -> Result<&[Id]> {
        match &self.values[id as usize] {
            Value::Sequence(items) => Ok(items),
            _ => bail!("a tuple or list is expected"),
        }
    }

    fn text(&self, id: Id) -> Result<&'a str> {
        match &self.values[id as usize] {
            Value::Text(text) => Ok(text),
            _ => bail!("a text is expected"),
        }
    }

    fn size(&self, id: Id) -> Result<u64> {
        match &self.values[id as usize] {
            Value::Int(size) => u64::try_from(*size).ok().with_context(|| format!("{size} is no length")),
            _ => bail!("a whole number is expected"),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<u64>> {
        let items = self.sequence(id)?;
        ensure!(items.len() <= MAX_RANK, "a tensor has {} dimensions; allowed are {MAX_RANK}", items.len());
        items.iter().map(|&id| self.size(id)).collect()
    }

    /// `("storage", class, key, device, numbers)`, by older ones with a view that must be none.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let items = self.sequence(id)?;
        let (&[kind, class, key, _, numbers], rest) = items.split_first_chunk().context("a storage is cut short")?;
        let view = rest.iter().any(|&id| !matches!(self.values[id as usize], Value::Other));
        ensure!(self.text(kind)? == "storage" && !view, "a persistent value is no plain storage");
        let Value::Name(Name::Storage(element)) = self.values[class as usize] else {
            bail!("a storage has no known type")
        };
        let (key, storage) = (self.text(key)?, Storage { element, numbers: self.size(numbers)? });
        ensure!(key.len() <= 256, "a storage has a name of {} bytes; allowed are 256", key.len());
        let before = self.storages.insert(key.to_string(), storage);
        ensure!(before.is_none_or(|before| before == storage), "storage {} is told twice, differently", shown(key));
        self.push(Value::Storage(key, storage))
    }

    fn reduce(&mut self) -> Result<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Value::Name(name) = self.values[callable as usize] else { bail!("calls what is no name") };
        match (name, self.sequence(arguments)?) {
            (Name::Dict, _) => self.push(Value::Dict(Vec::new())),
            (Name::Size, &[sizes]) => self.push_id(sizes),
            (Name::Tensor, &[storage, offset, shape, strides, ..]) => {
                ensure!(self.tensors < MAX_TENSORS, "has more than {MAX_TENSORS} tensors");
                self.tensors += 1;
                let tensor = self.tensor(storage, offset, shape, strides)?;
                self.push(Value::Tensor(tensor))
            }
            (Name::Parameter, &[tensor, ..]) => self.push_id(tensor),
            (Name::Typed, &[rebuild, _, arguments, ..]) => {
                ensure!(matches!(self.values[rebuild as usize], Value::Name(Name::Tensor)), "rebuilds no tensor");
                self.push_id(rebuild)?;
                self.push_id(arguments)?;
                // Never deeper: what is rebuilt is a tensor.
                self.reduce()
            }
            (Name::Other, _) => self.push(Value::Other),
            (Name::Storage(_), _) => bail!("makes a storage anew"),
            (_, items) => bail!("a tensor, parameter or size with {} arguments", items.len()),
        }
    }

    fn tensor(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<Arc<TensorPlace>> {
        let Value::Storage(key, storage) = self.values[storage as usize] else { bail!("a tensor without a storage") };
        let (offset, shape, strides) = (self.size(offset)?, self.sizes(shape)?, self.sizes(strides)?);
        Ok(Arc::new(TensorPlace::new((key, storage), offset, &shape, strides)?))
    }

    /// Attributes of a dictionary, such as the versions of PyTorch's modules, say nothing of weights.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        ensure!(matches!(self.top()?, Value::Dict(_)), "sets the state of what is no dictionary");
        Ok(())
    }

    fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        let Value::Dict(entries) = &self.values[dict as usize] else { return None };
        entries.iter().rev().find(|(name, _)| self.text(*name).is_ok_and(|name| name == key)).map(|(_, value)| *value)
    }

    /// As in Python, the last of a name holds.
    fn tensors_of(&self, dict: Id) -> BTreeMap<String, Arc<TensorPlace>> {
        let Value::Dict(entries) = &self.values[dict as usize] else { return BTreeMap::new() };
        let tensor = |&(name, value): &(Id, Id)| match (&self.values[name as usize], &self.values[value as usize]) {
            (Value::Text(name), Value::Tensor(tensor)) => Some((name.to_string(), Arc::clone(tensor))),
            _ => None,
        };
        entries.iter().filter_map(tensor).collect()
    }
}
