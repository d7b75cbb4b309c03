//! Groups: finding a group by its keys, folding a row into it, merging two.

use runtime::abi::{RuntimeFn, layout};
use runtime::column::{Bound, Column, Encoding};
use runtime::scheduler::{MORSEL_ROWS, Ranges};

use super::super::context::Context;
use super::super::row::{Cell, Env, Inputs, RowLower};
use super::{Direct, PipelineLower};
use crate::entity::ColumnId;
use crate::error::{Error, Result};
use crate::graph::{Op, Program, RelOp};
use crate::kernel::{self, Cmp, FunctionRef, LoopKind, Module, Signature, Type as K};
use crate::plan::{FieldKind, Fold, Plan, Source, StateId, StateKind};
use crate::types::ScalarType;

/// The most slots of a table of groups that is indexed by its keys: 32 KB of addresses.
const DIRECT_SLOTS: usize = 4 << 10;

/// Slots that a range's window may have for each of its rows: a hash table takes as much memory.
const WINDOW_SLOTS_A_ROW: i128 = 2;

/// Whether the values of a column of integers are close in each range of its rows, so that a table indexed by them is no larger
/// than one of hashes.
fn is_dense(column: &Column) -> bool {
    let rows = column.len();
    let ranges = Ranges::new(rows);
    !matches!(column.encoding(), Encoding::Dictionary)
        && (0..ranges.len()).all(|i| {
            let range = ranges.get(i);
            let most = WINDOW_SLOTS_A_ROW * range.len() as i128;
            zone_bounds(column, &range).is_some_and(|(low, high)| high - low < most.max(DIRECT_SLOTS as i128))
        })
}

/// Bounds of a column of integers in the zones of these rows.
pub(crate) fn zone_bounds(column: &Column, rows: &std::ops::Range<usize>) -> Option<(i128, i128)> {
    let zones = column.zones().get(rows.start / MORSEL_ROWS..rows.end.div_ceil(MORSEL_ROWS))?;
    let bounds = zones.iter().map(|z| match (&z.min, &z.max) {
        (Some(Bound::Int(min)), Some(Bound::Int(max))) => Some((*min, *max)),
        _ => None,
    });
    bounds.reduce(|a, b| a.zip(b).map(|(a, b)| (a.0.min(b.0), a.1.max(b.1)))).flatten()
}

