//! Sinks that store rows: row buffers, the rows of a join table, tensors.

use runtime::abi::{RuntimeFn, layout};

use super::super::row::{Cell, Env};
use super::{COLUMN_LOCATION, PipelineLower, element_bytes, tensor_record_size, to_tensor_groups};
use crate::entity::ColumnId;
use crate::error::{Error, Result};
use crate::graph::bridge::TensorColumns;
use crate::kernel::{self, Cmp, Type as K};
use crate::plan::{KeyWord, Layout, Sink, StateId, StateKind};
use crate::scalar::ScalarOp;
use crate::types::ScalarType;

impl<'a> PipelineLower<'a> {
    /// Converts columns to a tensor's elements; a NULL raises.
    pub(super) fn store_elements(&mut self, group: &TensorColumns, at: kernel::Value, env: &mut Env) -> Result<()> {
        let bytes = element_bytes(group.dtype);
        for (j, c) in group.columns.iter().enumerate() {
            let cell = self.r.column(*c, env)?;
            if let Some(valid) = cell.valid {
                let null = self.r.b.bool_not(valid);
                let code = runtime::trap::TrapCode::NullFeature;
                self.r.b.trap_if(null, code, COLUMN_LOCATION | c.0);
            }
            let cell = Cell { valid: None, ..cell };
            let out = if cell.ty == group.dtype {
                cell
            } else {
                self.r.scalar(ScalarOp::Cast(group.dtype), &[cell], group.dtype.nullable(false), None)?
            };
            self.r.b.store(out.value, at, (j as u32 * bytes) as i32);
        }
        Ok(())
    }

    /// Stores columns to the fields of a record from field `first` on.
    pub(super) fn store_columns(
        &mut self,
        layout: &Layout,
        first: usize,
        row: kernel::Value,
        env: &mut Env,
    ) -> Result<()> {
        for f in &layout.fields[first..] {
            if let Some(id) = f.column {
                self.store_column(Some(id), f, row, env)?;
            }
        }
        Ok(())
    }

    /// Stores a column (or NULL) to a field: its code where codes are stored.
    pub(super) fn store_column(
        &mut self,
        id: Option<ColumnId>,
        field: &crate::plan::Field,
        row: kernel::Value,
        env: &mut Env,
    ) -> Result<()> {
        let Some(id) = id else {
            let ty = field.register();
            let value = self.r.zero(ty);
            let no = self.r.b.bool_const(false);
            let cell = Cell { value, valid: Some(no), ty: field.ty.ty, range: None };
            return self.r.store_field(&cell, row, field);
        };
        if let crate::plan::FieldKind::Code { input, source } = field.kind {
            return match self.r.code(id, env)? {
                Some((i, s, code, valid)) if (i, s) == (input, source) => {
                    let cell = Cell { value: code, valid, ty: ScalarType::I32, range: None };
                    self.r.store_field(&cell, row, field)
                }
                _ => Err(Error::Bug(format!("{id} is stored as codes but is none"))),
            };
        }
        let cell = self.r.column(id, env)?;
        self.r.store_field(&cell, row, field)
    }

    pub(super) fn sink_prologue(&mut self) -> Result<()> {
        if let Sink::Group { state } = &self.pipeline.sink
            && self.group_keys(*state)?.is_empty()
        {
            let row = self.find_group(*state, &[], &Env::default())?;
            self.single_group = Some(row);
        }
        Ok(())
    }

