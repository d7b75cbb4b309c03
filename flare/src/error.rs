//! Errors of the engine. Each variant says who must act, and where in the SQL text, as far as that is known.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. [`Error::who`] says who must act, [`Error::span`] where.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The text is not SQL that this engine reads.
    #[error("{0}")]
    Syntax(Box<Located>),
    /// A table, column or function that does not exist; the help names the nearest.
    #[error("{0}")]
    Name(Box<Located>),
    /// The statement reads well but means nothing: wrong types, wrong grouping, wrong arguments.
    #[error("{0}")]
    Meaning(Box<Located>),
    /// Valid SQL that is not built yet. The message names the construct.
    #[error("not supported: {0}")]
    Unsupported(Box<Located>),
    /// A file or a record batch that cannot be read, or holds what a column cannot hold.
    #[error("{0}")]
    Input(Box<InputError>),
    /// Raised while the statement ran: overflow, division by zero, a value that does not cast.
    #[error("{0}")]
    Run(Box<Located>),
    /// A limit of the engine or of its settings was reached.
    #[error("{0}")]
    Limit(String),
    /// The statement was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A fault of ours.
    #[error("internal error: {0}; this is a bug, please report it")]
    Bug(String),
}

/// Who must act on an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The author of the statement or of the data.
    User,
    /// Whoever sets the limits, or wants something that is not built.
    Operator,
    /// The authors of the engine.
    Us,
}

