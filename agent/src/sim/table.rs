//! Measured rows of one device: CSV with the columns `mhz,clients,latency_ms,power_mw,throughput_fps`,
//! `#` for comments. `clients`: so many inferences are in flight at any time.

use super::fit::LatencyFit;
use crate::toml_errors::{BadToml, Problems};
use serde::Deserialize;

/// One measured point.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Clock.
    pub mhz: f64,
    /// Inferences in flight.
    pub clients: u8,
    /// Mean of one.
    pub latency_ms: f64,
    /// At that load.
    pub power_mw: f64,
    /// Finished a second.
    pub throughput_fps: f64,
}

/// All rows, by clients, then by clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    rows: Vec<Row>,
}

/// Rows are single measurements: a latency may rise this much with the clock by noise alone.
const NOISE: f64 = 1.05;
/// More in flight than this is not modelled.
const CLIENTS: u8 = 16;

impl Table {
    /// Checks the text of a file; all its errors come out at once.
    ///
    /// # Errors
    /// With file, line and rule.
    pub fn parse(file: &str, text: &str) -> Result<Self, BadToml> {
        let problems = Problems::new(file, text);
        let mut read =
            csv::ReaderBuilder::new().comment(Some(b'#')).trim(csv::Trim::All).from_reader(text.as_bytes());
        let mut rows: Vec<(usize, Row)> = Vec::new();
        let headers = read.headers().cloned();
        let mut record = csv::StringRecord::new();
        loop {
            let at = usize::try_from(read.position().byte()).unwrap_or(0);
            match read.read_record(&mut record) {
                Ok(false) => break,
                Ok(true) => {
                    let start = record.position().map_or(at, |p| usize::try_from(p.byte()).unwrap_or(at));
                    match record.deserialize::<Row>(headers.as_ref().ok()) {
                        Ok(row) => rows.push((start, row)),
                        Err(e) => problems.at(start..start, row_error(&e)),
                    }
                }
                Err(e) => {
                    problems.at(at..at, row_error(&e));
                    break;
                }
            }
        }
        check(&rows, &problems);
        rows.sort_by(|(_, a), (_, b)| a.clients.cmp(&b.clients).then(a.mhz.total_cmp(&b.mhz)));
        problems.finish(Some(Self { rows: rows.into_iter().map(|(_, r)| r).collect() }))
    }

    /// The rows with so many in flight, by rising clock.
    pub fn with_clients(&self, clients: u8) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |r| r.clients == clients)
    }
    /// The most in flight.
    pub fn clients_max(&self) -> u8 {
        self.rows.last().map_or(1, |r| r.clients)
    }
    /// Lowest and highest clock.
    pub fn span(&self) -> (f64, f64) {
        let all = || self.with_clients(1).map(|r| r.mhz);
        (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max))
    }
    /// (MHz, ms) with so many in flight, up to a clock.
    pub fn latencies(&self, clients: u8, to_mhz: f64) -> Vec<(f64, f64)> {
        self.with_clients(clients).filter(|r| r.mhz <= to_mhz).map(|r| (r.mhz, r.latency_ms)).collect()
    }
    /// (MHz, mW) with so many in flight.
    pub fn powers(&self, clients: u8) -> Vec<(f64, f64)> {
        self.with_clients(clients).map(|r| (r.mhz, r.power_mw)).collect()
    }

    /// Power at a clock, mW: the row, or on the line between its neighbours.
    pub fn power_at(&self, clients: u8, mhz: f64) -> f64 {
        between(&self.powers(clients), mhz)
    }

    /// How much faster so many in flight are served together than one alone: `k L(1) / L(k)`, mean over
    /// the clocks.
    #[expect(clippy::cast_precision_loss, reason = "a few rows")]
    pub fn speed_up(&self, clients: u8) -> f64 {
        let ones = self.latencies(1, f64::INFINITY);
        let ratios: Vec<f64> = self
            .with_clients(clients)
            .map(|r| f64::from(clients) * between(&ones, r.mhz) / r.latency_ms)
            .collect();
        ratios.iter().sum::<f64>() / ratios.len().max(1) as f64
    }

    /// The curve of one alone, through the rows up to a clock.
    pub fn fit(&self, to_mhz: f64) -> Option<LatencyFit> {
        LatencyFit::through(&self.latencies(1, to_mhz))
    }
}

fn row_error(e: &csv::Error) -> String {
    match e.kind() {
        csv::ErrorKind::Deserialize { err, .. } => {
            format!("row: {err}; columns: mhz,clients,latency_ms,power_mw,throughput_fps")
        }
        _ => format!("row: {e}"),
    }
}

