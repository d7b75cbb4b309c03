//! The TRANSFORM clause: what becomes of the query's columns before the model sees them.

use datafusion_sql::sqlparser::ast;
use datafusion_sql::sqlparser::parser::Parser;
use datafusion_sql::sqlparser::tokenizer::Token;

use super::options::read_literal;
use super::query::{DEEPEST, Rendered, ml_function, syntax_error};
use super::token::{DIALECT, Reader, Tok, shorten, tokenize};
use super::{Literal, Name, Span, nearest};
use crate::error::SqlError;

/// One item of TRANSFORM.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformItem {
    pub kind: TransformKind,
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq)]
pub enum TransformKind {
    /// `*` or `* EXCEPT (a, b)`: the query's columns as they are.
    Wildcard { except: Vec<Name> },
    /// A value with its name.
    Column { name: Name, value: FeatureValue },
}

/// The value of a TRANSFORM item.
#[derive(Debug, Clone, PartialEq)]
pub enum FeatureValue {
    /// An expression of SQL over the query's columns, as the caller wrote it.
    Expression { sql: String, span: Span },
    /// A function whose statistics come from the training rows.
    Feature { function: FeatureFunction, input: Box<FeatureValue>, span: Span },
}

impl FeatureValue {
    /// The bytes of the value in the caller's text.
    pub fn span(&self) -> Span {
        match self {
            FeatureValue::Expression { span, .. } | FeatureValue::Feature { span, .. } => *span,
        }
    }

    /// The expression that the functions are applied to.
    pub fn expression(&self) -> (&str, Span) {
        match self {
            FeatureValue::Expression { sql, span } => (sql, *span),
            FeatureValue::Feature { input, .. } => input.expression(),
        }
    }
}

/// A function of TRANSFORM.
#[derive(Debug, Clone, PartialEq)]
pub enum FeatureFunction {
    /// (x - mean) / standard deviation.
    StandardScaler,
    /// (x - min) / (max - min).
    MinMaxScaler,
    /// One number for each value seen in training, 1 at the row's value; a value not seen has 0 everywhere.
    OneHotEncoder,
    /// The number of boundaries at or below x, as a category. The boundaries ascend.
    Bucketize { boundaries: Vec<f64> },
    /// NULL becomes the training rows' statistic.
    Imputer { strategy: ImputeStrategy },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImputeStrategy {
    Mean,
    Median,
    MostFrequent,
}

const STRATEGIES: &[&str] = &["mean", "median", "most_frequent"];

/// The names of all functions of TRANSFORM.
pub(crate) const FEATURE_FUNCTIONS: &[&str] =
    &["ML.STANDARD_SCALER", "ML.MIN_MAX_SCALER", "ML.ONE_HOT_ENCODER", "ML.BUCKETIZE", "ML.IMPUTER"];

impl FeatureFunction {
    /// How a call of the function with this name looks.
    pub(crate) fn form(name: &str) -> &'static str {
        match name {
            "ML.STANDARD_SCALER" => "ML.STANDARD_SCALER(x) OVER()",
            "ML.MIN_MAX_SCALER" => "ML.MIN_MAX_SCALER(x) OVER()",
            "ML.ONE_HOT_ENCODER" => "ML.ONE_HOT_ENCODER(x) OVER()",
            "ML.BUCKETIZE" => "ML.BUCKETIZE(x, [0, 10, 20])",
            _ => "ML.IMPUTER(x, 'mean') OVER()",
        }
    }
}

/// Reads the items up to the end of the parentheses.
pub(crate) fn read_transform(inside: &Reader<'_>) -> Result<Vec<TransformItem>, SqlError> {
    let mut items: Vec<TransformItem> = Vec::new();
    for mut part in inside.split_commas() {
        let item = read_item(&mut part)?;
        if let TransformKind::Column { name, .. } = &item.kind {
            let first = items.iter().find_map(|item| match &item.kind {
                TransformKind::Column { name: earlier, .. } if earlier.value == name.value => Some(earlier.span),
                TransformKind::Column { .. } | TransformKind::Wildcard { .. } => None,
            });
            if let Some(first) = first {
                return Err(SqlError::Duplicate {
                    what: format!("the column '{}' of TRANSFORM", name.value),
                    span: name.span,
                    first,
                });
            }
        }
        items.push(item);
    }
    Ok(items)
}

