//! Seeded changes of bytes, of text and of JSON. What a change keeps whole behind checksums is in [`super::forms`].

use serde_json::Value;

/// SplitMix64: the same cases on every machine, from a seed and a case's number.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64, kind: &str, case: u64) -> Self {
        let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
        for byte in kind.bytes().chain(case.to_le_bytes()) {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
        }
        Self(state)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 where there is nothing to choose from.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Numbers at which widths, signs and products of lengths go wrong.
const EXTREMES: [u64; 16] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// One to four changes of `bytes`, half of them at `spots` (offsets where lengths and types stand). `other` is a second
/// file of the kind, of which slices are taken.
pub fn bytes(random: &mut Random, mut bytes: Vec<u8>, spots: &[usize], other: &[u8]) -> Vec<u8> {
    for _ in 0..random.pick(&[1, 1, 1, 2, 4]) {
        let at = match spots {
            [] => random.below(bytes.len()),
            _ if random.one_in(2) => random.below(bytes.len()),
            _ => random.pick(spots) + random.below(16),
        };
        change(random, &mut bytes, at, other);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, at: usize, other: &[u8]) {
    let at = at.min(bytes.len());
    let longest = random.pick(&[8, 8, 200]);
    let run = 1 + random.below(longest);
    let end = (at + run).min(bytes.len());
    match random.below(12) {
        0 | 1 => bytes[at..end.min(at + 1)].iter_mut().for_each(|b| *b ^= 1 << random.below(8)),
        2 => bytes[at..end].iter_mut().for_each(|b| *b = random.next() as u8),
        3 => bytes[at..end].fill(random.pick(&[0, 0xff, 0x7f, 0x80, b'0', b'{', b'('])),
        4..=6 => {
            let number = random.pick(&EXTREMES);
            let width = random.pick(&[1, 2, 4, 8]);
            let written = if random.one_in(2) {
                number.to_le_bytes()[..width].to_vec()
            } else {
                number.to_be_bytes()[8 - width..].to_vec()
            };
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&written[..end - at]);
        }
        7 => bytes.truncate(at),
        8 => drop(bytes.drain(at..end)),
        9 => {
            // A slice once more, or a thousand times.
            let slice = bytes[at..end].repeat(if random.one_in(8) { 1000 } else { 1 });
            bytes.splice(at..at, slice);
        }
        10 => {
            let from = random.below(other.len());
            let slice = other[from..(from + run * 4).min(other.len())].to_vec();
            bytes.splice(at..end, slice);
        }
        _ => {
            // The first half of the one, the second of the other.
            let from = random.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

/// What stands where a value is expected.
const VALUES: [&str; 34] = [
    "0",
    "-1",
    "1",
    "2",
    "0.0",
    "-0.0",
    "1e308",
    "-1e308",
    "1e-320",
    "nan",
    "inf",
    "2147483647",
    "2147483648",
    "-2147483649",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "1e400",
    "true",
    "\"\"",
    "\"a\"",
    "[]",
    "{}",
    "null",
    "[1, [2]]",
    "{ a = 1 }",
    "\"/dev/null\"",
    "\"../../..\"",
    "\"x{0..9999}.csv\"",
    "\"*\"",
    "''",
    "\"\"\"",
    "1979-05-27",
];

const ODD: [&str; 16] = [
    "\0",
    "\u{1b}[2J",
    "\u{7f}",
    "\u{202e}",
    "\u{feff}",
    "\r",
    "\t",
    "\\",
    "\"",
    "'",
    "\u{85}",
    "\u{9b}31m",
    "🫁",
    "#",
    "=",
    "\u{fffd}",
];

/// One to three changes of a text by lines, words and values; the result need not be UTF-8.
pub fn text(random: &mut Random, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut lines: Vec<String> = String::from_utf8_lossy(bytes).split('\n').map(str::to_string).collect();
    let others = String::from_utf8_lossy(other).into_owned();
    let others: Vec<&str> = others.split('\n').collect();
    for _ in 0..random.pick(&[1, 1, 1, 2, 3]) {
        let at = random.below(lines.len());
        change_line(random, &mut lines, at, &others);
    }
    let mut bytes = lines.join("\n").into_bytes();
    if random.one_in(8) {
        let at = random.below(bytes.len());
        change(random, &mut bytes, at, other);
    }
    bytes
}

fn change_line(random: &mut Random, lines: &mut Vec<String>, at: usize, others: &[&str]) {
    let line = lines[at].clone();
    let middle = line.char_indices().nth(random.below(line.chars().count())).map_or(0, |(i, _)| i);
    lines[at] = match random.below(12) {
        0 | 1 => with_value(&line, random.pick(&VALUES)),
        2 | 3 => {
            // A number inside becomes an extreme one.
            let digits = line.find(|c: char| c.is_ascii_digit()).unwrap_or(middle);
            let rest = line[digits..].trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{}{}{rest}", &line[..digits], random.pick(&VALUES))
        }
        4 => format!("{}{}{}", &line[..middle], random.pick(&ODD), &line[middle..]),
        5 => line.replace('"', random.pick(&["'", "", "\"\"", "“"])),
        6 => {
            let length = random.pick(&[600, 600, 70_000, 70_000, 1_000_000]);
            format!("{}{}{}", &line[..middle], "x".repeat(length), &line[middle..])
        }
        7 => {
            let (open, close) = random.pick(&[("[", "]"), ("{\"a\":", "}"), ("{a=", "}"), ("(", ")")]);
            let depth = random.pick(&[100, 10_000, 100_000]);
            with_value(&line, &format!("{}{}", open.repeat(depth), close.repeat(depth)))
        }
        8 => {
            lines.remove(at);
            if lines.is_empty() {
                lines.push(String::new());
            }
            return;
        }
        9 => {
            let again = vec![line; random.pick(&[1, 2, 5000])];
            lines.splice(at..at, again);
            return;
        }
        10 => random.pick(others).to_string(),
        _ => line.chars().rev().collect(),
    };
}

/// The line with another value behind its `=`, `:` or first comma.
fn with_value(line: &str, value: &str) -> String {
    match line.find(['=', ':', ',']) {
        Some(i) => format!("{} {value}", &line[..=i]),
        None => value.to_string(),
    }
}

/// One to three changes of a JSON document's nodes.
pub fn json(random: &mut Random, document: &mut Value) {
    for _ in 0..random.pick(&[1, 1, 1, 2, 3]) {
        let chosen = random.below(nodes(document));
        let donor = nth(document, &mut random.below(nodes(document))).map_or(Value::Null, |v| v.clone());
        if let Some(node) = nth(document, &mut { chosen }) {
            change_node(random, node, donor);
        }
    }
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(nodes).sum::<usize>(),
        Value::Object(fields) => fields.values().map(nodes).sum::<usize>(),
        _ => 0,
    }
}

/// The node with that number, counted from the root downwards.
fn nth<'a>(value: &'a mut Value, n: &mut usize) -> Option<&'a mut Value> {
    if *n == 0 {
        return Some(value);
    }
    *n -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, n)),
        Value::Object(fields) => fields.values_mut().find_map(|item| nth(item, n)),
        _ => None,
    }
}

