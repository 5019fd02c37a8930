//! Prompt files: what stands for each diagnosis, and which of them a row has.
//!
//! TOML or JSON, one entry a class, in the order that class numbers follow:
//! `pneumonia = ["Findings suggesting pneumonia.", "肺炎。"]` for one class a row, or
//! `effusion = { positive = ["A pleural effusion."], negative = ["No pleural effusion."] }` for findings of which a row
//! may have several.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::data::Row;
use crate::data::config::{Blank, Uncertain};
use crate::fs::{open_plain, text_of};

/// Longest prompt file: eighty sentences for each of a thousand classes are a third of it.
const MOST_BYTES: u64 = 16 << 20;

/// What stands for no answer; no class is called so.
pub const UNSURE: &str = "unsure";

/// Sentences that stand for a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptClass {
    /// As the label column names it.
    pub name: String,
    /// What a report says that has it.
    pub positive: Vec<String>,
    /// What a report says that has it not; empty where a row has one class.
    pub negative: Vec<String>,
}

/// A prompt file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompts {
    /// In the file's order.
    pub classes: Vec<PromptClass>,
    /// Whether a row may have several of them: every class then has negative sentences.
    pub multi_label: bool,
}

/// What rows are labelled with; `None` where a row says nothing that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// The class of each row.
    Classes(Vec<Option<usize>>),
    /// Whether each row has each finding.
    Findings(Vec<Vec<Option<bool>>>),
}

/// What counts where a row does not say yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelPolicy {
    /// What −1 means.
    pub uncertain: Uncertain,
    /// What nothing means.
    pub blank: Blank,
}

impl Prompts {
    /// Reads a file; `.json` is JSON, everything else TOML.
    ///
    /// # Errors
    /// It cannot be read, or an entry is not of the form above.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).with_context(|| format!("prompts {}", path.display()))
    }

    fn read(path: &Path) -> Result<Self> {
        let text = text_of(open_plain(path)?, MOST_BYTES)?;
        let entries: serde_json::Map<String, Value> = if path.extension().is_some_and(|e| e == "json") {
            serde_json::from_str(&text)?
        } else {
            let parsed: toml::Table = text.parse().map_err(|e: toml::de::Error| anyhow::anyhow!("{}", e.message()))?;
            let values = parsed.into_iter().map(|(name, value)| Ok((name, serde_json::to_value(value)?)));
            values.collect::<Result<_>>()?
        };
        let classes = entries.iter().map(|(name, value)| class(name, value)).collect::<Result<Vec<_>>>()?;
        ensure!(classes.len() > 1 || classes.iter().any(|c| !c.negative.is_empty()), "names fewer than two classes");
        let multi_label = !classes[0].negative.is_empty();
        if let Some(odd) = classes.iter().find(|c| c.negative.is_empty() == multi_label) {
            bail!("{:?} and {:?} differ: give negative sentences to all classes or to none", odd.name, classes[0].name);
        }
        ensure!(
            multi_label || classes.iter().all(|c| c.name != UNSURE),
            "has a class called {UNSURE:?}, which is what a model answers that is unsure; call it otherwise"
        );
        Ok(Self { classes, multi_label })
    }

    /// Names, in order.
    pub fn names(&self) -> Vec<String> {
        self.classes.iter().map(|c| c.name.clone()).collect()
    }

    /// All sentences, and how many belong to each direction of the shared space: one a class, or with findings two a
    /// class, positive before negative.
    pub fn sentences(&self) -> (Vec<&str>, Vec<usize>) {
        let lists = self.classes.iter().flat_map(|c| [&c.positive, &c.negative]).filter(|list| !list.is_empty());
        let (mut sentences, mut counts) = (Vec::new(), Vec::new());
        for list in lists {
            sentences.extend(list.iter().map(String::as_str));
            counts.push(list.len());
        }
        (sentences, counts)
    }

    /// What `rows` are labelled with, and how often each label occurs that no class has. Findings come from columns of
    /// their names, [`crate::data::Columns::extra`] 0, 1, …; where no row has any, from the label column as a list with
    /// `;` or `|`.
    ///
    /// # Errors
    /// No row has a class; a finding that is neither 1, 0, −1 nor blank.
    pub fn labels(&self, rows: &[Row], policy: LabelPolicy) -> Result<(Labels, BTreeMap<String, usize>)> {
        let index: HashMap<&str, usize> = self.classes.iter().enumerate().map(|(i, c)| (c.name.as_str(), i)).collect();
        let mut unknown = BTreeMap::new();
        let in_columns = || rows.iter().any(|row| (0..self.classes.len()).any(|k| row.extra(k).is_some()));
        let labels = if !self.multi_label {
            Labels::Classes(rows.iter().map(|row| self.class_of(row, &index, &mut unknown)).collect())
        } else if in_columns() {
            Labels::Findings(rows.iter().map(|row| self.findings(row, policy)).collect::<Result<_>>()?)
        } else {
            Labels::Findings(rows.iter().map(|row| self.listed(row, &index, &mut unknown)).collect())
        };
        let found = match &labels {
            Labels::Classes(classes) => classes.iter().any(Option::is_some),
            Labels::Findings(findings) => findings.iter().flatten().any(Option::is_some),
        };
        let seen = || unknown.keys().take(5).map(|label| format!("{label:?}")).collect::<Vec<_>>().join(", ");
        ensure!(
            found,
            "no row is labelled with a class of the prompt file ({}); labels seen: {}; name their column with \
             label_column",
            self.names().join(", "),
            if unknown.is_empty() { "none".into() } else { seen() }
        );
        Ok((labels, unknown))
    }

    /// What stands in the columns called as the classes.
    fn findings(&self, row: &Row, policy: LabelPolicy) -> Result<Vec<Option<bool>>> {
        let value = |(k, class): (usize, &PromptClass)| {
            finding(row.extra(k), policy).map_err(|seen| {
                let name = &class.name;
                anyhow::anyhow!("{}: {name:?} is {seen:?}; allowed is 1, 0, -1 or nothing", row.place())
            })
        };
        self.classes.iter().enumerate().map(value).collect()
    }

    fn class_of(
        &self,
        row: &Row,
        index: &HashMap<&str, usize>,
        unknown: &mut BTreeMap<String, usize>,
    ) -> Option<usize> {
        let label = row.label()?;
        let class = index.get(label).copied();
        if class.is_none() {
            *unknown.entry(label.to_string()).or_default() += 1;
        }
        class
    }

    /// What is listed is there, and what is not listed is not.
    fn listed(
        &self,
        row: &Row,
        index: &HashMap<&str, usize>,
        unknown: &mut BTreeMap<String, usize>,
    ) -> Vec<Option<bool>> {
        if row.label().is_none() {
            return vec![None; self.classes.len()];
        }
        let mut found = vec![Some(false); self.classes.len()];
        for name in row.labels() {
            match index.get(name) {
                Some(&k) => found[k] = Some(true),
                None => *unknown.entry(name.to_string()).or_default() += 1,
            }
        }
        found
    }
}

