//! See the README of the workspace.

pub mod kernel;
