//! `UNNEST` of array literals: a table in which each array is a column.
//!
//! Elements that are constants become `VALUES`; where one reads a column of a table before it in FROM, the elements become the
//! branches of a lateral `UNION ALL`. Of several arrays the shorter ones are filled up with NULL.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast;
use datafusion_sql::sqlparser::dialect::DuckDbDialect;
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::Span;

use crate::error::Error;
use crate::rewrite::Refusal;
use crate::sql::normalize;

/// Elements that read columns: each is a branch of its own.
const MAX_LATERAL: usize = 64;

/// The query that stands for `UNNEST(…)`, whose name is at a place.
pub(super) fn query(
    args: Vec<ast::FunctionArg>,
    alias: Option<ast::TableAlias>,
    numbered: bool,
    at: Span,
) -> Result<ast::TableFactor, Refusal> {
    let array = |argument: &ast::FunctionArg| match argument {
        ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => elements(e),
        other => Err(Error::meaning(format!("UNNEST takes arrays, not {other}"))),
    };
    let arrays: Vec<Vec<ast::Expr>> = args.iter().map(array).collect::<Result<_, _>>().map_err(|e| (e, Some(at)))?;
    if arrays.is_empty() {
        return Err((Error::meaning("UNNEST takes an array"), Some(at)));
    }
    let alias = named(alias, arrays.len(), numbered).map_err(|e| (e, Some(at)))?;
    let rows = rows(arrays, numbered);
    let width = alias.columns.len();
    let lateral = rows.iter().flatten().any(reads_columns);
    if lateral && rows.len() > MAX_LATERAL {
        let message = format!("UNNEST of more than {MAX_LATERAL} elements that read columns");
        return Err((Error::Limit(message), Some(at)));
    }
    let subquery = if rows.is_empty() {
        no_rows(width)
    } else if lateral {
        union(rows)
    } else {
        let rows = rows.into_iter().map(ast::Parens::with_empty_span).collect();
        query_of(ast::SetExpr::Values(ast::Values { explicit_row: false, value_keyword: false, rows }))
    };
    Ok(ast::TableFactor::Derived { lateral, subquery: Box::new(subquery), alias: Some(alias), sample: None })
}

/// The elements of an array literal; under a cast each is cast.
fn elements(e: &ast::Expr) -> Result<Vec<ast::Expr>, Error> {
    match e {
        ast::Expr::Array(array) => {
            if array.elem.iter().any(|e| matches!(e, ast::Expr::Array(_))) {
                return Err(Error::unsupported("UNNEST of an array of arrays"));
            }
            Ok(array.elem.clone())
        }
        ast::Expr::Nested(inner) => elements(inner),
        ast::Expr::Cast { expr, data_type: ast::DataType::Array(of), kind, format, .. } => {
            let ty = match of {
                ast::ArrayElemTypeDef::AngleBracket(ty)
                | ast::ArrayElemTypeDef::SquareBracket(ty, _)
                | ast::ArrayElemTypeDef::Parenthesis(ty) => (**ty).clone(),
                ast::ArrayElemTypeDef::None => return elements(expr),
            };
            let cast = |e: ast::Expr| ast::Expr::Cast {
                kind: kind.clone(),
                expr: Box::new(e),
                data_type: ty.clone(),
                array: false,
                format: format.clone(),
            };
            Ok(elements(expr)?.into_iter().map(cast).collect())
        }
        other => Err(Error::unsupported(format!("UNNEST of what is not an array literal: {other}"))),
    }
}

/// The alias with a name for each column.
fn named(alias: Option<ast::TableAlias>, arrays: usize, numbered: bool) -> Result<ast::TableAlias, Error> {
    let mut alias = alias.unwrap_or_else(|| ast::TableAlias {
        explicit: true,
        name: ast::Ident::new("unnest"),
        columns: vec![],
        at: None,
    });
    let width = arrays + usize::from(numbered);
    if alias.columns.len() > width {
        let message =
            format!("\"{}\" has {width} columns, and names for {}", normalize(&alias.name), alias.columns.len());
        return Err(Error::meaning(message));
    }
    if arrays > 1 && alias.columns.len() < arrays {
        return Err(Error::meaning("UNNEST of several arrays needs names for them: AS t(a, b)"));
    }
    for i in alias.columns.len()..width {
        let name = if i < arrays { alias.name.clone() } else { ast::Ident::new("ordinality") };
        alias.columns.push(ast::TableAliasColumnDef { name, data_type: None });
    }
    Ok(alias)
}

/// The rows, as long as the longest array.
fn rows(arrays: Vec<Vec<ast::Expr>>, numbered: bool) -> Vec<Vec<ast::Expr>> {
    let longest = arrays.iter().map(Vec::len).max().unwrap_or(0);
    let mut arrays: Vec<_> = arrays.into_iter().map(Vec::into_iter).collect();
    let row = |i: usize| {
        let mut row: Vec<ast::Expr> =
            arrays.iter_mut().map(|array| array.next().unwrap_or_else(|| value(ast::Value::Null))).collect();
        if numbered {
            row.push(value(ast::Value::Number((i + 1).to_string(), false)));
        }
        row
    };
    (0..longest).map(row).collect()
}

fn value(value: ast::Value) -> ast::Expr {
    ast::Expr::Value(value.into())
}

fn reads_columns(e: &ast::Expr) -> bool {
    let found = ast::visit_expressions(e, |e| match e {
        ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

fn query_of(body: ast::SetExpr) -> ast::Query {
    let mut query = no_rows(1);
    query.body = Box::new(body);
    query
}

/// A query without rows.
fn no_rows(width: usize) -> ast::Query {
    let text = format!("SELECT {} WHERE FALSE", vec!["NULL"; width].join(", "));
    let parsed = Parser::new(&DuckDbDialect {}).try_with_sql(&text).and_then(|mut p| p.parse_query());
    *parsed.expect("the text is a query")
}

/// `SELECT row UNION ALL SELECT row …`, halved again and again so that it is not deep.
fn union(mut rows: Vec<Vec<ast::Expr>>) -> ast::Query {
    if rows.len() == 1 {
        let mut query = no_rows(1);
        if let ast::SetExpr::Select(select) = &mut *query.body {
            select.projection = rows.remove(0).into_iter().map(ast::SelectItem::UnnamedExpr).collect();
            select.selection = None;
        }
        return query;
    }
    let rest = rows.split_off(rows.len() / 2);
    query_of(ast::SetExpr::SetOperation {
        op: ast::SetOperator::Union,
        set_quantifier: ast::SetQuantifier::All,
        left: union(rows).body,
        right: union(rest).body,
    })
}
