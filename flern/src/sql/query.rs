//! Queries with model functions in them.
//!
//! What holds:
//! - A query is the caller's text with calls of `ML.PREDICT`, `ML.EVALUATE`, `ML.TRAINING_INFO`, `ML.WEIGHTS` and `predict` cut
//!   out of it.
//! - A call inside of another call's input, or of a CTE that it reads, comes before it in the list of calls.
//! - Every text made from a query knows where each of its bytes came from, so that an error found in it points into the
//!   caller's text.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion_sql::sqlparser::ast::{self, visit_relations};
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Location, Token};

use super::options::read_literal;
use super::token::{DIALECT, Places, Reader, Tok, lower_first};
use super::transform::{FEATURE_FUNCTIONS, FeatureFunction};
use super::{Literal, Name, Span, nearest};
use crate::error::SqlError;

/// Parentheses nested deeper than this are refused: the readers recurse.
pub(crate) const DEEPEST: usize = 120;

/// A function that reads a model: it returns a table, or as [`ModelFunction::Value`] one value a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelFunction {
    /// `ML.PREDICT(MODEL m, input)`: the input's columns and the prediction.
    Predict,
    /// `ML.EVALUATE(MODEL m[, input])`: one row of metrics.
    Evaluate,
    /// `ML.TRAINING_INFO(MODEL m)`: one row an epoch.
    TrainingInfo,
    /// `ML.WEIGHTS(MODEL m)`: the parameters as rows.
    Weights,
    /// `predict('m', a, b)` or `predict('m', x => a, y => b)`: the prediction for one row, wherever an expression may stand.
    Value,
}

impl ModelFunction {
    /// Those that return tables.
    const TABLES: [ModelFunction; 4] =
        [ModelFunction::Predict, ModelFunction::Evaluate, ModelFunction::TrainingInfo, ModelFunction::Weights];

    /// The name as SQL has it, with its `ML.`.
    pub fn name(self) -> &'static str {
        match self {
            ModelFunction::Predict => "ML.PREDICT",
            ModelFunction::Evaluate => "ML.EVALUATE",
            ModelFunction::TrainingInfo => "ML.TRAINING_INFO",
            ModelFunction::Weights => "ML.WEIGHTS",
            ModelFunction::Value => "predict",
        }
    }

    /// How a call of it looks.
    fn form(self) -> &'static str {
        match self {
            ModelFunction::Predict => "ML.PREDICT(MODEL m, TABLE t) or ML.PREDICT(MODEL m, (SELECT …))",
            ModelFunction::Evaluate => {
                "ML.EVALUATE(MODEL m), ML.EVALUATE(MODEL m, TABLE t) or ML.EVALUATE(MODEL m, (SELECT …))"
            }
            ModelFunction::TrainingInfo => "ML.TRAINING_INFO(MODEL m)",
            ModelFunction::Weights => "ML.WEIGHTS(MODEL m)",
            ModelFunction::Value => "predict('m', a, b) or predict('m', x => a, y => b)",
        }
    }
}

/// One call of a model function in a query.
#[derive(Debug, Clone)]
pub struct ModelCall {
    /// The name that stands for the call in [`Sql::text`], of a table or of a column; unique in its statement, and readable in
    /// errors and plans.
    pub table: String,
    pub function: ModelFunction,
    pub model: Name,
    /// `STRUCT(0.55 AS threshold)`: the probability from which on the positive class is predicted.
    pub threshold: Option<f64>,
    /// The call in the caller's text.
    pub span: Span,
    input: Option<Input>,
    /// What a [`ModelFunction::Value`] is given.
    arguments: Vec<CallArgument>,
    /// Whether the call is an item of a SELECT list by itself, without a name.
    is_unnamed_item: bool,
}

/// An argument of `predict`.
#[derive(Debug, Clone)]
pub struct CallArgument {
    /// `x` of `x => a`.
    pub name: Option<Name>,
    /// The expression in the caller's text.
    pub span: Span,
    fragment: Fragment,
}

impl ModelCall {
    /// What a [`ModelFunction::Value`] is given; nothing for the other functions.
    pub fn arguments(&self) -> &[CallArgument] {
        &self.arguments
    }

    /// Whether the call names rows to read: always for predictions, at will for evaluations.
    pub fn has_input(&self) -> bool {
        self.input.is_some()
    }

    /// The input in the caller's text: the table's name or the query in its parentheses.
    pub fn input_span(&self) -> Option<Span> {
        self.input.as_ref().map(|input| input.span)
    }
}

