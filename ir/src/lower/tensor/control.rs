//! Calls, tapes and sums, lowered.
//!
//! A tape and a sum belong to the machine; what stands for one in the program is a number, an `i64[]`. The operation that
//! begins one has a number of its own in its function (a *handle*): it gives the same tape, emptied, each time it runs within
//! one call, so that a loop needs no more tapes with each step. That each is used once keeps this unseen.

use std::collections::{HashMap, HashSet};

use super::Val;
use crate::entity::FuncId;
use crate::graph::{ControlOp, Op, Program};
use crate::types::TensorType;

/// What is done to a tape or a sum.
#[derive(Debug)]
pub(super) enum Effect {
    TapeNew { handle: usize, out: Val },
    Push { tape: Val, tag: u32, values: Vec<Val>, out: Val },
    Pop { tape: Val, tag: u32, out: Val, values: Vec<Val> },
    AccNew { handle: usize, ty: TensorType, out: Val },
    AccAdd { acc: Val, value: Val, out: Val },
    AccRows { acc: Val, indices: Val, updates: Val, out: Val },
    AccRead { acc: Val, out: Val },
}

impl Effect {
    /// `handles` counts those of the function so far.
    pub(super) fn lower(op: &ControlOp, operands: &[Val], results: &[Val], handles: &mut usize) -> Option<Self> {
        let out = *results.first()?;
        let mut handle = || {
            *handles += 1;
            *handles - 1
        };
        Some(match op {
            ControlOp::TapeNew => Self::TapeNew { handle: handle(), out },
            ControlOp::Push { tag } => Self::Push { tape: operands[0], tag: *tag, values: operands[1..].to_vec(), out },
            ControlOp::Pop { tag, .. } => {
                Self::Pop { tape: operands[0], tag: *tag, out, values: results[1..].to_vec() }
            }
            ControlOp::AccNew(ty) => Self::AccNew { handle: handle(), ty: ty.clone(), out },
            ControlOp::AccAdd => Self::AccAdd { acc: operands[0], value: operands[1], out },
            ControlOp::AccRows => Self::AccRows { acc: operands[0], indices: operands[1], updates: operands[2], out },
            ControlOp::AccRead => Self::AccRead { acc: operands[0], out },
            ControlOp::If
            | ControlOp::While
            | ControlOp::For { .. }
            | ControlOp::ForParts { .. }
            | ControlOp::Call(_) => return None,
        })
    }
}

/// The functions that a program calls rather than takes in: those that reach themselves.
#[derive(Default)]
pub(super) struct Functions {
    /// By number.
    pub(super) list: Vec<FuncId>,
    recursive: HashMap<FuncId, bool>,
}

impl Functions {
    /// A function's number.
    pub(super) fn number(&mut self, f: FuncId) -> usize {
        self.list.iter().position(|g| *g == f).unwrap_or_else(|| {
            self.list.push(f);
            self.list.len() - 1
        })
    }

    /// Whether a function reaches itself by calls.
    pub(super) fn is_recursive(&mut self, p: &Program, f: FuncId) -> bool {
        if let Some(known) = self.recursive.get(&f) {
            return *known;
        }
        let (mut seen, mut open) = (HashSet::new(), vec![f]);
        while let Some(g) = open.pop() {
            crate::graph::rewrite::walk(p, p.func(g).body, &mut |_, node| {
                if let Op::Control(ControlOp::Call(h)) = node.op
                    && seen.insert(h)
                {
                    open.push(h);
                }
            });
        }
        let found = seen.contains(&f);
        self.recursive.insert(f, found);
        found
    }
}
