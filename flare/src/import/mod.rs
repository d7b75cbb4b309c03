//! Plans to programs: a bound plan becomes a graph of the common layer.
//!
//! Every variant of a plan and of an expression is matched, without a wildcard; what is not supported is an error that names
//! it. Columns are resolved by position to column ids; from here on names are print hints. Subqueries become dependent
//! joins; the optimizer unnests them.

pub(crate) mod aggregate;
mod composite;
pub(crate) mod expr;
mod needs;
mod recursive;
pub(crate) mod subquery;
pub(crate) mod types;
pub(crate) mod window;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion_common::{DFSchemaRef, JoinType, NullEquality};
use datafusion_expr::expr::Sort as SortExpr;
use datafusion_expr::logical_plan::{FetchType, Join, Limit, SkipType, TableScan, Union, Values};
use datafusion_expr::{Expr, LogicalPlan};
use ir::entity::{ColumnId, InputId, PlaceId, RegionId, ValueId};
use ir::graph::rel::{Frame, FrameBound, FrameUnit, JoinKind, ScanColumn, SortKey, WindowColumn, WindowFunc};
use ir::graph::{Builder, InputColumn, InputKind, Program, RelOp};
use ir::opt::Statistics;
use ir::scalar::ScalarOp;
use ir::types::{Column, RowType, ScalarType, TableType, Type};
use ir::value::Value;

use crate::binder::{Bound, Source, WorkTable, translate};
use crate::error::{Error, Result};
use crate::functions::{common_type, sql_type_name};
use crate::import::expr::{Scope, is_plain};
use crate::import::needs::Needs;
use crate::ingest::{self, Table};
use crate::sql::Lines;

/// A program and what its inputs are.
#[derive(Debug)]
pub(crate) struct Imported {
    /// The program; its entry yields one table.
    pub(crate) program: Program,
    /// For each input of the program.
    pub(crate) inputs: Vec<InputSource>,
    /// The result's columns.
    pub(crate) columns: Vec<(String, RowType)>,
    /// The types of the parameters.
    pub(crate) parameters: Vec<Option<ScalarType>>,
    /// Time of loading what the program reads.
    pub(crate) loading: Duration,
}

impl Imported {
    /// What is known of the tables that the program reads.
    pub(crate) fn statistics(&self) -> Statistics {
        let mut statistics = Statistics::new();
        for (input, source) in self.program.inputs.iter().zip(&self.inputs) {
            let InputSource::Table(table, columns) = source else { continue };
            let loaded = columns.iter().filter_map(|i| Some((table.columns()[*i].name.as_str(), table.loaded(*i)?)));
            statistics.add(&input.name, table.rows(), loaded);
        }
        statistics
    }
}

/// What an input of a program is.
#[derive(Clone, Debug)]
pub(crate) enum InputSource {
    /// These columns of a table of the catalog, which are loaded.
    Table(Arc<Table>, Vec<usize>),
    /// Parameter `i`, from 0.
    Parameter(usize),
}

/// Builds the program of a bound query. The columns that it reads are loaded first, by these many threads: then it is known
/// which of them hold no NULL.
pub(crate) fn import(
    bound: &Bound,
    types: &[ScalarType],
    shown_names: &HashMap<String, String>,
    text: &str,
    threads: usize,
) -> Result<Imported> {
    let needs = Needs::of(&bound.plan);
    let wanted: Vec<(&Arc<Table>, Vec<usize>)> = needs.tables().collect();
    let wanted: Vec<(&Table, &[usize])> = wanted.iter().map(|(t, c)| (t.as_ref(), c.as_slice())).collect();
    let start = Instant::now();
    ingest::load_all(&wanted, threads)?;
    let loading = start.elapsed();
    let mut importer = Importer {
        b: Builder::new(),
        inputs: vec![],
        tables: vec![],
        parameters: vec![],
        parameter_types: types.to_vec(),
        outer: vec![],
        working: vec![],
        hoisted: HashMap::new(),
        row_results: vec![],
        place: None,
        lines: Lines::new(text),
        needs,
    };
    importer.b.begin_func(&[]);
    for (i, ty) in types.iter().enumerate() {
        let input = importer.b.program_mut().new_input(format!("${}", i + 1), InputKind::Scalar(ty.nullable(true)));
        importer.inputs.push(InputSource::Parameter(i));
        let value = importer.b.input(input)?;
        importer.parameters.push(value);
    }
    let rel = importer.plan(&bound.plan)?;
    let imported = importer.finish(rel, bound.plan.schema(), shown_names)?;
    Ok(Imported { loading, ..imported })
}

/// A table value and, by position, which of its columns are those of the plan's schema.
#[derive(Clone, Debug)]
pub(crate) struct Rel {
    pub(crate) table: ValueId,
    pub(crate) columns: Vec<ColumnId>,
}

/// The columns of a row outside, for a correlated subquery.
pub(crate) struct OuterScope {
    pub(crate) schema: DFSchemaRef,
    pub(crate) columns: Vec<ColumnId>,
}