#[derive(Debug, Clone)]
struct Input {
    /// The table's name, or the query with its parentheses.
    fragment: Fragment,
    is_query: bool,
    span: Span,
    /// The WITH clauses around the call, outermost first.
    scope: Arc<Vec<With>>,
}

#[derive(Debug, Clone)]
struct With {
    recursive: bool,
    tables: Vec<Fragment>,
}

/// Text of the caller with calls in it.
#[derive(Debug, Clone, Default)]
struct Fragment {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
enum Piece {
    Text(Span),
    /// Index into the statement's calls.
    Call(usize),
}

/// A statement or a query of ordinary SQL, in which model functions may stand wherever a table may.
#[derive(Clone)]
pub struct Sql {
    source: Arc<str>,
    fragment: Fragment,
    calls: Vec<ModelCall>,
    span: Span,
    is_query: bool,
}

/// What stands for a call in [`Sql::expand`].
#[derive(Debug, Clone)]
pub enum Expansion {
    /// A table: its name, or a query in parentheses, as SQL text.
    Table(String),
    /// The input (a table's name, or a query in parentheses, with the calls in it expanded) between two pieces of SQL text.
    Around { before: String, after: String },
    /// A call of one of the engine's functions.
    Call { function: String, arguments: Vec<Given> },
}

/// What a function of the engine is given in [`Expansion::Call`].
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// The argument of this number, as the caller wrote it.
    Argument(usize),
    /// SQL text.
    Text(String),
}

/// SQL text that was made from the caller's, and where its bytes came from.
#[derive(Debug, Clone, Default)]
pub struct Rendered {
    pub text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    /// Where the part begins in the made text; it ends where the next one begins.
    start: usize,
    origin: Span,
    /// Whether the bytes are the caller's, one for one.
    verbatim: bool,
}

impl Rendered {
    fn push(&mut self, text: &str, origin: Span, verbatim: bool) {
        if !text.is_empty() {
            self.parts.push(Part { start: self.text.len(), origin, verbatim });
            self.text.push_str(text);
        }
    }

    /// Adds a piece of the caller's text.
    pub(crate) fn push_verbatim(&mut self, source: &str, span: Span) {
        self.push(&source[span.start..span.end], span, true);
    }

    /// The same text behind another one, which is nobody's.
    pub(crate) fn behind(&self, text: &str) -> Rendered {
        let mut out = Rendered::default();
        out.push(text, Span::at(self.locate(Span::at(0)).start), false);
        out.append(self);
        out
    }

    fn append(&mut self, other: &Rendered) {
        let shift = self.text.len();
        self.parts.extend(other.parts.iter().map(|part| Part { start: part.start + shift, ..part.clone() }));
        self.text.push_str(&other.text);
    }

    fn origin(&self, byte: usize) -> Option<(&Part, usize)> {
        let after = self.parts.partition_point(|part| part.start <= byte);
        let part = &self.parts[after.checked_sub(1)?];
        Some((part, byte - part.start))
    }

    /// Bytes of the caller's text for bytes of this one. What stands for a call maps to the whole call.
    pub fn locate(&self, span: Span) -> Span {
        let start = match self.origin(span.start) {
            Some((part, offset)) if part.verbatim => (part.origin.start + offset).min(part.origin.end),
            Some((part, _)) => part.origin.start,
            None => 0,
        };
        let last = span.end.max(span.start + 1) - 1;
        let end = match self.origin(last) {
            Some((part, offset)) if part.verbatim => {
                (part.origin.start + offset + usize::from(span.end > span.start)).min(part.origin.end)
            }
            // Into text that stands for a call, but not up to its end: what is meant ends before that text.
            Some((part, offset)) if span.start < part.start && self.ends_inside(part, offset) => {
                let before = self.origin(part.start - 1).filter(|(before, _)| before.verbatim);
                before.map_or(part.origin.end, |(before, _)| before.origin.end)
            }
            Some((part, _)) => part.origin.end,
            None => start,
        };
        Span { start, end: end.max(start) }
    }

    /// Whether a part goes on behind its byte `offset`.
    fn ends_inside(&self, part: &Part, offset: usize) -> bool {
        let next = self.parts.partition_point(|other| other.start <= part.start);
        let end = self.parts.get(next).map_or(self.text.len(), |next| next.start);
        part.start + offset + 1 < end
    }

