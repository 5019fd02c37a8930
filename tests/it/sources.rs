//! The sources as house rules see them: code without comments, strings and tests, and which file uses which.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// All files of a folder and of those inside it that end in `.extension`, sorted.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Blanks comments and what stands in quotes; lines stay where they are.
pub fn code_only(source: &str) -> String {
    let comment = r"//[^\n]*|/\*.*?\*/";
    let text = r###"\bb?r##".*?"##|\bb?r#".*?"#|\bb?r".*?"|"(?:[^"\\]|\\.)*""###;
    let character = r"'(?:[^'\\\n]|\\x[0-9a-fA-F]{2}|\\u\{[^}]*\}|\\.)'";
    let hidden = Regex::new(&format!("(?s){comment}|{text}|{character}"));
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    let blanks = |found: &regex::Captures| found[0].chars().map(blank).collect::<String>();
    hidden.unwrap().replace_all(source, blanks).into_owned()
}

/// Code without items under `#[cfg(test)]`, which may reach anywhere and be as long as they like.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let (mut kept, mut rest) = (String::new(), code);
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        rest = &rest[end_of_item(rest)..];
    }
    kept + rest
}

/// Where the item that `code` starts with ends: behind its `;`, or behind its body.
fn end_of_item(code: &str) -> usize {
    let item = Regex::new(r"^(\s*#\[[^\]]*\])*\s*(pub(\([^)]*\))?\s+)?use\b").unwrap();
    let braced = !item.is_match(code);
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 && (c == ';' || (c == '}' && braced)) {
            return at + 1;
        }
    }
    code.len()
}

/// In a module that is written out in its file, `super` is the file's own module.
fn seen_from_the_file(mut code: String) -> String {
    let inside = Regex::new(r"\bmod\s+\w+\s*\{").unwrap();
    let mut from = 0;
    while let Some(found) = inside.find_at(&code, from) {
        let (start, end) = (found.start(), found.start() + end_of_item(&code[found.start()..]));
        let module = code[start..end].replace("super::", "self::");
        from = start + module.len();
        code.replace_range(start..end, &module);
    }
    code
}

/// A file of `src`, without tests.
pub struct Source {
    /// Relative to `src`.
    pub path: String,
    /// `["data", "manifest"]` for `data/manifest.rs`, `["data"]` for `data/mod.rs`, nothing for `lib.rs`.
    module: Vec<String>,
    /// Modules that it declares, each in a file of its own.
    children: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths written out in the code, outside of `use`.
    paths: Vec<Vec<String>>,
}

struct Import {
    path: Vec<String>,
    /// The name that it has here.
    name: String,
    /// A re-export, which this file itself does not use.
    passed_on: bool,
}

impl Source {
    fn new(path: String, text: &str) -> Self {
        let mut module: Vec<String> = path.strip_suffix(".rs").unwrap().split('/').map(str::to_string).collect();
        if module.last().is_some_and(|m| m == "mod" || m == "lib") {
            module.pop();
        }
        let visible = Regex::new(r"pub\s*\(in [^)]*\)").unwrap();
        let code = visible.replace_all(&without_tests(&code_only(text)), "pub").into_owned();
        let code = seen_from_the_file(code);
        let declared = Regex::new(r"\bmod\s+(\w+)\s*;").unwrap();
        let children = declared.captures_iter(&code).map(|m| m[1].to_string()).collect();
        let uses = Regex::new(r"(pub(?:\([^)]*\))?\s+)?\buse\s+([^;]*);").unwrap();
        let body = declared.replace_all(&uses.replace_all(&code, ""), "").into_owned();
        let mut imports = Vec::new();
        for found in uses.captures_iter(&code) {
            // What a module inside the file takes from the file is no import.
            for (path, name) in flat(&found[2]).into_iter().filter(|(path, _)| path[0] != "self" || path.len() > 2) {
                let here = || Regex::new(&format!(r"(?:^|[^:.\w]){name}\b")).unwrap().is_match(&body);
                let passed_on = found.get(1).is_some() && (name == "*" || !here());
                imports.push(Import { path, name, passed_on });
            }
        }
        let chain = Regex::new(r"\w+(?:\s*::\s*\w+)+").unwrap();
        let paths = chain.find_iter(&body).map(|m| m.as_str().split("::").map(|s| s.trim().to_string()).collect());
        Self { path, module, children, imports, paths: paths.collect() }
    }

    /// From the crate's root, or nothing where the path leads out of the crate.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let mut base = self.module.clone();
        let mut rest = path;
        match path[0].as_str() {
            "crate" => (base, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {}
            first if self.children.contains(first) => {}
            _ => return None,
        }
        while rest.first().is_some_and(|s| s == "super") {
            base.pop();
            rest = &rest[1..];
        }
        Some([&base, rest].concat())
    }
}

/// `a::{b, c::{self, d as e}}` as paths, each with the name that it is given.
fn flat(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let (path, name) = tree.split_once(" as ").unwrap_or((tree, tree.rsplit("::").next().unwrap()));
        return vec![(path.split("::").map(|s| s.trim().to_string()).collect(), name.trim().to_string())];
    };
    let segments = tree[..open].split("::").map(|s| s.trim().to_string());
    let prefix: Vec<String> = segments.filter(|s| !s.is_empty()).collect();
    let inside = &tree[open + 1..tree.rfind('}').unwrap()];
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inside[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[start..]);
    let mut all = Vec::new();
    for part in parts.into_iter().filter(|p| !p.trim().is_empty()) {
        for (path, name) in flat(part) {
            if path == ["self"] {
                all.push((prefix.clone(), if name == "self" { prefix.last().unwrap().clone() } else { name }));
            } else {
                all.push(([prefix.clone(), path].concat(), name));
            }
        }
    }
    all
}

