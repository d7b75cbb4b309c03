//! Functions that a host adds: bound like scalar functions, built by the host.

use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use expect_test::{Expect, expect};
use flare::Engine;
use flare::catalog::{Argument, RowFunction};
use ir::entity::{ColumnId, ValueId};
use ir::graph::bridge::TensorColumns;
use ir::graph::{BridgeOp, Builder, Op};
use ir::scalar::ScalarOp;
use ir::types::{RowType, ScalarType};
use ir::value::Value;

/// `score('name', a, b)`: the product of its features, as a model over tensors computes it.
#[derive(Debug)]
struct Score;

impl RowFunction for Score {
    fn name(&self) -> &str {
        "score"
    }

    fn result(&self, args: &[Argument]) -> Result<RowType, String> {
        match args {
            [Argument { constant: Some(Value::Text(_)), .. }, _, _] => Ok(ScalarType::F64.nullable(false)),
            _ => Err("score takes a model's name in quotes and two features".into()),
        }
    }

    fn apply(
        &self,
        b: &mut Builder,
        table: ValueId,
        _: &[Argument],
        columns: &[Option<ColumnId>],
    ) -> ir::Result<(ValueId, ColumnId)> {
        let rows = b.program_mut().new_symbol("rows");
        let out = b.program_mut().new_column("score", ScalarType::F64);
        let flat = |c: &ColumnId| TensorColumns { columns: vec![*c], dtype: ScalarType::F64, flat: true };
        let inputs = columns.iter().flatten().map(flat).collect();
        let op = Op::Bridge(BridgeOp::Apply { rows, inputs, columns: vec![out] });
        let table = b.with_region(op, &[table], |b, x| {
            b.map(&[x[0], x[1]], |b, x| Ok(vec![b.scalar(ScalarOp::Mul, &[x[0], x[1]])?]))
        })?;
        Ok((table[0], out))
    }
}

#[track_caller]
fn check(text: &str, expected: Expect) {
    let engine = Engine::new();
    engine.register_function(Arc::new(Score)).unwrap();
    engine.sql("create table t as select * from (values (1, 2.5), (2, 0.5), (3, 4.0)) as v(a, b)").unwrap();
    let printed = match engine.sql(text).and_then(|q| q.collect()) {
        Ok(batches) => pretty_format_batches(&batches).unwrap().to_string(),
        Err(e) => e.to_string(),
    };
    expected.assert_eq(&(printed + "\n"));
}

#[test]
fn calls_stand_where_expressions_stand() {
    check(
        "select a, score('m', a, b) as s from t order by s desc",
        expect![[r#"
        +---+------+
        | a | s    |
        +---+------+
        | 3 | 12.0 |
        | 1 | 2.5  |
        | 2 | 1.0  |
        +---+------+
    "#]],
    );
    check(
        "select a from t where score('m', a, b + 1) > 4 and a < 3",
        expect![[r#"
        +---+
        | a |
        +---+
        +---+
    "#]],
    );
    check(
        "select avg(score('m', a, b)) as m, count(*) as n from t group by score('m', a, b) > 2 order by n",
        expect![[r#"
        +------+---+
        | m    | n |
        +------+---+
        | 1.0  | 1 |
        | 7.25 | 2 |
        +------+---+
    "#]],
    );
    check(
        "select x.a from t x join t y on x.a = y.a where score('m', x.a, y.b) = 1",
        expect![[r#"
        +---+
        | a |
        +---+
        | 2 |
        +---+
    "#]],
    );
}

/// In the condition of an inner join: of both sides behind the join, of one side before it.
#[test]
fn calls_stand_in_conditions_of_joins() {
    check(
        "select x.a, y.b from t x join t y on score('m', x.a, y.b) > 10 order by 1, 2",
        expect![[r#"
        +---+-----+
        | a | b   |
        +---+-----+
        | 3 | 4.0 |
        +---+-----+
    "#]],
    );
    check(
        "select x.a, score('m', x.a, x.b) as s from t x join t y on score('m', x.a, x.b) = y.a order by 1",
        expect![[r#"
        +---+-----+
        | a | s   |
        +---+-----+
        | 2 | 1.0 |
        +---+-----+
    "#]],
    );
}

#[test]
fn wrong_calls_are_explained() {
    check(
        "select score(a, b) from t",
        expect![[r#"
        score takes a model's name in quotes and two features
    "#]],
    );
    check(
        "select scor('m', a, b) from t",
        expect![[r#"
        there is no function scor; did you mean "score"?
    "#]],
    );
    check(
        "select x.a from t x left join t y on score('m', x.a, y.b) = 1",
        expect![[r#"
            not supported: a subquery or a model in the condition of an outer join that reads both of its sides
        "#]],
    );
}