    pub(super) fn sink(&mut self, mut env: Env) -> Result<()> {
        let pipeline = self.pipeline;
        match &pipeline.sink {
            Sink::Append { state, columns } => {
                let s = self.plan.state(*state);
                if let StateKind::Tensors { node } = &s.kind {
                    for (g, group) in to_tensor_groups(self.r.p, *node)?.iter().enumerate() {
                        let at = self.append_row(g, tensor_record_size(group))?;
                        self.store_elements(group, at, &mut env)?;
                    }
                    return Ok(());
                }
                let grow = match self.plan.top_rows(*state) {
                    Some(_) => RuntimeFn::TopKGrow,
                    None => RuntimeFn::RowBufferGrow,
                };
                let row = self.append_row_with(grow, 0, s.layout.size)?;
                for (f, c) in s.layout.fields.iter().zip(columns) {
                    self.store_column(*c, f, row, &mut env)?;
                }
                Ok(())
            }
            Sink::Build { state, keys, .. } => {
                let s = self.plan.state(*state);
                if let StateKind::Join { word: Some(word), .. } | StateKind::Set { word } = &s.kind {
                    let cells = self.key_cells(*state, keys, &mut env)?;
                    return self.build_by_word(&s.kind, &s.layout, word, &cells, env);
                }
                let mut cells = vec![];
                for (v, f) in keys.iter().zip(&s.layout.fields) {
                    let cell = self.r.value(*v, &mut env)?;
                    cells.push(Cell { value: self.r.to_register(&cell, f.register())?, ..cell });
                }
                let hash = self.r.hash(&cells)?;
                let row = self.append_row(0, s.layout.size)?;
                self.r.b.store(hash, row, 0);
                for (cell, f) in cells.iter().zip(&s.layout.fields) {
                    self.r.store_field(cell, row, f)?;
                }
                self.store_columns(&s.layout, keys.len(), row, &mut env)
            }
            Sink::Group { state } => self.group(*state, env),
        }
    }

    /// Appends a row to a state that is filled on the way to the sink.
    pub(super) fn append_beside(&mut self, state: StateId, columns: &[ColumnId], mut env: Env) -> Result<()> {
        let found = self.beside.iter().find(|b| b.1 == state);
        let (index, _) = found.ok_or_else(|| Error::Bug(format!("{state} has no buffer")))?;
        let layout = &self.plan.state(state).layout;
        let row = self.append_row(*index, layout.size)?;
        for (field, column) in layout.fields.iter().zip(columns) {
            self.store_column(Some(*column), field, row, &mut env)?;
        }
        Ok(())
    }

    /// Stores a row by its word; one with a NULL key matches nothing and is left out.
    fn build_by_word(
        &mut self,
        kind: &StateKind,
        layout: &Layout,
        word: &KeyWord,
        cells: &[Cell],
        mut env: Env,
    ) -> Result<()> {
        let present = self.all_valid(cells);
        if let Some(present) = present {
            self.r.b.begin_if(present, &[]);
        }
        let number = self.key_number(word, cells);
        if let StateKind::Set { .. } = kind {
            // The bounds of the key say that this cannot be; memory does not depend on it.
            let words = self.r.b.iconst(K::I64, word.words.unwrap_or(0) as i64);
            let outside = self.r.b.compare(Cmp::UGe, number, words);
            self.r.b.trap_if(outside, runtime::trap::TrapCode::Internal, 0);
            let bytes = self.state_pointer(0);
            let at = self.r.b.offset(bytes, number, 1, 0);
            let yes = self.r.b.bool_const(true);
            self.r.b.store(yes, at, 0);
        } else {
            let first = if word.words.is_some() { number } else { self.word_hash(number) };
            let row = self.append_row(0, layout.size)?;
            self.r.b.store(first, row, 0);
            self.store_columns(layout, 0, row, &mut env)?;
        }
        if present.is_some() {
            self.r.b.end_if(&[]);
        }
        Ok(())
    }

    /// The address of a fresh record in the range's row buffer.
    pub(super) fn append_row(&mut self, index: usize, size: u32) -> Result<kernel::Value> {
        self.append_row_with(RuntimeFn::RowBufferGrow, index, size)
    }

    fn append_row_with(&mut self, grow: RuntimeFn, index: usize, size: u32) -> Result<kernel::Value> {
        let buffer = self.state_pointer(index);
        let at = self.r.b.load(K::Ptr, buffer, layout::ROW_BUFFER_CUR.offset);
        let end = self.r.b.load(K::Ptr, buffer, layout::ROW_BUFFER_END.offset);
        let next = self.r.b.displace(at, i64::from(size));
        let full = self.r.b.compare(Cmp::UGt, next, end);
        self.r.b.begin_if(full, &[K::Ptr]);
        let fresh = self.r.b.call_or_fail(grow, &[self.r.worker, buffer], 0);
        let fresh = fresh.ok_or_else(|| Error::Bug(format!("{} returns an address", grow.name())))?;
        self.r.b.begin_else(&[fresh]);
        let row = self.r.b.end_if(&[at])[0];
        let next = self.r.b.displace(row, i64::from(size));
        self.r.b.store(next, buffer, layout::ROW_BUFFER_CUR.offset);
        Ok(row)
    }
}
