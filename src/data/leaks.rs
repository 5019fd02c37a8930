//! Whoever stands on both sides of a split makes figures too good. Messages say how many, not who.

use std::collections::HashSet;

use anyhow::{Result, bail};

use super::Row;
use super::split::same_images;

/// Rows that play one part.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The rows.
    pub rows: &'a [Row],
    /// What they are called in messages.
    pub name: &'a str,
}

/// Says of patients, studies or images (by name or by content) that stand on both sides how many there are and what to
/// do; `None` where there is none.
pub fn shared(first: Side, second: Side) -> Option<String> {
    if first.rows.is_empty() || second.rows.is_empty() {
        return None;
    }
    const HINT: &str =
        "so figures would be too good; give all rows of a patient one split, or let `reportclip data split`";
    let sides = format!("stand in {} and in {}", first.name, second.name);
    type KeyOf = fn(&Row) -> Option<&str>;
    for (what, key) in [("patients", Row::patient_id as KeyOf), ("studies", Row::study_id)] {
        let of = |rows| -> HashSet<&str> { <[Row]>::iter(rows).filter_map(key).collect() };
        let both = of(first.rows).intersection(&of(second.rows)).count();
        if both > 0 {
            return Some(format!("{both} {what} {sides}, {HINT}"));
        }
    }
    let all: Vec<Row> = first.rows.iter().chain(second.rows).cloned().collect();
    let across = |&(a, b): &(usize, usize)| (a < first.rows.len()) != (b < first.rows.len());
    let same = same_images(&all).into_iter().filter(across).count();
    (same > 0).then(|| format!("{same} images {sides}, by name or with the same content, {HINT}"))
}

/// Refuses to judge on one side what was fitted on another where somebody of `manifest` stands on both.
///
/// # Errors
/// Somebody does: [`shared`]'s words.
pub fn refuse_shared(manifest: &str, fitted_on: Side, judged_on: Side) -> Result<()> {
    match shared(fitted_on, judged_on) {
        Some(line) => bail!("{manifest}: {line}"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Columns, Manifest};

    #[test]
    fn patients_studies_and_images_are_found_on_both_sides() {
        let dir = tempfile::tempdir().unwrap();
        // a and d hold the same bytes.
        for (name, bytes) in [("a", "one"), ("b", "two"), ("c", "sun"), ("d", "one")] {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        // Two series of one file with two frames each, which hold the same.
        let slices = b"DICM\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0\x28\0\x08\0IS\x02\x002 \
                       \x28\0\x10\0US\x02\0\x01\0\x28\0\x11\0US\x02\0\x01\0";
        for series in ["e", "f"] {
            std::fs::create_dir(dir.path().join(series)).unwrap();
            std::fs::write(dir.path().join(series).join("1.dcm"), [&[0; 128], &slices[..]].concat()).unwrap();
        }
        let check = |rows: &str| {
            let path = dir.path().join("m.csv");
            std::fs::write(&path, format!("image,report,patient_id,study_id,split\n{rows}")).unwrap();
            let rows = Manifest::open(&path, &Columns::default(), None).unwrap().rows;
            let of = |split: &str| rows.iter().filter(|r| r.split() == Some(split)).cloned().collect::<Vec<_>>();
            let (val, test) = (of("val"), of("test"));
            shared(Side { rows: &val, name: "split val" }, Side { rows: &test, name: "split test" })
        };
        let said = |rows: &str| check(rows).unwrap();
        assert!(said("a,x,1,,val\nb,y,1,,test\n").starts_with("1 patients stand in split val and in split test, so"));
        assert!(said("a,x,1,7,val\nb,y,2,7,test\n").starts_with("1 studies stand in"));
        assert!(said("a,x,1,7,val\na,y,2,8,test\n").starts_with("1 images stand in"), "by name");
        assert!(said("a,x,1,7,val\nd,y,2,8,test\n").starts_with("1 images stand in"), "by content");
        assert!(said("e,x,1,7,val\nf,y,2,8,test\n").starts_with("1 images stand in"), "a series by content");
        assert_eq!(check("a,x,1,7,val\nb,y,2,8,test\nc,z,3,9,test\n"), None);
        assert_eq!(check("a,x,1,7,val\nb,y,1,7,val\n"), None, "one side is empty");
    }
}
