//! SQL text to statements: splitting, tokens, the statements of the engine, and the places of errors.
//!
//! Queries are parsed by `sqlparser`. Around it stand the statements that differ between systems (`EXPLAIN` with a level,
//! `SHOW TABLES`), and three things done to a query before it is bound:
//! - `?` becomes `$1`, `$2`, ... in order of appearance;
//! - a number with an exponent becomes a double, as in PostgreSQL and DuckDB (with a point alone it is a decimal);
//! - the outermost SELECT list gets a name for each column, its text where nothing else is said, unique inside.

use std::collections::{HashMap, HashSet};
use std::ops::{ControlFlow, Range};

use datafusion_sql::sqlparser::ast;
use datafusion_sql::sqlparser::dialect::DuckDbDialect;
use datafusion_sql::sqlparser::keywords::Keyword;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word};

use crate::error::{Error, Result};
use crate::rewrite::rewrite;

/// A statement longer than this is refused: the planner's recursion grows with the text.
const MAX_TOKENS: usize = 50_000;

/// What `EXPLAIN` prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Level {
    /// The graph as the optimizer left it: what is computed.
    #[default]
    Graph,
    /// Stages: where data stops.
    Plan,
    /// Loops of the stages.
    Kernel,
    /// Cranelift's input.
    Clif,
    /// Machine code.
    Asm,
}

/// A parsed statement.
#[derive(Debug)]
pub(crate) enum Statement {
    Query(ParsedQuery),
    CreateTable { name: String, or_replace: bool, if_not_exists: bool, query: ParsedQuery },
    CreateView { name: String, or_replace: bool, if_not_exists: bool, query: Range<usize> },
    Drop { kind: DropKind, names: Vec<(String, Range<usize>)>, if_exists: bool },
    ShowTables,
    Describe { name: String, span: Range<usize> },
    Explain { analyze: bool, level: Option<Level>, query: ParsedQuery },
}

/// What a `DROP` statement drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DropKind {
    Table,
    View,
}

/// A query, ready to be bound.
#[derive(Debug)]
pub(crate) struct ParsedQuery {
    pub(crate) query: Box<ast::Query>,
    /// Names given inside that differ from what the result shows.
    pub(crate) shown_names: HashMap<String, String>,
    /// Number of parameters: the greatest `$n`.
    pub(crate) parameters: usize,
}

/// The byte offset of each line, to turn the parser's lines and columns into byte ranges.
#[derive(Debug)]
pub(crate) struct Lines {
    text: String,
    starts: Vec<usize>,
}

