//! Retrieval figures as a table for people.

use crate::eval::{DirectionFigures, RetrievalReport};

/// One row a figure and direction; one column a model, then chance.
pub(super) fn retrieval(models: &[(&str, &RetrievalReport)]) -> String {
    let Some((_, first)) = models.first() else { return String::new() };
    let mut lines = vec![header(models)];
    for (name, pick) in [("image→text", image_to_text as Pick), ("text→image", text_to_image)] {
        for (i, (figure, chance)) in pick(first).chance.figures().into_iter().enumerate() {
            let share = figure.starts_with("recall");
            let mut line = format!("{:<24}", format!("{name} {figure}"));
            for (_, report) in models {
                let d = pick(report);
                let value = number(d.figures.figures()[i].1, figure);
                let interval = d.interval.as_ref().map_or(String::new(), |(low, high)| {
                    format!(" [{}–{}]", number(low.figures()[i].1, figure), number(high.figures()[i].1, figure))
                });
                line.push_str(&pad(&format!("{value}{interval}{}", if share { " %" } else { "" }), 26));
            }
            line.push_str(&format!("{}{}", number(chance, figure), if share { " %" } else { "" }));
            lines.push(line);
        }
    }
    let mut line = format!("{:<24}", format!("loss (batch {})", first.loss_batch_size));
    models.iter().for_each(|(_, r)| line.push_str(&pad(&format!("{:.3}", r.loss), 26)));
    line.push_str(&format!("{:.3}", first.loss_chance));
    lines.push(line);
    lines.push(format!(
        "gallery: {} reports, {} images; [95 % interval, bootstrap by patient where every row names one]",
        first.image_to_text.gallery, first.text_to_image.gallery
    ));
    lines.join("\n")
}

type Pick = fn(&RetrievalReport) -> &DirectionFigures;

fn image_to_text(report: &RetrievalReport) -> &DirectionFigures {
    &report.image_to_text
}

fn text_to_image(report: &RetrievalReport) -> &DirectionFigures {
    &report.text_to_image
}

fn header(models: &[(&str, &RetrievalReport)]) -> String {
    let names: String = models.iter().map(|(name, _)| pad(name, 26)).collect();
    format!("{:<24}{names}chance", "")
}

/// `{:<26}` counts characters, and a character is a column in all that is printed here.
fn pad(text: &str, width: usize) -> String {
    format!("{text:<width$}")
}

fn number(value: f64, figure: &str) -> String {
    match figure {
        "mean_rank" | "median_rank" => format!("{value:.1}"),
        "mrr" => format!("{value:.3}"),
        _ => format!("{:.1}", 100.0 * value),
    }
}