    /// The same for a place of this text given by line and column in characters, both from 1: the word or sign there.
    pub fn locate_line_column(&self, line: u64, column: u64) -> Span {
        let start = Places::new(&self.text).byte(Location { line, column });
        self.locate(Span { start, end: start + token_length(&self.text[start..]) })
    }
}

/// How long the word, number, string or sign at the start of a text is.
fn token_length(text: &str) -> usize {
    let mut chars = text.char_indices();
    match chars.next() {
        None => 0,
        Some((_, quote @ ('\'' | '"' | '`'))) => {
            chars.find(|(_, c)| *c == quote).map_or(text.len(), |(at, c)| at + c.len_utf8())
        }
        Some((_, c)) if c.is_alphanumeric() || c == '_' => {
            text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len())
        }
        Some((_, c)) => c.len_utf8(),
    }
}

impl Sql {
    /// The statement as the caller wrote it.
    pub fn source(&self) -> &str {
        &self.source[self.span.start..self.span.end]
    }

    /// The statement's bytes in the caller's text.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The calls of model functions, each behind those that its input needs.
    pub fn calls(&self) -> &[ModelCall] {
        &self.calls
    }

    /// Ordinary SQL: each call is replaced by its generated table name.
    pub fn text(&self) -> Rendered {
        self.by_name(&self.fragment)
    }

    /// The rows that a call reads, as a query of its own (generated names for the calls in it, the CTEs around it in front of it).
    pub fn input(&self, call: &ModelCall) -> Option<Rendered> {
        // No call is replaced by what can fail.
        self.input_with(call, &mut |fragment| Ok::<_, SqlError>(self.by_name(fragment))).ok()?
    }

    /// The same with the calls in it replaced as by [`Sql::expand`].
    pub fn expand_input<E>(
        &self,
        call: &ModelCall,
        mut replace: impl FnMut(&ModelCall) -> Result<Expansion, E>,
    ) -> Result<Option<Rendered>, E> {
        self.input_with(call, &mut |fragment| self.expand_fragment(fragment, &mut replace))
    }

    fn input_with<E>(
        &self,
        call: &ModelCall,
        render: &mut dyn FnMut(&Fragment) -> Result<Rendered, E>,
    ) -> Result<Option<Rendered>, E> {
        let Some(input) = call.input.as_ref() else { return Ok(None) };
        let mut out = Rendered::default();
        let at = Span::at(input.span.start);
        for (level, with) in input.scope.iter().enumerate() {
            if level > 0 {
                out.push("(", at, false);
            }
            let head = if with.recursive { "WITH RECURSIVE " } else { "WITH " };
            out.push(head, at, false);
            for (number, table) in with.tables.iter().enumerate() {
                if number > 0 {
                    out.push(", ", at, false);
                }
                out.append(&render(table)?);
            }
            out.push(" SELECT * FROM ", at, false);
        }
        if !input.is_query && input.scope.is_empty() {
            out.push("SELECT * FROM ", at, false);
        }
        out.append(&render(&input.fragment)?);
        out.push(&")".repeat(input.scope.len().saturating_sub(1)), at, false);
        Ok(Some(out))
    }

    /// Ordinary SQL in which each call that the statement itself reaches is replaced in place by what `replace` returns for it,
    /// so that its input keeps the CTEs and the outer columns around it.
    pub fn expand<E>(&self, mut replace: impl FnMut(&ModelCall) -> Result<Expansion, E>) -> Result<Rendered, E> {
        self.expand_fragment(&self.fragment, &mut replace)
    }

    fn expand_fragment<E>(
        &self,
        fragment: &Fragment,
        replace: &mut impl FnMut(&ModelCall) -> Result<Expansion, E>,
    ) -> Result<Rendered, E> {
        let mut out = Rendered::default();
        for piece in &fragment.pieces {
            match piece {
                Piece::Text(span) => out.push_verbatim(&self.source, *span),
                Piece::Call(index) => {
                    let call = &self.calls[*index];
                    match replace(call)? {
                        Expansion::Table(text) => out.push(&text, call.span, false),
                        Expansion::Around { before, after } => {
                            out.push(&before, call.span, false);
                            if let Some(input) = &call.input {
                                out.append(&self.expand_fragment(&input.fragment, replace)?);
                            }
                            out.push(&after, call.span, false);
                        }
                        Expansion::Call { function, arguments } => {
                            out.append(&self.call_of(call, &function, &arguments, replace)?);
                        }
                    }
                }
            }
        }
        Ok(out)
    }

