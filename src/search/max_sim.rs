//! Late interaction: a row's score is, over the query's vectors, the sum of the largest cosine with any of the row's
//! (MaxSim, arXiv 2004.12832; `maxsim` of sentence-transformers). Every row is looked at, some vectors at a time.

use std::ops::Range;

use anyhow::{Result, ensure};

use super::late::{LateGallery, LatePart};
use super::scan::{Best, Scored, best_of, queries_at_once};
use crate::groups;
use crate::ops::products;

/// Vectors of queries that are compared with a block at once, but for a query that has more.
const AT_ONCE: usize = 2048;
/// Cosines that a thread holds at once.
const COSINES: usize = 1 << 22;

/// Reads some vectors, (vectors, width).
type Read<'a> = &'a dyn Fn(Range<u64>) -> Result<Vec<f32>>;

/// Queries of several vectors each.
struct Asked {
    width: usize,
    /// (vectors, width), one query after the other.
    numbers: Vec<f32>,
    /// Vectors of each query.
    spans: Vec<Range<usize>>,
}

impl Asked {
    fn of(queries: &[&[f32]], width: usize) -> Self {
        let ends = queries.iter().scan(0, |end, query| {
            let start = *end;
            *end += query.len() / width;
            Some(start..*end)
        });
        Self { width, spans: ends.collect(), numbers: queries.concat() }
    }

    fn vectors(&self) -> usize {
        self.numbers.len() / self.width
    }
}

/// For each query, (vectors, width), the `k` rows with the largest scores, the best one first. The same for any number
/// of threads.
///
/// # Errors
/// Queries of another width or without vectors; vectors that cannot be read.
pub(super) fn max_sim(gallery: &LateGallery, queries: &[&[f32]], k: usize) -> Result<Vec<Vec<Scored>>> {
    let width = gallery.width;
    let other = queries.iter().find(|query| query.is_empty() || !query.len().is_multiple_of(width));
    ensure!(
        other.is_none(),
        "a query of {} numbers is no vectors of width {width}, as the index's patches and tokens are",
        other.map_or(0, |query| query.len())
    );
    let blocks = gallery.blocks();
    let mut found = Vec::new();
    let costs = queries.iter().map(|query| [query.len() / width, 1]);
    for group in groups::within(costs, [AT_ONCE, queries_at_once(k, gallery.rows)]) {
        let queries = &queries[group];
        let asked = Asked::of(queries, width);
        let look = |mut best: Vec<Best>, (part, rows): &(&LatePart, Range<usize>)| -> Result<Vec<Best>> {
            let offsets = &part.offsets[rows.start..=rows.end];
            let offer = |row: usize, query: usize, score: f32| {
                best[query].offer(Scored { row: part.first + rows.start + row, score });
            };
            let at_once = (COSINES / asked.vectors()).clamp(16, AT_ONCE) as u64;
            score(&asked, (offsets, &|range| part.vectors(range)), at_once, offer)?;
            Ok(best)
        };
        found.extend(best_of(&blocks, (queries.len(), k), look)?);
    }
    Ok(found)
}

/// The largest of some numbers and `before`, which is one: sixteen at once. What is no number counts for nothing.
fn largest_of(before: f32, numbers: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = numbers.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(a, &b)| *a = larger(*a, b));
    }
    rest.iter().chain(&lanes).fold(before, |a, &b| larger(a, b))
}

