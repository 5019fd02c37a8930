//! Reports: the same twice, templates, identifiers, sides, what the tokenizer will cut off.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use rayon::prelude::*;

use super::finding::{Finding, Histogram, Level, LintOptions};
use super::identifiers::{Identifier, identifiers};
use super::kind::FindingKind;
use crate::data::{ReportTokenizer, Row, sides};
use crate::seed::name_index;

pub(super) fn findings(rows: &[Row], options: &LintOptions, findings: &mut Vec<Finding>) -> Result<()> {
    let mut add = |level, kind, found: Vec<usize>, message: String| {
        findings.extend(Finding::new(level, kind, rows, found, message));
    };
    let duplicates = groups(rows, |r| name_index(r.report()));
    let n = options.batch_size.min(rows.len());
    let negatives = false_negatives(&duplicates, rows.len(), n);
    let repeated: Vec<usize> = duplicates.values().filter(|g| g.len() > 1).flat_map(|g| g[1..].to_vec()).collect();
    let level = if negatives > 0.05 * n as f64 { Level::Warning } else { Level::Note };
    let message = format!(
        "rows whose report an earlier row has: of the {n} rows of a batch {negatives:.1} on average meet their own \
         report as a false negative; see data.no_duplicate_reports"
    );
    add(level, FindingKind::DuplicateReport, sorted(repeated), message);
    let templates = groups(rows, |r| name_index(&skeleton(r.report())));
    let mut filled: Vec<usize> = Vec::new();
    for group in templates.values().filter(|g| g.len() > 1) {
        let first = name_index(rows[group[0]].report());
        filled.extend(group[1..].iter().filter(|&&i| name_index(rows[i].report()) != first));
    }
    let message = "rows whose report is an earlier one but for numbers, case and punctuation: templates";
    add(Level::Note, FindingKind::TemplateReport, sorted(filled), message.into());
    let short = (0..rows.len()).filter(|&i| rows[i].report().chars().count() < 10).collect();
    add(Level::Note, FindingKind::ShortReport, short, "reports of fewer than 10 characters".into());
    let seen: Vec<Vec<Identifier>> = rows.par_iter().map(|r| identifiers(r.report())).collect();
    let mut kinds: BTreeMap<Identifier, usize> = BTreeMap::new();
    seen.iter().flatten().for_each(|kind| *kinds.entry(*kind).or_default() += 1);
    let named: Vec<String> = kinds.iter().map(|(kind, n)| format!("{kind:?} in {n}").to_lowercase()).collect();
    let message = format!(
        "reports that seem to name somebody ({}): take identifiers out before a model or its figures leave the \
         building",
        named.join(", ")
    );
    add(Level::Warning, FindingKind::Identifier, (0..rows.len()).filter(|&i| !seen[i].is_empty()).collect(), message);
    let sided: Vec<usize> = (0..rows.len()).filter(|&i| sides::names_a_side(rows[i].report())).collect();
    let level = if options.flip { Level::Error } else { Level::Note };
    let message = "reports that name a side: augment.horizontal_flip would make them wrong, so keep it off";
    add(level, FindingKind::NamesASide, sided, message.into());
    if let Some(tokenizer) = options.tokenizer {
        let lengths = lengths(rows, tokenizer)?;
        let most = tokenizer.context_length();
        let cut: Vec<usize> = (0..rows.len()).filter(|&i| lengths[i] > most).collect();
        let lost: usize = lengths.iter().map(|l| l.saturating_sub(most)).sum();
        let share = 100.0 * lost as f64 / lengths.iter().sum::<usize>().max(1) as f64;
        let level = if 20 * cut.len() > rows.len() { Level::Warning } else { Level::Note };
        let message = format!(
            "reports of more than {most} tokens, which lose their ends, {share:.1} % of all tokens: see \
             report.section, report.long and model.context_length"
        );
        add(level, FindingKind::TruncatedReport, cut, message);
    }
    Ok(())
}

fn sorted(mut rows: Vec<usize>) -> Vec<usize> {
    rows.sort_unstable();
    rows
}

