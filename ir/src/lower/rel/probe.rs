//! Probes of join tables.

use runtime::abi::layout;

use super::super::context::Slot;
use super::super::row::{Binding, Cell, Env};
use super::PipelineLower;
use crate::entity::ValueId;
use crate::error::{Error, Result};
use crate::graph::Op;
use crate::kernel::{self, Cmp, LoopKind, Type as K};
use crate::plan::{KeyBounds, KeyWord, Plan, ProbeKind, StateId, StateKind};
use crate::scalar::ScalarOp;
use crate::types::ScalarType;

/// What an index says of a word.
struct FoundWord {
    /// 1 where it is there.
    is_there: kernel::Value,
    /// The address of its block.
    block: kernel::Value,
    /// The block's bits up to the word's, which is the topmost.
    bits: kernel::Value,
}

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
        let cells = self.key_cells(state, keys, &mut env)?;
        let table = self.r.slot(Slot::JoinTable(state));
        let rows = self.r.b.load_always(K::Ptr, table, layout::JOIN_TABLE_ROWS.offset);
        let size = i64::from(self.plan.state(state).layout.size);
        if let Some((word, words)) = self.index(state) {
            let found = self.find_word(table, word, words, &cells);
            let existence = matches!(kind, ProbeKind::Semi | ProbeKind::Anti | ProbeKind::Mark(_));
            if existence && residual.is_empty() {
                return self.decide(i, kind, found.is_there, None, env);
            }
            if kind == ProbeKind::Inner {
                self.r.b.begin_if(found.is_there, &[]);
                let (start, end) = self.rows_of_word(table, &found);
                self.each_partner(i, state, rows, (start, end), residual, env)?;
                self.r.b.end_if(&[]);
                return Ok(());
            }
        }
        let (start, count) = self.candidates(state, table, rows, &cells)?;
        match kind {
            ProbeKind::Inner => {
                let end = self.r.b.add(start, count);
                self.each_partner(i, state, rows, (start, end), residual, env)
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
                self.decide(i, kind, found, unknown, env)
            }
            ProbeKind::Single => {
                let (row, present) = self.single(state, rows, start, count, residual, &env)?;
                self.bind_partner(state, row, Some(present), &mut env);
                self.step(i + 1, env)
            }
        }
    }

    /// The next step for each partner of an inner join, among the rows from the first to before the last.
    fn each_partner(
        &mut self,
        i: usize,
        state: StateId,
        rows: kernel::Value,
        (start, end): (kernel::Value, kernel::Value),
        residual: &[ValueId],
        mut env: Env,
    ) -> Result<()> {
        let size = i64::from(self.plan.state(state).layout.size);
        let body = self.r.b.begin_for(LoopKind::Serial, start, end, 1, &[]);
        let row = self.r.b.offset(rows, body.index, size, 0);
        self.bind_partner(state, row, None, &mut env);
        self.filter(residual, env, &mut |s, env| s.step(i + 1, env))?;
        self.r.b.end_for(&[]);
        Ok(())
    }

    /// The next step of a semi, anti or mark probe, once it is known whether there is a partner.
    fn decide(
        &mut self,
        i: usize,
        kind: ProbeKind,
        found: kernel::Value,
        unknown: Option<kernel::Value>,
        mut env: Env,
    ) -> Result<()> {
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

    /// The keys that a state is built or probed with: texts as codes of the stored side's dictionary where it has them so.
    pub(super) fn key_cells(&mut self, state: StateId, keys: &[ValueId], env: &mut Env) -> Result<Vec<Cell>> {
        let plan: &'a Plan = self.plan;
        let codes = match &plan.state(state).kind {
            StateKind::Join { word: Some(word), .. } | StateKind::Set { word } => word.codes.as_slice(),
            _ => &[],
        };
        let mut cells = vec![];
        for (i, v) in keys.iter().enumerate() {
            let column = self.r.p.node_of(*v).map(|n| &n.op);
            cells.push(match (codes.get(i).copied().flatten(), column) {
                (Some(dictionary), Some(Op::Col(id))) => self.r.code_among(*id, dictionary, env)?,
                _ => self.r.value(*v, env)?,
            });
        }
        Ok(cells)
    }

    /// The word of an index's state and the number of its words.
    fn index(&self, state: StateId) -> Option<(&'a KeyWord, u64)> {
        let plan: &'a Plan = self.plan;
        match &plan.state(state).kind {
            StateKind::Join { word: Some(word), .. } | StateKind::Set { word } => word.words.map(|n| (word, n)),
            _ => None,
        }
    }

    /// 1 where all keys are there; none where that is always so.
    pub(super) fn all_valid(&mut self, keys: &[Cell]) -> Option<kernel::Value> {
        keys.iter().filter_map(|k| k.valid).reduce(|a, b| self.r.b.and(a, b))
    }

    /// The word of keys that are within their bounds.
    pub(super) fn key_number(&mut self, word: &KeyWord, keys: &[Cell]) -> kernel::Value {
        let mut number = None;
        for (key, part) in keys.iter().zip(&word.parts) {
            let wide = self.wide_key(key);
            let bounds = part.unwrap_or(KeyBounds { min: 0, size: 0 });
            let distance = self.r.b.add_imm(wide, bounds.min.wrapping_neg());
            number = Some(match number {
                None => distance,
                Some(above) => {
                    let size = self.r.b.iconst(K::I64, bounds.size as i64);
                    let above = self.r.b.mul(above, size);
                    self.r.b.add(above, distance)
                }
            });
        }
        number.unwrap_or_else(|| self.r.b.iconst(K::I64, 0))
    }

    fn wide_key(&mut self, key: &Cell) -> kernel::Value {
        match self.r.b.ty(key.value) {
            K::I64 => key.value,
            _ => self.r.b.sext(key.value, K::I64),
        }
    }

    /// The hash of a word: Fibonacci hashing (Knuth, TAOCP vol. 3, 6.4). Different words have different hashes.
    pub(super) fn word_hash(&mut self, word: kernel::Value) -> kernel::Value {
        let multiplier = self.r.b.iconst(K::I64, runtime::kernels::hash::MULTIPLIER as i64);
        self.r.b.mul(word, multiplier)
    }

    /// 1 where no key is NULL and all are within the bounds of the stored keys; none where that is always so.
    fn may_match(&mut self, word: &KeyWord, keys: &[Cell]) -> Option<kernel::Value> {
        let mut may = self.all_valid(keys);
        for (key, part) in keys.iter().zip(&word.parts) {
            let Some(bounds) = part else { continue };
            let max = i128::from(bounds.min) + i128::from(bounds.size) - 1;
            if key.range.is_some_and(|(low, high)| low >= i128::from(bounds.min) && high <= max) {
                continue;
            }
            let wide = self.wide_key(key);
            let distance = self.r.b.add_imm(wide, bounds.min.wrapping_neg());
            let size = self.r.b.iconst(K::I64, bounds.size as i64);
            let inside = self.r.b.compare(Cmp::ULt, distance, size);
            may = Some(match may {
                Some(may) => self.r.b.and(may, inside),
                None => inside,
            });
        }
        may
    }

    /// Looks a word up in an index, without a branch: what can match nothing is looked up behind the last word.
    fn find_word(&mut self, table: kernel::Value, word: &KeyWord, words: u64, keys: &[Cell]) -> FoundWord {
        let mut number = self.key_number(word, keys);
        if let Some(may) = self.may_match(word, keys) {
            let behind = self.r.b.iconst(K::I64, words.next_multiple_of(64) as i64);
            number = self.r.b.select(may, number, behind);
        }
        let blocks = self.r.b.load_always(K::Ptr, table, layout::JOIN_TABLE_BLOCKS.offset);
        let block = self.r.b.ushr_imm(number, 6);
        let block = self.r.b.offset(blocks, block, i64::from(layout::INDEX_BLOCK_SIZE), 0);
        let bits = self.r.b.load_readonly(K::I64, block, layout::INDEX_BLOCK_BITS.offset);
        // The word's bit comes to stand in the sign, the bits of the words below it after it.
        let amount = self.r.b.not(number);
        let bits = self.r.b.shl(bits, amount);
        let is_there = self.r.b.icmp_imm(Cmp::Lt, bits, 0);
        FoundWord { is_there, block, bits }
    }

    /// The rows of a word that is there, first and behind the last.
    fn rows_of_word(&mut self, table: kernel::Value, found: &FoundWord) -> (kernel::Value, kernel::Value) {
        let before = self.r.b.load_readonly(K::I64, found.block, layout::INDEX_BLOCK_RANK.offset);
        let here = self.r.b.pop_count(found.bits);
        let next = self.r.b.add(before, here);
        let rank = self.r.b.add_imm(next, -1);
        let starts = self.r.b.load_always(K::Ptr, table, layout::JOIN_TABLE_STARTS.offset);
        let bits = self.r.b.bitcast(starts, K::I64);
        let unique = self.r.b.icmp_imm(Cmp::Eq, bits, 0);
        self.r.b.begin_if(unique, &[K::I64, K::I64]);
        self.r.b.begin_else(&[rank, next]);
        let at = self.r.b.offset(starts, rank, 4, 0);
        let start = self.r.b.load_readonly(K::I32, at, 0);
        let end = self.r.b.load_readonly(K::I32, at, 4);
        let (start, end) = (self.r.b.zext(start, K::I64), self.r.b.zext(end, K::I64));
        let out = self.r.b.end_if(&[start, end]);
        (out[0], out[1])
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
        if let Some((word, words)) = self.index(state) {
            let found = self.find_word(table, word, words, keys);
            self.r.b.begin_if(found.is_there, &[K::I64, K::I64]);
            let (start, end) = self.rows_of_word(table, &found);
            let count = self.r.b.sub(end, start);
            self.r.b.begin_else(&[start, count]);
            let zero = self.r.b.iconst(K::I64, 0);
            let out = self.r.b.end_if(&[zero, zero]);
            return Ok((out[0], out[1]));
        }
        let StateKind::Join { null_equal, word } = &s.kind else {
            return Err(Error::Bug(format!("{state} is no join table")));
        };
        if let Some(word) = word {
            let may = self.may_match(word, keys);
            if let Some(may) = may {
                self.r.b.begin_if(may, &[K::I64, K::I64]);
            }
            let number = self.key_number(word, keys);
            let hash = self.word_hash(number);
            let (start, count) = self.walk(table, hash, &mut |_, _| Ok(None))?;
            if may.is_some() {
                self.r.b.begin_else(&[start, count]);
                let zero = self.r.b.iconst(K::I64, 0);
                let out = self.r.b.end_if(&[zero, zero]);
                return Ok((out[0], out[1]));
            }
            return Ok((start, count));
        }
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
        let (start, count) = self.walk(table, hash, &mut |l, start| {
            let row = l.r.b.offset(rows, start, i64::from(s.layout.size), 0);
            let mut same = l.r.b.bool_const(true);
            for ((k, f), null_equal) in canonical.iter().zip(&s.layout.fields).zip(null_equal) {
                let (value, valid) = l.r.load_field(row, f, None);
                let stored = Cell { value, valid, ty: f.ty.ty, range: None };
                let equal = l.r.equal(k, &stored, *null_equal)?;
                same = l.r.b.and(same, equal);
            }
            Ok(Some(same))
        })?;
        if present.is_some() {
            self.r.b.begin_else(&[start, count]);
            let zero = self.r.b.iconst(K::I64, 0);
            let out = self.r.b.end_if(&[zero, zero]);
            return Ok((out[0], out[1]));
        }
        Ok((start, count))
    }

    /// Walks the slots of a hash table. `compare` emits the comparison with the row of that index, or nothing where equal hashes are
    /// equal keys. First row and number of rows, I64.
    fn walk(
        &mut self,
        table: kernel::Value,
        hash: kernel::Value,
        compare: &mut dyn FnMut(&mut Self, kernel::Value) -> Result<Option<kernel::Value>>,
    ) -> Result<(kernel::Value, kernel::Value)> {
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
        let same = compare(self, start)?;
        let no = self.r.b.bool_const(false);
        let yes = self.r.b.bool_const(true);
        self.r.b.begin_else(&[same.unwrap_or(yes)]);
        let same = self.r.b.end_if(&[no])[0];
        let other = self.r.b.bool_not(same);
        let go_on = self.r.b.and(taken, other);
        let next = self.r.b.add_imm(carried[0], 1);
        let next = self.r.b.and(next, mask);
        let count = self.r.b.select(same, count, zero);
        let out = self.r.b.end_while(go_on, &[next, start, count]);
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
