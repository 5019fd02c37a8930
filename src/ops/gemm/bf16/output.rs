//! What becomes of sums: scaled, with a bias, changed by the caller, written, added or rounded.

use half::bf16;

use super::factor::Factor;
#[cfg(target_arch = "x86_64")]
use super::pack::{Line, SIDE, sliver};
use crate::ops::gemm::operands::{Into, Layout};
use crate::ops::round;
use crate::ops::simd::vectorised;

/// Most numbers of a row that are finished together.
pub(super) const PIECE: usize = 32;

/// Changes a piece before it is written. It must not wait for other tasks: the thread's tile registers would be
/// another's.
pub(in crate::ops) type Then<'a> = &'a (dyn Fn(&mut Piece) + Sync);

/// Finished sums of some neighbouring rows and at most 32 columns of an output, not yet written.
pub(in crate::ops) struct Piece<'a> {
    /// Where they stand in the output.
    pub part: Part,
    numbers: &'a mut [f32],
    /// Between the starts of rows in `numbers`.
    stride: usize,
}

impl<'a> Piece<'a> {
    /// Its rows, one after the other.
    #[inline(always)]
    pub fn rows(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let Part { rows, columns, .. } = self.part;
        self.numbers.chunks_mut(self.stride).take(rows).map(move |row| &mut row[..columns])
    }

    /// The same beside the numbers of a matrix of the output's shape, `width` numbers wide, that stand at these places.
    #[inline(always)]
    pub fn rows_beside<'b, T>(
        &'b mut self,
        matrix: &'b [T],
        width: usize,
    ) -> impl Iterator<Item = (&'b mut [f32], &'b [T])> + use<'a, 'b, T> {
        let Part { row, column, columns, .. } = self.part;
        let start = move |i: usize| (row + i) * width + column;
        self.rows().enumerate().map(move |(i, line)| (line, &matrix[start(i)..start(i) + columns]))
    }
}

/// Where a product goes.
#[derive(Debug)]
pub(in crate::ops) enum Output<'a> {
    F32(&'a mut [f32], Layout, Into),
    Bf16(&'a mut [bf16], Layout),
    /// Rounded, as slivers of the first operand of another product. Parts start at whole steps of slivers.
    #[cfg(target_arch = "x86_64")]
    Slivers(&'a mut [Line], Layout),
}

impl Output<'_> {
    pub(super) fn layout(&self) -> Layout {
        match self {
            Self::F32(_, layout, _) | Self::Bf16(_, layout) => *layout,
            #[cfg(target_arch = "x86_64")]
            Self::Slivers(_, layout) => *layout,
        }
    }

    /// Whether there is room for all numbers.
    fn has_room(&self) -> bool {
        let layout = self.layout();
        match self {
            Self::F32(numbers, ..) => layout.span() <= numbers.len(),
            Self::Bf16(numbers, _) => layout.span() <= numbers.len(),
            #[cfg(target_arch = "x86_64")]
            Self::Slivers(lines, _) => layout.rows.div_ceil(SIDE) * sliver(layout.columns) <= lines.len(),
        }
    }
}

/// What is done to each sum in f32: it becomes `scale · sum + bias[column]`, then what `then` makes of it.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Epilogue<'a> {
    pub scale: f32,
    pub bias: Option<&'a [f32]>,
    pub then: Option<Then<'a>>,
    /// What `then` reads at the places of the numbers it changes, of the output's shape: asked for ahead.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub beside: Option<Factor<'a>>,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Self { scale: 1.0, bias: None, then: None, beside: None }
    }
}

/// An output that several tasks write, each its own part, with its epilogue.
pub(super) struct Sink<'a> {
    to: Numbers,
    layout: Layout,
    epilogue: Epilogue<'a>,
}

enum Numbers {
    F32(*mut f32, Into),
    Bf16(*mut bf16),
    #[cfg(target_arch = "x86_64")]
    Slivers(*mut Line),
}

#[allow(unsafe_code)]
// SAFETY: tasks write disjoint parts (`Sink::write` asks that), and the slice behind is borrowed as long as the sink
// lives.
unsafe impl Sync for Sink<'_> {}

