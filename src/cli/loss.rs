//! `reportclip loss explain`.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{output, usage};
use crate::fs::{open_plain, text_of};
use crate::json;
use crate::loss::explain::{Explanation, Input, InputTargets, explain};
use crate::loss::smoothing;

/// What a label-smoothed cross-entropy does.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show the four steps: softmax, smoothed targets, loss of each sample, mean
    Explain(ExplainArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip loss explain
  reportclip loss explain --logits \"[[2.0,1.0,0.1],[0.5,1.5,0.8]]\" --targets \"[0,1]\" --label-smoothing 0.2
  echo '{\"logits\": [[1,2]], \"targets\": [1]}' | reportclip loss explain --input - --json")]
pub(super) struct ExplainArgs {
    /// JSON file with logits, targets and options; "-" reads stdin. Without it and --logits: the worked example
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["logits", "targets"])]
    input: Option<PathBuf>,
    /// Matrix of logits as JSON; one row also as -1,2
    #[arg(long, value_name = "[[…],…]", requires = "targets", allow_hyphen_values = true, value_parser = usage::value)]
    logits: Option<String>,
    /// Class indices, or rows of probabilities, as JSON; the index of one row also as 0
    #[arg(long, value_name = "[…]", requires = "logits", allow_hyphen_values = true, value_parser = usage::value)]
    targets: Option<String>,
    /// ε; default 0.1, or what the input file says
    #[arg(long, value_name = "ε")]
    label_smoothing: Option<f64>,
    /// Print {"probabilities", "smoothed_targets", "per_sample", "loss", "grad", …}
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<()> {
    let Command::Explain(args) = command;
    let input = read_input(args)?;
    let eps = args.label_smoothing.or(input.label_smoothing).unwrap_or(0.1);
    let explanation = explain(&input, eps).map_err(|e| anyhow::anyhow!("{}", crate::error::one_line(&e.into())))?;
    if args.json {
        return output::print_json(&serde_json::to_value(&explanation)?);
    }
    output::print(&describe(&input, &explanation))?;
    if args.input.is_none() && args.logits.is_none() && eps == 0.1 {
        output::print(
            "\nThis is the worked example of a widely copied article, which prints 0.4122 and, in row 2, the softmax \n\
             [0.1863, 0.6681, 0.1456]. Both are slips: PyTorch gives 0.5967, as above.",
        )?;
    }
    Ok(())
}

