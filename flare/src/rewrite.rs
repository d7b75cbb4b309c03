//! What is settled in a parsed query before names are bound, because the binder would give it another meaning.
//!
//! - A window that builds on a named one (`OVER (w ROWS 1 PRECEDING)`, `WINDOW b AS (a ORDER BY x)`) gets all of its parts.
//! - `FETCH FIRST n ROWS ONLY` becomes `LIMIT n`.
//! - What a recursive query may not have is refused; one that does not read itself is a plain one. The binder would leave the
//!   ORDER BY and LIMIT of both out.
//! - Table functions get the form that [`table_functions`] opens them by.
//! - Long chains of operators become trees of little depth, or are refused.
//! - `~x` becomes `xor(x, -1)`.
//! - Behind `RIGHT` and `FULL JOIN … USING (k)` the name `k` alone is the right side's `k`, or the side's that has one; the
//!   binder takes it for the left side's.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{self, VisitMut, VisitorMut};
use datafusion_sql::sqlparser::tokenizer::Span;

use crate::chains::{Depth, balance};
use crate::error::{Error, Result};
use crate::functions::AGGREGATES;
use crate::sql::normalize;
use crate::table_functions;

/// Rewrites a query and all queries inside. The error comes with its place as the parser counts, if there is one.
pub(crate) fn rewrite(query: &mut ast::Query) -> Result<(), (Error, Option<Span>)> {
    match VisitMut::visit(query, &mut Queries::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(e) => Err(e),
    }
}

/// An error, with its place as the parser counts.
pub(crate) type Refusal = (Error, Option<Span>);

#[derive(Default)]
struct Queries {
    depth: Depth,
}

impl VisitorMut for Queries {
    type Break = Refusal;

    fn post_visit_table_factor(&mut self, factor: &mut ast::TableFactor) -> ControlFlow<Refusal> {
        match table_functions::rewrite(factor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(e),
        }
    }

    fn pre_visit_expr(&mut self, e: &mut ast::Expr) -> ControlFlow<Refusal> {
        balance(e);
        match self.depth.enter(e) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break((e, None)),
        }
    }

    fn post_visit_expr(&mut self, e: &mut ast::Expr) -> ControlFlow<Refusal> {
        self.depth.leave(e);
        match e {
            ast::Expr::Function(call) => match not_distinct_over_window(call) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => ControlFlow::Break(e),
            },
            ast::Expr::UnaryOp { op: ast::UnaryOperator::BitwiseNot, expr } => {
                let ones = ast::Expr::UnaryOp { op: ast::UnaryOperator::Minus, expr: Box::new(one()) };
                *e = call("xor", [(**expr).clone(), ones]);
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    // Inner queries first: their names of windows hide those outside.
    fn post_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<Refusal> {
        let done = named_windows(query).and_then(|()| merged_columns(query)).and_then(|()| fetch(query));
        match done.and_then(|()| recursions(query)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(e),
        }
    }
}

/// `FETCH FIRST n ROWS ONLY` is `LIMIT n`.
fn fetch(query: &mut ast::Query) -> Result<(), Refusal> {
    let Some(fetch) = query.fetch.take() else { return Ok(()) };
    if fetch.with_ties || fetch.percent {
        let construct = if fetch.percent { "FETCH with PERCENT" } else { "FETCH WITH TIES" };
        return Err((Error::unsupported(construct), None));
    }
    let one = || ast::Expr::Value(ast::Value::Number("1".into(), false).into());
    let count = fetch.quantity.unwrap_or_else(one);
    let offset = match query.limit_clause.take() {
        None => None,
        Some(ast::LimitClause::LimitOffset { limit: None, offset, limit_by }) if limit_by.is_empty() => offset,
        Some(_) => return Err((Error::meaning("LIMIT and FETCH say the same: one of them is too much"), None)),
    };
    query.limit_clause = Some(ast::LimitClause::LimitOffset { limit: Some(count), offset, limit_by: vec![] });
    Ok(())
}

/// Looks at the queries of `WITH RECURSIVE` that are unions: those that do not read themselves become plain ones.
fn recursions(query: &mut ast::Query) -> Result<(), Refusal> {
    let Some(with) = query.with.as_mut().filter(|w| w.recursive) else { return Ok(()) };
    for cte in &mut with.cte_tables {
        let name = normalize(&cte.alias.name);
        let at = Some(cte.alias.name.span);
        let ast::SetExpr::SetOperation { op: ast::SetOperator::Union, left, right, .. } = &mut *cte.query.body else {
            continue;
        };
        if reads(&**left, &name).is_some() {
            let message = format!(
                "the recursive query \"{name}\" reads itself in its first part: it is first rows UNION [ALL] a step that reads it"
            );
            return Err((Error::meaning(message), at));
        }
        if reads(&**right, &name).is_none() {
            let inner = cte.query.clone();
            let plain = ast::SetExpr::Query(inner);
            *cte.query.body = plain;
            cte.query.with = None;
            cte.query.order_by = None;
            cte.query.limit_clause = None;
            continue;
        }
        check_step(right, &name)?;
        let beside = [
            (cte.query.order_by.is_some(), "ORDER BY"),
            (cte.query.limit_clause.is_some(), "LIMIT"),
            (cte.query.with.is_some(), "WITH"),
        ];
        if let Some((_, clause)) = beside.iter().find(|(there, _)| *there) {
            let construct =
                format!("{clause} inside of the recursive query \"{name}\"; put it into the query that reads it");
            return Err((Error::unsupported(construct), at));
        }
    }
    Ok(())
}

/// Where a query, or a part of one, reads a table of this name.
fn reads<V: ast::Visit>(part: &V, name: &str) -> Option<Span> {
    let found = ast::visit_relations(part, |relation| match relation.0.as_slice() {
        [ast::ObjectNamePart::Identifier(ident)] if normalize(ident) == name => ControlFlow::Break(ident.span),
        _ => ControlFlow::Continue(()),
    });
    found.break_value()
}

/// Refuses aggregates over the recursive reference, and references inside of subqueries.
fn check_step(step: &ast::SetExpr, name: &str) -> Result<(), Refusal> {
    let mut check = Step { name, selects: vec![] };
    match ast::Visit::visit(step, &mut check) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(e) => Err(e),
    }
}

