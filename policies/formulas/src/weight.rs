//! From a nice value to a share: `sched_prio_to_weight` in `kernel/sched/core.c`.

/// `NICE_0_LOAD`
pub const NICE_0: u32 = 1024;

/// By nice value, -20 first: "nice changes are multiplicative, with a gentle 10% change for every nice
/// level changed".
const WEIGHTS: [u32; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904, 3906, 3121,
    2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172, 137, 110, 87, 70, 56, 45, 36, 29,
    23, 18, 15,
];

/// The weight of that nice value; beyond -20..=19 as the nearest.
pub fn of_nice(nice: i8) -> u32 {
    WEIGHTS[usize::try_from(i16::from(nice.clamp(-20, 19)) + 20).unwrap_or(20)]
}

/// The weight of a cgroup's `cpu.weight`, 100 = the default (`sched_weight_from_cgroup`).
pub fn of_cgroup(weight: u16) -> u32 {
    (u32::from(weight) * NICE_0 + 50) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_1024_either_way() {
        assert_eq!((of_nice(0), of_cgroup(100)), (1024, 1024));
        // A step is about 25 %; ten of them about 9.3.
        assert_eq!((of_nice(1), of_nice(10), of_nice(-20), of_nice(19)), (820, 110, 88761, 15));
        assert_eq!(of_cgroup(400), 4096);
    }
}
