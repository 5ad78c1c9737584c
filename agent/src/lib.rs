//! The privileged agent: sense, decide, admit, act, once a tick.
//!
//! The modules stand in the order of the data path: a [`snapshot`] is taken by [`sense`] and [`runners`], a
//! [`policy`] wishes, the [`envelope`] admits, [`actuate`] carries out as one [`transaction`]. [`governor`]
//! is the only place that knows the order; [`run`] wires it up and leaves the machine as it was found.
#![deny(unsafe_code)]

pub mod units;

pub mod toml_errors;

pub mod config;

pub mod board;

pub mod snapshot;

pub mod sense;

pub mod runners;

pub mod policy;

pub mod profile;

pub mod envelope;

pub mod actuate;

pub mod transaction;

pub mod governor;

pub mod host;

pub mod status;

pub mod control;

pub mod run;

#[cfg(feature = "demo")]
pub mod demo;

#[cfg(feature = "sim")]
pub mod sim;
