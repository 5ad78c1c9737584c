//! Pooling, means, scaling, sums: one pass over the numbers.

use super::vector::Vector;
use super::{Activation, LANES};
use std::ops::Range;

/// Maximum pooling without padding, cells beside each other.
#[derive(Clone, Debug)]
pub(crate) struct MaxPool {
    /// Input pixel (0, 0).
    pub input: *const f32,
    /// Columns of the input.
    pub width: usize,
    /// Numbers of a pixel, of input and output: the channels, padded.
    pub channels: usize,
    /// Side of a cell.
    pub cell: usize,
    /// Output pixel (0, 0).
    pub output: *mut f32,
    /// Columns of the output.
    pub out_width: usize,
}

/// The mean over all pixels.
#[derive(Clone, Debug)]
pub(crate) struct Mean {
    /// Input pixel (0, 0).
    pub input: *const f32,
    /// Of the input.
    pub pixels: usize,
    /// Numbers of a pixel: the channels, padded.
    pub channels: usize,
    /// As many.
    pub output: *mut f32,
}

/// Each channel by a factor of its own (squeeze and excite).
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// Input pixel (0, 0).
    pub input: *const f32,
    /// One per channel, padded.
    pub factors: *const f32,
    /// Numbers of a pixel: the channels, padded.
    pub channels: usize,
    /// Output pixel (0, 0); may be the input.
    pub output: *mut f32,
}

/// A sum of two maps.
#[derive(Clone, Debug)]
pub(crate) struct Add {
    /// One,
    pub a: *const f32,
    /// the other,
    pub b: *const f32,
    /// and their sum; may be either.
    pub output: *mut f32,
    /// Last.
    pub activation: Activation,
}

/// See [`super::Kernel::max_pool`].
#[inline(always)]
pub(super) unsafe fn max_pool<V: Vector>(p: &MaxPool, rows: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        match p.cell {
            2 => cells::<V>(p, rows, 2), // nearly always: unrolled
            cell => cells::<V>(p, rows, cell),
        }
    }
}

#[inline(always)]
unsafe fn cells<V: Vector>(p: &MaxPool, rows: Range<usize>, side: usize) {
    for y in rows {
        for x in 0..p.out_width {
            for c in (0..p.channels).step_by(LANES) {
                // SAFETY: the caller's promise.
                unsafe {
                    let cell = p.input.add((y * side * p.width + x * side) * p.channels + c);
                    let mut best = V::load(cell);
                    for dy in 0..side {
                        for dx in 0..side {
                            best = best.max(V::load(cell.add((dy * p.width + dx) * p.channels)));
                        }
                    }
                    best.store(p.output.add((y * p.out_width + x) * p.channels + c));
                }
            }
        }
    }
}

/// See [`super::Kernel::mean`].
#[inline(always)]
pub(super) unsafe fn mean<V: Vector>(m: &Mean, panels: Range<usize>) {
    #[expect(clippy::cast_precision_loss, reason = "maps have far fewer than 2^24 pixels")]
    let share = 1.0 / m.pixels as f32;
    for panel in panels {
        // SAFETY: the caller's promise.
        unsafe {
            // Four sums: one would wait for itself.
            let mut sums = [V::splat(0.0); 4];
            let from = m.input.add(panel * LANES);
            for at in (0..m.pixels).step_by(4) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(V::load_if(from.wrapping_add((at + i) * m.channels), at + i < m.pixels));
                }
            }
            let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
            sum.mul(V::splat(share)).store(m.output.add(panel * LANES));
        }
    }
}

/// See [`super::Kernel::scale`].
#[inline(always)]
pub(super) unsafe fn scale<V: Vector>(s: &Scale, pixels: Range<usize>) {
    for pixel in pixels {
        for c in (0..s.channels).step_by(LANES) {
            let at = pixel * s.channels + c;
            // SAFETY: the caller's promise.
            unsafe { V::load(s.input.add(at)).mul(V::load(s.factors.add(c))).store(s.output.add(at)) }
        }
    }
}

/// See [`super::Kernel::add`].
#[inline(always)]
pub(super) unsafe fn add<V: Vector>(a: &Add, vectors: Range<usize>) {
    let by = a.activation.parts();
    for at in vectors {
        // SAFETY: the caller's promise.
        unsafe {
            let sum = V::load(a.a.add(at * LANES)).add(V::load(a.b.add(at * LANES)));
            sum.activate(&by).store(a.output.add(at * LANES));
        }
    }
}