fn check(rows: &[(usize, Row)], problems: &Problems<'_>) {
    if rows.is_empty() {
        problems.at(0..0, "no rows; a table has at least two clocks");
    }
    let mut last: Option<&Row> = None;
    for (at, row) in rows {
        let bad = |rule: String| problems.at(*at..*at, rule);
        let name = format!("{} MHz, {} clients", row.mhz, row.clients);
        let numbers = [("mhz", row.mhz), ("latency_ms", row.latency_ms), ("power_mw", row.power_mw)];
        for (what, value) in numbers {
            if !(value.is_finite() && value > 0.0) {
                bad(format!("{name}: {what} ({value}): must be above 0"));
            }
        }
        if row.clients == 0 || row.clients > CLIENTS {
            bad(format!("{name}: clients: must be 1 to {CLIENTS}"));
        }
        if let Some(last) = last.filter(|l| l.clients == row.clients) {
            if row.mhz <= last.mhz {
                bad(format!("{name}: is not above the row before ({} MHz); list clocks rising", last.mhz));
            } else if row.latency_ms > last.latency_ms * NOISE {
                bad(format!(
                    "{name}: latency_ms ({}): is above that at {} MHz ({}); a latency falls as the clock rises",
                    row.latency_ms, last.mhz, last.latency_ms
                ));
            }
        } else if let Some(last) = last.filter(|l| row.clients < l.clients) {
            bad(format!("{name}: after rows with {} clients; list clients rising", last.clients));
        }
        last = Some(row);
    }
    gaps(rows, problems);
}

/// Every number of clients has the same clocks.
fn gaps(rows: &[(usize, Row)], problems: &Problems<'_>) {
    let clocks = |clients: u8| rows.iter().filter(move |(_, r)| r.clients == clients).map(|(_, r)| r.mhz);
    let most = rows.iter().map(|(_, r)| r.clients).max().unwrap_or(0).min(CLIENTS);
    for clients in 1..=most {
        let here: Vec<f64> = clocks(clients).collect();
        let missing: Vec<String> = clocks(1).filter(|f| !here.contains(f)).map(|f| f.to_string()).collect();
        if here.is_empty() || !missing.is_empty() {
            let which = if here.is_empty() { "all".into() } else { missing.join(", ") };
            problems.at(0..0, format_args!("a gap: no row with {clients} clients at {which} MHz"));
        }
    }
}

/// On the line between the neighbours; beyond the ends the end's value.
fn between(rows: &[(f64, f64)], x: f64) -> f64 {
    let i = rows.partition_point(|r| r.0 < x);
    match (i.checked_sub(1).and_then(|j| rows.get(j)), rows.get(i)) {
        (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0),
        (Some(end), None) | (None, Some(end)) => end.1,
        (None, None) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# from nowhere\nmhz,clients,latency_ms,power_mw,throughput_fps\n\
        100,1,80,1000,10\n200,1,41,1500,20\n100,2,120,1100,15\n200,2,62,1700,30\n";

    #[test]
    fn good_table_is_read_and_interpolated() {
        let t = Table::parse("t.csv", GOOD).unwrap();
        assert_eq!((t.span(), t.clients_max()), ((100.0, 200.0), 2));
        assert_eq!(t.power_at(1, 150.0), 1250.0);
        // 2 x 80 / 120 and 2 x 41 / 62
        assert!((t.speed_up(2) - (160.0 / 120.0 + 82.0 / 62.0) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn each_rule_is_told_with_file_and_line() {
        for (from, to, message) in [
            (
                "200,1,41",
                "200,1,90",
                "t.csv:4: 200 MHz, 1 clients: latency_ms (90): is above that at 100 MHz (80)",
            ),
            ("200,1,41", "50,1,41", "t.csv:4: 50 MHz, 1 clients: is not above the row before (100 MHz)"),
            ("200,2,62,1700,30\n", "", "t.csv:1: a gap: no row with 2 clients at 200 MHz"),
            ("100,1,80", "100,1,-80", "t.csv:3: 100 MHz, 1 clients: latency_ms (-80): must be above 0"),
            ("100,1,80", "100,1,eighty", "t.csv:3: row: field 2: invalid float literal"),
            ("100,1,80,1000,10", "100,1,80", "t.csv:3: row:"),
            ("mhz,clients", "mhz,client", "columns: mhz,clients,latency_ms,power_mw,throughput_fps"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            let got = Table::parse("t.csv", &text).unwrap_err().to_string();
            assert!(got.contains(message), "{from} -> {to}: wanted {message:?}, got:\n{got}");
        }
        assert!(Table::parse("t.csv", "").unwrap_err().to_string().contains("no rows"));
    }
}
