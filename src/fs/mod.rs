//! Files and folders are replaced whole: a kill at any moment leaves the old one or the new one. A folder that a
//! process works in for long is held by it. Knows no run.

mod destination;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

pub use destination::{PROBE, check_writable, is_same_file, may_make_folder, may_write, may_write_beside, read_too};

/// The file by which a folder is held.
pub const LOCK: &str = ".lock";

/// Keeps other processes from working in a folder. Let go of when dropped, and by the system at the process's end,
/// however that comes.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "held, not read: the lock is the open file's")] File);

impl FolderLock {
    /// Takes a folder that is there. On a file system without locks nothing is kept from anybody.
    ///
    /// # Errors
    /// Another process works in it, or nothing can be written there.
    pub fn take(folder: &Path) -> Result<Self> {
        Self::wait(folder, Duration::ZERO)
    }

    /// [`FolderLock::take`] that waits up to `most` for another process to end.
    ///
    /// # Errors
    /// As there; what is called as the lock's file is none.
    pub fn wait(folder: &Path, most: Duration) -> Result<Self> {
        // A file of its own: those that tell something are replaced, and the lock would go with the old one.
        let path = folder.join(LOCK);
        // The opening of a pipe would wait for its reader.
        let is_other = fs::metadata(&path).is_ok_and(|meta| !meta.is_file());
        ensure!(!is_other, "{}: is no regular file; remove it, or name another folder", path.display());
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.with_context(|| path.display().to_string())?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) if begun.elapsed() < most => {
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
                Err(TryLockError::WouldBlock) => {
                    bail!("{}: another process is working in it; wait for it, or name another folder", folder.display())
                }
                Err(TryLockError::Error(e)) => tracing::debug!("{}: no lock: {e}", folder.display()),
                Ok(()) => {}
            }
            return Ok(Self(file));
        }
    }
}

/// The content of a file that may have up to `most` bytes: what comes from outside says nothing of its own size.
///
/// # Errors
/// It is larger, no regular file, or cannot be read.
pub fn read_up_to(path: &Path, most: u64) -> Result<Vec<u8>> {
    unnamed_up_to(path, most).map_err(|e| {
        if e.is::<std::io::Error>() {
            e.context(path.display().to_string())
        } else {
            anyhow!("{}: {e}", path.display())
        }
    })
}

/// [`read_up_to`] for files whose names may name patients: no error says what it is called.
///
/// # Errors
/// As there; one of the system is a [`std::io::Error`].
pub fn unnamed_up_to(path: &Path, most: u64) -> Result<Vec<u8>> {
    let meta = fs::metadata(path)?;
    ensure!(meta.is_file(), "is no regular file");
    ensure!(meta.len() <= most, "has {} bytes; allowed are {most}", meta.len());
    // It may grow meanwhile.
    Ok(bytes_of(File::open(path)?, most)?)
}

/// Opens a file that a user names: no pipe, which waits for who writes into it, no device, which may have no end.
///
/// # Errors
/// It is no regular file, or cannot be opened; none says what it is called.
pub fn open_plain(path: &Path) -> std::io::Result<File> {
    let is_plain = fs::metadata(path)?.is_file();
    if is_plain { File::open(path) } else { Err(std::io::Error::other("is no regular file")) }
}

/// The text of a file of up to `most` bytes, or of a pipe: what has no end is not read to it.
///
/// # Errors
/// It has more, is not UTF-8, or cannot be read.
pub fn text_up_to(path: &Path, most: u64) -> Result<String> {
    let read = || text_of(File::open(path)?, most);
    read().with_context(|| path.display().to_string())
}

/// [`text_up_to`] of what is open already.
///
/// # Errors
/// As there, without a name.
pub fn text_of(source: impl Read, most: u64) -> Result<String> {
    String::from_utf8(bytes_of(source, most)?).context("is not UTF-8")
}

/// All bytes of `source`, which may have up to `most`.
///
/// # Errors
/// It has more, or cannot be read.
pub fn bytes_of(source: impl Read, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(std::io::Error::other(format!("has more than {most} bytes; that many are allowed")));
    }
    Ok(bytes)
}

/// Whether a folder holds anything but files and folders of these names, and what a kill left of a try to write there;
/// one that is not there holds nothing.
pub fn holds_others(folder: &Path, names: &[&str]) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name != PROBE && !names.iter().any(|known| name == *known))
}

/// Writes a file beside its place, syncs it and renames it there.
///
/// # Errors
/// It cannot be written; the old file is untouched then.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_with(path, |temporary| Ok(fs::write(temporary, bytes)?))
}

/// [`replace_file`] for what shows patients, or helps to find out who they are: on Unix its owner alone may read it,
/// from its first byte.
///
/// # Errors
/// As there.
pub fn replace_private(path: &Path, bytes: &[u8]) -> Result<()> {
    Access::Owner.replace_with(path, |temporary| Ok(fs::write(temporary, bytes)?))
}

/// Who may read what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whom the system lets by its defaults.
    Usual,
    /// On Unix its owner alone, from the first byte: for what shows patients, or helps to find out who they are.
    Owner,
}