    fn call_of<E>(
        &self,
        call: &ModelCall,
        function: &str,
        arguments: &[Given],
        replace: &mut impl FnMut(&ModelCall) -> Result<Expansion, E>,
    ) -> Result<Rendered, E> {
        let mut out = Rendered::default();
        out.push(&format!("{}(", quoted(function)), call.span, false);
        for (place, argument) in arguments.iter().enumerate() {
            if place > 0 {
                out.push(", ", call.span, false);
            }
            match argument {
                Given::Argument(number) => {
                    if let Some(argument) = call.arguments.get(*number) {
                        out.append(&self.expand_fragment(&argument.fragment, replace)?);
                    }
                }
                Given::Text(text) => out.push(text, call.span, false),
            }
        }
        out.push(if call.is_unnamed_item { ") AS predict" } else { ")" }, call.span, false);
        Ok(out)
    }

    fn by_name(&self, fragment: &Fragment) -> Rendered {
        let mut out = Rendered::default();
        for piece in &fragment.pieces {
            match piece {
                Piece::Text(span) => out.push_verbatim(&self.source, *span),
                Piece::Call(index) => {
                    let call = &self.calls[*index];
                    out.push(&quoted(&call.table), call.span, false);
                }
            }
        }
        out
    }

    /// Reads all the tokens as a statement, and checks that the engine's parser takes it.
    pub(crate) fn read(source: &Arc<str>, reader: &Reader<'_>) -> Result<Sql, SqlError> {
        let mut scanner = Scanner { text: reader.text, calls: Vec::new() };
        let span = Span { start: reader.span().start, end: reader.until };
        let fragment = scanner.fragment(reader, span, &Arc::default(), 0)?;
        let mut sql = Sql { source: source.clone(), fragment, calls: scanner.calls, span, is_query: false };
        sql.is_query = on_deep_stack(reader.tokens.len(), span, || sql.check())?;
        Ok(sql)
    }

    /// Whether the statement is a query.
    pub fn is_query(&self) -> bool {
        self.is_query
    }

    /// Checks what needs a syntax tree; returns whether the statement is a query.
    fn check(&self) -> Result<bool, SqlError> {
        let statement = parse_one(&self.text())?;
        let is_query = matches!(statement, ast::Statement::Query(_));
        let mut tables = relations(&statement);
        for call in &self.calls {
            if let Some(input) = self.input(call) {
                let statement = parse_one(&input)?;
                if !matches!(statement, ast::Statement::Query(_)) {
                    return Err(SqlError::Expected {
                        wanted: "a query".to_string(),
                        found: "another statement".to_string(),
                        span: call.input_span().unwrap_or(call.span),
                        help: Some(call.function.form().to_string()),
                    });
                }
                tables.extend(relations(&statement));
            }
            for argument in &call.arguments {
                let at = Span::at(argument.span.start);
                let mut select = Rendered::default();
                select.push("SELECT (", at, false);
                select.append(&self.by_name(&argument.fragment));
                select.push(")", Span::at(argument.span.end), false);
                tables.extend(relations(&parse_one(&select)?));
            }
        }
        let is_value = |call: &&ModelCall| call.function == ModelFunction::Value;
        if let Some(call) = self.calls.iter().filter(is_value).find(|call| tables.contains(&call.table)) {
            return Err(SqlError::Misplaced {
                function: call.function.name().to_string(),
                place: "an expression",
                span: call.span,
                help: format!(
                    "it returns one value; for a table write SELECT * FROM {}",
                    ModelFunction::Predict.form().replace("MODEL m", &format!("MODEL {}", call.model.value))
                ),
            });
        }
        match self.calls.iter().find(|call| !is_value(call) && !tables.contains(&call.table)) {
            None => Ok(is_query),
            Some(call) => Err(SqlError::Misplaced {
                function: call.function.name().to_string(),
                place: "FROM",
                span: call.span,
                help: format!(
                    "it returns a table: SELECT * FROM {}; for one value a row write predict('{}', …)",
                    call.function.form(),
                    call.model.value
                ),
            }),
        }
    }
}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sql").field("text", &self.text().text).field("calls", &self.calls).finish()
    }
}

