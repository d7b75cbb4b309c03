//! Functions in FROM that give a table: files, series of numbers and times, elements of arrays.
//!
//! What holds:
//! - The binder takes arguments by position only. So [`rewrite`] makes two arguments of an option (`delim => ';'`,
//!   `delim = ';'`), its name and its value, and writes what the binder would leave out into the function's name.
//! - The arguments of [`open`] are constants: the table is there when the query is bound.
//! - Where an alias names the table alone, and the function gives one column, that is the column's name too, as in PostgreSQL.

mod series;
mod unnest;

use datafusion_common::ScalarValue;
use datafusion_expr::Expr;
use datafusion_sql::sqlparser::ast;

use crate::error::{Error, Result, suggest};
use crate::ingest::csv::{CsvOptions, OptionValue};
use crate::ingest::{self, Table};
use crate::rewrite::Refusal;
use crate::sql::normalize;

/// What stands behind the name of a function whose rows are numbered.
const WITH_ORDINALITY: &str = " with ordinality";

/// Gives a function in FROM the form that the binder takes.
pub(crate) fn rewrite(factor: &mut ast::TableFactor) -> Result<(), Refusal> {
    let ast::TableFactor::Table { name, args: Some(arguments), alias, with_ordinality, .. } = factor else {
        return Ok(());
    };
    let args = std::mem::take(&mut arguments.args);
    let Some(function) = name.0.first().and_then(ast::ObjectNamePart::as_ident) else { return Ok(()) };
    let (called, span) = (normalize(function), function.span);
    if called == "unnest" {
        *factor = unnest::query(args, alias.take(), *with_ordinality, span)?;
        return Ok(());
    }
    arguments.args = args.into_iter().flat_map(option).collect();
    if std::mem::take(with_ordinality) {
        if !series::NAMES.contains(&called.as_str()) {
            return Err((Error::unsupported(format!("WITH ORDINALITY behind {called}")), Some(span)));
        }
        let numbered = ast::Ident::with_quote_and_span('"', span, format!("{called}{WITH_ORDINALITY}"));
        *name = ast::ObjectName::from(numbered);
    }
    if series::NAMES.contains(&called.as_str())
        && let Some(alias) = alias.as_mut().filter(|a| a.columns.is_empty())
    {
        alias.columns = vec![ast::TableAliasColumnDef { name: alias.name.clone(), data_type: None }];
    }
    Ok(())
}

/// An option of a table function as its name and its value; any other argument as it is.
fn option(argument: ast::FunctionArg) -> Vec<ast::FunctionArg> {
    use ast::{FunctionArg as Arg, FunctionArgExpr};
    let (name, value) = match argument {
        Arg::Named { name, arg, .. } | Arg::ExprNamed { name: ast::Expr::Identifier(name), arg, .. } => (name, arg),
        Arg::Unnamed(FunctionArgExpr::Expr(ast::Expr::BinaryOp { left, op: ast::BinaryOperator::Eq, right }))
            if matches!(*left, ast::Expr::Identifier(_)) =>
        {
            let ast::Expr::Identifier(name) = *left else { return vec![] };
            (name, FunctionArgExpr::Expr(*right))
        }
        other => return vec![other],
    };
    let name = ast::Expr::Value(ast::Value::SingleQuotedString(normalize(&name)).into());
    vec![Arg::Unnamed(FunctionArgExpr::Expr(name)), Arg::Unnamed(value)]
}

/// The table that a function gives for these arguments.
///
/// # Errors
/// A function that there is not, arguments that it does not take, and what its file holds.
pub(crate) fn open(name: &str, args: &[Expr]) -> Result<Table> {
    let (function, numbered) = name.strip_suffix(WITH_ORDINALITY).map_or((name, false), |name| (name, true));
    if series::NAMES.contains(&function) {
        return series::table(function, args, numbered);
    }
    let is_csv = match function {
        "read_csv" | "read_csv_auto" => true,
        "read_parquet" | "parquet_scan" => false,
        other => {
            let help = suggest(other, ["read_parquet", "read_csv"].into_iter().chain(series::NAMES));
            return Err(Error::name(format!("there is no table function {other}"), help));
        }
    };
    let Some((Expr::Literal(ScalarValue::Utf8(Some(path)), _), options)) = args.split_first() else {
        return Err(Error::meaning(format!("{name} takes a path in quotes")));
    };
    if is_csv {
        return ingest::open_csv(path.as_ref(), &csv_options(name, options)?);
    }
    match options {
        [] => ingest::open_parquet(path.as_ref()),
        _ => Err(Error::meaning(format!("{name} takes a path in quotes, and no options"))),
    }
}

/// The options of `read_csv`, which stand as names and values.
fn csv_options(function: &str, args: &[Expr]) -> Result<CsvOptions> {
    let mut options = CsvOptions::default();
    for pair in args.chunks(2) {
        let [Expr::Literal(ScalarValue::Utf8(Some(name)), _), value] = pair else {
            return Err(Error::meaning(format!("{function} takes a path in quotes, then options as in delim = ';'")));
        };
        let value = match value {
            Expr::Literal(ScalarValue::Utf8(Some(text)), _) => OptionValue::Text(text),
            Expr::Literal(ScalarValue::Boolean(Some(yes)), _) => OptionValue::Bool(*yes),
            _ => return Err(Error::meaning(format!("the option {name} of {function} takes a text or a boolean"))),
        };
        options.set(name, value)?;
    }
    Ok(options)
}
