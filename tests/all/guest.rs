//! Runs things in the guest (`tests/vm`): a Debian kernel whose cpufreq policies are real and whose host side
//! logs every clock change that arrives. Tests of the VM itself: `vm.rs` of the test binary.
//!
//! Words: a *mark* is a P-state number no OPP has, written by a guest script to divide the log.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The smallest board on which two domains and an unclocked CPU for the agent are seen: 2 x 1 CPU, 1 free.
pub const SMALL_BOARD: [&str; 2] = ["1:400@100,800@250,1600@800", "1:500@150,1000@400,2000@2000"];

/// What the guest is like.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// `NCPUS:MHZ[@MW],...` for each frequency domain.
    pub domains: &'a [&'a str],
    /// CPUs without a clock, numbered after the others.
    pub free: u32,
    /// Kill the guest after this many seconds of the host's time.
    pub seconds: u32,
    /// More options of `tests/vm/boot`.
    pub more: &'a [&'a str],
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { domains: &SMALL_BOARD, free: 1, seconds: 600, more: &[] }
    }
}

/// One byte that the guest wrote to a domain's port.
#[derive(Clone, Debug, PartialEq)]
pub struct PState {
    /// Host time since the guest was started.
    pub at_s: f64,
    /// Position of the domain in [`Options::domains`]; 8: the devfreq device.
    pub domain: u8,
    /// P-state, 0 the fastest; 32 and above: a mark.
    pub index: u8,
    /// Its frequency; `None`: a mark.
    pub mhz: Option<u32>,
    /// The host's books at that moment; `None` of the devfreq device.
    pub sums: Option<Sums>,
}

/// What the host has counted since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// Energy of each domain, mJ, modelled.
    pub mj: Vec<f64>,
    /// Time each CPU was not idle, ms.
    pub busy_ms: Vec<f64>,
    /// Of that, time it was over 5 ms behind its rate, ms.
    pub late_ms: Vec<f64>,
    /// The longest stall of the host since the line before, ms.
    pub stall_ms: f64,
    /// What each domain would have drawn had no CPU idled, mJ.
    pub full_mj: Vec<f64>,
}

/// Whether the host kept up with the guest between two marks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Share of the busy time of the limited CPUs in which the limiter was late.
    pub late: f64,
    /// Longest stall, ms.
    pub stall_ms: f64,
}

impl Quality {
    /// A run with more is void: late for 1 % of the time, or a stall of 20 ms.
    pub fn is_valid(&self) -> bool {
        self.late <= 0.01 && self.stall_ms <= 20.0
    }
}

impl std::fmt::Display for Quality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mark = if self.is_valid() { "valid" } else { "VOID, the host was too busy to keep time" };
        write!(
            f,
            "{mark}: limiter late {:.2} % of the busy time, longest stall {:.1} ms",
            self.late * 100.0,
            self.stall_ms
        )
    }
}

/// What a run in the guest left.
#[derive(Debug)]
pub struct Output {
    /// The command's exit status, or `boot`'s own: 3 something missing, 124 time over, 125 the guest died.
    pub status: i32,
    /// What it wrote, standard output and error, with what the kernel said.
    pub console: String,
    /// What arrived on the host, in order for each domain.
    pub pstates: Vec<PState>,
    /// The folder that was `/mnt` in the guest.
    pub share: PathBuf,
}

/// The folder of the VM's scripts; the same path holds in the guest.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vm")
}

/// What keeps this machine from running the guest, `None` if nothing does. Downloads the kernel the first time.
pub fn missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    MISSING
        .get_or_init(|| {
            let out = match Command::new(scripts().join("boot")).arg("-f").output() {
                Ok(out) => out,
                Err(e) => return Some(format!("tests/vm/boot does not start: {e}")),
            };
            (out.status.code() == Some(3)).then(|| String::from_utf8_lossy(&out.stderr).trim().to_owned())
        })
        .as_deref()
}

