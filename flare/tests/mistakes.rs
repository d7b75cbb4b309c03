//! What users do wrong, what is not built, and what is too much: each ends in an error of the right kind that says where, and
//! the engine goes on.

use flare::{Engine, Error, Query, Settings};
use ir::value::Value;

fn engine() -> Engine {
    let engine = Engine::new();
    for text in [
        "create table t as select * from (values (1, 'one', 1.50), (2, 'two', 2.25), (3, null, null)) as v(n, name, price)",
        "create table u as select * from (values (2, true), (4, false)) as v(n, flag)",
    ] {
        engine.sql(text).unwrap();
    }
    engine
}

/// The error of a statement; afterwards the engine must still answer.
#[track_caller]
fn fails(engine: &Engine, text: &str) -> Error {
    let result = engine.sql(text).and_then(|q| q.collect());
    let error = result.err().unwrap_or_else(|| panic!("{text} does not fail"));
    assert!(!matches!(error, Error::Bug(_)), "{text}: {error}");
    assert_eq!(count(engine, "select count(*) from t"), 3, "after {text}");
    error
}

fn count(engine: &Engine, text: &str) -> i64 {
    let batches = engine.sql(text).and_then(|q| q.collect()).unwrap_or_else(|e| panic!("{text}: {e}"));
    let column = batches[0].column(0).as_any().downcast_ref::<arrow::array::Int64Array>().unwrap();
    column.value(0)
}

#[test]
fn what_is_not_built_is_named() {
    let engine = engine();
    for (text, construct) in [
        (
            "with recursive r as (select 1 as x union all select max(x) + 1 from r) select * from r",
            "the aggregate max over the recursive query \"r\" in its step",
        ),
        (
            "with recursive r as (select 1 as x union all select x from (select count(*) as x from r) as s) select * from r",
            "the aggregate count over the recursive query \"r\" in its step",
        ),
        (
            "with recursive r as (select 1 as x union all select n from t where n not in (select x from r)) select * from r",
            "a reference to the recursive query \"r\" inside of a subquery",
        ),
        (
            "with recursive r as (select 1 as x union all select x + 1 from r order by x) select * from r",
            "ORDER BY inside of the recursive query \"r\"",
        ),
        (
            "with recursive r as (select 1 as x union all select x + 1 from r limit 3) select * from r",
            "LIMIT inside of the recursive query \"r\"",
        ),
        (
            "select (with recursive r as (select t.n as x union all select x + 1 from r where x < 5) select max(x) from r) from t",
            "a recursive query that reads a row outside of it",
        ),
        ("select unnest([1, 2])", "array literals"),
        ("insert into t values (1, 'x', 2.0)", "the statement INSERT"),
        ("update t set n = 1", "the statement UPDATE"),
        ("delete from t", "the statement DELETE"),
        ("create table x (a integer)", "a column list in CREATE"),
        ("select * from s.t", "a name with a schema: s.t"),
        ("create view v as select $1", "parameters in a view"),
        ("select string_agg(name, name) from t", "string_agg with a separator that is not a constant text"),
        ("select * from unnest(split(name, ',')) as p", "UNNEST of what is not an array literal: split(name, ',')"),
        ("select * from unnest([[1], [2]]) as p", "UNNEST of an array of arrays"),
        ("select * from generate_series(1, (select max(n) from t))", "generate_series of what is not a constant"),
        ("select * from read_csv('x') with ordinality", "WITH ORDINALITY behind read_csv"),
        ("select n from t union all select sum(distinct n) over () from t", "DISTINCT in sum over a window"),
        ("select array_agg(n) from t", "the function array_agg"),
        ("select sum(n) from t group by ()", "an empty list in parentheses, as in GROUP BY ()"),
        ("select n from t where (n, name) = (1, 'one')", "rows as values, as in (a, b) = (1, 2)"),
        ("select * from t right join u using (n) join u as w on w.n = u.n", "RIGHT JOIN ... USING beside other joins"),
        ("select * from t natural full join u", "NATURAL FULL JOIN"),
        ("select n from t order by n fetch first 2 rows with ties", "FETCH WITH TIES"),
        ("select n from t limit (select 1)", "a subquery in LIMIT"),
        ("select count(distinct n) over () from t", "DISTINCT in count over a window"),
        ("select lag(n) ignore nulls over (order by n) from t", "IGNORE NULLS in lag"),
        ("select lead(n, n) over (order by n) from t", "lead with a number that is not a constant integer"),
        ("select median(n) over () from t", "median over a window"),
        ("select corr(distinct n, price) from t", "DISTINCT in corr"),
        ("select quantile_cont(n, price) from t", "quantile_cont with a share that is not a constant"),
        (
            "select sum(n) over (order by price range between 0.5 preceding and current row) from t",
            "a window frame in RANGE with the offset",
        ),
        (
            "select * from t left join u on t.n = u.n and exists (select 1 from t as x where x.n = t.n and x.n = u.n)",
            "a subquery or a model in the condition of an outer join that reads both of its sides",
        ),
        ("select name similar to 'a%' from t", "SIMILAR TO"),
        ("select * from t pivot (sum(n) for name in ('one'))", "not supported: PIVOT"),
        ("select overlay(name placing 'x' from 1) from t", "not supported: OVERLAY"),
        ("select interval '1 day'", "an interval outside of date arithmetic"),
        ("select timestamp '2024-01-01 00:00:00' - timestamp '2023-01-01 00:00:00'", "the difference of timestamps"),
        ("select n <=> 1 from t", "the operator <=>"),
        ("select date_part('century', date '2024-01-01')", "the date field century"),
        ("select regexp_replace(name, 'a', 'b', 'x') from t", "the flag x in regexp_replace"),
    ] {
        let error = fails(&engine, text);
        assert!(matches!(error, Error::Unsupported(_)), "{text}: {error:?}");
        assert!(error.to_string().contains(construct), "{text}: {error}");
    }
}