fn read_input(args: &ExplainArgs) -> Result<Input> {
    let parse = |name: &str, text: &str| {
        serde_json::from_str(text).map_err(|e| anyhow::anyhow!("{name}: {e}; see `reportclip loss explain --help`"))
    };
    match (&args.input, &args.logits, &args.targets) {
        (Some(path), ..) => {
            let text = if path.as_os_str() == "-" {
                text_of(std::io::stdin(), json::MAX_BYTES).context("stdin")?
            } else {
                let read = || text_of(open_plain(path)?, json::MAX_BYTES);
                read().with_context(|| path.display().to_string())?
            };
            parse(&path.display().to_string(), &text)
        }
        (None, Some(logits), Some(targets)) => {
            let (logits, targets) = (listed(logits, 2), listed(targets, 1));
            parse("--logits and --targets", &format!(r#"{{"logits": {logits}, "targets": {targets}}}"#))
                .map_err(|e| usage::wrong(&e).into())
        }
        _ => Ok(Input::example()),
    }
}

/// Numbers without brackets in `depth` of them: one row.
fn listed(text: &str, depth: usize) -> String {
    let depth = if text.trim_start().starts_with('[') { 0 } else { depth };
    format!("{}{text}{}", "[".repeat(depth), "]".repeat(depth))
}

fn describe(input: &Input, e: &Explanation) -> String {
    let classes = e.probabilities.first().map_or(0, Vec::len);
    let line = |row: &Vec<f64>| row.iter().map(|v| format!("{v:>9.4}")).collect::<String>();
    let rows = |matrix: &[Vec<f64>]| matrix.iter().map(line).collect::<Vec<_>>().join("\n");
    let Formulas { targets, sample, mean } = formulas(input, e.label_smoothing, classes);
    format!(
        "logits ({} × {classes})\n{}\n\n1. softmax\n{}\n\n\
         2. smoothed targets: ε = {}, {targets}\n{}\n\n\
         3. loss of each sample, {sample}\n{}\n\n\
         4. {mean}\n{:>9.4}   loss = {:.10}\n\n\
         gradient of the mean\n{}\n\n\
         without smoothing {:.4}; {}chance ln {classes} = {:.4}",
        input.logits.len(),
        rows(&input.logits),
        rows(&e.probabilities),
        e.label_smoothing,
        rows(&e.smoothed_targets),
        line(&e.per_sample),
        e.loss,
        e.loss,
        rows(&e.grad),
        e.loss_hard,
        floor(input, e, classes),
        e.chance,
    )
}

/// What each step works out, in words.
struct Formulas {
    targets: String,
    sample: &'static str,
    mean: &'static str,
}

fn formulas(input: &Input, eps: f64, classes: usize) -> Formulas {
    let weighted = input.class_weights.is_some();
    let indices = matches!(input.targets, InputTargets::Indices(_));
    let each = eps / classes as f64;
    Formulas {
        targets: if indices {
            let on = 1.0 - eps + each;
            format!("the target gets 1 - ε + ε/{classes} = {on:.4}, each other class ε/{classes} = {each:.4}")
        } else {
            format!("(1 - ε) · target + ε/{classes}")
        },
        sample: if weighted { "-Σ class weight · target · ln softmax" } else { "-Σ target · ln softmax" },
        // PyTorch divides by the weights of the targets, and only where these are class indices.
        mean: if weighted && indices {
            "mean: the sum, divided by the sum of the targets' class weights"
        } else {
            "mean"
        },
    }
}

/// Said of index targets without class weights alone: the floor of others is another.
fn floor(input: &Input, e: &Explanation, classes: usize) -> String {
    if !matches!(input.targets, InputTargets::Indices(_)) || input.class_weights.is_some() {
        return String::new();
    }
    let gap = if e.label_smoothing > 0.0 && classes > 1 {
        let gap = smoothing::best_logit_gap(classes, e.label_smoothing);
        format!("; the best gap between target and other logits is {gap:.2}")
    } else {
        String::new()
    };
    format!("floor {:.4} (no model gets below{gap}); ", e.floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formulas_are_those_of_the_numbers() {
        let shown = |text: &str| {
            let input: Input = serde_json::from_str(text).unwrap();
            let explained = explain(&input, 0.1).unwrap();
            (describe(&input, &explained), explained)
        };
        let (plain, _) = shown(r#"{"logits": [[2, 1, 0], [0, 1, 3]], "targets": [0, 1]}"#);
        assert!(plain.contains("3. loss of each sample, -Σ target · ln softmax\n") && plain.contains("\n4. mean\n"));
        let text = r#"{"logits": [[2, 1, 0], [0, 1, 3]], "targets": [0, 1], "class_weights": [1, 2, 4]}"#;
        let (weighted, e) = shown(text);
        assert!(weighted.contains("-Σ class weight · target · ln softmax"), "{weighted}");
        assert!(weighted.contains("divided by the sum of the targets' class weights"), "{weighted}");
        assert!(!weighted.contains("floor"), "{weighted}");
        // As the words say.
        for ((q, p), loss) in e.probabilities.iter().zip(&e.smoothed_targets).zip(&e.per_sample) {
            let sum: f64 = [1.0, 2.0, 4.0].iter().zip(p.iter().zip(q)).map(|(w, (p, q))| -w * p * q.ln()).sum();
            assert!((sum - loss).abs() < 1e-12, "{sum} {loss}");
        }
        assert!((e.per_sample.iter().sum::<f64>() / 3.0 - e.loss).abs() < 1e-12);
    }
}
