//! A policy set from two files.

use super::{Compiled, WasmAllocator, WasmEngine, WasmLimits, WasmTuner};
use crate::policy::slot::PolicySource;
use crate::policy::{Allocator, App, Param, PolicyError, Tuner};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Which files make a set, and what they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFiles {
    /// The set's name.
    pub name: String,
    /// A component of the world `allocator`.
    pub allocator: PathBuf,
    /// A component of the world `tuner`, instantiated per application.
    pub tuner: PathBuf,
    /// For the allocator's `start`.
    pub allocator_params: Vec<Param>,
    /// For each tuner's `start`.
    pub tuner_params: Vec<Param>,
}

/// Reads and compiles the files when first needed, on the thread that needs them, and keeps the code.
#[derive(Debug)]
pub struct WasmSource {
    engine: WasmEngine,
    limits: WasmLimits,
    files: PolicyFiles,
    allocator: OnceLock<Compiled>,
    tuner: OnceLock<Compiled>,
}

impl WasmSource {
    /// Touches no file yet.
    pub fn new(engine: &WasmEngine, files: PolicyFiles, limits: WasmLimits) -> Self {
        Self { engine: engine.clone(), limits, files, allocator: OnceLock::new(), tuner: OnceLock::new() }
    }

    fn code<'a>(&self, cell: &'a OnceLock<Compiled>, path: &Path) -> Result<&'a Compiled, PolicyError> {
        if let Some(code) = cell.get() {
            return Ok(code);
        }
        let code = Compiled::load(&self.engine, path)?;
        Ok(cell.get_or_init(|| code))
    }
}

impl PolicySource for WasmSource {
    fn name(&self) -> &str {
        &self.files.name
    }

    fn allocator(&self) -> Result<Box<dyn Allocator>, PolicyError> {
        // Both, so that a set whose tuner is no policy is refused before there is an application.
        self.code(&self.tuner, &self.files.tuner)?.needs(super::PolicyKind::Tuner)?;
        let code = self.code(&self.allocator, &self.files.allocator)?;
        Ok(Box::new(WasmAllocator::new(code, self.limits)?))
    }

    fn tuner(&self, _: &App) -> Result<Box<dyn Tuner>, PolicyError> {
        let code = self.code(&self.tuner, &self.files.tuner)?;
        Ok(Box::new(WasmTuner::new(code, self.limits)?))
    }

    fn allocator_params(&self) -> &[Param] {
        &self.files.allocator_params
    }

    fn tuner_params(&self) -> &[Param] {
        &self.files.tuner_params
    }
}
