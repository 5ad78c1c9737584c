//! The arithmetic of layers, and which form of it runs: chosen once, by what the CPU has.
//!
//! Responsible for: convolutions as an indirect matrix product ([`gemm`]), depthwise ones
//! ([`depthwise`]), pooling and scaling ([`simple`]), each written once over a vector of
//! [`LANES`] numbers or of half as many ([`vector`]) and compiled for AVX-512, for AVX2 with FMA, for NEON and for any CPU;
//! and a scalar reference ([`reference`]) that the tests hold all of them against. Most of this crate's
//! `unsafe` is here. Not responsible for: where a layer's numbers lie ([`crate::engine`]).
//!
//! Activations lie as rows of pixels, a pixel's channels together, padded to a multiple of [`LANES`] (the
//! image, which vectors never read, is not). What lies in the padding no channel ever depends on. So every vector is whole: there are no masks
//! for channels, and a slice of channels is a shorter loop.
#![expect(
    unsafe_code,
    reason = "vector registers, raw rows, and calling code for CPU features found at run time"
)]

pub(crate) mod depthwise;
pub(crate) mod gemm;
pub(crate) mod reference;
pub(crate) mod simple;
#[cfg(test)]
mod tests;
pub(crate) mod vector;

use depthwise::Depthwise;
use gemm::Product;
use simple::{Add, MaxPool, Mean, Scale};
use std::ops::Range;

/// Numbers a vector holds; channels are padded to a multiple of it.
pub const LANES: usize = 16;

/// Outputs of a panel of packed weights, where a convolution has `outputs` of them: half a vector where a
/// whole one would be half idle.
pub(crate) const fn panel(outputs: usize) -> usize {
    if outputs <= LANES / 2 { LANES / 2 } else { LANES }
}

/// `n` rounded up to a multiple of [`LANES`].
pub(crate) const fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// What is done to each number of a layer's output, last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x
    None,
    /// max(x, 0)
    Relu,
    /// min(max(x, 0), 6)
    Relu6,
    /// x * min(max(x + 3, 0), 6) / 6 (MobileNetV3, arXiv 1905.02244, section 5.2)
    HSwish,
    /// min(max(x + 3, 0), 6) / 6
    HSigmoid,
}

impl Activation {
    /// All of them are t = min(max(x * slope + shift, low), high), times x where `gate`.
    const fn parts(self) -> Clamp {
        let (slope, shift, low, high, gate) = match self {
            Self::None => (1.0, 0.0, f32::NEG_INFINITY, f32::INFINITY, false),
            Self::Relu => (1.0, 0.0, 0.0, f32::INFINITY, false),
            Self::Relu6 => (1.0, 0.0, 0.0, 6.0, false),
            Self::HSwish => (1.0 / 6.0, 0.5, 0.0, 1.0, true),
            Self::HSigmoid => (1.0 / 6.0, 0.5, 0.0, 1.0, false),
        };
        Clamp { slope, shift, low, high, gate }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clamp {
    slope: f32,
    shift: f32,
    low: f32,
    high: f32,
    gate: bool,
}

/// A form of the arithmetic this CPU can run. Only the constructors make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reference,
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Kernel {
    /// The operations as their definitions say: for tests and comparison.
    pub const fn reference() -> Self {
        Self(Kind::Reference)
    }

    /// The fast form for any CPU of this architecture.
    pub const fn portable() -> Self {
        Self(Kind::Portable)
    }

    /// Every form this CPU can run, the slowest first.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::reference(), Self::portable()];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") {
                all.push(Self(Kind::Avx2));
            }
            if has!("avx512f") {
                all.push(Self(Kind::Avx512));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(Self(Kind::Neon));
        }
        all
    }

    /// The fastest this CPU can run.
    pub fn best() -> Self {
        *Self::all().last().expect("two forms run anywhere")
    }

    /// The form of that name, if this CPU can run it.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|k| k.name() == name)
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Reference => "reference",
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
        }
    }
}

/// One method per operation, which calls the form that `self` is: `$reference` or `$fast` for a vector.
macro_rules! operation {
    ($(#[$doc:meta])* $name:ident($args:ident: &$type:ty, $($arg:ident: $of:ty),*) $reference:ident, $($fast:ident)::+) => {
        impl Kernel {
            $(#[$doc])*
            ///
            /// # Safety
            /// The rows and vectors that `args` points to are as long as its sizes say, and nobody else
            /// writes what it reads, or touches the part of the output that it writes.
            pub(crate) unsafe fn $name(self, $args: &$type, $($arg: $of),*) {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma")]
                unsafe fn avx2(args: &$type, $($arg: $of),*) {
                    // SAFETY: the caller's promise, handed on.
                    unsafe { $($fast)::+::<vector::Pair<vector::Avx>>(args, $($arg),*) }
                }
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx512f")]
                unsafe fn avx512(args: &$type, $($arg: $of),*) {
                    // SAFETY: the caller's promise, handed on.
                    unsafe { $($fast)::+::<vector::Avx512>(args, $($arg),*) }
                }
                #[cfg(target_arch = "aarch64")]
                #[target_feature(enable = "neon")]
                unsafe fn neon(args: &$type, $($arg: $of),*) {
                    // SAFETY: the caller's promise, handed on.
                    unsafe { $($fast)::+::<vector::Pair<vector::Pair<vector::Neon>>>(args, $($arg),*) }
                }
                // SAFETY: the caller's promise; a kind with CPU features is made only where they were seen.
                unsafe {
                    match self.0 {
                        Kind::Reference => reference::$reference($args, $($arg),*),
                        Kind::Portable => $($fast)::+::<vector::Pair<vector::Portable>>($args, $($arg),*),
                        #[cfg(target_arch = "x86_64")]
                        Kind::Avx2 => avx2($args, $($arg),*),
                        #[cfg(target_arch = "x86_64")]
                        Kind::Avx512 => avx512($args, $($arg),*),
                        #[cfg(target_arch = "aarch64")]
                        Kind::Neon => neon($args, $($arg),*),
                    }
                }
            }
        }
    };
}

operation! {
    /// Output pixels `pixels` (best a multiple of [`gemm::ROWS`]) and panels `panels` of a convolution.
    product(args: &Product, pixels: Range<usize>, panels: Range<usize>) product, gemm::product
}
operation! {
    /// Output rows `rows` of a depthwise convolution.
    depthwise(args: &Depthwise, rows: Range<usize>) depthwise, depthwise::depthwise
}
operation! {
    /// Output rows `rows` of a maximum pooling.
    max_pool(args: &MaxPool, rows: Range<usize>) max_pool, simple::max_pool
}
operation! {
    /// Panels `panels` of the mean over all pixels.
    mean(args: &Mean, panels: Range<usize>) mean, simple::mean
}
operation! {
    /// Pixels `pixels` of a channel-wise scaling.
    scale(args: &Scale, pixels: Range<usize>) scale, simple::scale
}
operation! {
    /// Vectors `vectors` of a sum.
    add(args: &Add, vectors: Range<usize>) add, simple::add
}
