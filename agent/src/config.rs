//! The agent's configuration, read and checked.
//!
//! Unknown keys are refused; all errors of a file are reported at once, each with its line and the rule.
//! Relative paths are relative to the file.

use crate::policy::wasm::PolicyFiles;
use crate::policy::{Objective, Param, Slo};
use crate::profile::Profile;
use crate::toml_errors::{BadToml, Problems, Section, read_text};
use crate::units::{CentiPercent, Milliwatts, Nanos};
use nix::unistd::{Uid, User};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;

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
    /// What its sub-networks take here.
    pub profile: Option<Arc<Profile>>,
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
    /// Every problem of the file.
    pub fn load(path: &Path) -> Result<Self, BadToml> {
        Self::parse(path, &read_text(path)?)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(path: &Path, text: &str) -> Result<Self, BadToml> {
        let file = path.display().to_string();
        let problems = Problems::new(&file, text);
        let base = path.parent().unwrap_or(Path::new("."));
        let mut root = problems.root();
        let period = ranged(&mut root, "period-ms", 10, 1, 1000);
        let deadline = ranged(&mut root, "decide-deadline-us", 2000, 100, 1_000_000);
        let memory = ranged(&mut root, "policy-memory-mib", 16, 1, 1024);
        let valid = ranged(&mut root, "valid-ms", 1000, 50, 60_000);
        let run_dir = root.opt::<PathBuf>("run-dir").map_or("/run/tandem".into(), Spanned::into_inner);
        let board = root.opt::<String>("board").map_or("auto".into(), Spanned::into_inner);
        let policies = policies(&mut root, base);
        let policy = root.need::<String>("policy");
        if let Some(name) = &policy
            && !policies.contains_key(name.get_ref())
        {
            let known: Vec<_> = policies.keys().map(String::as_str).collect();
            let rule =
                format!("has no [policies.{}] section; sections here: {}", name.get_ref(), known.join(", "));
            root.bad(name.span(), "policy", rule);
        }
        let apps = apps(&mut root, base);
        root.close();
        let config = policy.map(|policy| Self {
            path: path.to_path_buf(),
            period: Nanos::from_ms(period),
            run_dir: base.join(run_dir),
            board: if board.contains('/') { base.join(&board).display().to_string() } else { board },
            policy: policy.into_inner(),
            decide_deadline: Nanos(deadline * 1000),
            policy_memory: usize::try_from(memory << 20).unwrap_or(usize::MAX),
            valid: Nanos::from_ms(valid),
            policies,
            apps,
        });
        problems.finish(config)
    }
}

fn ranged(section: &mut Section<'_>, key: &'static str, default: u64, lo: u64, hi: u64) -> u64 {
    let Some(v) = section.opt::<u64>(key) else { return default };
    if !(lo..=hi).contains(v.get_ref()) {
        section.bad(v.span(), key, format!("between {lo} and {hi}"));
    }
    (*v.get_ref()).clamp(lo, hi)
}

fn policies(root: &mut Section<'_>, base: &Path) -> BTreeMap<String, PolicyFiles> {
    let Some(mut sets) = root.section("policies") else { return BTreeMap::new() };
    let mut read = BTreeMap::new();
    for (name, mut set) in sets.rest() {
        set.call(format!("policies.{name}"));
        let component = |key: &'static str, set: &mut Section<'_>| {
            let file = set.need::<PathBuf>(key)?;
            let path = base.join(file.get_ref());
            if !path.is_file() {
                set.bad(
                    file.span(),
                    key,
                    format!("{}: no such file; a policy is a .wasm component", path.display()),
                );
            }
            Some(path)
        };
        let (allocator, tuner) = (component("allocator", &mut set), component("tuner", &mut set));
        let allocator_params = params(&mut set, "allocator-params");
        let tuner_params = params(&mut set, "tuner-params");
        set.close();
        if let (Some(allocator), Some(tuner)) = (allocator, tuner) {
            let files = PolicyFiles { name: name.clone(), allocator, tuner, allocator_params, tuner_params };
            read.insert(name, files);
        }
    }
    read
}

fn params(set: &mut Section<'_>, key: &'static str) -> Vec<Param> {
    let Some(table) = set.opt::<BTreeMap<String, toml::Value>>(key) else { return vec![] };
    let text = |v: &toml::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    table.get_ref().iter().map(|(k, v)| (k.clone(), text(v))).collect()
}

