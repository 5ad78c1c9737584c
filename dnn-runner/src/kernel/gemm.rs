//! Convolutions as an indirect matrix product: the rows of the left matrix are read through pointers, so
//! that no patches are copied; the right one is the weights in panels of outputs ([`super::panel`]).
//!
//! Packed weights lie as `[group][panel][tap][input][lane]`. A prefix of outputs is fewer panels, a prefix
//! of inputs fewer rows of each tap; the strides stay the super-network's.

use super::vector::{Lanes, Vector};
use super::{Activation, LANES};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Output pixels of which a task's multiple wastes no tile.
pub(crate) const ROWS: usize = 42; // of 6 and of 7
/// Taps of a kernel at most: 7 x 7, and 8 x 8 for a classifier over a whole map.
pub(crate) const TAPS_MAX: usize = 64;
/// Pixels of a tile at most.
pub(crate) const TILE_MAX: usize = 7;

/// Where a tile's inputs lie: tap by tap, pixel by pixel.
type Inputs = [MaybeUninit<*const f32>; TAPS_MAX * TILE_MAX];

/// A convolution (or a linear layer: one pixel, or a kernel as large as the map).
#[derive(Clone, Debug)]
pub(crate) struct Product {
    /// First input of output pixel (0, 0)'s first tap: may lie outside of the map where there is padding.
    pub input: *const f32,
    /// Numbers between two input pixels, and between two rows.
    pub pixel: usize,
    /// See `pixel`.
    pub row: usize,
    /// Rows and columns of the input map.
    pub height: usize,
    /// See `height`.
    pub width: usize,
    /// Rows and columns of the kernel. Where the inputs of a kernel row lie together (an image with its
    /// border in memory), it counts as one tap: `taps.1` is 1 and `depth` the inputs of the row.
    pub taps: (usize, usize),
    /// Pixels between two output pixels' first taps.
    pub stride: usize,
    /// Zeros before the first row and column.
    pub padding: (usize, usize),
    /// Whether the padding lies in memory: then nothing is outside.
    pub bordered: bool,
    /// Zeros, at least `depth`.
    pub zeros: *const f32,
    /// Inputs of an output, per tap and group.
    pub depth: usize,
    /// Packed weights of this group's first panel.
    pub weights: *const f32,
    /// Outputs of a panel.
    pub lanes: usize,
    /// Numbers between two panels, and between two taps.
    pub panel: usize,
    /// See `panel`.
    pub tap: usize,
    /// Per output, padded: the product is multiplied by it,
    pub scale: *const f32,
    /// and this is added.
    pub bias: *const f32,
    /// Also added, if not null: laid out as the output.
    pub residual: *const f32,
    /// Output pixel (0, 0).
    pub output: *mut f32,
    /// Numbers between two output pixels.
    pub output_pixel: usize,
    /// Rows and columns of the output.
    pub out: (usize, usize),
    /// Last.
    pub activation: Activation,
}

impl Product {
    /// Multiplications of one panel and pixel.
    pub const fn pixels(&self) -> usize {
        self.out.0 * self.out.1
    }

    /// Numbers from an output pixel's first tap to each of its taps.
    fn offsets(&self) -> [usize; TAPS_MAX] {
        let mut offsets = [0; TAPS_MAX];
        let taps = (0..self.taps.0).flat_map(|ky| (0..self.taps.1).map(move |kx| (ky, kx)));
        for (to, (ky, kx)) in offsets.iter_mut().zip(taps) {
            *to = ky * self.row + kx * self.pixel;
        }
        offsets
    }