fn change_node(random: &mut Random, node: &mut Value, donor: Value) {
    let choice = random.below(10);
    match node {
        Value::Object(fields) if choice < 5 && !fields.is_empty() => {
            let key = fields.keys().nth(random.below(fields.len())).cloned().unwrap_or_default();
            let value = fields.remove(&key).unwrap_or_default();
            match choice {
                0 | 1 => {}
                2 => drop(fields.insert(format!("{key}{}", random.pick(&ODD)), value)),
                3 => drop(fields.insert(key, donor)),
                _ => drop(fields.insert("x".repeat(1000), value)),
            }
        }
        Value::Array(items) if choice < 5 && !items.is_empty() => {
            let at = random.below(items.len());
            match choice {
                0 => drop(items.remove(at)),
                1 => items.insert(at, donor),
                2 => items.truncate(at),
                3 => *items = items.iter().cycle().take(items.len() * 50).cloned().collect(),
                _ => items.swap(at, 0),
            }
        }
        Value::String(text) if choice < 6 => match choice {
            0 => text.push_str(random.pick(&ODD)),
            1 => *text = text.repeat(random.pick(&[2, 100, 10_000])),
            2 => text.clear(),
            3 => *text = text.chars().rev().collect(),
            4 => *text = format!("{}{text}", random.pick(&["/", "../", "#", "[", "(", "(?i)", "\\p{", "▁", "*+"])),
            _ => drop(text.pop()),
        },
        _ => *node = leaf(random, donor),
    }
}

fn leaf(random: &mut Random, donor: Value) -> Value {
    match random.below(8) {
        0 => donor,
        1 => Value::Null,
        2 => Value::Bool(random.one_in(2)),
        3 => Value::String("a".repeat(random.pick(&[0, 1, 100_000]))),
        4 => Value::Array(Vec::new()),
        5 => (0..random.pick(&[3, 120, 300])).fold(Value::Null, |inner, _| Value::Array(vec![inner])),
        6 => Value::from(random.pick(&[1e308, -1e308, 1e-320, 0.5, -0.0, 1e19, 1e9])),
        _ if random.one_in(2) => Value::from(-(random.pick(&EXTREMES).wrapping_shr(1) as i64)),
        _ => Value::from(random.pick(&EXTREMES)),
    }
}