#[test]
fn names_are_looked_up_with_a_suggestion_and_a_place() {
    let engine = engine();
    for (text, place, help) in [
        ("select nam from t", "nam", Some("did you mean \"name\"?")),
        ("select t.prise from t", "t.prise", Some("did you mean \"price\"?")),
        ("select lenght(name) from t", "lenght", Some("did you mean \"length\"?")),
        ("select n from t order by pric", "pric", Some("did you mean \"price\"?")),
        ("select sum(n) over v from t window w as (order by n)", "v", Some("did you mean \"w\"?")),
    ] {
        let error = fails(&engine, text);
        assert!(matches!(error, Error::Name(_)), "{text}: {error:?}");
        assert_eq!(error.span().map(|s| &text[s]), Some(place), "{text}: {error}");
        assert_eq!(error.help(), help, "{text}: {error}");
    }
    let error = fails(&engine, "select * from tt");
    assert!(matches!(error, Error::Name(_)) && error.help() == Some("did you mean \"t\"?"), "{error:?}");
    let text = "select n from t, u";
    let error = fails(&engine, text);
    assert_eq!(error.to_string(), "the column \"n\" is in more than one table; put the table's name before it");
    assert_eq!(error.span().map(|s| &text[s]), Some("n"));
}

#[test]
fn what_raises_while_it_runs_says_where() {
    let engine = engine();
    for (text, message, place) in [
        ("select 10 / (n - 2) from t", "division by zero", "n"),
        ("select n * 9223372036854775807 from t where n = 2", "value out of range", "n"),
        ("select cast(name as integer) from t", "cannot cast 'one' to INTEGER", "name"),
        ("select cast(price * 1000 as decimal(3, 1)) from t", "value out of range", "price"),
        ("select split_part(name, ',', n - n) from t", "the number of a part must not be zero", "name"),
    ] {
        let error = fails(&engine, text);
        assert!(matches!(error, Error::Run(_)), "{text}: {error:?}");
        assert!(error.to_string().contains(message), "{text}: {error}");
        let span = error.span().unwrap_or_else(|| panic!("{text}: {error} has no place"));
        assert!(text[span.clone()].contains(place), "{text}: {:?}", &text[span]);
    }
    let error = fails(&engine, "select (select n from t)");
    assert!(matches!(error, Error::Run(_)), "{error:?}");
}

