//! The privileged agent: sense, decide, admit, act, once a tick.
//!
//! The modules stand in the order of the data path: a [`snapshot`] is taken by `sense`, a [`policy`]
//! wishes, the [`envelope`] admits, [`actuate`] carries out. `governor` is the only place that knows the
//! order.
#![deny(unsafe_code)]

pub mod units;

pub mod toml_errors;

pub mod board;

pub mod snapshot;

pub mod policy;

pub mod envelope;

pub mod actuate;
