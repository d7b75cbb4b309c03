//! Probes of join tables.

use runtime::abi::layout;

use super::super::context::Slot;
use super::super::row::{Binding, Cell, Env};
use super::PipelineLower;
use crate::entity::ValueId;
use crate::error::{Error, Result};
use crate::kernel::{self, Cmp, LoopKind, Type as K};
use crate::plan::{ProbeKind, StateId, StateKind};
use crate::scalar::ScalarOp;
use crate::types::ScalarType;

impl<'a> PipelineLower<'a> {
    #[allow(clippy::too_many_arguments, reason = "the fields of a step")]
    pub(super) fn probe(
        &mut self,
        i: usize,
        state: StateId,
        kind: ProbeKind,
        keys: &[ValueId],
        residual: &[ValueId],
        null_aware: bool,
        mut env: Env,
    ) -> Result<()> {
        let cells: Vec<Cell> = keys.iter().map(|v| self.r.value(*v, &mut env)).collect::<Result<_>>()?;
        let table = self.r.slot(Slot::JoinTable(state));
        let rows = self.r.b.load_always(K::Ptr, table, layout::JOIN_TABLE_ROWS.offset);
        let (start, count) = self.candidates(state, table, rows, &cells)?;
        let size = i64::from(self.plan.state(state).layout.size);
        match kind {
            ProbeKind::Inner => {
                let end = self.r.b.add(start, count);
                let body = self.r.b.begin_for(LoopKind::Serial, start, end, 1, &[]);
                let row = self.r.b.offset(rows, body.index, size, 0);
                let mut inner = env;
                self.bind_partner(state, row, None, &mut inner);
                self.filter(residual, inner, &mut |s, env| s.step(i + 1, env))?;
                self.r.b.end_for(&[]);
                Ok(())
            }
            ProbeKind::Left if residual.is_empty() => {
                let one = self.r.b.iconst(K::I64, 1);
                let n = self.r.b.smax(count, one);
                let end = self.r.b.add(start, n);
                let present = self.r.b.icmp_imm(Cmp::Ne, count, 0);
                let body = self.r.b.begin_for(LoopKind::Serial, start, end, 1, &[]);
                let row = self.r.b.offset(rows, body.index, size, 0);
                self.bind_partner(state, row, Some(present), &mut env);
                self.step(i + 1, env)?;
                self.r.b.end_for(&[]);
                Ok(())
            }
            ProbeKind::Left => self.probe_left(i, state, rows, start, count, residual, env),
            ProbeKind::Semi | ProbeKind::Anti | ProbeKind::Mark(_) => {
                let (found, unknown) =
                    self.exists(state, table, rows, start, count, residual, &cells, null_aware, &env)?;
                if let ProbeKind::Mark(id) = kind {
                    let valid = unknown.map(|u| self.r.b.bool_not(u));
                    let cell = Cell { value: found, valid, ty: ScalarType::Bool, range: Some((0, 1)) };
                    env.columns.insert(id, Binding::Cell(cell));
                    return self.step(i + 1, env);
                }
                let keep = if kind == ProbeKind::Semi { found } else { self.r.b.bool_not(found) };
                self.r.b.begin_if(keep, &[]);
                self.step(i + 1, env)?;
                self.r.b.end_if(&[]);
                Ok(())
            }
            ProbeKind::Single => {
                let (row, present) = self.single(state, rows, start, count, residual, &env)?;
                self.bind_partner(state, row, Some(present), &mut env);
                self.step(i + 1, env)
            }
        }
    }