/// Runs what recurses over a syntax tree. A chain as `x = 1 OR x = 2 OR …` is a tree as deep as it has links, in which even
/// dropping recurses, so a long statement gets a stack of its own that fits it.
fn on_deep_stack<T: Send>(
    tokens: usize,
    span: Span,
    run: impl FnOnce() -> Result<T, SqlError> + Send,
) -> Result<T, SqlError> {
    const SHORT: usize = 1_000;
    const BYTES_A_TOKEN: usize = 4 << 10;
    const LARGEST: usize = 1 << 30;
    if tokens <= SHORT {
        return run();
    }
    let size = (tokens * BYTES_A_TOKEN).clamp(8 << 20, LARGEST);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(size).spawn_scoped(scope, run);
        match thread.map(|thread| thread.join()) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            // No memory for such a stack.
            Err(_) => Err(SqlError::TooDeep { limit: SHORT, span }),
        }
    })
}

/// A name in the quotes that keep it as it is.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The names of one part in all places where a table stands.
fn relations(statement: &ast::Statement) -> Vec<String> {
    let mut names = Vec::new();
    let _: ControlFlow<()> = visit_relations(statement, |name| {
        if let [ast::ObjectNamePart::Identifier(ident)] = name.0.as_slice() {
            names.push(ident.value.clone());
        }
        ControlFlow::Continue(())
    });
    names
}

fn parse_one(sql: &Rendered) -> Result<ast::Statement, SqlError> {
    let failed = |error: ParserError| syntax_error(&error, sql);
    let mut parser = Parser::new(&DIALECT).try_with_sql(&sql.text).map_err(failed)?;
    let statement = parser.parse_statement().map_err(failed)?;
    let next = parser.peek_token();
    if next.token == Token::EOF {
        return Ok(statement);
    }
    let start = next.span.start;
    Err(SqlError::Expected {
        wanted: "the end of the statement".to_string(),
        found: next.token.to_string(),
        span: sql.locate_line_column(start.line, start.column),
        help: None,
    })
}

/// The parser gives its places as text: "Expected: an expression, found: FROM at Line: 1, Column: 8".
pub(crate) fn syntax_error(error: &ParserError, sql: &Rendered) -> SqlError {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
        ParserError::RecursionLimitExceeded => {
            return SqlError::TooDeep { limit: 50, span: sql.locate(Span { start: 0, end: sql.text.len() }) };
        }
    };
    let mut said = message.as_str();
    let mut place = None;
    if let Some((before, after)) = message.rsplit_once(" at Line: ")
        && let Some((line, column)) = after.split_once(", Column: ")
        && let (Ok(line), Ok(column)) = (line.trim().parse(), column.trim().parse())
    {
        said = before;
        place = Some(sql.locate_line_column(line, column));
    }
    let said = said
        .strip_prefix("sql parser error: ")
        .unwrap_or(said)
        .replacen("Expected: ", "expected ", 1)
        .replacen(", found: EOF", ", found the end", 1)
        .replacen(", found: ", ", found ", 1);
    SqlError::Syntax {
        message: lower_first(&said),
        span: place.unwrap_or_else(|| sql.locate(Span::at(sql.text.len()))),
    }
}

/// Finds the calls of model functions in the tokens of a statement.
struct Scanner<'a> {
    text: &'a str,
    calls: Vec<ModelCall>,
}

impl<'a> Scanner<'a> {
    /// Reads all the tokens, which stand in the bytes of `span`.
    fn fragment(
        &mut self,
        reader: &Reader<'a>,
        span: Span,
        scope: &Arc<Vec<With>>,
        depth: usize,
    ) -> Result<Fragment, SqlError> {
        if depth > DEEPEST {
            return Err(SqlError::TooDeep { limit: DEEPEST, span: reader.span() });
        }
        let mut out = FragmentBuilder::new(span.start);
        let mut scope = scope.clone();
        let mut reader = reader.clone();
        // Whether the list of a SELECT is read.
        let mut in_list = false;
        while let Some(tok) = reader.peek() {
            if tok.is_word("SELECT") {
                in_list = true;
            } else if ["FROM", "WHERE", "GROUP", "HAVING", "QUALIFY", "ORDER", "LIMIT"].iter().any(|w| tok.is_word(w)) {
                in_list = false;
            }
            if tok.is_word("WITH") && self.is_with(&reader) {
                self.with(&mut reader, &mut out, &mut scope, depth)?;
            } else if let Some(function) = ml_function(&reader) {
                let call = self.call(&mut reader, function, &scope, depth)?;
                out.call(call, tok.span.start, reader.end());
            } else if is_value_call(&reader) {
                let begins = reader.at.checked_sub(1).and_then(|at| reader.tokens.get(at)).is_some_and(begins_item);
                let call = self.value_call(&mut reader, &scope, depth)?;
                self.calls[call].is_unnamed_item = in_list && begins && reader.peek().is_none_or(ends_item);
                out.call(call, tok.span.start, reader.end());
            } else if tok.token == Token::LParen {
                let inside = reader.expect_group("(")?;
                let bytes = Span { start: tok.span.end, end: inside.until };
                let fragment = self.fragment(&inside, bytes, &scope, depth + 1)?;
                out.fragment(fragment, bytes);
            } else {
                reader.at += 1;
            }
        }
        Ok(out.finish(span.end))
    }

