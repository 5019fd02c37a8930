//! A body that comes too slowly to ever end.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// Bytes a second below which a server is given up, in a window of [`WINDOW`].
const SLOWEST: u64 = 1024;
const WINDOW: Duration = Duration::from_secs(60);

/// A reader that fails where less than [`SLOWEST`] bytes a second came during a whole window.
pub struct Paced<R> {
    inner: R,
    pace: Pace,
}

impl<R> Paced<R> {
    /// A window begins now.
    pub fn new(inner: R) -> Self {
        Self { inner, pace: Pace { since: Instant::now(), came: 0 } }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count > 0 && !self.pace.keeps_up(Instant::now(), count as u64) {
            let why = format!("less than {SLOWEST} bytes a second for {} s", WINDOW.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        Ok(count)
    }
}

struct Pace {
    since: Instant,
    came: u64,
}

impl Pace {
    fn keeps_up(&mut self, now: Instant, count: u64) -> bool {
        self.came += count;
        let past = now.saturating_duration_since(self.since);
        if past < WINDOW {
            return true;
        }
        let enough = self.came >= SLOWEST * past.as_secs();
        (self.since, self.came) = (now, 0);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_a_second_ends_after_a_window_and_a_pause_does_not() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut slow = Pace { since: start, came: 0 };
        let ended = (1..).find(|&second| !slow.keeps_up(at(second), 1));
        assert_eq!(ended, Some(60));
        let mut fair = Pace { since: start, came: 0 };
        assert!((1..300).all(|second| fair.keeps_up(at(second), 1024)));
        // Half a minute of silence, then a burst.
        let mut bursts = Pace { since: start, came: 0 };
        assert!((1..20).all(|i| bursts.keeps_up(at(30 * i), 64 << 10)));
    }
}