fn groups(rows: &[Row], key: impl Fn(&Row) -> u64) -> HashMap<u64, Vec<usize>> {
    let mut groups: HashMap<u64, Vec<usize>> = HashMap::new();
    rows.iter().enumerate().for_each(|(i, row)| groups.entry(key(row)).or_default().push(i));
    groups
}

/// Rows of a batch of `n` that meet their own report a second time, on average over batches drawn without replacement.
fn false_negatives(groups: &HashMap<u64, Vec<usize>>, all: usize, n: usize) -> f64 {
    let meets = |group: &Vec<usize>| {
        // None of the other n - 1 is of the c - 1 twins.
        let others = group.len() - 1;
        let alone: f64 = (0..n.saturating_sub(1))
            .map(|i| {
                let left = (all - 1 - i) as f64;
                ((left - others as f64) / left).max(0.0)
            })
            .product();
        group.len() as f64 / all as f64 * n as f64 * (1.0 - alone)
    };
    groups.values().filter(|g| g.len() > 1).map(meets).sum()
}

/// Letters and marks of a report that a template keeps.
fn skeleton(report: &str) -> String {
    let letters = report.chars().filter(|c| !c.is_numeric() && (c.is_alphabetic() || c.is_whitespace()));
    letters.flat_map(char::to_lowercase).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn lengths(rows: &[Row], tokenizer: &ReportTokenizer) -> Result<Vec<usize>> {
    rows.par_iter().map(|r| tokenizer.count(r.report())).collect()
}

pub(super) fn histograms(
    rows: &[Row],
    tokenizer: Option<&ReportTokenizer>,
    histograms: &mut Vec<Histogram>,
) -> Result<()> {
    let mut add = |name, lengths: Vec<usize>, edges: &[usize]| {
        let mut bars: Vec<(String, usize)> = edges.iter().map(|e| (format!("< {e}"), 0)).collect();
        bars.push((format!("≥ {}", edges[edges.len() - 1]), 0));
        lengths.iter().for_each(|&l| bars[edges.partition_point(|&e| e <= l)].1 += 1);
        histograms.push(Histogram { name, bars });
    };
    let characters = rows.iter().map(|r| r.report().chars().count()).collect();
    add("characters a report", characters, &[10, 50, 100, 200, 400, 800, 1600]);
    if let Some(tokenizer) = tokenizer {
        let lengths = lengths(rows, tokenizer)?;
        add("tokens a report", lengths, &[16, 32, 64, 77, 128, 256, 512]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn false_negatives_are_those_of_drawn_batches() {
        use rand::RngExt;
        let sizes = [30usize, 5, 2, 1, 1, 1];
        let owner: Vec<usize> = sizes.iter().enumerate().flat_map(|(g, &n)| vec![g; n]).collect();
        let mut groups: HashMap<u64, Vec<usize>> = HashMap::new();
        owner.iter().enumerate().for_each(|(i, &g)| groups.entry(g as u64).or_default().push(i));
        let expected = false_negatives(&groups, owner.len(), 8);
        let mut rng = crate::seed::stream(0, crate::seed::Purpose::Init, 1);
        let (mut met, draws) = (0, 20_000);
        for _ in 0..draws {
            let mut order: Vec<usize> = (0..owner.len()).collect();
            for i in 0..8 {
                let j = rng.random_range(i..order.len());
                order.swap(i, j);
            }
            let batch: Vec<usize> = order[..8].iter().map(|&i| owner[i]).collect();
            met += batch.iter().filter(|g| batch.iter().filter(|h| h == g).count() > 1).count();
        }
        let drawn = f64::from(met as u32) / f64::from(draws);
        assert!((expected - drawn).abs() < 0.05, "{expected} {drawn}");
    }

    #[test]
    fn a_template_is_what_stays() {
        assert_eq!(skeleton("Nodule of 12 mm, stable."), skeleton("NODULE of 9 mm; stable"));
        assert_ne!(skeleton("No nodule."), skeleton("Nodule."));
    }
}
