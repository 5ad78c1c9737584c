//! Simulated boards: the agent's own loop and policies over a machine made of published measurements.
//!
//! Responsible for what a VM cannot show: GPU domains, hours in seconds, many boards. Everything it
//! tells is modelled; each constant says whether it was measured, derived or assumed.
//!
//! - [`model`]: what a board takes and draws ([`table`], [`fit`], [`constant`], [`network`]);
//! - [`scenario`]: who runs, who wants what, who disturbs;
//! - [`machine`]: what then happens, from event to event, governed by the agent or by the [`kernel`]'s own
//!   governors ([`run_queue`], [`sched`], [`thermal`], [`stream`]);
//! - [`policies`], [`native`], [`beside`]: what governs; [`run`]: one run; [`outcome`]: its figures; [`compare`]: several,
//!   and what hangs on an assumption; [`report`], [`command`]: `tandem sim`;
//! - [`eval`]: `tandem eval`, policies x boards x scenarios against the kernel's governors;
//! - [`bound`]: how little energy a scenario could have cost;
//! - [`residency`]: a governor's clocks under a load, to be held against a kernel's.

pub mod beside;
pub mod bound;
pub mod command;
pub mod compare;
pub mod constant;
pub mod eval;
pub mod fit;
pub mod kernel;
pub mod machine;
pub mod model;
pub mod native;
pub mod network;
pub mod outcome;
pub mod policies;
pub mod report;
pub mod residency;
pub mod run;
pub mod run_queue;
pub mod scenario;
pub mod sched;
pub mod settle;
pub mod stream;
pub mod table;
pub mod thermal;
