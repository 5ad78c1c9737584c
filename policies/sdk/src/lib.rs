//! What a policy is written against: the contract's types, a trait per level, and one macro line.
//!
//! An author implements [`Allocator`] or [`Tuner`] and writes [`export_allocator!`] or
//! [`export_tuner!`] with the type's name; built for `wasm32-unknown-unknown` and wrapped by
//! `policies/build.sh`, that is a policy. Built natively the macro is empty, so the same crate is
//! tested with `cargo test` (see [`testing`]) and can be linked into a simulator.
//!
//! The types come from `policies/wit/policy.wit`. Its rules hold here too: integers only; `None` = not
//! measured in what a policy sees, "leave as it is" in what it says; no clock, files or randomness, so
//! that the same calls give the same answers. In Wasm the crate brings the heap as well, for types
//! aligned to 16 bytes at most: what a call allocates and frees costs a few instructions.
//!
//! ```
//! use policy_sdk::{Allocation, Allocator, App, Board, DomainOrder, Grant, Params, Snapshot};
//!
//! /// Everything at its slowest.
//! #[derive(Debug)]
//! struct Slow { targets: Vec<policy_sdk::Slo> }
//!
//! impl Allocator for Slow {
//!     fn start(_: &Board, apps: &[App], _: &mut Params) -> Result<Self, String> {
//!         Ok(Self { targets: apps.iter().map(|a| a.target).collect() })
//!     }
//!     fn apps(&mut self, apps: &[App]) {
//!         self.targets = apps.iter().map(|a| a.target).collect();
//!     }
//!     fn decide(&mut self, seen: &Snapshot) -> Allocation {
//!         Allocation {
//!             domains: vec![DomainOrder { ask: Some(0), cap: None }; seen.domains.len()],
//!             grants: self.targets.iter().map(|t| Some(Grant::whole(0, *t))).collect(),
//!         }
//!     }
//! }
//! policy_sdk::export_allocator!(Slow);
//! ```

#[expect(
    missing_docs,
    clippy::too_many_arguments,
    reason = "generated; the WIT documents what its names do not say"
)]
pub mod bindings;
mod domain;
mod export;
#[cfg(target_arch = "wasm32")]
mod heap;
pub mod log;
mod params;
pub mod predict;
pub mod testing;

pub use bindings::allocator::tandem::policy::types::{
    Allocation, App, AppSample, Binds, Board, Choice, CpuSample, Domain, DomainOrder, DomainSample, Done,
    FreqUnit, Grant, Measured, Objective, Opp, OppRange, OtherSample, Param, Signal, SignalSample, Slo,
    Snapshot, Source, Subnet, View,
};
pub use export::{start_allocator, start_tuner};
pub use params::Params;

/// As the configuration's: accuracy first.
impl Default for Objective {
    fn default() -> Self {
        Self::Accuracy
    }
}

/// The examples of the author's guide, compiled and run by `cargo test`.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/policies.md")]
struct Guide;

/// The upper level: one per policy set. Sees the whole machine, hands out grants.
pub trait Allocator {
    /// Once, first. An error, in words that name the value and the rule, keeps the policy from serving.
    /// A parameter that nobody asks `params` for is refused by the SDK.
    fn start(board: &Board, apps: &[App], params: &mut Params) -> Result<Self, String>
    where
        Self: Sized;
    /// An application came, left or changed its target: the list as it is now.
    fn apps(&mut self, apps: &[App]) {
        let _ = apps;
    }
    /// The envelope moved: allowed OPPs per domain.
    fn limits(&mut self, opps: &[OppRange]) {
        let _ = opps;
    }
    /// Once a tick. Both lists of the answer are complete: one order per domain of the board, one grant
    /// per application last told.
    fn decide(&mut self, seen: &Snapshot) -> Allocation;
}

/// The lower level: one per application. Turns its grant into a sub-network and an OPP.
pub trait Tuner {
    /// Once, first. An error keeps the policy from serving, as in [`Allocator::start`].
    fn start(board: &Board, app: &App, params: &mut Params) -> Result<Self, String>
    where
        Self: Sized;
    /// The application changed its target.
    fn app(&mut self, app: &App) {
        let _ = app;
    }
    /// The envelope moved: allowed OPPs per domain.
    fn limits(&mut self, opps: &[OppRange]) {
        let _ = opps;
    }
    /// Once a tick.
    fn decide(&mut self, seen: &View) -> Choice;
}
