//! Errors of the common layer. Each says who must act.

use crate::entity::PlaceId;

/// What went wrong while a program ran, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct Trap {
    /// What went wrong.
    pub kind: TrapKind,
    /// The place in the program's source, where it is known.
    pub place: Option<PlaceId>,
}

/// What can go wrong while a program runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrapKind {
    /// A result that its type cannot hold.
    #[error("{0} out of range")]
    Overflow(String),
    /// Division or remainder by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// Text that does not read as the wanted type.
    #[error("cannot cast {value} to {to}")]
    InvalidCast {
        /// The value, as text.
        value: String,
        /// The wanted type.
        to: String,
    },
    /// An argument outside of what the function takes.
    #[error("{0}")]
    InvalidArgument(String),
    /// A scalar subquery with more than one row.
    #[error("a subquery used as a value returned more than one row")]
    SubqueryRows,
    /// A feature column that is NULL.
    #[error("column {0} is NULL, and a model takes no NULL; impute it with ML.IMPUTER or COALESCE, or filter it out")]
    NullFeature(String),
    /// Recursion deeper than the limit.
    #[error("recursion deeper than {0} levels")]
    RecursionDepth(u32),
    /// The memory limit was reached.
    #[error("the query needs more memory than the limit of {limit} bytes: {request}")]
    MemoryLimit {
        /// The limit, in bytes.
        limit: u64,
        /// What was asked for, and what was in use.
        request: String,
    },
    /// The program was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// A panic inside a task, contained.
    #[error("internal error: {0}; this is a bug, please report it")]
    Internal(String),
}

impl From<TrapKind> for Trap {
    fn from(kind: TrapKind) -> Self {
        Self { kind, place: None }
    }
}

/// An error of the common layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The program is not well typed: the caller (a front end) must mend it.
    #[error("type error: {0}")]
    Type(String),
    /// Graph text that does not parse.
    #[error("line {line}: {message}")]
    Parse {
        /// Line, from 1.
        line: usize,
        /// What was expected.
        message: String,
    },
    /// Something that is valid but not built: named, so that it can be worked around or asked for.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The inputs given do not fit the program.
    #[error("{0}")]
    Input(String),
    /// A run-time error.
    #[error(transparent)]
    Trap(#[from] Trap),
    /// A fault of ours: a verifier or the code generator refused what a pass made.
    #[error("internal error: {0}; this is a bug, please report it")]
    Bug(String),
}

/// A result of the common layer.
pub type Result<T, E = Error> = std::result::Result<T, E>;
