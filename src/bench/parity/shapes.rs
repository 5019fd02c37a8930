//! The operations, and the odd shapes that they are tried on.

use candle_core::Result;

use crate::ops::{self, Activation, Attention, Conv2d, Maps, PositionBias, Rotary, Segments, Value};

type Run = dyn Fn(&[&Value]) -> Result<Value>;

/// One operation on inputs of given shapes.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) shapes: Vec<Vec<usize>>,
    pub(super) run: Box<Run>,
    /// The largest difference that is allowed where its products are worked out in bf16; `None` where it has none.
    pub(super) in_bf16: Option<f64>,
}

fn case(name: impl Into<String>, shapes: &[&[usize]], run: impl Fn(&[&Value]) -> Result<Value> + 'static) -> Case {
    let shapes = shapes.iter().map(|s| s.to_vec()).collect();
    Case { name: name.into(), shapes, run: Box::new(run), in_bf16: None }
}

/// Operands rounded to 8 bits, in sums of which much cancels out.
fn with_products(case: Case) -> Case {
    Case { in_bf16: Some(8e-2), ..case }
}

/// Of attention less cancels out: the CPU's differ by 6e-3 at most.
fn with_weights(case: Case) -> Case {
    Case { in_bf16: Some(2e-2), ..case }
}

/// Those whose gradient does not jump on the way; the others have no shape of their own.
const SMOOTH: [Activation; 6] = [
    Activation::QuickGelu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Tanh,
    Activation::Silu,
    Activation::Sigmoid,
];

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (rows, inner, out) in [(1, 1, 1), (3, 7, 5), (17, 64, 9), (130, 48, 65), (257, 65, 128), (512, 768, 129)] {
        linear(&mut all, rows, inner, out);
    }
    for (rows, width) in [(1, 7), (5, 13), (33, 31), (70, 130), (257, 768)] {
        let shapes: [&[usize]; 3] = [&[rows, width], &[width], &[width]];
        all.push(case(format!("layer_norm {rows} × {width}"), &shapes, |t| ops::layer_norm(t[0], t[1], t[2], 1e-5)));
    }
    for kind in SMOOTH.into_iter().chain([Activation::Relu, Activation::Relu6]) {
        for shape in [[1, 1], [17, 31], [70, 513]] {
            all.push(case(format!("{kind:?} {shape:?}"), &[&shape], move |t| kind.apply(t[0])));
        }
    }
    attention(&mut all);
    rows(&mut all);
    maps(&mut all);
    all
}

fn linear(all: &mut Vec<Case>, rows: usize, inner: usize, out: usize) {
    let shapes: [&[usize]; 4] = [&[rows, inner], &[out, inner], &[out], &[rows, out]];
    let of = format!("{rows} × {inner} → {out}");
    let forms = [
        case(format!("linear {of}"), &shapes[..3], |t| ops::linear(t[0], t[1], t[2])),
        case(format!("linear_no_bias {of}"), &shapes[..2], |t| ops::linear_no_bias(t[0], t[1])),
        case(format!("linear_residual {of}"), &shapes, |t| ops::linear_residual(t[0], t[1], t[2], t[3])),
        case(format!("activated_linear_residual {of}"), &shapes, |t| {
            ops::activated_linear_residual(t[0], Activation::QuickGelu, t[1], t[2], t[3])
        }),
    ];
    all.extend(forms.map(with_products));
}

fn attention(all: &mut Vec<Case>) {
    let cases: [(usize, usize, &[usize]); 8] = [
        (1, 3, &[1]),
        (3, 5, &[17, 1, 9]),
        (4, 1, &[2, 7, 1, 3]),
        (2, 64, &[50, 77]),
        (8, 64, &[77, 77]),
        (12, 64, &[197, 33]),
        (1, 80, &[40, 7]),
        (2, 20, &[70]),
    ];
    for (heads, head_width, lengths) in cases {
        let segments = Segments::of_lengths(lengths.iter().copied());
        let ones = Segments::even(segments.items(), 1);
        let forms = [
            Attention::within(&segments, heads, false),
            Attention::within(&segments, heads, true),
            Attention { heads, queries: ones, keys: segments.clone(), causal: false, window: None },
            Attention { window: Some(3), ..Attention::within(&segments, heads, false) },
        ];
        for form in forms {
            let width = heads * head_width;
            let (queries, keys): (&[usize], &[usize]) = (&[form.queries.rows(), width], &[segments.rows(), width]);
            let name = format!(
                "attention of {} rows to {lengths:?}, {heads} heads of {head_width}, causal {}, window {:?}",
                form.queries.rows(),
                form.causal,
                form.window
            );
            all.push(with_weights(case(name, &[queries, keys, keys], move |t| form.apply(t[0], t[1], t[2]))));
        }
    }
    biased_attention(all, 9, 5);
    biased_attention(all, 49, 64);
}