#[test]
fn deep_and_long_statements_work_or_are_refused() {
    let engine = engine();
    let outcome = |text: &str| match engine.sql(text).and_then(|q| q.collect()) {
        Ok(_) | Err(Error::Limit(_)) => {}
        Err(e) => panic!("{}…: {e:?}", &text[..60]),
    };
    outcome(&format!("select {}1{}", "(".repeat(5000), ")".repeat(5000)));
    outcome(&format!("select count(*) from t where {}", vec!["n > 0"; 3_000].join(" and ")));
    outcome(&format!("select count(*) from t where {}", vec!["n > 0"; 1_000].join(" or ")));
    outcome(&format!("select {}n from t", "- ".repeat(3000)));
    outcome(&format!("select {} from t", vec!["n"; 300].join(" + ")));
    outcome(&format!("select {}n{} from t", "abs(".repeat(500), ")".repeat(500)));
    outcome(&format!("select * from {}t{}", "(select * from ".repeat(200), ") as x".repeat(200)));
    let list: Vec<String> = (0..2_000).map(|i| (i * 2).to_string()).collect();
    assert_eq!(count(&engine, &format!("select count(*) from t where n in ({})", list.join(", "))), 1);
    assert_eq!(count(&engine, "select count(*) from t"), 3);
}

#[test]
fn large_numbers_are_taken_or_refused() {
    let engine = engine();
    assert_eq!(count(&engine, "select count(*) from (select n from t limit 9223372036854775807) as q"), 3);
    assert_eq!(count(&engine, "select count(*) from (select n from t offset 9223372036854775807) as q"), 0);
    for text in [
        "select 18446744073709551615",
        "select 18446744073709551616 + 1",
        "select n from t limit 18446744073709551615",
        "select n from t limit 99999999999999999999999",
        "select 1e400",
        "select cast('1e400' as double precision)",
        "select 999999999999999999999999999999999999999999",
        "select n from t limit -1",
    ] {
        if let Err(e) = engine.sql(text).and_then(|q| q.collect()) {
            assert!(!matches!(e, Error::Bug(_)), "{text}: {e}");
        }
    }
    assert_eq!(count(&engine, "select count(*) from t where n < 18446744073709551615"), 3);
}

#[test]
fn limits_come_with_the_run() {
    let engine = engine();
    let rows = |query: flare::Result<Query>| -> usize {
        query.and_then(|q| q.collect()).unwrap().iter().map(|b| b.num_rows()).sum()
    };
    let query = |limit: Value, offset: Value| {
        engine.sql("select n from t order by n limit $1 offset $2").unwrap().bind(&[limit, offset])
    };
    assert_eq!(rows(query(Value::I64(2), Value::I64(0))), 2);
    assert_eq!(rows(query(Value::I64(2), Value::I64(2))), 1);
    assert_eq!(rows(query(Value::I64(0), Value::I64(0))), 0);
}

#[test]
fn the_memory_limit_counts_what_is_read_kept_and_given() {
    let engine = Engine::new();
    let numbers = arrow::array::Int64Array::from_iter_values((0..200_000).map(|i| i * 7_919 % 1_000_003));
    let texts = arrow::array::StringArray::from_iter_values((0..200_000).map(|i| format!("a text of some length {i}")));
    let columns: Vec<(&str, arrow::array::ArrayRef)> =
        vec![("n", std::sync::Arc::new(numbers)), ("s", std::sync::Arc::new(texts))];
    let batch = arrow::record_batch::RecordBatch::try_from_iter(columns).unwrap();
    engine.register_arrow("big", &[batch]).unwrap();
    let run = |limit: usize, text: &str| {
        engine.set_settings(Settings { memory_limit: Some(limit), threads: 2, ..Settings::default() });
        engine.sql(text).and_then(|q| q.collect())
    };
    // Reading alone is too much; then sorting, joining, grouping and giving.
    for (limit, text) in [
        (1 << 10, "select count(s) from big"),
        (12 << 20, "select s, n from big order by n"),
        (12 << 20, "select count(*) from big as a join big as b on a.n = b.n and a.s <> b.s"),
        (12 << 20, "select s, count(*) from big group by s"),
        (12 << 20, "select s, n + 1 from big"),
    ] {
        let error = run(limit, text).expect_err(text);
        let Error::Limit(message) = &error else { panic!("{text}: {error:?}") };
        assert!(message.contains(&limit.to_string()), "{message}");
        assert!(message.contains("requested") && message.contains("raise the memory limit"), "{message}");
    }
    assert!(run(1 << 30, "select s, n from big order by n").is_ok());
    assert!(run(64 << 20, "select count(*) from big where n < 10").is_ok());
}

