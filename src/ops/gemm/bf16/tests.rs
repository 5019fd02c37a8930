//! Every kernel that this machine can run, against sums in f64 of operands that were rounded first.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;

use half::bf16;

use super::*;
use crate::ops::gemm::operands::{self, Layout};
#[cfg(target_arch = "x86_64")]
use crate::ops::gemm::processor::is_amd;
#[cfg(target_arch = "x86_64")]
use crate::ops::skipped::skipped;

/// Those that this machine can run, and the models.
fn kernels() -> Vec<Kernel> {
    let mut all = Kernel::all_of_this_machine();
    #[cfg(target_arch = "x86_64")]
    if pack::is_available() {
        all.extend([Kernel::Model, Kernel::Pairs]);
    }
    all
}

thread_local! {
    static INSTEAD: Cell<Option<Kernel>> = const { Cell::new(None) };
}

/// What this thread's products go to, whatever the machine has.
pub(super) fn kernel_instead() -> Option<Kernel> {
    INSTEAD.get()
}

/// Runs `f` on threads whose products go to `kernel`.
#[cfg(target_arch = "x86_64")]
pub(in crate::ops) fn with_kernel<T: Send>(kernel: Kernel, f: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(move |_| INSTEAD.set(Some(kernel)));
    pool.build().unwrap().install(f)
}

fn wave(count: usize, phase: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.37 + phase).sin()).collect()
}

/// A matrix with gaps between its rows or columns, in f32 and in bf16.
struct Operand {
    numbers: Vec<f32>,
    rounded: Vec<bf16>,
    layout: Layout,
}

impl Operand {
    fn new((rows, columns): (usize, usize), turned: bool, gap: usize, phase: f32) -> Self {
        let layout = if turned {
            Layout::part(columns, rows, rows + gap).transposed()
        } else {
            Layout::part(rows, columns, columns + gap)
        };
        let numbers = wave(layout.span(), phase);
        let rounded = numbers.iter().map(|&x| bf16::from_f32(x)).collect();
        Self { numbers, rounded, layout }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        f64::from(self.rounded[row * self.layout.row_stride + column * self.layout.column_stride].to_f32())
    }

    fn factor(&self, in_bf16: bool) -> Factor<'_> {
        if in_bf16 { self.layout.of(&self.rounded).into() } else { self.layout.of(&self.numbers).into() }
    }
}

struct Case {
    a: Operand,
    b: Operand,
    /// Of the output, which has gaps that must stay as they are.
    place: Layout,
    /// a · b and the sum of its terms' sizes, row after row.
    exact: Vec<(f64, f64)>,
}

