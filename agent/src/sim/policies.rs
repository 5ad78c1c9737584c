//! Which policies a run is about: `kernel:NAME`, `ALLOCATOR+TUNER` or `kernel:NAME+TUNER`, with parameters.
//!
//! | text | what serves |
//! |---|---|
//! | `kernel:schedutil?subnet=2` | the kernel's governor, every application at its third sub-network; `2,0`: one each |
//! | `tandem` | `tandem-allocator+tandem-tuner`, linked natively |
//! | `ondemand+fixed?tuner.subnet=1` | native, the tuner with a parameter |
//! | `a.wasm+b.wasm?weight-max=800` | two components |
//! | `kernel:schedutil+dynamic-ofa?tuner.hold=true` | the kernel's governor sets the clocks, the tuner the sub-networks |
//! | `grants+tandem-tuner` | no upper level: every application has all of its home domain |
//! | `kernel:schedutil+tandem-allocator+tandem-tuner` | the same with an upper level: domains, CPUs, weights |

use super::beside::{Grants, clockless_allocator, clockless_tuner};
use super::kernel::Which;
use super::machine::Rule;
use super::native;
use super::scenario::AppPlan;
use crate::policy::slot::PolicySource;
use crate::policy::wasm::{Compiled, WasmAllocator, WasmEngine, WasmLimits, WasmTuner};
use crate::policy::{Allocator, App, Param, PolicyError, Tuner};
use crate::units::Nanos;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Kernel governors by name.
pub const KERNEL: [&str; 7] =
    ["conservative", "ondemand", "performance", "powersave", "schedutil", "simple_ondemand", "userspace"];

/// In the place of an allocator: none, every application has all of its home domain ([`Grants`]).
const NO_UPPER: &str = "grants";

/// One policy of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// As it was written.
    pub text: String,
    /// What it means.
    pub kind: SpecKind,
}

/// What serves.
#[derive(Clone, Debug, PartialEq)]
pub enum SpecKind {
    /// The kernel; sub-network by position or name.
    Kernel {
        /// On CPUs.
        cpus: Which,
        /// On devices.
        devices: Which,
        /// Name or position; `None`: the largest.
        subnet: Option<String>,
    },
    /// A policy set.
    Set(SetSpec),
    /// The kernel sets the clocks, a set the rest.
    Tuned {
        /// On CPUs.
        cpus: Which,
        /// On devices.
        devices: Which,
        /// Its wishes for clocks are dropped.
        set: SetSpec,
    },
}

/// A policy set.
#[derive(Clone, Debug, PartialEq)]
pub struct SetSpec {
    name: String,
    allocator: Part,
    tuner: Part,
    allocator_params: Vec<Param>,
    tuner_params: Vec<Param>,
    /// The kernel has the clocks.
    clockless: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    /// No upper level: [`Grants`].
    Plain,
    Native(String),
    File(PathBuf),
}

impl Spec {
    /// Reads one.
    ///
    /// # Errors
    /// The rule it breaks.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (what, query) = text.split_once('?').unwrap_or((text, ""));
        let params = params(text, query)?;
        let kind = match what.strip_prefix("kernel:") {
            Some(what) => match what.split_once('+') {
                Some((name, set)) => tuned(text, name, set, params)?,
                None => kernel(text, what, params)?,
            },
            None => SpecKind::Set(set(text, what, params)?),
        };
        Ok(Self { text: text.into(), kind })
    }

    /// How the machine is run for it.
    ///
    /// # Errors
    /// An application's network has no such sub-network.
    pub fn rule(&self, apps: &[AppPlan]) -> Result<Rule, String> {
        let (cpus, devices, subnet) = match &self.kind {
            SpecKind::Kernel { cpus, devices, subnet } => (cpus, devices, subnet),
            SpecKind::Tuned { cpus, devices, .. } => {
                return Ok(Rule::Tuned { cpus: *cpus, devices: *devices });
            }
            SpecKind::Set(_) => return Ok(Rule::Agent),
        };
        let Some(named) = subnet else {
            return Ok(Rule::Kernel { cpus: *cpus, devices: *devices, subnets: vec![] });
        };
        let named: Vec<&str> = named.split(',').collect();
        if named.len() > 1 && named.len() != apps.len() {
            let rule = format!("{} sub-networks for {} applications", named.len(), apps.len());
            return Err(format!("{}: subnet: {rule}; name one for all, or one each", self.text));
        }
        // One for all is a position: of an application that has fewer, its last (`SimApp`).
        let find = |app: &AppPlan, s: &str| {
            app.network.subnet(s).ok_or_else(|| {
                let names: Vec<_> = app.network.subnets.iter().map(|s| s.name.as_str()).collect();
                format!("{}: subnet {s:?}: must be one of {}, or its index", self.text, names.join(", "))
            })
        };
        let subnets = apps.iter().zip(named).map(|(app, s)| find(app, s)).collect::<Result<_, _>>()?;
        Ok(Rule::Kernel { cpus: *cpus, devices: *devices, subnets })
    }

    /// The set that serves, if one does.
    pub fn set(&self) -> Option<&SetSpec> {
        match &self.kind {
            SpecKind::Kernel { .. } => None,
            SpecKind::Set(set) | SpecKind::Tuned { set, .. } => Some(set),
        }
    }

    /// Whether a Wasm engine is needed.
    pub fn wasm(&self) -> bool {
        let file = |p: &Part| matches!(p, Part::File(_));
        self.set().is_some_and(|s| file(&s.allocator) || file(&s.tuner))
    }
}