    /// Pointers to the inputs of `rows` output pixels from `from` on, tap by tap; the last pixel is
    /// repeated up to `PIXELS`.
    #[inline(always)]
    unsafe fn gather<const PIXELS: usize>(
        &self,
        from: usize,
        rows: usize,
        offsets: &[usize; TAPS_MAX],
        to: &mut Inputs,
    ) {
        let (kh, kw) = self.taps;
        let mut first = [self.input; PIXELS];
        let mut places = [None; PIXELS];
        if kh * kw * self.stride == 1 {
            for (r, first) in first.iter_mut().enumerate() {
                *first = self.input.wrapping_add((from + r.min(rows - 1)) * self.pixel);
            }
        } else {
            // One division for a tile, not for a pixel.
            let (mut y, mut x) = (from / self.out.1, from % self.out.1);
            for r in 0..PIXELS {
                let (top, left) = (y * self.stride, x * self.stride);
                first[r] = self.input.wrapping_add(top * self.row + left * self.pixel);
                let within = |at: usize, before: usize, taps: usize, size: usize| {
                    at >= before && at + taps <= size + before
                };
                let inside = self.bordered
                    || (within(top, self.padding.0, kh, self.height)
                        && within(left, self.padding.1, kw, self.width));
                places[r] = (!inside).then_some((top, left));
                if r + 1 < rows {
                    x += 1;
                    if x == self.out.1 {
                        (x, y) = (0, y + 1);
                    }
                }
            }
        }
        for (t, offset) in offsets[..kh * kw].iter().enumerate() {
            for (r, first) in first.iter().enumerate() {
                // SAFETY: there are at most TAPS_MAX taps (the plan's promise), and PIXELS is at most TILE_MAX.
                unsafe { to.get_unchecked_mut(t * PIXELS + r).write(first.wrapping_add(*offset)) };
            }
        }
        for (r, place) in places.into_iter().enumerate() {
            if let Some((top, left)) = place {
                self.border(top, left, PIXELS, &mut to[r..]);
            }
        }
    }

    /// Zeros for the taps outside of the map, of a pixel whose first tap is at (top, left).
    #[inline(never)]
    fn border(&self, top: usize, left: usize, pixels: usize, to: &mut [MaybeUninit<*const f32>]) {
        let mut to = to.iter_mut().step_by(pixels);
        for ky in 0..self.taps.0 {
            // Below zero wraps to far beyond the map.
            let row = (top + ky).wrapping_sub(self.padding.0) < self.height;
            for (kx, to) in (0..self.taps.1).zip(&mut to) {
                if !row || (left + kx).wrapping_sub(self.padding.1) >= self.width {
                    to.write(self.zeros);
                }
            }
        }
    }

    /// `PIXELS` output pixels of `PANELS` panels; of the pixels, the first `rows` are stored.
    #[inline(always)]
    unsafe fn tile<V: Lanes, const PIXELS: usize, const PANELS: usize>(
        &self,
        inputs: &Inputs,
        panel: usize,
        pixel: usize,
        rows: usize,
    ) {
        // SAFETY: the caller's promise; `inputs` was given PIXELS pointers per tap, `depth` numbers each.
        unsafe {
            let mut sums = [[V::splat(0.0); PANELS]; PIXELS];
            let weights = self.weights.add(panel * self.panel);
            for t in 0..self.taps.0 * self.taps.1 {
                let a: [*const f32; PIXELS] =
                    std::array::from_fn(|r| inputs.get_unchecked(t * PIXELS + r).assume_init());
                let b = weights.add(t * self.tap);
                for k in 0..self.depth {
                    let w: [V; PANELS] =
                        std::array::from_fn(|n| V::load(b.add(n * self.panel + k * V::LANES)));
                    for r in 0..PIXELS {
                        let x = V::splat(*a[r].add(k));
                        for n in 0..PANELS {
                            sums[r][n] = sums[r][n].add_product(x, w[n]);
                        }
                    }
                }
            }
            let by = self.activation.parts();
            let output = self.output.add(pixel * self.output_pixel + panel * V::LANES);
            let residual = self.residual.wrapping_add(pixel * self.output_pixel + panel * V::LANES);
            // A lone panel's are read once: behind a store they might have changed, for all the compiler knows.
            let lone = (V::load(self.scale.add(panel * V::LANES)), V::load(self.bias.add(panel * V::LANES)));
            // Spelled out: in a loop that the compiler does not unroll, the sums would go through memory.
            macro_rules! store {
                ($r:literal: $($n:literal)*) => { $(
                    if $r < PIXELS && $n < PANELS && $r < rows {
                        let at = (panel + $n) * V::LANES;
                        let (scale, bias) = if PANELS == 1 { lone } else {
                            (V::load(self.scale.add(at)), V::load(self.bias.add(at)))
                        };
                        let mut v = bias.add_product(sums[$r % PIXELS][$n % PANELS], scale);
                        if !self.residual.is_null() {
                            v = v.add(V::load(residual.add($r * self.output_pixel + $n * V::LANES)));
                        }
                        v.activate(&by).store(output.add($r * self.output_pixel + $n * V::LANES));
                    }
                )* };
            }
            store!(0: 0 1 2 3 4 5 6 7);
            store!(1: 0 1 2 3);
            store!(2: 0 1 2 3);
            store!(3: 0 1 2 3);
            store!(4: 0 1 2 3);
            store!(5: 0 1 2 3);
            store!(6: 0 1 2 3);
        }
    }