    /// WITH [RECURSIVE] name [(columns)] AS ( …
    fn is_with(&self, reader: &Reader<'a>) -> bool {
        let mut reader = reader.clone();
        reader.at += 1;
        reader.take_words(&["RECURSIVE"]);
        self.cte_head(&mut reader)
    }

    fn cte_head(&self, reader: &mut Reader<'a>) -> bool {
        let named = reader.peek().is_some_and(|tok| tok.name().is_some());
        reader.at += 1;
        if !named || (reader.is(&Token::LParen) && reader.expect_group("(").is_err()) {
            return false;
        }
        reader.take_words(&["AS"]) && reader.is(&Token::LParen)
    }

    /// Reads a WITH clause; its tables are in the scope of what follows.
    fn with(
        &mut self,
        reader: &mut Reader<'a>,
        out: &mut FragmentBuilder,
        scope: &mut Arc<Vec<With>>,
        depth: usize,
    ) -> Result<(), SqlError> {
        reader.at += 1;
        let mut with = With { recursive: reader.take_words(&["RECURSIVE"]), tables: Vec::new() };
        let around = scope.clone();
        loop {
            let start = reader.span().start;
            if !self.cte_head(reader) {
                // The engine's parser says what is wrong.
                return Ok(());
            }
            let open = reader.span();
            let inside = reader.expect_group("(")?;
            let bytes = Span { start: open.end, end: inside.until };
            let body = self.fragment(&inside, bytes, scope, depth + 1)?;
            out.fragment(body.clone(), bytes);
            let mut table = FragmentBuilder::new(start);
            table.fragment(body, bytes);
            with.tables.push(table.finish(reader.end()));
            let mut inner = (*around).clone();
            inner.push(with.clone());
            *scope = Arc::new(inner);
            if !reader.take(&Token::Comma) {
                return Ok(());
            }
        }
    }

    /// Reads `ML.F(MODEL m[, input][, STRUCT(…)])`; returns the index of the call.
    fn call(
        &mut self,
        reader: &mut Reader<'a>,
        name: Span,
        scope: &Arc<Vec<With>>,
        depth: usize,
    ) -> Result<usize, SqlError> {
        let function = self.function(name)?;
        let start = name.start;
        reader.at += 3;
        let mut inside = reader.expect_group("(")?;
        let with_form = |error: SqlError| match error {
            SqlError::Expected { wanted, found, span, help: None } => {
                SqlError::Expected { wanted, found, span, help: Some(format!("write {}", function.form())) }
            }
            error => error,
        };
        inside.expect_words(&["MODEL"]).map_err(with_form)?;
        let model = inside.expect_name("the model's name").map_err(with_form)?;
        let takes_input = match function {
            ModelFunction::Predict => true,
            ModelFunction::Evaluate => inside.is(&Token::Comma),
            ModelFunction::TrainingInfo | ModelFunction::Weights | ModelFunction::Value => false,
        };
        let mut input = None;
        let mut threshold = None;
        if takes_input {
            inside.expect(&Token::Comma, "a comma and the input").map_err(with_form)?;
            if function == ModelFunction::Predict || !inside.is_word("STRUCT") {
                let (fragment, is_query, span) = self.input(&mut inside, scope, depth).map_err(with_form)?;
                input = Some(Input { fragment, is_query, span, scope: scope.clone() });
                if inside.take(&Token::Comma) {
                    threshold = self.settings(&mut inside).map_err(with_form)?;
                }
            } else {
                threshold = self.settings(&mut inside).map_err(with_form)?;
            }
        }
        inside.expect_end("the closing parenthesis").map_err(with_form)?;
        let span = Span { start, end: reader.end() };
        Ok(self.add(ModelCall {
            table: String::new(),
            function,
            model,
            threshold,
            span,
            input,
            arguments: Vec::new(),
            is_unnamed_item: false,
        }))
    }