fn params(text: &str, query: &str) -> Result<Vec<Param>, String> {
    let pair = |p: &str| {
        let (k, v) = p.split_once('=').ok_or_else(|| format!("{text}: {p:?}: must be key=value"))?;
        Ok((k.to_owned(), v.to_owned()))
    };
    query.split('&').filter(|p| !p.is_empty()).map(pair).collect()
}

fn kernel(text: &str, name: &str, params: Vec<Param>) -> Result<SpecKind, String> {
    let (mut subnet, mut invariant, mut rate_limit, mut mhz) = (None, true, None, None);
    for (key, value) in params {
        let bad = |rule: &str| format!("{text}: {key} = {value:?}: {rule}");
        match (name, key.as_str()) {
            (_, "subnet") => subnet = Some(value),
            ("schedutil", "invariant") => {
                invariant = value.parse().map_err(|_| bad("must be true or false"))?
            }
            ("schedutil", "rate-limit-us") => {
                let us: u64 = value.parse().map_err(|_| bad("must be a whole number"))?;
                rate_limit = Some(Nanos(us.saturating_mul(1000)));
            }
            ("userspace", "mhz") => {
                let f: f64 = value.parse().map_err(|_| bad("must be a number"))?;
                mhz = Some(f).filter(|f| *f > 0.0);
            }
            _ => {
                return Err(bad(
                    "unknown; known: subnet, invariant and rate-limit-us (schedutil), mhz (userspace)",
                ));
            }
        }
    }
    let polled = Which::SimpleOndemand { poll: Nanos::from_ms(50) };
    let (cpus, devices) = match name {
        "schedutil" => (Which::Schedutil { invariant, rate_limit }, polled),
        "ondemand" => (Which::Ondemand, polled),
        "conservative" => (Which::Conservative, polled),
        "simple_ondemand" => (polled, polled),
        "performance" => (Which::Performance, Which::Performance),
        "powersave" => (Which::Powersave, Which::Powersave),
        "userspace" => {
            let mhz = mhz.ok_or_else(|| format!("{text}: give mhz, e.g. kernel:userspace?mhz=1200"))?;
            (Which::Userspace { mhz }, Which::Userspace { mhz })
        }
        _ => return Err(format!("{text}: no such governor; known: {}", KERNEL.join(", "))),
    };
    Ok(SpecKind::Kernel { cpus, devices, subnet })
}

/// `kernel:NAME+what`: the governor's parameters are its own, `tuner.*` the tuner's, the rest the allocator's.
fn tuned(text: &str, name: &str, what: &str, params: Vec<Param>) -> Result<SpecKind, String> {
    if let Some((_, value)) = params.iter().find(|(k, _)| k == "subnet") {
        return Err(format!("{text}: subnet = {value:?}: the tuner chooses it; tuner.* is the tuner's"));
    }
    let governors = ["invariant", "rate-limit-us", "mhz"];
    let (mine, others) = params.into_iter().partition(|(k, _): &Param| governors.contains(&k.as_str()));
    let SpecKind::Kernel { cpus, devices, .. } = kernel(text, name, mine)? else {
        return Err(format!("{text}: {name:?} is no kernel governor"));
    };
    let set = match what.split_once('+') {
        Some(_) => set(text, what, others)?,
        None => set(text, &format!("{NO_UPPER}+{what}"), others)?,
    };
    Ok(SpecKind::Tuned { cpus, devices, set: SetSpec { clockless: true, ..set } })
}

