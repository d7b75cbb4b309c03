//! Groups: finding a group by its keys, folding a row into it, merging two.

use runtime::abi::{RuntimeFn, layout};

use super::super::context::Context;
use super::super::row::{Cell, Env, Inputs, RowLower};
use super::PipelineLower;
use crate::entity::ColumnId;
use crate::error::{Error, Result};
use crate::graph::{Op, Program, RelOp};
use crate::kernel::{self, Cmp, FunctionRef, Module, Signature, Type as K};
use crate::plan::{Plan, StateId, StateKind};
use crate::types::ScalarType;

/// The function that merges one group's record into another's: `(ctx, worker, into, from) -> status`.
pub fn merge(
    p: &Program,
    plan: &Plan,
    state: StateId,
    name: &str,
    inputs: &dyn Inputs,
    context: &mut Context,
    module: &mut Module,
) -> Result<FunctionRef> {
    let StateKind::Group { node, states } = &plan.state(state).kind else {
        return Err(Error::Bug(format!("{state} holds no groups")));
    };
    let Op::Rel(RelOp::Group { aggregates, .. }) = &p.node(*node).op else {
        return Err(Error::Bug(format!("{node} is no group")));
    };
    let layout = &plan.state(state).layout;
    let source =
        p.ty(p.node(*node).operands[0]).as_table().ok_or_else(|| Error::Bug("a group reads a table".into()))?;
    let function = module.declare(name, Signature::pipeline());
    let mut b = module.builder(&function);
    let (ctx, worker, into, from) = (b.param(0), b.param(1), b.param(2), b.param(3));
    let (into, from) = (b.bitcast(into, K::Ptr), b.bitcast(from, K::Ptr));
    let mut r = RowLower { p, inputs, b, context, ctx, worker, area: None };
    for (a, &(first, n)) in aggregates.iter().zip(states) {
        let arg = a.arg.and_then(|c| source.get(c));
        let fields = &layout.fields[first..first + n];
        let load = |b: &mut kernel::Builder, row| -> Vec<kernel::Value> {
            fields.iter().map(|f| b.load(f.register(), row, f.offset as i32)).collect()
        };
        let (x, y) = (load(&mut r.b, into), load(&mut r.b, from));
        let merged = r.reduce_merge(a.reducer, arg.map(|a| a.ty), &x, &y)?;
        for (f, v) in fields.iter().zip(merged) {
            r.b.store(v, into, f.offset as i32);
        }
    }
    let zero = r.b.iconst(K::I32, 0);
    let body = r.b.finish(Some(zero)).map_err(|e| Error::Bug(e.to_string()))?;
    module.define(&function, body);
    Ok(function)
}

