//! One binary; a module per theme.

#[macro_use]
mod vm;
