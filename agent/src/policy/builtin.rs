//! Policies that need no Wasm. `Hold` serves at start and when a policy failed: it cannot fail itself.

use super::{Allocation, Allocator, App, Limits, Param, PolicyError};
use crate::board::Board;
use crate::snapshot::{Signal, Snapshot};
use crate::units::Nanos;

/// Leaves everything as it is: no OPP, no grant, so no tuner is asked either.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hold;

impl Allocator for Hold {
    fn name(&self) -> &str {
        "hold"
    }

    fn start(
        &mut self,
        _: &Board,
        _: Nanos,
        _: &[Signal],
        _: &[App],
        _: &[Param],
    ) -> Result<(), PolicyError> {
        Ok(())
    }

    fn apps(&mut self, _: &[App]) -> Result<(), PolicyError> {
        Ok(())
    }

    fn limits(&mut self, _: &Limits) -> Result<(), PolicyError> {
        Ok(())
    }

    fn decide(&mut self, _: &Snapshot, _: &mut Allocation) -> Result<(), PolicyError> {
        Ok(())
    }
}
