//! The 22 queries of TPC-H, optimized and compiled, against the expected answers at SF 0.01.

use std::fmt::Write as _;

use flare::Engine;
use ir::graph::{Op, RelOp, rewrite};
use tests::r#gen::Table;
use tests::{oracle, tpch};

const SCALE: f64 = 0.01;

fn engine() -> Engine {
    let engine = Engine::new();
    for table in Table::ALL {
        engine.register_arrow(table.name(), &table.batches(SCALE)).expect("a table of TPC-H");
    }
    engine
}

#[test]
fn no_dependent_join_is_left() {
    let engine = engine();
    for number in tpch::QUERIES {
        let query = engine.sql(&tpch::query(number, SCALE).unwrap()).unwrap();
        let optimized = query.optimized().unwrap_or_else(|e| panic!("Q{number}: {e}"));
        rewrite::reachable_nodes(&optimized.0, |_, node| {
            let dependent = matches!(node.op, Op::Rel(RelOp::DependentJoin { .. }));
            assert!(!dependent, "Q{number} has a dependent join");
        });
    }
}

fn check(engine: &Engine, number: u32) -> Result<(), String> {
    let query = engine.sql(&tpch::query(number, SCALE)?).map_err(|e| e.to_string())?;
    let optimized = query.optimized().map_err(|e| e.to_string())?;
    let shown = |e: String| format!("{e}\n{}", optimized.0.print_short());
    let found = oracle::cells(&query.collect().map_err(|e| shown(e.to_string()))?)?;
    let folder = tpch::peers().join("answers/sf0.01");
    let expected = oracle::read_answer(&folder, number)?.ok_or("no answer")?;
    let verdict = oracle::compare(&expected.rows, &found);
    if verdict.is_wrong() {
        return Err(shown(format!("{verdict}\nexpected {:?}\n   found {:?}", expected.rows.first(), found.first())));
    }
    oracle::same_order(&expected.rows, &found, tpch::order_keys(number)).map_err(shown)
}

#[test]
fn answers_are_right() {
    let engine = engine();
    let mut wrong = String::new();
    for number in tpch::QUERIES {
        if let Err(e) = check(&engine, number) {
            let _ = writeln!(wrong, "Q{number}: {e}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
