//! Names of operations, from text.

use crate::scalar::reduce::Reducer;
use crate::scalar::table::each;
use crate::scalar::{DateField, ScalarOp};
use crate::types::ScalarType;

/// What stands behind a scalar operation's name in `<…>`.
#[derive(Clone, Copy)]
pub(super) enum Attribute {
    None,
    Type(ScalarType),
    Field(DateField),
}

/// The scalar operation of this name; `None` where there is none, or where the attribute does not fit.
pub(super) fn scalar_op(name: &str, attribute: Attribute) -> Option<ScalarOp> {
    let op = each().iter().find(|op| op.name() == name)?;
    Some(match (op, attribute) {
        (ScalarOp::Cast(_), Attribute::Type(t)) => ScalarOp::Cast(t),
        (ScalarOp::TryCast(_), Attribute::Type(t)) => ScalarOp::TryCast(t),
        (ScalarOp::Extract(_), Attribute::Field(f)) => ScalarOp::Extract(f),
        (ScalarOp::DateTrunc(_), Attribute::Field(f)) => ScalarOp::DateTrunc(f),
        (ScalarOp::DateDiff(_), Attribute::Field(f)) => ScalarOp::DateDiff(f),
        (
            ScalarOp::Cast(_)
            | ScalarOp::TryCast(_)
            | ScalarOp::Extract(_)
            | ScalarOp::DateTrunc(_)
            | ScalarOp::DateDiff(_),
            _,
        ) => return None,
        (op, Attribute::None) => *op,
        (_, Attribute::Type(_) | Attribute::Field(_)) => return None,
    })
}

/// What is printed in `<…>` behind a scalar operation's name.
pub(super) fn attribute(op: ScalarOp) -> Attribute {
    match op {
        ScalarOp::Cast(t) | ScalarOp::TryCast(t) => Attribute::Type(t),
        ScalarOp::Extract(f) | ScalarOp::DateTrunc(f) | ScalarOp::DateDiff(f) => Attribute::Field(f),
        _ => Attribute::None,
    }
}

const FIELDS: &[(&str, DateField)] = &[
    ("year", DateField::Year),
    ("quarter", DateField::Quarter),
    ("month", DateField::Month),
    ("week", DateField::Week),
    ("day", DateField::Day),
    ("day_of_week", DateField::DayOfWeek),
    ("day_of_year", DateField::DayOfYear),
    ("hour", DateField::Hour),
    ("minute", DateField::Minute),
    ("second", DateField::Second),
    ("epoch", DateField::Epoch),
];

pub(super) fn field(name: &str) -> Option<DateField> {
    FIELDS.iter().find(|f| f.0 == name).map(|f| f.1)
}

pub(super) fn field_name(field: DateField) -> &'static str {
    FIELDS.iter().find(|f| f.1 == field).map_or("year", |f| f.0)
}

pub(super) fn reducer(name: &str) -> Option<Reducer> {
    Reducer::ALL.iter().find(|r| r.name() == name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = each().iter().map(|op| op.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), each().len());
    }
}