fn read_item(part: &mut Reader<'_>) -> Result<TransformItem, SqlError> {
    let span = part.whole();
    if part.is_done() {
        return Err(part.expected("a column, an expression or *"));
    }
    if part.take(&Token::Mul) {
        let mut except = Vec::new();
        if part.take_words(&["EXCEPT"]) || part.take_words(&["EXCLUDE"]) {
            for mut name in part.expect_group("the columns in parentheses")?.split_commas() {
                except.push(name.expect_name("a column")?);
                name.expect_end("a comma or the closing parenthesis")?;
            }
        }
        part.expect_end("EXCEPT, a comma or the closing parenthesis")?;
        return Ok(TransformItem { kind: TransformKind::Wildcard { except }, span });
    }
    let (name, value) = if ml_function(part).is_some() {
        let value = read_feature(part, 0)?;
        let name = if part.take_words(&["AS"]) || !part.is_done() {
            let name = part.expect_name("AS and a name")?;
            part.expect_end("a comma or the closing parenthesis")?;
            Some(name)
        } else {
            let (sql, span) = value.expression();
            column_name(&expression_of(part.text, span, sql)?, span)
        };
        (name, value)
    } else {
        read_expression_item(part)?
    };
    let Some(name) = name else {
        return Err(SqlError::Expected {
            wanted: "AS and a name".to_string(),
            found: format!("no name for '{}'", shorten(&part.text[span.start..span.end])),
            span,
            help: Some("only a column alone has a name of its own".to_string()),
        });
    };
    Ok(TransformItem { kind: TransformKind::Column { name, value }, span })
}

/// `expression [[AS] name]`
fn read_expression_item(part: &mut Reader<'_>) -> Result<(Option<Name>, FeatureValue), SqlError> {
    check_expression(part)?;
    let whole = part.whole();
    let item = select_item(part.text, whole)?;
    match item {
        ast::SelectItem::UnnamedExpr(expression) => Ok((column_name(&expression, whole), value_of(part.text, whole))),
        ast::SelectItem::ExprWithAlias { .. } => {
            // The alias is the last token, with or without AS before it.
            let (alias, rest) = match part.tokens {
                [rest @ .., alias] => (alias, rest),
                [] => return Err(part.expected("an expression")),
            };
            let rest = match rest {
                [before @ .., last] if last.is_word("AS") => before,
                rest => rest,
            };
            let (Some(name), Some(last)) = (alias.name(), rest.last()) else {
                return Err(part.expected("an expression and its name"));
            };
            let span = Span { start: whole.start, end: last.span.end };
            Ok((Some(name), value_of(part.text, span)))
        }
        ast::SelectItem::ExprWithAliases { .. }
        | ast::SelectItem::QualifiedWildcard(..)
        | ast::SelectItem::Wildcard(..) => Err(SqlError::Unsupported {
            what: format!("'{}' in TRANSFORM", shorten(&part.text[whole.start..whole.end])),
            span: whole,
            help: Some("write a column, an expression AS name, or *".to_string()),
        }),
    }
}

fn value_of(text: &str, span: Span) -> FeatureValue {
    FeatureValue::Expression { sql: text[span.start..span.end].to_string(), span }
}

/// What an expression of TRANSFORM may not have in it: it is computed for one row at a time, in queries too.
fn check_expression(part: &Reader<'_>) -> Result<(), SqlError> {
    for at in 0..part.tokens.len() {
        let tok = &part.tokens[at];
        let mut here = part.clone();
        here.at = at;
        if let Some(span) = ml_function(&here) {
            let name = &part.text[span.start..span.end];
            return Err(SqlError::Unsupported {
                what: format!("{} inside of an expression", name.to_uppercase()),
                span,
                help: Some("let it be the whole item, or the first argument of another ML function".to_string()),
            });
        }
        let window = tok.is_word("OVER") && at > 0 && part.tokens[at - 1].token == Token::RParen;
        if window || tok.is_word("SELECT") {
            let what = if window { "a window function in TRANSFORM" } else { "a subquery in TRANSFORM" };
            return Err(SqlError::Unsupported {
                what: what.to_string(),
                span: tok.span,
                help: Some("compute it in the query after AS, as a column".to_string()),
            });
        }
    }
    Ok(())
}

