//! A policy file: read, checked, compiled; what `tandem policy check` tells of it.

use super::{
    Budget, Guest, HOST, HOSTCALL_BYTES, LineLimit, State, WasmAllocator, WasmEngine, WasmLimits, WasmTuner,
    cpu_time, root,
};
use crate::policy::PolicyError;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentNamedList, InstancePre, Lift, Lower, TypedFunc};
use wasmtime::{Engine, Store};

/// The largest policy file.
pub const FILE_BYTES: u64 = 4 << 20;

/// Which of the two worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// The upper level.
    Allocator,
    /// The lower level.
    Tuner,
}

impl PolicyKind {
    fn exports(self) -> [&'static str; 4] {
        match self {
            Self::Allocator => ["start", "apps", "limits", "decide"],
            Self::Tuner => ["start", "app", "limits", "decide"],
        }
    }
}

impl std::fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Allocator => "allocator",
            Self::Tuner => "tuner",
        })
    }
}

impl std::fmt::Display for PolicyInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} bytes, sha256 {}", self.kind, self.size, self.sha256)
    }
}

/// What `tandem policy check` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyInfo {
    /// Its world.
    pub kind: PolicyKind,
    /// Bytes.
    pub size: usize,
    /// Functions it exports.
    pub exports: Vec<String>,
    /// Of the file, hexadecimal.
    pub sha256: String,
}

/// A policy file, compiled; its instances share the code.
pub struct Compiled {
    engine: WasmEngine,
    name: Arc<str>,
    path: String,
    info: PolicyInfo,
    pre: InstancePre<State>,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("path", &self.path).field("info", &self.info).finish_non_exhaustive()
    }
}

/// Reads at most [`FILE_BYTES`] of a regular file.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let io = |error: std::io::Error| format!("cannot be read: {error}");
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err("is no regular file".into());
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(format!("has {} bytes, {FILE_BYTES} are allowed", meta.len()));
    }
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 0x0d, 0, 1, 0]) => Ok(bytes),
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => Err("is a core module; a policy is a component \
             (wrap it with `wasm-tools component new` or policies/build.sh)"
            .into()),
        _ => Err("is not WebAssembly: a component begins with the bytes 00 61 73 6d 0d 00 01 00".into()),
    }
}

/// Finds the world from imports and exports, or says what is wrong with them.
fn world(engine: &Engine, component: &Component) -> Result<(PolicyKind, Vec<String>), String> {
    let ty = component.component_type();
    for (name, import) in ty.imports(engine) {
        let only_types = match &import.ty {
            ComponentItem::ComponentInstance(i) => {
                i.exports(engine).all(|(_, e)| matches!(e.ty, ComponentItem::Type(_)))
            }
            ComponentItem::Type(_) => true,
            _ => false,
        };
        if name != HOST && !only_types {
            return Err(format!(
                "imports `{name}`; a policy may import only `{HOST}` (no WASI, clock or files)"
            ));
        }
    }
    let exports: Vec<String> = ty
        .exports(engine)
        .filter(|(_, e)| matches!(e.ty, ComponentItem::ComponentFunc(_)))
        .map(|(name, _)| name.to_owned())
        .collect();
    let has = |name: &str| exports.iter().any(|e| e == name);
    let kind = match (has("apps"), has("app")) {
        (true, false) => PolicyKind::Allocator,
        (false, true) => PolicyKind::Tuner,
        _ => {
            return Err(format!(
                "exports {exports:?}: an allocator exports {:?}, a tuner {:?}",
                PolicyKind::Allocator.exports(),
                PolicyKind::Tuner.exports()
            ));
        }
    };
    match kind.exports().into_iter().find(|name| !has(name)) {
        Some(missing) => {
            Err(format!("does not export `{missing}`; the world `{kind}` has {:?}", kind.exports()))
        }
        None => Ok((kind, exports)),
    }
}

impl Compiled {
    /// Reads, checks and compiles a file: tens of milliseconds, so not on the loop's thread. The policy
    /// is named after the file.
    ///
    /// # Errors
    /// [`PolicyError::Unusable`] with the rule that the file breaks.
    pub fn load(engine: &WasmEngine, path: &Path) -> Result<Self, PolicyError> {
        let unusable = |reason| PolicyError::Unusable { path: path.display().to_string(), reason };
        let bytes = read(path).map_err(unusable)?;
        let component = Component::new(&engine.0.engine, &bytes)
            .map_err(|error| unusable(format!("is no valid component: {error:#}")))?;
        let (kind, exports) = world(&engine.0.engine, &component).map_err(unusable)?;
        let pre = engine
            .0
            .linker
            .instantiate_pre(&component)
            .map_err(|error| unusable(format!("imports what is not there: {error:#}")))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            engine: engine.clone(),
            name: name.into(),
            path: path.display().to_string(),
            info: PolicyInfo { kind, size: bytes.len(), exports, sha256 },
            pre,
        })
    }

    /// What it is.
    pub fn info(&self) -> &PolicyInfo {
        &self.info
    }

    pub(super) fn needs(&self, kind: PolicyKind) -> Result<(), PolicyError> {
        match self.info.kind == kind {
            true => Ok(()),
            false => {
                Err(self.unusable(format!("is of the world `{}`, here `{kind}` is needed", self.info.kind)))
            }
        }
    }

    /// A new instance, if it is of that kind.
    pub(super) fn instantiate(&self, kind: PolicyKind, limits: WasmLimits) -> Result<Guest, PolicyError> {
        self.needs(kind)?;
        let state = State {
            name: Arc::clone(&self.name),
            lines: LineLimit::new(Instant::now()),
            budget: Budget { deadline: limits.start, asked: None, late: false },
            memory: 0,
            memory_cap: limits.memory_bytes,
            refused: None,
        };
        let mut store = Store::new(&self.engine.0.engine, state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        store.epoch_deadline_callback(|mut cx| Ok(cx.data_mut().budget.ask(cpu_time())));
        store.set_epoch_deadline(1);
        let instance = self
            .engine
            .armed(|| self.pre.instantiate(&mut store))
            .map_err(|error| self.unusable(format!("cannot be instantiated: {:#}", root(&error))))?;
        Ok(Guest { engine: self.engine.clone(), store, instance, limits })
    }

    fn unusable(&self, reason: String) -> PolicyError {
        PolicyError::Unusable { path: self.path.clone(), reason }
    }

    /// A function of the instance, if it has the type of the contract.
    pub(super) fn export<P, R>(&self, guest: &mut Guest, name: &str) -> Result<TypedFunc<P, R>, PolicyError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        guest.instance.get_typed_func(&mut guest.store, name).map_err(|error| {
            self.unusable(format!("`{name}` has not the type of policies/wit/policy.wit: {error:#}"))
        })
    }
}

/// Whether a file can serve as a policy: reads, compiles and instantiates it, but does not start it.
///
/// # Errors
/// [`PolicyError::Unusable`] with the rule that the file breaks.
pub fn check(engine: &WasmEngine, path: &Path) -> Result<PolicyInfo, PolicyError> {
    let compiled = Compiled::load(engine, path)?;
    match compiled.info.kind {
        PolicyKind::Allocator => drop(WasmAllocator::new(&compiled, WasmLimits::default())?),
        PolicyKind::Tuner => drop(WasmTuner::new(&compiled, WasmLimits::default())?),
    }
    Ok(compiled.info)
}
