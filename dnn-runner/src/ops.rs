//! Convolution, pooling and the linear classifier: the naive reference, and the fast form beside it.
//!
//! Responsible for: the arithmetic of one layer on plain slices. Not responsible for: which layers
//! there are ([`crate::model`]). Activations lie as (row, column, channel); weights as (kernel row,
//! kernel column, input, output), so that a step of the kernel is one vector of outputs.
//!
//! The fast form is ordinary Rust over arrays of eight; the compiler makes vectors of it. Compiled
//! for AVX2 and FMA it reaches 20 to 23 multiply-accumulates a nanosecond on a core of an AMD EPYC,
//! three times the same code for plain x86-64. Everything here is generic over `FUSED`: whether a
//! multiply-add is one instruction (and one rounding), which is only fast where the CPU has it.

use crate::manifest::{ConvShape, LANES};

/// One convolution of one group.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Its sizes.
    pub shape: ConvShape,
    /// (kernel, kernel, depth, channels)
    pub weight: Vec<f32>,
    /// (channels)
    pub bias: Vec<f32>,
}

/// The classifier of one group.
#[derive(Clone, Debug)]
pub struct Linear {
    /// (features, classes)
    pub weight: Vec<f32>,
    /// (classes)
    pub bias: Vec<f32>,
}

/// `a * b + c`, fused or not.
#[inline(always)]
fn madd<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `PX` neighbouring pixels of eight channels from `from` on, ReLU included. `src` begins at the first
/// pixel's top left neighbour in the padded input, `out` at the first pixel's first channel.
#[inline(always)]
fn tile<const FUSED: bool, const PX: usize>(conv: &Conv, from: usize, src: &[f32], out: &mut [f32]) {
    let ConvShape { width, depth, kernel, channels, .. } = conv.shape;
    let stride = (width + kernel - 1) * depth;
    let span = kernel * depth; // one row of the kernel meets consecutive numbers of the input
    let bias: &[f32; LANES] = conv.bias[from..].first_chunk().expect("channels are a multiple of LANES");
    let mut sums = [*bias; PX];
    for ky in 0..kernel {
        let row = &src[ky * stride..][..(PX - 1) * depth + span];
        let weights = &conv.weight[ky * span * channels + from..];
        for i in 0..span {
            let w: &[f32; LANES] = weights[i * channels..].first_chunk().expect("as above");
            for (p, sum) in sums.iter_mut().enumerate() {
                let x = row[p * depth + i];
                for lane in 0..LANES {
                    sum[lane] = madd::<FUSED>(x, w[lane], sum[lane]);
                }
            }
        }
    }
    for (p, sum) in sums.iter().enumerate() {
        let to: &mut [f32; LANES] = out[p * channels..].first_chunk_mut().expect("as above");
        for lane in 0..LANES {
            to[lane] = sum[lane].max(0.0);
        }
    }
}

/// Convolution and ReLU: `src` is padded with zeros, `out` is not.
#[inline(always)]
pub fn conv<const FUSED: bool>(conv: &Conv, src: &[f32], out: &mut [f32]) {
    let ConvShape { height, width, depth, kernel, channels, .. } = conv.shape;
    let stride = (width + kernel - 1) * depth;
    for from in (0..channels).step_by(LANES) {
        for y in 0..height {
            let row = &src[y * stride..];
            let to = &mut out[y * width * channels + from..];
            let mut x = 0;
            // 14 sums, a weight and a pixel fill the sixteen vector registers; 28, 14 and 7 divide by 7.
            while x + 14 <= width {
                tile::<FUSED, 14>(conv, from, &row[x * depth..], &mut to[x * channels..]);
                x += 14;
            }
            while x + 7 <= width {
                tile::<FUSED, 7>(conv, from, &row[x * depth..], &mut to[x * channels..]);
                x += 7;
            }
            while x < width {
                tile::<FUSED, 1>(conv, from, &row[x * depth..], &mut to[x * channels..]);
                x += 1;
            }
        }
    }
}

