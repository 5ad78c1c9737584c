//! Thermal zones: `/sys/class/thermal/thermal_zoneN/{type,temp}`, thousandths of a degree Celsius.

use super::slow::number_gauge;
use super::{Found, Loss, folders, text};
use std::path::Path;

pub(super) fn find(sys: &Path, found: &mut Found, lost: &mut Vec<Loss>) {
    let class = sys.join("class/thermal");
    let before = found.len();
    for zone in folders(&class, "thermal_zone") {
        let Some(gauge) = number_gauge(&zone.join("temp")) else { continue };
        let kind = text(&zone.join("type")).unwrap_or_else(|| "zone".to_owned());
        found.add(format!("thermal/{kind}"), "mC", gauge);
    }
    if found.len() == before {
        lost.push(Loss::new(
            "temperatures",
            format!("{}: no thermal_zone with a readable temp", class.display()),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fake::{Fake, read_all};

    #[test]
    fn zones_are_found_by_number_and_twins_get_names_of_their_own() {
        let fake = Fake::new()
            .file("class/thermal/thermal_zone10/type", "gpu\n")
            .file("class/thermal/thermal_zone10/temp", "61000\n")
            .file("class/thermal/thermal_zone2/type", "cpu\n")
            .file("class/thermal/thermal_zone2/temp", "-5000\n")
            .file("class/thermal/thermal_zone11/type", "cpu\n")
            .file("class/thermal/thermal_zone11/temp", "hot\n")
            .file("class/thermal/cooling_device0/type", "fan\n");
        let (mut found, mut lost) = (Found::default(), Vec::new());
        find(fake.root(), &mut found, &mut lost);
        let want = [
            ("thermal/cpu", "mC", Some(-5000)),
            ("thermal/gpu", "mC", Some(61_000)),
            ("thermal/cpu#2", "mC", None),
        ];
        assert_eq!(read_all(found), want.map(|(n, u, v)| (n.to_owned(), u.to_owned(), v)));
        assert_eq!(lost, []);
        find(&fake.root().join("elsewhere"), &mut Found::default(), &mut lost);
        assert!(lost[0].why.contains("class/thermal"), "{lost:?}");
    }
}
