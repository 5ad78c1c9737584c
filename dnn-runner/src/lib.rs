//! `dnn-runner`: the unprivileged process that runs a dynamic DNN on a stream of images, as the tandem
//! agent decides.
//!
//! In the order of the data path: [`stream`] says when frames arrive, [`data`] what they show,
//! [`link`] brings the agent's decisions, [`worker`] takes the latest between two inferences and runs a
//! frame ([`batch`], [`model`], [`engine`], [`kernel`]), [`report`] counts, [`serve`] answers requests; [`profile`] measures what each sub-network costs here.
//! A [`manifest`] describes the network, as one of the [`family`] kinds; [`privilege`] gives up root.
//!
//! Words: a *frame* is a batch of images that arrives as one and is answered as one; an *inference* is
//! a frame or a request under way.
#![deny(unsafe_code)]

pub mod batch;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod data;
pub mod engine;
pub mod family;
#[cfg(test)]
mod fixture;
pub mod follower;
pub mod image;
pub mod kernel;
pub mod link;
pub mod manifest;
pub mod model;
pub mod privilege;
pub mod profile;
pub mod report;
pub mod serve;
pub mod stream;
pub mod worker;
