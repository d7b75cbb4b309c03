//! The names that a statement sees: tables, views, and functions that the host supplies.
//!
//! A catalog is an immutable snapshot behind an `Arc`: a query keeps the one it was bound against, and a change makes a new
//! one. So nothing that runs sees half a change, and a failed statement changes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ir::entity::{ColumnId, ValueId};
use ir::graph::Builder;
use ir::types::{RowType, ScalarType};
use ir::value::Value;

use crate::error::{Error, Result, suggest};
use crate::ingest::Table;

/// A snapshot of all names.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    version: u64,
    relations: BTreeMap<String, Relation>,
    functions: BTreeMap<String, Arc<dyn RowFunction>>,
}

/// What a name in `FROM` stands for.
#[derive(Clone, Debug)]
pub enum Relation {
    /// A table with columns.
    Table(Arc<Table>),
    /// A view: the text of a query, bound where it is used.
    View(Arc<str>),
}

/// A function over rows that is not written in SQL: a model.
///
/// A call binds as a scalar function. Its arguments become columns of the table it is called over, and the function adds
/// columns to that table, usually by the operation `apply`.
pub trait RowFunction: fmt::Debug + Send + Sync {
    /// The name it is called by.
    fn name(&self) -> &str;

    /// The type of the result for these arguments.
    ///
    /// # Errors
    /// A sentence that says which arguments the function takes.
    fn result(&self, args: &[Argument]) -> Result<RowType, String>;

    /// Adds the result to `table`, whose columns `columns` hold the arguments (none for a constant): returns the new table,
    /// with all old columns, and the column that holds the result.
    ///
    /// # Errors
    /// Those of the builder.
    fn apply(
        &self,
        builder: &mut Builder,
        table: ValueId,
        args: &[Argument],
        columns: &[Option<ColumnId>],
    ) -> ir::Result<(ValueId, ColumnId)>;
}

/// An argument of a [`RowFunction`].
#[derive(Clone, Debug)]
pub struct Argument {
    /// Its type; `None` for an untyped NULL.
    pub ty: Option<ScalarType>,
    /// Its value, if it is a constant.
    pub constant: Option<Value>,
}

impl Catalog {
    /// Grows by one with each change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What this name stands for.
    pub fn get(&self, name: &str) -> Option<&Relation> {
        self.relations.get(name)
    }

    /// All tables and views by name.
    pub fn relations(&self) -> impl Iterator<Item = (&str, &Relation)> {
        self.relations.iter().map(|(name, r)| (name.as_str(), r))
    }

    /// Whether this very table has a name here.
    pub(crate) fn has_table(&self, table: &Arc<Table>) -> bool {
        self.relations.values().any(|r| matches!(r, Relation::Table(t) if Arc::ptr_eq(t, table)))
    }

    /// The host's function of this name.
    pub fn function(&self, name: &str) -> Option<&Arc<dyn RowFunction>> {
        self.functions.get(name)
    }

    /// The names of the host's functions.
    pub fn function_names(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str)
    }

    /// The error for a name that is not there.
    pub(crate) fn unknown(&self, name: &str) -> Error {
        let help = suggest(name, self.relations.keys().map(String::as_str));
        Error::name(format!("there is no table \"{name}\""), help)
    }

    pub(crate) fn with_relation(&self, name: &str, relation: Relation) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.relations.insert(name.to_string(), relation);
        next
    }

    pub(crate) fn without_relation(&self, name: &str) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.relations.remove(name);
        next
    }

    pub(crate) fn with_function(&self, function: Arc<dyn RowFunction>) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.functions.insert(function.name().to_string(), function);
        next
    }

    pub(crate) fn without_function(&self, name: &str) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.functions.remove(name);
        next
    }
}
