//! The one import: a line in the agent's log. Natively the newest lines are kept for the test to read.
//!
//! Say edges (something began, ended, changed), never every tick: the agent drops what exceeds 10 lines
//! a second.

/// Longest line the contract allows, bytes.
pub const LINE_MAX: usize = 512;

/// For the author.
pub fn debug(text: &str) {
    send(Level::Debug, text);
}
/// For the operator: what changed and why.
pub fn info(text: &str) {
    send(Level::Info, text);
}
/// For the operator: something is wrong.
pub fn warn(text: &str) {
    send(Level::Warn, text);
}

use crate::bindings::allocator::tandem::policy::host::Level;

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LINE_MAX)]
}

#[cfg(target_arch = "wasm32")]
fn send(level: Level, text: &str) {
    crate::bindings::allocator::tandem::policy::host::log(level, cut(text));
}

#[cfg(not(target_arch = "wasm32"))]
fn send(level: Level, text: &str) {
    native::keep(level, cut(text));
}

#[cfg(not(target_arch = "wasm32"))]
pub use native::kept;

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use super::Level;
    use std::cell::RefCell;
    use std::collections::VecDeque;

    /// Lines kept per thread.
    const KEPT: usize = 256;

    thread_local! {
        static LINES: RefCell<VecDeque<String>> = const { RefCell::new(VecDeque::new()) };
    }

    pub(super) fn keep(level: Level, text: &str) {
        let word = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
        };
        LINES.with_borrow_mut(|l| {
            if l.len() == KEPT {
                l.pop_front();
            }
            l.push_back(format!("{word}: {text}"));
        });
    }

    /// Takes the newest lines logged on this thread, oldest first (native builds only).
    pub fn kept() -> Vec<String> {
        LINES.with_borrow_mut(|l| l.drain(..).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_line_is_cut_between_characters() {
        let long = "\u{20ac}".repeat(300); // 3 bytes each: 512 is no boundary
        info(&long);
        let lines = kept();
        assert_eq!(lines[0].len(), "info: ".len() + 510);
    }
}