    /// Gives a call its name; returns its index.
    fn add(&mut self, mut call: ModelCall) -> usize {
        let index = self.calls.len();
        let shown = format!("{}({})", call.function.name(), call.model.value);
        let is_alike = |other: &&ModelCall| other.function == call.function && other.model.value == call.model.value;
        call.table = match self.calls.iter().filter(is_alike).count() {
            0 => shown,
            alike => format!("{shown} #{}", alike + 1),
        };
        self.calls.push(call);
        index
    }

    /// Reads `predict('m'[, argument …])`, an argument being an expression or `name => expression`.
    fn value_call(&mut self, reader: &mut Reader<'a>, scope: &Arc<Vec<With>>, depth: usize) -> Result<usize, SqlError> {
        let start = reader.span().start;
        reader.at += 1;
        let inside = reader.expect_group("(")?;
        let mut parts = inside.split_commas().into_iter();
        let mut first = parts.next().unwrap_or_else(|| inside.clone());
        let (value, span) = first.expect_string("the model's name in quotes")?;
        first.expect_end("a comma or the closing parenthesis")?;
        let mut arguments: Vec<CallArgument> = Vec::new();
        for mut part in parts {
            let name = match part.tokens {
                [name, arrow, ..] if arrow.token == Token::RArrow => name.name(),
                _ => None,
            };
            if let Some(name) = &name {
                part = Reader::new(part.text, &part.tokens[2..], part.until);
                let first = arguments.iter().filter_map(|a| a.name.as_ref()).find(|n| n.value == name.value);
                if let Some(first) = first {
                    let what = format!("the argument '{}'", name.value);
                    return Err(SqlError::Duplicate { what, span: name.span, first: first.span });
                }
            }
            let mixed = arguments.first().is_some_and(|first| first.name.is_some() != name.is_some());
            if mixed || part.is_done() {
                let wanted = if mixed { "all arguments with a name, or none" } else { "an expression" };
                return Err(SqlError::Expected {
                    wanted: wanted.to_string(),
                    found: part.found(),
                    span: part.span(),
                    help: Some(format!("write {}", ModelFunction::Value.form())),
                });
            }
            let span = part.whole();
            let fragment = self.fragment(&part, span, scope, depth + 1)?;
            arguments.push(CallArgument { name, span, fragment });
        }
        Ok(self.add(ModelCall {
            table: String::new(),
            function: ModelFunction::Value,
            model: Name { value, span },
            threshold: None,
            span: Span { start, end: reader.end() },
            input: None,
            arguments,
            is_unnamed_item: false,
        }))
    }

    /// The function of the three tokens `ML . name`.
    fn function(&self, span: Span) -> Result<ModelFunction, SqlError> {
        let written = &self.text[span.start..span.end];
        let name = written.rsplit('.').next().unwrap_or_default().trim();
        let is_it = |full: &str| full[3..].eq_ignore_ascii_case(name);
        if let Some(function) = ModelFunction::TABLES.into_iter().find(|f| is_it(f.name())) {
            return Ok(function);
        }
        if let Some(feature) = FEATURE_FUNCTIONS.iter().find(|f| is_it(f)) {
            return Err(SqlError::Misplaced {
                function: (*feature).to_string(),
                place: "the TRANSFORM of CREATE MODEL",
                span,
                help: format!(
                    "its statistics are those of the training rows: CREATE MODEL m TRANSFORM ({}, …)",
                    FeatureFunction::form(feature)
                ),
            });
        }
        let known: Vec<&'static str> = ModelFunction::TABLES.into_iter().map(|f| f.name()).collect();
        Err(SqlError::Unknown {
            kind: "model function",
            name: format!("ML.{name}"),
            span,
            nearest: nearest(&format!("ML.{name}"), &known),
            known,
        })
    }

    /// TABLE t, or a query in parentheses.
    fn input(
        &mut self,
        reader: &mut Reader<'a>,
        scope: &Arc<Vec<With>>,
        depth: usize,
    ) -> Result<(Fragment, bool, Span), SqlError> {
        if reader.is(&Token::LParen) {
            let start = reader.span().start;
            let inside = reader.expect_group("(")?;
            let bytes = Span { start: start + 1, end: inside.until };
            let span = Span { start, end: reader.end() };
            let query = self.fragment(&inside, bytes, scope, depth + 1)?;
            let mut out = FragmentBuilder::new(start);
            out.fragment(query, bytes);
            return Ok((out.finish(span.end), true, span));
        }
        if !reader.take_words(&["TABLE"]) {
            return Err(reader.expected("TABLE and a name, or a query in parentheses"));
        }
        let span = match reader.peek() {
            // A file, as in FROM 'flights.parquet'.
            Some(tok) if matches!(tok.token, Token::SingleQuotedString(_)) => {
                reader.at += 1;
                tok.span
            }
            _ => reader.expect_name("the table's name")?.span,
        };
        let fragment = Fragment { pieces: vec![Piece::Text(span)] };
        Ok((fragment, false, span))
    }