struct Step<'n> {
    name: &'n str,
    /// For each SELECT around whether it reads the recursive query.
    selects: Vec<bool>,
}

impl ast::Visitor for Step<'_> {
    type Break = Refusal;

    fn pre_visit_select(&mut self, select: &ast::Select) -> ControlFlow<Refusal> {
        self.selects.push(reads(&select.from, self.name).is_some());
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _: &ast::Select) -> ControlFlow<Refusal> {
        self.selects.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, e: &ast::Expr) -> ControlFlow<Refusal> {
        let subquery = match e {
            ast::Expr::Subquery(query) => Some(query),
            ast::Expr::Exists { subquery, .. } | ast::Expr::InSubquery { subquery, .. } => Some(subquery),
            _ => None,
        };
        if let Some(at) = subquery.and_then(|query| reads(&**query, self.name)) {
            let construct = format!("a reference to the recursive query \"{}\" inside of a subquery", self.name);
            return ControlFlow::Break((Error::unsupported(construct), Some(at)));
        }
        let ast::Expr::Function(call) = e else { return ControlFlow::Continue(()) };
        let [ast::ObjectNamePart::Identifier(function)] = call.name.0.as_slice() else {
            return ControlFlow::Continue(());
        };
        let is_aggregate = AGGREGATES.iter().any(|f| f.names.contains(&normalize(function).as_str()));
        if is_aggregate && call.over.is_none() && self.selects.last() == Some(&true) {
            let construct =
                format!("the aggregate {} over the recursive query \"{}\" in its step", normalize(function), self.name);
            return ControlFlow::Break((Error::unsupported(construct), Some(function.span)));
        }
        ControlFlow::Continue(())
    }
}

fn select_of(query: &mut ast::Query) -> Option<&mut ast::Select> {
    match &mut *query.body {
        ast::SetExpr::Select(select) => Some(select),
        _ => None,
    }
}

