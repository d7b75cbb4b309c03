//! The engine's handle: what it keeps, what a change of the catalog does to it, and that it goes to other threads.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use flare::catalog::Catalog;
use flare::{Counts, Engine, Error, Query, Rows, Settings};
use ir::value::Value;

#[test]
fn handles_are_send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<Engine>();
    check::<Query>();
    check::<Settings>();
    check::<Catalog>();
    check::<Error>();
    fn sends<T: Send>() {}
    sends::<Rows>();
}

fn batch(values: &[i64]) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    RecordBatch::try_from_iter([("n", column)]).unwrap()
}

fn sum(query: flare::Result<Query>) -> i64 {
    let batches = query.and_then(|q| q.collect()).unwrap();
    batches[0].column(0).as_any().downcast_ref::<Int64Array>().unwrap().value(0)
}

fn since(engine: &Engine, before: Counts) -> (u64, u64) {
    let now = engine.counts();
    (now.plannings - before.plannings, now.compilations - before.compilations)
}

#[test]
fn a_known_text_is_not_planned_and_a_known_program_is_not_compiled_again() {
    let engine = Engine::new();
    engine.register_arrow("t", &[batch(&[1, 2, 3])]).unwrap();
    let start = engine.counts();
    assert_eq!(sum(engine.sql("select sum(n) from t where n > 1")), 5);
    assert_eq!(since(&engine, start), (1, 1));
    assert_eq!(sum(engine.sql("select sum(n) from t where n > 1")), 5);
    assert_eq!(since(&engine, start), (1, 1), "the same text");
    let query = engine.sql("select sum(n) from t where n > 1").unwrap();
    assert_eq!((sum(Ok(query)), since(&engine, start)), (5, (1, 1)));
    let parameter = |n| engine.sql("select sum(n) from t where n > $1").unwrap().bind(&[Value::I64(n)]);
    let before = engine.counts();
    assert_eq!((sum(parameter(1)), sum(parameter(2)), sum(parameter(0))), (5, 3, 6));
    assert_eq!(since(&engine, before), (1, 1), "parameters come with the run");
}

#[test]
fn another_text_of_the_same_program_shares_its_code() {
    let engine = Engine::new();
    engine.register_arrow("t", &[batch(&[1, 2, 3])]).unwrap();
    assert_eq!(sum(engine.sql("select count(*) from t")), 3);
    let before = engine.counts();
    assert_eq!(sum(engine.sql("SELECT   count(*)  FROM t;")), 3);
    assert_eq!(since(&engine, before), (1, 0));
}

#[test]
fn a_replaced_table_is_read_anew() {
    let engine = Engine::new();
    engine.sql("create table t as select 1 as n union all select 2").unwrap();
    assert_eq!(sum(engine.sql("select count(*) from t")), 2);
    let old = engine.sql("select count(*) from t").unwrap();
    let catalog = engine.catalog();
    engine.sql("create or replace table t as select 7 as n").unwrap();
    let before = engine.counts();
    assert_eq!(sum(engine.sql("select count(*) from t")), 1);
    assert_eq!(since(&engine, before), (1, 1));
    assert_eq!(sum(Ok(old)), 2, "a query keeps the tables that it was made over");
    assert!(engine.catalog().version() > catalog.version());
    engine.sql("drop table t").unwrap();
    assert!(catalog.get("t").is_some(), "a snapshot does not change");
    assert!(matches!(engine.sql("select count(*) from t"), Err(Error::Name(_))));
}

#[test]
fn rows_stream_in_batches() {
    let engine = Engine::with_settings(Settings { batch_rows: 2, ..Settings::default() });
    engine.register_arrow("t", &[batch(&[1, 2, 3, 4, 5])]).unwrap();
    let rows = engine.sql("select n from t").unwrap().stream().unwrap();
    assert_eq!(rows.total(), 5);
    let sizes: Vec<usize> = rows.map(|b| b.unwrap().num_rows()).collect();
    assert_eq!(sizes, [2, 2, 1]);
}

#[test]
fn threads_share_an_engine() {
    let engine = Engine::new();
    engine.register_arrow("t", &[batch(&[1, 2, 3])]).unwrap();
    std::thread::scope(|scope| {
        for i in 0..4 {
            let engine = engine.clone();
            scope.spawn(move || {
                for n in 0..10 {
                    let text = format!("select sum(n) + {} from t", i * n);
                    assert_eq!(sum(engine.sql(&text)), 6 + i * n);
                }
            });
        }
        for i in 0..5 {
            engine.register_arrow(&format!("other_{i}"), &[batch(&[i])]).unwrap();
        }
    });
}
