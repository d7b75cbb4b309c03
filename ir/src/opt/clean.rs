//! Removes what nothing uses: values, columns down to the scans, functions, columns of inputs.
//!
//! An operation that could raise goes too: what is not used is not computed. A window of which no function is used goes with
//! the order that it gave; no result without a sort promises an order.
//!
//! One unit of fuel pays for the whole pass, since its removals hang together.

use super::Context;
use super::live::{Live, used_tensors, width};
use crate::entity::{ColumnId, FuncId, NodeId, ValueId};
use crate::error::Result;
use crate::graph::rewrite::{Change, Rebuild, Rewrite, reachable_nodes, rebuild};
use crate::graph::{BridgeOp, InputKind, Node, Op, Program, RelOp, TensorOp};

pub(super) fn run(p: &Program, cx: &mut Context<'_>) -> Result<Program> {
    let live = Live::of(p);
    let mut clean = Clean { live, removed: 0, columns: 0 };
    let mut new = rebuild(p, &mut clean)?;
    let inputs = narrow_inputs(&mut new);
    let (values, columns) = (clean.removed, clean.columns);
    if values + columns + inputs == 0 || !cx.spend() {
        return Ok(p.clone());
    }
    cx.count(values + columns + inputs - 1);
    if columns + inputs > 0 {
        cx.note(None, format!("{columns} columns are not computed, {inputs} columns of inputs are not read"));
    }
    Ok(new)
}

struct Clean {
    live: Live,
    /// Nodes left out.
    removed: u64,
    /// Columns left out.
    columns: u64,
}

impl Rewrite for Clean {
    fn keeps_func(&mut self, func: FuncId) -> bool {
        let used = self.live.func(func);
        self.removed += u64::from(!used);
        used
    }

    fn node(&mut self, cx: &mut Rebuild<'_>, _: NodeId, node: &Node) -> Result<Change> {
        if !self.live.node(node) {
            self.removed += 1;
            return Ok(Change::Drop);
        }
        match &node.op {
            Op::Rel(op) => self.rel(cx, op, node),
            Op::Tensor(TensorOp::Map { .. }) => self.map(cx, node),
            Op::Bridge(op) => self.bridge(cx, op, node),
            Op::Literal(..) | Op::Col(_) | Op::Scalar(_) | Op::Input(_) | Op::Tensor(_) | Op::Control(_) => {
                Ok(Change::Keep)
            }
        }
    }
}

impl Clean {
    /// Those of a node's columns that are used.
    fn used<T: Clone>(&mut self, node: &Node, list: &[T], id: impl Fn(&T) -> ColumnId) -> Vec<T> {
        let kept: Vec<T> = list.iter().filter(|c| self.live.column(node.results[0], id(c))).cloned().collect();
        self.columns += (list.len() - kept.len()) as u64;
        kept
    }

