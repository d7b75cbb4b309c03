//! What the optimizer must have made of the 22 queries of TPC-H, whatever their results are.

use flare::Engine;
use ir::Program;
use ir::entity::ValueId;
use ir::graph::rel::JoinKind;
use ir::graph::{Node, Op, RelOp, rewrite};
use ir::value::Value;
use tests::r#gen::Table;
use tests::tpch;

const SCALE: f64 = 0.01;

/// Whether a join pairs every row with every row.
fn is_cross(p: &Program, join: &Node) -> bool {
    let predicate = p.region(join.regions[0]).results[0];
    let always = matches!(p.node_of(predicate), Some(Node { op: Op::Literal(Value::Bool(true), _), .. }));
    always && !join.operands.iter().any(|v| has_one_row(p, *v))
}

/// Whether a table has exactly one row: an aggregate of all rows, and what is computed from it.
fn has_one_row(p: &Program, v: ValueId) -> bool {
    match p.node_of(v) {
        Some(Node { op: Op::Rel(RelOp::Group { keys, .. }), .. }) => keys.is_empty(),
        Some(Node { op: Op::Rel(RelOp::Extend { .. } | RelOp::Project { .. }), operands, .. }) => {
            has_one_row(p, operands[0])
        }
        _ => false,
    }
}

/// Calls `f` for every node of every optimized query, with the query's number.
fn for_nodes(mut f: impl FnMut(u32, &Program, &Node)) {
    let engine = Engine::new();
    for table in Table::ALL {
        engine.register_arrow(table.name(), &table.batches(SCALE)).expect("a table of TPC-H");
    }
    for number in tpch::QUERIES {
        let query = engine.sql(&tpch::query(number, SCALE).unwrap()).unwrap();
        let optimized = query.optimized().unwrap_or_else(|e| panic!("Q{number}: {e}"));
        let p = &optimized.0;
        rewrite::reachable_nodes(p, |_, node| f(number, p, node));
    }
}

#[test]
fn subqueries_distinct_aggregates_and_cross_joins_are_gone() {
    for_nodes(|number, p, node| match &node.op {
        Op::Rel(RelOp::DependentJoin { .. }) => panic!("Q{number} has a dependent join"),
        Op::Rel(RelOp::Group { aggregates, .. }) => {
            assert!(aggregates.iter().all(|a| !a.distinct), "Q{number} has a distinct aggregate");
        }
        Op::Rel(RelOp::Join { kind: JoinKind::Inner | JoinKind::Single }) => {
            assert!(!is_cross(p, node), "Q{number} has a cross join:\n{}", p.print_short());
        }
        _ => {}
    });
}

/// Lines are looked up by the few parts that are left before they are looked up by the wide key of part and supplier.
#[test]
fn a_narrow_key_goes_before_a_wide_one() {
    let engine = Engine::new();
    for table in Table::ALL {
        engine.register_arrow(table.name(), &table.batches(SCALE)).expect("a table of TPC-H");
    }
    let optimized = engine.sql(&tpch::query(9, SCALE).unwrap()).unwrap().optimized().unwrap();
    let notes: Vec<&str> = optimized.1.notes().map(|(_, n)| n.text.as_str()).collect();
    let joins = notes.iter().find(|n| n.starts_with("joins")).expect("the joins are ordered");
    let names: String = joins.chars().filter(|c| !c.is_ascii_digit()).collect();
    assert!(names.contains("(lineitem  ⋈ part )"), "{joins}");
}
