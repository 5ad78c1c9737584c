//! devfreq devices (GPU, memory bus): frequency, ceiling, load and transitions.
//!
//! The load is the driver's: Rockchip's `load` says `37@800000000Hz` (percent), Tegra's `device/load`
//! thousandths. Mainline shows none to user space; there the load is absent.

use super::slow::{FileGauge, Gauge, Reread, number_gauge};
use std::path::{Path, PathBuf};

/// The gauges of one device; `None`: the machine does not show it.
#[derive(Default)]
pub(super) struct Device {
    /// Hz
    pub freq: Option<Box<dyn Gauge>>,
    /// Hz, the highest allowed
    pub max: Option<Box<dyn Gauge>>,
    /// Thousandths of the time
    pub load: Option<Box<dyn Gauge>>,
    /// Since the device came up
    pub transitions: Option<Box<dyn Gauge>>,
}

pub(super) fn folder(sys: &Path, device: &str) -> PathBuf {
    sys.join("class/devfreq").join(device)
}

pub(super) fn open(folder: &Path) -> Device {
    let parsed = |name: &str, parse: fn(&str) -> Option<i64>| -> Option<Box<dyn Gauge>> {
        let file = Reread::open(&folder.join(name)).ok()?;
        Some(Box::new(FileGauge { file, parse }))
    };
    Device {
        freq: number_gauge(&folder.join("cur_freq")),
        max: number_gauge(&folder.join("max_freq")),
        load: parsed("load", rockchip_load).or_else(|| parsed("device/load", |t| t.parse().ok())),
        transitions: parsed("trans_stat", transitions),
    }
}

fn rockchip_load(text: &str) -> Option<i64> {
    let (percent, _) = text.split_once('@')?;
    percent.trim().parse::<i64>().ok()?.checked_mul(10)
}

/// The last line of `trans_stat`: `Total transition : 42`.
fn transitions(text: &str) -> Option<i64> {
    text.lines().find_map(|l| l.strip_prefix("Total transition :"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fake::Fake;
    use crate::units::Nanos;

    #[test]
    fn load_and_transitions_are_read_in_both_dialects() {
        let stat = "     From  :   To\n           : 200000000 850000000   time(ms)\n*  200000000:         0         3      1200\n   \
                    850000000:         3         0       340\nTotal transition : 6\n";
        let fake = Fake::new()
            .file("class/devfreq/fde60000.gpu/load", "37@800000000Hz\n")
            .file("class/devfreq/fde60000.gpu/cur_freq", "800000000\n")
            .file("class/devfreq/fde60000.gpu/max_freq", "900000000\n")
            .file("class/devfreq/fde60000.gpu/trans_stat", stat)
            .file("class/devfreq/17000000.gpu/device/load", "412\n");
        let read = |g: Option<Box<dyn Gauge>>| g.and_then(|mut g| g.read(Nanos(1)));
        let rk = open(&folder(fake.root(), "fde60000.gpu"));
        assert_eq!(
            (read(rk.load), read(rk.freq), read(rk.max), read(rk.transitions)),
            (Some(370), Some(800_000_000), Some(900_000_000), Some(6))
        );
        let tegra = open(&folder(fake.root(), "17000000.gpu"));
        assert_eq!((read(tegra.load), read(tegra.freq), read(tegra.transitions)), (Some(412), None, None));
    }
}
