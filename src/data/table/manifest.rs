//! Manifests: one row an image–report pair, in any of the formats; several of them as one.
//!
//! Row numbers in messages are line numbers of the file. Reports and patients' numbers never appear in a message.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use super::bags::{Found, Studies, find};
use super::columns::Columns;
use super::fields::{Field, Fields, IMAGE_SEPARATOR, ProblemKind, Take, Unusable};
use super::formats::format_of;
use super::packer::RowPacker;
use super::row::{Images, Origin, Row};
use super::sources;
use crate::data::config::BagBy;
use crate::data::image;
use crate::data::text::Unreadable;
use crate::error::caught;
use crate::fs::{is_same_file, read_too};

/// A row that cannot be used.
#[derive(Clone, Debug)]
pub struct RowProblem {
    /// The manifest that holds it.
    pub file: Arc<Origin>,
    /// Line of the manifest.
    pub line: u64,
    /// Its kind.
    pub kind: ProblemKind,
    /// What is wrong, without the report or patient.
    pub reason: String,
}

impl std::fmt::Display for RowProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file.path.display(), self.line, self.reason)
    }
}

/// A line of a manifest, where rows may be of several.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its number.
    pub number: u64,
    /// That of the row which it belongs to: of the first line of its study.
    pub row: u64,
    /// The images that it names itself.
    pub images: Vec<String>,
}

/// All usable rows of one or several manifests.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// Usable rows in the order of the files and of their lines.
    pub rows: Vec<Row>,
    /// Unusable rows in the same order.
    pub problems: Vec<RowProblem>,
}

impl Manifest {
    /// Reads all that `source` names (see [`sources::expand`]) and looks whether each image is there. Relative image
    /// paths start at `image_root`, or at the manifest's folder.
    ///
    /// # Errors
    /// A file cannot be read, is not UTF-8, or lacks the image or report column. Bad rows are not errors here: they
    /// are in `problems`.
    pub fn open(source: &Path, columns: &Columns, image_root: Option<&Path>) -> Result<Self> {
        Ok(Self::open_all(&[source.to_path_buf()], columns, image_root)?.0)
    }

    /// [`Self::open`] of several sources. The numbers are those of usable rows of each.
    ///
    /// # Errors
    /// As there.
    pub fn open_all(sources: &[PathBuf], columns: &Columns, image_root: Option<&Path>) -> Result<(Self, Vec<usize>)> {
        let (mut manifest, mut counts, mut files) = (Self::default(), Vec::new(), 0);
        for source in sources {
            let before = manifest.rows.len();
            manifest.add(source, columns, image_root, &mut files)?;
            counts.push(manifest.rows.len() - before);
        }
        if columns.bag.by == BagBy::Study {
            check_studies(&manifest.rows, &counts)?;
        }
        Ok((manifest, counts))
    }

    fn add(&mut self, source: &Path, columns: &Columns, image_root: Option<&Path>, files: &mut usize) -> Result<()> {
        let before = self.rows.len();
        for path in sources::expand(source)? {
            let part = Self::open_file(&path, *files, columns, image_root);
            let part = part.with_context(|| format!("manifest {}", path.display()))?;
            *files += 1;
            self.problems.extend(part.problems);
            if self.rows.is_empty() {
                self.rows = part.rows;
            } else {
                self.rows.extend(part.rows);
            }
        }
        // Formats without a header have a column where a row has it.
        let new = &self.rows[before..];
        let is_grouped = columns.bag.by == BagBy::Row || new.is_empty() || new.iter().any(|r| r.study_id().is_some());
        ensure!(
            is_grouped,
            "manifest {}: no row has anything in column {:?}, and data.bag.by = \"study_id\" (--bag-by) joins rows by \
             it; name it with data.study_id_column",
            source.display(),
            columns.study_id
        );
        Ok(())
    }

    fn open_file(path: &Path, number: usize, columns: &Columns, image_root: Option<&Path>) -> Result<Self> {
        let format = format_of(path)?;
        let table = caught(|| format.open(path, columns))?;
        let images = match table.images() {
            Some(images) => Images::Packed(images),
            None => Images::Files(image_root.or(path.parent()).unwrap_or(Path::new("")).to_path_buf()),
        };
        let origin = Arc::new(Origin { path: path.to_path_buf(), number, images });
        collect(origin, columns, |take| caught(|| table.read(columns, take)))
    }