impl Access {
    /// [`replace_with`] for these readers; `fill` may empty the file that it is handed, but not make another one.
    ///
    /// # Errors
    /// As there.
    pub fn replace_with(self, path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if self == Self::Usual {
            return replace_with(path, fill);
        }
        replace_with(path, |temporary| {
            // One that a kill left may be open to all.
            drop(fs::remove_file(temporary));
            let mut options = File::options();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options.open(temporary)?;
            fill(temporary)
        })
    }

    /// Makes sure that a folder is there, and that only these readers may look into it.
    ///
    /// # Errors
    /// It cannot be made, or is somebody else's.
    pub fn make_folder(self, path: &Path) -> std::io::Result<()> {
        fs::create_dir_all(path)?;
        #[cfg(unix)]
        if self == Self::Owner {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        }
        Ok(())
    }
}

/// The relative path that leads from folder `from` to folder `to`, which are there; an absolute one where none does.
///
/// # Errors
/// One of them cannot be found.
pub fn way(from: &Path, to: &Path) -> Result<PathBuf> {
    let real = |path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::canonicalize(path).with_context(|| path.display().to_string())
    };
    let (from, to) = (real(from)?, real(to)?);
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return Ok(to);
    }
    let up = from.components().skip(shared).map(|_| std::path::Component::ParentDir);
    Ok(up.chain(to.components().skip(shared)).collect())
}

/// [`replace_file`] for whoever writes to a path of its own.
///
/// # Errors
/// As there.
pub fn replace_with(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = beside(path, "tmp");
    let write = || -> Result<()> {
        fill(&temporary)?;
        File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(sync_parent(path)?)
    };
    write().with_context(|| format!("writing {}", path.display())).inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Writes several files into a folder, which others may share, each as [`replace_file`] does; all of them lie beside
/// their places before the first one is renamed, so that a full disk leaves the old ones.
///
/// # Errors
/// One cannot be written.
pub fn replace_files(folder: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    let temporary = |name: &String| beside(&folder.join(name), "tmp");
    let write = |(name, bytes): &(String, Vec<u8>)| -> std::io::Result<()> {
        fs::write(temporary(name), bytes)?;
        File::open(temporary(name))?.sync_all()
    };
    let put = |(name, _): &(String, Vec<u8>)| fs::rename(temporary(name), folder.join(name));
    let mut done = files.iter().try_for_each(write).and_then(|()| files.iter().try_for_each(put));
    done = done.and_then(|()| File::open(folder)?.sync_all());
    done.with_context(|| format!("writing into {}", folder.display()))
        .inspect_err(|_| files.iter().for_each(|(name, _)| drop(fs::remove_file(temporary(name)))))
}

/// Lets `fill` write a folder beside its place, syncs it and renames it there. An old folder at that place is moved
/// aside first and removed afterwards; [`recover_folder`] puts it back if a kill came in between.
///
/// # Errors
/// It cannot be written; the old folder is untouched then.
pub fn replace_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    recover_folder(path);
    let (temporary, old) = (beside(path, "tmp"), beside(path, "old"));
    let write = || -> Result<()> {
        drop(fs::remove_dir_all(&temporary));
        fs::create_dir_all(&temporary)?;
        fill(&temporary)?;
        for inside in whole_tree(&temporary)? {
            File::open(inside)?.sync_all()?;
        }
        if path.exists() {
            fs::rename(path, &old)?;
        }
        fs::rename(&temporary, path)?;
        sync_parent(path)?;
        drop(fs::remove_dir_all(&old));
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display())).inspect_err(|_| {
        drop(fs::remove_dir_all(&temporary));
        recover_folder(path);
    })
}

