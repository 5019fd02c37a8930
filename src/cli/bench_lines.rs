//! What `reportclip bench` prints for people.

use crate::bench::{GpuFigures, PartFigures, Spread, TrainStepFigures};

/// Of a training step.
pub(super) fn step_lines(figures: &TrainStepFigures, on_gpu: bool) -> String {
    let mut lines = vec![format!(
        "step: {:.3} s (fastest {:.3}, slowest {:.3}; the first {:.3}), {:.2} pairs/s, {} MiB at most",
        figures.median_step_s,
        figures.min_step_s,
        figures.max_step_s,
        figures.first_step_s,
        figures.samples_per_s,
        figures.peak_rss_mib
    )];
    lines.extend(figures.profile.as_ref().map(|parts| profile(parts, on_gpu)));
    if let Some(gpu) = &figures.gpu {
        let share = gpu.share_of_matmul.map_or(String::new(), |s| format!(", of which the step reaches {s:.2}"));
        let GpuFigures { memory_mib: used, peak_memory_mib: peak, matmul_gflops: product, .. } = gpu;
        lines.push(format!("GPU: {peak} MiB at most, {used} MiB in use; {product:.0} GFLOP/s in products{share}"));
    }
    lines.join("\n")
}

/// A line for each part in which time passed.
fn profile(parts: &[PartFigures], on_gpu: bool) -> String {
    let waited = if on_gpu { ", each operation waited for" } else { "" };
    let line = |name: &str, forward: f64, backward: f64| format!("{name:12} {forward:8.3} {backward:8.3}");
    let some = parts.iter().filter(|p| p.forward_s + p.backward_s > 0.0);
    let sum = |of: fn(&PartFigures) -> f64| parts.iter().map(of).sum::<f64>();
    let mut lines = vec![format!("seconds a step{waited}:"), format!("{:12} {:>8} {:>8}", "", "forward", "backward")];
    lines.extend(some.map(|p| line(p.part, p.forward_s, p.backward_s)));
    lines.push(line("all", sum(|p| p.forward_s), sum(|p| p.backward_s)));
    lines.join("\n")
}

/// A figure with its range.
pub(super) fn spread(s: &Spread) -> String {
    format!("{:.1} a second (slowest {:.1}, fastest {:.1})", s.median, s.min, s.max)
}