impl<'a> Sink<'a> {
    pub(super) fn new(output: Output<'a>, epilogue: Epilogue<'a>) -> Self {
        let layout = output.layout();
        assert!(output.has_room(), "{layout:?} does not lie in the numbers behind it");
        assert!(epilogue.bias.is_none_or(|bias| bias.len() == layout.columns), "a bias of each column");
        let to = match output {
            Output::F32(numbers, _, into) => Numbers::F32(numbers.as_mut_ptr(), into),
            Output::Bf16(numbers, _) => Numbers::Bf16(numbers.as_mut_ptr()),
            #[cfg(target_arch = "x86_64")]
            Output::Slivers(lines, _) => Numbers::Slivers(lines.as_mut_ptr()),
        };
        Self { to, layout, epilogue }
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// Asks for what [`Self::write`] will touch of this part: each of its rows lies in other lines of memory, which
    /// would be waited for one after the other.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn expect(&self, part: &Part) {
        match self.to {
            Numbers::F32(start, _) => expect(start, &self.layout, part),
            Numbers::Bf16(start) => expect(start, &self.layout, part),
            // They lie together.
            Numbers::Slivers(_) => {}
        }
        match &self.epilogue.beside {
            Some(Factor::F32(matrix)) => expect(matrix.numbers.as_ptr(), &matrix.layout, part),
            Some(Factor::Bf16(matrix)) => expect(matrix.numbers.as_ptr(), &matrix.layout, part),
            Some(Factor::Packed(_)) | None => {}
        }
    }

    /// Finishes the sums of these rows and at most [`PIECE`] columns, which lie in `sums` from its start, rows `stride`
    /// apart, and writes them. What lay in `sums` is lost.
    ///
    /// # Safety
    /// No other task writes or reads this part of the output meanwhile.
    #[allow(unsafe_code)]
    pub(super) unsafe fn write(&self, part: &Part, sums: &mut [f32], stride: usize) {
        let Part { row, column, rows, columns } = *part;
        assert!(row + rows <= self.layout.rows && column + columns <= self.layout.columns, "within the output");
        assert!(columns <= PIECE && columns <= stride, "a piece of each row");
        if rows == 0 || columns == 0 {
            return;
        }
        let Epilogue { scale, bias, then, .. } = self.epilogue;
        let lines = Lines { rows, columns, stride };
        if scale != 1.0 || bias.is_some() {
            let bias = bias.map_or(&[0.0; PIECE][..columns], |bias| &bias[column..column + columns]);
            affine(sums, &lines, scale, bias);
        }
        if let Some(then) = then {
            then(&mut Piece { part: *part, numbers: sums, stride });
        }
        let first = row * self.layout.row_stride + column * self.layout.column_stride;
        let to = Layout { rows, columns, ..self.layout };
        // SAFETY: the part lies within the layout (asserted), the layout within the slice (`new`); no other task has
        // any number of the part, and the slices below span the part only where its rows are contiguous. A part of
        // slivers is one step of one (asserted).
        unsafe {
            match self.to {
                Numbers::F32(start, into) => write_f32(start.add(first), &to, into, sums, stride),
                Numbers::Bf16(start) => write_bf16(start.add(first), &to, sums, stride),
                #[cfg(target_arch = "x86_64")]
                Numbers::Slivers(start) => {
                    assert!(row % SIDE == 0 && column % SIDE == 0 && rows <= SIDE, "a step of a sliver");
                    let at = row / SIDE * sliver(self.layout.columns) + column;
                    write_step(std::slice::from_raw_parts_mut(start.add(at), SIDE), sums, (rows, columns, stride));
                }
            }
        }
    }
}

/// Some neighbouring rows and columns of an output.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Part {
    pub row: usize,
    pub column: usize,
    pub rows: usize,
    pub columns: usize,
}

