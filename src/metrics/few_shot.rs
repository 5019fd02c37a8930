//! Few-shot adaptation of a zero-shot classifier on embeddings, without a validation set: constants are the same
//! for all data, and all but [`ROUNDS`] were fixed before anything was judged.

use super::calibration::softmax;
use super::logistic::Logistic;
use crate::words::words;

words!(
    /// How a head is made of a few labelled embeddings and the classes' texts.
    Method {
        /// The direction of each class's texts plus how far the mean of its shots lies from the mean of all classes,
        /// n / (n + 1) of that for n shots: nothing is fitted.
        TrainingFree = "training_free",
        /// A linear probe whose weights are learnt visual prototypes plus a learnt multiple, a class each, of the
        /// texts' direction (arXiv 2404.02285 and 2409.03868).
        TextProbe = "text_probe",
        /// Logistic regression that knows nothing of texts, as `eval --linear-probe`.
        Logistic = "logistic",
    }
);

impl Method {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::TrainingFree, Self::TextProbe, Self::Logistic];
}

/// Labelled embeddings with the texts of the classes; everything of unit length.
#[derive(Clone, Copy, Debug)]
pub struct Shots<'a> {
    /// Embeddings; at least one.
    pub x: &'a [Vec<f64>],
    /// The class of each.
    pub y: &'a [usize],
    /// The direction of each class's texts.
    pub texts: &'a [Vec<f64>],
    /// What the zero-shot classifier multiplies cosines by.
    pub scale: f64,
}

/// Logits of the classes: (weights · x + bias) / temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearHead {
    /// (classes, width)
    pub weights: Vec<Vec<f64>>,
    /// Of each class.
    pub bias: Vec<f64>,
    /// Above 0.
    pub temperature: f64,
}

/// Inverse strength of the logistic regression's penalty: scikit-learn's default.
const C: f64 = 1.0;
/// Rounds of the probe, each a step of the prototypes and one of the multiples. This one constant was chosen on
/// phantoms, of which probes by 300, as arXiv 2404.02285 has them, were far too sure, with a lower AUROC: figures of
/// phantoms lean good.
const ROUNDS: usize = 100;

impl LinearHead {
    /// The zero-shot classifier.
    pub fn zero_shot(texts: &[Vec<f64>], scale: f64) -> Self {
        Self { weights: texts.to_vec(), bias: vec![0.0; texts.len()], temperature: 1.0 / scale }
    }

    /// Of `shots`, by `method`. A class without shots keeps its texts' direction (and by logistic regression, which has
    /// none, is never predicted).
    pub fn fit(method: Method, shots: &Shots) -> Self {
        match method {
            Method::TrainingFree => training_free(shots),
            Method::TextProbe => text_probe(shots),
            Method::Logistic => {
                let (weights, bias) = Logistic::fit(shots.x, shots.y, shots.texts.len(), C).into_weights();
                Self { weights, bias, temperature: 1.0 }
            }
        }
    }

    /// Whether all of it is finite, also in the f32 that it is kept in.
    pub fn is_finite(&self) -> bool {
        self.weights.iter().flatten().chain(&self.bias).chain([&self.temperature]).all(|w| (*w as f32).is_finite())
    }

