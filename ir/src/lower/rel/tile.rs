//! Models by tiles: rows are saved until a tile is full, then the model runs and the steps after it go on.

use runtime::abi::RuntimeFn;

use super::super::row::{Binding, Env};
use super::{PipelineLower, tensor_record_size, tile_slots as tile};
use crate::entity::{ColumnId, NodeId};
use crate::error::{Error, Result};
use crate::graph::bridge::TensorColumns;
use crate::graph::{BridgeOp, Op, Program};
use crate::kernel::{Cmp, LoopKind, Type as K};
use crate::plan::{Layout, Step};

impl<'a> PipelineLower<'a> {
    pub(super) fn tile_inputs(&self, node: NodeId) -> Result<(&'a [TensorColumns], &'a [ColumnId])> {
        let p: &'a Program = self.r.p;
        match &p.node(node).op {
            Op::Bridge(BridgeOp::Apply { inputs, columns, .. }) => Ok((inputs, columns)),
            _ => Err(Error::Bug(format!("{node} is no apply"))),
        }
    }

    /// Writes the row into the tile of step `i`, and runs the tile if it is full.
    pub(super) fn save(&mut self, i: usize, node: NodeId, saved: &Layout, mut env: Env) -> Result<()> {
        let (_, function, index) =
            self.flushes.iter().find(|f| f.0 == i).ok_or_else(|| Error::Bug("a tile has a function".into()))?;
        let t = self.state_pointer(*index);
        let count = self.r.b.load(K::I64, t, tile::COUNT);
        let (inputs, _) = self.tile_inputs(node)?;
        for (g, group) in inputs.iter().enumerate() {
            let base = self.r.b.load_always(K::Ptr, t, tile::TENSORS + g as i32 * 8);
            let at = self.r.b.offset(base, count, i64::from(tensor_record_size(group)), 0);
            self.store_elements(group, at, &mut env)?;
        }
        let rows = self.r.b.load_always(K::Ptr, t, tile::ROWS);
        let row = self.r.b.offset(rows, count, i64::from(saved.size), 0);
        self.store_columns(saved, 0, row, &mut env)?;
        let next = self.r.b.add_imm(count, 1);
        self.r.b.store(next, t, tile::COUNT);
        let full = self.r.b.icmp_imm(Cmp::Eq, next, self.plan.tile_rows as i64);
        self.r.b.begin_if(full, &[]);
        let status = self.r.b.call_function(function, &[self.r.ctx, self.r.worker]);
        let status = status.ok_or_else(|| Error::Bug("a tile's function returns a status".into()))?;
        self.r.b.return_if_failed(status);
        self.r.b.end_if(&[]);
        Ok(())
    }

    /// The function of tile `k`: run the model, then the steps after it for each row.
    pub(super) fn flush(&mut self, k: usize) -> Result<()> {
        let (i, _, index) = self.flushes[k].clone();
        let Step::Apply { node, saved } = &self.pipeline.steps[i] else {
            return Err(Error::Bug("a tile belongs to an apply step".into()));
        };
        let t = self.state_pointer(index);
        let count = self.r.b.load(K::I64, t, tile::COUNT);
        if self.has_sink(k + 1) {
            self.sink_prologue()?;
        }
        let any = self.r.b.icmp_imm(Cmp::Ne, count, 0);
        self.r.b.begin_if(any, &[]);
        self.r.b.call_or_fail(RuntimeFn::TileRun, &[self.r.worker, t], 0);
        let zero = self.r.b.iconst(K::I64, 0);
        let body = self.r.b.begin_for(LoopKind::Serial, zero, count, 1, &[]);
        let rows = self.r.b.load_always(K::Ptr, t, tile::ROWS);
        let row = self.r.b.offset(rows, body.index, i64::from(saved.size), 0);
        let mut env = Env::default();
        for f in &saved.fields {
            if let Some(id) = f.column {
                env.columns.insert(id, Binding::Field { row, field: *f, present: None });
            }
        }
        let (inputs, columns) = self.tile_inputs(*node)?;
        let p = self.r.p;
        let mut ids = columns.iter();
        for (o, v) in p.region(p.node(*node).regions[0]).results.iter().enumerate() {
            let ty = p.ty(*v).as_tensor().ok_or_else(|| Error::Bug("apply yields tensors".into()))?;
            let slot = tile::TENSORS + (inputs.len() + o) as i32 * 8;
            let base = self.r.b.load_always(K::Ptr, t, slot);
            let width = ty.shape.get(1).and_then(|d| d.as_const()).unwrap_or(1);
            self.bind_elements(base, body.index, ty.dtype, width, &mut ids, &mut env);
        }
        self.step(i + 1, env)?;
        self.r.b.end_for(&[]);
        self.r.b.store(zero, t, tile::COUNT);
        self.r.b.end_if(&[]);
        Ok(())
    }
}