/// Tells `offer` of each row and query the score. Row i has the vectors `offsets[i]..offsets[i + 1]`, which `vectors`
/// reads, `at_once` of them: those of one row need not be held together.
fn score(
    asked: &Asked,
    (offsets, vectors): (&[u64], Read),
    at_once: u64,
    mut offer: impl FnMut(usize, usize, f32),
) -> Result<()> {
    let (count, width) = (asked.vectors(), asked.width);
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    let mut largest = vec![f32::NEG_INFINITY; count];
    let (mut row, mut cosines) = (0, Vec::new());
    for start in (first..last).step_by(at_once as usize) {
        let end = last.min(start + at_once);
        let some = vectors(start..end)?;
        let columns = some.len() / width;
        cosines.resize(count * columns, 0.0);
        products(&asked.numbers, &some, width, &mut cosines);
        while row + 1 < offsets.len() && offsets[row] < end {
            let own = (offsets[row].max(start) - start) as usize..(offsets[row + 1].min(end) - start) as usize;
            for (largest, cosines) in largest.iter_mut().zip(cosines.chunks_exact(columns)) {
                *largest = largest_of(*largest, &cosines[own.clone()]);
            }
            if offsets[row + 1] > end {
                break;
            }
            for (query, span) in asked.spans.iter().enumerate() {
                offer(row, query, largest[span.clone()].iter().sum());
            }
            largest.fill(f32::NEG_INFINITY);
            row += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use candle_core::{DType, Device, Tensor, safetensors};

    use super::*;
    use crate::fs::Access;
    use crate::search::gallery::Side;
    use crate::search::late::{Codes, decode, encode};
    use crate::search::tensors;

    /// scripts/golden/late.py: vectors one row after the other, with offsets, and scores of every query and row.
    struct Golden {
        width: usize,
        rows: Vec<f32>,
        offsets: Vec<u64>,
        queries: Vec<Vec<f32>>,
        scores: Vec<f32>,
    }

    fn golden() -> Golden {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/late.safetensors");
        let golden = safetensors::load(path, &Device::Cpu).unwrap();
        let numbers = |name: &str| golden[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let offsets = |tensor: &Tensor| -> Vec<u64> {
            tensor.to_dtype(DType::I64).unwrap().to_vec1::<i64>().unwrap().iter().map(|&x| x as u64).collect()
        };
        let (width, queries) = (golden["rows"].dim(1).unwrap(), numbers("queries"));
        let of_queries = offsets(&golden["query_offsets"]);
        let query = |w: &[u64]| queries[w[0] as usize * width..w[1] as usize * width].to_vec();
        Golden {
            width,
            rows: numbers("rows"),
            offsets: offsets(&golden["row_offsets"]),
            queries: of_queries.windows(2).map(query).collect(),
            scores: numbers("scores"),
        }
    }

    /// Scores of every query and row, (queries, rows).
    fn scores(queries: &[&[f32]], rows: &[f32], offsets: &[u64], at_once: u64, width: usize) -> Vec<f32> {
        let (asked, count) = (Asked::of(queries, width), offsets.len() - 1);
        let mut found = vec![f32::NAN; queries.len() * count];
        let vectors = |range: Range<u64>| Ok(rows[range.start as usize * width..range.end as usize * width].to_vec());
        score(&asked, (offsets, &vectors), at_once, |row, query, score| found[query * count + row] = score).unwrap();
        found
    }

    /// How far scores of up to 31 vectors are from those of `expected`, at most.
    fn apart(found: &[f32], expected: &[f32]) -> f32 {
        assert_eq!(found.len(), expected.len());
        found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    /// scripts/golden/late.py: vectors of f32 within 2e-5; those in 8 bits within 0.05 of sums of up to 31 cosines, and
    /// in the same order but for rows that are nearly alike.
    #[test]
    fn scores_are_those_of_sentence_transformers() {
        let Golden { width, rows, offsets: row_offsets, queries, scores: expected } = golden();
        let queries: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
        assert!(queries.len() == 8 && row_offsets.len() == 81 && rows.len() > 2048 * width);
        // Blocks that end anywhere in a row, and within one row several times.
        for at_once in [2048, 100, 7, 1] {
            let found = scores(&queries, &rows, &row_offsets, at_once, width);
            assert!(apart(&found, &expected) < 2e-5, "{at_once}: {}", apart(&found, &expected));
        }
        let mut codes = Vec::new();
        rows.chunks(width).for_each(|vector| encode(vector, &mut codes));
        let found = scores(&queries, &decode(&codes, width), &row_offsets, 100, width);
        let off = apart(&found, &expected);
        assert!(off > 1e-4 && off < 0.05, "{off}");
        let (mut same, mut pairs) = (0, 0);
        for (found, expected) in found.chunks(80).zip(expected.chunks(80)) {
            for (a, b) in (0..80).flat_map(|a| (0..a).map(move |b| (a, b))) {
                pairs += 1;
                same += usize::from((found[a] > found[b]) == (expected[a] > expected[b]));
            }
        }
        assert!(same as f64 > 0.995 * f64::from(pairs), "{same} of {pairs} pairs in the same order, {off} apart");
    }

    /// Over shards, groups of queries and threads as over one matrix.
    #[test]
    fn the_best_rows_are_those_of_all_scores() {
        let Golden { width, rows, offsets, queries, scores: expected } = golden();
        let (dir, mut first, mut shards) = (tempfile::tempdir().unwrap(), 0, Vec::new());
        for count in [30, 1, 49] {
            let (mut codes, path) = (Codes::of_width(width), dir.path().join(format!("{first}.safetensors")));
            for (done, row) in (first..first + count).enumerate() {
                codes.push(&rows[offsets[row] as usize * width..offsets[row + 1] as usize * width]);
                codes.reserve(done + 1, count, usize::MAX);
            }
            let parts = codes.tensors(Side::Images);
            tensors::write(&path, parts.iter().map(|(name, part)| (*name, part)), None, Access::Usual).unwrap();
            shards.push((path, count));
            first += count;
        }
        let gallery = LateGallery::open(shards.into_iter(), Side::Images).unwrap().unwrap();
        // More vectors than are compared at once, between queries that are grouped.
        let long: Vec<f32> = queries.concat().into_iter().cycle().take(3000 * width).collect();
        let few = queries.iter().map(Vec::as_slice);
        let asked: Vec<&[f32]> = few.clone().chain([long.as_slice()]).chain(few).collect();
        let mut codes = Vec::new();
        rows.chunks(width).for_each(|vector| encode(vector, &mut codes));
        let all = scores(&asked, &decode(&codes, width), &offsets, 100, width);
        for k in [1, 3, 80, 1000] {
            let found = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| max_sim(&gallery, &asked, k).unwrap())
            };
            let best = found(1);
            assert_eq!(best, found(4));
            assert_eq!(best.len(), asked.len());
            for (query, (best, all)) in best.iter().zip(all.chunks(80)).enumerate() {
                let most = 1e-5 + 1e-6 * (asked[query].len() / width) as f32;
                let mut sorted = all.to_vec();
                sorted.sort_by(|a, b| b.total_cmp(a));
                assert_eq!(best.iter().map(|hit| hit.row).collect::<BTreeSet<_>>().len(), k.min(80));
                for (hit, score) in best.iter().zip(sorted) {
                    let near = |other: f32| (hit.score - other).abs() < most;
                    assert!(near(score) && near(all[hit.row]), "query {query}: {hit:?}, not {score}");
                    assert!(query >= 8 || (hit.score - expected[query * 80 + hit.row]).abs() < 0.05, "{hit:?}");
                }
            }
        }
        let told = max_sim(&gallery, &[&[0.0; 25]], 1).unwrap_err().to_string();
        assert!(told.starts_with("a query of 25 numbers is no vectors of width 24"), "{told}");
    }

    #[test]
    fn the_largest_is_found_wherever_it_stands() {
        let numbers: Vec<f32> = (0..37).map(|i| -((i * 7 % 37) as f32)).collect();
        for length in 1..=37 {
            let largest = numbers[..length].iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(largest_of(f32::NEG_INFINITY, &numbers[..length]), largest);
            assert_eq!(largest_of(1.0, &numbers[..length]), 1.0);
            assert_eq!(largest_of(-100.0, &[&numbers[..length], &[f32::NAN]].concat()), largest);
        }
        assert_eq!(largest_of(0.5, &[]), 0.5);
    }
}