    /// The rows that may be partners: all of equal keys, or all. First row and number of rows, I64.
    fn candidates(
        &mut self,
        state: StateId,
        table: kernel::Value,
        rows: kernel::Value,
        keys: &[Cell],
    ) -> Result<(kernel::Value, kernel::Value)> {
        if keys.is_empty() {
            self.stop_if_asked();
            let zero = self.r.b.iconst(K::I64, 0);
            let len = self.r.b.load_always(K::I64, table, layout::JOIN_TABLE_LEN.offset);
            return Ok((zero, len));
        }
        let plan = self.plan;
        let s = plan.state(state);
        let StateKind::Join { null_equal, .. } = &s.kind else {
            return Err(Error::Bug(format!("{state} is no join table")));
        };
        let mut present = None;
        for (k, null_equal) in keys.iter().zip(null_equal) {
            if let (Some(v), false) = (k.valid, null_equal) {
                present = Some(match present {
                    Some(p) => self.r.b.and(p, v),
                    None => v,
                });
            }
        }
        if let Some(present) = present {
            self.r.b.begin_if(present, &[K::I64, K::I64]);
        }
        let canonical: Vec<Cell> = keys
            .iter()
            .zip(&s.layout.fields)
            .map(|(k, f)| Ok(Cell { value: self.r.to_register(k, f.register())?, ..*k }))
            .collect::<Result<_>>()?;
        let hash = self.r.hash(&canonical)?;
        let entries = self.r.b.load_always(K::Ptr, table, layout::JOIN_TABLE_ENTRIES.offset);
        let shift = self.r.b.load_always(K::I64, table, layout::JOIN_TABLE_SHIFT.offset);
        let mask = self.r.b.load_always(K::I64, table, layout::JOIN_TABLE_MASK.offset);
        let first = self.r.b.ushr(hash, shift);
        let zero = self.r.b.iconst(K::I64, 0);
        let carried = self.r.b.begin_while(&[first, zero, zero]);
        let entry = self.r.b.offset(entries, carried[0], 16, 0);
        let entry_hash = self.r.b.load_readonly(K::I64, entry, layout::JOIN_ENTRY_HASH.offset);
        let start = self.r.b.load_readonly(K::I32, entry, layout::JOIN_ENTRY_START.offset);
        let count = self.r.b.load_readonly(K::I32, entry, layout::JOIN_ENTRY_COUNT.offset);
        let (start, count) = (self.r.b.zext(start, K::I64), self.r.b.zext(count, K::I64));
        let taken = self.r.b.icmp_imm(Cmp::Ne, count, 0);
        let same_hash = self.r.b.icmp(Cmp::Eq, entry_hash, hash);
        let candidate = self.r.b.and(taken, same_hash);
        self.r.b.begin_if(candidate, &[K::I8]);
        let row = self.r.b.offset(rows, start, i64::from(s.layout.size), 0);
        let mut same = self.r.b.bool_const(true);
        for ((k, f), null_equal) in canonical.iter().zip(&s.layout.fields).zip(null_equal) {
            let (value, valid) = self.r.load_field(row, f, None);
            let stored = Cell { value, valid, ty: f.ty.ty, range: None };
            let equal = self.r.equal(k, &stored, *null_equal)?;
            same = self.r.b.and(same, equal);
        }
        self.r.b.begin_else(&[same]);
        let no = self.r.b.bool_const(false);
        let same = self.r.b.end_if(&[no])[0];
        let other = self.r.b.bool_not(same);
        let go_on = self.r.b.and(taken, other);
        let next = self.r.b.add_imm(carried[0], 1);
        let next = self.r.b.and(next, mask);
        let count = self.r.b.select(same, count, zero);
        let out = self.r.b.end_while(go_on, &[next, start, count]);
        if present.is_some() {
            self.r.b.begin_else(&[out[1], out[2]]);
            let out = self.r.b.end_if(&[zero, zero]);
            return Ok((out[0], out[1]));
        }
        Ok((out[1], out[2]))
    }

    /// Leaves the function where the run was cancelled: each row of one side meeting each of the other may take any time.
    fn stop_if_asked(&mut self) {
        let flag = self.r.b.load_always(K::Ptr, self.r.worker, layout::WORKER_INTERRUPT.offset);
        let asked = self.r.b.load(K::I32, flag, 0);
        let asked = self.r.b.icmp_imm(Cmp::Ne, asked, 0);
        self.r.b.trap_if(asked, runtime::trap::TrapCode::Cancelled, 0);
    }