impl Lines {
    pub(crate) fn new(text: &str) -> Self {
        let after_newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        Self { text: text.to_string(), starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// The byte offset of a line and column, both from 1, columns counted in characters.
    pub(crate) fn offset(&self, line: u64, column: u64) -> Option<usize> {
        let start = *self.starts.get(usize::try_from(line).ok()?.checked_sub(1)?)?;
        let skip = usize::try_from(column).ok()?.checked_sub(1)?;
        let rest = &self.text[start..];
        Some(start + rest.char_indices().nth(skip).map_or(rest.len(), |(i, _)| i))
    }

    /// The range, longer by the parentheses that it opens and does not close.
    pub(crate) fn balanced(&self, range: Range<usize>) -> Range<usize> {
        let inside = &self.text[range.clone()];
        let mut open = inside.matches('(').count().saturating_sub(inside.matches(')').count());
        let mut end = range.end;
        for (i, c) in self.text[range.end..].char_indices().take(200) {
            match c {
                _ if open == 0 => break,
                ')' => {
                    open -= 1;
                    end = range.end + i + 1;
                }
                '(' => open += 1,
                _ => {}
            }
        }
        range.start..end
    }

    fn range(&self, span: datafusion_sql::sqlparser::tokenizer::Span) -> Option<Range<usize>> {
        Some(self.offset(span.start.line, span.start.column)?..self.offset(span.end.line, span.end.column)?)
    }

    /// The word that begins at this place, or the one character.
    fn word_at(&self, at: Location) -> Option<Range<usize>> {
        let start = self.offset(at.line, at.column)?;
        let rest = &self.text[start..];
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let one = rest.chars().next().map_or(0, char::len_utf8);
        Some(start..start + word.max(one))
    }
}

/// Cuts a text into its statements at the semicolons: byte ranges without the semicolon and without blanks around.
///
/// # Errors
/// Text that has no tokens, such as an unclosed quote.
pub fn split_statements(text: &str) -> Result<Vec<Range<usize>>> {
    let lines = Lines::new(text);
    let mut statements = vec![];
    let mut current: Option<Range<usize>> = None;
    for token in tokenize(text, &lines)? {
        match token.token {
            Token::SemiColon => statements.extend(current.take()),
            Token::Whitespace(_) | Token::EOF => {}
            _ => {
                if let Some(range) = lines.range(token.span) {
                    current = Some(current.map_or(range.start, |c| c.start)..range.end);
                }
            }
        }
    }
    statements.extend(current);
    Ok(statements)
}

/// Number of tokens of a text, blanks left out.
///
/// # Errors
/// Text that has no tokens; more tokens than a statement may have.
pub(crate) fn count_tokens(text: &str) -> Result<usize> {
    let tokens = tokenize(text, &Lines::new(text))?;
    let count = tokens.iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).count();
    if count > MAX_TOKENS {
        return Err(Error::Limit(format!("the statement has {count} tokens, more than {MAX_TOKENS}")));
    }
    Ok(count)
}

/// Parses one statement; a semicolon may end it.
pub(crate) fn parse(text: &str) -> Result<Statement> {
    let lines = Lines::new(text);
    let mut tokens = tokenize(text, &lines)?;
    let parameters = number_placeholders(&mut tokens, &lines)?;
    let mut reader =
        Reader { parser: Parser::new(&DuckDbDialect {}).with_tokens_with_locations(tokens), lines, text, parameters };
    let statement = reader.statement()?;
    reader.end()?;
    Ok(statement)
}

/// Parses the text of a view.
pub(crate) fn parse_query(text: &str) -> Result<ParsedQuery> {
    match parse(text)? {
        Statement::Query(query) => Ok(query),
        _ => Err(Error::syntax("expected a query")),
    }
}

fn tokenize(text: &str, lines: &Lines) -> Result<Vec<TokenWithSpan>> {
    Tokenizer::new(&DuckDbDialect {}, text)
        .tokenize_with_location()
        .map_err(|e| Error::syntax(e.message.clone()).at(lines.word_at(e.location)))
}

/// Numbers the `?` and returns how many parameters there are.
fn number_placeholders(tokens: &mut [TokenWithSpan], lines: &Lines) -> Result<usize> {
    let mut marks = 0;
    let mut numbered = 0;
    for token in tokens {
        let Token::Placeholder(name) = &token.token else { continue };
        let at = lines.range(token.span);
        if name == "?" {
            marks += 1;
            token.token = Token::Placeholder(format!("${marks}"));
        } else {
            let number =
                name.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()).filter(|n| (1..=9999).contains(n));
            let Some(number) = number else {
                return Err(Error::syntax(format!("{name} is no parameter: write $1, $2, ... or ?")).at(at));
            };
            numbered = numbered.max(number);
        }
        if marks > 0 && numbered > 0 {
            return Err(Error::syntax("parameters are either ? or $1, $2, ...: not both").at(at));
        }
    }
    Ok(marks.max(numbered))
}

struct Reader<'a> {
    parser: Parser<'a>,
    lines: Lines,
    text: &'a str,
    parameters: usize,
}

