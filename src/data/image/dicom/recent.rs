//! What was found in the files that were looked into last, so that the next frame of one is found at once.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Files that are remembered.
const MOST_FILES: usize = 256;
/// Bytes that all of them may take.
const MOST_BYTES: usize = 32 << 20;
/// A file that was written within this time may be written again and show the same time: systems count coarsely.
const SETTLED: Duration = Duration::from_secs(2);

/// By what a file is known again: length, when it was written, and on Unix where it lies and when the system last
/// changed what it keeps of it, for tools that copy set the other two as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    length: u64,
    written: SystemTime,
    /// Device, inode and time, which nobody sets.
    node: Option<(u64, u64, (i64, i64))>,
}

impl Stamp {
    /// Of an open file; `None` where the system does not say, or the file was written a moment ago.
    pub fn of(file: &File) -> Option<Self> {
        let meta = file.metadata().ok()?;
        let written = meta.modified().ok()?;
        let is_settled = SystemTime::now().duration_since(written).is_ok_and(|age| age > SETTLED);
        is_settled.then(|| Self { length: meta.len(), written, node: node(&meta) })
    }
}

#[cfg(unix)]
fn node(meta: &Metadata) -> Option<(u64, u64, (i64, i64))> {
    use std::os::unix::fs::MetadataExt;
    Some((meta.dev(), meta.ino(), (meta.ctime(), meta.ctime_nsec())))
}

#[cfg(not(unix))]
fn node(_: &Metadata) -> Option<(u64, u64, (i64, i64))> {
    None
}

/// One file.
struct Kept<T> {
    path: PathBuf,
    stamp: Stamp,
    /// Bytes of memory that it takes.
    size: usize,
    found: Arc<T>,
}

/// Of the last few files, those used last at the end. No file stays open for it.
pub(super) struct Recent<T>(Mutex<Vec<Kept<T>>>);

impl<T> Recent<T> {
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// What was found in the file of this path, if it is still that.
    pub fn find(&self, path: &Path, stamp: Stamp) -> Option<Arc<T>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|kept| kept.stamp == stamp && kept.path == path)?;
        let kept = all.remove(at);
        let found = Arc::clone(&kept.found);
        all.push(kept);
        Some(found)
    }

    /// Remembers what was found, which takes `size` bytes, and forgets what was not asked for longest.
    pub fn keep(&self, path: &Path, stamp: Stamp, size: usize, found: &Arc<T>) {
        if size > MOST_BYTES {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|kept| kept.path != path);
        while all.len() >= MOST_FILES || all.iter().map(|kept| kept.size).sum::<usize>() + size > MOST_BYTES {
            all.remove(0);
        }
        all.push(Kept { path: path.to_path_buf(), stamp, size, found: Arc::clone(found) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_files_are_found_within_bounds_and_changed_ones_are_not() {
        let of = |length| Stamp { length, written: SystemTime::UNIX_EPOCH, node: None };
        let (recent, stamp, new) = (Recent::new(), of(3), MOST_FILES);
        let path = |i: usize| PathBuf::from(format!("{i}.dcm"));
        for i in 0..MOST_FILES {
            recent.keep(&path(i), stamp, 1, &Arc::new(i));
        }
        assert_eq!(recent.find(&path(0), stamp).as_deref(), Some(&0));
        assert!(recent.find(&path(0), of(4)).is_none(), "another length");
        assert!(recent.find(&path(new), stamp).is_none());
        recent.keep(&path(new), stamp, 1, &Arc::new(new));
        let known = |i: usize| recent.find(&path(i), stamp).is_some();
        assert!(known(0) && known(new) && !known(1), "the one that was not asked for longest goes");
        recent.keep(&path(7), stamp, MOST_BYTES, &Arc::new(7));
        assert!(known(7) && !known(0) && !known(new));
        recent.keep(&path(8), stamp, MOST_BYTES + 1, &Arc::new(8));
        assert!(known(7) && !known(8));
    }

    #[test]
    fn a_file_that_was_just_written_has_no_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.dcm");
        std::fs::write(&path, "x").unwrap();
        assert_eq!(Stamp::of(&File::open(&path).unwrap()), None);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        assert!(Stamp::of(&file).is_some());
    }

    /// As a tool leaves it that keeps times.
    #[cfg(unix)]
    #[test]
    fn another_file_of_the_same_length_and_time_has_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let (path, beside) = (dir.path().join("a.dcm"), dir.path().join("b.dcm"));
        let stamp = |path: &Path, text: &str| {
            std::fs::write(path, text).unwrap();
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(9)).unwrap();
            Stamp::of(&file).unwrap()
        };
        let first = stamp(&path, "x");
        assert_eq!(first, Stamp::of(&File::open(&path).unwrap()).unwrap());
        let other = stamp(&beside, "y");
        std::fs::rename(&beside, &path).unwrap();
        let now = Stamp::of(&File::open(&path).unwrap()).unwrap();
        assert_eq!((now.length, now.written), (first.length, first.written));
        assert!(now != first && other != first);
    }
}
