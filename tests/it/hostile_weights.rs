//! PyTorch archives made by hand, byte by byte: every form that is read, and what nobody should.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reportclip::error::one_line;
use reportclip::model::checkpoint::{LoadOptions, inspect, load, save_safetensors};

use crate::common::{golden, numbers, open, tensors};

// ---- making pickles ----

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(n: i64) -> Vec<u8> {
    [&b"\x8a\x08"[..], &n.to_le_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", items.concat().as_slice(), b"t"].concat()
}

fn ints(items: &[i64]) -> Vec<u8> {
    tuple(&items.iter().map(|&n| int(n)).collect::<Vec<_>>())
}

fn storage(class: &str, key: &str, numbers: i64) -> Vec<u8> {
    let class = format!("ctorch\n{class}\n").into_bytes();
    [tuple(&[text("storage"), class, text(key), text("cpu"), int(numbers)]), b"Q".to_vec()].concat()
}

/// `_rebuild_tensor_v2(storage, offset, shape, strides, False, OrderedDict())`
fn rebuild(storage: Vec<u8>, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let hooks = b"ccollections\nOrderedDict\n)R".to_vec();
    let arguments = tuple(&[storage, int(offset), ints(shape), ints(strides), b"\x89".to_vec(), hooks]);
    [b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(), arguments, b"R".to_vec()].concat()
}

fn strides(shape: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

fn dict(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = entries.iter().flat_map(|(name, value)| [text(name), value.clone()].concat()).collect();
    [b"}(", items.as_slice(), b"u"].concat()
}

fn pickle(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

/// A zip archive of stored entries; `method` is what it says of them.
fn zip(entries: &[(String, Vec<u8>)], method: u16) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let (length, at) = ((content.len() as u32).to_le_bytes(), (bytes.len() as u32).to_le_bytes());
        let common = [
            &[0u8, 0][..],
            &method.to_le_bytes(),
            &[0; 4],
            &crc.sum().to_le_bytes(),
            &length,
            &length,
            &(name.len() as u16).to_le_bytes(),
            &[0, 0],
        ]
        .concat();
        bytes.extend([b"PK\x03\x04\x14\0", common.as_slice(), name.as_bytes(), content].concat());
        directory
            .extend([b"PK\x01\x02\x14\0\x14\0", common.as_slice(), &[0; 2 + 2 + 2 + 4], &at, name.as_bytes()].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (length, at) = ((directory.len() as u32).to_le_bytes(), (bytes.len() as u32).to_le_bytes());
    [bytes, directory, b"PK\x05\x06\0\0\0\0".to_vec(), [count, count].concat(), [length, at].concat(), vec![0, 0]]
        .concat()
}

/// The archive that `torch.save` writes of this pickle and these storages.
fn archive(value: &[u8], storages: &[(String, Vec<u8>)]) -> Vec<u8> {
    let data = storages.iter().map(|(key, bytes)| (format!("m/data/{key}"), bytes.clone()));
    let entries = [("m/data.pkl".to_string(), pickle(value)), ("m/byteorder".into(), b"little".to_vec())];
    zip(&entries.into_iter().chain(data).collect::<Vec<_>>(), 0)
}

/// The form of PyTorch before 1.6.
fn old_archive(value: &[u8], storages: &[(String, Vec<u8>)]) -> Vec<u8> {
    let keys = storages.iter().flat_map(|(key, _)| text(key)).collect::<Vec<u8>>();
    let data = storages.iter().flat_map(|(_, bytes)| [&(bytes.len() as u64 / 4).to_le_bytes()[..], bytes].concat());
    [
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec(),
        pickle(&dict(&[("little_endian".into(), b"\x88".to_vec())])),
        pickle(value),
        pickle(&[b"](", keys.as_slice(), b"e"].concat()),
        data.collect(),
    ]
    .concat()
}

// ---- a model whose weights are put into them ----

const MODEL: &str = "clip/quick_gelu_legacy_eos";

fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let flat = tensor.flatten_all().unwrap();
    match tensor.dtype() {
        DType::F64 => flat.to_vec1::<f64>().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::I64 => flat.to_vec1::<i64>().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => flat.to_vec1::<f32>().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

fn shape_of(tensor: &Tensor) -> Vec<i64> {
    tensor.dims().iter().map(|&d| d as i64).collect()
}

/// The model's folder with `bytes` as its only weights.
fn folder(bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden(MODEL).join("config.json"), dir.path().join("config.json")).unwrap();
    fs::write(dir.path().join("pytorch_model.bin"), bytes).unwrap();
    dir
}

fn weights() -> Vec<(String, Tensor)> {
    let mut all: Vec<_> = tensors(&golden(MODEL).join("model.safetensors")).into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Each tensor in a storage of its own: the dictionary and the storages.
type Saved = (Vec<(String, Vec<u8>)>, Vec<(String, Vec<u8>)>);

fn saved(weights: &[(String, Tensor)], class: &str, to: DType) -> Saved {
    let entry = |(i, (name, tensor)): (usize, &(String, Tensor))| {
        let (shape, tensor) = (shape_of(tensor), tensor.to_dtype(to).unwrap());
        let place = storage(class, &i.to_string(), tensor.elem_count() as i64);
        ((name.clone(), rebuild(place, 0, &shape, &strides(&shape))), (i.to_string(), bytes_of(&tensor)))
    };
    weights.iter().enumerate().map(entry).unzip()
}

fn assert_loads(form: &str, bytes: &[u8]) {
    let dir = folder(bytes);
    let loaded = load(&open(dir.path()), &LoadOptions::default(), &Device::Cpu);
    let loaded = loaded.unwrap_or_else(|error| panic!("{form}: {}", one_line(&error)));
    let reference = load(&open(&golden(MODEL)), &LoadOptions::default(), &Device::Cpu).unwrap();
    for param in reference.params.iter() {
        let ours = &loaded.params.get(&param.spec.name).unwrap().var;
        assert_eq!(numbers(ours), numbers(&param.var), "{form}: {}", param.spec.name);
    }
}

fn refusal(bytes: &[u8]) -> String {
    let dir = folder(bytes);
    let error = load(&open(dir.path()), &LoadOptions::default(), &Device::Cpu).err().expect("must not load");
    let line = one_line(&error);
    assert!(line.len() < 500 + dir.path().as_os_str().len() && line.lines().count() == 1, "{line}");
    assert!(line.contains("pytorch_model.bin") || line.contains("tensor"), "{line}");
    line
}

#[test]
fn what_torch_saves_is_read_in_every_form() {
    let weights = weights();
    let (entries, storages) = saved(&weights, "FloatStorage", DType::F32);
    assert_loads("zip", &archive(&dict(&entries), &storages));
    assert_loads("before 1.6", &old_archive(&dict(&entries), &storages));
    let (doubles, wide) = saved(&weights, "DoubleStorage", DType::F64);
    assert_loads("f64", &archive(&dict(&doubles), &wide));
    // A checkpoint of training, with what else stands there, and the attributes of its dictionary.
    let ordered = [b"ccollections\nOrderedDict\n)R(".to_vec(), dict(&entries)[2..].to_vec()].concat();
    let with_metadata = [ordered, b"}".to_vec(), text("_metadata"), b"}sb".to_vec()].concat();
    let rest = [("epoch".to_string(), int(3)), ("loss".to_string(), b"G?\xf0\0\0\0\0\0\0".to_vec())];
    for key in ["state_dict", "model"] {
        let top = [rest.as_slice(), &[(key.to_string(), with_metadata.clone())]].concat();
        assert_loads(key, &archive(&dict(&top), &storages));
    }
    // Parameters, and names that are remembered.
    let parameter = |value: &Vec<u8>| {
        let arguments = [value.clone(), b"\x88".to_vec(), b"ccollections\nOrderedDict\n)R".to_vec()];
        [b"ctorch._utils\n_rebuild_parameter\n".to_vec(), tuple(&arguments), b"R".to_vec()].concat()
    };
    let parameters: Vec<_> = entries.iter().map(|(name, value)| (name.clone(), parameter(value))).collect();
    assert_loads("parameters", &archive(&dict(&parameters), &storages));
    // One storage for all, matrices by columns.
    let (mut all, mut views) = (Vec::new(), Vec::new());
    let total: i64 = weights.iter().map(|(_, tensor)| tensor.elem_count() as i64).sum();
    for (name, tensor) in &weights {
        let (shape, offset) = (shape_of(tensor), all.len() as i64 / 4);
        let turned = tensor.dims().len() == 2;
        all.extend(bytes_of(&if turned { tensor.t().unwrap().contiguous().unwrap() } else { tensor.clone() }));
        let steps = if turned { vec![1, shape[0]] } else { strides(&shape) };
        views.push((name.clone(), rebuild(storage("FloatStorage", "all", total), offset, &shape, &steps)));
    }
    assert_loads("one storage", &archive(&dict(&views), &[("all".to_string(), all)]));
}

#[test]
fn a_pickle_that_no_state_dict_is_gets_one_line() {
    let one = |tensor: Vec<u8>| archive(&dict(&[("w".into(), tensor)]), &[("0".into(), vec![0; 16])]);
    let four = || storage("FloatStorage", "0", 4);
    let raw = |value: &[u8]| archive(value, &[]);
    let memo_doublings = [b"}".to_vec(), text("a"), text(&"A".repeat(1000)), b"q\0h\0\x86".repeat(40), b"s".to_vec()];
    let many = [b"}".to_vec(), text("a"), b"(".to_vec(), b"N".repeat(3 << 20), b"ts".to_vec()].concat();
    // One tensor and the arguments that made it, called again and again.
    let hooks = b"\x89ccollections\nOrderedDict\n)R".to_vec();
    let arguments = tuple(&[four(), int(0), ints(&[1; 16]), ints(&[1; 16]), hooks]);
    let remembered = [b"ctorch._utils\n_rebuild_tensor_v2\nq\0", &arguments[..], b"q\x01"].concat();
    let tensors = [remembered, b"R(".to_vec(), b"h\0h\x01R".repeat(1 << 17)].concat();
    let cases: [(&str, Vec<u8>, &str); 27] = [
        ("a call", raw(b"cposix\nsystem\n(X\x04\0\0\0trueqtR"), "posix.system is none of the names"),
        ("a short tuple", raw(&[b"}", &text("w")[..], b"ctorch._utils\n_rebuild_tensor_v2\n)Rs"].concat()), "0 arg"),
        ("deep tuples", raw(&[b"}", &text("a")[..], b")", &b"\x85".repeat(300_000), b"s"].concat()), "no tensors"),
        ("memo doublings", raw(&memo_doublings.concat()), "no tensors"),
        ("tensors by the hundred thousand", raw(&tensors), "has more than 131072 tensors"),
        ("three million values", raw(&many), "more than"),
        ("an opcode of protocol 4", raw(b"\x8c\x01a"), "opcode 0x8c"),
        ("an opcode of classes", raw(b"(i"), "opcode 0x69"),
        ("nothing", raw(b""), "takes a value where there is none"),
        ("a mark not set", raw(b"t"), "closes what was not opened"),
        ("under the mark", raw(b"}(s"), "takes a value where there is none"),
        ("a key without value", raw(b"}(Nu"), "a key without a value"),
        ("no dictionary", raw(b")NNs"), "no dictionary"),
        ("no list", raw(b"}Na"), "no list"),
        ("not remembered", raw(b"h\x07"), "value 7"),
        ("a text past the end", raw(b"X\xff\xff\xff\xff"), "ends early"),
        ("outside of its storage", one(rebuild(four(), 1, &[2, 2], &[2, 1])), "leaves its storage of 4"),
        ("by strides outside of it", one(rebuild(four(), 0, &[2, 2], &[3, 1])), "leaves its storage"),
        ("more numbers than it", one(rebuild(four(), 0, &[1 << 40], &[0])), "leaves its storage"),
        ("overflowing", one(rebuild(four(), 0, &[1 << 62, 1 << 62, 0], &[1, 1, 1])), "leaves its storage"),
        ("overflowing strides", one(rebuild(four(), i64::MAX, &[2, 2], &[i64::MAX, i64::MAX])), "leaves its storage"),
        ("a negative offset", one(rebuild(four(), -1, &[2], &[1])), "-1 is no length"),
        ("twenty dimensions", one(rebuild(four(), 0, &[1; 20], &[1; 20])), "20 dimensions"),
        ("a storage shorter than said", one(rebuild(storage("FloatStorage", "0", 5), 0, &[4], &[1])), "16 bytes, the"),
        ("no such storage", one(rebuild(storage("FloatStorage", "1", 4), 0, &[4], &[1])), "\"1\" is missing"),
        ("a storage elsewhere", one(rebuild(storage("FloatStorage", "../../x", 4), 0, &[4], &[1])), "is missing"),
        ("an unknown storage", one(rebuild(storage("QInt8Storage", "0", 4), 0, &[4], &[1])), "torch.QInt8Storage"),
    ];
    for (what, bytes, expected) in cases {
        let line = refusal(&bytes);
        assert!(line.contains(expected), "{what}: {line}");
    }
}

#[test]
fn archives_that_torch_does_not_write_get_one_line() {
    let (entries, storages) = saved(&weights()[..1], "FloatStorage", DType::F32);
    let whole = archive(&dict(&entries), &storages);
    let two = [("a/data.pkl".to_string(), pickle(b"}")), ("b/data.pkl".into(), pickle(b"}"))];
    let big = [("a/data.pkl".to_string(), pickle(b"}")), ("a/byteorder".into(), b"big".to_vec())];
    let packed = [("a/data.pkl".to_string(), pickle(b"}"))];
    let mut flipped = whole.clone();
    let at = whole.windows(7).position(|window| window == b"storage").unwrap();
    flipped[at] ^= 1;
    for (bytes, expected) in [
        (zip(&two, 0), "2 entries NAME/data.pkl"),
        (zip(&[], 0), "0 entries"),
        (zip(&big, 0), "big-endian"),
        (zip(&packed, 8), "compressed"),
        (flipped, "checksum"),
        (whole[..whole.len() - 30].to_vec(), "cut off"),
        (b"PK\x03\x04".to_vec(), "cut off"),
        (b"nothing of the kind".to_vec(), "begins like no file of torch.save"),
        (Vec::new(), "begins like no file"),
    ] {
        let line = refusal(&bytes);
        assert!(line.contains(expected), "{expected}: {line}");
    }
}

/// Whatever is done to a file: it loads, or is refused with a line; nothing panics and nothing is taken for long.
#[test]
fn mutated_archives_load_or_are_one_line() {
    let (entries, storages) = saved(&weights(), "FloatStorage", DType::F32);
    let forms = [archive(&dict(&entries), &storages), old_archive(&dict(&entries), &storages)];
    let mut rng = ChaCha8Rng::seed_from_u64(16);
    for form in &forms {
        for _ in 0..150 {
            let mut bytes = form.clone();
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..bytes.len());
                let run = rng.random_range(1..9).min(bytes.len() - at);
                match rng.random_range(0..4) {
                    0 => rng.fill_bytes(&mut bytes[at..at + run]),
                    1 => bytes[at] ^= 1 << rng.random_range(0..8),
                    2 => drop(bytes.drain(at..at + run)),
                    _ => bytes.truncate(at.max(40)),
                }
            }
            let dir = folder(&bytes);
            if let Err(error) = load(&open(dir.path()), &LoadOptions::default(), &Device::Cpu) {
                let line = one_line(&error);
                assert!(line.lines().count() == 1 && line.len() < 600, "{line}");
            }
        }
    }
}

fn with_weights(weights: &[(String, Tensor)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden(MODEL).join("config.json"), dir.path().join("config.json")).unwrap();
    save_safetensors(&dir.path().join("model.safetensors"), weights).unwrap();
    dir
}

fn load_error(folder: &Path) -> String {
    one_line(&load(&open(folder), &LoadOptions::default(), &Device::Cpu).err().expect("must not load"))
}

#[test]
fn integer_weights_are_refused_and_counters_are_not() {
    let mut weights = weights();
    let at = weights.iter().position(|(name, _)| name == "visual_projection.weight").unwrap();
    let floats = weights[at].1.clone();
    weights[at].1 = floats.to_dtype(DType::I64).unwrap();
    let dir = with_weights(&weights);
    let line = load_error(dir.path());
    assert!(line.contains("visual_projection.weight holds numbers of type i64"), "{line}");
    assert_eq!(inspect(&open(dir.path())).unwrap().problems.len(), 1);
    let (entries, storages) = saved(&self::weights(), "LongStorage", DType::I64);
    let line = load_error(folder(&archive(&dict(&entries), &storages)).path());
    assert!(line.contains("numbers of type i64"), "{line}");
    // Row numbers are whole numbers, and stay ignored.
    for to in [DType::F16, DType::BF16, DType::F64] {
        weights[at].1 = floats.to_dtype(to).unwrap();
        let ids = Tensor::arange(0i64, 16, &Device::Cpu).unwrap();
        let all = [weights.as_slice(), &[("text_model.embeddings.position_ids".into(), ids)]].concat();
        load(&open(with_weights(&all).path()), &LoadOptions::default(), &Device::Cpu).unwrap();
    }
}

#[test]
fn weights_that_are_no_numbers_are_counted_and_named() {
    let mut weights = weights();
    for (name, bad) in [("visual_projection.weight", f32::NAN), ("text_projection.weight", f32::INFINITY)] {
        let tensor = &mut weights.iter_mut().find(|(known, _)| known == name).unwrap().1;
        let mut values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        values[3..5].fill(bad);
        *tensor = Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap();
    }
    let line = load_error(with_weights(&weights).path());
    let expected = "4 weights of 2 tensors are NaN or infinite, first 2 in tensor text_projection.weight";
    assert!(line.contains(expected), "{line}");
}

#[test]
fn a_header_that_takes_memory_is_refused() {
    let dir = with_weights(&weights());
    let path = dir.path().join("model.safetensors");
    let mut bytes = (40u64 << 20).to_le_bytes().to_vec();
    bytes.extend(b"{\"__metadata__\":{");
    bytes.resize(8 + (40 << 20), b' ');
    fs::write(&path, bytes).unwrap();
    let line = load_error(dir.path());
    assert!(line.contains("its header would have 41943040 bytes"), "{line}");
    // Nested past any header's depth.
    let nested = b"[".repeat(200_000);
    fs::write(&path, [&(nested.len() as u64).to_le_bytes()[..], &nested].concat()).unwrap();
    assert!(load_error(dir.path()).contains("not a whole safetensors file"));
}

#[test]
fn configs_of_models_that_no_file_holds_are_refused() {
    for (section, key, value) in [
        ("vision_config", "hidden_size", "1048576"),
        ("vision_config", "num_hidden_layers", "1000000000"),
        ("text_config", "num_hidden_layers", "1024"),
        ("text_config", "vocab_size", "1000000000000000000"),
        ("text_config", "intermediate_size", "-1"),
        ("text_config", "hidden_size", "1e400"),
        ("vision_config", "layer_norm_eps", "\"NaN\""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(golden(MODEL).join(name), dir.path().join(name)).unwrap();
        }
        let path = dir.path().join("config.json");
        let config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let old = format!("\"{key}\":{}", config[section][key]);
        let inner = config[section].to_string();
        let text = config.to_string().replace(&inner, &inner.replace(&old, &format!("\"{key}\":{value}")));
        fs::write(&path, text).unwrap();
        let line = load_error(dir.path());
        assert!(line.lines().count() == 1 && line.len() < 700, "{key}: {line}");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden(MODEL).join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    for config in ["[1]", "{\"model_type\": [[1]]}", "{\"model_type\": \"clip\", \"vision_config\": 5}"] {
        fs::write(dir.path().join("config.json"), config).unwrap();
        assert_eq!(load_error(dir.path()).lines().count(), 1);
    }
}