    fn rel(&mut self, cx: &mut Rebuild<'_>, op: &RelOp, node: &Node) -> Result<Change> {
        let mut op = op.clone();
        match &mut op {
            RelOp::Scan { columns, .. } => *columns = self.used(node, columns, |c| c.id),
            RelOp::Project { columns } => *columns = self.used(node, columns, |c| *c),
            RelOp::Group { aggregates, .. } => *aggregates = self.used(node, aggregates, |a| a.out),
            RelOp::Values { columns, rows } => {
                let kept: Vec<bool> = columns.iter().map(|c| self.live.column(node.results[0], c.id)).collect();
                *columns = self.used(node, columns, |c| c.id);
                for row in rows {
                    let mut kept = kept.iter();
                    row.retain(|_| kept.next().copied().unwrap_or(false));
                }
            }
            RelOp::Extend { columns } => {
                let all = columns.clone();
                *columns = self.used(node, columns, |c| *c);
                if columns.is_empty() {
                    return Ok(Change::Values(vec![cx.value(node.operands[0])?]));
                }
                let kept: Vec<usize> = (0..all.len()).filter(|i| columns.contains(&all[*i])).collect();
                let op = cx.map_op(&Op::Rel(op))?;
                let operands = cx.values(&node.operands)?;
                let (_, tables) = cx.b.region_entry(&op, &operands, &[])?;
                let region = cx.region_where(self, node.regions[0], &[], tables, &kept)?;
                cx.b.set_place(node.place);
                let result = cx.b.push(op, &operands, &[region])?;
                cx.b.set_place(None);
                return Ok(Change::Values(result));
            }
            RelOp::Union { inputs, columns } => {
                let all = columns.clone();
                *columns = self.used(node, columns, |c| *c);
                for ids in inputs {
                    let kept = ids.iter().zip(&all).filter(|(_, out)| columns.contains(out)).map(|(id, _)| *id);
                    *ids = kept.collect();
                }
            }
            RelOp::Window { columns, .. } => {
                *columns = self.used(node, columns, |c| c.out);
                if columns.is_empty() {
                    return Ok(Change::Values(vec![cx.value(node.operands[0])?]));
                }
            }
            RelOp::Filter
            | RelOp::Join { .. }
            | RelOp::DependentJoin { .. }
            | RelOp::Recurse { .. }
            | RelOp::Sort { .. }
            | RelOp::Limit { .. } => return Ok(Change::Keep),
        }
        let op = cx.map_op(&Op::Rel(op))?;
        Ok(Change::Values(cx.keep_as(self, op, node)?))
    }

    fn map(&mut self, cx: &mut Rebuild<'_>, node: &Node) -> Result<Change> {
        let region = cx.old.region(node.regions[0]);
        let results: Vec<usize> = (0..node.results.len()).filter(|i| self.live.value(node.results[*i])).collect();
        let params: Vec<usize> = (0..region.params.len()).filter(|i| self.live.value(region.params[*i])).collect();
        if results.len() == node.results.len() && params.len() == region.params.len() {
            return Ok(Change::Keep);
        }
        self.removed += (node.results.len() - results.len() + region.params.len() - params.len()) as u64;
        let op = cx.map_op(&node.op)?;
        let operands = params.iter().map(|i| cx.value(node.operands[*i])).collect::<Result<Vec<_>>>()?;
        let (types, _) = cx.b.region_entry(&op, &operands, &[])?;
        let params: Vec<_> = params.into_iter().zip(types).collect();
        let new = cx.region_where(self, node.regions[0], &params, vec![], &results)?;
        let values = self.push(cx, op, &operands, &[new], node)?;
        Ok(Change::Some(at_places(node.results.len(), &results, values)))
    }

    fn push(
        &self,
        cx: &mut Rebuild<'_>,
        op: Op,
        operands: &[ValueId],
        regions: &[crate::entity::RegionId],
        node: &Node,
    ) -> Result<Vec<ValueId>> {
        cx.b.set_place(node.place);
        let values = cx.b.push(op, operands, regions);
        cx.b.set_place(None);
        values
    }

