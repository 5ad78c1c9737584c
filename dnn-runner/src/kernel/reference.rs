//! The operations as their definitions say, number by number: slow, and what the fast forms are tested
//! against.

use super::depthwise::Depthwise;
use super::gemm::Product;
use super::simple::{Add, MaxPool, Mean, Scale};
use super::{Activation, LANES};
use std::ops::Range;

impl Activation {
    /// Of one number.
    pub(crate) fn of(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::Relu => x.max(0.0),
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::HSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::HSigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
        }
    }
}

/// See [`super::Kernel::product`].
pub(super) unsafe fn product(p: &Product, pixels: Range<usize>, panels: Range<usize>) {
    for pixel in pixels {
        let (y, x) = (pixel / p.out.1 * p.stride, pixel % p.out.1 * p.stride);
        for n in panels.start * p.lanes..panels.end * p.lanes {
            let (panel, lane) = (n / p.lanes, n % p.lanes);
            let mut sum = 0.0;
            for (ky, kx) in (0..p.taps.0).flat_map(|ky| (0..p.taps.1).map(move |kx| (ky, kx))) {
                let (iy, ix) = ((y + ky).wrapping_sub(p.padding.0), (x + kx).wrapping_sub(p.padding.1));
                if !p.bordered && (iy >= p.height || ix >= p.width) {
                    continue;
                }
                for k in 0..p.depth {
                    // SAFETY: the caller's promise.
                    sum += unsafe {
                        let x = *p.input.wrapping_add((y + ky) * p.row + (x + kx) * p.pixel + k);
                        let tap = ky * p.taps.1 + kx;
                        x * *p.weights.add(panel * p.panel + tap * p.tap + k * p.lanes + lane)
                    };
                }
            }
            let at = pixel * p.output_pixel + n;
            // SAFETY: the caller's promise.
            unsafe {
                let more = if p.residual.is_null() { 0.0 } else { *p.residual.add(at) };
                *p.output.add(at) = p.activation.of(sum * *p.scale.add(n) + *p.bias.add(n) + more);
            }
        }
    }
}

/// See [`super::Kernel::depthwise`].
pub(super) unsafe fn depthwise(d: &Depthwise, rows: Range<usize>) {
    for (y, x) in rows.flat_map(|y| (0..d.out.1).map(move |x| (y, x))) {
        for c in 0..d.channels {
            let mut sum = 0.0;
            for (ky, kx) in (0..d.kernel).flat_map(|ky| (0..d.kernel).map(move |kx| (ky, kx))) {
                let iy = (y * d.stride + ky).wrapping_sub(d.padding.0);
                let ix = (x * d.stride + kx).wrapping_sub(d.padding.1);
                if iy < d.height && ix < d.width {
                    // SAFETY: the caller's promise.
                    sum += unsafe {
                        *d.input.add((iy * d.width + ix) * d.channels + c)
                            * *d.weights.add((ky * d.kernel + kx) * d.weight_channels + c)
                    };
                }
            }
            // SAFETY: the caller's promise.
            unsafe {
                *d.output.add((y * d.out.1 + x) * d.channels + c) =
                    d.activation.of(sum * *d.scale.add(c) + *d.bias.add(c));
            }
        }
    }
}

/// See [`super::Kernel::max_pool`].
pub(super) unsafe fn max_pool(p: &MaxPool, rows: Range<usize>) {
    for (y, x) in rows.flat_map(|y| (0..p.out_width).map(move |x| (y, x))) {
        for c in 0..p.channels {
            let mut best = f32::NEG_INFINITY;
            for (dy, dx) in (0..p.cell).flat_map(|dy| (0..p.cell).map(move |dx| (dy, dx))) {
                let at = (y * p.cell + dy) * p.width + x * p.cell + dx;
                // SAFETY: the caller's promise.
                best = best.max(unsafe { *p.input.add(at * p.channels + c) });
            }
            // SAFETY: the caller's promise.
            unsafe { *p.output.add((y * p.out_width + x) * p.channels + c) = best }
        }
    }
}

/// See [`super::Kernel::mean`].
#[expect(clippy::cast_precision_loss, reason = "maps have far fewer than 2^24 pixels")]
pub(super) unsafe fn mean(m: &Mean, panels: Range<usize>) {
    for c in panels.start * LANES..panels.end * LANES {
        // SAFETY: the caller's promise.
        let sum: f32 = (0..m.pixels).map(|p| unsafe { *m.input.add(p * m.channels + c) }).sum();
        // SAFETY: the caller's promise.
        unsafe { *m.output.add(c) = sum / m.pixels as f32 }
    }
}

/// See [`super::Kernel::scale`].
pub(super) unsafe fn scale(s: &Scale, pixels: Range<usize>) {
    for (pixel, c) in pixels.flat_map(|p| (0..s.channels).map(move |c| (p, c))) {
        let at = pixel * s.channels + c;
        // SAFETY: the caller's promise.
        unsafe { *s.output.add(at) = *s.input.add(at) * *s.factors.add(c) }
    }
}

/// See [`super::Kernel::add`].
pub(super) unsafe fn add(a: &Add, vectors: Range<usize>) {
    for at in vectors.start * LANES..vectors.end * LANES {
        // SAFETY: the caller's promise.
        unsafe { *a.output.add(at) = a.activation.of(*a.a.add(at) + *a.b.add(at)) }
    }
}