    /// STRUCT(0.55 AS threshold)
    fn settings(&self, reader: &mut Reader<'a>) -> Result<Option<f64>, SqlError> {
        reader.expect_words(&["STRUCT"])?;
        let inside = reader.expect_group("(")?;
        let mut threshold = None;
        for mut part in inside.split_commas() {
            let (value, value_span) = read_literal(&mut part)?;
            part.expect_words(&["AS"])?;
            let name = part.expect_name("the setting's name")?;
            part.expect_end("a comma or the closing parenthesis")?;
            if name.value != "threshold" {
                let known = vec!["threshold"];
                return Err(SqlError::Unknown {
                    kind: "setting",
                    nearest: nearest(&name.value, &known),
                    name: name.value,
                    span: name.span,
                    known,
                });
            }
            match value {
                Literal::Number(value) if (0.0..=1.0).contains(&value) => threshold = Some(value),
                _ => {
                    return Err(SqlError::Value {
                        of: "threshold".to_string(),
                        wanted: "a probability from 0 to 1".to_string(),
                        found: self.text[value_span.start..value_span.end].to_string(),
                        span: value_span,
                        nearest: None,
                    });
                }
            }
        }
        Ok(threshold)
    }
}

/// Whether `predict('` comes next. The name may be any text that a model is called by.
fn is_value_call(reader: &Reader<'_>) -> bool {
    match &reader.tokens[reader.at.min(reader.tokens.len())..] {
        [name, open, text, ..] => {
            name.is_word("predict") && open.token == Token::LParen && matches!(text.token, Token::SingleQuotedString(_))
        }
        _ => false,
    }
}

/// Whether an item of a SELECT list may begin behind this token.
fn begins_item(tok: &Tok) -> bool {
    tok.token == Token::Comma || ["SELECT", "DISTINCT", "ALL"].iter().any(|word| tok.is_word(word))
}

/// Whether an item of a SELECT list ends before this token.
fn ends_item(tok: &Tok) -> bool {
    const WORDS: [&str; 11] =
        ["FROM", "WHERE", "GROUP", "HAVING", "QUALIFY", "ORDER", "LIMIT", "OFFSET", "UNION", "INTERSECT", "EXCEPT"];
    tok.token == Token::Comma || WORDS.iter().any(|word| tok.is_word(word))
}

/// The bytes of `ML . name` where a call of it comes next.
pub(crate) fn ml_function(reader: &Reader<'_>) -> Option<Span> {
    match &reader.tokens[reader.at.min(reader.tokens.len())..] {
        [ml, dot, name, open, ..]
            if ml.is_word("ML")
                && dot.token == Token::Period
                && name.word().is_some()
                && open.token == Token::LParen =>
        {
            Some(ml.span.to(name.span))
        }
        _ => None,
    }
}

/// Puts a fragment together; the text between what is added is the caller's.
struct FragmentBuilder {
    pieces: Vec<Piece>,
    from: usize,
}

impl FragmentBuilder {
    fn new(from: usize) -> Self {
        FragmentBuilder { pieces: Vec::new(), from }
    }

    fn text_until(&mut self, byte: usize) {
        if byte > self.from {
            self.pieces.push(Piece::Text(Span { start: self.from, end: byte }));
        }
    }

    fn call(&mut self, index: usize, start: usize, end: usize) {
        self.text_until(start);
        self.pieces.push(Piece::Call(index));
        self.from = end;
    }

    fn fragment(&mut self, inner: Fragment, bytes: Span) {
        if inner.pieces.iter().any(|piece| matches!(piece, Piece::Call(_))) {
            self.text_until(bytes.start);
            self.pieces.extend(inner.pieces);
            self.from = bytes.end;
        }
    }

    fn finish(mut self, end: usize) -> Fragment {
        self.text_until(end);
        Fragment { pieces: self.pieces }
    }
}
