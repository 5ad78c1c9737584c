//! The agent's configuration: [`RawConfig`] is what the file says, [`Config`] is what was checked.
//!
//! Unknown keys are refused; all errors of a file are reported at once, each with its line and the rule.
//! Relative paths are relative to the file.

use crate::policy::{Param, Slo};
use crate::toml_errors::{Problems, TomlErrors};
use crate::units::{CentiPercent, Nanos};
use nix::unistd::{Uid, User};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// What the file says; may not be ready for use.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawConfig {
    #[serde(default = "default_period")]
    period_ms: Spanned<f64>,
    #[serde(default = "default_run_dir")]
    run_dir: PathBuf,
    #[serde(default = "default_board")]
    board: String,
    policy: Spanned<String>,
    #[serde(default = "default_deadline")]
    decide_deadline_us: Spanned<u64>,
    #[serde(default = "default_memory")]
    policy_memory_mib: Spanned<u64>,
    #[serde(default = "default_valid")]
    valid_ms: Spanned<u64>,
    #[serde(default)]
    policies: BTreeMap<String, RawPolicy>,
    #[serde(default)]
    app: Vec<Spanned<RawApp>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawPolicy {
    allocator: Spanned<PathBuf>,
    tuner: Spanned<PathBuf>,
    #[serde(default)]
    allocator_params: toml::Table,
    #[serde(default)]
    tuner_params: toml::Table,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawApp {
    name: Spanned<String>,
    #[serde(default = "default_user")]
    user: Spanned<toml::Value>,
    latency_ms: Option<Spanned<f64>>,
    top1: Option<Spanned<f64>>,
    runq_bound_ms: Option<Spanned<f64>>,
}

fn default_period() -> Spanned<f64> {
    Spanned::new(0..0, 10.0)
}
fn default_run_dir() -> PathBuf {
    "/run/tandem".into()
}
fn default_board() -> String {
    "auto".into()
}
fn default_deadline() -> Spanned<u64> {
    Spanned::new(0..0, 2000)
}
fn default_memory() -> Spanned<u64> {
    Spanned::new(0..0, 16)
}
fn default_valid() -> Spanned<u64> {
    Spanned::new(0..0, 1000)
}
fn default_user() -> Spanned<toml::Value> {
    Spanned::new(0..0, toml::Value::String("nobody".into()))
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Length of a tick.
    pub period: Nanos,
    /// Sockets, lock and saved settings live here.
    pub run_dir: PathBuf,
    /// `auto`, a shipped board's name, or a file.
    pub board: String,
    /// The policy set to start with.
    pub policy: String,
    /// Deadline of one `decide`.
    pub decide_deadline: Nanos,
    /// Memory cap of one policy instance, bytes.
    pub policy_memory: usize,
    /// How long a decision binds the runner without being renewed.
    pub valid: Nanos,
    /// Policy sets by name.
    pub policies: BTreeMap<String, PolicyFiles>,
    /// Applications that may register.
    pub apps: Vec<AppConfig>,
}

/// Where a policy set comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFiles {
    /// The allocator component.
    pub allocator: PathBuf,
    /// The tuner component, one instance per application.
    pub tuner: PathBuf,
    /// For the allocator's `start`.
    pub allocator_params: Vec<Param>,
    /// For each tuner's `start`.
    pub tuner_params: Vec<Param>,
}

/// An application that may register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppConfig {
    /// The name it registers under; a final `*` stands for any ending.
    pub name: String,
    /// The user that may.
    pub uid: Uid,
    /// Its target, until `tandem app set` changes it.
    pub target: Slo,
    /// Run-queue delay in one wait that wakes the loop at once.
    pub runq_bound: Option<Nanos>,
}

