//! Rows: unusable ones, leaks between splits, labels.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::finding::{Finding, Histogram, Level, SHOWN};
use super::images::InspectedImages;
use super::kind::FindingKind;
use crate::data::{ImageSource, ProblemKind, Row, RowProblem};

/// Rows that cannot be used, one finding a kind of problem.
pub(super) fn unusable(problems: &[RowProblem]) -> Vec<Finding> {
    let mut found: BTreeMap<ProblemKind, Vec<&RowProblem>> = BTreeMap::new();
    problems.iter().for_each(|problem| found.entry(problem.kind).or_default().push(problem));
    let finding = |(kind, problems): (ProblemKind, Vec<&RowProblem>)| {
        let (kind, message) = FindingKind::of_problem(kind);
        let place = |p: &&RowProblem| format!("{}:{}", p.file.path.display(), p.line);
        Finding {
            level: Level::Error,
            kind,
            count: problems.len(),
            message: message.to_string(),
            rows: problems.iter().take(SHOWN).map(place).collect(),
            examples: Vec::new(),
        }
    };
    found.into_iter().map(finding).collect()
}

/// Who or what stands on both sides of a split.
pub(super) fn leaks(rows: &[Row], images: &InspectedImages, findings: &mut Vec<Finding>) {
    type Keys = fn(&Row) -> Vec<String>;
    let keys: [(Keys, FindingKind, &str); 3] = [
        (
            |r| r.patient_id().map(str::to_string).into_iter().collect(),
            FindingKind::LeakingPatient,
            "rows of patients that another split holds too",
        ),
        (
            // Numbers of studies may be a patient's own: first, second.
            |r| r.study_id().map(|study| format!("{:?} {study}", r.patient_id())).into_iter().collect(),
            FindingKind::LeakingStudy,
            "rows of studies that another split holds too",
        ),
        // Bags may share one image of several.
        (
            |r| r.image().images().iter().map(ImageSource::name).collect(),
            FindingKind::LeakingImage,
            "rows whose image another split holds too",
        ),
    ];
    const HINT: &str = "figures would be too good; `reportclip data split` keeps patients together";
    for (key, kind, what) in keys {
        let mut first: HashMap<String, Option<&str>> = HashMap::new();
        let mut found = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            // All of them: later rows may share any.
            let others = key(row).into_iter().map(|name| *first.entry(name).or_insert(row.split()) != row.split());
            if others.filter(|&other| other).count() > 0 {
                found.push(i);
            }
        }
        findings.extend(Finding::new(Level::Error, kind, rows, found, format!("{what}: {HINT}")));
    }
    let across = |pairs: Vec<(usize, usize)>| -> Vec<usize> {
        pairs.into_iter().filter(|&(a, b)| rows[a].split() != rows[b].split()).map(|(_, b)| b).collect()
    };
    let message = format!("files with the same content as one of another split: {HINT}");
    findings.extend(Finding::new(Level::Error, FindingKind::LeakingCopy, rows, across(images.same()), message));
    let message = "images nearly the same as one of another split: look at them, figures may be too good".to_string();
    findings.extend(Finding::new(
        Level::Warning,
        FindingKind::NearDuplicateAcrossSplits,
        rows,
        across(images.near()),
        message,
    ));
}

/// Labels that hardly occur, or hardly anything else.
pub(super) fn classes(rows: &[Row], findings: &mut Vec<Finding>) {
    let mut counts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    rows.iter().enumerate().for_each(|(i, r)| counts.entry(r.label().unwrap_or("")).or_default().push(i));
    if counts.len() < 2 || counts.len() > 1000 {
        return;
    }
    let rare: Vec<usize> = counts.values().filter(|rows| rows.len() < 5).flatten().copied().collect();
    let message = "rows with a label that fewer than 5 rows have: figures by label will say nothing of it";
    findings.extend(Finding::new(Level::Note, FindingKind::RareLabel, rows, rare, message.into()));
    let missing = counts.get("").cloned().unwrap_or_default();
    findings.extend(Finding::new(Level::Note, FindingKind::NoLabel, rows, missing, "rows without a label".into()));
    let largest = counts.values().map(Vec::len).max().unwrap_or(0);
    if 10 * largest > 9 * rows.len() {
        let most = counts.into_values().find(|rows| rows.len() == largest).unwrap_or_default();
        let message = "rows with one label, more than nine tenths of all: see data.sampling = \"class_balanced\"";
        findings.extend(Finding::new(Level::Note, FindingKind::OneLabel, rows, most, message.into()));
    }
}

