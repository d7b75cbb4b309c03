//! Aggregates and DISTINCT.

use std::any::Any;
use std::sync::Arc;

use datafusion_common::DFSchemaRef;
use datafusion_expr::Expr;
use datafusion_expr::expr::AggregateFunction;
use datafusion_expr::expr::GroupingSet;
use datafusion_expr::logical_plan::{Aggregate, Distinct, DistinctOn};
use ir::entity::{ColumnId, ValueId};
use ir::graph::RelOp;
use ir::graph::rel::{self, SortKey};
use ir::scalar::reduce::Reducer;
use ir::types::ScalarType;
use ir::value::Value;

use crate::binder::AggregateStub;
use crate::error::{Error, Result};
use crate::functions::{AGGREGATES, AggregateMake};
use crate::import::composite::{Composite, Finish, Group};
use crate::import::expr::convert;
use crate::import::types::from_arrow;
use crate::import::window::constant;
use crate::import::{Importer, Rel, unalias};

/// Keys of a `CUBE`: it has 2^keys sets.
const MAX_CUBE: usize = 12;

impl Importer {
    pub(crate) fn aggregate(&mut self, a: &Aggregate) -> Result<Rel> {
        let input = self.plan(&a.input)?;
        let schema = a.input.schema();
        match a.group_expr.as_slice() {
            [Expr::GroupingSet(sets)] => self.grouping_sets(a, sets, &input, schema),
            keys => {
                let keys: Vec<&Expr> = keys.iter().collect();
                self.group(&input, schema, &keys, &a.aggr_expr)
            }
        }
    }

    /// One row a group: a column for each key, then for each aggregate.
    fn group(&mut self, input: &Rel, schema: &DFSchemaRef, keys: &[&Expr], aggregates: &[Expr]) -> Result<Rel> {
        let calls: Vec<&AggregateFunction> = aggregates.iter().map(aggregate_call).collect::<Result<_>>()?;
        let mut exprs = keys.to_vec();
        for call in &calls {
            exprs.extend(column_arguments(call)?);
            exprs.extend(call.params.filter.as_deref());
            exprs.extend(call.params.order_by.iter().map(|k| &k.expr));
        }
        let (mut table, ids) = self.extend(input.table, schema, &input.columns, &exprs)?;
        let mut ids = ids.into_iter();
        let key_columns: Vec<ColumnId> = ids.by_ref().take(keys.len()).collect();
        let mut unique = vec![];
        for id in &key_columns {
            if !unique.contains(id) {
                unique.push(*id);
            }
        }
        let mut made: Vec<rel::Aggregate> = vec![];
        let mut results = vec![];
        for (call, e) in calls.iter().zip(aggregates) {
            let args: Vec<ColumnId> = ids.by_ref().take(column_arguments(call)?.len()).collect();
            let filter = call.params.filter.as_ref().and_then(|_| ids.next());
            let order: Vec<SortKey> = call
                .params
                .order_by
                .iter()
                .zip(&mut ids)
                .map(|(k, column)| SortKey { column, descending: !k.asc, nulls_first: k.nulls_first })
                .collect();
            let group = Group { keys: &unique, filter };
            match make_of(call)? {
                AggregateMake::Grouping => results.push(Made::Grouping(missing_keys(call, keys)?)),
                AggregateMake::Reduce(reducer)
                    if order.is_empty() || !matches!(reducer, Reducer::First | Reducer::Last) =>
                {
                    let arg = args.first().copied();
                    let reducer = if arg.is_none() { Reducer::CountAll } else { reducer };
                    let distinct = call.params.distinct && !matches!(reducer, Reducer::Min | Reducer::Max);
                    let same = made
                        .iter()
                        .find(|a| (a.reducer, a.arg, a.distinct, a.filter) == (reducer, arg, distinct, filter));
                    if let Some(same) = same {
                        results.push(Made::Composite(Finish::Plain(same.out)));
                        continue;
                    }
                    let arg_type = arg.map(|id| self.column_type_of(id).nullable(true));
                    let ty = reducer.result_type(arg_type).map_err(|e| Error::meaning(e.to_string()))?.ty;
                    let out = self.b.program_mut().new_column(e.schema_name().to_string(), ty);
                    made.push(rel::Aggregate { reducer, arg, distinct, filter, out });
                    results.push(Made::Composite(Finish::Plain(out)));
                }
                make => {
                    let composite = self.composite(&mut table, &group, call, make, &args, order)?;
                    made.extend(composite.aggregates);
                    results.push(Made::Composite(composite.finish));
                }
            }
        }
        let mut table = self.b.rel(RelOp::Group { keys: unique, aggregates: made }, &[table], &[])?;
        let mut columns = key_columns;
        for result in results {
            columns.push(match result {
                Made::Composite(finish) => self.finish_composite(&mut table, &finish)?,
                Made::Grouping(bits) => {
                    let id = self.b.program_mut().new_column("grouping", ScalarType::I32);
                    table = self.b.extend(table, &[id], |b| Ok(vec![b.literal(Value::I32(bits), ScalarType::I32)?]))?;
                    id
                }
            });
        }
        Ok(Rel { table, columns })
    }

