//! Carrying out an admitted decision: one [`Actuator`] per way of setting something.

use crate::envelope::Admitted;
use crate::policy::App;
use crate::units::{DomainId, OppIndex};

/// Which part of a decision: what rises is written before the runner hears of it, what falls after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Clocks and shares that rise.
    Raise,
    /// Clocks and shares that fall.
    Lower,
}

/// A way of setting something. Saves before its first write; restoring is a list of plain writes that
/// another process can carry out.
pub trait Actuator: Send + std::fmt::Debug {
    /// For people.
    fn name(&self) -> &str;
    /// The OPP it last wrote and read back, if it sets that domain.
    fn opp(&self, _domain: DomainId) -> Option<OppIndex> {
        None
    }
    /// The applications present, in the order of [`Admitted::apps`]; told when one came or left.
    fn present(&mut self, _apps: &[App]) {}
    /// Carries out its part of `order`: skips what is already so, reads back what it wrote, tries all
    /// and returns the last error.
    fn apply(&mut self, order: &Admitted, half: Half) -> Result<(), ActuateError>;
}

/// What could not be set.
#[derive(Debug, thiserror::Error)]
pub enum ActuateError {
    /// A file of the kernel's could not be read or written.
    #[error("{path}: {doing} {value:?}: {error}")]
    Io {
        /// The file.
        path: String,
        /// "write" or "read".
        doing: &'static str,
        /// What was to be written.
        value: String,
        /// The kernel's answer.
        error: std::io::Error,
    },
    /// Written, but something else was read back.
    #[error("{path}: wrote {wrote:?}, read back {read:?}")]
    NotReached {
        /// The file.
        path: String,
        /// Written.
        wrote: String,
        /// Read back.
        read: String,
    },
}
