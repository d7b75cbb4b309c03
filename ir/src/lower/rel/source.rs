//! Sources: what binds the columns of a row before the first step.

use super::super::context::Slot;
use super::super::row::{Binding, Env};
use super::{PipelineLower, element_bytes};
use crate::entity::{ColumnId, ValueId};
use crate::error::{Error, Result};
use crate::graph::{BridgeOp, Op, RelOp};
use crate::kernel::{self, Type as K};
use crate::plan::{Source, StateId, StateKind};
use crate::types::ScalarType;

impl<'a> PipelineLower<'a> {
    /// Columns of row `index` of the source.
    pub(super) fn source(&mut self, index: kernel::Value) -> Result<Env> {
        let mut env = Env::default();
        match &self.pipeline.source {
            Source::Scan { input, columns, beside } => {
                if let Some(state) = beside {
                    let row = self.row_of(*state, index);
                    self.bind_row(*state, row, &mut env)?;
                }
                // A column that both have is nearer, and narrower, in the input.
                for c in columns {
                    env.columns.insert(c.id, Binding::Scan { input: *input, source: c.source, index });
                }
            }
            Source::State(state) => {
                let row = self.row_of(*state, index);
                self.bind_row(*state, row, &mut env)?;
            }
            Source::Tensors(node) => {
                let n = self.r.p.node(*node);
                let Op::Bridge(BridgeOp::ToTable { columns }) = &n.op else {
                    return Err(Error::Bug(format!("{node} is no to_table")));
                };
                let mut ids = columns.iter();
                for (i, v) in n.operands.iter().enumerate() {
                    let t = self.r.p.ty(*v).as_tensor().ok_or_else(|| Error::Bug("to_table reads tensors".into()))?;
                    let base = self.r.slot(Slot::TensorData(*node, i as u32));
                    let width = t.shape.get(1).and_then(|d| d.as_const()).unwrap_or(1);
                    self.bind_elements(base, index, t.dtype, width, &mut ids, &mut env);
                }
            }
        }
        Ok(env)
    }

    /// The address of row `index` of a state.
    fn row_of(&mut self, state: StateId, index: kernel::Value) -> kernel::Value {
        let rows = self.r.slot(Slot::Rows(state));
        let at = self.r.b.offset(rows, index, 8, 0);
        self.r.b.load_readonly(K::Ptr, at, 0)
    }

    /// Binds `width` columns to the elements of a row-major tensor's row.
    pub(super) fn bind_elements<'c>(
        &mut self,
        base: kernel::Value,
        index: kernel::Value,
        dtype: ScalarType,
        width: usize,
        ids: &mut impl Iterator<Item = &'c ColumnId>,
        env: &mut Env,
    ) {
        let bytes = element_bytes(dtype);
        let row = self.r.b.offset(base, index, i64::from(bytes) * width as i64, 0);
        for (j, id) in ids.by_ref().take(width).enumerate() {
            let field = crate::plan::Field {
                offset: j as u32 * bytes,
                ..crate::plan::Field::new(Some(*id), crate::plan::FieldKind::Value, dtype.nullable(false))
            };
            env.columns.insert(*id, Binding::Field { row, field, present: None });
        }
    }

    /// Binds the columns of a state's record.
    pub(super) fn bind_row(&mut self, state: StateId, row: kernel::Value, env: &mut Env) -> Result<()> {
        let plan = self.plan;
        let s = plan.state(state);
        for f in &s.layout.fields {
            if let Some(id) = f.column {
                env.columns.insert(id, Binding::Field { row, field: *f, present: None });
            }
        }
        if let StateKind::Group { node, states, .. } = &s.kind {
            let n = self.r.p.node(*node);
            let Op::Rel(RelOp::Group { aggregates, .. }) = &n.op else {
                return Err(Error::Bug(format!("{node} is no group")));
            };
            let table =
                |v: ValueId| self.r.p.ty(v).as_table().ok_or_else(|| Error::Bug("a group reads a table".into()));
            let (source, result) = (table(n.operands[0])?, table(n.results[0])?);
            for (a, state) in aggregates.iter().zip(states) {
                let ty = result.get(a.out).ok_or_else(|| Error::Bug("an aggregate has a column".into()))?;
                let binding = Binding::Reduced {
                    row,
                    reducer: a.reducer,
                    arg: a.arg.and_then(|c| source.get(c)),
                    fields: state.iter().map(|&f| s.layout.fields[f]).collect(),
                    ty,
                };
                env.columns.insert(a.out, binding);
            }
        }
        Ok(())
    }
}
