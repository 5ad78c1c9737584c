//! Depthwise convolutions: each channel with a kernel of its own, sixteen channels at a time.

use super::vector::Vector;
use super::{Activation, LANES};
use std::ops::Range;

/// Columns that the largest tile meets: 7 pixels, stride 2, kernel 7.
const COLUMNS_MAX: usize = 6 * 2 + 7;

/// A depthwise convolution.
#[derive(Clone, Debug)]
pub(crate) struct Depthwise {
    /// Input pixel (0, 0).
    pub input: *const f32,
    /// Rows and columns of the input.
    pub height: usize,
    /// See `height`.
    pub width: usize,
    /// Numbers of a pixel, of input and output: the channels, padded.
    pub channels: usize,
    /// Side of the kernel: 3, 5 or 7.
    pub kernel: usize,
    /// Pixels between two outputs: 1 or 2.
    pub stride: usize,
    /// Zeros before the first row and column.
    pub padding: (usize, usize),
    /// `[tap][weight_channels]`
    pub weights: *const f32,
    /// The super-network's channels, padded.
    pub weight_channels: usize,
    /// Per channel, padded: the sum is multiplied by it,
    pub scale: *const f32,
    /// and this is added.
    pub bias: *const f32,
    /// Output pixel (0, 0).
    pub output: *mut f32,
    /// Rows and columns of the output.
    pub out: (usize, usize),
    /// Last.
    pub activation: Activation,
}

/// Where a tile of neighbouring output pixels lies.
struct Tile {
    /// Of its first tap, in the input; may be outside.
    x: isize,
    /// Kernel rows that meet the input.
    rows: Range<usize>,
    /// The input row that kernel row 0 meets; may be outside.
    y: isize,
    /// Output, first pixel.
    output: *mut f32,
    /// Which columns are inside.
    inside: [bool; COLUMNS_MAX],
    /// Pixels to store.
    pixels: usize,
}

impl Depthwise {
    #[inline(always)]
    unsafe fn tile<V: Vector, const PIXELS: usize, const K: usize, const S: usize, const BORDER: bool>(
        &self,
        tile: &Tile,
    ) {
        let by = self.activation.parts();
        let columns = isize::try_from(self.width).expect("maps are small");
        for c in (0..self.channels).step_by(LANES) {
            // SAFETY: the caller's promise; columns outside of the map are not read where BORDER, and
            // without it there are none.
            unsafe {
                let mut sums = [V::splat(0.0); PIXELS];
                for ky in tile.rows.clone() {
                    let pixel = (tile.y + ky.cast_signed()) * columns + tile.x;
                    let row = self.input.wrapping_offset(pixel * self.channels.cast_signed()).wrapping_add(c);
                    let weights = self.weights.add(ky * K * self.weight_channels + c);
                    for kx in 0..K {
                        let w = V::load(weights.add(kx * self.weight_channels));
                        for (t, sum) in sums.iter_mut().enumerate() {
                            let from = row.wrapping_add((t * S + kx) * self.channels);
                            let x = if BORDER {
                                V::load_if(from, *tile.inside.get_unchecked(t * S + kx))
                            } else {
                                V::load(from)
                            };
                            *sum = sum.add_product(x, w);
                        }
                    }
                }
                let (scale, bias) = (V::load(self.scale.add(c)), V::load(self.bias.add(c)));
                for (t, sum) in sums.into_iter().enumerate() {
                    if !BORDER || t < tile.pixels {
                        let v = bias.add_product(sum, scale);
                        v.activate(&by).store(tile.output.add(t * self.channels + c));
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Vector, const PIXELS: usize, const K: usize, const S: usize>(
        &self,
        rows: Range<usize>,
    ) {
        let signed = |n: usize| n.cast_signed();
        let (height, width) = (signed(self.height), signed(self.width));
        for oy in rows {
            let y = signed(oy * S) - signed(self.padding.0);
            let kernel_rows = (-y).max(0).cast_unsigned()..(height - y).clamp(0, signed(K)).cast_unsigned();
            let mut ox = 0;
            while ox < self.out.1 {
                // The last tile overlaps the one before rather than being cut.
                if ox + PIXELS > self.out.1 && self.out.1 >= PIXELS {
                    ox = self.out.1 - PIXELS;
                }
                let x = signed(ox * S) - signed(self.padding.1);
                let pixels = PIXELS.min(self.out.1 - ox);
                let columns = (PIXELS - 1) * S + K;
                let mut tile = Tile {
                    x,
                    rows: kernel_rows.clone(),
                    y,
                    output: self.output.wrapping_add((oy * self.out.1 + ox) * self.channels),
                    inside: [true; COLUMNS_MAX],
                    pixels,
                };
                // SAFETY: the caller's promise.
                unsafe {
                    if x >= 0 && x + signed(columns) <= width && pixels == PIXELS {
                        self.tile::<V, PIXELS, K, S, false>(&tile);
                    } else {
                        for (j, inside) in tile.inside[..columns].iter_mut().enumerate() {
                            *inside = (0..width).contains(&(x + signed(j)));
                        }
                        self.tile::<V, PIXELS, K, S, true>(&tile);
                    }
                }
                ox += PIXELS;
            }
        }
    }

    #[inline(always)]
    unsafe fn kernels<V: Vector, const PIXELS: usize>(&self, rows: Range<usize>) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.kernel, self.stride) {
                (3, 1) => self.rows::<V, PIXELS, 3, 1>(rows),
                (3, 2) => self.rows::<V, PIXELS, 3, 2>(rows),
                (5, 1) => self.rows::<V, PIXELS, 5, 1>(rows),
                (5, 2) => self.rows::<V, PIXELS, 5, 2>(rows),
                (7, 1) => self.rows::<V, PIXELS, 7, 1>(rows),
                (7, 2) => self.rows::<V, PIXELS, 7, 2>(rows),
                other => unreachable!("plans have kernels 3, 5, 7 and strides 1, 2; this is {other:?}"),
            }
        }
    }
}

/// See [`super::Kernel::depthwise`].
#[inline(always)]
pub(super) unsafe fn depthwise<V: Vector>(d: &Depthwise, rows: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        match V::PIXELS {
            7 => d.kernels::<V, 7>(rows),
            5 => d.kernels::<V, 5>(rows),
            _ => d.kernels::<V, 2>(rows),
        }
    }
}