fn class(name: &str, value: &Value) -> Result<PromptClass> {
    let list = |value: Option<&Value>| -> Result<Vec<String>> {
        let texts = match value {
            None => Vec::new(),
            Some(Value::String(s)) => vec![s.trim().to_string()],
            Some(Value::Array(list)) => {
                let text = |v: &Value| v.as_str().map(|s| s.trim().to_string());
                list.iter().map(text).collect::<Option<Vec<_>>>().context("a list holds what is not text")?
            }
            Some(_) => bail!("is neither a sentence nor a list of them"),
        };
        ensure!(texts.iter().all(|t| !t.is_empty()), "has an empty sentence");
        Ok(texts)
    };
    let read = || -> Result<PromptClass> {
        let (positive, negative) = match value {
            Value::Object(object) => {
                if let Some(other) = object.keys().find(|k| !matches!(k.as_str(), "positive" | "negative")) {
                    bail!("has {other:?}; allowed are positive and negative");
                }
                ensure!(object.contains_key("negative"), "has no negative sentences");
                let negative = list(object.get("negative"))?;
                ensure!(!negative.is_empty(), "has no negative sentences");
                (list(object.get("positive"))?, negative)
            }
            other => (list(Some(other))?, Vec::new()),
        };
        ensure!(!positive.is_empty(), "has no sentences");
        Ok(PromptClass { name: name.trim().to_string(), positive, negative })
    };
    read().with_context(|| format!("class {name:?}"))
}

