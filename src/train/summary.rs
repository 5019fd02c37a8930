//! Data and figures for a model's card: counts and shares, nothing that names a patient or a file.

use std::collections::HashSet;

use super::trainer::Trainer;
use crate::data::Row;
use crate::eval::{DirectionFigures, Validation};

impl Trainer<'_> {
    /// Markdown for the card of the model of a step with these validation figures; without any where there was none.
    pub(super) fn summary(&self, step: u64, validation: Option<&Validation>) -> String {
        let patients = |rows: &[Row]| {
            let known: HashSet<&str> = rows.iter().filter_map(Row::patient_id).collect();
            if known.is_empty() { String::new() } else { format!(" of {} patients", known.len()) }
        };
        let kinds: Vec<&str> = self.config.loss.kinds.iter().map(|(kind, _)| kind.name).collect();
        let smoothing = self.config.loss.label_smoothing;
        let mut text = format!(
            "## Data and training\n\n{} image–report pairs{} for training, {}{} for validation; {} optimizer steps of \
             {} pairs with products in {}; objective {}, label smoothing {}.\n\n",
            self.train.rows.len(),
            patients(&self.train.rows),
            self.val.len(),
            patients(&self.val),
            step,
            self.config.samples_per_step(),
            self.state.progress.products.as_deref().unwrap_or_default(),
            kinds.join(" + "),
            if smoothing.from == smoothing.to {
                smoothing.to.to_string()
            } else {
                format!("{} to {}", smoothing.from, smoothing.to)
            }
        );
        let Some(validation) = validation else { return text };
        let report = &validation.retrieval;
        text.push_str(
            "## Figures\n\n| on the validation pairs | value [95 % interval] | chance | gallery |\n|---|---|---|---|\n",
        );
        for (name, d) in [("image → text", &report.image_to_text), ("text → image", &report.text_to_image)] {
            text.push_str(&rows(name, d));
        }
        if let Some(c) = &report.calibration {
            text.push_str(&format!(
                "\nMatching within batches of {}: ECE {:.3}, Brier {:.3}, NLL {:.3}; after temperature scaling \
                 (temperature {:.2}) {:.3}, {:.3}, {:.3}. Knowing nothing has a Brier score of {:.3} and an NLL of \
                 {:.3}; calibrated probabilities have an ECE of about {:.3} on as many pairs.\n",
                report.loss_batch_size,
                c.as_is.ece,
                c.as_is.brier,
                c.as_is.nll,
                c.temperature,
                c.scaled.ece,
                c.scaled.brier,
                c.scaled.nll,
                1.0 - 1.0 / report.loss_batch_size as f64,
                report.loss_chance,
                c.ece_floor
            ));
        }
        if let Some(order) = report.selective.first() {
            let of = |name: &str, factor: f64, digits: usize| {
                let Some(f) = order.figures.iter().find(|f| f.name == name) else { return "–".to_string() };
                let shown = |value: f64| format!("{:.digits$}", factor * value);
                let interval = f.interval.map_or(String::new(), |(l, h)| format!(" [{}–{}]", shown(l), shown(h)));
                format!("{}{interval}", shown(f.value))
            };
            text.push_str(&format!(
                "\nOf these matches {:.1} % are right, of the surest 80 % {} %, of the surest half {} %; the \
                 surest {} % can be answered with 90 % right. Area under the risk–coverage curve {}, {} above the \
                 best order.\n",
                100.0 * order.risk_coverage.last().map_or(f64::NAN, |point| 1.0 - point.risk),
                of("accuracy_of_80", 100.0, 1),
                of("accuracy_of_50", 100.0, 1),
                of("coverage_at_90", 100.0, 1),
                of("aurc", 1.0, 3),
                of("excess_aurc", 1.0, 3)
            ));
        }
        if let Some(own) = validation.objective {
            text.push_str(&format!("\nThe objective's own loss: {:.3} (chance {:.3}).\n", own.loss, own.chance));
        }
        for (name, value, chance) in validation.zero_shot_shown() {
            text.push_str(&format!("\nZero-shot {name}: {value:.3} (chance {chance:.3}).\n"));
        }
        let zero_shot = validation.zero_shot.as_ref();
        if let Some((area, wrong)) = zero_shot.and_then(|z| z.figures.get("aurc")).and_then(|f| f.value.zip(f.chance)) {
            text.push_str(&format!("\nZero-shot area under the risk–coverage curve: {area:.3} (random {wrong:.3}).\n"));
        }
        text.push_str(&format!(
            "\nThe step was chosen by {} on these same pairs, so the figures lean high. Intervals are bootstrapped \
             over patients where the data names them.\n\n",
            self.best_metric.word()
        ));
        text
    }
}

fn rows(name: &str, d: &DirectionFigures) -> String {
    let percent = |v: f64| format!("{:.1} %", 100.0 * v);
    let line = |i: usize| {
        let (figure, value) = d.figures.figures()[i];
        let bounds = d.interval.as_ref().map(|(low, high)| (low.figures()[i].1, high.figures()[i].1));
        let interval = bounds.map_or(String::new(), |(l, h)| format!(" [{:.1}–{:.1}]", 100.0 * l, 100.0 * h));
        format!(
            "| {name} {figure} | {}{interval} | {} | {} |\n",
            percent(value),
            percent(d.chance.figures()[i].1),
            d.gallery
        )
    };
    // recall@1, @5, @10
    (0..3).map(line).collect()
}