/// Reads `ML.F(value[, arguments]) [OVER ()]`.
fn read_feature(reader: &mut Reader<'_>, depth: usize) -> Result<FeatureValue, SqlError> {
    let Some(name_span) = ml_function(reader) else {
        return Err(reader.expected("an ML function"));
    };
    if depth > DEEPEST {
        return Err(SqlError::TooDeep { limit: DEEPEST, span: name_span });
    }
    let written = &reader.text[name_span.start..name_span.end];
    let short = written.rsplit('.').next().unwrap_or_default().trim();
    let Some(name) = FEATURE_FUNCTIONS.iter().find(|known| known[3..].eq_ignore_ascii_case(short)) else {
        let name = format!("ML.{}", short.to_uppercase());
        return Err(SqlError::Unknown {
            kind: "function of TRANSFORM",
            span: name_span,
            nearest: nearest(&name, FEATURE_FUNCTIONS),
            name,
            known: FEATURE_FUNCTIONS.to_vec(),
        });
    };
    let form = FeatureFunction::form(name);
    let with_form = |error: SqlError| match error {
        SqlError::Expected { wanted, found, span, help: None } => {
            SqlError::Expected { wanted, found, span, help: Some(format!("write {form}")) }
        }
        error => error,
    };
    reader.at += 3;
    let inside = reader.expect_group("(")?;
    let end_of_arguments = inside.until;
    let mut arguments = inside.split_commas().into_iter();
    let mut first = match arguments.next() {
        Some(first) if !first.is_done() => first,
        _ => return Err(with_form(inside.expected("a column"))),
    };
    let input = if ml_function(&first).is_some() {
        let value = read_feature(&mut first, depth + 1)?;
        first.expect_end("a comma or the closing parenthesis")?;
        value
    } else {
        check_expression(&first)?;
        let span = first.whole();
        let value = value_of(first.text, span);
        expression_of(first.text, span, &first.text[span.start..span.end])?;
        value
    };
    let function = match *name {
        "ML.STANDARD_SCALER" => FeatureFunction::StandardScaler,
        "ML.MIN_MAX_SCALER" => FeatureFunction::MinMaxScaler,
        "ML.ONE_HOT_ENCODER" => FeatureFunction::OneHotEncoder,
        "ML.BUCKETIZE" => {
            let boundaries =
                argument(&mut arguments, name, "the boundaries", end_of_arguments, reader).map_err(with_form)?;
            FeatureFunction::Bucketize { boundaries: read_boundaries(boundaries, reader.text)? }
        }
        _ => {
            let strategy =
                argument(&mut arguments, name, "'mean', 'median' or 'most_frequent'", end_of_arguments, reader)
                    .map_err(with_form)?;
            FeatureFunction::Imputer { strategy: read_strategy(strategy, reader.text)? }
        }
    };
    if let Some(extra) = arguments.next() {
        return Err(SqlError::Unsupported {
            what: format!("this argument of {name}"),
            span: extra.whole(),
            help: Some(format!("write {form}")),
        });
    }
    if reader.take_words(&["OVER"]) {
        let window = reader.expect_group("()")?;
        if !window.is_done() {
            return Err(SqlError::Unsupported {
                what: format!("a window with {name}"),
                span: window.whole(),
                help: Some("write OVER(): the statistics are those of all training rows".to_string()),
            });
        }
    } else if !matches!(function, FeatureFunction::Bucketize { .. }) {
        return Err(with_form(reader.expected("OVER()")));
    }
    Ok(FeatureValue::Feature {
        function,
        input: Box::new(input),
        span: Span { start: name_span.start, end: reader.end() },
    })
}

/// The next argument as a literal.
fn argument<'a>(
    arguments: &mut impl Iterator<Item = Reader<'a>>,
    name: &str,
    wanted: &str,
    until: usize,
    reader: &Reader<'a>,
) -> Result<(Literal, Span), SqlError> {
    let Some(mut argument) = arguments.next() else {
        return Err(
            Reader::new(reader.text, &[], until).expected(&format!("{wanted} as the second argument of {name}"))
        );
    };
    let value = read_literal(&mut argument)?;
    argument.expect_end("a comma or the closing parenthesis")?;
    Ok(value)
}

