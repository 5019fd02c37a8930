//! What the server counts, as Prometheus reads it.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;

/// Upper bounds of the durations that are counted apart, in seconds.
const BOUNDS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Durations of the requests of one route.
#[derive(Clone, Copy, Debug, Default)]
struct Durations {
    /// How many took no longer than each bound.
    within: [u64; BOUNDS.len()],
    count: u64,
    seconds: f64,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// By route and status. Both come from short lists, never from what a request says.
    requests: Mutex<Vec<(&'static str, u16, u64)>>,
    durations: Mutex<Vec<(&'static str, Durations)>>,
    batches: AtomicU64,
    items: AtomicU64,
}

impl Metrics {
    /// A request that was answered.
    pub fn request(&self, route: &'static str, status: StatusCode, took: Duration) {
        // One that panicked in here leaves whole numbers behind.
        let mut requests = self.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match requests.iter_mut().find(|(r, s, _)| *r == route && *s == status.as_u16()) {
            Some((_, _, count)) => *count += 1,
            None => requests.push((route, status.as_u16(), 1)),
        }
        drop(requests);
        let mut durations = self.durations.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let at = durations.iter().position(|(r, _)| *r == route).unwrap_or_else(|| {
            durations.push((route, Durations::default()));
            durations.len() - 1
        });
        let of = &mut durations[at].1;
        of.count += 1;
        of.seconds += took.as_secs_f64();
        of.within.iter_mut().zip(BOUNDS).for_each(|(n, bound)| *n += u64::from(took.as_secs_f64() <= bound));
    }

    /// Items that go through a tower together.
    pub fn batch(&self, items: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.items.fetch_add(items as u64, Ordering::Relaxed);
    }

    /// All of them, and what is so now, in Prometheus' text format.
    pub fn text(&self, waiting: usize) -> String {
        let mut text = String::new();
        let head = |name: &str, kind: &str, help: &str| {
            format!("# HELP reportclip_{name} {help}\n# TYPE reportclip_{name} {kind}\n")
        };
        text += &head("requests_total", "counter", "Requests that were answered.");
        let requests = self.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        for (route, status, count) in requests {
            let _ = writeln!(text, "reportclip_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}");
        }
        let name = "request_duration_seconds";
        text += &head(name, "histogram", "Seconds from a request's head to its answer.");
        let durations = self.durations.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        for (route, of) in durations {
            for (bound, count) in BOUNDS.iter().map(f64::to_string).zip(of.within).chain([("+Inf".into(), of.count)]) {
                let _ = writeln!(text, "reportclip_{name}_bucket{{route=\"{route}\",le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(text, "reportclip_{name}_sum{{route=\"{route}\"}} {}", of.seconds);
            let _ = writeln!(text, "reportclip_{name}_count{{route=\"{route}\"}} {}", of.count);
        }
        let (batches, items) = (self.batches.load(Ordering::Relaxed), self.items.load(Ordering::Relaxed));
        let numbers = [
            ("batches_total", "counter", "Batches that went through a tower.", batches),
            ("batch_items_total", "counter", "Images and texts in these batches.", items),
            ("queue_items", "gauge", "Images and texts that wait for the model.", waiting as u64),
            ("resident_memory_bytes", "gauge", "Memory of this process.", resident_bytes()),
        ];
        for (name, kind, help, value) in numbers {
            text += &head(name, kind, help);
            let _ = writeln!(text, "reportclip_{name} {value}");
        }
        text
    }
}

/// Memory of this process that is in use, as Linux tells it; 0 elsewhere.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}
