//! What a policy says, limited: a guest must not be able to flood the agent's log.

use super::wire::Level;
use std::time::{Duration, Instant};

/// Lines in any one second.
const LINES: u32 = 10;
/// Bytes kept of a line.
const BYTES: usize = 512;

/// Counts the lines of one policy instance.
#[derive(Debug)]
pub struct LineLimit {
    second: Instant,
    lines: u32,
    /// Lines left out since the last one that was let through.
    left_out: u64,
}

impl LineLimit {
    pub fn new(now: Instant) -> Self {
        Self { second: now, lines: 0, left_out: 0 }
    }

    /// Whether a line may pass now; if so, how many were left out before it.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.lines = 0;
        }
        if self.lines == LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// At most [`BYTES`] of it, cut between characters.
pub fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(BYTES)]
}

pub fn write(policy: &str, level: Level, text: &str, left_out: u64) {
    match level {
        Level::Debug => tracing::debug!(policy, left_out, "{text}"),
        Level::Info => tracing::info!(policy, left_out, "{text}"),
        Level::Warn => tracing::warn!(policy, left_out, "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eleventh_line_of_a_second_is_counted_not_written() {
        let start = Instant::now();
        let mut limit = LineLimit::new(start);
        assert!((0..10).all(|_| limit.admit(start) == Some(0)));
        let soon = start + Duration::from_millis(999);
        assert!((0..7).all(|_| limit.admit(soon).is_none()));
        assert_eq!(limit.admit(start + Duration::from_secs(1)), Some(7));
        assert_eq!(limit.admit(start + Duration::from_secs(1)), Some(0));
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let text = "\u{20ac}".repeat(300);
        assert_eq!(cut(&text), "\u{20ac}".repeat(170));
        assert_eq!(cut("short"), "short");
    }
}
