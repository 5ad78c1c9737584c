//! One binary; a module per theme.
