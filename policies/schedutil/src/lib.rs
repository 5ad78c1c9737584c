//! Allocator `schedutil@tick`: the schedutil governor's formula on our snapshot, once a tick.
//!
//! What it is not: the kernel's governor. That one runs at every update of the scheduler's load, knows
//! util_est, RT, deadline and interrupt time, and boosts after I/O waits. Here utilisation is the share
//! of the window that the domain's busiest CPU was busy, made frequency-invariant by the OPP it ran at,
//! averaged as PELT averages (half-life 32 ms), then `1.25 x f_max x util` and the lowest OPP at or above.
//!
//! Parameters: `domain` (see `kernel-style`), `pelt` = true or false (default true; false: each window
//! counts alone). A domain whose utilisation is not measured is left alone; one whose OPP is not measured
//! counts as being where it was last asked to be.

use kernel_style::KernelStyle;
use kernel_style::schedutil::Schedutil;

/// See the crate's text.
pub type Policy = KernelStyle<Schedutil>;

policy_sdk::export_allocator!(Policy);

#[cfg(test)]
mod tests {
    use super::*;
    use policy_sdk::testing::{BoardBuilder, SnapshotBuilder, params};
    use policy_sdk::{Allocator, Board};

    fn board() -> Board {
        BoardBuilder::new().khz("cpu", &[0], &[800_000, 1_200_000, 1_600_000, 2_000_000]).build()
    }

    /// Ticks of 10 ms at that utilisation, the OPP following; the asks.
    fn run(given: &[(&str, &str)], spells: &[(u32, u16)]) -> Vec<u16> {
        let mut p: Policy = policy_sdk::start_allocator(&board(), &[], params(given)).unwrap();
        let mut opp = 0;
        let mut asks = vec![];
        for (ticks, util) in spells {
            for _ in 0..*ticks {
                let seen = SnapshotBuilder::new(&board(), 0).domain(0, opp, *util).build();
                opp = p.decide(&seen).domains[0].ask.unwrap();
                asks.push(opp);
            }
        }
        asks
    }

    #[test]
    fn a_window_alone_gives_the_formula() {
        // util 700 at 800 MHz: 700 * 800 / 2000 = 280 invariant; 280 + 70 = 350; 2,000,000 * 350 / 1024
        // = 683,593 -> 800 MHz. Saturated: 1.25 * 800 = 1,000 MHz -> 1.2 GHz, then 1.5 -> 1.6, then 2.0.
        assert_eq!(run(&[("pelt", "false")], &[(1, 700), (3, 1024)]), [0, 1, 2, 3]);
    }

    #[test]
    fn the_average_falls_with_a_half_life_of_32_ms() {
        let asks = run(&[], &[(100, 1024), (40, 0)]);
        assert_eq!(asks[99], 3);
        // 1024 falls below 655 (2.0 -> 1.6 GHz: 1.25 * util * 2000 / 1024 <= 1600) after
        // 32.8 ms * log2(1024 / 655) = 21 ms, and below 327 (-> 800 MHz) after 54 ms.
        let first = |opp: u16| asks[100..].iter().position(|a| *a <= opp).unwrap();
        assert!((1..=3).contains(&first(2)), "{asks:?}");
        assert!((4..=6).contains(&first(0)), "{asks:?}");
    }

    #[test]
    fn swapped_in_under_load_it_does_not_start_from_idle() {
        let mut p: Policy = policy_sdk::start_allocator(&board(), &[], vec![]).unwrap();
        // 800 + 200 = 1000; 2,000,000 * 1000 / 1024 = 1,953,125 -> 2.0 GHz
        let seen = SnapshotBuilder::new(&board(), 0).domain(0, 3, 800).build();
        assert_eq!(p.decide(&seen).domains[0].ask, Some(3));
    }

    #[test]
    fn an_opp_not_measured_is_where_it_was_asked_to_be() {
        let mut p: Policy = policy_sdk::start_allocator(&board(), &[], params(&[("pelt", "false")])).unwrap();
        let mut seen = SnapshotBuilder::new(&board(), 0).domain(0, 0, 300).build();
        seen.domains[0].opp = None;
        // Nothing asked yet: the top. 300 + 75 = 375; 2,000,000 * 375 / 1024 = 732,421 -> 800 MHz
        assert_eq!(p.decide(&seen).domains[0].ask, Some(0));
        // At 800 MHz: 120 invariant, still the lowest.
        assert_eq!(p.decide(&seen).domains[0].ask, Some(0));
        seen.domains[0].util = None;
        assert_eq!(p.decide(&seen).domains[0].ask, None);
    }
}
