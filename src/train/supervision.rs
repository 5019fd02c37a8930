//! What objectives beyond the batch's diagonal need to know: the labels of training rows, which pairs are alike, and
//! the prompts.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, ensure};

use super::prompt_tokens::PromptTokens;
use crate::config::{ClassWeights, Config, LossConfig, LossKind, Positives};
use crate::data::{LabelPolicy, Labels, Prompts, ReportTokenizer, Row};
use crate::loss::{ClassLoss, ClipLoss, Loss, MultiLabelLoss, MultiPositiveLoss, PairTargets, SiglipLoss};
use crate::seed::name_index;
use crate::track::Note;

/// Of all training rows, by their number.
#[derive(Debug, Default)]
pub struct Supervision {
    classes: Vec<Option<usize>>,
    findings: Vec<Vec<Option<bool>>>,
    alike: Option<Alike>,
    prompts: Option<PromptTokens>,
    class_weights: Option<Vec<f64>>,
}

#[derive(Debug)]
enum Alike {
    /// Rows with one number are.
    Keys(Vec<u64>),
    /// By the cosine of their sets.
    Sets(Vec<Vec<u32>>),
}

impl Supervision {
    /// Reads what `config`'s objectives ask for off `rows`. Adds to `notes` what a person should know.
    ///
    /// # Errors
    /// Rows without labels, class weights that do not fit.
    pub(super) fn new(
        config: &Config,
        rows: &[Row],
        prompts: Option<&Prompts>,
        tokenizer: &ReportTokenizer,
        notes: &mut Vec<Note>,
    ) -> Result<Self> {
        let c = &config.loss;
        let mut supervision = Self::default();
        if c.has(LossKind::MultiPositive) {
            let alike = alike(c.positives, rows);
            notes.push(Note::choice(format!("multi_positive: {}", alike.describe(c.positives))));
            supervision.alike = Some(alike);
        }
        let Some(prompts) = prompts else { return Ok(supervision) };
        ensure!(
            prompts.multi_label == c.has(LossKind::MultiLabel),
            "loss.prompts: has {} negative sentences, which loss.kind {} negative ones; see `zero-shot --help`",
            if prompts.multi_label { "positive and" } else { "no" },
            if prompts.multi_label { "= \"class\" takes without" } else { "= \"multi_label\" needs as" }
        );
        let (labels, unknown) = prompts.labels(rows, LabelPolicy { uncertain: c.uncertain, blank: c.blank })?;
        if !unknown.is_empty() {
            let rows: usize = unknown.values().sum();
            let shown: Vec<String> = unknown.keys().take(5).map(|label| format!("{label:?}")).collect();
            let shown = shown.join(", ");
            notes.push(Note::warning(format!(
                "{rows} training rows have labels that no prompt stands for, and are ignored: {shown}"
            )));
        }
        match labels {
            Labels::Classes(classes) => supervision.classes = classes,
            Labels::Findings(findings) => supervision.findings = findings,
        }
        let count = prompts.classes.len();
        supervision.class_weights = match &c.class_weights {
            ClassWeights::None => None,
            ClassWeights::Balanced => Some(balanced(&supervision.classes, count)),
            ClassWeights::List(list) => {
                ensure!(
                    list.len() == count && !prompts.multi_label,
                    "loss.class_weights: has {} numbers for {count} classes",
                    list.len()
                );
                Some(list.clone())
            }
        };
        supervision.prompts = Some(PromptTokens::new(prompts, tokenizer)?);
        Ok(supervision)
    }

    /// The objective that `config` names, with smoothing `label_smoothing`.
    pub fn loss(&self, config: &LossConfig, label_smoothing: f64) -> Loss {
        let direction = config.direction;
        let one = |kind: LossKind| match kind {
            LossKind::Clip => Loss::Clip(ClipLoss { label_smoothing, direction }),
            LossKind::Siglip => Loss::Siglip(SiglipLoss { label_smoothing }),
            LossKind::MultiPositive => Loss::MultiPositive(MultiPositiveLoss { label_smoothing, direction }),
            LossKind::Class => Loss::Class(ClassLoss { label_smoothing, weights: self.class_weights.clone() }),
            LossKind::MultiLabel => Loss::MultiLabel(MultiLabelLoss { label_smoothing }),
        };
        match config.kinds.as_slice() {
            [(kind, 1.0)] => one(*kind),
            kinds => Loss::Sum(kinds.iter().map(|(kind, weight)| (*weight, one(*kind))).collect()),
        }
    }