/// Asks for the rows of a part, where a row's numbers lie together.
#[cfg(target_arch = "x86_64")]
fn expect<T>(start: *const T, layout: &Layout, part: &Part) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    if layout.column_stride != 1 || part.columns == 0 {
        return;
    }
    for row in part.row..part.row + part.rows {
        let row = start.wrapping_add(row * layout.row_stride + part.column);
        // The last one too: rows need not start with a line.
        for at in (0..part.columns).step_by(64 / size_of::<T>()).chain([part.columns - 1]) {
            #[allow(unsafe_code)]
            // SAFETY: a hint; whatever the address, nothing is read.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(at).cast());
            }
        }
    }
}

/// How sums lie in their buffer.
pub(super) struct Lines {
    rows: usize,
    columns: usize,
    stride: usize,
}

vectorised! {
    fn affine(sums: &mut [f32], lines: &Lines, scale: f32, bias: &[f32]) {
        for line in sums.chunks_mut(lines.stride).take(lines.rows) {
            line[..lines.columns].iter_mut().zip(bias).for_each(|(y, b)| *y = scale * *y + b);
        }
    }
}

vectorised! {
    /// Writes sums, rows `stride` apart, from `to` on.
    ///
    /// # Safety
    /// What the layout spans from `to` on may be written, and its numbers are this task's alone.
    unsafe fn write_f32(to: *mut f32, layout: &Layout, into: Into, sums: &[f32], stride: usize) {
        for (i, line) in sums.chunks(stride).take(layout.rows).enumerate() {
            let line = &line[..layout.columns];
            // SAFETY: as promised.
            unsafe {
                let to = to.add(i * layout.row_stride);
                if layout.column_stride != 1 {
                    for (j, y) in line.iter().enumerate() {
                        let to = to.add(j * layout.column_stride);
                        *to = if into == Into::Onto { *to + y } else { *y };
                    }
                    continue;
                }
                match (into, <&[f32; PIECE]>::try_from(line)) {
                    // A length that the compiler knows: no call.
                    (Into::Over, Ok(line)) => *to.cast::<[f32; PIECE]>() = *line,
                    (Into::Over, Err(_)) => std::slice::from_raw_parts_mut(to, line.len()).copy_from_slice(line),
                    (Into::Onto, _) => {
                        let to = std::slice::from_raw_parts_mut(to, line.len());
                        to.iter_mut().zip(line).for_each(|(to, y)| *to += y);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
vectorised! {
    /// Rounds sums, so many rows and columns, rows `stride` apart, to the lines of one step; what is left of it is
    /// zero.
    fn write_step(to: &mut [Line], sums: &[f32], size: (usize, usize, usize)) {
        let (rows, columns, stride) = size;
        for (to, from) in to.iter_mut().zip(sums.chunks(stride)).take(rows) {
            let mut numbers = [0f32; PIECE];
            match <&[f32; PIECE]>::try_from(&from[..columns]) {
                // A length that the compiler knows: no call.
                Ok(from) => numbers = *from,
                Err(_) => numbers[..columns].copy_from_slice(&from[..columns]),
            }
            for (pair, two) in to.0.iter_mut().zip(numbers.as_chunks::<2>().0) {
                *pair = u32::from(round::bits(two[0])) | u32::from(round::bits(two[1])) << 16;
            }
        }
        to[rows..].fill(Line::ZERO);
    }
}

vectorised! {
    /// Writes sums, rows `stride` apart, from `to` on.
    ///
    /// # Safety
    /// What the layout spans from `to` on may be written, and its numbers are this task's alone.
    unsafe fn write_bf16(to: *mut bf16, layout: &Layout, sums: &[f32], stride: usize) {
        for (i, line) in sums.chunks(stride).take(layout.rows).enumerate() {
            let line = &line[..layout.columns];
            // SAFETY: as promised.
            unsafe {
                let to = to.add(i * layout.row_stride);
                if layout.column_stride != 1 {
                    for (j, y) in line.iter().enumerate() {
                        *to.add(j * layout.column_stride) = bf16::from_bits(round::bits(*y));
                    }
                    continue;
                }
                let to = std::slice::from_raw_parts_mut(to, line.len());
                to.iter_mut().zip(line).for_each(|(to, y)| *to = bf16::from_bits(round::bits(*y)));
            }
        }
    }
}