    /// The lines of the rows that [`Self::open`] gives of `source`, all of which can be used.
    ///
    /// # Errors
    /// As there.
    pub fn lines(source: &Path, columns: &Columns, image_root: Option<&Path>) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        for path in sources::expand(source)? {
            let table = caught(|| format_of(&path)?.open(&path, columns))?;
            let root = image_root.or(path.parent()).unwrap_or(Path::new(""));
            let mut studies = Studies::default();
            let mut add = |number: u64, fields: Result<Fields, Unusable>| {
                let Ok(fields) = fields else { return };
                let Some(name) = fields[Field::Image as usize].clone() else { return };
                let row = if columns.bag.by == BagBy::Study { studies.add(number, fields, false) } else { number };
                let images = match find(root, &name, &columns.bag) {
                    Ok((Found::Several(names), _)) => names,
                    _ => vec![name],
                };
                lines.push(Line { number, row, images });
            };
            caught(|| table.read(columns, &mut add)).with_context(|| format!("manifest {}", path.display()))?;
        }
        Ok(lines)
    }

    /// Refuses to have `output` written over where it is a file that rows came from, or the image of one.
    ///
    /// # Errors
    /// It is such a file.
    pub fn spare(&self, output: &Path) -> Result<()> {
        let Ok(real) = std::fs::canonicalize(output) else { return Ok(()) };
        let is_output = |path: &Path| std::fs::canonicalize(path).is_ok_and(|path| is_same_file(&real, &path));
        let mut origins: Vec<&Arc<Origin>> = self.rows.iter().map(Row::origin).collect();
        origins.extend(self.problems.iter().map(|problem| &problem.file));
        origins.dedup_by_key(|origin| origin.number);
        let is_image = |row: &Row| row.image().images().iter().any(|one| is_output(&image::frame_of(one.file()).0));
        let is_read = origins.iter().any(|origin| is_output(&origin.path)) || self.rows.par_iter().any(is_image);
        ensure!(!is_read, read_too(output));
        Ok(())
    }

    /// Only the rows of one split; all rows where no row has a split.
    pub fn only_split(mut self, split: &str) -> Self {
        if self.has_splits() {
            self.rows.retain(|r| r.split() == Some(split));
        }
        self
    }

    /// Whether any row names a split.
    pub fn has_splits(&self) -> bool {
        self.rows.iter().any(|r| r.split().is_some())
    }

    /// The names of all splits, in the order of their first row.
    pub fn splits(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        self.rows.iter().filter_map(Row::split).filter(|s| seen.insert(*s)).collect()
    }
}

/// Rows of one study that lie in two files are not joined, and would be each other's false negatives. `counts`: rows of
/// each source; where patients are not told, numbers of studies say nothing beyond their source.
fn check_studies(rows: &[Row], counts: &[usize]) -> Result<()> {
    let mut first: HashMap<(Result<&str, usize>, &str), &Row> = HashMap::new();
    let mut rest = rows.iter();
    for (source, &count) in counts.iter().enumerate() {
        for row in rest.by_ref().take(count) {
            let Some(study) = row.study_id() else { continue };
            let known = first.entry((row.patient_id().ok_or(source), study)).or_insert(row);
            // A file that is named twice is meant to be read twice.
            ensure!(
                known.origin().path == row.origin().path,
                "{}: is a row of the study of {}; data.bag.by = \"study_id\" (--bag-by) joins rows of one file: write \
                 both into one",
                row.place(),
                known.place()
            );
        }
    }
    Ok(())
}

fn collect(origin: Arc<Origin>, columns: &Columns, read: impl FnOnce(&mut Take) -> Result<()>) -> Result<Manifest> {
    let problem = |line, Unusable { kind, reason }| RowProblem { file: Arc::clone(&origin), line, kind, reason };
    let mut problems = Vec::new();
    let mut packer = RowPacker::new(Arc::clone(&origin));
    let mut push = |line, fields: Result<Fields, Unusable>| match fields.and_then(|fields| checked(fields, columns)) {
        Ok(fields) => packer.push(line, &fields),
        Err(unusable) => problems.push(problem(line, unusable)),
    };
    match columns.bag.by {
        BagBy::Row => read(&mut push)?,
        BagBy::Study => {
            let (mut studies, packed) = (Studies::default(), matches!(origin.images, Images::Packed(_)));
            read(&mut |line, fields| match fields {
                Ok(fields) => {
                    studies.add(line, fields, packed);
                }
                Err(unusable) => push(line, Err(unusable)),
            })?;
            studies.finish().into_iter().for_each(|(line, fields)| push(line, fields));
        }
    }
    let mut rows = packer.finish();
    if let Images::Files(root) = &origin.images {
        let look = |row: &Row| find(root, row.image_name(), &columns.bag);
        let found: Vec<Result<(Found, usize), Unusable>> = rows.par_iter().map(look).collect();
        let mut left_out = 0;
        if found.iter().any(|found| !matches!(found, Ok((Found::Here, _)))) {
            // Packed once more, with the names that were found.
            let mut packer = RowPacker::new(Arc::clone(&origin));
            for (row, found) in rows.iter().zip(found) {
                match found {
                    Ok((Found::Here, _)) => packer.push(row.line, &row.fields()),
                    Ok((Found::Several(names), missing)) => {
                        left_out += missing;
                        let mut fields = row.fields();
                        fields[Field::Image as usize] = Some(names.join(IMAGE_SEPARATOR.encode_utf8(&mut [0; 4])));
                        packer.push(row.line, &fields);
                    }
                    Err(unusable) => problems.push(problem(row.line, unusable)),
                }
            }
            rows = packer.finish();
            problems.sort_by_key(|p| p.line);
        }
        if left_out > 0 {
            tracing::warn!("{}: {left_out} images of bags are not there and are left out", origin.path.display());
        }
    }
    Ok(Manifest { rows, problems })
}