/// The function that merges records of groups into others: `(ctx, worker, pairs, count) -> status`; a pair is two addresses, of the
/// record that stays first.
pub fn merge(
    p: &Program,
    plan: &Plan,
    state: StateId,
    name: &str,
    inputs: &dyn Inputs,
    context: &mut Context,
    module: &mut Module,
) -> Result<FunctionRef> {
    let StateKind::Group { node, accumulators, .. } = &plan.state(state).kind else {
        return Err(Error::Bug(format!("{state} holds no groups")));
    };
    let layout = &plan.state(state).layout;
    let source =
        p.ty(p.node(*node).operands[0]).as_table().ok_or_else(|| Error::Bug("a group reads a table".into()))?;
    let function = module.declare(name, Signature::pipeline());
    let mut b = module.builder(&function);
    let (ctx, worker, pairs, count) = (b.param(0), b.param(1), b.param(2), b.param(3));
    let pairs = b.bitcast(pairs, K::Ptr);
    let zero = b.iconst(K::I64, 0);
    let pair = b.begin_for(LoopKind::Serial, zero, count, 1, &[]);
    let pair = b.offset(pairs, pair.index, 16, 0);
    let (into, from) = (b.load(K::Ptr, pair, 0), b.load(K::Ptr, pair, 8));
    let mut r = RowLower { p, inputs, b, context, ctx, worker, area: None, rows: 0 };
    for a in accumulators {
        let fields = &layout.fields[a.fields()];
        let load = |b: &mut kernel::Builder, row| -> Vec<kernel::Value> {
            fields.iter().map(|f| b.load(f.register(), row, f.offset as i32)).collect()
        };
        let (x, y) = (load(&mut r.b, into), load(&mut r.b, from));
        let merged = r.fold_merge(&a.fold, source, &x, &y)?;
        for (f, v) in fields.iter().zip(merged) {
            r.b.store(v, into, f.offset as i32);
        }
    }
    r.b.end_for(&[]);
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

    /// The positions of the keys that tell groups apart.
    pub(super) fn identity(&self, state: StateId) -> Result<&'a [usize]> {
        let plan: &'a Plan = self.plan;
        match &plan.state(state).kind {
            StateKind::Group { identity, .. } => Ok(identity),
            _ => Err(Error::Bug(format!("{state} holds no groups"))),
        }
    }

    /// The position of keys in a table that is indexed by them, with the number of its slots: where the keys' bounds are proven
    /// and close enough.
    fn direct_index(
        &mut self,
        state: StateId,
        ids: &[ColumnId],
        keys: &[Cell],
    ) -> Result<Option<(kernel::Value, Direct)>> {
        if let Some((index, slots)) = self.small_index(state, keys)? {
            return Ok(Some((index, Direct::Slots(slots))));
        }
        let (&[id], &[key], Source::Scan { input, columns, .. }) = (ids, keys, &self.pipeline.source) else {
            return Ok(None);
        };
        let Some(c) = columns.iter().find(|c| c.id == id) else { return Ok(None) };
        let column = self.r.inputs.column(*input, c.source)?;
        if column.validity().is_some() || !matches!(self.r.b.ty(key.value), K::I32 | K::I64) || !is_dense(&column) {
            return Ok(None);
        }
        let index = if self.r.b.ty(key.value) == K::I64 { key.value } else { self.r.b.sext(key.value, K::I64) };
        Ok(Some((index, Direct::Window { input: *input, source: c.source })))
    }

    /// As [`Self::direct_index`], where the bounds of all rows are close.
    fn small_index(&mut self, state: StateId, keys: &[Cell]) -> Result<Option<(kernel::Value, usize)>> {
        let s = self.plan.state(state);
        let mut slots = 1;
        let mut index = None;
        for (k, i) in keys.iter().zip(self.identity(state)?) {
            let f = &s.layout.fields[*i];
            let (low, high) = match f.kind {
                FieldKind::Code { input, source } => {
                    let column = self.r.inputs.column(input, source)?;
                    let values = column.dictionary().map_or(0, |d| d.len());
                    (0, values as i128 - 1)
                }
                FieldKind::Value if f.ty.ty == ScalarType::Bool => (0, 1),
                FieldKind::Value => match k.range {
                    Some(range) if f.register() != K::I128 => range,
                    _ => return Ok(None),
                },
            };
            let Some(values) = high.checked_sub(low).filter(|d| (0..DIRECT_SLOTS as i128).contains(d)) else {
                return Ok(None);
            };
            // NULL has a slot behind the values'.
            let values = values as usize + 1;
            let own = values + usize::from(k.valid.is_some());
            slots *= own;
            if slots > DIRECT_SLOTS {
                return Ok(None);
            }
            let wide = match self.r.b.ty(k.value) {
                K::I64 => k.value,
                _ if f.ty.ty == ScalarType::Bool || matches!(f.kind, FieldKind::Code { .. }) => {
                    self.r.b.zext(k.value, K::I64)
                }
                _ => self.r.b.sext(k.value, K::I64),
            };
            let mut position = self.r.b.add_imm(wide, -(low as i64));
            if let Some(valid) = k.valid {
                let null = self.r.b.iconst(K::I64, values as i64);
                position = self.r.b.select(valid, position, null);
            }
            index = Some(match index {
                None => position,
                Some(index) => {
                    let own = self.r.b.iconst(K::I64, own as i64);
                    let scaled = self.r.b.mul(index, own);
                    self.r.b.add(scaled, position)
                }
            });
        }
        Ok(index.map(|index| (index, slots)))
    }

    /// The record at a slot of a table that is indexed by the keys; a fresh one where there was none.
    fn find_direct(&mut self, state: StateId, keys: &[Cell], index: kernel::Value, env: &Env) -> Result<kernel::Value> {
        let table = self.state_pointer(0);
        let direct = self.r.b.load_always(K::Ptr, table, layout::GROUP_TABLE_DIRECT.offset);
        let at = self.r.b.offset(direct, index, 8, 0);
        let row = self.r.b.load(K::Ptr, at, 0);
        let bits = self.r.b.bitcast(row, K::I64);
        let missing = self.r.b.icmp_imm(Cmp::Eq, bits, 0);
        self.r.b.begin_if(missing, &[K::Ptr]);
        let hash = self.r.hash(keys)?;
        let fresh = RuntimeFn::GroupTableInsertDirect;
        let fresh = self.r.b.call_or_fail(fresh, &[self.r.worker, table, index, hash], 0);
        let fresh = fresh.ok_or_else(|| Error::Bug("group_table_insert_direct returns an address".into()))?;
        self.fill_group(state, keys, fresh, hash, env)?;
        self.r.b.begin_else(&[fresh]);
        Ok(self.r.b.end_if(&[row])[0])
    }

    /// Writes hash, keys and the states of no rows into a fresh record. `known` keys are those that tell groups apart; the
    /// others are evaluated here, for the group's first row.
    fn fill_group(
        &mut self,
        state: StateId,
        known: &[Cell],
        row: kernel::Value,
        hash: kernel::Value,
        env: &Env,
    ) -> Result<()> {
        self.r.b.store(hash, row, 0);
        let mut inner = env.clone();
        let identity = self.identity(state)?;
        for i in 0..self.group_keys(state)?.len() {
            let cell = match identity.iter().position(|k| *k == i) {
                Some(at) => known[at],
                None => self.group_key(state, i, &mut inner)?,
            };
            self.r.store_field(&cell, row, &self.plan.state(state).layout.fields[i])?;
        }
        self.init_states(state, row)
    }

    /// A key as it is stored.
    fn group_key(&mut self, state: StateId, i: usize, env: &mut Env) -> Result<Cell> {
        let id = self.group_keys(state)?[i];
        let f = &self.plan.state(state).layout.fields[i];
        Ok(match f.kind {
            FieldKind::Code { .. } => match self.r.code(id, env)? {
                Some((_, _, code, valid)) => Cell { value: code, valid, ty: ScalarType::I32, range: None },
                None => return Err(Error::Bug(format!("{id} is grouped by code but has none"))),
            },
            FieldKind::Value => {
                let cell = self.r.column(id, env)?;
                Cell { value: self.r.to_register(&cell, f.register())?, ..cell }
            }
        })
    }

    /// The record of a row's group.
    pub(super) fn group_row(&mut self, state: StateId, env: &mut Env) -> Result<kernel::Value> {
        if let Some(row) = self.single_group {
            return Ok(row);
        }
        let keys = self.group_keys(state)?;
        let identity = self.identity(state)?;
        let cells: Vec<Cell> = identity.iter().map(|i| self.group_key(state, *i, env)).collect::<Result<_>>()?;
        let keys: Vec<ColumnId> = identity.iter().map(|i| keys[*i]).collect();
        match self.direct_index(state, &keys, &cells)? {
            Some((index, by)) => {
                self.direct = Some(by);
                self.find_direct(state, &cells, index, env)
            }
            None => self.find_group(state, &cells, env),
        }
    }

    pub(super) fn group(&mut self, state: StateId, mut env: Env) -> Result<()> {
        let row = self.group_row(state, &mut env)?;
        let s = self.plan.state(state);
        let StateKind::Group { accumulators, .. } = &s.kind else {
            return Err(Error::Bug(format!("{state} holds no groups")));
        };
        for a in accumulators {
            let fields = &s.layout.fields[a.fields()];
            let mut guard = None;
            if let Some(f) = a.filter {
                let cell = self.r.column(f, &mut env)?;
                guard = Some(self.r.is_true(&cell));
            }
            let whole = matches!(a.fold, Fold::Whole(..));
            // What is not added is not computed either: its argument may raise.
            let branch = guard.filter(|_| whole || matches!(a.fold, Fold::Sum(_)));
            if let Some(guard) = branch {
                self.r.b.begin_if(guard, &[]);
            }
            let mut inner = if branch.is_some() { env.clone() } else { std::mem::take(&mut env) };
            let arg = match a.fold {
                Fold::Rows => None,
                Fold::Known(c) | Fold::Sum(c) | Fold::Whole(_, Some(c)) => Some(self.r.column(c, &mut inner)?),
                Fold::Whole(_, None) => None,
            };
            let known = match (&a.fold, arg.and_then(|c| c.valid)) {
                (Fold::Whole(reducer, _), Some(valid)) if !reducer.sees_null() => Some(valid),
                _ => None,
            };
            if let Some(known) = known {
                self.r.b.begin_if(known, &[]);
            }
            let old: Vec<kernel::Value> =
                fields.iter().map(|f| self.r.b.load(f.register(), row, f.offset as i32)).collect();
            let new = self.r.fold_step(&a.fold, arg.as_ref(), guard.filter(|_| branch.is_none()), &old)?;
            for (f, v) in fields.iter().zip(new) {
                self.r.b.store(v, row, f.offset as i32);
            }
            if known.is_some() {
                self.r.b.end_if(&[]);
            }
            if branch.is_some() {
                self.r.b.end_if(&[]);
            } else {
                env = inner;
            }
        }
        Ok(())
    }

    /// The record of the group with these keys, which tell groups apart; a fresh one gets all keys and initial states.
    pub(super) fn find_group(&mut self, state: StateId, keys: &[Cell], env: &Env) -> Result<kernel::Value> {
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
        for (k, i) in keys.iter().zip(self.identity(state)?) {
            let (value, valid) = self.r.load_field(row, &s.layout.fields[*i], None);
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
        self.fill_group(state, keys, fresh, hash, env)?;
        self.r.b.begin_else(&[fresh]);
        Ok(self.r.b.end_if(&[found])[0])
    }

    pub(super) fn init_states(&mut self, state: StateId, row: kernel::Value) -> Result<()> {
        let s = self.plan.state(state);
        let StateKind::Group { node, accumulators, .. } = &s.kind else {
            return Err(Error::Bug(format!("{state} holds no groups")));
        };
        let n = self.r.p.node(*node);
        let source = self.r.p.ty(n.operands[0]).as_table().ok_or_else(|| Error::Bug("a group reads a table".into()))?;
        for a in accumulators {
            let fields = &s.layout.fields[a.fields()];
            let init = match a.fold {
                Fold::Whole(reducer, arg) => self.r.reduce_init(reducer, arg.and_then(|c| source.get(c)))?,
                Fold::Rows | Fold::Known(_) | Fold::Sum(_) => {
                    fields.iter().map(|f| self.r.zero(f.register())).collect()
                }
            };
            for (f, v) in fields.iter().zip(init) {
                self.r.b.store(v, row, f.offset as i32);
            }
        }
        Ok(())
    }
}