impl AppConfig {
    /// Whether a runner of that name is this application: the same, or `prefix*`.
    pub fn matches(&self, name: &str) -> bool {
        self.name.strip_suffix('*').map_or(self.name == name, |prefix| name.starts_with(prefix))
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// One error that lists every problem of the file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot read the configuration", path.display()))?;
        Ok(Self::parse(path, &text)?)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(path: &Path, text: &str) -> Result<Self, TomlErrors> {
        let mut problems = Problems::new(path, text);
        let Some(raw) = problems.parse::<RawConfig>() else { return Err(problems.into_error()) };
        let base = path.parent().unwrap_or(Path::new("."));
        let policies: BTreeMap<_, _> =
            raw.policies.iter().map(|(name, p)| (name.clone(), policy_files(p, base, &mut problems))).collect();
        if !policies.contains_key(raw.policy.get_ref()) {
            let known: Vec<_> = policies.keys().map(String::as_str).collect();
            problems.at(
                raw.policy.span(),
                format!("policy {:?} has no [policies.{}] section; sections here: {}", raw.policy.get_ref(), raw.policy.get_ref(), known.join(", ")),
            );
        }
        let apps = raw.app.iter().map(|a| app(a.get_ref(), &mut problems)).collect::<Vec<_>>();
        for (i, a) in raw.app.iter().enumerate() {
            let name = &a.get_ref().name;
            if raw.app[..i].iter().any(|b| b.get_ref().name.get_ref() == name.get_ref()) {
                problems.at(name.span(), format!("application {:?} is there twice; names are unique", name.get_ref()));
            }
        }
        let config = Self {
            path: path.to_path_buf(),
            period: millis(&raw.period_ms, "period-ms", 1.0, 1000.0, &mut problems),
            run_dir: base.join(&raw.run_dir),
            board: if raw.board.contains('/') { base.join(&raw.board).to_string_lossy().into_owned() } else { raw.board.clone() },
            policy: raw.policy.get_ref().clone(),
            decide_deadline: Nanos(1000 * range(&raw.decide_deadline_us, "decide-deadline-us", 100, 1_000_000, &mut problems)),
            policy_memory: usize::try_from(range(&raw.policy_memory_mib, "policy-memory-mib", 1, 1024, &mut problems)).unwrap_or(1024) << 20,
            valid: Nanos::from_ms(range(&raw.valid_ms, "valid-ms", 50, 60_000, &mut problems)),
            policies,
            apps: apps.into_iter().flatten().collect(),
        };
        problems.finish(config)
    }
}

fn policy_files(raw: &RawPolicy, base: &Path, problems: &mut Problems<'_>) -> PolicyFiles {
    for file in [&raw.allocator, &raw.tuner] {
        let path = base.join(file.get_ref());
        if !path.is_file() {
            problems.at(file.span(), format!("{}: no such file; a policy is a .wasm component", path.display()));
        }
    }
    PolicyFiles {
        allocator: base.join(raw.allocator.get_ref()),
        tuner: base.join(raw.tuner.get_ref()),
        allocator_params: params(&raw.allocator_params),
        tuner_params: params(&raw.tuner_params),
    }
}

fn params(table: &toml::Table) -> Vec<Param> {
    let text = |v: &toml::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    table.iter().map(|(k, v)| (k.clone(), text(v))).collect()
}

fn app(raw: &RawApp, problems: &mut Problems<'_>) -> Option<AppConfig> {
    let name = raw.name.get_ref();
    let stem = name.strip_suffix('*').unwrap_or(name);
    if name.is_empty() || name.len() > 32 || !stem.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        problems.at(raw.name.span(), format!("name {name:?}: 1 to 32 letters, digits, '-' or '_'; a final '*' stands for any ending"));
    }
    let uid = match raw.user.get_ref() {
        toml::Value::Integer(uid) => u32::try_from(*uid).ok().map(Uid::from_raw),
        toml::Value::String(user) => User::from_name(user).ok().flatten().map(|u| u.uid),
        _ => None,
    };
    if uid.is_none() {
        problems.at(raw.user.span(), format!("user {}: not a user of this machine nor a uid", raw.user.get_ref()));
    }
    Some(AppConfig {
        name: name.clone(),
        uid: uid?,
        target: Slo {
            latency: raw.latency_ms.as_ref().map(|v| millis(v, "latency-ms", 0.1, 600_000.0, problems)),
            top1: raw.top1.as_ref().map(|v| percent(v, problems)),
        },
        runq_bound: raw.runq_bound_ms.as_ref().map(|v| millis(v, "runq-bound-ms", 0.1, 60_000.0, problems)),
    })
}

