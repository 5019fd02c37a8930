//! SHA-256 of every file of a folder, in the form of `sha256sum`: `SHA256SUMS`, beside the files. Files of the hub's
//! cache are named by their own.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;

use super::open_clip;
use crate::digest::{ContentHash, is_sha256, sha256_of};
use crate::fs::{PROBE, left_beside, read_up_to, replace_file, whole_tree};

/// `<64 hex digits>  <name>`, a line a file; `sha256sum --check` reads it too.
const FILE: &str = "SHA256SUMS";
/// Longest list that is read.
const MAX_BYTES: u64 = 16 << 20;

/// By these a list of checksums is one of a model; others have such lists too.
const CONFIGS: [&str; 2] = ["config.json", open_clip::CONFIG];

/// Names of weights begin so, in all layouts.
const WEIGHTS: [&str; 4] = ["model", "pytorch_model", "open_clip_", "heads"];

/// Names of files that may stand beside a model and are none that it is opened from begin so.
pub const BESIDE: &str = "reportclip_head";

/// Writes the list of all that is in `folder` now.
///
/// # Errors
/// Something cannot be read, or the list not be written.
pub fn write_checksums(folder: &Path) -> Result<()> {
    let names = names(folder)?;
    let digits = names.par_iter().map(|name| hash(&folder.join(name))).collect::<Result<Vec<_>>>()?;
    Listing(names.into_iter().zip(digits).collect()).write(folder)
}

/// A folder's list, ready to be written anew right after some of its files were, without reading the others again.
pub struct Listing(BTreeMap<String, String>);

impl Listing {
    /// The list of `folder`, if it has one. The files called `replaced` need not be what it says, nor be in it: a kill
    /// may have come between them and the list when they were last written.
    ///
    /// # Errors
    /// As [`check_checksums`], of all other files.
    pub fn without(folder: &Path, replaced: &[&str]) -> Result<Option<Self>> {
        let Some(list) = listed(folder)? else { return Ok(None) };
        let found = verify_checksums(folder)?;
        let is_replaced = |what: &&String| replaced.iter().any(|name| what.strip_prefix(name).is_some_and(is_end));
        let written = replaced.iter().chain(replaced.first().map(|_| &FILE));
        let is_left = |name: &&String| written.clone().any(|of| **name == left_beside(of));
        if let Some(what) = found.damaged.iter().find(|what| !is_replaced(what)) {
            bail!("{}/{what}", folder.display());
        }
        if let Some(name) = found.unknown.iter().find(|name| !is_replaced(name) && !is_left(name)) {
            bail!("{}/{name}: is not in {FILE}: that is damaged, or the file was put there since", folder.display());
        }
        ensure!(!found.whole.is_empty(), "{}: lists no files: it is damaged", folder.join(FILE).display());
        Ok(Some(Self(list)))
    }

    /// Puts in a file of the folder with the SHA-256 that it will have.
    pub fn put(&mut self, name: &str, digits: String) {
        self.0.insert(name.to_string(), digits);
    }

    /// Writes it.
    ///
    /// # Errors
    /// It cannot be written; the old one stays then.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let lines: String = self.0.iter().map(|(name, digits)| format!("{digits}  {name}\n")).collect();
        replace_file(&folder.join(FILE), lines.as_bytes())
    }
}

/// Makes sure that what a command writes to `path` lies in no model's folder, at whatever depth: its list would not
/// name it, and the model be refused as one that is damaged. Without a list, the model would be another one than
/// before.
///
/// # Errors
/// It does.
pub fn spare_models(path: &Path) -> Result<()> {
    let whole = std::path::absolute(path)?;
    // What is there already may be a model's folder itself, to which its own files are added.
    let above = match fs::canonicalize(&whole) {
        Ok(real) => real.parent().map(Path::to_path_buf),
        Err(_) => whole.ancestors().find_map(|above| fs::canonicalize(above).ok()),
    };
    let has_list = |folder: &Path| {
        let named = |name: &str| name.rsplit('/').next().is_some_and(|file| CONFIGS.contains(&file));
        listed(folder).ok().flatten().is_some_and(|list| list.keys().any(|name| named(name)))
    };
    let is_model = |folder: &&Path| has_list(folder) || holds_model(folder);
    match above.as_deref().and_then(|above| above.ancestors().find(is_model)) {
        None => Ok(()),
        Some(folder) => {
            let why = if has_list(folder) { format!(", whose {FILE} does not name it") } else { String::new() };
            bail!("{}: lies in {}, a model's folder{why}; name a place elsewhere", path.display(), folder.display())
        }
    }
}

/// Whether a config and weights that it is opened with lie in a folder: one of a model whose list is damaged, or that
/// never had one.
fn holds_model(folder: &Path) -> bool {
    let is_weights = |name: &str| {
        let is_named = WEIGHTS.iter().any(|weights| name.starts_with(weights));
        is_named && (name.ends_with(".safetensors") || name.ends_with(".bin"))
    };
    CONFIGS.iter().any(|config| folder.join(config).is_file())
        && fs::read_dir(folder)
            .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_str().is_some_and(is_weights)))
}

