//! How alike sentences are to what they attend to among the patches of images. An operation of candle's graph, as
//! losses are. Cosines of all patches with all sentences never lie in memory at once: sentences pass in chunks, and the
//! backward pass works theirs out again.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, Layout as Places, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::contrastive::Unit;
use super::cpu;
use super::gemm::{Into, Layout, Threads, product};
use super::reference::{self, SHORTEST};
use super::segments::Segments;
use super::simd::{self, vectorised};
use super::spec::LocalSimilarity;

/// Cosines that lie in memory at once, about: no more than a core's cache takes.
const AT_ONCE: usize = 1 << 18;

/// The cosine of each sentence with the sum of an image's patches by the softmax over its cosines with them.
/// patches: (rows, width), not normalised, those of each image by `segments`; sentences: (sentences, width), not
/// normalised → (images, sentences).
///
/// # Errors
/// Shapes that do not fit, an image without patches.
pub fn local_similarity(
    patches: &Tensor,
    sentences: &Tensor,
    segments: &Segments,
    options: &LocalSimilarity,
) -> Result<Tensor> {
    let ((rows, width), (_, of_sentences)) = (patches.dims2()?, sentences.dims2()?);
    if width != of_sentences || rows != segments.rows() || segments.spans().any(|(_, length)| length == 0) {
        bail!("local_similarity: {:?} and {:?} for {segments:?}", patches.dims(), sentences.dims());
    }
    if !cpu::has_kernels(patches) {
        return reference::local_similarity(patches, sentences, segments, options);
    }
    let op = Op { segments: segments.clone(), options: *options };
    patches.contiguous()?.apply_op2(&sentences.contiguous()?, op)
}

struct Op {
    segments: Segments,
    options: LocalSimilarity,
}

/// Both sides as they are multiplied.
struct Sides<'a> {
    keys: Unit,
    texts: Unit,
    /// What is added up: patches as they are, or as `keys`.
    patches: &'a [f32],
    /// Of each image, patches · patchesᵀ of what is added up.
    grams: Vec<Vec<f32>>,
    width: usize,
}

/// What one image and a chunk of sentences come to; all (patches, sentences) or (sentences).
struct Attended {
    shares: Vec<f32>,
    /// The gram times the shares.
    spread: Vec<f32>,
    /// The sum's product with each sentence.
    along: Vec<f32>,
    /// The sum's length.
    length: Vec<f32>,
}