/// The state of an import.
pub(crate) struct Importer {
    pub(crate) b: Builder,
    inputs: Vec<InputSource>,
    /// Tables that are inputs already, with their declaration.
    tables: Vec<(Arc<Table>, InputId)>,
    /// The values of the parameters.
    pub(crate) parameters: Vec<ValueId>,
    parameter_types: Vec<ScalarType>,
    /// The rows outside, outermost first.
    pub(crate) outer: Vec<OuterScope>,
    /// The working tables of the recursive queries around, by name, innermost last.
    working: Vec<(String, Rel)>,
    /// Columns that hold what stands for an expression (by address): subqueries and the host's functions.
    pub(crate) hoisted: HashMap<usize, ColumnId>,
    /// The results of the host's functions: a table that carries one does not need it again.
    pub(crate) row_results: Vec<RowResult>,
    pub(crate) place: Option<PlaceId>,
    pub(crate) lines: Lines,
    needs: Needs,
}

/// What a call of a host's function gave.
pub(crate) struct RowResult {
    /// The function, by address, and its arguments.
    pub(crate) call: (usize, Vec<Option<ColumnId>>, Vec<Option<Value>>),
    /// The column that holds the result.
    pub(crate) column: ColumnId,
}

impl From<ir::Error> for Error {
    fn from(e: ir::Error) -> Self {
        match e {
            ir::Error::Unsupported(what) => Error::unsupported(what),
            ir::Error::Type(message) | ir::Error::Bug(message) | ir::Error::Input(message) => Error::Bug(message),
            ir::Error::Parse { .. } => Error::Bug(e.to_string()),
            ir::Error::Trap(trap) => Error::from_trap(&trap, None),
        }
    }
}

