//! The 22 queries of TPC-H at SF 0.01, against answers that other engines gave: with the parameters of the
//! specification's validation runs, and with parameters drawn by seed, which return rows where the validation
//! parameters at this scale do not.

use std::sync::LazyLock;

use flare::Engine;
use tests::r#gen::Table;
use tests::oracle::{self, Answer};
use tests::tpch;

/// One engine for all tests of this file: its tables are made once.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let engine = Engine::new();
    for table in Table::ALL {
        engine.register_arrow(table.name(), &table.batches(0.01)).expect("a table of the generator is registered");
    }
    engine
});

/// Runs a query and says what is wrong with its result.
fn judge(number: u32, sql: &str, answer: &Answer) -> Result<(), String> {
    let query = ENGINE.sql(sql).map_err(|e| e.to_string())?;
    let batches = query.collect().map_err(|e| e.to_string())?;
    let rows = oracle::cells(&batches)?;
    let verdict = oracle::compare(&answer.rows, &rows);
    if verdict.is_wrong() {
        return Err(verdict.to_string());
    }
    let schema = query.schema().map_err(|e| e.to_string())?;
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    if names != answer.names {
        return Err(format!("columns {names:?}, expected {:?}", answer.names));
    }
    oracle::same_order(&answer.rows, &rows, tpch::order_keys(number))
}

/// A query with the validation parameters, then with each draw.
fn check(number: u32) {
    let sql = tpch::query(number, 0.01).expect("the query is there");
    let answer = oracle::read_answer(&tpch::peers().join("answers/sf0.01"), number);
    let answer = answer.expect("the answer is read").expect("the answer is there");
    let mut wrong = Vec::new();
    if let Err(what) = judge(number, &sql, &answer) {
        wrong.push(format!("validation parameters: {what}"));
    }
    for case in tpch::cases(number).expect("the draws are read") {
        if let Err(what) = judge(number, &case.sql, &case.answer) {
            let parameters: Vec<_> = case.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
            wrong.push(format!("seed {} ({}): {what}", case.seed, parameters.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "Q{number}:\n  {}\n", wrong.join("\n  "));
}

macro_rules! queries {
    ($($name:ident $number:literal),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                check($number);
            }
        )*

        #[test]
        fn every_query_is_tested() {
            assert_eq!(vec![$($number),*], tpch::QUERIES.collect::<Vec<u32>>());
        }
    };
}

queries! {
    q01 1, q02 2, q03 3, q04 4, q05 5, q06 6, q07 7, q08 8, q09 9, q10 10, q11 11, q12 12, q13 13, q14 14, q15 15,
    q16 16, q17 17, q18 18, q19 19, q20 20, q21 21, q22 22,
}