/// Replaces names of windows by what they stand for.
fn named_windows(query: &mut ast::Query) -> Result<(), Refusal> {
    let Some(select) = select_of(query) else { return Ok(()) };
    let mut known: HashMap<String, ast::WindowSpec> = HashMap::new();
    for ast::NamedWindowDefinition(name, definition) in std::mem::take(&mut select.named_window) {
        let spec = match definition {
            ast::NamedWindowExpr::NamedWindow(other) => window(&known, &other)?.clone(),
            ast::NamedWindowExpr::WindowSpec(spec) => complete(&known, spec)?,
        };
        if known.insert(normalize(&name), spec).is_some() {
            let message = format!("there are two windows of the name \"{}\"", name.value);
            return Err((Error::meaning(message), Some(name.span)));
        }
    }
    let resolved = ast::visit_expressions_mut(query, |e| {
        let ast::Expr::Function(call) = e else { return ControlFlow::Continue(()) };
        let spec = match call.over.take() {
            Some(ast::WindowType::NamedWindow(name)) => window(&known, &name).cloned(),
            Some(ast::WindowType::WindowSpec(spec)) => complete(&known, spec),
            None => return ControlFlow::Continue(()),
        };
        match spec {
            Ok(spec) => {
                call.over = Some(ast::WindowType::WindowSpec(spec));
                ControlFlow::Continue(())
            }
            Err(e) => ControlFlow::Break(e),
        }
    });
    match resolved {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(e) => Err(e),
    }
}

/// Refuses `DISTINCT` in a function over a window.
fn not_distinct_over_window(call: &ast::Function) -> Result<(), Refusal> {
    let ast::FunctionArguments::List(list) = &call.args else { return Ok(()) };
    if call.over.is_none() || list.duplicate_treatment != Some(ast::DuplicateTreatment::Distinct) {
        return Ok(());
    }
    let name = call.name.0.last().and_then(ast::ObjectNamePart::as_ident);
    let construct = format!("DISTINCT in {} over a window", name.map(normalize).unwrap_or_default());
    Err((Error::unsupported(construct), name.map(|n| n.span)))
}

fn window<'k>(known: &'k HashMap<String, ast::WindowSpec>, name: &ast::Ident) -> Result<&'k ast::WindowSpec, Refusal> {
    known.get(&normalize(name)).ok_or_else(|| {
        let help = crate::error::suggest(&normalize(name), known.keys().map(String::as_str));
        (Error::name(format!("there is no window \"{}\" here", name.value), help), Some(name.span))
    })
}

/// A window with the parts of the one that it builds on.
fn complete(known: &HashMap<String, ast::WindowSpec>, mut spec: ast::WindowSpec) -> Result<ast::WindowSpec, Refusal> {
    let Some(name) = spec.window_name.take() else { return Ok(spec) };
    let base = window(known, &name)?;
    let again = |part: &str| {
        let message = format!("the window \"{}\" has {part} already", name.value);
        (Error::meaning(message), Some(name.span))
    };
    if !spec.partition_by.is_empty() {
        return Err(again("a PARTITION BY, or could have"));
    }
    if !spec.order_by.is_empty() && !base.order_by.is_empty() {
        return Err(again("an ORDER BY"));
    }
    if base.window_frame.is_some() {
        return Err(again("a frame"));
    }
    spec.partition_by = base.partition_by.clone();
    if spec.order_by.is_empty() {
        spec.order_by = base.order_by.clone();
    }
    Ok(spec)
}

/// Which value a merged column has.
#[derive(Clone, Copy)]
enum Side {
    Right,
    Either,
}