    /// An aggregate that is no reducer.
    fn composite(
        &mut self,
        table: &mut ValueId,
        group: &Group<'_>,
        call: &AggregateFunction,
        make: AggregateMake,
        args: &[ColumnId],
        order: Vec<SortKey>,
    ) -> Result<Composite> {
        let name = call.func.name();
        if call.params.distinct && make != AggregateMake::Concat {
            return Err(Error::unsupported(format!("DISTINCT in {name}")));
        }
        let arg = |i: usize| args.get(i).copied().ok_or_else(|| Error::Bug(format!("{name} lacks an argument")));
        match make {
            AggregateMake::Reduce(Reducer::First) => self.first_by(table, group, arg(0)?, order, &[], false),
            AggregateMake::Reduce(Reducer::Last) => self.first_by(table, group, arg(0)?, order, &[], true),
            AggregateMake::AnyValue if order.is_empty() => self.any_value(table, group, arg(0)?),
            AggregateMake::AnyValue => self.first_by(table, group, arg(0)?, order, &[arg(0)?], false),
            AggregateMake::CountIf => self.count_if(table, group, arg(0)?),
            AggregateMake::By(greatest) => {
                let key = SortKey { column: arg(1)?, descending: greatest, nulls_first: false };
                self.first_by(table, group, arg(0)?, vec![key], &[arg(0)?, arg(1)?], false)
            }
            AggregateMake::Mode => self.mode(table, group, arg(0)?),
            AggregateMake::Quantile(between) => {
                let descending = order.first().is_some_and(|k| k.descending);
                self.quantile(table, group, arg(0)?, share_of(call)?, descending, between)
            }
            AggregateMake::Concat => {
                let separator = separator_of(name, &call.params.args)?;
                self.concat(table, group, arg(0)?, separator, order, call.params.distinct)
            }
            AggregateMake::Pair(kind) => self.pair(table, group, kind, arg(0)?, arg(1)?),
            AggregateMake::Reduce(_) | AggregateMake::Grouping => Err(Error::Bug(format!("{name} is no composite"))),
        }
    }

    /// A group for each set of keys, one after the other; keys that are not in a set are NULL.
    fn grouping_sets(&mut self, a: &Aggregate, sets: &GroupingSet, input: &Rel, schema: &DFSchemaRef) -> Result<Rel> {
        let all: Vec<Expr> = sets.distinct_expr().into_iter().cloned().collect();
        let sets = expand(sets)?;
        let grouped = |arg: &Expr| all.iter().any(|k| unalias(k) == unalias(arg));
        for call in a.aggr_expr.iter().map(aggregate_call) {
            let call = call?;
            let foreign = call.params.args.iter().find(|arg| !grouped(arg));
            if let (AggregateMake::Grouping, Some(arg)) = (make_of(call)?, foreign) {
                return Err(Error::meaning(format!("{} in grouping is no key of GROUP BY", arg.human_display())));
            }
        }
        let id_field = a.schema.fields().get(all.len()).map(|f| f.data_type().clone());
        let id_type = id_field.as_ref().and_then(from_arrow).unwrap_or(ScalarType::I32);
        let types: Vec<ScalarType> =
            a.schema.fields().iter().map(|f| from_arrow(f.data_type()).unwrap_or(ScalarType::Text)).collect();
        let mut parts = vec![];
        for set in &sets {
            let keys: Vec<&Expr> = set.iter().collect();
            let part = self.group(input, schema, &keys, &a.aggr_expr)?;
            parts.push(self.complete_keys(part, set, &all, &types, id_type)?);
        }
        let names: Vec<String> = a.schema.fields().iter().map(|f| f.name().clone()).collect();
        self.union_of(parts, &names)
    }

