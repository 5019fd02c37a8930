//! Whether something may be written where a user wants it, told before the work: nothing is there that must stay, the
//! command does not read it itself, and files can be made there. Writes nothing that stays.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};

/// The file by which a folder is tried; a kill may leave it, and the next try takes it away. Whoever lists a folder's
/// files passes over it: another process may be trying the folder just then.
pub const PROBE: &str = ".reportclip.tmp";

/// Makes sure that files can be made in a folder, or where it is not there in the nearest one above it that is: an
/// empty one is made and removed. What modes say is not enough: a file system may be one that is only read, and rights
/// may be kept elsewhere.
///
/// # Errors
/// None can be made; what is there is no folder.
pub fn check_writable(folder: &Path) -> Result<()> {
    ensure_writable(folder, folder)
}

/// [`check_writable`] for what is called `shown`.
fn ensure_writable(shown: &Path, folder: &Path) -> Result<()> {
    // Without a slash at its end, with which a file counts as nothing.
    let whole = std::path::absolute(folder.components().collect::<PathBuf>())?;
    let Some(there) = whole.ancestors().find(|above| above.exists()) else { return Ok(()) };
    ensure!(there.is_dir(), "{}: {} is no folder; name another place", shown.display(), there.display());
    let probe = there.join(PROBE);
    let made = match OpenOptions::new().write(true).create_new(true).open(&probe) {
        // Another process tries the same folder, or was killed while it did.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    };
    made.and_then(|()| match fs::remove_file(&probe) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    })
    .map_err(|e| anyhow!("{}: no file can be made in {} ({e}); name another place", shown.display(), there.display()))
}

/// Makes sure that a file that a user names may be written: its folder is there, and in its place nothing, or with
/// `force` a plain file. Devices and links are never replaced.
///
/// # Errors
/// Something is there, or no folder; no file can be made in that; the path ends with a slash.
pub fn may_write(path: &Path, force: bool) -> Result<()> {
    let (shown, folder) = (path.display(), path.parent().unwrap_or(Path::new("")));
    let is_there = folder.as_os_str().is_empty() || folder.exists();
    ensure!(is_there, "{shown}: there is no folder {}; make it first", folder.display());
    // A slash at the end would follow a link, and a file counts as nothing.
    if let Ok(meta) = fs::symlink_metadata(path.components().collect::<PathBuf>()) {
        let other = match meta.file_type() {
            kind if kind.is_symlink() => Some("is a link"),
            kind if kind.is_dir() => Some("is a folder"),
            kind if !kind.is_file() => Some("is no plain file"),
            _ => None,
        };
        if let Some(what) = other {
            bail!("{shown}: {what}, and only plain files are written over; name another file");
        }
        ensure!(force, "{shown}: is there already; --force writes over it");
    }
    ensure!(!path.as_os_str().as_encoded_bytes().ends_with(b"/"), "{shown}: ends as a folder does; name a file");
    // Files are written beside their places first.
    ensure_writable(path, if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

/// [`may_write`] for a command that reads `inputs`, files or folders: these, and what lies in the folders but for
/// pages, are not written over with `force` either.
///
/// # Errors
/// As there; it is one of the inputs.
pub fn may_write_beside<'a>(path: &Path, force: bool, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    may_write(path, force)?;
    let Ok(real) = fs::canonicalize(path) else { return Ok(()) };
    let is_page = real.extension().is_some_and(|ending| ending == "html");
    for input in inputs {
        // Others are patterns or names of the hub.
        let Ok(read) = fs::canonicalize(input) else { continue };
        let inside = read.is_dir() && real.starts_with(&read) && !is_page;
        ensure!(!inside && !is_same_file(&real, &read), read_too(path));
    }
    Ok(())
}

/// Makes sure that a folder that a user names may be made by a command that reads the folders `inputs`: in its place is
/// nothing, not even a link that leads nowhere, and it lies in none of these, whose lists of checksums would not name
/// it.
///
/// # Errors
/// Something is there, or it lies in an input; or nothing can be made there.
pub fn may_make_folder<'a>(path: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    // Without a slash at its end, which would follow a link.
    let path: PathBuf = path.components().collect();
    let shown = path.display();
    ensure!(
        fs::symlink_metadata(&path).is_err(),
        "{shown}: exists already; nothing is overwritten, name another folder"
    );
    let whole = std::path::absolute(&path)?;
    let Some(above) = whole.ancestors().find_map(|above| fs::canonicalize(above).ok()) else { return Ok(()) };
    ensure!(above.is_dir(), "{shown}: {} is no folder", above.display());
    // Others are names of the hub.
    let read = inputs.into_iter().filter_map(|input| fs::canonicalize(input).ok());
    let mut around = read.filter(|read| above.starts_with(read));
    if let Some(read) = around.next() {
        bail!("{shown}: lies in {}, which this command reads; name a folder elsewhere", read.display());
    }
    check_writable(&path)
}

