//! Cooling devices: while one holds a clock down, the limit that is read is not the owner's.
//!
//! Saving it would make the cap stick after the machine has cooled. So a limit is saved when no device
//! holds it, waiting a while; after that the hardware's own maximum is taken and said.

use super::attr::{below, read_value};
use std::path::Path;
use std::time::{Duration, Instant};

/// What a limit belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Of<'a> {
    /// A cpufreq policy, by its CPUs.
    Cpus(&'a [u32]),
    /// A devfreq device, by name.
    Device(&'a str),
}

/// How often a held limit is looked at again.
const POLL: Duration = Duration::from_millis(20);
/// How long a limit must stand with no device active: the kernel clears a device's state first and lifts
/// the limit later, in a work item.
const SETTLE: Duration = Duration::from_millis(200);

/// A cooling device.
struct Device {
    /// Its folder.
    name: String,
    kind: String,
    active: bool,
}

fn devices(root: &Path) -> Vec<Device> {
    let Ok(dir) = std::fs::read_dir(below(root, "/sys/class/thermal")) else { return vec![] };
    let mut found: Vec<Device> = dir
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("cooling_device"))
        .filter_map(|name| {
            let at = |file: &str| read_value(root, &format!("/sys/class/thermal/{name}/{file}")).ok();
            let (kind, state) = (at("type")?, at("cur_state")?.parse::<u64>().ok()?);
            Some(Device { name, kind, active: state > 0 })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whether any cooling device that sets clocks is active.
pub fn any_active(root: &Path) -> bool {
    let sets_clocks =
        |kind: &str| kind == "Processor" || kind.contains("cpufreq") || kind.contains("devfreq");
    devices(root).iter().any(|d| d.active && sets_clocks(&d.kind))
}

/// The cooling devices that may hold this clock down. Names: `cpufreq-cpu0`, `devfreq-gpu`
/// (drivers/thermal/{cpufreq,devfreq}_cooling.c since 5.12); `thermal-cpufreq-0`, `thermal-devfreq-0`
/// (before: they do not say whose) and ACPI's `Processor` count for every clock of their kind.
fn holders(root: &Path, of: Of<'_>) -> Vec<Device> {
    let hit = |kind: &str| match of {
        Of::Cpus(cpus) => match kind.strip_prefix("cpufreq-cpu") {
            Some(n) => n.parse().is_ok_and(|n| cpus.contains(&n)),
            None => kind == "Processor" || kind.starts_with("thermal-cpufreq"),
        },
        Of::Device(device) => match kind.strip_prefix("devfreq-") {
            Some(d) => d == device,
            None => kind.starts_with("thermal-devfreq"),
        },
    };
    devices(root).into_iter().filter(|d| hit(&d.kind)).collect()
}

/// The limit to save: what `read` gives once no cooling device holds it below `top`, else, after
/// `patience`, `top` and a note. `top` is what the hardware can do.
pub fn unheld_limit<E>(
    root: &Path,
    of: Of<'_>,
    path: &str,
    top: u64,
    patience: Duration,
    read: impl Fn() -> Result<u64, E>,
) -> Result<(u64, Option<String>), E> {
    let deadline = Instant::now() + patience;
    let mut calm: Option<Instant> = None;
    loop {
        let holders = holders(root, of);
        let limit = read()?;
        if limit >= top || holders.is_empty() {
            return Ok((limit, None));
        }
        if let Some(Device { name, kind, .. }) = holders.iter().find(|d| d.active) {
            calm = None;
            if Instant::now() >= deadline {
                let ms = patience.as_millis();
                let note = format!(
                    "{path}: {name} ({kind}) held it down at {limit} for {ms} ms; {top}, the hardware's maximum, is saved instead"
                );
                return Ok((top, Some(note)));
            }
        } else if calm.get_or_insert_with(Instant::now).elapsed() >= SETTLE {
            return Ok((limit, None));
        }
        std::thread::sleep(POLL);
    }
}