fn biased_attention(all: &mut Vec<Case>, places: usize, head_width: usize) {
    let (items, heads, entries) = (6, 3, 7);
    let form = Attention::within(&Segments::even(items, places), heads, false);
    let x: &[usize] = &[items * places, heads * head_width];
    let index: Vec<u32> = (0..places * places).map(|i| (i * 5 % entries) as u32).collect();
    let hidden = |i: usize| if i % 3 == 1 && !i.is_multiple_of(places + 1) { -100.0f32 } else { 0.0 };
    let mask: Vec<f32> = (0..2 * places * places).map(hidden).collect();
    let name = format!("attention of {places} rows with a bias by position and a mask, {heads} heads of {head_width}");
    all.push(with_weights(case(name, &[x, x, x, &[entries, heads]], move |t| {
        let bias =
            PositionBias { table: t[3].clone(), index: index.as_slice().into(), mask: Some(mask.as_slice().into()) };
        form.apply_biased(t[0], t[1], t[2], Some(&bias))
    })));
}

fn rows(all: &mut Vec<Case>) {
    const ROWS: [u32; 7] = [3, 0, 3, 4, 1, 3, 0];
    for width in [1, 5, 768] {
        let (table, x, items): (&[usize], &[usize], &[usize]) = (&[6, width], &[7, width], &[6, width]);
        all.extend([
            case(format!("embedding {width}"), &[table], |t| ops::embedding(t[0], &ROWS)),
            case(format!("add_embedding {width}"), &[x, table], |t| ops::add_embedding(t[0], t[1], &ROWS)),
            case(format!("select_rows {width}"), &[table], |t| ops::select_rows(t[0], &ROWS)),
            case(format!("prepend {width}"), &[&[width], items], |t| ops::prepend(t[0], t[1], 3)),
            case(format!("concat_rows {width}"), &[x, items], |t| ops::concat_rows(t[0], t[1])),
            case(format!("scale_rows {width}"), &[x, &[7]], |t| ops::scale_rows(t[0], t[1])),
            case(format!("add {width}"), &[x, x], |t| ops::add(t[0], t[1])),
            case(format!("multiply {width}"), &[x, x], |t| ops::multiply(t[0], t[1])),
            case(format!("mean_rows {width}"), &[items], |t| ops::mean_rows(t[0], &Segments::of_lengths([1, 3, 2]))),
        ]);
    }
    // As a batch of texts looks up its tokens: many rows, some of them often.
    let many: Vec<u32> = (0..1000).map(|i| (i * i % 97) as u32).collect();
    all.push(case("embedding of 1000 rows", &[&[100, 70]], move |t| ops::embedding(t[0], &many)));
    for (heads, head_width, theta) in [(1, 2, 10_000.0), (3, 6, 160_000.0), (2, 16, 10_000.0)] {
        let rotary = Rotary { heads, theta };
        let run = move |t: &[&Value]| rotary.apply(t[0], &[0, 1, 2, 3, 0, 1, 77]);
        all.push(case(format!("{rotary:?}"), &[&[7, heads * head_width]], run));
    }
}

fn maps(all: &mut Vec<Case>) {
    // (items, height, width, in, out, kernel, stride, padding)
    let convolutions = [
        (2, 5, 7, 3, 4, 3, 1, 1),
        (3, 8, 6, 5, 7, 3, 2, 1),
        (2, 6, 6, 9, 10, 1, 1, 0),
        (2, 7, 5, 4, 3, 1, 2, 0),
        (1, 32, 32, 3, 65, 16, 16, 0),
    ];
    for (items, height, width, inner, outer, kernel, stride, padding) in convolutions {
        let maps = Maps { items, height, width };
        let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
        let out: &[usize] = &[items * side(height) * side(width), outer];
        let shapes: [&[usize]; 4] = [&[maps.rows(), inner], &[outer, inner, kernel, kernel], &[outer], out];
        let name = format!("conv2d {items} × {height} × {width}, {inner} → {outer}, kernel {kernel}, stride {stride}");
        all.push(with_products(case(name, &shapes, move |t| {
            let (bias, residual) = (Some(t[2]), Some(t[3]));
            let conv = Conv2d { weight: t[1], bias, residual, stride, padding, relu: false };
            Ok(conv.apply(t[0], maps)?.0)
        })));
    }
    for (items, height, width, channels) in [(2, 5, 7, 3), (3, 8, 6, 17)] {
        let maps = Maps { items, height, width };
        let x: &[usize] = &[maps.rows(), channels];
        let of = format!("{items} × {height} × {width} × {channels}");
        let (weight, vector): (&[usize], &[usize]) = (&[channels, 1, 3, 3], &[channels]);
        all.extend([
            case(format!("max_pool {of}"), &[x], move |t| Ok(ops::max_pool(t[0], maps, 3, 2, 1)?.0)),
            case(format!("avg_pool {of}"), &[x], move |t| Ok(ops::avg_pool(t[0], maps, 2)?.0)),
            case(format!("depthwise_conv {of}"), &[x, weight, vector], move |t| {
                ops::depthwise_conv(t[0], maps, t[1], t[2])
            }),
            case(format!("response_norm {of}"), &[x, vector, vector], move |t| {
                ops::response_norm(t[0], maps, t[1], t[2])
            }),
        ]);
    }
}