/// Whether a name ends here in a line of [`Verification`].
fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(": ")
}

/// What was found of a folder's files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Files that are what they were.
    pub whole: Vec<String>,
    /// What is wrong with others, a line each.
    pub damaged: Vec<String>,
    /// Files of which nothing is known.
    pub unknown: Vec<String>,
}

/// Compares a folder's files with its list, or with their own names where they lie in the hub's cache.
///
/// # Errors
/// The folder cannot be read, or its list is none.
pub fn verify_checksums(folder: &Path) -> Result<Verification> {
    let names = names(folder)?;
    let listed = listed(folder)?.unwrap_or_default();
    let check = |name: &String| -> Result<Option<bool>> {
        let path = folder.join(name);
        let blob = || fs::canonicalize(&path).ok()?.file_name()?.to_str().filter(|n| is_sha256(n)).map(str::to_string);
        match listed.get(name).cloned().or_else(blob) {
            Some(wanted) => Ok(Some(hash(&path)? == wanted)),
            None => Ok(None),
        }
    };
    let found = names.par_iter().map(check).collect::<Result<Vec<_>>>()?;
    let mut all = Verification::default();
    for (name, found) in names.iter().zip(found) {
        match found {
            Some(true) => all.whole.push(name.clone()),
            Some(false) => all.damaged.push(format!("{name}: not what its SHA-256 says: damaged or changed")),
            None => all.unknown.push(name.clone()),
        }
    }
    let missing = listed.keys().filter(|name| !names.contains(name));
    all.damaged.extend(missing.map(|name| format!("{name}: is missing, or {FILE} is damaged")));
    Ok(all)
}

/// Refuses a folder whose files are not those that were written; whether there was a list to see that by. A file that
/// is not in the list is refused too: the list may have lost its end.
///
/// # Errors
/// The first file that differs, by its path.
pub fn check_checksums(folder: &Path) -> Result<bool> {
    Ok(Listing::without(folder, &[])?.is_some())
}

/// Refuses a file that is not what the list of its folder says, or is not in it; without a list nothing is known.
///
/// # Errors
/// As [`check_checksums`].
pub fn check_listed(path: &Path) -> Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(());
    };
    let Some(listed) = listed(folder)? else { return Ok(()) };
    let place = path.display();
    let Some(wanted) = listed.get(name) else {
        bail!("{place}: is not in {FILE}: that is damaged, or the file was put there since")
    };
    ensure!(hash(path)? == *wanted, "{place}: not what its SHA-256 says: damaged or changed");
    Ok(())
}

/// Digest of what a model in a folder is opened from: its configs, tokenizer, preprocessing and weights. Cards, notes,
/// heads that were adapted and what is hidden do not count. A file that nobody touched since the list was written is
/// what the list says: weights are not read for that.
///
/// # Errors
/// Something cannot be read.
pub fn model_digest(folder: &Path) -> Result<String> {
    let counts = |name: &String| {
        let file = name.rsplit('/').next().unwrap_or(name);
        let ending = file.rsplit_once('.').map_or("", |(_, ending)| ending);
        let hidden = name.split('/').any(|part| part.starts_with('.'));
        !hidden
            && !file.starts_with(BESIDE)
            && (ENDINGS.contains(&ending) || ["vocab.txt", "merges.txt"].contains(&file))
    };
    let names: Vec<String> = names(folder)?.into_iter().filter(counts).collect();
    let listed = listed(folder).ok().flatten().unwrap_or_default();
    let written = fs::metadata(folder.join(FILE)).ok();
    let digits = |name: &String| -> Result<String> {
        let path = folder.join(name);
        let touched = fs::metadata(&path).with_context(|| path.display().to_string())?;
        match listed.get(name) {
            Some(digits) if written.as_ref().is_some_and(|list| last_change(&touched) < last_change(list)) => {
                Ok(digits.clone())
            }
            _ => hash(&path),
        }
    };
    let all = names.par_iter().map(digits).collect::<Result<Vec<_>>>()?;
    let mut hash = ContentHash::default();
    names.iter().zip(all).for_each(|(name, digits)| {
        hash.field(name);
        hash.field(digits);
    });
    Ok(hash.hex())
}

/// Endings of files that a model may be opened from.
const ENDINGS: [&str; 7] = ["json", "safetensors", "bin", "pt", "pth", "ckpt", "model"];

/// When content, name or times of a file changed last, which nobody can set back.
#[cfg(unix)]
fn last_change(meta: &Metadata) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt;
    (meta.ctime(), meta.ctime_nsec())
}

/// When the content of a file changed last.
#[cfg(not(unix))]
fn last_change(meta: &Metadata) -> Option<std::time::SystemTime> {
    meta.modified().ok()
}