/// Rows of one study that say different things of it.
pub(super) fn studies(rows: &[Row], findings: &mut Vec<Finding>) {
    let mut first: HashMap<(Option<&str>, &str), &str> = HashMap::new();
    let mut found = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let (Some(study), Some(label)) = (row.study_id(), row.label()) else { continue };
        // Numbers of studies may be a patient's own: first, second.
        if *first.entry((row.patient_id(), study)).or_insert(label) != label {
            found.push(i);
        }
    }
    let message = "rows whose study has another label on an earlier row: as one report (--bag-by study_id) it has none";
    findings.extend(Finding::new(Level::Warning, FindingKind::StudyOtherLabel, rows, found, message.into()));
}

pub(super) fn histograms(rows: &[Row], histograms: &mut Vec<Histogram>) {
    let mut count = |name, key: fn(&Row) -> Option<&str>| {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        rows.iter().filter_map(key).for_each(|k| *counts.entry(k).or_default() += 1);
        let mut bars: Vec<(String, usize)> = counts.into_iter().map(|(k, n)| (k.to_string(), n)).collect();
        bars.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        bars.truncate(20);
        if !bars.is_empty() {
            histograms.push(Histogram { name, bars });
        }
    };
    count("rows a split", Row::split);
    count("rows a label", Row::label);
    let mut images: HashMap<(Option<&str>, &str), HashSet<String>> = HashMap::new();
    for row in rows {
        if let Some(study) = row.study_id() {
            images.entry((row.patient_id(), study)).or_default().extend(row.image_names().map(str::to_string));
        }
    }
    if !images.is_empty() {
        let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
        images.values().for_each(|views| *sizes.entry(views.len().min(10)).or_default() += 1);
        let bars = sizes.into_iter().map(|(n, count)| (n.to_string(), count)).collect();
        histograms.push(Histogram { name: "images a study", bars });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Columns, Manifest};

    #[test]
    fn numbers_of_studies_may_be_a_patients_own() {
        let dir = tempfile::tempdir().unwrap();
        ["a.png", "b.png", "c.png"].iter().for_each(|name| std::fs::write(dir.path().join(name), name).unwrap());
        let path = dir.path().join("m.csv");
        let leaking = |second: &str| {
            let text = "image,report,patient_id,study_id,split\na.png,x,p,1,train\nb.png,x,q,1,test\n";
            std::fs::write(&path, format!("{text}c.png,x,{second}\n")).unwrap();
            let rows = Manifest::open(&path, &Columns::default(), None).unwrap().rows;
            let mut found = Vec::new();
            leaks(&rows, &InspectedImages::open(Vec::new(), 0, &|_, _| {}), &mut found);
            found.iter().filter(|f| f.kind == FindingKind::LeakingStudy).map(|f| f.count).sum::<usize>()
        };
        assert_eq!((leaking("q,1,test"), leaking("q,1,val")), (0, 1));
    }

    /// Kinds come with the problems; a file's name says nothing about them.
    #[test]
    fn names_of_files_do_not_decide_the_kind() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("there is no such file.png")).unwrap();
        let text = "image,report\nthere is no such file.png,x\nthe report is empty.png,x\nno.png,\nno.png,x,y\n\
                    no.png,version https://git-lfs.github.com/spec/v1\n \t,x\n\"[no.png, b.png]\",x\n\
                    \"[\"\"no.png\"\", \"\"b.png\"\"\",x\n[old] no.png,x\n";
        let path = dir.path().join("m.csv");
        std::fs::write(&path, text).unwrap();
        let manifest = Manifest::open(&path, &Columns::default(), None).unwrap();
        let found: Vec<(&str, usize)> = unusable(&manifest.problems).iter().map(|f| (f.kind.word(), f.count)).collect();
        let expected = [
            ("missing_image", 2),
            ("empty_report", 1),
            ("lfs_pointer", 1),
            ("no_image", 1),
            ("broken_list", 2),
            ("broken_row", 1),
            ("unusable_row", 1),
        ];
        assert_eq!(found, expected);
    }
}