    /// Of one embedding.
    pub fn logits(&self, x: &[f64]) -> Vec<f64> {
        let of_class = |(w, b): (&Vec<f64>, &f64)| (dot(w, x) + b) / self.temperature;
        self.weights.iter().zip(&self.bias).map(of_class).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Means of the shots of each class, with how many there are; of a class without any the mean of the others'.
fn prototypes(shots: &Shots) -> (Vec<Vec<f64>>, Vec<f64>, Vec<usize>) {
    let (classes, width) = (shots.texts.len(), shots.x[0].len());
    let (mut sums, mut counts) = (vec![vec![0.0; width]; classes], vec![0usize; classes]);
    for (x, &class) in shots.x.iter().zip(shots.y) {
        counts[class] += 1;
        sums[class].iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    }
    let known = counts.iter().filter(|n| **n > 0).count() as f64;
    let mut middle = vec![0.0; width];
    for (sum, &n) in sums.iter_mut().zip(&counts).filter(|(_, n)| **n > 0) {
        sum.iter_mut().for_each(|value| *value /= n as f64);
        middle.iter_mut().zip(&*sum).for_each(|(middle, value)| *middle += value / known);
    }
    sums.iter_mut().zip(&counts).filter(|(_, n)| **n == 0).for_each(|(sum, _)| sum.clone_from(&middle));
    (sums, middle, counts)
}

fn training_free(shots: &Shots) -> LinearHead {
    let (prototypes, middle, counts) = prototypes(shots);
    let of_class = |((text, prototype), &n): ((&Vec<f64>, &Vec<f64>), &usize)| -> Vec<f64> {
        // A single shot may lie anywhere.
        let trust = n as f64 / (n as f64 + 1.0);
        text.iter().zip(prototype).zip(&middle).map(|((t, p), m)| t + trust * (p - m)).collect()
    };
    let weights = shots.texts.iter().zip(&prototypes).zip(&counts).map(of_class).collect();
    LinearHead { weights, ..LinearHead::zero_shot(shots.texts, shots.scale) }
}

/// Gradient steps on the mean cross-entropy of logits x · (prototype + multiple · text), in turn on prototypes and on
/// multiples, from the means of the shots and from the zero-shot scale. Steps are 1 / the largest curvature, which
/// needs no validation set: with rows of unit length that of prototypes is at most ½, of multiples ½ the largest mean
/// square of a class's cosines.
fn text_probe(shots: &Shots) -> LinearHead {
    let (mut prototypes, _, _) = prototypes(shots);
    let (classes, n) = (shots.texts.len(), shots.x.len() as f64);
    let mut multiples = vec![shots.scale; classes];
    let cosines: Vec<Vec<f64>> =
        shots.x.iter().map(|x| shots.texts.iter().map(|text| dot(x, text)).collect()).collect();
    let curvature = |k: usize| cosines.iter().map(|row| row[k] * row[k]).sum::<f64>() / n / 2.0;
    let largest = (0..classes).map(curvature).fold(f64::MIN_POSITIVE, f64::max);
    for _ in 0..ROUNDS {
        for (row, x) in errors(shots, &cosines, &prototypes, &multiples).into_iter().zip(shots.x) {
            for (prototype, error) in prototypes.iter_mut().zip(row) {
                prototype.iter_mut().zip(x).for_each(|(w, x)| *w -= 2.0 * error * x / n);
            }
        }
        for (row, cosines) in errors(shots, &cosines, &prototypes, &multiples).into_iter().zip(&cosines) {
            let moves = row.into_iter().zip(cosines).map(|(error, cosine)| error * cosine / n / largest);
            multiples.iter_mut().zip(moves).for_each(|(multiple, step)| *multiple -= step);
        }
    }
    let blended = prototypes.into_iter().zip(shots.texts).zip(&multiples);
    let weights = blended.map(|((w, text), multiple)| w.iter().zip(text).map(|(w, t)| w + multiple * t).collect());
    LinearHead { weights: weights.collect(), bias: vec![0.0; classes], temperature: 1.0 }
}

/// Probabilities minus what was so, of each shot.
fn errors(shots: &Shots, cosines: &[Vec<f64>], prototypes: &[Vec<f64>], multiples: &[f64]) -> Vec<Vec<f64>> {
    let of_shot = |((x, cosines), &target): ((&Vec<f64>, &Vec<f64>), &usize)| {
        let logit = |k: usize| dot(x, &prototypes[k]) + multiples[k] * cosines[k];
        let mut errors = softmax(&(0..prototypes.len()).map(logit).collect::<Vec<_>>(), 1.0);
        errors[target] -= 1.0;
        errors
    };
    shots.x.iter().zip(cosines).zip(shots.y).map(of_shot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::calibration::argmax;

    #[test]
    fn a_class_without_shots_keeps_its_words() {
        let unit = |angle: f64| vec![angle.cos(), angle.sin(), 0.0];
        let texts = [unit(0.0), unit(1.0), vec![0.0, 0.0, 1.0]];
        // Shots of the first two lie exchanged: they overrule the texts; of the third there is none.
        let x = vec![unit(1.0), unit(1.1), unit(0.0), unit(-0.1)];
        let shots = Shots { x: &x, y: &[0, 0, 1, 1], texts: &texts, scale: 4.0 };
        for method in [Method::TrainingFree, Method::TextProbe] {
            let head = LinearHead::fit(method, &shots);
            let predicted = |x: &[f64]| argmax(&head.logits(x));
            assert_eq!(predicted(&[0.0, 0.0, 1.0]), 2, "{}", method.word());
            if method == Method::TextProbe {
                assert_eq!((predicted(&unit(1.0)), predicted(&unit(0.0))), (0, 1));
            }
        }
        let zero = LinearHead::zero_shot(&texts, 4.0);
        assert!((zero.logits(&unit(1.0))[1] - 4.0).abs() < 1e-12);
        // Moved towards the shots by ⅔ of how far their mean lies from the middle of both.
        let free = LinearHead::fit(Method::TrainingFree, &shots);
        let means = [0, 2].map(|i| (x[i][0] + x[i + 1][0]) / 2.0);
        let expected = texts[0][0] + (means[0] - (means[0] + means[1]) / 2.0) * 2.0 / 3.0;
        assert!((free.weights[0][0] - expected).abs() < 1e-12);
        assert_eq!(free.weights[2], texts[2]);
    }
}