    #[inline(always)]
    unsafe fn tiles<V: Lanes, const PIXELS: usize, const PANELS: usize>(
        &self,
        pixels: Range<usize>,
        panel: usize,
    ) {
        let mut inputs: Inputs = [const { MaybeUninit::uninit() }; TAPS_MAX * TILE_MAX];
        let offsets = self.offsets();
        for pixel in pixels.clone().step_by(PIXELS) {
            let rows = PIXELS.min(pixels.end - pixel);
            // SAFETY: the caller's promise.
            unsafe {
                self.gather::<PIXELS>(pixel, rows, &offsets, &mut inputs);
                self.tile::<V, PIXELS, PANELS>(&inputs, panel, pixel, rows);
            }
        }
    }
}

/// See [`super::Kernel::product`].
#[inline(always)]
pub(super) unsafe fn product<V: Vector>(p: &Product, pixels: Range<usize>, panels: Range<usize>) {
    let mut at = panels.start;
    // SAFETY: the caller's promise.
    unsafe {
        if p.lanes < LANES {
            for panel in panels {
                if p.pixels() == 1 {
                    p.tiles::<V::Half, 1, 1>(0..1, panel);
                } else {
                    p.tiles::<V::Half, 7, 1>(pixels.clone(), panel);
                }
            }
            return;
        }
        if p.pixels() == 1 {
            while at < panels.end {
                let left = panels.end - at;
                at += if V::PANELS_ONE >= 8 && left >= 8 {
                    p.tiles::<V, 1, 8>(0..1, at);
                    8
                } else if V::PANELS_ONE >= 4 && left >= 4 {
                    p.tiles::<V, 1, 4>(0..1, at);
                    4
                } else {
                    p.tiles::<V, 1, 1>(0..1, at);
                    1
                };
            }
            return;
        }
        // Where tiles of 6 pixels would compute many in vain, as on maps of 7 x 7, there are narrower ones of 7.
        let rows = |tile: usize| pixels.len().next_multiple_of(tile);
        let tall = rows(6) * 24 > rows(7) * 25;
        while at < panels.end {
            let left = panels.end - at;
            let pixels = pixels.clone();
            // 5 is 3 + 2 rather than 4 + 1: a lone panel keeps the units half idle.
            at += if V::PANELS >= 4 && left >= 4 && left != 5 && !tall {
                p.tiles::<V, 6, 4>(pixels, at);
                4
            } else if V::PANELS >= 4 && left >= 3 && left != 4 {
                p.tiles::<V, 7, 3>(pixels, at);
                3
            } else if V::PANELS >= 4 && left >= 2 {
                p.tiles::<V, 7, 2>(pixels, at);
                2
            } else if V::PANELS >= 4 {
                p.tiles::<V, 7, 1>(pixels, at);
                1
            } else {
                p.tiles::<V, 6, 1>(pixels, at);
                1
            };
        }
    }
}
