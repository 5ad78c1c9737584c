//! Convolution, pooling and the linear classifier: the naive reference, and the fast form beside it.
//!
//! Responsible for: the arithmetic of one layer on plain slices. Not responsible for: which layers
//! there are ([`crate::model`]). Activations lie as (row, column, channel); weights as (kernel row,
//! kernel column, input, output), so that a step of the kernel is one vector of outputs.
//!
//! The fast form is written over [`Lanes`], a vector of eight numbers: an array on any CPU, a register
//! where there is one ([`crate::kernel`]).

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

/// Eight numbers that are worked on at once.
pub trait Lanes: Copy {
    /// From memory.
    fn load(from: &[f32; LANES]) -> Self;
    /// To memory.
    fn store(self, to: &mut [f32; LANES]);
    /// `self + x * w`, rounded once or twice.
    fn add_product(self, x: f32, w: Self) -> Self;
    /// The larger of each.
    fn max(self, other: Self) -> Self;
}

impl Lanes for [f32; LANES] {
    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        *from
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self;
    }
    #[inline(always)]
    fn add_product(mut self, x: f32, w: Self) -> Self {
        for lane in 0..LANES {
            self[lane] += x * w[lane];
        }
        self
    }
    #[inline(always)]
    fn max(mut self, other: Self) -> Self {
        for lane in 0..LANES {
            self[lane] = if other[lane] > self[lane] { other[lane] } else { self[lane] };
        }
        self
    }
}

/// The first eight of a slice that is known to have them: channels are a multiple of [`LANES`].
#[inline(always)]
fn eight(of: &[f32]) -> &[f32; LANES] {
    of.first_chunk().expect("channels are a multiple of LANES")
}

/// The same, to write to.
#[inline(always)]
fn eight_mut(of: &mut [f32]) -> &mut [f32; LANES] {
    of.first_chunk_mut().expect("channels are a multiple of LANES")
}

/// `PX` neighbouring pixels of eight channels from `from` on, ReLU included. `src` begins at the first
/// pixel's top left neighbour in the padded input, `out` at the first pixel's first channel.
#[inline(always)]
fn tile<L: Lanes, const PX: usize>(conv: &Conv, from: usize, src: &[f32], out: &mut [f32]) {
    let ConvShape { width, depth, kernel, channels, .. } = conv.shape;
    let stride = (width + kernel - 1) * depth;
    let span = kernel * depth; // one row of the kernel meets consecutive numbers of the input
    let mut sums = [L::load(eight(&conv.bias[from..])); PX];
    for ky in 0..kernel {
        // So long that no index below is out of it.
        let row = &src[ky * stride..][..(PX - 1) * depth + span];
        let weights = conv.weight[ky * span * channels..][from..].chunks(channels);
        for (i, w) in weights.take(span).enumerate() {
            let w = L::load(eight(w));
            for p in 0..PX {
                sums[p] = sums[p].add_product(row[p * depth + i], w);
            }
        }
    }
    for (sum, to) in sums.into_iter().zip(out.chunks_mut(channels)) {
        sum.max(L::load(&[0.0; LANES])).store(eight_mut(to));
    }
}

/// Convolution and ReLU: `src` is padded with zeros, `out` is not.
#[inline(always)]
pub fn conv<L: Lanes>(conv: &Conv, src: &[f32], out: &mut [f32]) {
    let ConvShape { height, width, depth, kernel, channels, .. } = conv.shape;
    let stride = (width + kernel - 1) * depth;
    for from in (0..channels).step_by(LANES) {
        for y in 0..height {
            let row = &src[y * stride..];
            let to = &mut out[y * width * channels + from..];
            let mut x = 0;
            // 14 sums, a weight and a pixel fill the sixteen vector registers; 28, 14 and 7 divide by 7.
            while x + 14 <= width {
                tile::<L, 14>(conv, from, &row[x * depth..], &mut to[x * channels..]);
                x += 14;
            }
            while x + 7 <= width {
                tile::<L, 7>(conv, from, &row[x * depth..], &mut to[x * channels..]);
                x += 7;
            }
            while x < width {
                tile::<L, 1>(conv, from, &row[x * depth..], &mut to[x * channels..]);
                x += 1;
            }
        }
    }
}

/// Maximum pooling of a convolution's output into the middle of `out`, whose border of `padding`
/// pixels is left alone.
#[inline(always)]
pub fn pool<L: Lanes>(shape: &ConvShape, src: &[f32], padding: usize, out: &mut [f32]) {
    let &ConvShape { width, channels, pool, .. } = shape;
    let stride = (shape.pooled_width() + 2 * padding) * channels;
    for y in 0..shape.pooled_height() {
        for x in 0..shape.pooled_width() {
            let to = &mut out[(y + padding) * stride + (x + padding) * channels..][..channels];
            let cell = &src[(y * pool * width + x * pool) * channels..];
            for from in (0..channels).step_by(LANES) {
                let mut best = L::load(eight(&cell[from..]));
                for dy in 0..pool {
                    for dx in 0..pool {
                        best = best.max(L::load(eight(&cell[(dy * width + dx) * channels + from..])));
                    }
                }
                best.store(eight_mut(&mut to[from..]));
            }
        }
    }
}

/// Adds a group's logits to `out`.
#[inline(always)]
pub fn linear<L: Lanes>(linear: &Linear, features: &[f32], out: &mut [f32]) {
    let classes = out.len();
    for (o, b) in out.iter_mut().zip(&linear.bias) {
        *o += b;
    }
    let (vectors, rest) = out.as_chunks_mut::<LANES>();
    for (at, o) in vectors.iter_mut().enumerate() {
        let mut sum = L::load(o);
        for (x, row) in features.iter().zip(linear.weight.chunks_exact(classes)) {
            sum = sum.add_product(*x, L::load(eight(&row[at * LANES..])));
        }
        sum.store(o);
    }
    let from = classes - rest.len();
    for (x, row) in features.iter().zip(linear.weight.chunks_exact(classes)) {
        for (o, w) in rest.iter_mut().zip(&row[from..]) {
            *o += x * w;
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
                    let cell =
                        (0..s.pool * s.pool).map(|i| (y * s.pool + i / s.pool, x * s.pool + i % s.pool));
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