/// CheXpert's notation: 1, 0, −1 for "uncertain", nothing for "not mentioned".
fn finding(value: Option<&str>, policy: LabelPolicy) -> Result<Option<bool>, String> {
    Ok(match value {
        None => match policy.blank {
            Blank::Negative => Some(false),
            Blank::Ignore => None,
        },
        Some("1" | "1.0" | "true") => Some(true),
        Some("0" | "0.0" | "false") => Some(false),
        Some("-1" | "-1.0") => match policy.uncertain {
            Uncertain::Ignore => None,
            Uncertain::Positive => Some(true),
            Uncertain::Negative => Some(false),
        },
        Some(other) => return Err(other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Columns, Manifest};

    fn policy(uncertain: Uncertain, blank: Blank) -> LabelPolicy {
        LabelPolicy { uncertain, blank }
    }

    fn prompts(name: &str, text: &str) -> Result<Prompts> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Prompts::open(&path)
    }

    fn rows(text: &str, extra: &[&str]) -> Vec<Row> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "x").unwrap();
        std::fs::write(dir.path().join("m.csv"), text).unwrap();
        let columns = Columns { extra: extra.iter().map(ToString::to_string).collect(), ..Columns::default() };
        Manifest::open(&dir.path().join("m.csv"), &columns, None).unwrap().rows
    }

    #[test]
    fn the_order_of_the_file_is_the_order_of_the_classes() {
        let p = prompts("p.toml", "zebra = \"Z.\"\n\"肺炎\" = [\"肺炎。\", \"感染。\"]\napple = [\"A.\"]\n").unwrap();
        assert_eq!(p.names(), ["zebra", "肺炎", "apple"]);
        assert_eq!(p.sentences(), (vec!["Z.", "肺炎。", "感染。", "A."], vec![1, 2, 1]));
        let rows = rows("image,report,label\na,x,apple\na,x,\na,x,todo\na,x,肺炎\n", &[]);
        let (labels, unknown) = p.labels(&rows, policy(Uncertain::Ignore, Blank::Negative)).unwrap();
        assert_eq!(labels, Labels::Classes(vec![Some(2), None, None, Some(1)]));
        assert_eq!(unknown, BTreeMap::from([("todo".to_string(), 1)]));
    }

    #[test]
    fn findings_from_columns_and_from_lists() {
        let text = r#"{"A": {"positive": "a", "negative": ["no a"]}, "B": {"positive": ["b"], "negative": "no b"}}"#;
        let p = prompts("p.json", text).unwrap();
        assert_eq!(p.sentences(), (vec!["a", "no a", "b", "no b"], vec![1; 4]));
        let table = rows("image,report,A,B\na,x,1.0,\na,x,-1,0\n", &["A", "B"]);
        let of = |policy| p.labels(&table, policy).unwrap().0;
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(
            of(policy(Uncertain::Ignore, Blank::Negative)),
            Labels::Findings(vec![vec![yes, no], vec![None, no]])
        );
        assert_eq!(
            of(policy(Uncertain::Positive, Blank::Ignore)),
            Labels::Findings(vec![vec![yes, None], vec![yes, no]])
        );
        let lists = rows("image,report,label\na,x,B; A\na,x,B|C\n", &["A", "B"]);
        let (labels, unknown) = p.labels(&lists, policy(Uncertain::Ignore, Blank::Ignore)).unwrap();
        assert_eq!(labels, Labels::Findings(vec![vec![yes, yes], vec![no, yes]]));
        assert_eq!(unknown.len(), 1);
        let bad = rows("image,report,A,B\na,x,2,0\n", &["A", "B"]);
        let error = p.labels(&bad, policy(Uncertain::Ignore, Blank::Ignore)).unwrap_err().to_string();
        assert!(error.ends_with("m.csv:2: \"A\" is \"2\"; allowed is 1, 0, -1 or nothing"), "{error}");
    }

    #[test]
    fn broken_files_say_what_is_wrong() {
        let error = |text: &str| crate::error::one_line(&prompts("p.toml", text).unwrap_err());
        assert!(error("a = 1\nb = \"x\"").ends_with("class \"a\": is neither a sentence nor a list of them"));
        assert!(error("a = \"x\"").ends_with("names fewer than two classes"));
        assert!(error("a = \"x\"\nb = { positive = \"y\", negative = \"z\" }").contains("differ"));
        assert!(error("a = \"x\"\nunsure = \"y\"").contains("has a class called \"unsure\""));
        assert!(error("a = []\nb = \"x\"").ends_with("class \"a\": has no sentences"));
    }
}
