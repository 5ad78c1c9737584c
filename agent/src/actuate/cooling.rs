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
const POLL: Duration = Duration::from_millis(50);

/// Every active cooling device: its folder name and type.
fn active(root: &Path) -> Vec<(String, String)> {
    let Ok(dir) = std::fs::read_dir(below(root, "/sys/class/thermal")) else { return vec![] };
    let mut found: Vec<(String, String)> = dir
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("cooling_device"))
        .filter_map(|name| {
            let at = |file: &str| read_value(root, &format!("/sys/class/thermal/{name}/{file}")).ok();
            let state: u64 = at("cur_state")?.parse().ok()?;
            let kind = if state > 0 { at("type")? } else { return None };
            Some((name, kind))
        })
        .collect();
    found.sort();
    found
}

/// Whether any cooling device that sets clocks is active.
pub fn any_active(root: &Path) -> bool {
    active(root)
        .iter()
        .any(|(_, kind)| kind == "Processor" || kind.contains("cpufreq") || kind.contains("devfreq"))
}

/// The active cooling device that may hold this clock down. Names: `cpufreq-cpu0`, `devfreq-gpu`
/// (drivers/thermal/{cpufreq,devfreq}_cooling.c since 5.12); `thermal-cpufreq-0`, `thermal-devfreq-0`
/// (before: they do not say whose) and ACPI's `Processor` count for every clock of their kind.
pub fn holder(root: &Path, of: Of<'_>) -> Option<String> {
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
    active(root).into_iter().find(|(_, kind)| hit(kind)).map(|(name, kind)| format!("{name} ({kind})"))
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
    loop {
        // The holder first: a device that lets go between the two reads has raised the limit already.
        let holder = holder(root, of);
        let limit = read()?;
        match holder {
            Some(holder) if limit < top => {
                if Instant::now() >= deadline {
                    let note = format!(
                        "{path}: {holder} held it down at {limit} for {} ms; {top}, the hardware's maximum, is saved instead",
                        patience.as_millis()
                    );
                    return Ok((top, Some(note)));
                }
                std::thread::sleep(POLL);
            }
            _ => return Ok((limit, None)),
        }
    }
}
