//! How far a long count has come, on stderr: a bar on a terminal, a line at each tenth elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A count on its way to a total.
pub struct Counted {
    /// Absent where stderr is not a terminal.
    bar: Option<ProgressBar>,
    what: &'static str,
    total: usize,
    done: usize,
}

impl Counted {
    /// Of `total` things called `what`. Of several ranks, only one is `shown`.
    pub fn start(what: &'static str, total: usize, shown: bool) -> Self {
        let bar = (shown && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(total as u64).with_message(what);
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} {elapsed}<{eta}, {per_sec}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self { bar, what, total, done: 0 }
    }

    /// So many more are done.
    pub fn add(&mut self, count: usize) {
        let before = self.done;
        self.done += count;
        match &self.bar {
            Some(bar) => bar.set_position(self.done as u64),
            None if 10 * self.done / self.total.max(1) != 10 * before / self.total.max(1) => {
                tracing::info!("{}: {} of {}", self.what, self.done, self.total);
            }
            None => {}
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