    /// What is known of a batch made of these rows.
    pub(super) fn targets(&self, rows: &[u32]) -> PairTargets {
        PairTargets {
            classes: rows.iter().filter_map(|&r| self.classes.get(r as usize).copied()).collect(),
            findings: rows.iter().filter_map(|&r| self.findings.get(r as usize).cloned()).collect(),
            alike: self.alike.as_ref().map_or(Vec::new(), |alike| alike.table(rows)),
        }
    }

    /// The prompts that images are held against.
    pub(super) fn prompts(&self) -> Option<&PromptTokens> {
        self.prompts.as_ref()
    }
}

/// Rows / (classes · rows of the class) of the labelled rows; 1 for a class without any.
fn balanced(rows: &[Option<usize>], classes: usize) -> Vec<f64> {
    let mut counts = vec![0usize; classes];
    rows.iter().flatten().for_each(|&k| counts[k] += 1);
    let all: usize = counts.iter().sum();
    counts.iter().map(|&n| if n == 0 { 1.0 } else { all as f64 / (classes * n) as f64 }).collect()
}

fn alike(by: Positives, rows: &[Row]) -> Alike {
    // A row without a key is like no other.
    let keys = |key: &dyn Fn(&Row) -> Option<String>| {
        let number = |(i, row): (usize, &Row)| key(row).map_or(!(i as u64), |k| name_index(&k) >> 1);
        Alike::Keys(rows.iter().enumerate().map(number).collect())
    };
    match by {
        Positives::Report => keys(&|row| Some(row.report().to_string())),
        Positives::Study => keys(&|row| row.study_id().map(str::to_string)),
        Positives::Label => keys(&|row| row.label().map(str::to_string)),
        Positives::LabelSimilarity => {
            let mut names: HashMap<String, u32> = HashMap::new();
            let set = |row: &Row| {
                let mut set: Vec<u32> = row
                    .labels()
                    .map(|label| {
                        let next = names.len() as u32;
                        *names.entry(label.to_string()).or_insert(next)
                    })
                    .collect();
                set.sort_unstable();
                set.dedup();
                set
            };
            Alike::Sets(rows.iter().map(set).collect())
        }
    }
}

impl Alike {
    /// (rows · rows); 1 on the diagonal.
    fn table(&self, rows: &[u32]) -> Vec<f64> {
        let like = |a: u32, b: u32| match self {
            Self::Keys(keys) => f64::from(u8::from(keys[a as usize] == keys[b as usize])),
            Self::Sets(sets) => {
                let (a, b) = (a as usize, b as usize);
                let shared = sets[a].iter().filter(|l| sets[b].contains(l)).count() as f64;
                if shared > 0.0 { shared / ((sets[a].len() * sets[b].len()) as f64).sqrt() } else { 0.0 }
            }
        };
        let one = |(i, &a): (usize, &u32)| {
            rows.iter().enumerate().map(|(j, &b)| if i == j { 1.0 } else { like(a, b) }).collect::<Vec<_>>()
        };
        rows.iter().enumerate().flat_map(one).collect()
    }

    fn describe(&self, by: Positives) -> String {
        let groups = match self {
            Self::Keys(keys) => keys.iter().collect::<std::collections::HashSet<_>>().len(),
            Self::Sets(sets) => sets.iter().map(|s| (s, ())).collect::<BTreeMap<_, _>>().len(),
        };
        let rows = match self {
            Self::Keys(keys) => keys.len(),
            Self::Sets(sets) => sets.len(),
        };
        format!("{rows} rows in {groups} groups by {}", by.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likeness_is_symmetric_and_one_on_the_diagonal() {
        let sets = Alike::Sets(vec![vec![0, 1], vec![1], vec![], vec![]]);
        let half = 1.0 / 2f64.sqrt();
        #[rustfmt::skip]
        assert_eq!(sets.table(&[0, 1, 2, 3]), [
            1.0, half, 0.0, 0.0,
            half, 1.0, 0.0, 0.0,
            0.0, 0.0, 1.0, 0.0,
            0.0, 0.0, 0.0, 1.0,
        ]);
        let keys = Alike::Keys(vec![7, 8, 7]);
        assert_eq!(keys.table(&[2, 0, 1]), [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(balanced(&[Some(0), Some(0), None, Some(1)], 3), [0.5, 1.0, 1.0]);
    }
}
