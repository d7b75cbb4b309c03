//! Long chains of operators. The binder computes the type of each operand again at each operator above it, so that a chain that
//! leans to the left, as parsers build it, takes time by the square of its length.
//!
//! - `AND`, `OR` and `||` mean the same in whichever order they are put together: a long chain of one of them becomes a tree of
//!   little depth, its operands in their order.
//! - Of other operators, one inside of the other, a statement has at most [`MAX_DEPTH`].

use datafusion_sql::sqlparser::ast::{self, BinaryOperator, Expr};

use crate::error::Error;

/// Chains of up to so many operands stay as they are.
const SHORT: usize = 16;
/// Operators that stand inside of one another.
const MAX_DEPTH: usize = 1000;

/// How many operators are around an expression.
#[derive(Default)]
pub(crate) struct Depth(usize);

impl Depth {
    /// Goes into an expression.
    ///
    /// # Errors
    /// Too many operators around it.
    pub(crate) fn enter(&mut self, e: &Expr) -> Result<(), Error> {
        self.0 += usize::from(matches!(e, Expr::BinaryOp { .. }));
        if self.0 > MAX_DEPTH {
            let message =
                format!("more than {MAX_DEPTH} operators stand inside of one another, as in a chain of additions");
            return Err(Error::Limit(message));
        }
        Ok(())
    }

    /// Leaves it.
    pub(crate) fn leave(&mut self, e: &Expr) {
        self.0 -= usize::from(matches!(e, Expr::BinaryOp { .. }));
    }
}

/// Makes a tree of little depth of a long chain whose last operator this is.
pub(crate) fn balance(e: &mut Expr) {
    let Expr::BinaryOp { op, .. } = e else { return };
    if !matches!(op, BinaryOperator::And | BinaryOperator::Or | BinaryOperator::StringConcat) {
        return;
    }
    let op = op.clone();
    if length(e, &op) > SHORT {
        let mut operands = vec![];
        let mut rest = std::mem::replace(e, Expr::Value(ast::Value::Null.into()));
        loop {
            match rest {
                Expr::BinaryOp { left, op: same, right } if same == op => {
                    operands.push(*right);
                    rest = *left;
                }
                first => {
                    operands.push(first);
                    break;
                }
            }
        }
        operands.reverse();
        *e = tree(operands, &op);
    }
}

/// The operands of the chain, along its left side.
fn length(e: &Expr, op: &BinaryOperator) -> usize {
    let (mut length, mut at) = (1, e);
    while let Expr::BinaryOp { left, op: same, .. } = at
        && same == op
    {
        length += 1;
        at = left;
    }
    length
}

fn tree(mut operands: Vec<Expr>, op: &BinaryOperator) -> Expr {
    if operands.len() == 1 {
        return operands.remove(0);
    }
    let rest = operands.split_off(operands.len().div_ceil(2));
    let (left, right) = (Box::new(tree(operands, op)), Box::new(tree(rest, op)));
    Expr::BinaryOp { left, op: op.clone(), right }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion_sql::sqlparser::dialect::DuckDbDialect;
    use datafusion_sql::sqlparser::parser::Parser;

    fn depth(e: &Expr) -> usize {
        match e {
            Expr::BinaryOp { left, right, .. } => 1 + depth(left).max(depth(right)),
            _ => 0,
        }
    }

    #[test]
    fn long_chains_become_trees_of_the_same_text() {
        for (op, operands, expected) in
            [("OR", 1000, 10), ("AND", 17, 5), ("||", 33, 6), ("AND", 16, 15), ("+", 100, 99), ("-", 40, 39)]
        {
            let text = (0..operands).map(|i| format!("x{i}")).collect::<Vec<_>>().join(&format!(" {op} "));
            let mut parser = Parser::new(&DuckDbDialect {}).try_with_sql(&text).unwrap();
            let mut e = parser.parse_expr().unwrap();
            balance(&mut e);
            assert_eq!((depth(&e), e.to_string()), (expected, text));
        }
    }
}
