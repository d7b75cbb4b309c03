//! Features in the graph: the expressions that make them, recorded once, and written into a query wherever the model stands in it.
//!
//! What holds:
//! - A feature is computed from its own row: the recorded program scans one table and extends it, nothing else. Text that
//!   would do more (read another table or a file, aggregate) is refused.
//! - The inputs are the columns that the expressions read, found in the graph and not in the text.

use std::collections::{HashMap, HashSet};

use flare::Engine;
use ir::entity::{ColumnId, RegionId, ValueId};
use ir::graph::{Builder, Op, Program, RelOp};
use ir::types::ScalarType;

use crate::error::{Error, Result};
use crate::transform::{quoted, sql_type};

/// The recorded expressions of a model's feature columns.
#[derive(Debug, Clone)]
pub(crate) struct Features {
    program: Program,
    inputs: Vec<Input>,
    columns: Vec<ColumnId>,
}

/// A column that features are computed from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) ty: ScalarType,
    /// The column in the recorded program.
    column: ColumnId,
}

impl Features {
    /// Records expressions, given as SQL over these columns.
    ///
    /// # Errors
    /// What the engine says about the expressions; an expression that needs more than its row.
    pub(crate) fn record(expressions: &[String], source: &[(String, ScalarType)]) -> Result<Features> {
        let fail = |error| Error::Engine { error, span: None };
        let engine =
            Engine::with_settings(flare::Settings { threads: 1, interpret: true, ..flare::Settings::default() });
        let columns: Vec<String> =
            source.iter().map(|(name, ty)| format!("CAST(NULL AS {}) AS {}", sql_type(*ty), quoted(name))).collect();
        engine.sql(&format!("CREATE TABLE input AS SELECT {}", columns.join(", "))).map_err(fail)?;
        let list: Vec<String> = expressions.iter().enumerate().map(|(i, e)| format!("{e} AS feature_{i}")).collect();
        let query = engine.sql(&format!("SELECT {} FROM input", list.join(", "))).map_err(fail)?;
        let program = query.program().map_err(fail)?.clone();
        let more = || Error::unsupported("a feature that is computed from more than its row", None);
        let region = program.entry_region().ok_or_else(more)?;
        let mut scanned = HashMap::new();
        for n in &region.nodes {
            match &program.node(*n).op {
                Op::Rel(RelOp::Scan { input, columns }) if scanned.is_empty() => {
                    let ir::graph::InputKind::Table(known) = &program.input(*input).kind else { return Err(more()) };
                    scanned.extend(columns.iter().map(|c| (c.id, known[c.source as usize].name.clone())));
                }
                Op::Rel(RelOp::Extend { .. } | RelOp::Project { .. }) => {}
                _ => return Err(more()),
            }
        }
        let table = region.results.first().and_then(|v| program.ty(*v).as_table()).ok_or_else(more)?;
        let columns: Vec<ColumnId> = table.columns.iter().map(|c| c.id).collect();
        if program.inputs.len() != 1 || columns.len() != expressions.len() {
            return Err(more());
        }
        let input = |id: &ColumnId| {
            let (name, ty) = source.iter().find(|(name, _)| scanned.get(id) == Some(name))?;
            Some(Input { name: name.clone(), ty: *ty, column: *id })
        };
        let inputs = read_by(&program, &columns).iter().filter_map(input).collect();
        Ok(Features { inputs, columns, program })
    }

    /// The columns that are read, in the order in which the features first read them.
    pub(crate) fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// Writes the expressions over `table`, whose columns `given` are the inputs; returns the table with the feature columns.
    pub(crate) fn write(
        &self,
        b: &mut Builder,
        table: ValueId,
        given: &[ColumnId],
    ) -> ir::Result<(ValueId, Vec<ColumnId>)> {
        let mut copy = Copy { from: &self.program, columns: HashMap::new(), values: HashMap::new() };
        copy.columns.extend(self.inputs.iter().zip(given).map(|(input, id)| (input.column, *id)));
        let mut table = table;
        let region = self.program.entry_region().ok_or_else(|| ir::Error::Bug("features without a body".into()))?;
        for n in &region.nodes {
            let node = self.program.node(*n);
            let Op::Rel(RelOp::Extend { columns }) = &node.op else { continue };
            let new: Vec<ColumnId> = columns
                .iter()
                .map(|c| {
                    let info = &self.program.columns[c.index()];
                    b.program_mut().new_column(info.name.clone(), info.ty)
                })
                .collect();
            table = b.extend(table, &new, |b| copy.region(b, node.regions[0]))?;
            copy.columns.extend(columns.iter().copied().zip(new));
        }
        let columns = self.columns.iter().map(|c| copy.column(*c)).collect::<ir::Result<_>>()?;
        Ok((table, columns))
    }
}