impl Importer {
    /// A plan, in the region that is open.
    pub(crate) fn plan(&mut self, plan: &LogicalPlan) -> Result<Rel> {
        match plan {
            LogicalPlan::Projection(p) => {
                let input = self.plan(&p.input)?;
                let used: Vec<bool> = (0..p.expr.len()).map(|i| self.needs.output(plan, i)).collect();
                self.project(input, p.input.schema(), &p.expr, &used)
            }
            LogicalPlan::Filter(f) => {
                let input = self.plan(&f.input)?;
                self.filter(input, f.input.schema(), &f.predicate)
            }
            LogicalPlan::Window(w) => self.window(w),
            LogicalPlan::Aggregate(a) => self.aggregate(a),
            LogicalPlan::Sort(s) => {
                let input = self.plan(&s.input)?;
                self.sort(input, s.input.schema(), &s.expr, s.fetch)
            }
            LogicalPlan::Join(j) => self.join(j),
            LogicalPlan::Repartition(_) => Err(Error::unsupported("REPARTITION")),
            LogicalPlan::Union(u) => self.union(u),
            LogicalPlan::TableScan(t) => {
                let used = (0..t.projected_schema.fields().len()).map(|i| self.needs.output(plan, i)).collect();
                self.scan(t, used)
            }
            LogicalPlan::EmptyRelation(e) => {
                let rows = usize::from(e.produce_one_row);
                if e.schema.fields().is_empty() {
                    self.rows(rows)
                } else {
                    Err(Error::unsupported("an empty relation"))
                }
            }
            LogicalPlan::Subquery(s) => self.plan(&s.subquery),
            LogicalPlan::SubqueryAlias(a) => self.plan(&a.input),
            LogicalPlan::Limit(l) => self.limit(l),
            LogicalPlan::Values(v) => self.values(v),
            LogicalPlan::Distinct(d) => self.distinct(d),
            LogicalPlan::Statement(s) => Err(Error::unsupported(format!("the statement {}", s.name()))),
            LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) => Err(Error::unsupported("EXPLAIN inside a query")),
            LogicalPlan::Extension(e) => Err(Error::unsupported(e.node.name().to_string())),
            LogicalPlan::Dml(d) => Err(Error::unsupported(format!("the statement {}", d.op))),
            LogicalPlan::Ddl(d) => Err(Error::unsupported(format!("the statement {}", d.name()))),
            LogicalPlan::Copy(_) => Err(Error::unsupported("the statement COPY")),
            LogicalPlan::DescribeTable(_) => Err(Error::unsupported("DESCRIBE inside a query")),
            LogicalPlan::Unnest(_) => Err(Error::unsupported("UNNEST")),
            LogicalPlan::RecursiveQuery(r) => self.recursive(r),
        }
    }

    fn finish(mut self, rel: Rel, schema: &DFSchemaRef, shown_names: &HashMap<String, String>) -> Result<Imported> {
        let (table, columns) = self.distinct_columns(rel.table, &rel.columns)?;
        let table = self.b.rel(RelOp::Project { columns: columns.clone() }, &[table], &[])?;
        let names: Vec<String> =
            schema.fields().iter().map(|f| shown_names.get(f.name()).unwrap_or(f.name()).clone()).collect();
        let types = self.table_type(table);
        let columns = names.iter().cloned().zip(types.columns.iter().map(|c| c.ty)).collect();
        let func = self.b.end_func("query", &[table]);
        let mut program = self.b.finish();
        program.entry = Some(func);
        program.result_names = vec![names];
        let parameters = self.parameter_types.iter().copied().map(Some).collect();
        Ok(Imported { program, inputs: self.inputs, columns, parameters, loading: Duration::ZERO })
    }

    /// The type of a table value.
    pub(crate) fn table_type(&self, table: ValueId) -> TableType {
        match self.b.ty(table) {
            Type::Table(t) => t.clone(),
            Type::Scalar(_) | Type::Tensor(_) | Type::Tape | Type::Acc(_) => unreachable!("a plan is a table"),
        }
    }

    fn rows(&mut self, n: usize) -> Result<Rel> {
        let id = self.b.program_mut().new_column("row", ScalarType::I32);
        let columns = vec![Column { id, ty: ScalarType::I32.nullable(false) }];
        let table = self.b.rel(RelOp::Values { columns, rows: vec![vec![Value::I32(0)]; n] }, &[], &[])?;
        Ok(Rel { table, columns: vec![] })
    }

    fn scan(&mut self, scan: &TableScan, used: Vec<bool>) -> Result<Rel> {
        let source: &dyn std::any::Any = scan.source.as_ref();
        if let Some(table) = source.downcast_ref::<WorkTable>() {
            return self.working_table(&table.name);
        }
        let source = source.downcast_ref::<Source>().ok_or_else(|| Error::Bug("a table that is not ours".into()))?;
        if !scan.filters.is_empty() || scan.fetch.is_some() {
            return Err(Error::Bug("a scan with a filter".into()));
        }
        let read = self.needs.columns(&source.table);
        let input = self.table_input(source, &read);
        let positions: Vec<usize> = match &scan.projection {
            Some(p) => p.clone(),
            None => (0..source.table.columns().len()).collect(),
        };
        let mut columns = vec![];
        let mut ids = vec![];
        for (position, used) in positions.into_iter().zip(&used) {
            let c = &source.table.columns()[position];
            let id = self.b.program_mut().new_column(&c.name, c.ty.ty);
            ids.push(id);
            if let Some(place) = read.iter().position(|r| *r == position).filter(|_| *used) {
                columns.push(ScanColumn { source: place as u32, id });
            }
        }
        if columns.is_empty() && !read.is_empty() {
            let c = &source.table.columns()[read[0]];
            let id = self.b.program_mut().new_column(&c.name, c.ty.ty);
            columns.push(ScanColumn { source: 0, id });
        }
        let table = self.b.rel(RelOp::Scan { input, columns }, &[], &[])?;
        Ok(Rel { table, columns: ids })
    }

    fn table_input(&mut self, source: &Source, read: &[usize]) -> InputId {
        if let Some((_, input)) = self.tables.iter().find(|(t, _)| Arc::ptr_eq(t, &source.table)) {
            return *input;
        }
        let table = &source.table;
        let column = |i: &usize| InputColumn { name: table.columns()[*i].name.clone(), ty: table.column_type(*i) };
        let columns = read.iter().map(column).collect();
        let taken = |name: &str| self.b.program().inputs.iter().any(|i| i.name == name);
        let name = if taken(&source.name) {
            (2..).map(|n| format!("{}_{n}", source.name)).find(|n| !taken(n)).unwrap_or_default()
        } else {
            source.name.clone()
        };
        let input = self.b.program_mut().new_input(name, InputKind::Table(columns));
        self.inputs.push(InputSource::Table(source.table.clone(), read.to_vec()));
        self.tables.push((source.table.clone(), input));
        input
    }

    /// Columns for expressions: those of plain columns as they are, the others added to the table.
    pub(crate) fn extend(
        &mut self,
        table: ValueId,
        schema: &DFSchemaRef,
        columns: &[ColumnId],
        exprs: &[&Expr],
    ) -> Result<(ValueId, Vec<ColumnId>)> {
        let table = self.hoist(table, schema, columns, exprs)?;
        let scope = Scope { schema, columns };
        let table_type = self.table_type(table);
        let mut ids: Vec<Option<ColumnId>> = vec![];
        let mut values: Vec<ValueId> = vec![];
        let mut added: Vec<ColumnId> = vec![];
        self.b.begin_region(&[], vec![table_type]);
        for e in exprs {
            if let Expr::Column(column) = unalias(e) {
                ids.push(Some(self.column(column, scope)?));
                continue;
            }
            let value = self.expr(e, scope)?;
            let id = match values.iter().position(|v| *v == value) {
                Some(i) => added[i],
                None => {
                    let ty = self.row_type(value).ty;
                    let id = self.b.program_mut().new_column(name_of(e), ty);
                    values.push(value);
                    added.push(id);
                    id
                }
            };
            ids.push(Some(id));
        }
        let region = self.b.end_region(&values);
        let table = match added.is_empty() {
            true => table,
            false => self.b.rel(RelOp::Extend { columns: added }, &[table], &[region])?,
        };
        Ok((table, ids.into_iter().flatten().collect()))
    }

    fn project(&mut self, input: Rel, schema: &DFSchemaRef, exprs: &[Expr], used: &[bool]) -> Result<Rel> {
        let live: Vec<&Expr> = exprs.iter().zip(used).filter(|(_, used)| **used).map(|(e, _)| e).collect();
        let (table, ids) = self.extend(input.table, schema, &input.columns, &live)?;
        let mut ids = ids.into_iter();
        let mut columns = vec![];
        for (e, used) in exprs.iter().zip(used) {
            columns.push(match if *used { ids.next() } else { None } {
                Some(id) => id,
                // Nothing reads it: an id that no table carries.
                None => self.b.program_mut().new_column(name_of(e), ScalarType::I32),
            });
        }
        Ok(Rel { table, columns })
    }

    /// The table with a column of its own for each position.
    pub(super) fn distinct_columns(
        &mut self,
        table: ValueId,
        columns: &[ColumnId],
    ) -> Result<(ValueId, Vec<ColumnId>)> {
        let mut seen = HashSet::new();
        let mut all = columns.to_vec();
        let mut copies = vec![];
        for id in &mut all {
            if !seen.insert(*id) {
                let info = self.b.program().columns[id.index()].clone();
                let copy = self.b.program_mut().new_column(info.name, info.ty);
                copies.push((*id, copy));
                *id = copy;
            }
        }
        if copies.is_empty() {
            return Ok((table, all));
        }
        let added: Vec<ColumnId> = copies.iter().map(|(_, copy)| *copy).collect();
        let table = self.b.extend(table, &added, |b| copies.iter().map(|(from, _)| b.col(*from)).collect())?;
        Ok((table, all))
    }

    fn filter(&mut self, input: Rel, schema: &DFSchemaRef, predicate: &Expr) -> Result<Rel> {
        let mut table = input.table;
        let mut parts = conjuncts(predicate);
        if parts.iter().any(|e| subquery::is_hoisted(e)) {
            // What is cheap and never raises leaves fewer rows for the subqueries and the models.
            let (cheap, dear): (Vec<&Expr>, Vec<&Expr>) =
                parts.into_iter().partition(|e| is_plain(e, schema) && !subquery::is_hoisted(e));
            if !cheap.is_empty() {
                let region = self.predicate(&[table], &cheap, schema, &input.columns)?;
                table = self.b.rel(RelOp::Filter, &[table], &[region])?;
            }
            parts = dear;
        }
        let mut rest = vec![];
        for part in parts {
            match self.semi_join(table, schema, &input.columns, part)? {
                Some(joined) => table = joined,
                None => rest.push(part),
            }
        }
        if !rest.is_empty() {
            table = self.hoist(table, schema, &input.columns, &rest)?;
            let region = self.predicate(&[table], &rest, schema, &input.columns)?;
            table = self.b.rel(RelOp::Filter, &[table], &[region])?;
        }
        Ok(Rel { table, columns: input.columns })
    }

    /// A row region that is true where all of these are.
    fn predicate(
        &mut self,
        tables: &[ValueId],
        parts: &[&Expr],
        schema: &DFSchemaRef,
        columns: &[ColumnId],
    ) -> Result<RegionId> {
        let types = tables.iter().map(|t| self.table_type(*t)).collect();
        self.b.begin_region(&[], types);
        let scope = Scope { schema, columns };
        let mut all = None;
        for part in parts {
            all = Some(self.and(all, part, scope)?);
        }
        let all = match all {
            Some(all) => all,
            None => self.literal(Value::Bool(true), ScalarType::Bool)?,
        };
        Ok(self.b.end_region(&[all]))
    }

    /// Both, with the second evaluated only where the first is true: a conjunct that can raise stays behind those before it.
    fn and(&mut self, before: Option<ValueId>, part: &Expr, scope: Scope<'_>) -> Result<ValueId> {
        match before {
            None => {
                let v = self.expr(part, scope)?;
                self.cast(v, ScalarType::Bool)
            }
            Some(before) => self.logic_with(ScalarOp::And, before, part, scope),
        }
    }

    fn sort(&mut self, input: Rel, schema: &DFSchemaRef, keys: &[SortExpr], limit: Option<usize>) -> Result<Rel> {
        let (table, keys) = self.sort_keys(input.table, schema, &input.columns, keys)?;
        let table = self.b.rel(RelOp::Sort { keys, limit: limit.map(|n| n as u64) }, &[table], &[])?;
        Ok(Rel { table, columns: input.columns })
    }

    /// The keys of an ordering, as columns.
    pub(crate) fn sort_keys(
        &mut self,
        table: ValueId,
        schema: &DFSchemaRef,
        columns: &[ColumnId],
        keys: &[SortExpr],
    ) -> Result<(ValueId, Vec<SortKey>)> {
        let exprs: Vec<&Expr> = keys.iter().map(|k| &k.expr).collect();
        let (table, ids) = self.extend(table, schema, columns, &exprs)?;
        let key =
            |(k, id): (&SortExpr, ColumnId)| SortKey { column: id, descending: !k.asc, nulls_first: k.nulls_first };
        Ok((table, keys.iter().zip(ids).map(key).collect()))
    }

    fn limit(&mut self, limit: &Limit) -> Result<Rel> {
        let wrong = |e| translate(e, &Lines::new(""), &crate::catalog::Catalog::default());
        let offset = match limit.get_skip_type().map_err(wrong)? {
            SkipType::Literal(n) => Some(n as u64),
            SkipType::UnsupportedExpr => None,
        };
        let count = match limit.get_fetch_type().map_err(wrong)? {
            FetchType::Literal(n) => Some(n.map(|n| n as u64)),
            FetchType::UnsupportedExpr => None,
        };
        let input = self.plan(&limit.input)?;
        let (Some(offset), Some(count)) = (offset, count) else { return self.computed_limit(limit, input) };
        let table = self.b.rel(RelOp::Limit { offset, count }, &[input.table], &[])?;
        Ok(Rel { table, columns: input.columns })
    }

    /// A limit that is known when the query runs: rows are numbered, and those within it stay. NULL is no limit.
    fn computed_limit(&mut self, limit: &Limit, input: Rel) -> Result<Rel> {
        let (table, number) = self.row_numbers(input.table, vec![])?;
        let table_type = self.table_type(table);
        self.b.begin_region(&[], vec![table_type]);
        let empty = datafusion_common::DFSchema::empty();
        let scope = Scope { schema: &empty, columns: &[] };
        let zero = self.literal(Value::I64(0), ScalarType::I64)?;
        let bound = |importer: &mut Self, e: Option<&Expr>, what: &str| -> Result<Option<ValueId>> {
            let Some(e) = e else { return Ok(None) };
            if has_subquery(e) {
                return Err(Error::unsupported(format!("a subquery in {what}")));
            }
            let v = importer.expr(e, scope)?;
            if !matches!(importer.row_type(v).ty, ScalarType::I32 | ScalarType::I64) {
                return Err(Error::meaning(format!("{what} takes an integer")));
            }
            Ok(Some(importer.cast(v, ScalarType::I64)?))
        };
        let skip = bound(self, limit.skip.as_deref(), "OFFSET")?;
        let fetch = bound(self, limit.fetch.as_deref(), "LIMIT")?;
        let number = self.b.col(number)?;
        // A negative number is none of these rows; NULL leaves all.
        let skip = match skip {
            Some(skip) => self.op(ScalarOp::Coalesce, &[skip, zero])?,
            None => zero,
        };
        let rest = self.op(ScalarOp::Sub, &[number, skip])?;
        let mut keep = self.op(ScalarOp::Gt, &[rest, zero])?;
        if let Some(fetch) = fetch {
            let within = self.op(ScalarOp::Le, &[rest, fetch])?;
            let all = self.op(ScalarOp::IsNull, &[fetch])?;
            let within = self.op(ScalarOp::Or, &[within, all])?;
            keep = self.op(ScalarOp::And, &[keep, within])?;
        }
        let region = self.b.end_region(&[keep]);
        let table = self.b.rel(RelOp::Filter, &[table], &[region])?;
        Ok(Rel { table, columns: input.columns })
    }

    fn union(&mut self, union: &Union) -> Result<Rel> {
        let mut inputs = vec![];
        for plan in &union.inputs {
            inputs.push(self.plan(plan)?);
        }
        let names: Vec<String> = union.schema.fields().iter().map(|f| f.name().clone()).collect();
        self.union_of(inputs, &names)
    }

    /// All rows of all tables, in columns of common types.
    pub(crate) fn union_of(&mut self, mut inputs: Vec<Rel>, names: &[String]) -> Result<Rel> {
        let width = inputs.first().map_or(0, |r| r.columns.len());
        let mut types: Vec<ScalarType> = vec![];
        for i in 0..width {
            let mut common: Option<ScalarType> = None;
            for input in &inputs {
                let ty = self.b.program().columns[input.columns[i].index()].ty;
                common = match common {
                    None => Some(ty),
                    Some(c) => Some(common_type(c, ty).ok_or_else(|| {
                        Error::meaning(format!("column {} has types that do not go together: {c} and {ty}", i + 1))
                    })?),
                };
            }
            types.extend(common);
        }
        for input in &mut inputs {
            *input = self.cast_columns(input, &types)?;
        }
        let columns: Vec<ColumnId> =
            types.iter().zip(names).map(|(ty, name)| self.b.program_mut().new_column(name, *ty)).collect();
        let tables: Vec<ValueId> = inputs.iter().map(|r| r.table).collect();
        let inputs = inputs.into_iter().map(|r| r.columns).collect();
        let table = self.b.rel(RelOp::Union { inputs, columns: columns.clone() }, &tables, &[])?;
        Ok(Rel { table, columns })
    }

    pub(super) fn cast_columns(&mut self, input: &Rel, types: &[ScalarType]) -> Result<Rel> {
        let mut columns = input.columns.clone();
        let mut casts = vec![];
        for (id, ty) in columns.iter_mut().zip(types) {
            let info = self.b.program().columns[id.index()].clone();
            if info.ty != *ty {
                let new = self.b.program_mut().new_column(info.name, *ty);
                casts.push((*id, new, *ty));
                *id = new;
            }
        }
        if casts.is_empty() {
            return Ok(input.clone());
        }
        let added: Vec<ColumnId> = casts.iter().map(|(_, new, _)| *new).collect();
        let table_type = self.table_type(input.table);
        self.b.begin_region(&[], vec![table_type]);
        let mut values = vec![];
        for (from, _, ty) in casts {
            let v = self.b.col(from)?;
            values.push(self.cast(v, ty)?);
        }
        let region = self.b.end_region(&values);
        let table = self.b.rel(RelOp::Extend { columns: added }, &[input.table], &[region])?;
        Ok(Rel { table, columns })
    }

    fn values(&mut self, values: &Values) -> Result<Rel> {
        let mut tables = vec![];
        let empty: DFSchemaRef = Arc::new(datafusion_common::DFSchema::empty());
        let mut constant_rows = vec![];
        let mut types: Vec<Option<ScalarType>> = vec![None; values.schema.fields().len()];
        for row in &values.values {
            let one = self.rows(1)?;
            let exprs: Vec<&Expr> = row.iter().collect();
            match self.constant_row(&exprs, &empty)? {
                Some(row) => {
                    for (slot, (_, ty)) in types.iter_mut().zip(&row) {
                        *slot = Some(match slot {
                            None => *ty,
                            Some(t) => common_type(*t, *ty).unwrap_or(*t),
                        });
                    }
                    constant_rows.push(row.into_iter().map(|(v, _)| v).collect::<Vec<_>>());
                }
                None => {
                    let (table, columns) = self.extend(one.table, &empty, &[], &exprs)?;
                    tables.push(Rel { table, columns });
                }
            }
        }
        let names: Vec<String> = values.schema.fields().iter().map(|f| f.name().clone()).collect();
        if tables.is_empty() {
            return self.constant_table(constant_rows, &types, &names);
        }
        if !constant_rows.is_empty() {
            // Rows keep their order: evaluate all of them alike.
            tables.clear();
            for row in &values.values {
                let one = self.rows(1)?;
                let exprs: Vec<&Expr> = row.iter().collect();
                let (table, columns) = self.extend(one.table, &empty, &[], &exprs)?;
                tables.push(Rel { table, columns });
            }
        }
        self.union_of(tables, &names)
    }

    /// The values of a row of constants; `None` if one of them must be computed.
    fn constant_row(&mut self, exprs: &[&Expr], empty: &DFSchemaRef) -> Result<Option<Vec<(Value, ScalarType)>>> {
        let scope = Scope { schema: empty, columns: &[] };
        self.b.begin_region(&[], vec![]);
        let mut row = Some(vec![]);
        for e in exprs {
            if !matches!(e, Expr::Literal(..) | Expr::Cast(_)) {
                row = None;
                break;
            }
            let v = self.expr(e, scope)?;
            match (self.constant(v), &mut row) {
                (Some(value), Some(row)) => row.push((value, self.row_type(v).ty)),
                _ => row = None,
            }
            if row.is_none() {
                break;
            }
        }
        self.b.end_region(&[]);
        Ok(row)
    }

    fn constant_table(&mut self, rows: Vec<Vec<Value>>, types: &[Option<ScalarType>], names: &[String]) -> Result<Rel> {
        let mut columns = vec![];
        for (i, (ty, name)) in types.iter().zip(names).enumerate() {
            let ty = ty.unwrap_or(ScalarType::Text);
            let nullable = rows.iter().any(|r| r[i].is_null());
            let id = self.b.program_mut().new_column(name, ty);
            columns.push(Column { id, ty: ty.nullable(nullable) });
        }
        let ids = columns.iter().map(|c| c.id).collect();
        let table = self.b.rel(RelOp::Values { columns, rows }, &[], &[])?;
        Ok(Rel { table, columns: ids })
    }

    fn join(&mut self, join: &Join) -> Result<Rel> {
        if join.null_aware {
            return Err(Error::unsupported("a null-aware anti join"));
        }
        let mut left = self.plan(&join.left)?;
        if is_lateral(&join.right) {
            return self.lateral(join, left);
        }
        let mut right = self.plan(&join.right)?;
        if is_bag_operation(join) {
            return self.bag_operation(join, &left, &right);
        }
        let (a, b): (Vec<&Expr>, Vec<&Expr>) = join.on.iter().map(|(a, b)| (a, b)).unzip();
        left.table = self.hoist(left.table, join.left.schema(), &left.columns, &a)?;
        right.table = self.hoist(right.table, join.right.schema(), &right.columns, &b)?;
        if join.join_type != JoinType::Inner
            && let Some(filter) = &join.filter
        {
            self.hoist_into_sides(join, filter, &mut left, &mut right)?;
        }
        let swapped = matches!(join.join_type, JoinType::RightSemi | JoinType::RightAnti);
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Inner,
            JoinType::Left => JoinKind::Left,
            JoinType::Right => JoinKind::Right,
            JoinType::Full => JoinKind::Full,
            JoinType::LeftSemi | JoinType::RightSemi => JoinKind::Semi,
            JoinType::LeftAnti | JoinType::RightAnti => JoinKind::Anti,
            JoinType::LeftMark | JoinType::RightMark => return Err(Error::unsupported("a mark join in a plan")),
        };
        let region = self.join_predicate(join, &left, &right)?;
        let operands = if swapped { [right.table, left.table] } else { [left.table, right.table] };
        let table = self.b.rel(RelOp::Join { kind }, &operands, &[region])?;
        let columns = match (kind.has_right(), swapped) {
            (true, _) => left.columns.iter().chain(&right.columns).copied().collect(),
            (false, false) => left.columns,
            (false, true) => right.columns,
        };
        let rel = Rel { table, columns };
        match &join.filter {
            Some(filter) if subquery::is_hoisted(filter) && join.join_type == JoinType::Inner => {
                self.filter(rel, &join.schema, filter)
            }
            _ => Ok(rel),
        }
    }

    /// The row region of a join's condition. A condition with subqueries or with the host's functions
    /// becomes a filter behind an inner join.
    fn join_predicate(&mut self, join: &Join, left: &Rel, right: &Rel) -> Result<RegionId> {
        let filter = join.filter.as_ref();
        let behind = filter.is_some_and(subquery::is_hoisted) && join.join_type == JoinType::Inner;
        let types = vec![self.table_type(left.table), self.table_type(right.table)];
        self.b.begin_region(&[], types);
        let mut all = None;
        let equality = match join.null_equality {
            NullEquality::NullEqualsNothing => ScalarOp::Eq,
            NullEquality::NullEqualsNull => ScalarOp::IsNotDistinct,
        };
        for (a, b) in &join.on {
            let a = self.operand(a, Scope { schema: join.left.schema(), columns: &left.columns })?;
            let b = self.operand(b, Scope { schema: join.right.schema(), columns: &right.columns })?;
            let equal = self.compare(equality, a, b)?;
            all = Some(match all {
                None => equal,
                Some(before) => self.op(ScalarOp::And, &[before, equal])?,
            });
        }
        let both: Vec<ColumnId> = left.columns.iter().chain(&right.columns).copied().collect();
        let schema = Arc::new(join.left.schema().join(join.right.schema()).map_err(|e| Error::Bug(e.to_string()))?);
        if let Some(filter) = filter.filter(|_| !behind) {
            let scope = Scope { schema: &schema, columns: &both };
            for part in conjuncts(filter) {
                all = Some(self.and(all, part, scope)?);
            }
        }
        let all = match all {
            Some(all) => all,
            None => self.literal(Value::Bool(true), ScalarType::Bool)?,
        };
        Ok(self.b.end_region(&[all]))
    }

    /// Makes columns of the subqueries and of the host's functions in an outer join's condition, each on the side that it reads.
    fn hoist_into_sides(&mut self, join: &Join, filter: &Expr, left: &mut Rel, right: &mut Rel) -> Result<()> {
        for subquery in subquery::outermost(filter) {
            let reads = |schema: &DFSchemaRef| subquery::reads_from(subquery, schema);
            let (on_left, on_right) = (reads(join.left.schema()), reads(join.right.schema()));
            let (side, schema) = match (on_left, on_right) {
                (true, true) => {
                    return Err(Error::unsupported(
                        "a subquery or a model in the condition of an outer join that reads both of its sides",
                    ));
                }
                (true, false) => (&mut *left, join.left.schema()),
                (false, _) => (&mut *right, join.right.schema()),
            };
            side.table = self.hoist(side.table, schema, &side.columns, &[subquery])?;
        }
        Ok(())
    }

    /// `EXCEPT ALL` and `INTERSECT ALL`: the n-th of equal rows on the left meets the n-th on the right.
    fn bag_operation(&mut self, join: &Join, left: &Rel, right: &Rel) -> Result<Rel> {
        let kind = if join.join_type == JoinType::LeftSemi { JoinKind::Semi } else { JoinKind::Anti };
        let types: Vec<ScalarType> = left
            .columns
            .iter()
            .zip(&right.columns)
            .map(|(a, b)| {
                let (a, b) = (self.column_type_of(*a), self.column_type_of(*b));
                common_type(a, b).ok_or_else(|| {
                    Error::meaning(format!(
                        "columns of {} and {} do not go together",
                        sql_type_name(a),
                        sql_type_name(b)
                    ))
                })
            })
            .collect::<Result<_>>()?;
        let (left, right) = (self.cast_columns(left, &types)?, self.cast_columns(right, &types)?);
        let (left_table, left_number) = self.numbered(&left)?;
        let (right_table, right_number) = self.numbered(&right)?;
        let tables = vec![self.table_type(left_table), self.table_type(right_table)];
        self.b.begin_region(&[], tables);
        let (a, b) = (self.b.col(left_number)?, self.b.col(right_number)?);
        let mut all = self.op(ScalarOp::Eq, &[a, b])?;
        for (a, b) in left.columns.iter().zip(&right.columns) {
            let (a, b) = (self.b.col(*a)?, self.b.col(*b)?);
            let same = self.compare(ScalarOp::IsNotDistinct, a, b)?;
            all = self.op(ScalarOp::And, &[all, same])?;
        }
        let region = self.b.end_region(&[all]);
        let table = self.b.rel(RelOp::Join { kind }, &[left_table, right_table], &[region])?;
        Ok(Rel { table, columns: left.columns })
    }

    /// The table with the number of each row among the rows that are equal to it.
    fn numbered(&mut self, rel: &Rel) -> Result<(ValueId, ColumnId)> {
        let mut partition = vec![];
        for id in &rel.columns {
            if !partition.contains(id) {
                partition.push(*id);
            }
        }
        self.row_numbers(rel.table, partition)
    }

    /// The table with the rows of each partition numbered from 1.
    fn row_numbers(&mut self, table: ValueId, partition: Vec<ColumnId>) -> Result<(ValueId, ColumnId)> {
        let number = self.b.program_mut().new_column("number", ScalarType::I64);
        let frame = Frame { unit: FrameUnit::Rows, start: FrameBound::Unbounded, end: FrameBound::Unbounded };
        let columns = vec![WindowColumn { func: WindowFunc::RowNumber, arg: None, frame, out: number }];
        let table = self.b.rel(RelOp::Window { partition, order: vec![], columns }, &[table], &[])?;
        Ok((table, number))
    }

    /// A join whose right side may read the left row.
    fn lateral(&mut self, join: &Join, left: Rel) -> Result<Rel> {
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Inner,
            JoinType::Left => JoinKind::Left,
            other => return Err(Error::unsupported(format!("a {other} join with LATERAL"))),
        };
        let left_type = self.table_type(left.table);
        self.outer.push(OuterScope { schema: join.left.schema().clone(), columns: left.columns.clone() });
        self.b.begin_region(&[], vec![left_type]);
        let right = self.plan(&join.right);
        self.outer.pop();
        let right = right?;
        let region = self.b.end_region(&[right.table]);
        if join.filter.as_ref().is_some_and(has_subquery) {
            return Err(Error::unsupported("a subquery in the condition of a join with LATERAL"));
        }
        let predicate = self.join_predicate(join, &left, &right)?;
        let table = self.b.rel(RelOp::DependentJoin { kind }, &[left.table], &[region, predicate])?;
        Ok(Rel { table, columns: left.columns.into_iter().chain(right.columns).collect() })
    }
}

