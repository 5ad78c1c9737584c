//! The elastic engine: sub-networks as views of one packed weight set.
//!
//! Responsible for: a sub-network's layers as a [`graph`], the super-network's packed weights
//! ([`store`]), a [`plan`] per sub-network (shapes, places in the arena, batch-norm vectors), and running
//! it ([`exec`]) on a few threads ([`pool`]). All plans are kept, so a switch is another pointer. Not
//! responsible for: which families of networks there are ([`crate::family`]), the arithmetic
//! ([`crate::kernel`]).
//!
//! A second engine, ONNX Runtime ([`onnx`]), stands behind the same traits: [`Engine`], shared by all
//! threads, and a [`Worker`] for each.
//!
//! Words: *slot*, a tensor of the super-network, of which a sub-network uses a prefix; *map*, the
//! activations between two layers; *arena*, the memory all maps of an inference lie in.

pub mod elastic;
pub mod exec;
pub mod export;
pub mod graph;
pub mod memory;
#[cfg(feature = "onnx")]
pub mod onnx;
pub mod plan;
pub mod pool;
pub mod store;

use crate::kernel::Kernel;
use exec::Crew;
use std::fmt::Debug;
use std::ops::ControlFlow;

/// Runs the sub-networks of one network.
pub trait Engine: Debug + Send + Sync {
    /// For people: the form of the arithmetic, if it was asked for `kernel`.
    fn name(&self, kernel: Kernel) -> &'static str;

    /// A thread's own memory, allocated once; `kernel` is for engines that have a choice. Engines of other
    /// people's making may fail to give it.
    fn worker(&self, kernel: Kernel) -> Result<Box<dyn Worker>, String>;

    /// The packed weights and plans, if this is the elastic engine.
    fn elastic(&self) -> Option<&elastic::Elastic> {
        None
    }

    /// Steps after which a run of this sub-network can stop.
    fn layers(&self, subnet: usize) -> usize;

    /// Bytes of weights and plans, as far as the engine knows.
    fn bytes(&self) -> Option<usize>;
}

/// One thread's side of an [`Engine`].
pub trait Worker: Debug + Send {
    /// Runs one image (bytes as the manifest's input says) on sub-network `subnet` with `crew`; asks
    /// `go_on` after each layer. The logits; `Ok(None)` if told to stop.
    fn run(
        &mut self,
        subnet: usize,
        image: &[u8],
        crew: &mut Crew<'_>,
        go_on: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<&[f32]>, String>;
}
