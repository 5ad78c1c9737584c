//! cpufreq through sysfs: what a policy runs at and may run at, where the kernel's hooks have not told
//! yet (or never do: a driver in hardware control fires none).

use super::slow::{Gauge, number_gauge};
use std::path::{Path, PathBuf};

pub(super) fn folder(sys: &Path, policy: u32) -> PathBuf {
    sys.join(format!("devices/system/cpu/cpufreq/policy{policy}"))
}

/// The present frequency, kHz.
pub(super) fn frequency(folder: &Path) -> Option<Box<dyn Gauge>> {
    number_gauge(&folder.join("scaling_cur_freq"))
}

/// The highest allowed now, kHz.
pub(super) fn ceiling(folder: &Path) -> Option<Box<dyn Gauge>> {
    number_gauge(&folder.join("scaling_max_freq"))
}

/// Present frequency, and lowest and highest allowed, kHz.
pub(super) fn now(folder: &Path) -> (Option<u64>, Option<(u64, u64)>) {
    let khz = |name: &str| super::text(&folder.join(name))?.parse::<u64>().ok();
    (khz("scaling_cur_freq"), khz("scaling_min_freq").zip(khz("scaling_max_freq")))
}

/// Idle states of the machine's CPUs; the default idle loop (no cpuidle driver) reports state 1.
pub(super) fn idle_states(sys: &Path) -> usize {
    super::folders(&sys.join("devices/system/cpu/cpu0/cpuidle"), "state").len().max(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fake::Fake;

    #[test]
    fn a_policy_without_a_fixed_frequency_is_absent_not_zero() {
        let fake = Fake::new()
            .file("devices/system/cpu/cpufreq/policy4/scaling_cur_freq", "<unknown>\n")
            .file("devices/system/cpu/cpufreq/policy4/scaling_min_freq", "408000\n")
            .file("devices/system/cpu/cpufreq/policy4/scaling_max_freq", "1800000\n")
            .file("devices/system/cpu/cpu0/cpuidle/state0/name", "POLL\n")
            .file("devices/system/cpu/cpu0/cpuidle/state1/name", "WFI\n")
            .file("devices/system/cpu/cpu0/cpuidle/state2/name", "cpu-sleep\n");
        assert_eq!(now(&folder(fake.root(), 4)), (None, Some((408_000, 1_800_000))));
        assert_eq!(now(&folder(fake.root(), 0)), (None, None));
        assert_eq!((idle_states(fake.root()), idle_states(Path::new("/nonexistent"))), (3, 2));
    }
}
