//! Completion in the interactive shell.

use std::sync::{Arc, Mutex};

use reedline::{Completer, CompletionResult, Span, Suggestion};

/// The names that the session has at the moment.
#[derive(Debug, Default, Clone)]
pub(crate) struct Names {
    pub(crate) tables: Vec<String>,
    pub(crate) columns: Vec<String>,
    pub(crate) models: Vec<String>,
}

/// Shared between the shell, which refreshes the names, and the line editor.
pub(crate) type SharedNames = Arc<Mutex<Names>>;

pub(crate) struct SqlCompleter {
    pub(crate) names: SharedNames,
}

impl Completer for SqlCompleter {
    fn complete(&mut self, line: &str, pos: usize) -> CompletionResult {
        let names = match self.names.lock() {
            Ok(names) => names.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        };
        let (start, found) = complete(line.get(..pos).unwrap_or(line), &names);
        let found: Vec<Suggestion> = found
            .into_iter()
            .map(|value| Suggestion {
                append_whitespace: !value.ends_with('('),
                value,
                span: Span { start, end: pos },
                ..Suggestion::default()
            })
            .collect();
        CompletionResult::fresh(found)
    }
}

const KEYWORDS: &[&str] = &[
    "ALL",
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "CREATE",
    "CROSS",
    "DATE",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DROP",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "EXPORT",
    "EXTRACT",
    "FALSE",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "IF",
    "IMPORT",
    "IN",
    "INNER",
    "INTERSECT",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "MODEL",
    "MODELS",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OPTIONS",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "REPLACE",
    "RIGHT",
    "SELECT",
    "SET",
    "SHOW",
    "STRUCT",
    "TABLE",
    "THEN",
    "TO",
    "TRANSFORM",
    "TRUE",
    "UNION",
    "USING",
    "VALUES",
    "VIEW",
    "WHEN",
    "WHERE",
    "WITH",
    "ANALYZE",
    "GRAPH",
    "PLAN",
    "KERNEL",
    "CLIF",
    "ASM",
];

/// What may stand in FROM as a table may.
const TABLE_FUNCTIONS: &[&str] = &["ML.PREDICT(", "ML.EVALUATE(", "ML.TRAINING_INFO(", "ML.WEIGHTS("];

const FUNCTIONS: &[&str] = &[
    "ML.STANDARD_SCALER(",
    "ML.MIN_MAX_SCALER(",
    "ML.ONE_HOT_ENCODER(",
    "ML.BUCKETIZE(",
    "ML.IMPUTER(",
    "predict(",
    "avg(",
    "coalesce(",
    "count(",
    "lag(",
    "max(",
    "min(",
    "round(",
    "row_number(",
    "substring(",
    "sum(",
];

/// The shell's own commands.
pub(crate) const DOT_COMMANDS: &[&str] =
    &[".exit", ".format", ".help", ".models", ".quit", ".read", ".schema", ".tables", ".timer"];

/// Where the word before the cursor begins, and what it may become.
fn complete(before: &str, names: &Names) -> (usize, Vec<String>) {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let start = before.char_indices().rev().take_while(|(_, c)| is_part(*c)).last().map_or(before.len(), |(at, _)| at);
    let word = &before[start..];
    if before.trim_start().starts_with('.') {
        let found = if before[..start].trim().is_empty() {
            matching(word, DOT_COMMANDS.iter().copied())
        } else if before.trim_start().starts_with(".schema") {
            matching(word, names.tables.iter().map(String::as_str))
        } else {
            Vec::new()
        };
        return (start, found);
    }
    let previous = before[..start].trim_end().rsplit(|c| !is_part(c)).next().unwrap_or_default().to_uppercase();
    // A column behind the name of its table.
    if let Some((qualifier, column)) = word.rsplit_once('.')
        && !qualifier.eq_ignore_ascii_case("ml")
    {
        let found = matching(column, names.columns.iter().map(String::as_str));
        return (start + qualifier.len() + 1, found);
    }
    let found = match previous.as_str() {
        "MODEL" => matching(word, names.models.iter().map(String::as_str)),
        "FROM" | "JOIN" => {
            matching(word, names.tables.iter().map(String::as_str).chain(TABLE_FUNCTIONS.iter().copied()))
        }
        "TABLE" | "DESCRIBE" => matching(word, names.tables.iter().map(String::as_str)),
        _ if word.is_empty() => Vec::new(),
        _ => {
            let mut found = matching(word, names.columns.iter().chain(&names.tables).map(String::as_str));
            let lower = word.starts_with(char::is_lowercase);
            found.extend(
                matching(word, KEYWORDS.iter().copied())
                    .into_iter()
                    .map(|keyword| if lower { keyword.to_lowercase() } else { keyword }),
            );
            found.extend(matching(word, FUNCTIONS.iter().chain(TABLE_FUNCTIONS).copied()));
            found
        }
    };
    (start, found)
}

/// The names that begin with the word, in any case, in order and once.
fn matching<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let word = word.to_lowercase();
    let mut found: Vec<String> =
        names.filter(|name| name.to_lowercase().starts_with(&word)).map(str::to_string).collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: &str, expected: &[&str]) {
        let names = Names {
            tables: vec!["flights".to_string(), "planes".to_string()],
            columns: vec!["distance".to_string(), "tailnum".to_string(), "day".to_string()],
            models: vec!["late".to_string()],
        };
        let (start, found) = complete(before, &names);
        let completed: Vec<String> = found.iter().map(|found| format!("{}{found}", &before[..start])).collect();
        assert_eq!(completed, expected);
    }

    #[test]
    fn keywords_keep_the_case_that_is_typed() {
        check("SEL", &["SELECT"]);
        check("select 1 fr", &["select 1 from"]);
        check("", &[]);
    }

    #[test]
    fn tables_behind_from() {
        check(
            "SELECT * FROM ",
            &[
                "SELECT * FROM ML.EVALUATE(",
                "SELECT * FROM ML.PREDICT(",
                "SELECT * FROM ML.TRAINING_INFO(",
                "SELECT * FROM ML.WEIGHTS(",
                "SELECT * FROM flights",
                "SELECT * FROM planes",
            ],
        );
        check("select * from fl", &["select * from flights"]);
        check("SELECT 1\nFROM pl", &["SELECT 1\nFROM planes"]);
        check(
            "SELECT * FROM ML.PREDICT(MODEL late, TABLE ",
            &[
                "SELECT * FROM ML.PREDICT(MODEL late, TABLE flights",
                "SELECT * FROM ML.PREDICT(MODEL late, TABLE planes",
            ],
        );
    }

    #[test]
    fn models_behind_model() {
        check("DROP MODEL ", &["DROP MODEL late"]);
        check("SELECT * FROM ml.pre", &["SELECT * FROM ML.PREDICT("]);
        check("TRANSFORM (ml.st", &["TRANSFORM (ML.STANDARD_SCALER("]);
    }

    #[test]
    fn columns() {
        check("SELECT dis", &["SELECT distance", "SELECT distinct"]);
        check("SELECT f.t", &["SELECT f.tailnum"]);
        check("SELECT größe, da", &["SELECT größe, day", "SELECT größe, date"]);
    }

    #[test]
    fn the_shells_commands() {
        check(".t", &[".tables", ".timer"]);
        check(".schema pl", &[".schema planes"]);
        check(".read pl", &[]);
    }
}