/// Replaces columns that `RIGHT` and `FULL JOIN … USING` merge by their values.
fn merged_columns(query: &mut ast::Query) -> Result<(), Refusal> {
    let Some(select) = select_of(query) else { return Ok(()) };
    let alone = matches!(select.from.as_slice(), [t] if t.joins.len() == 1);
    let mut merged: HashMap<String, ast::Expr> = HashMap::new();
    let mut order: Vec<String> = vec![];
    for from in &select.from {
        for join in &from.joins {
            let (side, kind, constraint) = match &join.join_operator {
                ast::JoinOperator::Right(c) | ast::JoinOperator::RightOuter(c) => (Side::Right, "RIGHT", c),
                ast::JoinOperator::FullOuter(c) => (Side::Either, "FULL", c),
                _ => continue,
            };
            let keys = match constraint {
                ast::JoinConstraint::Using(keys) => keys,
                ast::JoinConstraint::Natural => {
                    return Err((Error::unsupported(format!("NATURAL {kind} JOIN; name the columns with ON")), None));
                }
                ast::JoinConstraint::On(_) | ast::JoinConstraint::None => continue,
            };
            let span = keys.first().and_then(|k| k.0.first()?.as_ident()).map(|i| i.span);
            let names = (relation_name(&from.relation), relation_name(&join.relation));
            let (true, (Some(left), Some(right))) = (alone, names) else {
                let construct = format!("{kind} JOIN ... USING beside other joins; write the condition with ON");
                return Err((Error::unsupported(construct), span));
            };
            for key in keys {
                let Some(key) = key.0.last().and_then(|k| k.as_ident()) else { continue };
                let of = |table: &ast::Ident| ast::Expr::CompoundIdentifier(vec![table.clone(), key.clone()]);
                let value = match side {
                    Side::Right => of(&right),
                    Side::Either => coalesce(of(&left), of(&right)),
                };
                order.push(normalize(key));
                merged.insert(normalize(key), value);
            }
        }
    }
    if merged.is_empty() {
        return Ok(());
    }
    let mut replace = Replace { merged: &merged, depth: 0 };
    let mut items = vec![];
    for item in std::mem::take(&mut select.projection) {
        match item {
            ast::SelectItem::UnnamedExpr(ast::Expr::Identifier(name)) if merged.contains_key(&normalize(&name)) => {
                let expr = merged[&normalize(&name)].clone();
                items.push(ast::SelectItem::ExprWithAlias { expr, alias: name });
            }
            ast::SelectItem::Wildcard(mut options) if options.opt_exclude.is_none() && options.opt_except.is_none() => {
                let named = |k: &String| ast::SelectItem::ExprWithAlias {
                    expr: merged[k].clone(),
                    alias: ast::Ident::with_quote('"', k.clone()),
                };
                items.extend(order.iter().map(named));
                let name = |k: &String| ast::ObjectName::from(ast::Ident::with_quote('"', k.clone()));
                options.opt_exclude = Some(ast::ExcludeSelectItem::Multiple(order.iter().map(name).collect()));
                items.push(ast::SelectItem::Wildcard(options));
            }
            mut item => {
                let _ = VisitMut::visit(&mut item, &mut replace);
                items.push(item);
            }
        }
    }
    select.projection = items;
    let outputs: Vec<String> = select
        .projection
        .iter()
        .filter_map(|i| match i {
            ast::SelectItem::ExprWithAlias { alias, .. } => Some(normalize(alias)),
            _ => None,
        })
        .collect();
    for e in [&mut select.selection, &mut select.having, &mut select.qualify].into_iter().flatten() {
        let _ = VisitMut::visit(e, &mut replace);
    }
    if let ast::GroupByExpr::Expressions(keys, _) = &mut select.group_by {
        for key in keys {
            let _ = VisitMut::visit(key, &mut replace);
        }
    }
    if let Some(ast::OrderBy { kind: ast::OrderByKind::Expressions(keys), .. }) = &mut query.order_by {
        for key in keys {
            // The name of an output is one already.
            let output = matches!(&key.expr, ast::Expr::Identifier(name) if outputs.contains(&normalize(name)));
            if !output {
                let _ = VisitMut::visit(&mut key.expr, &mut replace);
            }
        }
    }
    Ok(())
}

struct Replace<'m> {
    merged: &'m HashMap<String, ast::Expr>,
    depth: usize,
}

impl VisitorMut for Replace<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut ast::Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut ast::Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, e: &mut ast::Expr) -> ControlFlow<()> {
        if self.depth == 0
            && let ast::Expr::Identifier(name) = e
            && let Some(value) = self.merged.get(&normalize(name))
        {
            *e = value.clone();
        }
        ControlFlow::Continue(())
    }
}

fn relation_name(factor: &ast::TableFactor) -> Option<ast::Ident> {
    match factor {
        ast::TableFactor::Table { name, alias, .. } => match alias {
            Some(alias) => Some(alias.name.clone()),
            None => name.0.last()?.as_ident().cloned(),
        },
        ast::TableFactor::Derived { alias, .. } => alias.as_ref().map(|a| a.name.clone()),
        _ => None,
    }
}

fn coalesce(a: ast::Expr, b: ast::Expr) -> ast::Expr {
    call("coalesce", [a, b])
}

fn one() -> ast::Expr {
    ast::Expr::Value(ast::Value::Number("1".into(), false).with_empty_span())
}

fn call(function: &str, args: [ast::Expr; 2]) -> ast::Expr {
    let arg = |e| ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e));
    ast::Expr::Function(ast::Function {
        name: ast::ObjectName::from(ast::Ident::new(function)),
        uses_odbc_syntax: false,
        parameters: ast::FunctionArguments::None,
        args: ast::FunctionArguments::List(ast::FunctionArgumentList {
            duplicate_treatment: None,
            args: args.map(arg).into(),
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}