fn range(v: &Spanned<u64>, key: &str, lo: u64, hi: u64, problems: &mut Problems<'_>) -> u64 {
    if !(lo..=hi).contains(v.get_ref()) {
        problems.at(v.span(), format!("{key} = {}: between {lo} and {hi}", v.get_ref()));
    }
    (*v.get_ref()).clamp(lo, hi)
}

fn millis(v: &Spanned<f64>, key: &str, lo: f64, hi: f64, problems: &mut Problems<'_>) -> Nanos {
    if let Some(n) = millis_from(*v.get_ref(), lo, hi) {
        return n;
    }
    problems.at(v.span(), format!("{key} = {}: between {lo} and {hi}", v.get_ref()));
    Nanos(0)
}

/// `ms` milliseconds if it lies in `lo..=hi`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
pub fn millis_from(ms: f64, lo: f64, hi: f64) -> Option<Nanos> {
    (ms >= lo && ms <= hi).then(|| Nanos((ms * 1e6).round() as u64))
}

fn percent(v: &Spanned<f64>, problems: &mut Problems<'_>) -> CentiPercent {
    percent_from(*v.get_ref()).unwrap_or_else(|| {
        problems.at(v.span(), format!("top1 = {}: a percentage between 0 and 100", v.get_ref()));
        CentiPercent(0)
    })
}

/// `percent` as hundredths of a point if it is a percentage.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
pub fn percent_from(percent: f64) -> Option<CentiPercent> {
    (0.0..=100.0).contains(&percent).then(|| CentiPercent((percent * 100.0).round() as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("temp dir");
        for f in ["a.wasm", "t.wasm"] {
            std::fs::write(dir.path().join(f), "").expect("write");
        }
        Config::parse(&dir.path().join("tandem.toml"), text)
            .map_err(|e| e.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }
    const GOOD: &str = r#"
policy = "managed"
[policies.managed]
allocator = "a.wasm"
tuner = "t.wasm"
tuner-params = { subnet = "25%", threads = 2 }
[[app]]
name = "camera"
user = 65534
latency-ms = 45.5
top1 = 80.25
"#;

    #[test]
    fn good_file_is_read_with_defaults_and_units() {
        let c = parse(GOOD).expect("good");
        assert_eq!(c.period, Nanos::from_ms(10));
        assert_eq!(c.apps[0].target, Slo { latency: Some(Nanos(45_500_000)), top1: Some(CentiPercent(8025)) });
        assert_eq!(c.policies["managed"].tuner_params[1], ("threads".into(), "2".into()));
    }

    #[test]
    fn all_errors_come_at_once_with_line_and_rule() {
        let e = parse(&GOOD.replace("45.5", "-1").replace("80.25", "101").replace("\"managed\"", "\"other\"").replace("t.wasm", "nope.wasm"))
            .expect_err("four errors");
        for part in [
            "tandem.toml:2: policy \"other\" has no [policies.other] section; sections here: managed",
            "tandem.toml:5: nope.wasm: no such file",
            "tandem.toml:10: latency-ms = -1: between 0.1 and 600000",
            "tandem.toml:11: top1 = 101: a percentage between 0 and 100",
        ] {
            assert!(e.contains(part), "{part:?} is not in:\n{e}");
        }
    }

    #[test]
    fn unknown_key_is_refused_with_its_line() {
        let e = parse(&GOOD.replace("latency-ms", "latencyms")).expect_err("unknown key");
        assert!(e.contains(":10:") && e.contains("latencyms"), "{e}");
    }

    #[test]
    fn broken_toml_is_refused_with_its_line() {
        let e = parse("policy = \"x\nperiod-ms = 1\n").expect_err("broken");
        assert!(e.contains("tandem.toml:1:"), "{e}");
    }

    #[test]
    fn same_name_twice_is_refused() {
        let e = parse(&format!("{GOOD}\n[[app]]\nname = \"camera\"\n")).expect_err("twice");
        assert!(e.contains("\"camera\" is there twice"), "{e}");
    }
}
