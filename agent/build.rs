//! Compiles `bpf/*.bpf.c` and makes the skeletons, in `OUT_DIR`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const SOURCES: [&str; 2] = ["sched", "empty"];
const HEADERS: [&str; 2] = ["core.h", "sched.h"];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let manifest =
        PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let bpf = manifest.parent().ok_or("the agent's folder has a parent")?.join("bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    for header in HEADERS {
        println!("cargo:rerun-if-changed={}", bpf.join(header).display());
    }
    let clang = find_clang()?;
    for name in SOURCES {
        let source = bpf.join(format!("{name}.bpf.c"));
        println!("cargo:rerun-if-changed={}", source.display());
        libbpf_cargo::SkeletonBuilder::new()
            .source(&source)
            .clang(&clang)
            .clang_args(["-Wall", "-Wno-unused-parameter"])
            .build_and_generate(out.join(format!("{name}.skel.rs")))
            .map_err(|e| format!("{}: {e:#}", source.display()))?;
    }
    Ok(())
}

/// `$CLANG`, else the first of the usual names that answers.
fn find_clang() -> Result<PathBuf, String> {
    let answers = |p: &Path| Command::new(p).arg("--version").output().is_ok_and(|o| o.status.success());
    if let Some(named) = std::env::var_os("CLANG").map(PathBuf::from) {
        return if answers(&named) {
            Ok(named)
        } else {
            Err(format!("CLANG={}: cannot be run", named.display()))
        };
    }
    let names = std::iter::once("clang".to_owned()).chain((14..=22).rev().map(|v| format!("clang-{v}")));
    names.map(PathBuf::from).find(|p| answers(p)).ok_or_else(|| {
        "clang is missing: it compiles the BPF programs in bpf/. Debian and Ubuntu: apt-get install clang \
         (14 or newer, or clang-19); Fedora: dnf install clang. Or name it in CLANG=..."
            .to_owned()
    })
}