    /// The columns of one grouping set in the order of all keys, then the set's number, then the aggregates.
    fn complete_keys(
        &mut self,
        part: Rel,
        set: &[Expr],
        all: &[Expr],
        types: &[ScalarType],
        id_type: ScalarType,
    ) -> Result<Rel> {
        let mut columns = vec![];
        let mut added = vec![];
        let mut bits = 0i64;
        for (i, key) in all.iter().enumerate() {
            match set.iter().position(|k| k == key) {
                Some(position) => columns.push(part.columns[position]),
                None => {
                    bits |= 1 << (all.len() - 1 - i);
                    let ty = types[i];
                    let id = self.b.program_mut().new_column(key.schema_name().to_string(), ty);
                    added.push((id, Value::Null, ty));
                    columns.push(id);
                }
            }
        }
        let number = if id_type == ScalarType::I32 { Value::I32(bits as i32) } else { Value::I64(bits) };
        let id = self.b.program_mut().new_column("grouping_id", id_type);
        added.push((id, number, id_type));
        columns.push(id);
        columns.extend(&part.columns[set.len()..]);
        let ids: Vec<ColumnId> = added.iter().map(|(id, ..)| *id).collect();
        let table = self
            .b
            .extend(part.table, &ids, |b| added.into_iter().map(|(_, value, ty)| b.literal(value, ty)).collect())?;
        Ok(Rel { table, columns })
    }

    pub(crate) fn distinct(&mut self, distinct: &Distinct) -> Result<Rel> {
        match distinct {
            Distinct::All(input) => {
                let rel = self.plan(input)?;
                let mut keys = vec![];
                for id in &rel.columns {
                    if !keys.contains(id) {
                        keys.push(*id);
                    }
                }
                let table = self.b.rel(RelOp::Group { keys, aggregates: vec![] }, &[rel.table], &[])?;
                Ok(Rel { table, columns: rel.columns })
            }
            Distinct::On(on) => self.distinct_on(on),
        }
    }

    /// The first row, in the given order, of each group.
    fn distinct_on(&mut self, on: &DistinctOn) -> Result<Rel> {
        let input = self.plan(&on.input)?;
        let schema = on.input.schema();
        let mut table = input.table;
        if let Some(order) = &on.sort_expr {
            let (extended, keys) = self.sort_keys(table, schema, &input.columns, order)?;
            table = self.b.rel(RelOp::Sort { keys, limit: None }, &[extended], &[])?;
        }
        let exprs: Vec<&Expr> = on.on_expr.iter().chain(&on.select_expr).collect();
        let (table, ids) = self.extend(table, schema, &input.columns, &exprs)?;
        let (on_ids, selected) = ids.split_at(on.on_expr.len());
        let mut keys: Vec<ColumnId> = vec![];
        for id in on_ids {
            if !keys.contains(id) {
                keys.push(*id);
            }
        }
        let mut aggregates = vec![];
        let mut columns = vec![];
        for id in selected {
            let info = self.b.program().columns[id.index()].clone();
            let out = self.b.program_mut().new_column(info.name, info.ty);
            aggregates.push(rel::Aggregate {
                reducer: Reducer::First,
                arg: Some(*id),
                distinct: false,
                filter: None,
                out,
            });
            columns.push(out);
        }
        let table = self.b.rel(RelOp::Group { keys, aggregates }, &[table], &[])?;
        Ok(Rel { table, columns })
    }
}