fn apps(root: &mut Section<'_>, base: &Path) -> Vec<AppConfig> {
    let mut read: Vec<AppConfig> = Vec::new();
    for mut section in root.sections("app") {
        let name = section.need::<String>("name");
        if let Some(name) = &name {
            section.call(format!("app {:?}", name.get_ref()));
            let stem = name.get_ref().strip_suffix('*').unwrap_or(name.get_ref());
            let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.get_ref().is_empty() || name.get_ref().len() > 32 || !stem.chars().all(good) {
                section.bad(
                    name.span(),
                    "name",
                    "1 to 32 letters, digits, '-' or '_'; a final '*' stands for any ending",
                );
            }
            if read.iter().any(|a| a.name == *name.get_ref()) {
                section.bad(name.span(), "name", "is there twice; names are unique");
            }
        }
        let user = section.opt::<toml::Value>("user");
        let uid = user
            .as_ref()
            .map_or_else(|| uid_of(&toml::Value::String("nobody".into())), |u| uid_of(u.get_ref()));
        if uid.is_none() {
            let span = user.as_ref().map_or(section.span(), Spanned::span);
            section.bad(span, "user", "neither a user of this machine nor a uid");
        }
        let latency = millis(&mut section, "latency-ms");
        let runq_bound = millis(&mut section, "runq-bound-ms");
        let top1 = section.opt::<f64>("top1").and_then(|v| {
            let top1 = percent_from(*v.get_ref());
            if top1.is_none() {
                section.bad(v.span(), "top1", "a percentage between 0 and 100");
            }
            top1
        });
        let power = power(&mut section);
        let objective = objective(&mut section);
        let profile = section.opt::<PathBuf>("profile").and_then(|file| {
            let read = Profile::load(&base.join(file.get_ref()));
            read.map_err(|e| section.bad(file.span(), "profile", e)).ok().map(Arc::new)
        });
        section.close();
        if let (Some(name), Some(uid)) = (name, uid) {
            let (name, target) =
                (name.into_inner(), Slo { latency, top1, power, objective: objective.unwrap_or_default() });
            read.push(AppConfig { name, uid, target, runq_bound, profile });
        }
    }
    read
}

fn uid_of(user: &toml::Value) -> Option<Uid> {
    match user {
        toml::Value::Integer(uid) => u32::try_from(*uid).ok().map(Uid::from_raw),
        toml::Value::String(name) => User::from_name(name).ok().flatten().map(|u| u.uid),
        _ => None,
    }
}

fn millis(section: &mut Section<'_>, key: &'static str) -> Option<Nanos> {
    let v = section.opt::<f64>(key)?;
    let ms = millis_from(*v.get_ref(), 0.1, 600_000.0);
    if ms.is_none() {
        section.bad(v.span(), key, "between 0.1 and 600000");
    }
    ms
}

/// A power budget, `power-mw`.
pub fn power(section: &mut Section<'_>) -> Option<Milliwatts> {
    let v = section.opt::<u32>("power-mw")?;
    if *v.get_ref() == 0 {
        section.bad(v.span(), "power-mw", "at least 1; leave it out for no budget");
    }
    Some(Milliwatts(*v.get_ref()))
}

/// An `objective`.
pub fn objective(section: &mut Section<'_>) -> Option<Objective> {
    let v = section.opt::<String>("objective")?;
    let found = Objective::named(v.get_ref());
    if found.is_none() {
        section.bad(v.span(), "objective", "one of accuracy, energy, latency");
    }
    found
}

/// `ms` milliseconds if it lies in `lo..=hi`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
pub fn millis_from(ms: f64, lo: f64, hi: f64) -> Option<Nanos> {
    (ms >= lo && ms <= hi).then(|| Nanos((ms * 1e6).round() as u64))
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
objective = "energy"
power-mw = 2500
"#;

    #[test]
    fn good_file_is_read_with_defaults_and_units() {
        let c = parse(GOOD).expect("good");
        assert_eq!(c.period, Nanos::from_ms(10));
        assert_eq!(
            c.apps[0].target,
            Slo {
                latency: Some(Nanos(45_500_000)),
                top1: Some(CentiPercent(8025)),
                power: Some(Milliwatts(2500)),
                objective: Objective::Energy,
            }
        );
        assert_eq!(c.policies["managed"].tuner_params[1], ("threads".into(), "2".into()));
    }

    #[test]
    fn all_errors_come_at_once_with_line_and_rule() {
        let e = parse(
            &GOOD
                .replace("45.5", "-1")
                .replace("80.25", "101")
                .replace("\"energy\"", "\"speed\"")
                .replace("2500", "0")
                .replace("\"managed\"", "\"other\"")
                .replace("t.wasm", "nope.wasm"),
        )
        .expect_err("six errors");
        for part in [
            "tandem.toml:2: policy (\"other\"): has no [policies.other] section; sections here: managed",
            "tandem.toml:5: policies.managed: tuner (\"nope.wasm\"): nope.wasm: no such file",
            "tandem.toml:10: app \"camera\": latency-ms (-1): between 0.1 and 600000",
            "tandem.toml:11: app \"camera\": top1 (101): a percentage between 0 and 100",
            "tandem.toml:12: app \"camera\": objective (\"speed\"): one of accuracy, energy, latency",
            "tandem.toml:13: app \"camera\": power-mw (0): at least 1; leave it out for no budget",
        ] {
            assert!(e.contains(part), "{part:?} is not in:\n{e}");
        }
    }

    #[test]
    fn a_profile_that_cannot_be_read_is_told_with_both_files() {
        let e = parse(&GOOD.replace("top1 = 80.25", "profile = \"gone.toml\"")).expect_err("no such file");
        assert!(
            e.contains("tandem.toml:11: app \"camera\": profile (\"gone.toml\"): gone.toml: No such file"),
            "{e}"
        );
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
        assert!(e.contains("is there twice"), "{e}");
    }
}
