//! Pressure stall information: `/proc/pressure/{cpu,io,memory}`, the 10 s averages in thousandths.

use super::slow::{FileGauge, Reread};
use super::{Found, Loss};
use std::path::Path;

type Line = (&'static str, &'static str, fn(&str) -> Option<i64>);

/// `full` of the CPU is always 0 for the whole machine (Documentation/accounting/psi.rst).
const LINES: [Line; 5] = [
    ("cpu", "some", |t| avg10(t, "some ")),
    ("io", "some", |t| avg10(t, "some ")),
    ("io", "full", |t| avg10(t, "full ")),
    ("memory", "some", |t| avg10(t, "some ")),
    ("memory", "full", |t| avg10(t, "full ")),
];

/// `some avg10=12.34 avg60=...` -> 123 (thousandths of the time).
fn avg10(text: &str, line: &str) -> Option<i64> {
    let line = text.lines().find_map(|l| l.strip_prefix(line))?;
    let (whole, part) = line.split_whitespace().find_map(|f| f.strip_prefix("avg10="))?.split_once('.')?;
    let tenths: i64 = part.get(..1)?.parse().ok()?;
    whole.parse::<i64>().ok()?.checked_mul(10)?.checked_add(tenths)
}

pub(super) fn find(proc: &Path, found: &mut Found, lost: &mut Vec<Loss>) {
    let mut why = None;
    for (what, line, parse) in LINES {
        let path = proc.join("pressure").join(what);
        // Booted with psi=0 the files are there but cannot be read.
        match Reread::open(&path).and_then(|file| std::fs::read_to_string(&path).map(|_| file)) {
            Ok(file) => {
                found.add(format!("psi/{what}-{line}-avg10"), "permille", Box::new(FileGauge { file, parse }))
            }
            Err(e) => why = Some(format!("{}: {e}", path.display())),
        }
    }
    if let Some(why) = why {
        lost.push(Loss::new("pressure stall information", why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fake::{Fake, read_all};

    #[test]
    fn averages_are_read_as_thousandths() {
        let both = "some avg10=3.07 avg60=1.00 avg300=0.50 total=123\nfull avg10=0.90 avg60=0.00 avg300=0.00 total=7\n";
        let fake = Fake::new()
            .file("pressure/cpu", "some avg10=99.17 avg60=99.39 avg300=96.94 total=1089131815\n")
            .file("pressure/io", both);
        let (mut found, mut lost) = (Found::default(), Vec::new());
        find(fake.root(), &mut found, &mut lost);
        let want = [("psi/cpu-some-avg10", 991), ("psi/io-some-avg10", 30), ("psi/io-full-avg10", 9)];
        assert_eq!(read_all(found), want.map(|(n, v)| (n.to_owned(), "permille".to_owned(), Some(v))));
        assert!(lost.len() == 1 && lost[0].why.contains("pressure/memory"), "{lost:?}");
    }
}