impl Op {
    fn sides<'a>(&self, patches: &'a [f32], sentences: &[f32], width: usize) -> Sides<'a> {
        let (keys, texts) = (Unit::new(patches, width), Unit::new(sentences, width));
        let values = if self.options.unit_patches { keys.rows.as_slice() } else { patches };
        let gram = |values: &[f32]| {
            let count = values.len() / width;
            let mut gram = vec![0f32; count * count];
            let rows = Layout::plain(count, width).of(values);
            product((&mut gram, Layout::plain(count, count), Into::Over), 1.0, rows, rows.transposed(), Threads::One);
            gram
        };
        let grams = self.segments.split(values, width).into_par_iter().map(gram).collect();
        Sides { keys, texts, patches, grams, width }
    }

    fn chunks(&self, sentences: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let size = (AT_ONCE / self.segments.rows().max(1)).max(16);
        (0..sentences).step_by(size).map(move |start| start..(start + size).min(sentences))
    }

    /// Of all patches with a chunk of sentences, (rows, chunk).
    fn cosines(&self, sides: &Sides, chunk: &Range<usize>) -> Vec<f32> {
        let (rows, width) = (self.segments.rows(), sides.width);
        let mut cosines = vec![0f32; rows * chunk.len()];
        let texts = Layout::plain(chunk.len(), width).of(&sides.texts.rows[chunk.start * width..chunk.end * width]);
        let keys = Layout::plain(rows, width).of(&sides.keys.rows);
        let into = (&mut cosines[..], Layout::plain(rows, chunk.len()), Into::Over);
        product(into, 1.0, keys, texts.transposed(), Threads::All);
        cosines
    }

    /// `lengths`: what each patch counts in the sum.
    fn attend(&self, cosines: &[f32], gram: &[f32], lengths: &[f32]) -> Attended {
        let columns = cosines.len() / lengths.len();
        let mut shares = vec![0f32; cosines.len()];
        attend(cosines, columns, (1.0 / self.options.temperature) as f32, &mut shares);
        let mut spread = vec![0f32; cosines.len()];
        let square = Layout::plain(lengths.len(), lengths.len()).of(gram);
        let plain = Layout::plain(lengths.len(), columns);
        product((&mut spread, plain, Into::Over), 1.0, square, plain.of(&shares), Threads::One);
        let (mut along, mut length) = (vec![0f32; columns], vec![0f32; columns]);
        for (((shares, cosines), spread), weight) in shares
            .chunks_exact(columns)
            .zip(cosines.chunks_exact(columns))
            .zip(spread.chunks_exact(columns))
            .zip(lengths)
        {
            add_products(&mut along, shares, cosines, *weight);
            add_products(&mut length, shares, spread, 1.0);
        }
        length.iter_mut().for_each(|square| *square = square.max(SHORTEST * SHORTEST).sqrt());
        Attended { shares, spread, along, length }
    }

    /// What each patch counts in the sum.
    fn lengths(&self, sides: &Sides) -> Vec<f32> {
        if self.options.unit_patches { vec![1.0; sides.keys.lengths.len()] } else { sides.keys.lengths.clone() }
    }

    fn run(&self, patches: &[f32], sentences: &[f32], width: usize) -> Vec<f32> {
        let sides = self.sides(patches, sentences, width);
        let (count, lengths) = (sentences.len() / width, self.lengths(&sides));
        let mut found = vec![0f32; self.segments.items() * count];
        for chunk in self.chunks(count) {
            let cosines = self.cosines(&sides, &chunk);
            let items = self.segments.split(&cosines, chunk.len()).into_par_iter();
            let items = items.zip(&sides.grams).zip(self.segments.split(&lengths, 1));
            items.zip(found.par_chunks_mut(count)).for_each(|(((cosines, gram), lengths), found)| {
                let attended = self.attend(cosines, gram, lengths);
                let pairs = attended.along.iter().zip(&attended.length);
                found[chunk.clone()].iter_mut().zip(pairs).for_each(|(found, (along, length))| *found = along / length);
            });
        }
        found
    }

    /// The gradients on patches and sentences. grad: (images, sentences).
    fn backward(&self, patches: &[f32], sentences: &[f32], width: usize, grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let sides = self.sides(patches, sentences, width);
        let (rows, count, lengths) = (self.segments.rows(), sentences.len() / width, self.lengths(&sides));
        let (mut of_keys, mut of_texts) = (vec![0f32; rows * width], vec![0f32; sentences.len()]);
        let mut of_grams: Vec<Vec<f32>> = sides.grams.iter().map(|gram| vec![0f32; gram.len()]).collect();
        let mut of_lengths = vec![0f32; rows];
        for chunk in self.chunks(count) {
            let cosines = self.cosines(&sides, &chunk);
            let mut of_cosines = vec![0f32; cosines.len()];
            let items = self.segments.split_mut(&mut of_cosines, chunk.len()).into_par_iter();
            let items = items.zip(self.segments.split(&cosines, chunk.len())).zip(&sides.grams).zip(&mut of_grams);
            let items = items.zip(self.segments.split(&lengths, 1)).zip(self.segments.split_mut(&mut of_lengths, 1));
            items.zip(grad.par_chunks(count)).for_each(
                |((((((of, cosines), gram), of_gram), lengths), of_lengths), g)| {
                    let attended = self.attend(cosines, gram, lengths);
                    self.of_cosines((&g[chunk.clone()], of), (cosines, lengths), attended, (of_gram, of_lengths));
                },
            );
            let part = &sides.texts.rows[chunk.start * width..chunk.end * width];
            let (of, plain) = (Layout::plain(rows, chunk.len()).of(&of_cosines), Layout::plain(rows, width));
            let texts = Layout::plain(chunk.len(), width);
            product((&mut of_keys, plain, Into::Onto), 1.0, of, texts.of(part), Threads::All);
            let part = &mut of_texts[chunk.start * width..chunk.end * width];
            product((part, texts, Into::Over), 1.0, of.transposed(), plain.of(&sides.keys.rows), Threads::All);
        }
        self.of_values(&sides, &of_grams, &mut of_keys, &mut of_lengths);
        sides.keys.backward(&mut of_keys, width);
        if !self.options.unit_patches {
            let rows = of_keys.par_chunks_mut(width).zip(sides.keys.rows.par_chunks(width)).zip(&of_lengths);
            rows.for_each(|((of, key), along)| of.iter_mut().zip(key).for_each(|(of, key)| *of += along * key));
        }
        sides.texts.backward(&mut of_texts, width);
        (of_keys, of_texts)
    }

    /// Of one image and a chunk of sentences: the gradient on cosines is written, those on the gram and on lengths are
    /// added.
    fn of_cosines(
        &self,
        (grad, of): (&[f32], &mut [f32]),
        (cosines, lengths): (&[f32], &[f32]),
        attended: Attended,
        (of_gram, of_lengths): (&mut [f32], &mut [f32]),
    ) {
        let Attended { shares, spread, along, length } = attended;
        let columns = grad.len();
        let of_along: Vec<f32> = grad.iter().zip(&length).map(|(g, length)| g / length).collect();
        // On the squared length of the sum.
        let squared = grad.iter().zip(&length).zip(&along);
        let of_square: Vec<f32> =
            squared.map(|((g, length), along)| -0.5 * g * along / (length * length * length)).collect();
        let rows = || shares.chunks_exact(columns).zip(cosines.chunks_exact(columns)).zip(spread.chunks_exact(columns));
        let mut inner = vec![0f32; columns];
        for (((shares, cosines), spread), (of, length)) in rows().zip(of.chunks_exact_mut(columns).zip(lengths)) {
            of_shares((&of_along, &of_square), cosines, spread, *length, of);
            add_products(&mut inner, shares, of, 1.0);
        }
        let sharper = (1.0 / self.options.temperature) as f32;
        let mut scaled = vec![0f32; shares.len()];
        let of_rows = of.chunks_exact_mut(columns).zip(scaled.chunks_exact_mut(columns));
        for ((((shares, cosines), _), (of, scaled)), (length, of_length)) in
            rows().zip(of_rows).zip(lengths.iter().zip(of_lengths))
        {
            *of_length += simd::sum(columns, |c| of_along[c] * shares[c] * cosines[c]);
            of_scores(of, (shares, &inner), &of_along, sharper, *length);
            scaled.iter_mut().zip(shares.iter().zip(&of_square)).for_each(|(y, (share, g))| *y = share * g);
        }
        let (plain, square) = (Layout::plain(lengths.len(), columns), Layout::plain(lengths.len(), lengths.len()));
        product((of_gram, square, Into::Onto), 1.0, plain.of(&scaled), plain.of(&shares).transposed(), Threads::One);
    }

    /// From the grams' gradients on to those on keys and lengths.
    fn of_values(&self, sides: &Sides, of_grams: &[Vec<f32>], of_keys: &mut [f32], of_lengths: &mut [f32]) {
        let width = sides.width;
        let values = if self.options.unit_patches { sides.keys.rows.as_slice() } else { sides.patches };
        let items = self.segments.split_mut(of_keys, width).into_par_iter().zip(self.segments.split(values, width));
        let items = items.zip(of_grams).zip(self.segments.split(&sides.keys.rows, width));
        let lengths = self.lengths(sides);
        let items = items.zip(self.segments.split(&lengths, 1)).zip(self.segments.split_mut(of_lengths, 1));
        items.for_each(|(((((of_keys, values), of_gram), keys), lengths), of_lengths)| {
            let count = lengths.len();
            let (square, plain) = (Layout::plain(count, count).of(of_gram), Layout::plain(count, width));
            let mut of_values = vec![0f32; values.len()];
            // The gram is symmetric, and its gradient too.
            product((&mut of_values, plain, Into::Over), 2.0, square, plain.of(values), Threads::One);
            let rows = of_keys.chunks_exact_mut(width).zip(of_values.chunks_exact(width)).zip(keys.chunks_exact(width));
            for (((of_key, of_value), key), (length, of_length)) in rows.zip(lengths.iter().zip(of_lengths)) {
                of_key.iter_mut().zip(of_value).for_each(|(of, g)| *of += length * g);
                *of_length += simd::sum(width, |i| of_value[i] * key[i]);
            }
        });
    }
}

