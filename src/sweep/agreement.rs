//! How far runs of one setting agree: what is left open by the seed alone.

use super::mean::Mean;
use super::member::Member;
use crate::metrics::students_t::t_975;

/// The share of questions that two of the runs answer alike, right or wrong: the mean over pairs of runs, with a 95 %
/// interval by the jackknife over runs from three of them on. `None` below two runs, or where they were asked
/// different questions.
fn agreement(runs: &[&[usize]]) -> Option<Mean> {
    let n = runs.len();
    let questions = runs.first()?.len();
    if n < 2 || questions == 0 || runs.iter().any(|answers| answers.len() != questions) {
        return None;
    }
    let alike = |a: &[usize], b: &[usize]| a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / questions as f64;
    // Of each run the sum over all others.
    let of_run = |i: usize| (0..n).filter(|k| *k != i).map(|k| alike(runs[i], runs[k])).sum::<f64>();
    let sums: Vec<f64> = (0..n).map(of_run).collect();
    let all = sums.iter().sum::<f64>();
    let half_width = (n > 2).then(|| {
        let without: Vec<f64> = sums.iter().map(|own| (all - 2.0 * own) / ((n - 1) * (n - 2)) as f64).collect();
        let middle = without.iter().sum::<f64>() / n as f64;
        let squares: f64 = without.iter().map(|v| (v - middle).powi(2)).sum();
        t_975((n - 1) as f64) * ((n - 1) as f64 / n as f64 * squares).sqrt()
    });
    Some(Mean { mean: all / (n * (n - 1)) as f64, half_width, seeds: n })
}

/// By the name of the figure, of the runs of one setting: `class_agreement`, `report_agreement`.
pub(super) fn agreements<'a>(members: &[&'a Member]) -> impl Iterator<Item = (String, Mean)> + use<'a> {
    let answers = |name: &str| -> Vec<&[usize]> {
        members.iter().filter_map(|m| m.by_patient.answers.get(name)).map(Vec::as_slice).collect()
    };
    let found = ["class", "report"].map(|name| Some((format!("{name}_agreement"), agreement(&answers(name))?)));
    found.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_agree_as_often_as_pairs_of_them_do() {
        let runs: [&[usize]; 3] = [&[1, 2, 3, 4], &[1, 2, 3, 0], &[1, 2, 0, 0]];
        let found = agreement(&runs).unwrap();
        // Pairs: 3/4, 2/4, 3/4; without one run: 3/4, 2/4, 3/4.
        assert!((found.mean - 2.0 / 3.0).abs() < 1e-12 && found.seeds == 3);
        let spread: f64 = [0.75, 0.5, 0.75].iter().map(|v: &f64| (v - 2.0 / 3.0).powi(2)).sum();
        assert!((found.half_width.unwrap() - 4.302_652_7 * (spread * 2.0 / 3.0).sqrt()).abs() < 1e-6);
        assert_eq!(agreement(&runs[..2]).unwrap().half_width, None);
        assert!(agreement(&runs[..1]).is_none() && agreement(&[&[1], &[1, 2]]).is_none());
    }
}