/// Files of a folder by their names in it, without the list, and without those by which folders are tried: they come
/// and go.
fn names(folder: &Path) -> Result<Vec<String>> {
    let tree = whole_tree(folder).with_context(|| folder.display().to_string())?;
    let inside = tree.iter().filter(|path| path.is_file()).filter_map(|path| path.strip_prefix(folder).ok());
    let mut names: Vec<String> = inside.filter_map(|path| Some(path.to_str()?.replace('\\', "/"))).collect();
    names.retain(|name| name != FILE && name.rsplit('/').next() != Some(PROBE));
    names.sort();
    Ok(names)
}

/// Name → digits; `None` where there is no list.
fn listed(folder: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let text = String::from_utf8(read_up_to(&path, MAX_BYTES)?).ok();
    let lines = text.as_deref().and_then(|text| text.strip_suffix('\n')).map(|text| text.split('\n'));
    let entry = |line: &str| {
        let (digits, name) = line.split_at_checked(64)?;
        Some((name.strip_prefix("  ")?.to_string(), is_sha256(digits).then(|| digits.to_string())?))
    };
    let list = lines.and_then(|lines| lines.map(entry).collect::<Option<BTreeMap<_, _>>>());
    list.map(Some).with_context(|| format!("{}: not a list of checksums: it is damaged", path.display()))
}

fn hash(path: &Path) -> Result<String> {
    sha256_of(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_beside_a_models_weights() {
        let dir = tempfile::tempdir().unwrap();
        let spared = |name: &str| spare_models(&dir.path().join(name));
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        fs::write(dir.path().join("all.safetensors"), "").unwrap();
        spared("new.safetensors").unwrap();
        for weights in ["model-00001-of-00002.safetensors", "pytorch_model.bin"] {
            fs::write(dir.path().join(weights), "").unwrap();
            // Without a list of checksums, and with one that is damaged.
            for list in [None, Some("x")] {
                list.into_iter().for_each(|text| fs::write(dir.path().join(FILE), text).unwrap());
                for name in ["new.safetensors", "more/new.safetensors"] {
                    let told = spared(name).unwrap_err().to_string();
                    assert!(told.contains("a model's folder; name a place elsewhere"), "{told}");
                }
            }
            // Its own files may be added to it.
            spare_models(dir.path()).unwrap();
            fs::remove_file(dir.path().join(weights)).unwrap();
            fs::remove_file(dir.path().join(FILE)).unwrap();
        }
        spared("new.safetensors").unwrap();
        fs::write(dir.path().join("model.safetensors"), "").unwrap();
        write_checksums(dir.path()).unwrap();
        assert!(spared("new").unwrap_err().to_string().contains("whose SHA256SUMS does not name it"));
    }

    /// Another process may be trying the folder, or was killed while it did.
    #[test]
    fn a_probe_makes_no_model_look_damaged() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("text")).unwrap();
        let probes = [dir.path().join(PROBE), dir.path().join("text").join(PROBE)];
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        // While the list is written, and after.
        fs::write(&probes[0], "").unwrap();
        write_checksums(dir.path()).unwrap();
        probes.iter().for_each(|probe| fs::write(probe, "").unwrap());
        assert!(check_checksums(dir.path()).unwrap());
        assert!(Listing::without(dir.path(), &["kept.toml"]).unwrap().is_some());
        probes.iter().for_each(|probe| fs::remove_file(probe).unwrap());
        let found = verify_checksums(dir.path()).unwrap();
        assert_eq!(found, Verification { whole: vec!["config.json".into()], ..Verification::default() });
        fs::write(dir.path().join("other.tmp"), "").unwrap();
        let told = check_checksums(dir.path()).unwrap_err().to_string();
        assert!(told.contains("other.tmp: is not in SHA256SUMS"), "{told}");
    }

    #[test]
    fn a_model_is_what_it_is_opened_from() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let digest = || model_digest(dir.path()).unwrap();
        for name in ["config.json", "model.safetensors", "text/vocab.txt"] {
            put(name, "1");
        }
        let before = digest();
        for name in ["README.md", "notes.txt", ".git/config.json", "SHA256SUMS", "reportclip_head.json"] {
            put(name, "any");
            assert_eq!(digest(), before, "{name}");
        }
        // The clock of a file system ticks every few milliseconds.
        let tick = || std::thread::sleep(std::time::Duration::from_millis(50));
        tick();
        write_checksums(dir.path()).unwrap();
        assert_eq!(digest(), before, "from the list");
        let list = fs::read_to_string(dir.path().join(FILE)).unwrap();
        put(FILE, &list.replace(&hash(&dir.path().join("model.safetensors")).unwrap(), &"0".repeat(64)));
        assert_ne!(digest(), before, "weights are not read where the list is newer");
        put(FILE, &list);
        tick();
        for name in ["config.json", "model.safetensors", "text/vocab.txt"] {
            let path = dir.path().join(name);
            let time = fs::metadata(&path).unwrap().modified().unwrap();
            put(name, "2");
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            assert_ne!(digest(), before, "{name}");
            put(name, "1");
            assert_eq!(digest(), before, "{name}");
        }
    }
}