/// Why a file that the same command reads is not written over.
pub fn read_too(path: &Path) -> String {
    format!("{}: this command reads it, so it is not written over; name another file", path.display())
}

/// By name, or as another name of one file.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let node = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
        a == b || node(a).is_some_and(|a| Some(a) == node(b))
    }
    #[cfg(not(unix))]
    {
        a == b
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::way;

    /// Nor may root write there, to whom modes say nothing.
    #[cfg(target_os = "linux")]
    #[test]
    fn where_no_file_can_be_made_is_told() {
        for folder in ["/proc", "/proc/none/at/all"] {
            let told = check_writable(Path::new(folder)).unwrap_err().to_string();
            assert!(told.starts_with(&format!("{folder}: no file can be made in /proc (")), "{told}");
        }
        // What is in the way, also where a slash follows.
        let file = tempfile::NamedTempFile::new().unwrap();
        for path in [file.path().to_path_buf(), file.path().join(""), file.path().join("a/b")] {
            let told = check_writable(&path).unwrap_err().to_string();
            assert!(told.ends_with(&format!("{} is no folder; name another place", file.path().display())), "{told}");
        }
        for told in [
            may_write(Path::new("/proc/x.csv"), true).unwrap_err(),
            may_make_folder(Path::new("/proc/x"), []).unwrap_err(),
        ] {
            assert!(told.to_string().contains(": no file can be made in /proc ("), "{told}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        check_writable(&path).unwrap();
        // As a kill leaves it.
        fs::write(dir.path().join(PROBE), "").unwrap();
        check_writable(&path).unwrap();
        may_write(&dir.path().join("x"), false).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays");
    }

    #[cfg(unix)]
    #[test]
    fn only_plain_files_are_written_over_and_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        may_write(&file, false).unwrap();
        let error = may_write(&dir.path().join("no/file"), true).unwrap_err().to_string();
        assert!(error.contains("no/file: there is no folder ") && error.ends_with("no; make it first"), "{error}");
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(may_write(&file, false).unwrap_err().to_string().ends_with("is there already; --force writes over it"));
        may_write(&file, true).unwrap();
        for (name, told) in [("file/", "file/: is there already"), ("new.csv/", "new.csv/: ends as a folder does")] {
            let error = may_write(&dir.path().join(name), false).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        for path in [Path::new("/dev/null"), dir.path(), &link] {
            let error = may_write(path, true).unwrap_err().to_string();
            assert!(error.ends_with("only plain files are written over; name another file"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_read_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("model")).unwrap();
        for name in ["a.csv", "b.csv", "model/weights", "model/page.html"] {
            fs::write(at(name), "x").unwrap();
        }
        fs::hard_link(at("a.csv"), at("same.csv")).unwrap();
        let (a, model) = (at("a.csv"), at("model"));
        let allowed = |name: &str| {
            may_write_beside(&at(name), true, [a.as_path(), &model, Path::new("org/name")]).map_err(|e| e.to_string())
        };
        for name in ["a.csv", "same.csv", "model/../a.csv", "model/weights"] {
            assert!(allowed(name).unwrap_err().contains("this command reads it"), "{name}");
        }
        for name in ["b.csv", "new.csv", "model/new", "model/page.html"] {
            allowed(name).unwrap();
        }
        assert_eq!(way(&at("model"), &at("")).unwrap(), Path::new(".."));
        std::os::unix::fs::symlink(at("nowhere"), at("link")).unwrap();
        for (name, told) in [
            ("link", "link: exists already; "),
            ("link/", "link: exists already; "),
            ("model", "model: exists already; "),
            ("model/x/y", "model, which this command reads; name a folder elsewhere"),
            ("a.csv/x", "a.csv is no folder"),
        ] {
            let error = may_make_folder(&at(name), [model.as_path()]).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        may_make_folder(&at("models/x"), [model.as_path(), Path::new("org/name")]).unwrap();
        assert_eq!(way(&at(""), &at("model")).unwrap(), Path::new("model"));
        assert_eq!(way(&model, &model).unwrap(), Path::new(""));
    }
}
