//! The arithmetic of the kernel's frequency governors, in integers, rounded as the kernel rounds.
//!
//! Pure functions on numbers: no clock, no board, no policy types. A governor's state that belongs to
//! its formula (conservative's requested frequency, PELT's average) is a small struct. Frequencies are
//! in whatever one unit the caller uses throughout; util is 0..=1024, load 0..=100.
//!
//! Each module names the kernel file it follows; its tests state the arithmetic by hand.

#![forbid(unsafe_code)]

pub mod conservative;
pub mod ondemand;
pub mod pelt;
pub mod relation;
pub mod sampling;
pub mod schedutil;
pub mod simple_ondemand;
pub mod util_est;
pub mod weight;

/// `a * b / c` without overflow, rounded down, at most `u64::MAX`. `c` = 0 counts as 1.
pub fn mul_div(a: u64, b: u64, c: u64) -> u64 {
    let c = c.max(1);
    match a.checked_mul(b) {
        // WebAssembly has no division of 128 bits: it is a loop.
        Some(product) => product / c,
        None => u64::try_from(u128::from(a) * u128::from(b) / u128::from(c)).unwrap_or(u64::MAX),
    }
}

/// The load that `dbs_update()` computes, `100 * (wall - idle) / wall`, from a utilisation
/// (`drivers/cpufreq/cpufreq_governor.c`).
pub fn load(util: u16) -> u8 {
    u8::try_from(u32::from(util.min(1024)) * 100 / 1024).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_rounds_down_as_the_kernel_does() {
        assert_eq!(load(0), 0);
        assert_eq!(load(819), 79); // 81900 / 1024 = 79.98
        assert_eq!(load(820), 80); // 82000 / 1024 = 80.08
        assert_eq!(load(1024), 100);
    }

    #[test]
    fn products_beyond_64_bits_are_exact() {
        assert_eq!(mul_div(u64::MAX, 3, 6), u64::MAX / 2);
        assert_eq!(mul_div(u64::MAX, 2, 1), u64::MAX);
    }
}