#[test]
fn an_endless_recursion_ends_by_memory_by_cancellation_or_with_the_rows_that_are_read() {
    let engine = engine();
    for text in [
        "with recursive r as (select 1 as x union all select x + 1 from r) select count(*) from r",
        "with recursive r as (select 1 as x union select x + 1 from r) select count(*) from r",
        "with recursive r as (select 'a text of some length' as x union all select 'and ' || x from r) select count(*) from r",
    ] {
        engine.set_settings(Settings { memory_limit: Some(8 << 20), ..Settings::default() });
        let error = engine.sql(text).and_then(|q| q.collect()).expect_err(text);
        assert!(matches!(&error, Error::Limit(m) if m.contains("raise the memory limit")), "{text}: {error:?}");
        engine.set_settings(Settings::default());
        let query = engine.sql(text).unwrap();
        let token = query.cancel_token();
        let stop = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            token.cancel();
        });
        assert!(matches!(query.collect(), Err(Error::Cancelled)), "{text}");
        stop.join().unwrap();
    }
    let first = "with recursive r as (select 1 as x union all select x + 1 from r)";
    assert_eq!(count(&engine, &format!("{first} select x * 2 from r limit 1 offset 9")), 20);
    assert_eq!(count(&engine, &format!("{first} select count(*) from (select x as y from r limit 10) as s")), 10);
    assert_eq!(count(&engine, &format!("{first} select sum(x) from (select x from r limit 4) as s")), 10);
}

#[test]
fn a_recursion_that_is_none_says_where() {
    let engine = engine();
    for (text, message, at) in [
        (
            "with recursive r as (select 1 as x union all select sum(x) from r) select * from r",
            "the aggregate sum",
            "sum",
        ),
        (
            "with recursive r as (select 1 as x union all select x from r union all select 2) select * from r",
            "reads itself in its first part",
            "r",
        ),
        (
            "with recursive r as (select 1 as x union all select x, 1 from r) select * from r",
            "same number of columns",
            "",
        ),
    ] {
        let error = fails(&engine, text);
        assert!(error.to_string().contains(message), "{text}: {error}");
        assert_eq!(error.span().map_or("", |s| &text[s]), at, "{text}");
    }
}

#[test]
fn a_cancelled_query_stops_and_another_runs() {
    let engine = engine();
    let query = engine.sql("select count(*) from t as a, t as b, t as c").unwrap();
    query.cancel_token().cancel();
    assert!(matches!(query.collect(), Err(Error::Cancelled)));
    assert_eq!(count(&engine, "select count(*) from t as a, t as b, t as c"), 27);
}

#[test]
fn chains_of_operators_have_a_limit_that_is_named_unless_they_can_be_trees() {
    let engine = engine();
    let chain = |op: &str, term: &dyn Fn(usize) -> String, n: usize| (0..n).map(term).collect::<Vec<_>>().join(op);
    let sum = chain(" + ", &|_| "n".into(), 2000);
    let error = fails(&engine, &format!("select {sum} from t"));
    assert!(matches!(error, Error::Limit(_)), "{error:?}");
    assert!(error.to_string().contains("more than 1000 operators stand inside of one another"), "{error}");
    let any = chain(" or ", &|i| format!("n = {i}"), 3000);
    let all = chain(" and ", &|i| format!("n <> {}", i + 10), 3000);
    let text = chain(" || ", &|_| "'ab'".into(), 3000);
    let batches = engine
        .sql(&format!("select count(*), max(length({text})) from t where ({any}) and {all}"))
        .and_then(|query| query.collect())
        .unwrap();
    let length = batches[0].column(1).as_any().downcast_ref::<arrow::array::Int64Array>().unwrap();
    assert_eq!(length.value(0), 6000);
}