fn set(text: &str, what: &str, params: Vec<Param>) -> Result<SetSpec, String> {
    let (allocator, tuner) = match what.split_once('+') {
        Some(("tandem", t)) => ("tandem-allocator", t),
        Some((a, t)) => (a, t),
        None if what == "tandem" || what == "tandem-allocator" => ("tandem-allocator", "tandem-tuner"),
        None => (what, "fixed"),
    };
    let part = |name: &str, known: &[&str], level: &str| {
        if name.ends_with(".wasm") {
            let path = PathBuf::from(name);
            return if path.is_file() {
                Ok(Part::File(path))
            } else {
                Err(format!("{text}: {name}: no such file"))
            };
        }
        if known.contains(&name) {
            return Ok(Part::Native(name.to_owned()));
        }
        Err(format!("{text}: {name:?} is no {level}; known: {}, or a .wasm file", known.join(", ")))
    };
    let upper = match allocator {
        NO_UPPER => Part::Plain,
        name => part(name, &native::ALLOCATORS, "allocator")?,
    };
    let (tuner_params, allocator_params): (Vec<Param>, Vec<Param>) =
        params.into_iter().partition(|(k, _)| k.starts_with("tuner."));
    let strip = |(k, v): Param| (k.trim_start_matches("tuner.").to_owned(), v);
    Ok(SetSpec {
        name: text.into(),
        allocator: upper,
        tuner: part(tuner, &native::TUNERS, "tuner")?,
        allocator_params,
        tuner_params: tuner_params.into_iter().map(strip).collect(),
        clockless: false,
    })
}

impl SetSpec {
    /// What the policy slot makes it from; components are compiled here, once. `home`: the domain that
    /// applications are granted unless the parameters name one; every allocator of ours takes it.
    ///
    /// # Errors
    /// A component that cannot serve.
    pub fn load(
        &self,
        engine: Option<&WasmEngine>,
        home: &str,
    ) -> Result<Arc<dyn PolicySource>, PolicyError> {
        let mut params = self.allocator_params.clone();
        if !params.iter().any(|(k, _)| k == "domain" || k == "home") && !self.is_foreign() {
            let key = if self.stem() == "tandem-allocator" { "home" } else { "domain" };
            params.push((key.into(), home.into()));
        }
        let made = |part: &Part| match part {
            Part::Plain => Ok(Made::Plain),
            Part::Native(name) => Ok(Made::Native(name.clone())),
            Part::File(path) => match engine {
                Some(engine) => Compiled::load(engine, path).map(Made::Wasm),
                None => Err(unusable(
                    &path.display().to_string(),
                    "is a component, and there is no engine to run it",
                )),
            },
        };
        Ok(Arc::new(Source {
            name: self.name.clone(),
            allocator: made(&self.allocator)?,
            tuner: made(&self.tuner)?,
            allocator_params: params,
            tuner_params: self.tuner_params.clone(),
            clockless: self.clockless,
        }))
    }

    /// A component that is not one of ours may not know the parameter `domain`.
    fn is_foreign(&self) -> bool {
        !matches!(self.allocator, Part::Plain) && !native::ALLOCATORS.contains(&self.stem().as_str())
    }

