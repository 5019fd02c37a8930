//! Every logged figure over steps, one chart a figure, one line a run.

use maud::{Markup, html};

use super::charts::{Line, chart};
use super::read::{Run, points};

type Points = Vec<(f64, f64)>;
/// Takes the points of a curve off a run.
type Pick<'a> = &'a dyn Fn(&Run) -> Points;

pub(super) fn sections(runs: &[&Run]) -> Markup {
    html! {
        section { h2 { "Training" } div.charts { (training(runs)) } }
        section { h2 { "Validations" } div.charts { (validations(runs)) } }
    }
}

fn training(runs: &[&Run]) -> Markup {
    let step = |name: &'static str| move |run: &Run| points(&run.steps, name);
    let timing = |name: &'static str| move |run: &Run| points(&run.timing, name);
    let floor = |run: &Run| -> Points {
        let both = points(&run.steps, "loss").into_iter().zip(points(&run.steps, "loss_excess"));
        both.map(|((x, loss), (_, excess))| (x, loss - excess)).collect()
    };
    let plain = [
        ("share of pairs found in the batch", "batch_accuracy"),
        ("logit_scale (logarithm)", "logit_scale"),
        ("norm of the gradient", "grad_norm"),
        ("learning rate", "lr"),
    ];
    html! {
        (over_steps(runs, "loss", &step("loss"), &[("chance", &step("chance")), ("floor", &floor)]))
        (over_steps(runs, "loss without smoothing", &step("loss_hard"), &[("chance", &step("chance"))]))
        (over_steps(runs, "loss above its floor", &step("loss_excess"), &[]))
        @for (title, name) in plain { (over_steps(runs, title, &step(name), &[])) }
        (over_steps(runs, "samples a second", &timing("samples_per_s"), &[]))
        (over_steps(runs, "seconds spent waiting for data", &timing("waiting"), &[]))
    }
}

fn validations(runs: &[&Run]) -> Markup {
    let eval = |name: &str| {
        let path = format!("val/{name}");
        move |run: &Run| points(&run.evals, &path)
    };
    let recall = |direction: &str| {
        let figure = eval(&format!("{direction}/figures/recall@1"));
        (figure, eval(&format!("{direction}/chance/recall@1")))
    };
    let (to_text, to_text_chance) = recall("image_to_text");
    let (to_image, to_image_chance) = recall("text_to_image");
    let plain = [
        ("ECE of matching", "calibration/as_is/ece"),
        ("ECE of matching, scaled", "calibration/scaled/ece"),
        ("Brier score of matching", "calibration/as_is/brier"),
        ("NLL of matching", "calibration/as_is/nll"),
        ("fitted temperature", "calibration/temperature"),
    ];
    let (own_loss, own_chance) = (eval("objective/loss"), eval("objective/chance"));
    let chooses = |run: &Run| points(&run.evals, "metric/value");
    let zero_shot = [("zero-shot AUROC", "auroc_macro"), ("zero-shot balanced accuracy", "balanced_accuracy")];
    html! {
        (over_steps(runs, "loss, validation", &eval("loss"), &[("chance", &eval("loss_chance"))]))
        (over_steps(runs, "the objective's own loss, validation", &own_loss, &[("chance", &own_chance)]))
        (over_steps(runs, "figure that chooses the best step", &chooses, &[]))
        @for (title, name) in zero_shot {
            @let path = format!("zero_shot/figures/{name}");
            @let value = |run: &Run| points(&run.evals, &format!("val/{path}/value"));
            @let chance = |run: &Run| points(&run.evals, &format!("val/{path}/chance"));
            (over_steps(runs, title, &value, &[("chance", &chance)]))
        }
        (over_steps(runs, "mean recall", &eval("mean_recall"), &[]))
        (over_steps(runs, "recall@1, image to text", &to_text, &[("chance", &to_text_chance)]))
        (over_steps(runs, "recall@1, text to image", &to_image, &[("chance", &to_image_chance)]))
        @for (title, name) in plain { (over_steps(runs, title, &eval(name), &[])) }
    }
}

/// A chart of one figure, with levels to read it against.
fn over_steps(runs: &[&Run], title: &str, pick: Pick, levels: &[(&str, Pick)]) -> Markup {
    let mut lines: Vec<Line> = runs
        .iter()
        .enumerate()
        .map(|(i, run)| Line { name: run.name.clone(), points: pick(run), color: i, reference: false })
        .collect();
    for (name, level) in levels {
        // Runs that agree in a level share its line.
        let mut seen: Vec<Points> = Vec::new();
        for (i, run) in runs.iter().enumerate() {
            let points = level(run);
            let known = |s: &Points| s.last().map(|p| p.1.to_bits()) == points.last().map(|p| p.1.to_bits());
            if !points.is_empty() && !seen.iter().any(known) {
                let name = if runs.len() > 1 { format!("{name}, {}", run.name) } else { name.to_string() };
                lines.push(Line { name, points: points.clone(), color: i, reference: true });
                seen.push(points);
            }
        }
    }
    lines.retain(|l| !l.points.is_empty());
    chart(title, "step", &lines)
}