    fn bind_partner(&mut self, state: StateId, row: kernel::Value, present: Option<kernel::Value>, env: &mut Env) {
        for f in &self.plan.state(state).layout.fields {
            if let Some(id) = f.column {
                env.columns.insert(id, Binding::Field { row, field: *f, present });
            }
        }
    }

    /// A left probe with a residual: partners that pass, then once more without a partner if none did.
    #[allow(clippy::too_many_arguments, reason = "what `probe` has found so far")]
    fn probe_left(
        &mut self,
        i: usize,
        state: StateId,
        rows: kernel::Value,
        start: kernel::Value,
        count: kernel::Value,
        residual: &[ValueId],
        env: Env,
    ) -> Result<()> {
        let size = i64::from(self.plan.state(state).layout.size);
        let zero = self.r.b.iconst(K::I64, 0);
        let steps = self.r.b.add_imm(count, 1);
        let none = self.r.b.bool_const(false);
        let body = self.r.b.begin_for(LoopKind::Serial, zero, steps, 1, &[none]);
        let matched = body.carried[0];
        let present = self.r.b.icmp(Cmp::Lt, body.index, count);
        let at = self.r.b.add(start, body.index);
        let row = self.r.b.offset(rows, at, size, 0);
        self.r.b.begin_if(present, &[K::I8]);
        let mut inner = env.clone();
        self.bind_partner(state, row, None, &mut inner);
        let pass = self.all_true(residual, inner)?;
        self.r.b.begin_else(&[pass]);
        let alone = self.r.b.bool_not(matched);
        let go = self.r.b.end_if(&[alone])[0];
        let hit = self.r.b.and(present, go);
        let matched = self.r.b.binary(kernel::BinaryOp::Or, matched, hit);
        self.r.b.begin_if(go, &[]);
        let mut inner = env;
        self.bind_partner(state, row, Some(present), &mut inner);
        self.step(i + 1, inner)?;
        self.r.b.end_if(&[]);
        self.r.b.end_for(&[matched]);
        Ok(())
    }

    /// 1 where all conditions are true.
    fn all_true(&mut self, conditions: &[ValueId], mut env: Env) -> Result<kernel::Value> {
        let mut all = self.r.b.bool_const(true);
        for v in conditions {
            self.r.b.begin_if(all, &[K::I8]);
            let mut inner = env.clone();
            let cell = self.r.value(*v, &mut inner)?;
            let flag = self.r.is_true(&cell);
            self.r.b.begin_else(&[flag]);
            let no = self.r.b.bool_const(false);
            all = self.r.b.end_if(&[no])[0];
            env = Env { columns: env.columns, values: env.values };
        }
        Ok(all)
    }