/// Everything in `folder` at any depth, what is inside a folder before that folder, and `folder` itself last.
///
/// # Errors
/// Something in it cannot be listed.
pub fn whole_tree(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(whole_tree(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    found.push(folder.to_path_buf());
    Ok(found)
}

/// Puts back a folder that a kill caught between being moved aside and being replaced.
pub fn recover_folder(path: &Path) {
    let old = beside(path, "old");
    if old.exists() {
        if path.exists() {
            drop(fs::remove_dir_all(&old));
        } else {
            drop(fs::rename(&old, path));
        }
    }
}

/// What a kill may leave of [`replace_file`] beside a file called `name`; the next one writes over it.
pub fn left_beside(name: &str) -> String {
    format!(".{name}.tmp")
}

/// `dir/name` → `dir/.name.<suffix>`: on the same file system, so that the rename is atomic.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().map_or_else(|| "x".into(), |n| n.to_string_lossy().into_owned());
    path.with_file_name(format!(".{name}.{suffix}"))
}

/// A rename is only safe on disk once its folder is.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    path.parent().filter(|p| !p.as_os_str().is_empty()).map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    /// A pair's towers lie in subfolders: what is synced before the rename must reach them.
    #[test]
    fn a_tree_is_whole_and_inside_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("text/deep")).unwrap();
        for name in ["config.json", "text/vocab.txt", "text/deep/weights"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let tree = whole_tree(dir.path()).unwrap();
        let at = |name: &str| tree.iter().position(|p| *p == dir.path().join(name)).unwrap();
        assert_eq!(tree.len(), 6);
        assert!(at("text/deep/weights") < at("text/deep") && at("text/deep") < at("text"));
        assert!(at("text/vocab.txt") < at("text") && at("config.json") < tree.len() - 1);
        assert_eq!(tree.last().unwrap(), dir.path());
    }

    #[cfg(unix)]
    #[test]
    fn what_shows_patients_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pictures.json");
        // As a kill, and an older version, leave them.
        fs::write(beside(&path, "tmp"), "open").unwrap();
        fs::write(&path, "open").unwrap();
        replace_private(&path, b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_of_bounded_length_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "four").unwrap();
        assert_eq!(read_up_to(&path, 4).unwrap(), b"four");
        assert!(read_up_to(&path, 3).unwrap_err().to_string().ends_with("has 4 bytes; allowed are 3"));
        for path in [dir.path(), Path::new("/dev/zero")] {
            let error = read_up_to(path, 3).unwrap_err().to_string();
            assert!(error.ends_with("is no regular file"), "{error}");
        }
        assert!(std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap().success());
        for path in [&dir.path().join("pipe"), dir.path(), Path::new("/dev/zero")] {
            assert_eq!(open_plain(path).unwrap_err().to_string(), "is no regular file");
        }
        open_plain(&path).unwrap();
        let unnamed = |path: &Path| format!("{:#}", unnamed_up_to(path, 3).unwrap_err());
        assert_eq!(unnamed(&path), "has 4 bytes; allowed are 3");
        assert!(!unnamed(&dir.path().join("Miller")).contains("Miller"));
    }

    #[cfg(unix)]
    #[test]
    fn texts_come_from_files_and_pipes_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let (path, pipe) = (dir.path().join("a"), dir.path().join("pipe"));
        fs::write(&path, "four").unwrap();
        assert_eq!(text_up_to(&path, 4).unwrap(), "four");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::thread::scope(|scope| {
            scope.spawn(|| fs::write(&pipe, "four").unwrap());
            assert_eq!(text_up_to(&pipe, 4).unwrap(), "four");
        });
        let error = |path: &Path| format!("{:#}", text_up_to(path, 3).unwrap_err());
        assert!(error(&path).ends_with("a: has more than 3 bytes; that many are allowed"), "{}", error(&path));
        assert_eq!(error(Path::new("/dev/zero")), "/dev/zero: has more than 3 bytes; that many are allowed");
        fs::write(&path, b"\xff").unwrap();
        assert!(error(&path).contains("a: is not UTF-8"), "{}", error(&path));
    }

    #[test]
    fn a_folder_that_is_held_is_waited_for_as_long_as_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let held = FolderLock::take(dir.path()).unwrap();
        let error = FolderLock::wait(dir.path(), Duration::from_millis(120)).unwrap_err().to_string();
        assert!(error.ends_with("another process is working in it; wait for it, or name another folder"), "{error}");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| FolderLock::wait(dir.path(), Duration::from_secs(60)).map(drop));
            std::thread::sleep(Duration::from_millis(120));
            drop(held);
            waits.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_pipe_in_place_of_the_lock_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join(LOCK);
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // Without the check the opening waits for a reader: not for ever here.
        let (told, tells) = std::sync::mpsc::channel();
        let folder = dir.path().to_path_buf();
        std::thread::spawn(move || told.send(FolderLock::take(&folder).unwrap_err().to_string()));
        let error = tells.recv_timeout(Duration::from_secs(20)).unwrap();
        let hint = "remove it, or name another folder";
        assert_eq!(error, format!("{}: is no regular file; {hint}", pipe.display()));
    }

    #[test]
    fn of_several_files_none_is_replaced_before_all_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let files = |text: &str| ["a", "b"].map(|name| (name.to_string(), text.as_bytes().to_vec()));
        replace_files(dir.path(), &files("1")).unwrap();
        // As where the disk is full once the first is written.
        fs::create_dir(dir.path().join(".b.tmp")).unwrap();
        replace_files(dir.path(), &files("2")).unwrap_err();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"1");
        assert!(!dir.path().join(".a.tmp").exists());
        fs::remove_dir(dir.path().join(".b.tmp")).unwrap();
        replace_files(dir.path(), &files("2")).unwrap();
        assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"2");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        replace_folder(&path, |p| Ok(fs::write(p.join("a"), "1")?)).unwrap();
        replace_folder(&path, |_| bail!("no")).unwrap_err();
        assert_eq!(fs::read(path.join("a")).unwrap(), b"1");
        // As a kill between the two renames leaves it.
        fs::rename(&path, dir.path().join(".model.old")).unwrap();
        replace_folder(&path, |_| bail!("no")).unwrap_err();
        assert_eq!(fs::read(path.join("a")).unwrap(), b"1");
        replace_folder(&path, |p| Ok(fs::write(p.join("b"), "2")?)).unwrap();
        assert!(!path.join("a").exists() && path.join("b").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