/// The columns that these are computed from, they themselves included, in the order of their first use.
fn read_by(program: &Program, columns: &[ColumnId]) -> Vec<ColumnId> {
    enum Open {
        Column(ColumnId),
        Value(ValueId),
    }
    let mut computed = HashMap::new();
    for n in program.entry_region().iter().flat_map(|r| &r.nodes) {
        let node = program.node(*n);
        if let Op::Rel(RelOp::Extend { columns }) = &node.op {
            computed.extend(columns.iter().copied().zip(program.region(node.regions[0]).results.iter().copied()));
        }
    }
    let (mut seen, mut read) = (HashSet::new(), vec![]);
    let mut done = HashSet::new();
    let mut open: Vec<Open> = columns.iter().rev().map(|c| Open::Column(*c)).collect();
    while let Some(next) = open.pop() {
        match next {
            Open::Column(id) if seen.insert(id) => {
                read.push(id);
                open.extend(computed.get(&id).map(|v| Open::Value(*v)));
            }
            Open::Value(v) if done.insert(v) => {
                let Some(node) = program.node_of(v) else { continue };
                if let Op::Col(id) = node.op {
                    open.push(Open::Column(id));
                }
                let inner = node.regions.iter().flat_map(|r| &program.region(*r).results);
                let values: Vec<ValueId> = node.operands.iter().chain(inner).copied().collect();
                open.extend(values.into_iter().rev().map(Open::Value));
            }
            Open::Column(_) | Open::Value(_) => {}
        }
    }
    read
}

/// Writing the scalars of a region once more, over other columns.
struct Copy<'a> {
    from: &'a Program,
    columns: HashMap<ColumnId, ColumnId>,
    values: HashMap<ValueId, ValueId>,
}

impl Copy<'_> {
    fn column(&self, old: ColumnId) -> ir::Result<ColumnId> {
        let new = self.columns.get(&old).copied();
        new.ok_or_else(|| ir::Error::Bug(format!("the feature column {old} was not computed")))
    }

    fn value(&self, old: ValueId) -> ir::Result<ValueId> {
        let new = self.values.get(&old).copied();
        new.ok_or_else(|| ir::Error::Bug(format!("{old} of a feature was not computed")))
    }

    fn region(&mut self, b: &mut Builder, region: RegionId) -> ir::Result<Vec<ValueId>> {
        let from = self.from;
        for n in &from.region(region).nodes {
            let node = from.node(*n);
            let op = match &node.op {
                Op::Col(id) => Op::Col(self.column(*id)?),
                op @ (Op::Literal(..) | Op::Scalar(_) | Op::Control(_)) => op.clone(),
                other => return Err(ir::Error::Bug(format!("{other:?} in a feature"))),
            };
            let operands = node.operands.iter().map(|v| self.value(*v)).collect::<ir::Result<Vec<_>>>()?;
            let mut regions = vec![];
            for r in &node.regions {
                let (types, columns) = b.region_entry(&op, &operands, &regions)?;
                let params = b.begin_region(&types, columns);
                self.values.extend(from.region(*r).params.iter().copied().zip(params));
                let results = self.region(b, *r);
                let region = b.end_region(results.as_deref().unwrap_or(&[]));
                results?;
                regions.push(region);
            }
            if let Some(place) = node.place {
                let text = from.places[place.index()].text.clone();
                let place = b.program_mut().new_place(text, None);
                b.set_place(Some(place));
            }
            let results = b.push(op, &operands, &regions);
            b.set_place(None);
            self.values.extend(node.results.iter().copied().zip(results?));
        }
        from.region(region).results.iter().map(|v| self.value(*v)).collect()
    }
}
