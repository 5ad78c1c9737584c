//! Sixteen numbers in registers: one of AVX-512, two of AVX2, four of NEON, or whatever the compiler
//! makes of an array.
//!
//! The methods are always inlined, and their `unsafe` rests on two things: a type with CPU features is
//! used in functions compiled for them alone ([`super::Kernel`]), and the pointers are good for
//! [`LANES`] numbers (the callers' promise).

use super::{Clamp, LANES};

static ZEROS: [f32; LANES] = [0.0; LANES];

/// Sixteen numbers.
pub(crate) trait Vector: Copy {
    /// Panels of a convolution's tile beside each other: what fills the registers.
    const PANELS: usize;
    /// The same for a tile of one pixel.
    const PANELS_ONE: usize;
    /// Neighbouring pixels of a depthwise tile.
    const PIXELS: usize;

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
        // SAFETY: the trait's promise; the zeros are sixteen.
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

/// An array.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Portable {
    const PANELS: usize = 1;
    const PANELS_ONE: usize = 1;
    const PIXELS: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's promise; an array of numbers asks no more alignment than they do.
        Self(unsafe { *from.cast::<[f32; LANES]>() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as for `load`.
        unsafe { *to.cast::<[f32; LANES]>() = self.0 }
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
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    /// One register of sixteen.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    // In every method: SAFETY: the module's promise.
    impl Vector for Avx512 {
        const PANELS: usize = 4;
        const PANELS_ONE: usize = 8;
        const PIXELS: usize = 7;

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

    /// Two registers of eight.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256, __m256);

    impl Vector for Avx2 {
        const PANELS: usize = 1;
        const PANELS_ONE: usize = 4;
        const PIXELS: usize = 5;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the module's promise.
            let x = unsafe { _mm256_set1_ps(x) };
            Self(x, x)
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the module's promise.
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the module's promise.
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the module's promise.
            unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the module's promise.
            unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: the module's promise.
            unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: the module's promise.
            unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            // SAFETY: the module's promise.
            unsafe { Self(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::Vector;
    use std::arch::aarch64::*;

    /// Four registers of four.
    #[derive(Clone, Copy)]
    pub(crate) struct Neon([float32x4_t; 4]);

    impl Neon {
        #[inline(always)]
        fn zip(self, other: Self, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
            let (a, b) = (self.0, other.0);
            Self([f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])])
        }
    }

    impl Vector for Neon {
        const PANELS: usize = 1;
        const PANELS_ONE: usize = 4;
        const PIXELS: usize = 5;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the module's promise.
            Self([unsafe { vdupq_n_f32(x) }; 4])
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the module's promise.
            unsafe {
                Self([
                    vld1q_f32(from),
                    vld1q_f32(from.add(4)),
                    vld1q_f32(from.add(8)),
                    vld1q_f32(from.add(12)),
                ])
            }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the module's promise.
            unsafe {
                vst1q_f32(to, self.0[0]);
                vst1q_f32(to.add(4), self.0[1]);
                vst1q_f32(to.add(8), self.0[2]);
                vst1q_f32(to.add(12), self.0[3]);
            }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            let (c, a, b) = (self.0, a.0, b.0);
            // SAFETY: the module's promise.
            unsafe {
                Self([
                    vfmaq_f32(c[0], a[0], b[0]),
                    vfmaq_f32(c[1], a[1], b[1]),
                    vfmaq_f32(c[2], a[2], b[2]),
                    vfmaq_f32(c[3], a[3], b[3]),
                ])
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the module's promise.
            self.zip(other, |a, b| unsafe { vaddq_f32(a, b) })
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: the module's promise.
            self.zip(other, |a, b| unsafe { vmulq_f32(a, b) })
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            // SAFETY: the module's promise.
            self.zip(other, |a, b| unsafe { vmaxq_f32(a, b) })
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            // SAFETY: the module's promise.
            self.zip(other, |a, b| unsafe { vminq_f32(a, b) })
        }
    }
}
