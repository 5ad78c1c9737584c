//! Power: hwmon rails (a `powerN_*` of its own, or voltage times current, as the INA3221 of the Jetson
//! boards has them) and powercap energy counters (RAPL).

use super::slow::{Gauge, Reread, number_gauge};
use super::{Found, Loss, folders, text};
use crate::units::Nanos;
use std::path::Path;

/// Channels tried per hwmon device.
const CHANNELS: u32 = 16;

/// mV times mA is uW.
struct Product {
    millivolts: Reread,
    milliamperes: Reread,
}

impl Gauge for Product {
    fn read(&mut self, _: Nanos) -> Option<i64> {
        self.millivolts.number()?.checked_mul(self.milliamperes.number()?)
    }
}

/// Mean power since the reading before, from a counter in uJ that wraps at `range`.
struct Energy {
    counter: Reread,
    range: Option<i64>,
    last: Option<(i64, Nanos)>,
}

impl Gauge for Energy {
    fn read(&mut self, now: Nanos) -> Option<i64> {
        let Some(energy) = self.counter.number() else {
            self.last = None;
            return None;
        };
        let (before, at) = self.last.replace((energy, now))?;
        let microjoules = if energy >= before {
            energy - before
        } else {
            // The counter runs from 0 to `range`; without knowing it, a wrap tells nothing.
            self.range?.checked_sub(before)?.checked_add(energy)?.checked_add(1)?
        };
        let ns = i128::from(now.since(at).0);
        // uJ / ns = kW
        i64::try_from((i128::from(microjoules) * 1_000_000_000).checked_div(ns)?).ok()
    }
}

/// hwmon rails, in uW.
pub(super) fn find_rails(sys: &Path, found: &mut Found, lost: &mut Vec<Loss>) {
    let class = sys.join("class/hwmon");
    let before = found.len();
    for device in folders(&class, "hwmon") {
        let chip = text(&device.join("name")).unwrap_or_else(|| "hwmon".to_owned());
        for n in 1..=CHANNELS {
            let file = |what: &str| device.join(format!("{what}{n}_input"));
            let label = |what: &str| text(&device.join(format!("{what}{n}_label")));
            let own = number_gauge(&file("power"))
                .or_else(|| number_gauge(&device.join(format!("power{n}_average"))));
            let name = label("power").or_else(|| label("in")).unwrap_or_else(|| format!("{chip}-{n}"));
            let product = || -> Option<Box<dyn Gauge>> {
                let millivolts = Reread::open(&file("in")).ok()?;
                Some(Box::new(Product { millivolts, milliamperes: Reread::open(&file("curr")).ok()? }))
            };
            if let Some(gauge) = own.or_else(product) {
                found.add(format!("rail/{name}"), "uW", gauge);
            }
        }
    }
    if found.len() == before {
        lost.push(Loss::new(
            "power rails",
            format!("{}: no device with powerN, or inN and currN", class.display()),
        ));
    }
}

/// powercap zones, in uW.
pub(super) fn find_powercap(sys: &Path, found: &mut Found, lost: &mut Vec<Loss>) {
    let class = sys.join("class/powercap");
    let before = found.len();
    let zones = folders(&class, "");
    for zone in &zones {
        let Ok(counter) = Reread::open(&zone.join("energy_uj")) else { continue };
        let name = text(&zone.join("name")).unwrap_or_else(|| "zone".to_owned());
        // `intel-rapl:0:1` is a part of `intel-rapl:0`.
        let folder = zone.file_name().and_then(|f| f.to_str()).unwrap_or_default();
        let parent = folder.rsplit_once(':').and_then(|(p, _)| text(&class.join(p).join("name")));
        let name = parent.map_or_else(|| format!("powercap/{name}"), |p| format!("powercap/{p}/{name}"));
        let range = text(&zone.join("max_energy_range_uj")).and_then(|t| t.parse().ok());
        found.add(name, "uW", Box::new(Energy { counter, range, last: None }));
    }
    if found.len() == before {
        lost.push(Loss::new(
            "RAPL energy",
            format!("{}: no zone with a readable energy_uj", class.display()),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fake::{Fake, read_all};

    #[test]
    fn an_ina3221_gives_volts_times_amperes_by_label() {
        let fake = Fake::new()
            .file("class/hwmon/hwmon3/name", "ina3221\n")
            .file("class/hwmon/hwmon3/in1_label", "VDD_GPU_SOC\n")
            .file("class/hwmon/hwmon3/in1_input", "19104\n")
            .file("class/hwmon/hwmon3/curr1_input", "248\n")
            .file("class/hwmon/hwmon3/in2_input", "5000\n")
            .file("class/hwmon/hwmon3/curr2_input", "40\n")
            .file("class/hwmon/hwmon3/in7_label", "sum of shunt voltages\n")
            .file("class/hwmon/hwmon3/in7_input", "12\n")
            .file("class/hwmon/hwmon4/name", "power_meter\n")
            .file("class/hwmon/hwmon4/power1_average", "7350000\n");
        let (mut found, mut lost) = (Found::default(), Vec::new());
        find_rails(fake.root(), &mut found, &mut lost);
        let want = [
            ("rail/VDD_GPU_SOC", Some(19_104 * 248)),
            ("rail/ina3221-2", Some(200_000)),
            ("rail/power_meter-1", Some(7_350_000)),
        ];
        assert_eq!(read_all(found), want.map(|(n, v)| (n.to_owned(), "uW".to_owned(), v)));
        assert_eq!(lost, []);
    }

    #[test]
    fn energy_becomes_power_across_a_wrap() {
        let fake = Fake::new()
            .file("class/powercap/intel-rapl:0/name", "package-0\n")
            .file("class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n")
            .file("class/powercap/intel-rapl:0/energy_uj", "262143328800\n")
            .file("class/powercap/intel-rapl:0:0/name", "core\n")
            .file("class/powercap/intel-rapl:0:0/energy_uj", "5\n")
            .file("class/powercap/intel-rapl/enabled", "1\n");
        let (mut found, mut lost) = (Found::default(), Vec::new());
        find_powercap(fake.root(), &mut found, &mut lost);
        assert_eq!(lost, []);
        let (signals, mut gauges) = found.split();
        assert_eq!(
            signals.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            ["powercap/package-0", "powercap/package-0/core"]
        );
        assert_eq!(gauges[0].read(Nanos::from_ms(100)), None, "one reading is no power");
        // 50 uJ to the end, one step to 0, 999,949 more: 1,000,000 uJ in 500 ms = 2 W.
        fake.write("class/powercap/intel-rapl:0/energy_uj", "999949\n");
        assert_eq!(gauges[0].read(Nanos::from_ms(600)), Some(2_000_000));
        // Without a known range a wrap is not guessed at.
        assert_eq!(gauges[1].read(Nanos::from_ms(0)), None);
        fake.write("class/powercap/intel-rapl:0:0/energy_uj", "4\n");
        assert_eq!(gauges[1].read(Nanos::from_ms(10)), None);
        fake.write("class/powercap/intel-rapl:0:0/energy_uj", "1004\n");
        assert_eq!(gauges[1].read(Nanos::from_ms(20)), Some(100_000));
    }
}
