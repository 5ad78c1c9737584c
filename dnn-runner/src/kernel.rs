//! Which form of the arithmetic runs: chosen once, by what the CPU has.
//!
//! Responsible for: running one group of a network on a worker's arena, and for this crate's only
//! `unsafe` block, the call into code compiled for AVX2 and FMA.
#![expect(unsafe_code, reason = "calling a function compiled for CPU features found at run time")]

use crate::ops::{self, Conv, Linear, naive};

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
            Kind::Portable => run_fast::<false>(group, maps, scratch, logits),
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2(group: &Group, maps: &mut [f32], scratch: &mut [f32], logits: &mut [f32]) {
    run_fast::<true>(group, maps, scratch, logits);
}

#[inline(always)]
fn run_fast<const FUSED: bool>(group: &Group, maps: &mut [f32], scratch: &mut [f32], logits: &mut [f32]) {
    let mut rest = maps;
    for (i, conv) in group.convs.iter().enumerate() {
        let (src, next) = rest.split_at_mut(map_len(conv, conv.shape.padding()));
        ops::conv::<FUSED>(conv, src, scratch);
        let padding = group.convs.get(i + 1).map_or(0, |c| c.shape.padding());
        ops::pool(&conv.shape, scratch, padding, next);
        rest = next;
    }
    ops::linear::<FUSED>(&group.linear, &rest[..group.linear.weight.len() / logits.len()], logits);
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