impl<'a> PipelineLower<'a> {
    pub(super) fn group_keys(&self, state: StateId) -> Result<&'a [ColumnId]> {
        let StateKind::Group { node, .. } = &self.plan.state(state).kind else {
            return Err(Error::Bug(format!("{state} holds no groups")));
        };
        let p: &'a Program = self.r.p;
        match &p.node(*node).op {
            Op::Rel(RelOp::Group { keys, .. }) => Ok(keys),
            _ => Err(Error::Bug(format!("{node} is no group"))),
        }
    }

    pub(super) fn group(&mut self, state: StateId, mut env: Env) -> Result<()> {
        let keys = self.group_keys(state)?;
        let s = self.plan.state(state);
        let row = match self.single_group {
            Some(row) => row,
            None => {
                let mut cells = vec![];
                for (id, f) in keys.iter().zip(&s.layout.fields) {
                    let cell = match f.kind {
                        crate::plan::FieldKind::Code { .. } => match self.r.code(*id, &mut env)? {
                            Some((_, _, code, valid)) => Cell { value: code, valid, ty: ScalarType::I32, range: None },
                            None => return Err(Error::Bug(format!("{id} is grouped by code but has none"))),
                        },
                        crate::plan::FieldKind::Value => {
                            let cell = self.r.column(*id, &mut env)?;
                            Cell { value: self.r.to_register(&cell, f.register())?, ..cell }
                        }
                    };
                    cells.push(cell);
                }
                self.find_group(state, &cells)?
            }
        };
        let StateKind::Group { node, states } = &s.kind else {
            return Err(Error::Bug(format!("{state} holds no groups")));
        };
        let n = self.r.p.node(*node);
        let Op::Rel(RelOp::Group { aggregates, .. }) = &n.op else {
            return Err(Error::Bug(format!("{node} is no group")));
        };
        for (a, &(first, count)) in aggregates.iter().zip(states) {
            let fields = &s.layout.fields[first..first + count];
            let mut guard = None;
            if let Some(f) = a.filter {
                let cell = self.r.column(f, &mut env)?;
                guard = Some(self.r.is_true(&cell));
            }
            let arg = a.arg.map(|c| self.r.column(c, &mut env)).transpose()?;
            if let Some(valid) = arg.and_then(|c| c.valid)
                && !a.reducer.sees_null()
            {
                guard = Some(match guard {
                    Some(g) => self.r.b.and(g, valid),
                    None => valid,
                });
            }
            if let Some(guard) = guard {
                self.r.b.begin_if(guard, &[]);
            }
            let old: Vec<kernel::Value> =
                fields.iter().map(|f| self.r.b.load(f.register(), row, f.offset as i32)).collect();
            let new = self.r.reduce_step(a.reducer, arg.as_ref(), &old)?;
            for (f, v) in fields.iter().zip(new) {
                self.r.b.store(v, row, f.offset as i32);
            }
            if guard.is_some() {
                self.r.b.end_if(&[]);
            }
        }
        Ok(())
    }

    /// The record of the group with these keys; a fresh one gets keys and initial states.
    pub(super) fn find_group(&mut self, state: StateId, keys: &[Cell]) -> Result<kernel::Value> {
        let plan = self.plan;
        let s = plan.state(state);
        let table = self.state_pointer(0);
        let hash = self.r.hash(keys)?;
        let entries = self.r.b.load(K::Ptr, table, layout::GROUP_TABLE_ENTRIES.offset);
        let shift = self.r.b.load(K::I64, table, layout::GROUP_TABLE_SHIFT.offset);
        let mask = self.r.b.load(K::I64, table, layout::GROUP_TABLE_MASK.offset);
        let first = self.r.b.ushr(hash, shift);
        let nothing = self.r.zero(K::Ptr);
        let carried = self.r.b.begin_while(&[first, nothing]);
        let entry = self.r.b.offset(entries, carried[0], 16, 0);
        let entry_hash = self.r.b.load(K::I64, entry, layout::GROUP_ENTRY_HASH.offset);
        let row = self.r.b.load(K::Ptr, entry, layout::GROUP_ENTRY_ROW.offset);
        let bits = self.r.b.bitcast(row, K::I64);
        let taken = self.r.b.icmp_imm(Cmp::Ne, bits, 0);
        let same_hash = self.r.b.icmp(Cmp::Eq, entry_hash, hash);
        let candidate = self.r.b.and(taken, same_hash);
        self.r.b.begin_if(candidate, &[K::I8]);
        let mut same = self.r.b.bool_const(true);
        for (k, f) in keys.iter().zip(&s.layout.fields) {
            let (value, valid) = self.r.load_field(row, f, None);
            let stored = Cell { value, valid, ty: k.ty, range: None };
            let equal = self.r.equal(k, &stored, true)?;
            same = self.r.b.and(same, equal);
        }
        self.r.b.begin_else(&[same]);
        let no = self.r.b.bool_const(false);
        let same = self.r.b.end_if(&[no])[0];
        let other = self.r.b.bool_not(same);
        let go_on = self.r.b.and(taken, other);
        let next = self.r.b.add_imm(carried[0], 1);
        let next = self.r.b.and(next, mask);
        let found = self.r.b.select(same, row, nothing);
        let out = self.r.b.end_while(go_on, &[next, found]);
        let found = out[1];
        let bits = self.r.b.bitcast(found, K::I64);
        let missing = self.r.b.icmp_imm(Cmp::Eq, bits, 0);
        self.r.b.begin_if(missing, &[K::Ptr]);
        let fresh = self.r.b.call_or_fail(RuntimeFn::GroupTableInsert, &[self.r.worker, table, hash], 0);
        let fresh = fresh.ok_or_else(|| Error::Bug("group_table_insert returns an address".into()))?;
        self.r.b.store(hash, fresh, 0);
        for (k, f) in keys.iter().zip(&s.layout.fields) {
            self.r.store_field(k, fresh, f)?;
        }
        self.init_states(state, fresh)?;
        self.r.b.begin_else(&[fresh]);
        Ok(self.r.b.end_if(&[found])[0])
    }

    pub(super) fn init_states(&mut self, state: StateId, row: kernel::Value) -> Result<()> {
        let s = self.plan.state(state);
        let StateKind::Group { node, states } = &s.kind else {
            return Err(Error::Bug(format!("{state} holds no groups")));
        };
        let n = self.r.p.node(*node);
        let Op::Rel(RelOp::Group { aggregates, .. }) = &n.op else {
            return Err(Error::Bug(format!("{node} is no group")));
        };
        let source = self.r.p.ty(n.operands[0]).as_table().ok_or_else(|| Error::Bug("a group reads a table".into()))?;
        for (a, &(first, count)) in aggregates.iter().zip(states) {
            let arg = a.arg.and_then(|c| source.get(c));
            let init = self.r.reduce_init(a.reducer, arg)?;
            for (f, v) in s.layout.fields[first..first + count].iter().zip(init) {
                self.r.b.store(v, row, f.offset as i32);
            }
        }
        Ok(())
    }
}
