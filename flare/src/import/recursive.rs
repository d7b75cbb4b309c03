//! Recursive queries: `WITH RECURSIVE t AS (base UNION [ALL] step)`.

use datafusion_expr::logical_plan::RecursiveQuery;
use ir::entity::ColumnId;
use ir::graph::RelOp;
use ir::graph::rel::working_type;
use ir::types::{Column, ScalarType, Type};

use super::{Importer, Rel};
use crate::error::{Error, Result};

impl Importer {
    /// A recursion whose columns have the types of its first part, as the names inside were bound. Each may become NULL in an
    /// iteration.
    pub(super) fn recursive(&mut self, query: &RecursiveQuery) -> Result<Rel> {
        let base = self.plan(&query.static_term)?;
        let types: Vec<ScalarType> = base.columns.iter().map(|id| self.b.program().columns[id.index()].ty).collect();
        let mut named = || -> Vec<ColumnId> {
            let fields = query.schema.fields().iter();
            fields.zip(&types).map(|(f, ty)| self.b.program_mut().new_column(f.name(), *ty)).collect()
        };
        let (working, ids) = (named(), named());
        let columns: Vec<Column> =
            ids.iter().zip(&types).map(|(id, ty)| Column { id: *id, ty: ty.nullable(true) }).collect();
        let params = self.b.begin_region(&[Type::Table(working_type(&working, &columns))], vec![]);
        let rows = Rel { table: params[0], columns: working.clone() };
        self.working.push((query.name.clone(), rows));
        let step = self.plan(&query.recursive_term);
        self.working.pop();
        let step = step?;
        let step = self.cast_columns(&step, &types)?;
        let (table, made) = self.distinct_columns(step.table, &step.columns)?;
        let table = self.b.rel(RelOp::Project { columns: made }, &[table], &[])?;
        let region = self.b.end_region(&[table]);
        let op = RelOp::Recurse { base: base.columns, working, columns, distinct: query.is_distinct, limit: None };
        let table = self.b.rel(op, &[base.table], &[region])?;
        Ok(Rel { table, columns: ids })
    }

    /// What the name of a recursive query stands for inside of it: the working table, each time with columns of its own.
    pub(super) fn working_table(&mut self, name: &str) -> Result<Rel> {
        let Some((_, rel)) = self.working.iter().rev().find(|(n, _)| n == name) else {
            return Err(Error::Bug(format!("the recursive query \"{name}\" is read outside of its step")));
        };
        let rel = rel.clone();
        let program = self.b.program_mut();
        let copies: Vec<ColumnId> = rel
            .columns
            .iter()
            .map(|id| {
                let info = program.columns[id.index()].clone();
                program.new_column(info.name, info.ty)
            })
            .collect();
        let table = self.b.extend(rel.table, &copies, |b| rel.columns.iter().map(|id| b.col(*id)).collect())?;
        let table = self.b.rel(RelOp::Project { columns: copies.clone() }, &[table], &[])?;
        Ok(Rel { table, columns: copies })
    }
}