    fn bridge(&mut self, cx: &mut Rebuild<'_>, op: &BridgeOp, node: &Node) -> Result<Change> {
        match op {
            BridgeOp::ToTensor { rows, groups } => {
                let kept: Vec<usize> = (0..groups.len()).filter(|i| self.live.value(node.results[*i])).collect();
                if kept.len() == groups.len() {
                    return Ok(Change::Keep);
                }
                self.removed += (groups.len() - kept.len()) as u64;
                let groups = kept.iter().map(|i| groups[*i].clone()).collect();
                let op = cx.map_op(&Op::Bridge(BridgeOp::ToTensor { rows: *rows, groups }))?;
                let operands = cx.values(&node.operands)?;
                let values = self.push(cx, op, &operands, &[], node)?;
                Ok(Change::Some(at_places(node.results.len(), &kept, values)))
            }
            BridgeOp::ToTable { columns } => {
                let widths: Vec<usize> = node.operands.iter().map(|v| width(cx.old, *v)).collect();
                let mut kept = used_tensors(columns, widths.iter().copied(), |c| self.live.column(node.results[0], c));
                if kept.is_empty() {
                    kept.push(0);
                }
                if kept.len() == widths.len() {
                    return Ok(Change::Keep);
                }
                let op = Op::Bridge(BridgeOp::ToTable { columns: self.spread(columns, &widths, &kept) });
                let op = cx.map_op(&op)?;
                let operands = kept.iter().map(|i| cx.value(node.operands[*i])).collect::<Result<Vec<_>>>()?;
                Ok(Change::Values(self.push(cx, op, &operands, &[], node)?))
            }
            BridgeOp::Apply { rows, inputs, columns } => {
                let region = cx.old.region(node.regions[0]);
                let widths: Vec<usize> = region.results.iter().map(|v| width(cx.old, *v)).collect();
                let kept = used_tensors(columns, widths.iter().copied(), |c| self.live.column(node.results[0], c));
                let params: Vec<usize> = (0..inputs.len()).filter(|i| self.live.value(region.params[*i])).collect();
                let operand = cx.value(node.operands[0])?;
                if kept.is_empty() {
                    self.columns += columns.len() as u64;
                    return Ok(Change::Values(vec![operand]));
                }
                if kept.len() == widths.len() && params.len() == inputs.len() {
                    return Ok(Change::Keep);
                }
                self.removed += (inputs.len() - params.len()) as u64;
                let inputs = params.iter().map(|i| inputs[*i].clone()).collect();
                let columns = self.spread(columns, &widths, &kept);
                let op = cx.map_op(&Op::Bridge(BridgeOp::Apply { rows: *rows, inputs, columns }))?;
                let (types, _) = cx.b.region_entry(&op, &[operand], &[])?;
                let params: Vec<_> = params.into_iter().zip(types).collect();
                let new = cx.region_where(self, node.regions[0], &params, vec![], &kept)?;
                Ok(Change::Values(self.push(cx, op, &[operand], &[new], node)?))
            }
            BridgeOp::ForBatches { .. } | BridgeOp::RowCount => Ok(Change::Keep),
        }
    }

    /// The columns that the kept tensors spread to.
    fn spread(&mut self, columns: &[ColumnId], widths: &[usize], kept: &[usize]) -> Vec<ColumnId> {
        let mut at = 0;
        let mut out = Vec::new();
        for (i, width) in widths.iter().enumerate() {
            if kept.contains(&i) {
                out.extend(&columns[at..at + width]);
            }
            at += width;
        }
        self.columns += (columns.len() - out.len()) as u64;
        out
    }
}

/// The values at these of `len` places.
fn at_places(len: usize, places: &[usize], values: Vec<ValueId>) -> Vec<Option<ValueId>> {
    let mut out = vec![None; len];
    places.iter().zip(values).for_each(|(i, v)| out[*i] = Some(v));
    out
}

/// Takes columns that no scan reads out of the inputs; how many.
fn narrow_inputs(p: &mut Program) -> u64 {
    let mut read: Vec<Vec<bool>> = p
        .inputs
        .iter()
        .map(|i| match &i.kind {
            InputKind::Table(columns) => vec![false; columns.len()],
            InputKind::Tensor(_) | InputKind::Scalar(_) => vec![],
        })
        .collect();
    let mut scans = Vec::new();
    reachable_nodes(p, |id, node| {
        if let Op::Rel(RelOp::Scan { input, columns }) = &node.op {
            scans.push(id);
            columns.iter().for_each(|c| read[input.index()][c.source as usize] = true);
        }
    });
    for id in scans {
        if let Op::Rel(RelOp::Scan { input, columns }) = &mut p.nodes[id.index()].op {
            let read = &read[input.index()];
            for c in columns {
                c.source = read[..c.source as usize].iter().filter(|r| **r).count() as u32;
            }
        }
    }
    let mut removed = 0;
    for (input, read) in p.inputs.iter_mut().zip(&read) {
        if let InputKind::Table(columns) = &mut input.kind {
            let before = columns.len();
            let mut read = read.iter();
            columns.retain(|_| read.next().copied().unwrap_or(true));
            removed += (before - columns.len()) as u64;
        }
    }
    removed
}