impl Case {
    /// `way` says which of the matrices are transposed.
    fn new((m, k, n): (usize, usize, usize), way: usize) -> Self {
        let gap = (m + n + k) % 3;
        let a = Operand::new((m, k), way & 1 > 0, gap, 0.1);
        let b = Operand::new((k, n), way & 2 > 0, gap, 0.7);
        let place = if way & 4 > 0 { Layout::part(n, m, m + 3).transposed() } else { Layout::part(m, n, n + 3) };
        let sums = |i, j| {
            let terms = (0..k).map(|x| a.at(i, x) * b.at(x, j));
            terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
        };
        let exact = (0..m).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| sums(i, j)).collect();
        Self { a, b, place, exact }
    }

    /// Operands at the ends of their range: products and sums below the smallest normal number and beyond the largest,
    /// and a row or a column in five with one operand that is none of the usual.
    #[cfg(target_arch = "x86_64")]
    fn at_the_ends(shape: (usize, usize, usize), way: usize) -> Self {
        const SPECIAL: [f32; 7] =
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3.38e38, 1e-39, -1e-40, f32::MIN_POSITIVE];
        let mut case = Self::new(shape, way);
        for (operand, across, powers) in
            [(&mut case.a, false, [0, -100, -63, 100]), (&mut case.b, true, [0, -26, -63, 27])]
        {
            let Layout { rows, columns, row_stride, column_stride } = operand.layout;
            let (lines, depth, line_stride, stride) = if across {
                (columns, rows, column_stride, row_stride)
            } else {
                (rows, columns, row_stride, column_stride)
            };
            for line in 0..lines {
                let scale = 2f32.powi(powers[line % 4]);
                (0..depth).for_each(|x| operand.numbers[line * line_stride + x * stride] *= scale);
                if line % 5 == 4 && depth > 0 {
                    operand.numbers[line * line_stride + (7 * line) % depth * stride] =
                        SPECIAL[line / 5 % SPECIAL.len()];
                }
            }
            operand.rounded = operand.numbers.iter().map(|&x| bf16::from_f32(x)).collect();
        }
        case
    }

    /// The product in f32.
    #[cfg(target_arch = "x86_64")]
    fn product(&self, kernel: Kernel, how: usize) -> Vec<f32> {
        let mut y = vec![0f32; self.place.span()];
        let output = Output::F32(&mut y, self.place, operands::Into::Over);
        self.run(kernel, output, Epilogue::default(), how, Threads::All);
        y
    }

    fn run(&self, kernel: Kernel, output: Output, epilogue: Epilogue, how: usize, threads: Threads) {
        let (a, b) = (self.a.factor(how & 1 > 0), self.b.factor(how & 2 > 0));
        if how & 4 > 0 {
            let (first, second) = (Packed::first(kernel, a, threads), Packed::second(kernel, b, threads));
            product_by(kernel, output, ((&first).into(), (&second).into()), epilogue, threads);
            return;
        }
        product_by(kernel, output, (a, b), epilogue, threads);
    }

    /// What `finish` makes of an exact sum stands at each place, and nothing else was written.
    fn check(&self, name: &str, after: &[f32], before: &[f32], finish: impl Fn(usize, usize, f64) -> f64) {
        let mut untouched = vec![true; after.len()];
        let Layout { rows, columns, row_stride, column_stride } = self.place;
        // A running sum loses more the longer it is.
        let allowed = 1e-6 * (1.0 + self.a.layout.columns as f64 / 1024.0);
        for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
            let at = i * row_stride + j * column_stride;
            let (sum, size) = self.exact[i * columns + j];
            let (ours, exact) = (f64::from(after[at]), finish(i, j, sum));
            untouched[at] = false;
            let close = (ours - exact).abs() <= allowed * (1.0 + size + exact.abs());
            assert!(close, "{name}, {:?} {:?}, ({i}, {j}): {ours}, not {exact}", self.a.layout, self.b.layout);
        }
        let kept = (0..after.len()).filter(|&i| untouched[i]).all(|i| after[i] == before[i]);
        assert!(kept, "{name}: wrote past the matrix");
    }

    /// All of one kernel's ways: into f32 over and onto, with an epilogue, and into bf16, from both types and packed.
    fn check_kernel(&self, kernel: Kernel, how: usize) {
        let name = &format!("{kernel:?}, {how}");
        let before = wave(self.place.span() + 2, 0.3);
        let bias = wave(self.place.columns, 0.9);
        let twist = |piece: &mut Piece| {
            let (row, column) = (piece.part.row, piece.part.column);
            for (i, line) in piece.rows().enumerate() {
                line.iter_mut().enumerate().for_each(|(j, y)| *y += (row + i) as f32 - 0.5 * (column + j) as f32);
            }
        };
        let plain = Epilogue { scale: 0.5, ..Epilogue::default() };
        let whole = Epilogue { bias: Some(&bias), then: Some(&twist), ..plain };
        let old = |i, j| f64::from(before[i * self.place.row_stride + j * self.place.column_stride]);
        let finished = |i: usize, j: usize, sum| 0.5 * sum + f64::from(bias[j]) + i as f64 - 0.5 * j as f64;

        let mut onto = before.clone();
        self.run(kernel, Output::F32(&mut onto, self.place, operands::Into::Onto), plain, how, Threads::One);
        self.check(name, &onto, &before, |i, j, sum| old(i, j) + 0.5 * sum);
        let mut over = before.clone();
        self.run(kernel, Output::F32(&mut over, self.place, operands::Into::Over), whole, how, Threads::All);
        self.check(name, &over, &before, finished);
        let mut in_bf16: Vec<bf16> = before.iter().map(|&x| bf16::from_f32(x)).collect();
        self.run(kernel, Output::Bf16(&mut in_bf16, self.place), whole, how, Threads::One);
        let expected: Vec<bf16> = over.iter().map(|&x| bf16::from_f32(x)).collect();
        assert!(in_bf16 == expected, "{name}: rounded results, and what lies between");
        self.check_packed(kernel, whole);
    }

    /// What another product makes of a packed result is what it makes of the same numbers row after row.
    fn check_packed(&self, kernel: Kernel, epilogue: Epilogue) {
        let (rows, columns) = (self.place.rows, self.place.columns);
        let factors = (self.a.factor(false), self.b.factor(true));
        let packed = packed_product_by(kernel, factors, epilogue, Threads::All);
        let (mut rounded, plain) = (vec![bf16::NAN; rows * columns], Layout::plain(rows, columns));
        product_by(kernel, Output::Bf16(&mut rounded, plain), factors, epilogue, Threads::One);
        let after = Operand::new((columns, 37), true, 1, 0.2);
        let multiply = |first: Factor| {
            let mut y = vec![0f32; rows * 37];
            let output = Output::F32(&mut y, Layout::plain(rows, 37), operands::Into::Over);
            product_by(kernel, output, (first, after.factor(false)), Epilogue::default(), Threads::One);
            y
        };
        assert!(multiply((&packed).into()) == multiply(plain.of(&rounded).into()), "{kernel:?}, {plain:?}");
    }
}

/// Rows, shared side, columns.
const SHAPES: [(usize, usize, usize); 10] = [
    (1, 1, 1),
    (2, 3, 33),
    (33, 31, 2),
    (31, 64, 32),
    (32, 33, 65),
    (50, 64, 50),
    (40, 95, 36),
    (5, 0, 7),
    (1, 300, 45),
    (39, 7, 1),
];