fn read_boundaries((value, span): (Literal, Span), text: &str) -> Result<Vec<f64>, SqlError> {
    let numbers: Option<Vec<f64>> = match &value {
        Literal::Array(items) => items
            .iter()
            .map(|item| match item {
                Literal::Number(number) => Some(*number),
                Literal::Text(_) | Literal::Bool(_) | Literal::Array(_) => None,
            })
            .collect(),
        Literal::Text(_) | Literal::Number(_) | Literal::Bool(_) => None,
    };
    match numbers {
        Some(numbers) if !numbers.is_empty() && numbers.windows(2).all(|pair| pair[0] < pair[1]) => Ok(numbers),
        _ => Err(SqlError::Value {
            of: "ML.BUCKETIZE".to_string(),
            wanted: "ascending boundaries, as [0, 10, 20]".to_string(),
            found: shorten(&text[span.start..span.end]),
            span,
            nearest: None,
        }),
    }
}

fn read_strategy((value, span): (Literal, Span), text: &str) -> Result<ImputeStrategy, SqlError> {
    let word = match &value {
        Literal::Text(word) => word.to_lowercase(),
        Literal::Number(_) | Literal::Bool(_) | Literal::Array(_) => String::new(),
    };
    match word.as_str() {
        "mean" => Ok(ImputeStrategy::Mean),
        "median" => Ok(ImputeStrategy::Median),
        "most_frequent" => Ok(ImputeStrategy::MostFrequent),
        _ => Err(SqlError::Value {
            of: "ML.IMPUTER".to_string(),
            wanted: "'mean', 'median' or 'most_frequent'".to_string(),
            found: shorten(&text[span.start..span.end]),
            span,
            nearest: nearest(&word, STRATEGIES),
        }),
    }
}

/// Parses a piece of the text as one item of a SELECT.
fn select_item(text: &str, span: Span) -> Result<ast::SelectItem, SqlError> {
    let mut sql = Rendered::default();
    sql.push_verbatim(text, span);
    let mut parser = Parser::new(&DIALECT).try_with_sql(&sql.text).map_err(|error| syntax_error(&error, &sql))?;
    let item = parser.parse_select_item().map_err(|error| syntax_error(&error, &sql))?;
    let next = parser.peek_token();
    if next.token == Token::EOF {
        return Ok(item);
    }
    Err(SqlError::Expected {
        wanted: "a comma or the closing parenthesis".to_string(),
        found: next.token.to_string(),
        span: sql.locate_line_column(next.span.start.line, next.span.start.column),
        help: None,
    })
}

/// Parses a piece of the text as an expression without a name.
fn expression_of(text: &str, span: Span, sql: &str) -> Result<ast::Expr, SqlError> {
    match select_item(text, span)? {
        ast::SelectItem::UnnamedExpr(expression) => Ok(expression),
        ast::SelectItem::ExprWithAlias { .. }
        | ast::SelectItem::ExprWithAliases { .. }
        | ast::SelectItem::QualifiedWildcard(..)
        | ast::SelectItem::Wildcard(..) => {
            Err(SqlError::Expected { wanted: "an expression".to_string(), found: shorten(sql), span, help: None })
        }
    }
}

/// Whether a text is one expression that TRANSFORM could have: nothing but its own row, no window and no ML function.
///
/// # Errors
/// What is wrong with it; the places are bytes of this text.
pub(crate) fn check_row_expression(text: &str) -> Result<(), SqlError> {
    let (tokens, error) = tokenize(text);
    if let Some(error) = error {
        return Err(error);
    }
    let reader = Reader::new(text, &tokens, text.len());
    check_expression(&reader)?;
    expression_of(text, reader.whole(), text)?;
    Ok(())
}

/// The name that a column has without AS.
fn column_name(expression: &ast::Expr, span: Span) -> Option<Name> {
    let ident = match expression {
        ast::Expr::Identifier(ident) => ident,
        ast::Expr::CompoundIdentifier(parts) => parts.last()?,
        _ => return None,
    };
    Some(Name {
        value: match ident.quote_style {
            Some(_) => ident.value.clone(),
            None => ident.value.to_ascii_lowercase(),
        },
        span,
    })
}

/// A token that begins a query.
pub(crate) fn begins_query(tok: &Tok) -> bool {
    tok.token == Token::LParen || ["SELECT", "WITH", "FROM", "VALUES", "TABLE"].iter().any(|word| tok.is_word(word))
}
