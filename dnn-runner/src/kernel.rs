//! Which form of the arithmetic runs: chosen once, by what the CPU has.
//!
//! Responsible for: running one group of a network on a worker's arena, and for all `unsafe` of this
//! crate: vector registers, and the call into code compiled for AVX2 and FMA.
//!
//! Vectors are spelled out: left to the compiler, the same loops over arrays became scalar code at the
//! least change (with overflow checks on, for one).
#![expect(unsafe_code, reason = "vector registers, and calling code for CPU features found at run time")]

use crate::manifest::LANES;
use crate::ops::{self, Conv, Lanes, Linear, naive};

/// A form of the arithmetic this CPU can run. Only the constructors make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Naive,
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

/// The layers of one group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub convs: Vec<Conv>,
    pub linear: Linear,
}

impl Kernel {
    /// The operations as their definitions say: for tests and comparison.
    pub const fn naive() -> Self {
        Self(Kind::Naive)
    }

    /// The fast form for any CPU of this architecture.
    pub const fn portable() -> Self {
        Self(Kind::Portable)
    }

    /// The fast form for AVX2 and FMA, if this CPU (and system) has them.
    pub fn avx2() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return Some(Self(Kind::Avx2));
        }
        None
    }

    /// The fastest this CPU can run.
    pub fn best() -> Self {
        Self::avx2().unwrap_or(Self::portable())
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Naive => "naive",
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
        }
    }

    /// Zeros around the input of a layer that this form wants.
    pub(crate) const fn padding(self, layer: &Conv) -> usize {
        match self.0 {
            Kind::Naive => 0,
            _ => layer.shape.padding(),
        }
    }

    /// Adds the logits of `group` to `logits`. `maps` holds the inputs of its layers one behind the
    /// other, the first already filled, each with [`Self::padding`], then the features; `scratch` has
    /// room for the largest unpooled output.
    pub(crate) fn run(self, group: &Group, maps: &mut [f32], scratch: &mut [f32], logits: &mut [f32]) {
        match self.0 {
            Kind::Naive => run_naive(group, maps, scratch, logits),
            Kind::Portable => run_fast::<[f32; LANES]>(group, maps, scratch, logits),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Kind::Avx2` is made in `Kernel::avx2` alone, which has seen both features.
            Kind::Avx2 => unsafe { run_avx2(group, maps, scratch, logits) },
        }
    }
}

/// Numbers in the input of `layer`, with a border of `padding`.
pub(crate) const fn map_len(layer: &Conv, padding: usize) -> usize {
    let s = &layer.shape;
    (s.height + 2 * padding) * (s.width + 2 * padding) * s.depth
}

/// Eight numbers in a register. Private, and used by [`run_avx2`] alone: that is what the `unsafe` blocks
/// below rest on.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use crate::manifest::LANES;
    use crate::ops::Lanes;
    use std::arch::x86_64::{
        __m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_set1_ps, _mm256_storeu_ps,
    };

    #[derive(Clone, Copy)]
    pub(super) struct Register(__m256);

    impl Lanes for Register {
        #[inline(always)]
        fn load(from: &[f32; LANES]) -> Self {
            // SAFETY: the CPU has AVX2 (see the module); `from` is eight numbers, and no alignment is asked.
            Self(unsafe { _mm256_loadu_ps(from.as_ptr()) })
        }
        #[inline(always)]
        fn store(self, to: &mut [f32; LANES]) {
            // SAFETY: as for `load`; `to` is ours alone.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self.0) }
        }
        #[inline(always)]
        fn add_product(self, x: f32, w: Self) -> Self {
            // SAFETY: the CPU has AVX2 and FMA (see the module).
            Self(unsafe { _mm256_fmadd_ps(_mm256_set1_ps(x), w.0, self.0) })
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // SAFETY: the CPU has AVX2 (see the module).
            Self(unsafe { _mm256_max_ps(other.0, self.0) })
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(group: &Group, maps: &mut [f32], scratch: &mut [f32], logits: &mut [f32]) {
    run_fast::<avx2::Register>(group, maps, scratch, logits);
}

#[inline(always)]
fn run_fast<L: Lanes>(group: &Group, maps: &mut [f32], scratch: &mut [f32], logits: &mut [f32]) {
    let mut rest = maps;
    for (i, conv) in group.convs.iter().enumerate() {
        let (src, next) = rest.split_at_mut(map_len(conv, conv.shape.padding()));
        ops::conv::<L>(conv, src, scratch);
        let padding = group.convs.get(i + 1).map_or(0, |c| c.shape.padding());
        ops::pool::<L>(&conv.shape, scratch, padding, next);
        rest = next;
    }
    ops::linear::<L>(&group.linear, &rest[..group.linear.weight.len() / logits.len()], logits);
}

fn run_naive(group: &Group, maps: &mut [f32], scratch: &mut [f32], logits: &mut [f32]) {
    let mut rest = maps;
    for conv in &group.convs {
        let (src, next) = rest.split_at_mut(map_len(conv, 0));
        naive::conv(conv, src, scratch);
        naive::pool(&conv.shape, scratch, next);
        rest = next;
    }
    naive::linear(&group.linear, &rest[..group.linear.weight.len() / logits.len()], logits);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::ConvShape;
    use proptest::prelude::*;

    /// Two convolutions and a classifier of any legal sizes, and an input.
    fn group() -> impl Strategy<Value = (Group, Vec<f32>)> {
        let sizes = (1..33usize, 1..33usize, 1..10usize, 0..4usize, 0..4usize, 1..4usize, 1..4usize);
        let rest = (1..3usize, 1..4usize, 1..3usize, 1..12usize, any::<u64>());
        (sizes, rest).prop_map(|((h, w, depth, k1, k2, p1, p2), (c1, c2, _, classes, seed))| {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut numbers = move |n: usize| (0..n).map(|_| rng.f32() * 2.0 - 1.0).collect::<Vec<_>>();
            let (pool1, pool2) = (p1.min(h).min(w), p2);
            let shape = |height, width, depth, k: usize, c: usize, pool| ConvShape {
                height,
                width,
                depth,
                kernel: 2 * k + 1,
                channels: 8 * c,
                pool,
            };
            let first = shape(h, w, depth, k1, c1, pool1);
            let (h2, w2) = (first.pooled_height(), first.pooled_width());
            let second = shape(h2, w2, first.channels, k2, c2, pool2.min(h2).min(w2));
            let convs = [first, second].map(|shape| Conv {
                weight: numbers(shape.weights()),
                bias: numbers(shape.channels),
                shape,
            });
            let features = second.pooled_height() * second.pooled_width() * second.channels;
            let linear = Linear { weight: numbers(features * classes), bias: numbers(classes) };
            (Group { convs: convs.to_vec(), linear }, numbers(h * w * depth))
        })
    }

    fn run(kernel: Kernel, group: &Group, input: &[f32]) -> Vec<f32> {
        let first = &group.convs[0];
        let ConvShape { height, width, depth, .. } = first.shape;
        let padding = kernel.padding(first);
        let maps: usize = group.convs.iter().map(|c| map_len(c, kernel.padding(c))).sum();
        let classes = group.linear.bias.len();
        let mut maps = vec![0.0; maps + group.linear.weight.len() / classes];
        for y in 0..height {
            let at = ((y + padding) * (width + 2 * padding) + padding) * depth;
            maps[at..][..width * depth].copy_from_slice(&input[y * width * depth..][..width * depth]);
        }
        let largest = group.convs.iter().map(|c| c.shape.height * c.shape.width * c.shape.channels).max();
        let mut logits = vec![0.5; classes];
        kernel.run(group, &mut maps, &mut vec![0.0; largest.unwrap()], &mut logits);
        logits
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
        #[test]
        fn fast_forms_agree_with_the_naive_one((group, input) in group()) {
            let expected = run(Kernel::naive(), &group, &input);
            // What rounding may add up to: the same sums over absolute values, times the precision and a
            // few more for the order of summation.
            let absolute = {
                let mut g = group.clone();
                for v in g.convs.iter_mut().flat_map(|c| c.weight.iter_mut().chain(&mut c.bias)) { *v = v.abs(); }
                for v in g.linear.weight.iter_mut().chain(&mut g.linear.bias) { *v = v.abs(); }
                run(Kernel::naive(), &g, &input.iter().map(|x| x.abs()).collect::<Vec<_>>())
            };
            for kernel in [Some(Kernel::portable()), Kernel::avx2()].into_iter().flatten() {
                for ((a, b), scale) in run(kernel, &group, &input).iter().zip(&expected).zip(&absolute) {
                    prop_assert!((a - b).abs() <= scale * 64.0 * f32::EPSILON, "{kernel:?}: {a} and {b}, {scale}");
                }
            }
        }
    }

    #[test]
    fn a_kernel_of_ones_counts_the_neighbours() {
        // Worked by hand: on 3 x 3 ones, a corner has 4 cells in reach, an edge 6, the middle 9; the bias
        // of -5 and ReLU leave 0, 1 and 4; pooling over 2 x 2 keeps the largest of the first cell, 4.
        let shape = ConvShape { height: 3, width: 3, depth: 1, kernel: 3, channels: 8, pool: 2 };
        let conv = Conv { shape, weight: vec![1.0; 72], bias: vec![-5.0; 8] };
        let mut out = vec![0.0; 72];
        naive::conv(&conv, &[1.0; 9], &mut out);
        let first_channel: Vec<f32> = out.iter().step_by(8).copied().collect();
        assert_eq!(first_channel, [0.0, 1.0, 0.0, 1.0, 4.0, 1.0, 0.0, 1.0, 0.0]);
        let mut pooled = [0.0; 8];
        naive::pool(&shape, &out, &mut pooled);
        assert_eq!(pooled, [4.0; 8]);
    }
}