vectorised! {
    /// The softmax over the rows of each column, of cosines times `sharper`.
    fn attend(cosines: &[f32], columns: usize, sharper: f32, shares: &mut [f32]) {
        let mut top = vec![f32::NEG_INFINITY; columns];
        for row in cosines.chunks_exact(columns) {
            top.iter_mut().zip(row).for_each(|(top, v)| *top = if *v > *top { *v } else { *top });
        }
        let mut sums = vec![0f32; columns];
        for (shares, row) in shares.chunks_exact_mut(columns).zip(cosines.chunks_exact(columns)) {
            for (((share, sum), top), v) in shares.iter_mut().zip(&mut sums).zip(&top).zip(row) {
                *share = simd::exp((v - top) * sharper);
                *sum += *share;
            }
        }
        for shares in shares.chunks_exact_mut(columns) {
            shares.iter_mut().zip(&sums).for_each(|(share, sum)| *share /= sum);
        }
    }
}

vectorised! {
    fn add_products(onto: &mut [f32], a: &[f32], b: &[f32], weight: f32) {
        onto.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (a, b))| *y += weight * (a * b));
    }
}

vectorised! {
    /// The gradient on the shares of one patch; `on`: that on what lies along the sentences, and on squared lengths.
    fn of_shares(on: (&[f32], &[f32]), cosines: &[f32], spread: &[f32], length: f32, of: &mut [f32]) {
        for (((of, cosine), spread), (along, square)) in
            of.iter_mut().zip(cosines).zip(spread).zip(on.0.iter().zip(on.1))
        {
            *of = along * length * cosine + 2.0 * square * spread;
        }
    }
}

