//! Host-side tool of `policies/build.sh`.
//!
//! ```text
//! componentize wrap CORE.wasm OUT.wasm [CORE.wasm OUT.wasm ...]
//! componentize bindings-c WIT-FOLDER WORLD OUT-FOLDER
//! ```
//!
//! `wrap` makes a component of each core module that is newer than its component. `bindings-c` writes
//! the C header, source and component-type object of a world of the contract.

use anyhow::{Context, bail};
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use wit_bindgen_core::Files;
use wit_component::ComponentEncoder;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["wrap", pairs @ ..] if !pairs.is_empty() && pairs.len() % 2 == 0 => {
            pairs.chunks_exact(2).try_for_each(|p| wrap(Path::new(p[0]), Path::new(p[1])))
        }
        ["bindings-c", wit, world, out] => bindings_c(Path::new(wit), world, Path::new(out)),
        _ => {
            eprintln!(
                "usage: componentize wrap CORE OUT [CORE OUT ...] | bindings-c WIT-FOLDER WORLD OUT-FOLDER"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("componentize: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Is `out` at least as new as `core`?
fn fresh(core: &Path, out: &Path) -> bool {
    let time = |p: &Path| fs::metadata(p).and_then(|m| m.modified());
    matches!((time(core), time(out)), (Ok(core), Ok(out)) if out >= core)
}

fn wrap(core: &Path, out: &Path) -> anyhow::Result<()> {
    if fresh(core, out) {
        return Ok(());
    }
    let module = fs::read(core).with_context(|| format!("read {}", core.display()))?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .with_context(|| format!("make a component of {}", core.display()))?;
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    // Renamed into place: an agent that loads policies meanwhile never sees half a file.
    let half = out.with_extension("wasm.part");
    fs::write(&half, &component).with_context(|| format!("write {}", half.display()))?;
    fs::rename(&half, out).with_context(|| format!("rename to {}", out.display()))?;
    println!("{} ({} bytes)", out.display(), component.len());
    Ok(())
}

fn bindings_c(wit: &Path, world: &str, out: &Path) -> anyhow::Result<()> {
    let mut resolve = wit_parser::Resolve::default();
    let (package, _) = resolve.push_path(wit).with_context(|| format!("read {}", wit.display()))?;
    let world = resolve.select_world(&[package], Some(world))?;
    let mut files = Files::default();
    wit_bindgen_c::Opts::default().build().generate(&mut resolve, world, &mut files)?;
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    for (name, content) in files.iter() {
        if name.contains(['/', '\\']) {
            bail!("generator wants to write {name}: file names only");
        }
        let path = out.join(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