#[test]
fn products_agree_with_f64_of_rounded_operands() {
    for (s, shape) in SHAPES.into_iter().enumerate() {
        for way in 0..8 {
            let case = Case::new(shape, way);
            for kernel in kernels() {
                // Each way of giving operands with some shape and some way of transposing.
                case.check_kernel(kernel, (s + way) % 8);
            }
        }
    }
}

/// That a kernel gives what its model in plain Rust gives, bit for bit. Sums that are added up in another order, or
/// rounded once more or less, differ somewhere.
#[cfg(target_arch = "x86_64")]
fn assert_same_bits(kernel: Kernel, model: Kernel) {
    let mut numbers = 0;
    for (s, shape) in SHAPES.into_iter().chain([(133, 1_037, 70)]).enumerate() {
        for way in 0..8 {
            for case in [Case::new(shape, way), Case::at_the_ends(shape, way)] {
                let [ours, theirs] = [kernel, model].map(|kernel| case.product(kernel, (s + way) % 8));
                // NaN's payload is nobody's promise.
                let apart = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan());
                let apart = ours.iter().zip(&theirs).position(apart);
                assert_eq!(apart, None, "{kernel:?}, {shape:?}, way {way}: the first number that differs");
                numbers += ours.len();
            }
        }
    }
    assert!(numbers > 100_000, "{numbers} numbers were compared");
}

/// What the comparison at the ends of the range compares is really there, and numbers below the smallest normal one are
/// not.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_ends_of_the_range_are_reached() {
    if !pack::is_available() {
        return skipped("no AVX2");
    }
    for model in [Kernel::Model, Kernel::Pairs] {
        let y = Case::at_the_ends((133, 65, 70), 0).product(model, 0);
        let count = |is: fn(&f32) -> bool| y.iter().filter(|&x| is(x)).count();
        assert_eq!(count(|x| x.is_subnormal()), 0, "{model:?}");
        let counts =
            [count(|x| x.is_nan()), count(|x| x.is_infinite()), count(|x| *x == 0.0), count(|x| x.is_normal())];
        assert!(counts.iter().all(|&count| count > 100), "{model:?}: NaN, ∞, 0 and others: {counts:?}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn tile_registers_are_their_model_bit_for_bit() {
    match support::amx() {
        Ok(()) => assert_same_bits(Kernel::Amx, Kernel::Model),
        Err(why) => skipped(&format!("no tile registers: {why:?}")),
    }
}

/// On Intel's processors alone: AMD's manual does not say in which order a pair's products are added.
#[test]
#[cfg(target_arch = "x86_64")]
fn vectors_of_pairs_are_their_model_bit_for_bit() {
    match (support::has_avx512_bf16(), is_amd()) {
        (true, false) => assert_same_bits(Kernel::Avx512Bf16, Kernel::Pairs),
        (true, true) => skipped("on AMD's processors the order within a pair is not written down"),
        (false, _) => skipped("no AVX512-BF16"),
    }
}

/// Where neither processor is at hand, the two models must at least be two: a comparison that cannot fail shows
/// nothing.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_models_add_up_in_orders_of_their_own() {
    let case = Case::new((33, 300, 45), 0);
    let run = |kernel| {
        let mut y = vec![0f32; case.place.span()];
        let output = Output::F32(&mut y, case.place, operands::Into::Over);
        case.run(kernel, output, Epilogue::default(), 0, Threads::One);
        y
    };
    if pack::is_available() {
        assert!(run(Kernel::Model) != run(Kernel::Pairs));
    }
}

#[test]
fn a_long_shared_side_agrees_too() {
    // Slivers of more than 256 KiB, in two blocks of rows.
    let case = Case::new((133, 4_101, 33), 2);
    for kernel in kernels() {
        case.check_kernel(kernel, 4);
    }
}

#[test]
fn results_are_the_same_for_any_number_of_threads() {
    let case = Case::new((197, 40, 70), 2);
    for kernel in kernels() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut numbers = vec![0f32; case.place.span()];
            let output = Output::F32(&mut numbers, case.place, operands::Into::Over);
            pool.install(|| case.run(kernel, output, Epilogue::default(), 0, Threads::All));
            numbers
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3), "{kernel:?}");
        let mut alone = vec![0f32; case.place.span()];
        case.run(
            kernel,
            Output::F32(&mut alone, case.place, operands::Into::Over),
            Epilogue::default(),
            0,
            Threads::One,
        );
        assert!(one == alone, "{kernel:?}");
    }
}

#[test]
fn the_choice_of_kernel_has_a_reason_and_is_one_that_runs() {
    let support = bf16_support();
    assert!(!support.reason.is_empty() && !support.reason.contains('\n'), "{support:?}");
    assert!(kernels().contains(&Kernel::of_this_machine()));
}
