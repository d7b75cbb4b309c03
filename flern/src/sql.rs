//! The statements of Flern: SQL as the engine has it, and around it the statements and functions for models.
//!
//! The engine's parser knows no MODEL, so this wrapper reads a script first: it cuts it into statements, reads those about models
//! itself, and cuts the calls of model functions out of queries ([`Sql`]). Nothing is looked up here: whether tables, columns and
//! models exist is for the session to say. All positions are bytes of the script.

mod options;
mod query;
mod token;
mod transform;

use std::sync::Arc;

use datafusion_sql::sqlparser::tokenizer::Token;

use self::options::read_literal;
pub use self::options::{ModelOption, ModelOptions, OPTIONS, OptionSpec, OptionType};
pub use self::query::{CallArgument, Expansion, Given, ModelCall, ModelFunction, Rendered, Sql};
use self::token::{Reader, Tok, tokenize};
pub(crate) use self::transform::check_row_expression;
pub use self::transform::{FeatureFunction, FeatureValue, ImputeStrategy, TransformItem, TransformKind};
use self::transform::{begins_query, read_transform};
use crate::error::SqlError;

/// Bytes of a text: from `start` up to but not including `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// The place before a byte.
    pub fn at(byte: usize) -> Span {
        Span { start: byte, end: byte }
    }

    /// From the start of this span to the end of a later one.
    pub fn to(self, later: Span) -> Span {
        Span { start: self.start, end: later.end.max(self.start) }
    }

    /// The text that the span covers.
    pub fn of(self, text: &str) -> &str {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// The name of a model, a column or a setting. Names without quotes are in lower case; the parts of a dotted name are joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub value: String,
    pub span: Span,
}

/// A value written out in a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Text(String),
    Number(f64),
    Bool(bool),
    Array(Vec<Literal>),
}

/// One statement of a script.
#[derive(Debug, Clone)]
pub struct Statement {
    pub kind: StatementKind,
    /// Its bytes in the script, without the comments before it and the semicolon.
    pub span: Span,
}

#[derive(Debug, Clone)]
pub enum StatementKind {
    /// A query or another statement of the SQL engine.
    Sql(Sql),
    CreateModel(Box<CreateModel>),
    /// SHOW MODELS
    ShowModels,
    /// DESCRIBE MODEL m
    DescribeModel(Name),
    /// DROP MODEL [IF EXISTS] m
    DropModel {
        name: Name,
        if_exists: bool,
    },
    /// EXPORT MODEL m TO 'dir'
    ExportModel {
        name: Name,
        path: String,
    },
    /// IMPORT MODEL m FROM 'dir'
    ImportModel {
        name: Name,
        path: String,
    },
    /// `EXPLAIN [ANALYZE] [(level)] statement`
    Explain {
        analyze: bool,
        /// `None` where the statement names none.
        level: Option<ExplainLevel>,
        statement: Box<Statement>,
    },
    /// SET name = value
    Set {
        name: Name,
        value: Literal,
        value_span: Span,
    },
}

/// CREATE [OR REPLACE] MODEL [IF NOT EXISTS] m [TRANSFORM (…)] [OPTIONS (…)] AS query
#[derive(Debug, Clone)]
pub struct CreateModel {
    pub name: Name,
    pub or_replace: bool,
    pub if_not_exists: bool,
    /// `None` without the clause: numbers are standardized and text is one-hot encoded.
    pub transform: Option<Vec<TransformItem>>,
    pub options: ModelOptions,
    /// The training rows. Only a model with the option `path` may do without.
    pub query: Option<Sql>,
}

/// The form in which EXPLAIN shows a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExplainLevel {
    Graph,
    Plan,
    Kernel,
    Clif,
    Asm,
}

