//! Gradient × attention: how much each key served each query, of the first item of an attention, for explanations
//! (Chefer, Gur and Wolf, arXiv 2103.15679, equation 5).

/// Mean over heads of the positive part of attention times its gradient, (queries, keys).
#[derive(Clone, Debug, PartialEq)]
pub struct Relevance {
    /// Rows that look.
    pub queries: usize,
    /// Rows that are looked at.
    pub keys: usize,
    /// (queries · keys)
    pub values: Vec<f32>,
}

/// What each of the last layer's keys, followed down to the first layer's rows, has to do with the pooled row: with R =
/// 1 at first, each layer adds A · R (equation 6). `layers` from the first to the last; `pooled` is the row that is
/// read off the last one, `None` where that is the mean of all rows or an attention with a query of its own.
pub fn roll_out(layers: &[Relevance], pooled: Option<usize>) -> Vec<f32> {
    let Some(first) = layers.first() else { return Vec::new() };
    let n = first.keys;
    let mut r: Vec<f32> = (0..n * n).map(|i| f32::from(u8::from(i / n == i % n))).collect();
    let times = |a: &[f32], r: &[f32]| -> Vec<f32> {
        let row = |a: &[f32]| (0..n).map(|k| a.iter().enumerate().map(|(j, a)| a * r[j * n + k]).sum()).collect();
        a.chunks_exact(n).flat_map(|a| -> Vec<f32> { row(a) }).collect()
    };
    for layer in layers.iter().filter(|layer| layer.keys == n) {
        let moved = times(&layer.values, &r);
        if layer.queries != n {
            let own = pooled.filter(|p| *p < n).map_or(vec![0.0; n], |p| r[p * n..(p + 1) * n].to_vec());
            return moved[..n].iter().zip(own).map(|(m, own)| m + own).collect();
        }
        r.iter_mut().zip(moved).for_each(|(r, m)| *r += m);
    }
    match pooled {
        Some(p) if p < n => r[p * n..(p + 1) * n].to_vec(),
        _ => (0..n).map(|k| (0..n).map(|i| r[i * n + k]).sum::<f32>() / n as f32).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relevance_follows_who_looked_at_whom() {
        let full = |values: [f32; 9]| Relevance { queries: 3, keys: 3, values: values.to_vec() };
        // Row 1 has looked at row 2; then the pooled row 0 looks at row 1: what it sees is row 2's.
        let first = full([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        let last = Relevance { queries: 1, keys: 3, values: vec![0.0, 0.5, 0.0] };
        assert_eq!(roll_out(&[first.clone(), last.clone()], Some(0)), [1.0, 0.5, 0.5]);
        assert_eq!(roll_out(&[first.clone(), last], None), [0.0, 0.5, 0.5]);
        let mean = roll_out(&[first], None);
        assert!((mean[2] - 2.0 / 3.0).abs() < 1e-6 && (mean[0] - 1.0 / 3.0).abs() < 1e-6);
        assert!(roll_out(&[], None).is_empty());
    }
}
