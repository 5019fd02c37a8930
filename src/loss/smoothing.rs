//! What label smoothing does to a loss: its floor, its chance level, and the logit gap that it asks for.

/// The lowest value a smoothed loss can take: the entropy of `(1 - ε + ε/K, ε/K, …)`, in nats.
pub fn floor(classes: usize, eps: f64) -> f64 {
    let k = classes as f64;
    let on = 1.0 - eps + eps / k;
    let off = eps / k;
    plogp(on) + (k - 1.0) * plogp(off)
}

fn plogp(p: f64) -> f64 {
    if p > 0.0 { -p * p.ln() } else { 0.0 }
}

/// The loss of a model that knows nothing, `ln K`, whatever ε is.
pub fn chance(classes: usize) -> f64 {
    (classes as f64).ln()
}

/// How far the target's logit stands above the others at the floor; infinite without smoothing.
pub fn best_logit_gap(classes: usize, eps: f64) -> f64 {
    let off = eps / classes as f64;
    ((1.0 - eps + off) / off).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // The table of design.md and of field-notes.md, section 0.
        for (k, eps, expected) in [(64, 0.05, 0.400), (64, 0.1, 0.729), (64, 0.2, 1.312), (16, 0.1, 0.565)] {
            assert!((floor(k, eps) - expected).abs() < 5e-4, "K={k} ε={eps}: {}", floor(k, eps));
        }
        assert!((chance(64) - 4.159).abs() < 5e-4);
        assert!((best_logit_gap(64, 0.1) - 6.36).abs() < 5e-3);
        assert_eq!(floor(64, 0.0), 0.0);
        assert!((floor(8, 1.0) - chance(8)).abs() < 1e-12);
    }
}
