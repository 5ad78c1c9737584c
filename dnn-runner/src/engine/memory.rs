//! Memory that vectors like: numbers that begin at a cache line.
#![expect(unsafe_code, reason = "lines of numbers are looked at as numbers")]

use crate::kernel::LANES;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// Zeros at first; a multiple of sixteen of them; begins at a cache line.
#[derive(Clone, Debug, Default)]
pub struct Aligned(Vec<Line>);

impl Aligned {
    /// At least `len` zeros.
    pub fn new(len: usize) -> Self {
        Self(vec![Line([0.0; LANES]); len.div_ceil(LANES)])
    }

    /// `values`, then zeros.
    pub fn from(values: &[f32]) -> Self {
        let mut all = Self::new(values.len());
        all[..values.len()].copy_from_slice(values);
        all
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: a line is sixteen numbers and nothing else (its size is its alignment).
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LANES) }
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as for `deref`.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LANES) }
    }
}