/// Maximum pooling of a convolution's output into the middle of `out`, whose border of `padding`
/// pixels is left alone.
#[inline(always)]
pub fn pool(shape: &ConvShape, src: &[f32], padding: usize, out: &mut [f32]) {
    let &ConvShape { width, channels, pool, .. } = shape;
    let stride = (shape.pooled_width() + 2 * padding) * channels;
    for y in 0..shape.pooled_height() {
        for x in 0..shape.pooled_width() {
            let to = &mut out[(y + padding) * stride + (x + padding) * channels..][..channels];
            for (cell, to) in to.chunks_exact_mut(LANES).enumerate() {
                let mut best = [f32::NEG_INFINITY; LANES];
                for dy in 0..pool {
                    for dx in 0..pool {
                        let at = ((y * pool + dy) * width + x * pool + dx) * channels + cell * LANES;
                        let from: &[f32; LANES] = src[at..].first_chunk().expect("as in tile");
                        for lane in 0..LANES {
                            best[lane] = if from[lane] > best[lane] { from[lane] } else { best[lane] };
                        }
                    }
                }
                to.copy_from_slice(&best);
            }
        }
    }
}

/// Adds a group's logits to `out`.
#[inline(always)]
pub fn linear<const FUSED: bool>(linear: &Linear, features: &[f32], out: &mut [f32]) {
    for (o, b) in out.iter_mut().zip(&linear.bias) {
        *o += b;
    }
    for (x, row) in features.iter().zip(linear.weight.chunks_exact(out.len())) {
        for (o, w) in out.iter_mut().zip(row) {
            *o = madd::<FUSED>(*x, *w, *o);
        }
    }
}

/// The same operations as their definitions say, on unpadded input: slow, and what the fast ones are
/// tested against.
pub mod naive {
    use super::{Conv, Linear};
    use crate::manifest::ConvShape;

    /// Convolution with zero padding, and ReLU.
    pub fn conv(conv: &Conv, src: &[f32], out: &mut [f32]) {
        let s = &conv.shape;
        let pad = s.padding();
        for y in 0..s.height {
            for x in 0..s.width {
                for c in 0..s.channels {
                    let mut sum = conv.bias[c];
                    for ky in 0..s.kernel {
                        for kx in 0..s.kernel {
                            let (iy, ix) = (y + ky, x + kx);
                            if iy < pad || ix < pad || iy - pad >= s.height || ix - pad >= s.width {
                                continue;
                            }
                            for d in 0..s.depth {
                                let pixel = src[((iy - pad) * s.width + ix - pad) * s.depth + d];
                                let w = conv.weight[((ky * s.kernel + kx) * s.depth + d) * s.channels + c];
                                sum += pixel * w;
                            }
                        }
                    }
                    out[(y * s.width + x) * s.channels + c] = sum.max(0.0);
                }
            }
        }
    }

    /// Maximum pooling.
    pub fn pool(s: &ConvShape, src: &[f32], out: &mut [f32]) {
        for y in 0..s.pooled_height() {
            for x in 0..s.pooled_width() {
                for c in 0..s.channels {
                    let cell = (0..s.pool * s.pool).map(|i| (y * s.pool + i / s.pool, x * s.pool + i % s.pool));
                    out[(y * s.pooled_width() + x) * s.channels + c] = cell
                        .map(|(iy, ix)| src[(iy * s.width + ix) * s.channels + c])
                        .fold(f32::NEG_INFINITY, f32::max);
                }
            }
        }
    }

    /// Adds a group's logits to `out`.
    pub fn linear(linear: &Linear, features: &[f32], out: &mut [f32]) {
        let classes = out.len();
        for (class, o) in out.iter_mut().enumerate() {
            *o += linear.bias[class];
            for (f, x) in features.iter().enumerate() {
                *o += x * linear.weight[f * classes + class];
            }
        }
    }
}