/// A row's texts, with the report as the policy wants it, or what is wrong with them.
fn checked(mut fields: Fields, columns: &Columns) -> Result<Fields, Unusable> {
    if fields[Field::Image as usize].is_none() {
        let reason = format!("column {:?} is blank, and should name the image's file", columns.image);
        return Err(Unusable::new(ProblemKind::NoImage, reason));
    }
    let empty = || Unusable::new(ProblemKind::EmptyReport, "the report is empty");
    let report = fields[Field::Report as usize].take().ok_or_else(empty)?;
    if report.starts_with("version https://git-lfs") {
        let reason = "the report is a Git LFS pointer; run `git lfs pull` where it came from";
        return Err(Unusable::new(ProblemKind::LfsPointer, reason));
    }
    let fixed = columns.policy.fixed(report).map_err(|unreadable| match unreadable {
        Unreadable::Blank => Unusable::new(ProblemKind::EmptyReport, unreadable.to_string()),
        Unreadable::NoSection(_) => unreadable.to_string().into(),
    });
    fields[Field::Report as usize] = Some(fixed?);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(name: &str, text: &[u8]) -> Result<Manifest> {
        let dir = tempfile::tempdir().unwrap();
        for image in ["a.png", "b.png", "片.png"] {
            std::fs::write(dir.path().join(image), b"x").unwrap();
        }
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Manifest::open(&path, &Columns::default(), None)
    }

    fn message(name: &str, text: &[u8]) -> String {
        let e = open(name, text).unwrap_err();
        let line = crate::error::one_line(&e);
        line.split_once(name).unwrap().1.to_string()
    }

    #[test]
    fn every_dialect_gives_the_same_rows() {
        let quoted = "a, \"b\"\nc";
        let files: [(&str, Vec<u8>); 7] = [
            ("comma.csv", b"image,report,split\na.png,\"a, \"\"b\"\"\nc\",val\n".to_vec()),
            ("bom.csv", b"\xef\xbb\xbfimage,report,split\r\na.png,\"a, \"\"b\"\"\nc\",val\r\n".to_vec()),
            ("tab.csv", b"image\treport\tsplit\na.png\t\"a, \"\"b\"\"\nc\"\tval\n".to_vec()),
            ("semicolon.csv", b"report;image;split\n\"a, \"\"b\"\"\nc\";a.png;val".to_vec()),
            ("escape.csv", b"image,report,split\na.png,\"a, \\\"b\\\"\nc\",val\n".to_vec()),
            ("rows.jsonl", b"{\"image\":\"a.png\",\"report\":\"a, \\\"b\\\"\\nc\",\"split\":\"val\"}\n\n".to_vec()),
            ("pipe.txt", b"x|report|split|image\n|\"a, \"\"b\"\"\nc\"|val|a.png\n".to_vec()),
        ];
        for (name, text) in files {
            let m = open(name, &text).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            assert!(m.problems.is_empty(), "{name}");
            assert_eq!(m.rows.len(), 1, "{name}");
            assert_eq!(m.rows[0].report(), quoted, "{name}");
            assert_eq!(m.rows[0].split(), Some("val"), "{name}");
            assert!(m.rows[0].image_name() == "a.png", "{name}");
        }
    }

    #[test]
    fn chinese_names_and_reports() {
        let m = open("中文.csv", "image,report\n片.png,右下肺见斑片影。\n".as_bytes()).unwrap();
        assert_eq!(m.rows[0].report(), "右下肺见斑片影。");
    }

    #[test]
    fn lines_are_counted_whatever_ends_them() {
        let text = b"image,report\r\na.png,\"two\r\nlines\"\r\n\r\n\r\nb.png,\r\na.png,a nodule 5\" wide\r\n\r\n";
        let m = open("crlf.csv", text).unwrap();
        assert_eq!(m.rows.iter().map(|r| r.line).collect::<Vec<_>>(), [2, 7]);
        assert_eq!(m.rows[1].report(), "a nodule 5\" wide");
        assert_eq!(m.problems.iter().map(|p| p.line).collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn a_backslash_is_an_escape_only_where_it_must_be() {
        let rows = |text: &[u8]| open("x.csv", text).unwrap().rows;
        // A quoted field that ends in a backslash.
        assert_eq!(rows(b"image,note,report\na.png,\"C:\\dir\\\",one\nb.png,\"\",two\n").len(), 2);
        // Escapes beside an empty quoted field.
        let escaped = rows(b"image,note,report\na.png,\"\",\"a \\\"sign\\\" here\"\n");
        assert_eq!(escaped[0].report(), "a \"sign\" here");
    }

    #[test]
    fn bad_rows_are_named_by_line() {
        let m = open("x.csv", b"image,report\na.png,fine\nb.png,\nmissing.png,text\na.png\n").unwrap();
        assert_eq!(m.rows.len(), 1);
        let seen: Vec<(u64, &str)> = m.problems.iter().map(|p| (p.line, p.reason.as_str())).collect();
        assert_eq!(seen[0], (3, "the report is empty"));
        assert_eq!(seen[1].0, 4);
        // Names of images may name patients.
        let told = seen[1].1;
        assert!(told.starts_with("image: there is no such file below ") && !told.contains("missing"), "{told}");
        assert_eq!(seen[2], (5, "1 columns where the header has 2; is a quote missing?"));
    }

    #[test]
    fn broken_files_say_what_is_wrong() {
        assert_eq!(
            message("a.csv", b"image,Report\na.png,x\n"),
            ": line 1, cut at commas: there is no column \"report\", only image, Report; did you mean \"Report\"?"
        );
        assert_eq!(message("b.csv", b"image,report\n"), ": has a header and no rows");
        assert_eq!(
            message("c.csv", b"image,report\na.png,\xb0\xa1\xb0\xa1, \xb0\xa1\xb0\xa1\n"),
            ": line 2 is not UTF-8; it seems to be GB18030 (GBK); convert the file with `iconv -f GB18030 -t UTF-8`"
        );
        // With a full stop's and a unit's signs, of whose bytes some are ASCII: a nodule of 3㎝×2㎝.
        let report = b"\xd3\xd2\xb7\xce\xc9\xcf\xd2\xb6\
            \xbc\xfb\xbd\xe1\xbd\xda\xa3\xac\xb4\xf3\xd0\xa1\
            \xd4\xbc3\xa9M\xa1\xc12\xa9M\xa3\xac\xb1\xdf\xbd\xe7\xc7\xe5\xa1\xa3";
        let gbk = message("c.csv", &[b"image,report\na.png,", &report[..], b"\n"].concat());
        assert!(gbk.starts_with(": line 2 is not UTF-8; it seems to be GB18030 (GBK); convert "), "{gbk}");
        // "Größe" in Latin-1, which may be a Chinese character.
        let both = message("c.csv", b"image,report\na.png,Gr\xf6\xdfe\n");
        assert!(both.starts_with(": line 2 is not UTF-8; it seems to be Latin-1 or GB18030 (GBK); convert "), "{both}");
        let latin = message("c.csv", b"image,report\na.png,\xe9panchement \xe0 gauche\n");
        assert!(
            latin.contains("it seems to be Latin-1 or another old encoding; convert the file with `iconv"),
            "{latin}"
        );
        assert_eq!(
            message("m.csv", b"IMAGE,report\na.png,x\n"),
            ": line 1, cut at commas: there is no column \"image\", only IMAGE, report; did you mean \"IMAGE\"?"
        );
        assert_eq!(
            message("d.csv", b"image,report\na.png,\"open\nb.png,x\n"),
            ": line 2: a quote opens here and is never closed; double quotes that belong to the text"
        );
        assert_eq!(
            message("g.csv", b"image,report\na.png,\"open\nb.png,two\na.png,\"closed\"\n"),
            ": line 2: a quote opens here and is followed by text on line 4; double quotes that belong to the text"
        );
        assert_eq!(
            message("h.csv", b"image,report,report\na.png,x,y\n"),
            ": line 1: there are two columns \"report\"; rename one"
        );
        assert!(message("e.csv", b"\xff\xfei\0").contains("UTF-16"));
        for name in ["i.csv", "j.jsonl"] {
            assert_eq!(message(name, b" \n"), ": is empty; a manifest names an image and a report in each row");
        }
        assert!(message("k.png", b"\x89PNG\r\n\x1a\n").starts_with(": is a PNG image, not a manifest"));
        let dicom = [&[0; 128][..], b"DICM"].concat();
        assert!(message("l.csv", &dicom).starts_with(": is a DICOM image, not a manifest"));
        assert!(message("f.csv", b"version https://git-lfs.github.com/spec/v1\n").contains("Git LFS pointer"));
    }
}