impl Reader<'_> {
    fn statement(&mut self) -> Result<Statement> {
        let first = self.parser.peek_token();
        let Token::Word(Word { keyword, value, .. }) = &first.token else {
            return match first.token {
                Token::LParen => Ok(Statement::Query(self.query()?)),
                Token::EOF => Err(Error::syntax("there is no statement")),
                _ => Err(self.unexpected("a statement")),
            };
        };
        match keyword {
            Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::FROM | Keyword::TABLE => {
                Ok(Statement::Query(self.query()?))
            }
            Keyword::CREATE => self.create(),
            Keyword::DROP => self.drop(),
            Keyword::SHOW if self.parser.parse_keywords(&[Keyword::SHOW, Keyword::TABLES]) => Ok(Statement::ShowTables),
            Keyword::DESCRIBE | Keyword::DESC => {
                self.parser.next_token();
                let (name, span) = self.object_name()?;
                Ok(Statement::Describe { name, span })
            }
            Keyword::EXPLAIN => self.explain(),
            Keyword::NoKeyword => Err(self.unexpected("a statement")),
            _ => {
                let construct = format!("the statement {}", value.to_uppercase());
                Err(Error::unsupported(construct).at(self.lines.range(first.span)))
            }
        }
    }

    fn create(&mut self) -> Result<Statement> {
        self.parser.next_token();
        let or_replace = self.parser.parse_keywords(&[Keyword::OR, Keyword::REPLACE]);
        let kind = self.parser.peek_token();
        let table = self.parser.parse_keyword(Keyword::TABLE);
        if !table && !self.parser.parse_keyword(Keyword::VIEW) {
            let construct = format!("CREATE {}", kind.token.to_string().to_uppercase());
            return Err(Error::unsupported(construct).at(self.lines.range(kind.span)));
        }
        let if_not_exists = self.parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
        let (name, _) = self.object_name()?;
        let next = self.parser.peek_token();
        if next.token == Token::LParen {
            let construct = "a column list in CREATE; name the columns in the query (CREATE ... AS SELECT)";
            return Err(Error::unsupported(construct).at(self.lines.range(next.span)));
        }
        if !self.parser.parse_keyword(Keyword::AS) {
            return Err(self.unexpected("AS and a query"));
        }
        let start = self.lines.range(self.parser.peek_token().span).map_or(self.text.len(), |r| r.start);
        let query = self.query()?;
        if table {
            return Ok(Statement::CreateTable { name, or_replace, if_not_exists, query });
        }
        if self.parameters > 0 {
            return Err(Error::unsupported("parameters in a view"));
        }
        let end = match self.parser.peek_token() {
            TokenWithSpan { token: Token::EOF, .. } => self.text.len(),
            token => self.lines.range(token.span).map_or(self.text.len(), |r| r.start),
        };
        Ok(Statement::CreateView { name, or_replace, if_not_exists, query: start..end })
    }

    fn drop(&mut self) -> Result<Statement> {
        self.parser.next_token();
        let what = self.parser.peek_token();
        let kind = if self.parser.parse_keyword(Keyword::TABLE) {
            DropKind::Table
        } else if self.parser.parse_keyword(Keyword::VIEW) {
            DropKind::View
        } else {
            let construct = format!("DROP {}", what.token.to_string().to_uppercase());
            return Err(Error::unsupported(construct).at(self.lines.range(what.span)));
        };
        let if_exists = self.parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
        let mut names = vec![self.object_name()?];
        while self.parser.consume_token(&Token::Comma) {
            names.push(self.object_name()?);
        }
        Ok(Statement::Drop { kind, names, if_exists })
    }

    fn explain(&mut self) -> Result<Statement> {
        self.parser.next_token();
        let analyze = self.parser.parse_keyword(Keyword::ANALYZE);
        let in_parentheses = self.parser.peek_token_ref().token == Token::LParen
            && self.level_of(&self.parser.peek_nth_token(1).token).is_some();
        if in_parentheses {
            self.parser.next_token();
        }
        let level = self.level_of(&self.parser.peek_token_ref().token);
        if level.is_some() {
            self.parser.next_token();
        }
        if in_parentheses && !self.parser.consume_token(&Token::RParen) {
            return Err(self.unexpected(")"));
        }
        Ok(Statement::Explain { analyze, level, query: self.query()? })
    }

    fn level_of(&self, token: &Token) -> Option<Level> {
        let Token::Word(word) = token else { return None };
        Some(match word.value.to_uppercase().as_str() {
            "GRAPH" => Level::Graph,
            "PLAN" => Level::Plan,
            "KERNEL" => Level::Kernel,
            "CLIF" => Level::Clif,
            "ASM" => Level::Asm,
            _ => return None,
        })
    }

    fn query(&mut self) -> Result<ParsedQuery> {
        let mut query = self.parser.parse_query().map_err(|e| self.parse_error(e))?;
        rewrite(&mut query).map_err(|(e, span)| e.at(span.and_then(|s| self.lines.range(s))))?;
        let shown_names = name_columns(&mut query);
        exponents_are_doubles(&mut query);
        Ok(ParsedQuery { query, shown_names, parameters: self.parameters })
    }

    /// A name of one part; without quotes it is folded to lower case.
    fn object_name(&mut self) -> Result<(String, Range<usize>)> {
        let token = self.parser.peek_token();
        let name = self.parser.parse_object_name(false).map_err(|e| self.parse_error(e))?;
        let span = self.lines.range(token.span).unwrap_or(0..0);
        match name.0.as_slice() {
            [ast::ObjectNamePart::Identifier(ident)] => Ok((normalize(ident), span)),
            _ => Err(Error::unsupported("a name with a schema").at(Some(span))),
        }
    }

    fn end(&mut self) -> Result<()> {
        while self.parser.consume_token(&Token::SemiColon) {}
        match self.parser.peek_token_ref().token {
            Token::EOF => Ok(()),
            _ => Err(self.unexpected("the end of the statement")),
        }
    }

    fn unexpected(&self, expected: &str) -> Error {
        let found = self.parser.peek_token();
        Error::syntax(format!("expected {expected}, found {}", found.token)).at(self.lines.range(found.span))
    }

    /// The parser puts the place at the end of its message.
    fn parse_error(&self, error: ParserError) -> Error {
        let message = match error {
            ParserError::TokenizerError(m) | ParserError::ParserError(m) => m,
            ParserError::RecursionLimitExceeded => {
                return Error::Limit("the statement is nested too deeply".to_string());
            }
        };
        let Some((what, place)) = message.rsplit_once(" at Line: ") else {
            let end = self.text.trim_end().len();
            return Error::syntax(message).at(Some(end..end));
        };
        let location = place.split_once(", Column: ").and_then(|(line, column)| {
            Some(Location { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
        });
        Error::syntax(what).at(location.and_then(|l| self.lines.word_at(l)))
    }
}

/// An identifier as it is looked up.
pub(crate) fn normalize(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn exponents_are_doubles(query: &mut ast::Query) {
    let _: ControlFlow<()> = ast::visit_expressions_mut(query, |expr| {
        let ast::Expr::Value(value) = expr else { return ControlFlow::Continue(()) };
        if let ast::Value::Number(digits, _) = &value.value
            && digits.contains(['e', 'E'])
        {
            let digits = ast::Value::SingleQuotedString(digits.clone());
            *expr = ast::Expr::Cast {
                kind: ast::CastKind::Cast,
                expr: Box::new(ast::Expr::Value(digits.into())),
                data_type: ast::DataType::DoublePrecision,
                array: false,
                format: None,
            };
        }
        ControlFlow::Continue(())
    });
}

/// Gives each expression of a SELECT list a name of its own, in all queries inside too; returns what the names that were made
/// up show as.
fn name_columns(query: &mut ast::Query) -> HashMap<String, String> {
    let mut names = Names::default();
    if let Some(select) = leftmost_select(&mut query.body) {
        names.of_list(select, true);
    }
    let _: ControlFlow<()> = ast::VisitMut::visit(query, &mut names);
    names.shown
}

/// Names that were made up for repeated ones, and what they show as.
#[derive(Default)]
struct Names {
    shown: HashMap<String, String>,
}

impl ast::VisitorMut for Names {
    type Break = ();

    fn post_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<()> {
        self.of_list(select, false);
        ControlFlow::Continue(())
    }
}

impl Names {
    /// Renames what repeats a name in this list; in the `outermost` one every expression is called by its text.
    fn of_list(&mut self, select: &mut ast::Select, outermost: bool) {
        if !outermost {
            name_casts(&mut select.projection);
        }
        let mut taken = HashSet::new();
        for item in &mut select.projection {
            let (expr, name) = match item {
                ast::SelectItem::UnnamedExpr(expr) => (expr.clone(), implied_name(expr)),
                ast::SelectItem::ExprWithAlias { expr, alias } => (expr.clone(), normalize(alias)),
                ast::SelectItem::ExprWithAliases { .. }
                | ast::SelectItem::QualifiedWildcard(..)
                | ast::SelectItem::Wildcard(_) => continue,
            };
            let plain = matches!(expr, ast::Expr::Identifier(_));
            if taken.insert(name.clone()) {
                if outermost && !plain && matches!(item, ast::SelectItem::UnnamedExpr(_)) && !is_column(&expr) {
                    *item = ast::SelectItem::ExprWithAlias { expr, alias: ast::Ident::with_quote('"', name) };
                }
                continue;
            }
            if is_column(&expr)
                && !plain
                && matches!(item, ast::SelectItem::UnnamedExpr(_))
                && !taken.contains(&expr.to_string())
            {
                taken.insert(expr.to_string());
                continue;
            }
            let inner = (1..).map(|n| format!("{name}:{n}")).find(|n| taken.insert(n.clone()));
            if let Some(inner) = inner {
                self.shown.insert(inner.clone(), name);
                *item = ast::SelectItem::ExprWithAlias { expr, alias: ast::Ident::with_quote('"', inner) };
            }
        }
    }
}

/// Calls casts by their text where another column has the name that the binder gives them: that of what is cast.
fn name_casts(items: &mut [ast::SelectItem]) {
    let bare = |item: &ast::SelectItem| match item {
        ast::SelectItem::UnnamedExpr(expr) => {
            let mut inner = expr;
            while let ast::Expr::Cast { expr, .. } = inner {
                inner = expr;
            }
            Some(implied_name(inner))
        }
        _ => None,
    };
    let names: Vec<Option<String>> = items.iter().map(bare).collect();
    for (i, item) in items.iter_mut().enumerate() {
        let again = names.iter().enumerate().any(|(j, name)| i != j && name.is_some() && *name == names[i]);
        if let ast::SelectItem::UnnamedExpr(expr @ ast::Expr::Cast { .. }) = item
            && again
        {
            let alias = ast::Ident::with_quote('"', expr.to_string());
            *item = ast::SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
    }
}

fn is_column(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_))
}

/// The name of a column that has no alias: its own, or the text of the expression.
fn implied_name(expr: &ast::Expr) -> String {
    match expr {
        ast::Expr::Identifier(ident) => normalize(ident),
        ast::Expr::CompoundIdentifier(parts) => parts.last().map(normalize).unwrap_or_default(),
        other => other.to_string(),
    }
}

fn leftmost_select(body: &mut ast::SetExpr) -> Option<&mut ast::Select> {
    match body {
        ast::SetExpr::Select(select) => Some(select),
        ast::SetExpr::Query(query) => leftmost_select(&mut query.body),
        ast::SetExpr::SetOperation { left, .. } => leftmost_select(left),
        ast::SetExpr::Values(_)
        | ast::SetExpr::Insert(_)
        | ast::SetExpr::Update(_)
        | ast::SetExpr::Delete(_)
        | ast::SetExpr::Merge(_)
        | ast::SetExpr::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_split_at_semicolons_outside_of_quotes() {
        let text = "select ';' ; -- a; comment\n select 2;;\n";
        let parts: Vec<&str> = split_statements(text).unwrap().into_iter().map(|r| &text[r]).collect();
        assert_eq!(parts, ["select ';'", "select 2"]);
    }

    #[test]
    fn errors_carry_their_place() {
        let text = "select a\nfrom t wher a > 1 1";
        let error = parse(text).unwrap_err();
        assert!(matches!(error, Error::Syntax(_)));
        assert_eq!(&text[error.span().unwrap()], "a", "{error}");
        let text = "select 'a";
        assert_eq!(parse(text).unwrap_err().span(), Some(7..8));
        let text = "insert into t values (1)";
        let error = parse(text).unwrap_err();
        assert_eq!(error.to_string(), "not supported: the statement INSERT");
        assert_eq!(&text[error.span().unwrap()], "insert");
        assert_eq!(parse("").unwrap_err().to_string(), "there is no statement");
    }

    #[test]
    fn view_texts_are_cut_out() {
        let text = "create or replace view v as select 1 ;";
        let Statement::CreateView { name, or_replace, query, .. } = parse(text).unwrap() else { panic!() };
        assert_eq!((name.as_str(), or_replace, &text[query]), ("v", true, "select 1 "));
    }

    #[test]
    fn explain_takes_a_level() {
        for (text, expected) in [
            ("explain select 1", (false, None)),
            ("explain (graph) select 1", (false, Some(Level::Graph))),
            ("explain analyze asm select 1", (true, Some(Level::Asm))),
            ("explain (select 1)", (false, None)),
        ] {
            let Statement::Explain { analyze, level, .. } = parse(text).unwrap() else { panic!("{text}") };
            assert_eq!((analyze, level), expected, "{text}");
        }
    }

    #[test]
    fn columns_get_unique_names() {
        let Statement::Query(q) = parse("select a, a, 1 + 1, 1 + 1, b as a, t.c, u.c from t").unwrap() else {
            panic!()
        };
        assert_eq!(
            q.query.to_string(),
            "SELECT a, a AS \"a:1\", 1 + 1 AS \"1 + 1\", 1 + 1 AS \"1 + 1:1\", b AS \"a:2\", t.c, u.c FROM t"
        );
        assert_eq!(q.shown_names["a:2"], "a");
    }

    #[test]
    fn parameters_are_numbered() {
        let Statement::Query(q) = parse("select ? + ?, '?'").unwrap() else { panic!() };
        assert_eq!(q.parameters, 2);
        assert!(parse("select ? + $1").is_err());
        assert!(parse("select $0").is_err());
    }
}