/// Every file of the library, and which uses which.
pub struct Sources {
    pub files: Vec<Source>,
    /// From file to file, with the path that says so.
    pub uses: BTreeMap<(String, String), String>,
}

impl Sources {
    /// Of `src`; files that exist for tests alone, and the binary's, are left out.
    pub fn read(src: &Path) -> Self {
        let read = |path: &PathBuf| {
            let relative = path.strip_prefix(src).unwrap().to_str().unwrap().to_string();
            Source::new(relative, &fs::read_to_string(path).unwrap())
        };
        Self::of(files(src, "rs").iter().map(read).collect())
    }

    fn of(mut files: Vec<Source>) -> Self {
        let declared: BTreeSet<Vec<String>> = files
            .iter()
            .flat_map(|f| f.children.iter().map(|c| [f.module.clone(), vec![c.clone()]].concat()))
            .collect();
        files.retain(|f| f.module.is_empty() || declared.contains(&f.module));
        let mut sources = Self { files, uses: BTreeMap::new() };
        let mut uses = BTreeMap::new();
        for file in &sources.files {
            let imports = file.imports.iter().filter(|i| !i.passed_on).map(|i| &i.path);
            for path in imports.chain(&file.paths) {
                let Some(used) = file.absolute(path).and_then(|p| sources.file_of(&p, 8)) else { continue };
                if used != file.path {
                    uses.entry((file.path.clone(), used.to_string())).or_insert_with(|| path.join("::"));
                }
            }
        }
        sources.uses = uses;
        sources
    }

    /// The file where the item of that name is written, through re-exports.
    fn file_of(&self, path: &[String], hops: usize) -> Option<&str> {
        let at = |module: &[String]| self.files.iter().find(|f| f.module == module);
        let mut file = at(&[])?;
        for (i, segment) in path.iter().enumerate() {
            if file.children.contains(segment) {
                file = at(&path[..=i])?;
                continue;
            }
            let Some(import) = file.imports.iter().find(|import| import.name == *segment) else { break };
            let further = [file.absolute(&import.path)?.as_slice(), &path[i + 1..]].concat();
            return self.file_of(&further, hops.checked_sub(1)?);
        }
        Some(&file.path)
    }

    /// The shortest circle through each file that stands in one, each circle once.
    pub fn circles(&self) -> BTreeSet<Vec<String>> {
        let mut circles = BTreeSet::new();
        for file in &self.files {
            let mut from: BTreeMap<&str, &str> = BTreeMap::new();
            let mut queue = VecDeque::from([file.path.as_str()]);
            while let Some(at) = queue.pop_front() {
                for (_, next) in self.uses.keys().filter(|(user, _)| user == at) {
                    if !from.contains_key(next.as_str()) {
                        from.insert(next, at);
                        queue.push_back(next);
                    }
                }
            }
            let Some(mut at) = from.get(file.path.as_str()).copied() else { continue };
            let mut circle = vec![file.path.clone()];
            while at != file.path {
                circle.push(at.to_string());
                at = from[at];
            }
            circle.reverse();
            let first = circle.iter().enumerate().min_by_key(|(_, name)| name.as_str()).unwrap().0;
            circle.rotate_left(first);
            circles.insert(circle);
        }
        circles
    }
}

#[test]
fn a_circle_is_found_through_trees_and_re_exports_and_nowhere_else() {
    let file = |path: &str, text: &str| Source::new(path.into(), text);
    let lib = || file("lib.rs", "pub mod a;\npub mod b;\n");
    // One direction is a re-export, the other a comment, a string or a test.
    let innocent = vec![
        lib(),
        file("a/mod.rs", "mod x;\npub use x::Thing;\npub struct Base;\n"),
        file(
            "a/x.rs",
            "use super::Base;\n// crate::b::y()\nconst S: &str = \"crate::b::y\";\n#[cfg(test)]\nuse crate::b::{y};\n\
             #[cfg(test)]\nmod tests { fn f() { crate::b::y() } }\npub(in crate::a) struct Thing(Base);\n\
             mod inner { use super::Thing; }\n",
        ),
        file("b.rs", "use crate::a::Thing;\nfn y(_: Thing) {}\n"),
    ];
    let found = Sources::of(innocent);
    assert!(found.circles().is_empty(), "{:?}", found.circles());
    let thing = ("b.rs".to_string(), "a/x.rs".to_string());
    assert_eq!(found.uses[&thing], "crate::a::Thing", "through the re-export, to where it is written");

    // After a test module, in a tree, by a re-exported name: x → b → x.
    let guilty = vec![
        lib(),
        file("a/mod.rs", "mod x;\npub use x::Thing;\n"),
        file(
            "a/x.rs",
            "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::b::{self, z::{W as V}};\npub struct Thing;\n",
        ),
        file("b.rs", "fn y(_: crate::a::Thing) {}\n"),
    ];
    let circles = Sources::of(guilty).circles();
    assert_eq!(circles, BTreeSet::from([vec!["a/x.rs".to_string(), "b.rs".to_string()]]));

    // A parent that uses what it re-exports.
    let parent = vec![
        lib(),
        file("a/mod.rs", "mod x;\npub use x::Thing;\npub struct Base;\nfn f(_: Thing) {}\n"),
        file("a/x.rs", "pub struct Thing(super::Base);\n"),
        file("b.rs", ""),
    ];
    assert_eq!(Sources::of(parent).circles().len(), 1);
}