/// The sets of keys that `GROUPING SETS`, `ROLLUP` and `CUBE` stand for.
fn expand(sets: &GroupingSet) -> Result<Vec<Vec<Expr>>> {
    Ok(match sets {
        GroupingSet::GroupingSets(sets) => sets.clone(),
        GroupingSet::Rollup(keys) => (0..=keys.len()).rev().map(|n| keys[..n].to_vec()).collect(),
        GroupingSet::Cube(keys) => {
            if keys.len() > MAX_CUBE {
                return Err(Error::Limit(format!("CUBE takes at most {MAX_CUBE} keys, not {}", keys.len())));
            }
            let chosen = |bits: usize| keys.iter().enumerate().filter(move |(i, _)| bits & (1 << i) != 0);
            (0..1 << keys.len()).rev().map(|bits| chosen(bits).map(|(_, k)| k.clone()).collect()).collect()
        }
    })
}

fn aggregate_call(e: &Expr) -> Result<&AggregateFunction> {
    match unalias(e) {
        Expr::AggregateFunction(call) => Ok(call),
        other => Err(Error::Bug(format!("{} is not an aggregate", other.schema_name()))),
    }
}

/// The arguments of an aggregate that are columns; none where it counts rows.
fn column_arguments(call: &AggregateFunction) -> Result<&[Expr]> {
    if call.params.null_treatment.is_some() {
        return Err(Error::unsupported(format!("IGNORE NULLS in {}", call.func.name())));
    }
    let args = call.params.args.as_slice();
    Ok(match (make_of(call)?, args) {
        (AggregateMake::Reduce(Reducer::Count), [Expr::Literal(literal, _)])
            if !literal.is_null() && !call.params.distinct =>
        {
            &[]
        }
        (AggregateMake::Grouping, _) => &[],
        (AggregateMake::Quantile(_) | AggregateMake::Concat, [_, _]) => &args[..1],
        _ => args,
    })
}

/// What stands between the texts that an aggregate joins.
pub(crate) fn separator_of(name: &str, args: &[Expr]) -> Result<Arc<str>> {
    match args.get(1).map(constant) {
        None => Ok(",".into()),
        Some(Some((Value::Text(separator), _))) => Ok(separator),
        Some(_) => Err(Error::unsupported(format!("{name} with a separator that is not a constant text"))),
    }
}

/// The share of a quantile.
fn share_of(call: &AggregateFunction) -> Result<f64> {
    let name = call.func.name();
    let Some(e) = call.params.args.get(1) else { return Ok(0.5) };
    let share = constant(e).and_then(|(value, from)| convert(&value, from, ScalarType::F64));
    match share {
        Some(Value::F64(q)) if (0.0..=1.0).contains(&q) => Ok(q),
        Some(Value::F64(q)) => Err(Error::meaning(format!("{name} takes a share between 0 and 1, not {q}"))),
        _ => Err(Error::unsupported(format!("{name} with a share that is not a constant"))),
    }
}

/// Which arguments of `grouping` are not among these keys, a bit each.
fn missing_keys(call: &AggregateFunction, keys: &[&Expr]) -> Result<i32> {
    let args = &call.params.args;
    if args.len() > 31 {
        return Err(Error::meaning("grouping takes at most 31 arguments"));
    }
    let bit = |bits: i32, arg: &Expr| (bits << 1) | i32::from(!keys.iter().any(|k| unalias(k) == unalias(arg)));
    Ok(args.iter().fold(0, bit))
}

/// What an aggregate function becomes.
pub(crate) fn make_of(call: &AggregateFunction) -> Result<AggregateMake> {
    let implementation: &dyn Any = call.func.inner().as_ref();
    let stub = implementation.downcast_ref::<AggregateStub>();
    stub.map(|s| AGGREGATES[s.row].make)
        .ok_or_else(|| Error::unsupported(format!("the aggregate {}", call.func.name())))
}

/// The result of a call.
enum Made {
    Composite(Finish),
    Grouping(i32),
}
