//! What the pickles of PyTorch's dictionaries of weights name: types, storages, and tensors within them.

use anyhow::{Result, ensure};

/// Most dimensions of a tensor.
pub(super) const MAX_RANK: usize = 16;

/// What a tensor's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// As candle calls it.
    pub name: &'static str,
    /// Bytes a number.
    pub bytes: usize,
}

/// By the name of their storage, which is a class of `torch` or `torch.storage`.
const STORAGES: [(&str, Element); 10] = [
    ("FloatStorage", Element { name: "f32", bytes: 4 }),
    ("DoubleStorage", Element { name: "f64", bytes: 8 }),
    ("HalfStorage", Element { name: "f16", bytes: 2 }),
    ("BFloat16Storage", Element { name: "bf16", bytes: 2 }),
    ("ByteStorage", Element { name: "u8", bytes: 1 }),
    ("CharStorage", Element { name: "i8", bytes: 1 }),
    ("BoolStorage", Element { name: "bool", bytes: 1 }),
    ("ShortStorage", Element { name: "i16", bytes: 2 }),
    ("IntStorage", Element { name: "i32", bytes: 4 }),
    ("LongStorage", Element { name: "i64", bytes: 8 }),
];

/// A run of numbers that tensors are parts of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub element: Element,
    /// Numbers in it, as the pickle says.
    pub numbers: u64,
}

impl Storage {
    /// `None` where that is more than can be.
    pub fn bytes(&self) -> Option<u64> {
        self.numbers.checked_mul(self.element.bytes as u64)
    }
}

/// A tensor: where its numbers lie in a storage. Every one of them lies within it, and there are no more of them than
/// the storage has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorPlace {
    pub element: Element,
    pub storage: String,
    /// First number.
    pub offset: u64,
    pub shape: Vec<usize>,
    /// Numbers from one to the next, by dimension.
    pub strides: Vec<u64>,
}

impl TensorPlace {
    /// The tensor of `shape` that begins at number `offset` of a storage, by its key.
    ///
    /// # Errors
    /// It leaves the storage, or has more numbers.
    pub fn new((key, storage): (&str, Storage), offset: u64, shape: &[u64], strides: Vec<u64>) -> Result<Self> {
        ensure!(shape.len() == strides.len(), "a tensor has {} sizes, {} strides", shape.len(), strides.len());
        let count = shape.iter().try_fold(1u64, |all, &d| all.checked_mul(d));
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |at, (&d, &stride)| at.checked_add(d.saturating_sub(1).checked_mul(stride)?));
        let fits = |n: Option<u64>| n.is_some_and(|n| n <= storage.numbers);
        ensure!(
            fits(count) && (count == Some(0) || fits(last.and_then(|last| last.checked_add(1)))),
            "a tensor of shape {shape:?}, strides {strides:?}, offset {offset} leaves its storage of {} numbers",
            storage.numbers
        );
        Ok(Self {
            element: storage.element,
            storage: key.to_string(),
            offset,
            shape: shape.iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>()?,
            strides,
        })
    }

    /// Whether its numbers lie one behind the other.
    pub fn is_contiguous(&self) -> bool {
        let mut step = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&d, &stride)| {
            let next = d == 1 || stride == step;
            step *= d as u64;
            next
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Storage(Element),
    Dict,
    Size,
    /// `_rebuild_tensor_v2`, and the form before it with fewer arguments.
    Tensor,
    Parameter,
    /// `_rebuild_from_type_v2(rebuild, type, arguments, state)`.
    Typed,
    /// Types and small objects that stand beside weights.
    Other,
}

/// What may be named. Everything else is refused by name.
pub(super) fn known_name(module: &str, name: &str) -> Option<Name> {
    Some(match (module, name) {
        ("collections", "OrderedDict" | "defaultdict") => Name::Dict,
        ("torch", "Size") => Name::Size,
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Name::Tensor,
        ("torch._utils", "_rebuild_parameter") => Name::Parameter,
        ("torch._tensor", "_rebuild_from_type_v2") => Name::Typed,
        ("torch" | "torch.storage", name) if name.ends_with("Storage") => {
            Name::Storage(STORAGES.iter().find(|(known, _)| *known == name)?.1)
        }
        ("torch", "Tensor" | "device" | "float16" | "bfloat16" | "float32" | "float64" | "int64")
        | ("torch.nn.parameter", "Parameter")
        | ("_codecs", "encode")
        | ("builtins" | "__builtin__", "dict" | "list" | "int" | "float") => Name::Other,
        _ => return None,
    })
}