    /// Whether a partner exists, and, where NULLs matter, whether that is unknown.
    #[allow(clippy::too_many_arguments, reason = "what `probe` has found so far")]
    fn exists(
        &mut self,
        state: StateId,
        table: kernel::Value,
        rows: kernel::Value,
        start: kernel::Value,
        count: kernel::Value,
        residual: &[ValueId],
        keys: &[Cell],
        null_aware: bool,
        env: &Env,
    ) -> Result<(kernel::Value, Option<kernel::Value>)> {
        if residual.is_empty() {
            let found = self.r.b.icmp_imm(Cmp::Ne, count, 0);
            if !null_aware {
                return Ok((found, None));
            }
            // Unknown: a NULL on either side, and no partner.
            let len = self.r.b.load_always(K::I64, table, layout::JOIN_TABLE_LEN.offset);
            let nulls = self.r.b.load_always(K::I64, table, layout::JOIN_TABLE_NULL_ROWS.offset);
            let mut unknown = self.r.b.icmp_imm(Cmp::Ne, nulls, 0);
            if let Some(valid) = keys.first().and_then(|k| k.valid) {
                let null = self.r.b.bool_not(valid);
                let any = self.r.b.icmp_imm(Cmp::Ne, len, 0);
                let null = self.r.b.and(null, any);
                unknown = self.r.b.binary(kernel::BinaryOp::Or, unknown, null);
            }
            let missing = self.r.b.bool_not(found);
            return Ok((found, Some(self.r.b.and(unknown, missing))));
        }
        // Look at the candidates until one passes. A candidate of an empty run is not looked at.
        let size = i64::from(self.plan.state(state).layout.size);
        let no = self.r.b.bool_const(false);
        let zero = self.r.b.iconst(K::I64, 0);
        let any = self.r.b.icmp_imm(Cmp::Ne, count, 0);
        self.r.b.begin_if(any, &[K::I8, K::I8]);
        let carried = self.r.b.begin_while(&[zero, no, no]);
        let at = self.r.b.add(start, carried[0]);
        let row = self.r.b.offset(rows, at, size, 0);
        let mut inner = env.clone();
        self.bind_partner(state, row, None, &mut inner);
        let (found, unknown) = if null_aware {
            // The conjunction in Kleene's logic.
            let mut all: Option<Cell> = None;
            for v in residual {
                let cell = self.r.value(*v, &mut inner)?;
                all = Some(match all {
                    None => cell,
                    Some(a) => {
                        let ty = ScalarType::Bool.nullable(a.valid.is_some() || cell.valid.is_some());
                        self.r.scalar(ScalarOp::And, &[a, cell], ty, None)?
                    }
                });
            }
            let all = all.ok_or_else(|| Error::Bug("a residual has a condition".into()))?;
            let valid = self.r.valid_flag(&all);
            let null = self.r.b.bool_not(valid);
            (self.r.is_true(&all), self.r.b.binary(kernel::BinaryOp::Or, carried[2], null))
        } else {
            (self.all_true(residual, inner)?, no)
        };
        let next = self.r.b.add_imm(carried[0], 1);
        let more = self.r.b.icmp(Cmp::Lt, next, count);
        let missing = self.r.b.bool_not(found);
        let go_on = self.r.b.and(more, missing);
        let out = self.r.b.end_while(go_on, &[next, found, unknown]);
        self.r.b.begin_else(&[out[1], out[2]]);
        let out = self.r.b.end_if(&[no, no]);
        let missing = self.r.b.bool_not(out[0]);
        let unknown = self.r.b.and(out[1], missing);
        Ok((out[0], null_aware.then_some(unknown)))
    }

    /// The only partner and whether there is one; a second raises.
    fn single(
        &mut self,
        state: StateId,
        rows: kernel::Value,
        start: kernel::Value,
        count: kernel::Value,
        residual: &[ValueId],
        env: &Env,
    ) -> Result<(kernel::Value, kernel::Value)> {
        let size = i64::from(self.plan.state(state).layout.size);
        let one = self.r.b.iconst(K::I64, 1);
        let code = runtime::trap::TrapCode::ScalarSubqueryRows;
        if residual.is_empty() {
            let many = self.r.b.icmp(Cmp::Gt, count, one);
            self.r.b.trap_if(many, code, 0);
            let row = self.r.b.offset(rows, start, size, 0);
            return Ok((row, self.r.b.icmp_imm(Cmp::Ne, count, 0)));
        }
        let zero = self.r.b.iconst(K::I64, 0);
        let body = self.r.b.begin_for(LoopKind::Serial, zero, count, 1, &[zero, zero]);
        let at = self.r.b.add(start, body.index);
        let row = self.r.b.offset(rows, at, size, 0);
        let mut inner = env.clone();
        self.bind_partner(state, row, None, &mut inner);
        let pass = self.all_true(residual, inner)?;
        let wide = self.r.b.zext(pass, K::I64);
        let hits = self.r.b.add(body.carried[0], wide);
        let best = self.r.b.select(pass, at, body.carried[1]);
        let out = self.r.b.end_for(&[hits, best]);
        let many = self.r.b.icmp(Cmp::Gt, out[0], one);
        self.r.b.trap_if(many, code, 0);
        let row = self.r.b.offset(rows, out[1], size, 0);
        Ok((row, self.r.b.icmp_imm(Cmp::Ne, out[0], 0)))
    }
}
