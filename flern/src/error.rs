//! What can go wrong, said so that somebody can act: each error names what was found, where, and what to do about it.

use crate::sql::{Rendered, Span};

/// An error of Flern.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The SQL text is not a statement that Flern reads; the caller changes the text.
    #[error(transparent)]
    Sql(#[from] SqlError),

    /// The SQL engine refused or failed to run a statement; [`flare::Error::who`] says who must act.
    #[error("{error}")]
    Engine {
        error: flare::Error,
        /// The place in the text that was parsed.
        span: Option<Span>,
    },

    /// A statement about a model that cannot be carried out: the caller changes the statement or the data.
    #[error("{message}")]
    Model { message: String, help: Option<String>, span: Option<Span> },

    /// Something that is valid but not built.
    #[error("not supported: {construct}")]
    Unsupported { construct: String, span: Option<Span> },

    /// A model's program was refused or failed to run.
    #[error(transparent)]
    Program(#[from] ir::Error),

    /// A network that cannot be built, or a file of weights that cannot be read or written.
    #[error(transparent)]
    Tensor(#[from] lantern::Error),
}

/// A result of Flern.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn model(message: impl Into<String>, span: impl Into<Option<Span>>) -> Error {
        Error::Model { message: message.into(), help: None, span: span.into() }
    }

    pub(crate) fn unsupported(construct: impl Into<String>, span: impl Into<Option<Span>>) -> Error {
        Error::Unsupported { construct: construct.into(), span: span.into() }
    }

    /// The same error about this place, unless it names one.
    pub(crate) fn at(mut self, at: Span) -> Error {
        match &mut self {
            Error::Model { span, .. } | Error::Unsupported { span, .. } | Error::Engine { span, .. } => {
                span.get_or_insert(at);
            }
            Error::Sql(_) | Error::Program(_) | Error::Tensor(_) => {}
        }
        self
    }

    /// An error of the engine about SQL that was made from the caller's text.
    pub fn from_engine(error: flare::Error, sql: &Rendered) -> Error {
        let span = error.span().or_else(|| {
            // A file is named by its path, in quotes.
            let flare::Error::Input(input) = &error else { return None };
            let path = input.path.to_str().filter(|path| !path.is_empty())?;
            let start = sql.text.find(path)?;
            Some(start..start + path.len())
        });
        let span = span.map(|bytes| sql.locate(Span { start: bytes.start, end: bytes.end }));
        Error::Engine { error, span }
    }

    /// The bytes of the SQL text that the error is about, where it is about any.
    pub fn span(&self) -> Option<Span> {
        match self {
            Error::Sql(error) => Some(error.span()),
            Error::Engine { span, .. } | Error::Model { span, .. } | Error::Unsupported { span, .. } => *span,
            Error::Program(_) | Error::Tensor(_) => None,
        }
    }

    /// A second place that explains the error, with what to write beside it.
    pub fn related(&self) -> Option<(Span, &'static str)> {
        match self {
            Error::Sql(error) => error.related(),
            Error::Engine { .. }
            | Error::Model { .. }
            | Error::Unsupported { .. }
            | Error::Program(_)
            | Error::Tensor(_) => None,
        }
    }

    /// What to do about it, where the message does not say it.
    pub fn help(&self) -> Option<String> {
        match self {
            Error::Sql(error) => error.help(),
            Error::Model { help, .. } => help.clone(),
            // The engine's messages have their help in them.
            Error::Engine { .. } | Error::Unsupported { .. } | Error::Program(_) | Error::Tensor(_) => None,
        }
    }
}

/// An error in the text of a statement, found before anything runs. All positions are bytes of the text that was parsed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SqlError {
    /// The text cannot be cut into tokens: an open string, comment or quoted name.
    #[error("{message}")]
    Token { message: String, span: Span },

    /// SQL that is not well formed.
    #[error("{message}")]
    Syntax { message: String, span: Span },

    /// Something else than the model statements have at this place.
    #[error("expected {wanted}, found {found}")]
    Expected { wanted: String, found: String, span: Span, help: Option<String> },

    /// A name that is not in the list of the things of its kind.
    #[error("there is no {kind} '{name}'")]
    Unknown {
        /// "model option", "function", …
        kind: &'static str,
        name: String,
        span: Span,
        /// The nearest name that exists.
        nearest: Option<&'static str>,
        /// All names that exist.
        known: Vec<&'static str>,
    },

    /// A form of BigQuery ML that Flern does not have.
    #[error("{what} is not supported")]
    Unsupported { what: String, span: Span, help: Option<String> },

    /// A value of the wrong type, or outside of what the option or argument takes.
    #[error("{of} takes {wanted}, not {found}")]
    Value { of: String, wanted: String, found: String, span: Span, nearest: Option<&'static str> },

    /// An option that the others make necessary.
    #[error("the option '{name}' is missing: {why}")]
    MissingOption { name: &'static str, why: String, span: Span },

    /// A clause, an option or a column given twice.
    #[error("{what} is given twice")]
    Duplicate { what: String, span: Span, first: Span },

    /// A function of the ML family used where it has no meaning.
    #[error("{function} belongs in {place}")]
    Misplaced { function: String, place: &'static str, span: Span, help: String },

    /// Parentheses nested beyond the parser's limit.
    #[error("nested more than {limit} levels deep")]
    TooDeep { limit: usize, span: Span },
}

impl SqlError {
    /// The bytes of the text that the error is about.
    pub fn span(&self) -> Span {
        match self {
            SqlError::Token { span, .. }
            | SqlError::Syntax { span, .. }
            | SqlError::Expected { span, .. }
            | SqlError::Unknown { span, .. }
            | SqlError::Unsupported { span, .. }
            | SqlError::Value { span, .. }
            | SqlError::MissingOption { span, .. }
            | SqlError::Duplicate { span, .. }
            | SqlError::Misplaced { span, .. }
            | SqlError::TooDeep { span, .. } => *span,
        }
    }

    /// A second place that explains the error, with what to write beside it.
    pub fn related(&self) -> Option<(Span, &'static str)> {
        match self {
            SqlError::Duplicate { first, .. } => Some((*first, "first given here")),
            SqlError::Token { .. }
            | SqlError::Syntax { .. }
            | SqlError::Expected { .. }
            | SqlError::Unknown { .. }
            | SqlError::Unsupported { .. }
            | SqlError::Value { .. }
            | SqlError::MissingOption { .. }
            | SqlError::Misplaced { .. }
            | SqlError::TooDeep { .. } => None,
        }
    }

    /// What to write instead.
    pub fn help(&self) -> Option<String> {
        match self {
            SqlError::Token { .. } | SqlError::Syntax { .. } => None,
            SqlError::Expected { help, .. } | SqlError::Unsupported { help, .. } => help.clone(),
            SqlError::Unknown { nearest, known, .. } => Some(match nearest {
                Some(nearest) => format!("did you mean '{nearest}'?"),
                None => format!("known: {}", known.join(", ")),
            }),
            SqlError::Value { nearest, .. } => nearest.map(|nearest| format!("did you mean '{nearest}'?")),
            SqlError::MissingOption { name, .. } => Some(format!("add {name} = … to OPTIONS")),
            SqlError::Duplicate { .. } => Some("remove one of the two".to_string()),
            SqlError::Misplaced { help, .. } => Some(help.clone()),
            SqlError::TooDeep { .. } => Some("split the query with WITH or CREATE VIEW".to_string()),
        }
    }
}
