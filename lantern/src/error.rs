//! Errors. Each says who must act: the author of the program, the caller of a run, or us.

use std::panic::Location;

use ir::types::TensorType;

/// Where in the caller's source an operation was written.
pub type At = &'static Location<'static>;

/// An error of Lantern.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two tensors whose shapes do not go together. The author of the program must act.
    #[error("{op} at {at}: {left} and {right} do not fit")]
    Shapes {
        /// The operation.
        op: &'static str,
        /// One operand's type.
        left: Box<TensorType>,
        /// The other operand's type.
        right: Box<TensorType>,
        /// Where it was written.
        at: At,
    },
    /// An operation that is not defined for what it was given. The author of the program must act.
    #[error("{op} at {at}: {message}")]
    Invalid {
        /// The operation.
        op: &'static str,
        /// What is wrong.
        message: String,
        /// Where it was written.
        at: At,
    },
    /// A derivative that has no rule. Never answered by a zero.
    #[error("no derivative of {op}: {message}")]
    Derivative {
        /// The operation of the graph.
        op: String,
        /// What is missing.
        message: String,
    },
    /// The text of an input's type does not read.
    #[error("input \"{input}\": {message}")]
    Spec {
        /// The text.
        input: String,
        /// What was expected.
        message: String,
    },
    /// Parameters or arrays that do not fit.
    #[error("{0}")]
    Value(String),
    /// A file of parameters that cannot be read or written.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: String,
        /// What went wrong.
        message: String,
    },
    /// An error of the common layer.
    #[error(transparent)]
    Ir(#[from] ir::Error),
}

/// A result of Lantern.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with an operation, before it is known which one it is.
#[derive(Debug)]
pub(crate) enum Fault {
    Shapes(TensorType, TensorType),
    Invalid(String),
    Other(Error),
}

impl Fault {
    pub(crate) fn at(self, op: &'static str, at: At) -> Error {
        match self {
            Self::Shapes(left, right) => Error::Shapes { op, left: Box::new(left), right: Box::new(right), at },
            Self::Invalid(message) => Error::Invalid { op, message, at },
            Self::Other(e) => e,
        }
    }
}

impl From<ir::Error> for Fault {
    fn from(e: ir::Error) -> Self {
        match e {
            ir::Error::Type(message) => Self::Invalid(message),
            e => Self::Other(Error::Ir(e)),
        }
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        Self::Other(e)
    }
}