/// Whether a join's right side is a subquery that may read the left row.
fn is_lateral(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Subquery(_) => true,
        LogicalPlan::SubqueryAlias(a) => is_lateral(&a.input),
        _ => false,
    }
}

/// Whether a join stands for `EXCEPT ALL` or `INTERSECT ALL`: without `ALL` its left rows are distinct, and then both mean the
/// same.
fn is_bag_operation(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(_))
}

/// The parts of a conjunction, in order.
pub(crate) fn conjuncts(e: &Expr) -> Vec<&Expr> {
    let mut parts = vec![];
    let mut open = vec![e];
    while let Some(e) = open.pop() {
        match e {
            Expr::BinaryExpr(b) if b.op == datafusion_expr::Operator::And => {
                open.push(&b.right);
                open.push(&b.left);
            }
            Expr::Alias(alias) => open.push(&alias.expr),
            other => parts.push(other),
        }
    }
    parts
}

/// Whether a subquery stands in an expression.
pub(crate) fn has_subquery(e: &Expr) -> bool {
    use datafusion_common::tree_node::TreeNode;
    let is_subquery = |e: &Expr| {
        matches!(e, Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) | Expr::ScalarSubquery(_))
    };
    e.exists(|e| Ok(is_subquery(e))).unwrap_or(false)
}

pub(crate) fn unalias(e: &Expr) -> &Expr {
    match e {
        Expr::Alias(alias) => unalias(&alias.expr),
        other => other,
    }
}

/// The print hint of a column.
fn name_of(e: &Expr) -> String {
    match e {
        Expr::Alias(alias) => alias.name.clone(),
        Expr::Column(column) => column.name.clone(),
        _ => String::new(),
    }
}