/// A message with a place in the SQL text.
#[derive(Clone, Debug)]
pub struct Located {
    /// What is wrong.
    pub message: String,
    /// What would help.
    pub help: Option<String>,
    /// Bytes of the SQL text that it is about.
    pub span: Option<Range<usize>>,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// What is wrong with an input, and where in it.
#[derive(Clone, Debug)]
pub struct InputError {
    /// The file, or the name of the table that batches were given for.
    pub path: PathBuf,
    /// The line of a text file, from 1.
    pub line: Option<u64>,
    /// The column's name.
    pub column: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(column) = &self.column {
            write!(f, ", column {column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl Error {
    /// Bytes of the SQL text that the error is about, where they are known.
    pub fn span(&self) -> Option<Range<usize>> {
        self.located().and_then(|l| l.span.clone())
    }

    /// What would help, where something is known to.
    pub fn help(&self) -> Option<&str> {
        self.located().and_then(|l| l.help.as_deref())
    }

    /// Who must act.
    pub fn who(&self) -> Who {
        match self {
            Self::Syntax(_) | Self::Name(_) | Self::Meaning(_) | Self::Input(_) | Self::Run(_) | Self::Cancelled => {
                Who::User
            }
            Self::Unsupported(_) | Self::Limit(_) => Who::Operator,
            Self::Bug(_) => Who::Us,
        }
    }

    fn located(&self) -> Option<&Located> {
        match self {
            Self::Syntax(l) | Self::Name(l) | Self::Meaning(l) | Self::Unsupported(l) | Self::Run(l) => Some(l),
            Self::Input(_) | Self::Limit(_) | Self::Cancelled | Self::Bug(_) => None,
        }
    }

    /// The same error about these bytes, unless it already names a place.
    pub(crate) fn at(mut self, span: Option<Range<usize>>) -> Self {
        match &mut self {
            Self::Syntax(l) | Self::Name(l) | Self::Meaning(l) | Self::Unsupported(l) | Self::Run(l) => {
                if l.span.is_none() {
                    l.span = span;
                }
            }
            Self::Input(_) | Self::Limit(_) | Self::Cancelled | Self::Bug(_) => {}
        }
        self
    }

    /// The same error `offset` bytes further on: for a statement inside a longer text.
    pub fn shifted(mut self, offset: usize) -> Self {
        match &mut self {
            Self::Syntax(l) | Self::Name(l) | Self::Meaning(l) | Self::Unsupported(l) | Self::Run(l) => {
                if let Some(span) = &mut l.span {
                    *span = span.start + offset..span.end + offset;
                }
            }
            Self::Input(_) | Self::Limit(_) | Self::Cancelled | Self::Bug(_) => {}
        }
        self
    }

    /// An error of the common layer while this program ran.
    pub(crate) fn from_ir(e: ir::Error, program: &ir::Program) -> Self {
        match e {
            ir::Error::Trap(trap) => Self::from_trap(&trap, Some(program)),
            other => other.into(),
        }
    }

    /// An error at run time, with the place it names in the program.
    pub(crate) fn from_trap(trap: &ir::error::Trap, program: Option<&ir::Program>) -> Self {
        use ir::error::TrapKind;
        let place = trap.place.and_then(|p| program?.places.get(p.index()));
        match &trap.kind {
            TrapKind::MemoryLimit { .. } => {
                let what = "raise the memory limit, or read and keep fewer rows or columns";
                Self::Limit(format!("{}; {what}", trap.kind))
            }
            TrapKind::RecursionDepth(_) => Self::Limit(trap.kind.to_string()),
            TrapKind::Cancelled => Self::Cancelled,
            TrapKind::Internal(message) => Self::Bug(message.clone()),
            TrapKind::Overflow(_)
            | TrapKind::DivisionByZero
            | TrapKind::InvalidCast { .. }
            | TrapKind::InvalidArgument(_)
            | TrapKind::SubqueryRows
            | TrapKind::NullFeature(_) => {
                let help = place.map(|p| format!("in {}", p.text));
                let span = place.and_then(|p| p.span).map(|(start, end)| start as usize..end as usize);
                let message = match &trap.kind {
                    TrapKind::Overflow(_) => "value out of range".to_string(),
                    TrapKind::InvalidCast { value, to } => format!("cannot cast {value} to {}", sql_name(to)),
                    kind => kind.to_string(),
                };
                Self::Run(Box::new(Located { message, help, span }))
            }
        }
    }

    pub(crate) fn syntax(message: impl Into<String>) -> Self {
        Self::Syntax(Located::new(message))
    }

    pub(crate) fn name(message: impl Into<String>, help: Option<String>) -> Self {
        Self::Name(Box::new(Located { message: message.into(), help, span: None }))
    }

    pub(crate) fn meaning(message: impl Into<String>) -> Self {
        Self::Meaning(Located::new(message))
    }

    pub(crate) fn unsupported(construct: impl Into<String>) -> Self {
        Self::Unsupported(Located::new(construct))
    }

    pub(crate) fn input(path: &Path, message: impl fmt::Display) -> Self {
        Self::Input(Box::new(InputError {
            path: path.to_path_buf(),
            line: None,
            column: None,
            message: message.to_string(),
        }))
    }

    pub(crate) fn input_column(path: &Path, column: &str, message: impl fmt::Display) -> Self {
        Self::Input(Box::new(InputError {
            path: path.to_path_buf(),
            line: None,
            column: Some(column.to_string()),
            message: message.to_string(),
        }))
    }
}

/// A type of the common layer as SQL calls it.
fn sql_name(ty: &str) -> String {
    match ty {
        "bool" => "BOOLEAN".into(),
        "i32" => "INTEGER".into(),
        "i64" => "BIGINT".into(),
        "f32" => "REAL".into(),
        "f64" => "DOUBLE".into(),
        "text" => "VARCHAR".into(),
        other => other.to_uppercase(),
    }
}

impl Located {
    fn new(message: impl Into<String>) -> Box<Self> {
        Box::new(Self { message: message.into(), help: None, span: None })
    }
}

/// `did you mean "x"?` for the candidate that is nearest to a name, if one is near enough.
pub(crate) fn suggest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let name = name.to_lowercase();
    let limit = 1 + name.chars().count() / 4;
    candidates
        .into_iter()
        .map(|c| (edit_distance(&name, &c.to_lowercase()), c))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, c)| format!("did you mean \"{c}\"?"))
}

/// Insertions, deletions, substitutions and swaps of neighbours that turn one text into the other (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substitution = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substitution.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        let names = ["lineitem", "orders", "customer"];
        assert_eq!(suggest("linietem", names), Some("did you mean \"lineitem\"?".to_string()));
        assert_eq!(suggest("order", names), Some("did you mean \"orders\"?".to_string()));
        assert_eq!(suggest("weather", names), None);
    }

    #[test]
    fn distances() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("ab", "ba"), 1);
    }
}
