//! Numbers in registers: of x86, of NEON, or whatever the compiler makes of an array; two halves make a
//! whole of [`LANES`].
//!
//! The methods are always inlined, and their `unsafe` rests on two things: a type with CPU features is
//! used in functions compiled for them alone ([`super::Kernel`]), and the pointers are good for as many
//! numbers as the type has (the callers' promise).

use super::{Clamp, LANES};

static ZEROS: [f32; LANES] = [0.0; LANES];

/// The [`LANES`] numbers that nearly all loops go by.
pub(crate) trait Vector: Lanes {
    /// For convolutions of few outputs.
    type Half: Lanes;
    /// Panels of a convolution's tile beside each other: what fills the registers.
    const PANELS: usize;
    /// The same for a tile of one pixel.
    const PANELS_ONE: usize;
    /// Neighbouring pixels of a depthwise tile.
    const PIXELS: usize;
}

/// A few numbers.
pub(crate) trait Lanes: Copy {
    /// How many.
    const LANES: usize;

    /// All the same.
    unsafe fn splat(x: f32) -> Self;
    /// From memory.
    unsafe fn load(from: *const f32) -> Self;
    /// To memory.
    unsafe fn store(self, to: *mut f32);
    /// `self + a * b`
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// `self + other`
    unsafe fn add(self, other: Self) -> Self;
    /// `self * other`
    unsafe fn mul(self, other: Self) -> Self;
    /// The larger of each.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller of each.
    unsafe fn min(self, other: Self) -> Self;

    /// From memory, or zeros without touching it.
    #[inline(always)]
    unsafe fn load_if(from: *const f32, inside: bool) -> Self {
        // SAFETY: the trait's promise; no vector has more numbers than there are zeros.
        unsafe { Self::load(if inside { from } else { ZEROS.as_ptr() }) }
    }

    /// The activation of each.
    #[inline(always)]
    unsafe fn activate(self, by: &Clamp) -> Self {
        // SAFETY: no memory is touched.
        unsafe {
            let t = Self::splat(by.shift).add_product(self, Self::splat(by.slope));
            let t = t.max(Self::splat(by.low)).min(Self::splat(by.high));
            if by.gate { t.mul(self) } else { t }
        }
    }
}

/// Two halves beside each other.
#[derive(Clone, Copy)]
pub(crate) struct Pair<H>(H, H);

// In every method: SAFETY: the halves' promises are the whole's.
impl<H: Lanes> Lanes for Pair<H> {
    const LANES: usize = 2 * H::LANES;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see above.
        let x = unsafe { H::splat(x) };
        Self(x, x)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(H::load(from), H::load(from.add(H::LANES))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            self.0.store(to);
            self.1.store(to.add(H::LANES));
        }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(self.0.add_product(a.0, b.0), self.1.add_product(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(self.0.add(other.0), self.1.add(other.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(self.0.mul(other.0), self.1.mul(other.1)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(self.0.max(other.0), self.1.max(other.1)) }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(self.0.min(other.0), self.1.min(other.1)) }
    }
}

/// An array of eight.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Pair<Portable> {
    type Half = Portable;
    const PANELS: usize = 1;
    const PANELS_ONE: usize = 1;
    const PIXELS: usize = 2;
}

impl Lanes for Portable {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's promise; an array of numbers asks no more alignment than they do.
        Self(unsafe { *from.cast::<[f32; 8]>() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as for `load`.
        unsafe { *to.cast::<[f32; 8]>() = self.0 }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, Pair, Vector};
    use std::arch::x86_64::*;

    impl Vector for Avx512 {
        type Half = Avx;
        const PANELS: usize = 4;
        const PANELS_ONE: usize = 8;
        const PIXELS: usize = 7;
    }

    /// A register of sixteen.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    // In every method: SAFETY: the module's promise.
    impl Lanes for Avx512 {
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_mul_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_max_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_min_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn load_if(from: *const f32, inside: bool) -> Self {
            // SAFETY: see above; masked lanes touch no memory.
            Self(unsafe { _mm512_maskz_loadu_ps(u16::from(inside).wrapping_neg(), from) })
        }
    }

    impl Vector for Pair<Avx> {
        type Half = Avx;
        const PANELS: usize = 1;
        const PANELS_ONE: usize = 4;
        const PIXELS: usize = 5;
    }

    /// A register of eight, with AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx(__m256);

    // In every method: SAFETY: the module's promise.
    impl Lanes for Avx {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: see above.
            unsafe { _mm256_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_mul_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_max_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_min_ps(self.0, other.0) })
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{Lanes, Pair, Vector};
    use std::arch::aarch64::*;

    impl Vector for Pair<Pair<Neon>> {
        type Half = Pair<Neon>;
        const PANELS: usize = 1;
        const PANELS_ONE: usize = 4;
        const PIXELS: usize = 5;
    }

    /// A register of four.
    #[derive(Clone, Copy)]
    pub(crate) struct Neon(float32x4_t);

    // In every method: SAFETY: the module's promise.
    impl Lanes for Neon {
        const LANES: usize = 4;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { vdupq_n_f32(x) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { vld1q_f32(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: see above.
            unsafe { vst1q_f32(to, self.0) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { vfmaq_f32(self.0, a.0, b.0) })
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { vaddq_f32(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { vmulq_f32(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { vmaxq_f32(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { vminq_f32(self.0, other.0) })
        }
    }
}