    fn stem(&self) -> String {
        match &self.allocator {
            Part::Plain => NO_UPPER.into(),
            Part::Native(name) => name.clone(),
            Part::File(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

enum Made {
    Plain,
    Native(String),
    Wasm(Compiled),
}

struct Source {
    name: String,
    allocator: Made,
    tuner: Made,
    allocator_params: Vec<Param>,
    tuner_params: Vec<Param>,
    clockless: bool,
}

/// A host that stalls must not change a result: no call of ours lasts a second.
fn patient() -> WasmLimits {
    let second = Duration::from_secs(1);
    WasmLimits { call: second, start: second, ..WasmLimits::default() }
}

impl PolicySource for Source {
    fn name(&self) -> &str {
        &self.name
    }

    fn allocator(&self) -> Result<Box<dyn Allocator>, PolicyError> {
        let made: Box<dyn Allocator> = match &self.allocator {
            Made::Plain => Box::new(Grants::default()),
            Made::Native(name) => native::allocator(name).ok_or_else(|| not_linked(name))?,
            Made::Wasm(code) => Box::new(WasmAllocator::new(code, patient())?),
        };
        Ok(if self.clockless { clockless_allocator(made) } else { made })
    }

    fn tuner(&self, _: &App) -> Result<Box<dyn Tuner>, PolicyError> {
        let made: Box<dyn Tuner> = match &self.tuner {
            Made::Plain => return Err(unusable(&self.name, "has no tuner")),
            Made::Native(name) => native::tuner(name).ok_or_else(|| not_linked(name))?,
            Made::Wasm(code) => Box::new(WasmTuner::new(code, patient())?),
        };
        Ok(if self.clockless { clockless_tuner(made) } else { made })
    }

    fn allocator_params(&self) -> &[Param] {
        &self.allocator_params
    }

    fn tuner_params(&self) -> &[Param] {
        &self.tuner_params
    }
}

fn not_linked(name: &str) -> PolicyError {
    unusable(name, "is not linked natively")
}

fn unusable(path: &str, reason: &str) -> PolicyError {
    PolicyError::Unusable { path: path.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_serves() {
        let schedutil =
            Spec::parse("kernel:schedutil?invariant=false&rate-limit-us=10000&subnet=25%").unwrap();
        let which = Which::Schedutil { invariant: false, rate_limit: Some(Nanos::from_ms(10)) };
        let SpecKind::Kernel { cpus, subnet, .. } = &schedutil.kind else { panic!("{schedutil:?}") };
        assert_eq!((cpus, subnet.as_deref()), (&which, Some("25%")));
        let text = include_str!("../../../tests/scenarios/two-streams.toml")
            .replace("us-mobilenet-v1", "mlcad-fmnist");
        let text = text.replace("top1 = 64.0", "top1 = 88.0");
        let apps = super::super::scenario::Scenario::parse("s", "s", &text).unwrap().apps;
        let subnets = |spec: &str| match Spec::parse(spec).unwrap().rule(&apps) {
            Ok(Rule::Kernel { subnets, .. }) => Ok(subnets),
            other => Err(other.unwrap_err()),
        };
        assert_eq!(subnets("kernel:schedutil?subnet=25%"), Ok(vec![0]));
        assert_eq!(subnets("kernel:schedutil?subnet=25%,L3"), Ok(vec![0, 3]));
        assert_eq!(subnets("kernel:schedutil"), Ok(vec![]));
        assert!(
            subnets("kernel:schedutil?subnet=0,1,2")
                .unwrap_err()
                .contains("3 sub-networks for 2 applications")
        );
        assert!(subnets("kernel:schedutil?subnet=0,L9").unwrap_err().contains("must be one of L0, L1"));
        let SpecKind::Set(set) = Spec::parse("tandem?weight-max=800&tuner.dwell-ms=500").unwrap().kind else {
            panic!("a set")
        };
        assert_eq!(set.allocator, Part::Native("tandem-allocator".into()));
        assert_eq!(set.tuner_params, [("dwell-ms".to_owned(), "500".to_owned())]);
        assert!(!Spec::parse("ondemand+fixed").unwrap().wasm());
    }

    #[test]
    fn what_does_not_exist_is_refused_with_what_does() {
        for (text, message) in [
            ("kernel:interactive", "no such governor; known: conservative, ondemand"),
            ("kernel:schedutil?rate-limit-us=x", "rate-limit-us = \"x\": must be a whole number"),
            ("kernel:ondemand?mhz=3", "mhz = \"3\": unknown; known: subnet"),
            ("kernel:userspace", "give mhz"),
            ("tandem+magic", "\"magic\" is no tuner; known: dynamic-ofa, fixed, loudva, lrgd, tandem-tuner"),
            ("none.wasm", "none.wasm: no such file"),
            ("tandem?x", "\"x\": must be key=value"),
        ] {
            let got = Spec::parse(text).unwrap_err();
            assert!(got.contains(message), "{text}: {got}");
        }
    }
}
