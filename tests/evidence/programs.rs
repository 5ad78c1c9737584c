//! Figures that other programs of the workspace measure; each prints JSON, read here.

use crate::{Row, row};
use anyhow::Context as _;
use serde_json::Value;
use std::process::Command;
use tandem_tests::{program, repository};

fn json(command: &mut Command) -> anyhow::Result<Value> {
    let out = command.current_dir(repository()).stderr(std::process::Stdio::inherit()).output()?;
    anyhow::ensure!(out.status.success(), "{command:?} ended with {}", out.status);
    let text = String::from_utf8(out.stdout)?;
    // Cargo and harnesses may print before it.
    let start = text.find(['{', '[']).with_context(|| format!("{command:?} printed no JSON: {text}"))?;
    serde_json::from_str(&text[start..]).with_context(|| format!("{command:?}: {text}"))
}