/// A clean folder for a run, `/mnt` of the guest; it stays after the test, for people.
pub fn share(name: &str) -> Result<PathBuf> {
    let dir = crate::repository().join("target/vm").join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Runs a shell command in the guest, with `share` as `/mnt` and current folder. One guest runs at a time.
pub fn run(command: &str, share: &Path, options: &Options<'_>) -> Result<Output> {
    let mut boot = Command::new(scripts().join("boot"));
    boot.arg("-s").arg(share).args(["-T", &options.seconds.to_string(), "-u", &options.free.to_string()]);
    for domain in options.domains {
        boot.args(["-c", domain]);
    }
    let out =
        boot.args(options.more).arg("--").arg(command).output().context("tests/vm/boot does not start")?;
    let log = share.join(".vm/pstate.csv");
    let pstates = match std::fs::read_to_string(&log) {
        Ok(text) => parse_pstates(&text).with_context(|| log.display().to_string())?,
        Err(_) => Vec::new(),
    };
    Ok(Output {
        status: out.status.code().unwrap_or(-1),
        console: String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned(),
        pstates,
        share: share.to_owned(),
    })
}

/// Reads the host helper's log: a heading, then `t_s,domain,pstate,mhz,...`; `#` starts a remark.
pub fn parse_pstates(text: &str) -> Result<Vec<PState>> {
    let lines = text.lines().enumerate().skip(1).filter(|(_, l)| !l.starts_with('#'));
    lines
        .map(|(i, line)| {
            let field: Vec<&str> = line.split(',').collect();
            let [at, domain, index, mhz, ref books @ ..] = field[..] else {
                bail!("line {}: {line:?} has fewer than 4 fields", i + 1)
            };
            let parsed = || -> Result<PState> {
                let mhz = if mhz.is_empty() { None } else { Some(mhz.parse()?) };
                let sums = sums(books)?;
                Ok(PState { at_s: at.parse()?, domain: domain.parse()?, index: index.parse()?, mhz, sums })
            };
            parsed().with_context(|| format!("line {}: {line:?}", i + 1))
        })
        .collect()
}

/// `mw_total,temp_c,e_dom,busy_ms,late_ms,stall_ms,full_dom`; nothing of the devfreq device's lines.
fn sums(books: &[&str]) -> Result<Option<Sums>> {
    let [_, _, mj, busy, late, stall, full] = books else { return Ok(None) };
    let list =
        |text: &str| -> Result<Vec<f64>> { Ok(text.split(';').map(str::parse).collect::<Result<_, _>>()?) };
    Ok(Some(Sums {
        mj: list(mj)?,
        busy_ms: list(busy)?,
        late_ms: list(late)?,
        stall_ms: stall.parse()?,
        full_mj: list(full)?,
    }))
}

impl Output {
    /// What the host counted between two marks of domain 0, each time that they came: seconds, books;
    /// `stall_ms` is the longest in between.
    pub fn all_between(&self, from: u8, to: u8) -> Result<Vec<(f64, Sums)>> {
        let mut rest = self.pstates.as_slice();
        let mut found = Vec::new();
        let mark = |rest: &[PState], m| rest.iter().position(|p| p.domain == 0 && p.index == m);
        while let Some(a) = mark(rest, from) {
            let length = mark(&rest[a..], to).with_context(|| format!("no mark {to} in the log"))?;
            found.push(counted(&rest[a..=a + length])?);
            rest = &rest[a + length..];
        }
        Ok(found)
    }

    /// The first of [`Self::all_between`].
    pub fn between(&self, from: u8, to: u8) -> Result<(f64, Sums)> {
        self.all_between(from, to)?.into_iter().next().with_context(|| format!("no mark {from} in the log"))
    }

    /// The quality mark of what ran between two marks of domain 0.
    pub fn quality(&self, from: u8, to: u8) -> Result<Quality> {
        Ok(self.between(from, to)?.1.quality())
    }
}

/// From the first line's books to the last's.
fn counted(lines: &[PState]) -> Result<(f64, Sums)> {
    let [first, .., last] = lines else { bail!("two marks without a line between them") };
    let books = |p: &PState| p.sums.clone().context("a mark without sums");
    let (a, b) = (books(first)?, books(last)?);
    let difference = |x: &[f64], y: &[f64]| -> Vec<f64> { y.iter().zip(x).map(|(y, x)| y - x).collect() };
    let stalls = lines[1..].iter().filter_map(|p| p.sums.as_ref()).map(|s| s.stall_ms);
    let sums = Sums {
        mj: difference(&a.mj, &b.mj),
        busy_ms: difference(&a.busy_ms, &b.busy_ms),
        late_ms: difference(&a.late_ms, &b.late_ms),
        stall_ms: stalls.fold(0.0, f64::max),
        full_mj: difference(&a.full_mj, &b.full_mj),
    };
    Ok((last.at_s - first.at_s, sums))
}

impl Sums {
    /// Whether the host kept up meanwhile.
    pub fn quality(&self) -> Quality {
        let (late, busy): (f64, f64) = (self.late_ms.iter().sum(), self.busy_ms.iter().sum());
        Quality { late: late / busy.max(1.0), stall_ms: self.stall_ms }
    }
}

/// The frequencies (MHz) that one domain was told between two marks.
pub fn between(pstates: &[PState], domain: u8, from: u8, to: u8) -> Result<Vec<u32>> {
    let mut of_domain = pstates.iter().filter(|p| p.domain == domain);
    of_domain
        .by_ref()
        .find(|p| p.index == from)
        .with_context(|| format!("no mark {from} in domain {domain}"))?;
    let rest: Vec<_> = of_domain.collect();
    let end = rest
        .iter()
        .position(|p| p.index == to)
        .with_context(|| format!("no mark {to} in domain {domain}"))?;
    Ok(rest[..end].iter().filter_map(|p| p.mhz).collect())
}

/// The frequencies (MHz) that the kernel's own trace has for one CPU: lines `cpu_frequency: state=KHZ cpu_id=N`.
pub fn traced(trace: &str, cpu: u32) -> Result<Vec<u32>> {
    let mut seen = Vec::new();
    for line in trace.lines() {
        let fields = line.strip_prefix("cpu_frequency: state=").and_then(|l| l.split_once(" cpu_id="));
        let (khz, at) = fields.with_context(|| format!("not a cpu_frequency event: {line:?}"))?;
        let khz: u32 = khz.parse().with_context(|| line.to_owned())?;
        if at.trim().parse::<u32>().with_context(|| line.to_owned())? == cpu {
            seen.push(khz / 1000);
        }
    }
    Ok(seen)
}

/// Whether `part` is in `whole` without a gap. The marks lie outside the traced time, and a governor may move in between.
pub fn is_run_of(part: &[u32], whole: &[u32]) -> bool {
    part.is_empty() || whole.windows(part.len()).any(|w| w == part)
}