vectorised! {
    /// From the gradient on the shares of one patch to that on its cosines; `shares`: with their sums with the
    /// gradient.
    fn of_scores(of: &mut [f32], shares: (&[f32], &[f32]), of_along: &[f32], sharper: f32, length: f32) {
        for (((of, share), inner), along) in of.iter_mut().zip(shares.0).zip(shares.1).zip(of_along) {
            *of = share * ((*of - inner) * sharper + along * length);
        }
    }
}

impl CustomOp2 for Op {
    fn name(&self) -> &'static str {
        "local_similarity"
    }

    fn cpu_fwd(
        &self,
        patches: &CpuStorage,
        at_patches: &Places,
        sentences: &CpuStorage,
        at_sentences: &Places,
    ) -> Result<(CpuStorage, Shape)> {
        let (count, width) = at_sentences.shape().dims2()?;
        let found = self.run(cpu::slice(patches, at_patches)?, cpu::slice(sentences, at_sentences)?, width);
        Ok((CpuStorage::F32(found), (self.segments.items(), count).into()))
    }

    fn bwd(
        &self,
        patches: &Tensor,
        sentences: &Tensor,
        _found: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, width) = patches.dims2()?;
        let grad = grad.contiguous()?;
        let (of_patches, of_sentences) =
            self.backward(&cpu::read(patches)?, &cpu::read(sentences)?, width, &cpu::read(&grad)?);
        Ok((
            Some(Tensor::from_vec(of_patches, patches.shape(), patches.device())?),
            Some(Tensor::from_vec(of_sentences, sentences.shape(), sentences.device())?),
        ))
    }
}