impl ExplainLevel {
    pub const ALL: [(&'static str, ExplainLevel); 5] = [
        ("GRAPH", ExplainLevel::Graph),
        ("PLAN", ExplainLevel::Plan),
        ("KERNEL", ExplainLevel::Kernel),
        ("CLIF", ExplainLevel::Clif),
        ("ASM", ExplainLevel::Asm),
    ];
}

/// Reads all statements of a script, before any of them runs.
///
/// # Errors
/// The first statement that is not well formed, with its place.
pub fn parse(text: &str) -> Result<Vec<Statement>, SqlError> {
    let (tokens, error) = tokenize(text);
    if let Some(error) = error {
        return Err(error);
    }
    let source: Arc<str> = text.into();
    let mut statements = Vec::new();
    for part in tokens.split(|tok| tok.token == Token::SemiColon) {
        if let Some(last) = part.last() {
            let reader = Reader::new(text, part, last.span.end);
            statements.push(read_statement(&source, reader)?);
        }
    }
    Ok(statements)
}

/// Whether an interactive text is ready to be run: it is empty, or ends with a semicolon that is not inside of a string or comment.
pub fn is_complete(text: &str) -> bool {
    let (tokens, error) = tokenize(text);
    error.is_none() && tokens.last().is_none_or(|tok| tok.token == Token::SemiColon)
}

/// The candidate that a misspelt name most likely means: at most one edit in three characters away.
pub fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    candidates
        .iter()
        .map(|candidate| (edits(&name, &candidate.to_lowercase()), *candidate))
        .filter(|(edits, candidate)| *edits <= candidate.chars().count().max(name.chars().count()).div_ceil(3))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements that turn one text into the other (Levenshtein 1966), a row of the table at a time.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn read_statement(source: &Arc<str>, mut reader: Reader<'_>) -> Result<Statement, SqlError> {
    let span = reader.whole();
    let kind = if reader.is_words(&["CREATE", "MODEL"]) || reader.is_words(&["CREATE", "OR", "REPLACE", "MODEL"]) {
        StatementKind::CreateModel(Box::new(read_create_model(source, &mut reader)?))
    } else if reader.take_words(&["SHOW", "MODELS"]) {
        reader.expect_end("the end of the statement")?;
        StatementKind::ShowModels
    } else if is_about_model(&reader, "DESCRIBE") || is_about_model(&reader, "DESC") {
        reader.at += 2;
        let name = read_last_name(&mut reader)?;
        StatementKind::DescribeModel(name)
    } else if is_about_model(&reader, "DROP") {
        reader.at += 2;
        let if_exists = reader.take_words(&["IF", "EXISTS"]);
        let name = read_last_name(&mut reader)?;
        StatementKind::DropModel { name, if_exists }
    } else if is_about_model(&reader, "EXPORT") {
        let (name, path) = read_name_and_path(&mut reader, "TO")?;
        StatementKind::ExportModel { name, path }
    } else if is_about_model(&reader, "IMPORT") {
        let (name, path) = read_name_and_path(&mut reader, "FROM")?;
        StatementKind::ImportModel { name, path }
    } else if reader.take_words(&["EXPLAIN"]) {
        read_explain(source, reader)?
    } else if reader.take_words(&["SET"]) {
        read_set(&mut reader)?
    } else {
        StatementKind::Sql(Sql::read(source, &reader)?)
    };
    Ok(Statement { kind, span })
}

/// Whether the statement is `verb MODEL` and something; a table may be called model.
fn is_about_model(reader: &Reader<'_>, verb: &str) -> bool {
    reader.is_words(&[verb, "MODEL"]) && reader.tokens.len() > 2
}

fn read_last_name(reader: &mut Reader<'_>) -> Result<Name, SqlError> {
    let name = reader.expect_name("the model's name")?;
    reader.expect_end("the end of the statement")?;
    Ok(name)
}

fn read_name_and_path(reader: &mut Reader<'_>, word: &str) -> Result<(Name, String), SqlError> {
    reader.at += 2;
    let name = reader.expect_name("the model's name")?;
    reader.expect_words(&[word])?;
    let (path, _) = reader.expect_string("a folder in quotes")?;
    reader.expect_end("the end of the statement")?;
    Ok((name, path))
}

fn read_create_model(source: &Arc<str>, reader: &mut Reader<'_>) -> Result<CreateModel, SqlError> {
    reader.expect_words(&["CREATE"])?;
    let or_replace = reader.take_words(&["OR", "REPLACE"]);
    reader.expect_words(&["MODEL"])?;
    let if_not_exists = reader.take_words(&["IF", "NOT", "EXISTS"]);
    let name = reader.expect_name("the model's name")?;
    let mut transform = None;
    let mut options = None;
    loop {
        let clause = reader.span();
        let duplicate = |what: &str, first: Span| SqlError::Duplicate { what: what.to_string(), span: clause, first };
        if reader.take_words(&["TRANSFORM"]) {
            let inside = reader.expect_group("( and the columns")?;
            if let Some((_, first)) = transform {
                return Err(duplicate("TRANSFORM", first));
            }
            transform = Some((read_transform(&inside)?, clause));
        } else if reader.take_words(&["OPTIONS"]) {
            let inside = reader.expect_group("( and the options")?;
            if let Some((_, first)) = options {
                return Err(duplicate("OPTIONS", first));
            }
            options = Some((ModelOptions::read(&inside)?, clause));
        } else {
            break;
        }
    }
    let options = options.map(|(options, _)| options).unwrap_or_default();
    let query = if reader.take_words(&["AS"]) {
        match reader.peek() {
            Some(tok) if begins_query(tok) => {}
            _ => return Err(reader.expected("a query")),
        }
        let rest = Reader::new(reader.text, &reader.tokens[reader.at..], reader.until);
        let query = Sql::read(source, &rest)?;
        if !query.is_query() {
            return Err(reader.expected("a query"));
        }
        Some(query)
    } else if reader.is_done() && options.get("path").is_some() {
        None
    } else {
        return Err(reader.expected("TRANSFORM (…), OPTIONS (…) or AS and a query"));
    };
    if options.get("model_type").is_none() && options.get("path").is_none() {
        return Err(SqlError::MissingOption {
            name: "model_type",
            why: "it says what is trained".to_string(),
            span: name.span,
        });
    }
    Ok(CreateModel { name, or_replace, if_not_exists, transform: transform.map(|(items, _)| items), options, query })
}

fn read_explain(source: &Arc<str>, mut reader: Reader<'_>) -> Result<StatementKind, SqlError> {
    let mut analyze = reader.take_words(&["ANALYZE"]);
    let mut level = explain_level(reader.peek());
    if level.is_some() {
        reader.at += 1;
    } else if reader.is(&Token::LParen) && !opens_query(&reader) {
        let inside = reader.expect_group("(")?;
        for mut part in inside.split_commas() {
            if part.take_words(&["ANALYZE"]) {
                analyze = true;
            } else if let Some(found) = explain_level(part.peek()) {
                level = Some(found);
                part.at += 1;
            } else {
                let names: Vec<&'static str> = ExplainLevel::ALL.iter().map(|(name, _)| *name).collect();
                let name = part.found();
                return Err(SqlError::Unknown {
                    kind: "level of EXPLAIN",
                    nearest: nearest(&name, &names),
                    name,
                    span: part.span(),
                    known: names,
                });
            }
            part.expect_end("a comma or the closing parenthesis")?;
        }
    }
    if reader.is_done() {
        return Err(reader.expected("a statement"));
    }
    let rest = Reader::new(reader.text, &reader.tokens[reader.at..], reader.until);
    if rest.is_word("EXPLAIN") {
        return Err(rest.expected("a statement to explain"));
    }
    let statement = Box::new(read_statement(source, rest)?);
    Ok(StatementKind::Explain { analyze, level, statement })
}

/// Whether a query, and not a list of levels, stands in the parentheses.
fn opens_query(reader: &Reader<'_>) -> bool {
    reader.tokens.get(reader.at + 1).is_some_and(begins_query)
}

fn explain_level(tok: Option<&Tok>) -> Option<ExplainLevel> {
    ExplainLevel::ALL.iter().find(|(name, _)| tok.is_some_and(|tok| tok.is_word(name))).map(|(_, level)| *level)
}

fn read_set(reader: &mut Reader<'_>) -> Result<StatementKind, SqlError> {
    let name = reader.expect_name("a setting's name")?;
    if !reader.take_words(&["TO"]) {
        reader.expect(&Token::Eq, "= and a value")?;
    }
    let start = reader.span();
    let (value, value_span) = match reader.peek().and_then(Tok::name) {
        // SET optimizer = off
        Some(word) if !reader.is_word("TRUE") && !reader.is_word("FALSE") => {
            reader.at += 1;
            (Literal::Text(word.value), start)
        }
        _ => read_literal(reader)?,
    };
    reader.expect_end("the end of the statement")?;
    Ok(StatementKind::Set { name, value, value_span })
}

#[cfg(test)]
mod tests;
