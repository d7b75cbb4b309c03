//! The engine as its users see it: statements in, rows or errors out.

use arrow::util::pretty::pretty_format_batches;
use expect_test::{Expect, expect};
use flare::{Engine, Error};

fn engine() -> Engine {
    let engine = Engine::new();
    for text in [
        "create table t as select * from (values (1, 'one', 1.50), (2, 'two', 2.25), (3, null, null), (2, 'zwei', 10.00))
             as v(n, name, price)",
        "create table u as select * from (values (2, true), (4, false), (null, true)) as v(n, flag)",
        "create table d as select * from (values (date '2024-01-31', timestamp '2024-01-31 10:20:30'),
             (date '1969-12-31', timestamp '1969-12-31 23:59:59')) as v(day, at)",
    ] {
        engine.sql(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    }
    engine
}

#[track_caller]
fn check(text: &str, expected: Expect) {
    let printed = match engine().sql(text).and_then(|q| q.collect()) {
        Ok(batches) => pretty_format_batches(&batches).unwrap().to_string(),
        Err(e) => match e.span() {
            Some(span) => format!("{e}\n  at {:?}", &text[span]),
            None => e.to_string(),
        },
    };
    expected.assert_eq(&(printed + "\n"));
}

#[test]
fn projection_and_filter() {
    check(
        "select n + 1 as m, name from t where price > 2 order by n, name",
        expect![[r#"
        +---+------+
        | m | name |
        +---+------+
        | 3 | two  |
        | 3 | zwei |
        +---+------+
    "#]],
    );
    check(
        "select * from t where name like '%w%' and n <> 1 order by name",
        expect![[r#"
        +---+------+-------+
        | n | name | price |
        +---+------+-------+
        | 2 | two  | 2.25  |
        | 2 | zwei | 10.00 |
        +---+------+-------+
    "#]],
    );
    check(
        "select n, n, n + n from t limit 1",
        expect![[r#"
        +---+---+-------+
        | n | n | n + n |
        +---+---+-------+
        | 1 | 1 | 2     |
        +---+---+-------+
    "#]],
    );
    check(
        "select 1, 'x', null, 1.5, 1e0, true, date '2024-02-29'",
        expect![[r#"
            +---+-----+------+-----+-----+------+-------------------+
            | 1 | 'x' | NULL | 1.5 | 1e0 | true | DATE '2024-02-29' |
            +---+-----+------+-----+-----+------+-------------------+
            | 1 | x   |      | 1.5 | 1.0 | true | 2024-02-29        |
            +---+-----+------+-----+-----+------+-------------------+
        "#]],
    );
}

#[test]
fn arithmetic_types() {
    check(
        "select 7 / 2, -7 / 2, 7 % -2, 7.0 / 2, price / 2, price * 2, price * price, price + 1 from t where n = 1",
        expect![[r#"
        +-------+--------+--------+---------+-----------+-----------+---------------+-----------+
        | 7 / 2 | -7 / 2 | 7 % -2 | 7.0 / 2 | price / 2 | price * 2 | price * price | price + 1 |
        +-------+--------+--------+---------+-----------+-----------+---------------+-----------+
        | 3     | -3     | 1      | 3.5     | 0.75      | 3.00      | 2.2500        | 2.50      |
        +-------+--------+--------+---------+-----------+-----------+---------------+-----------+
    "#]],
    );
    check(
        "select 9223372036854775807 + 1",
        expect![[r#"
            value out of range; in 9223372036854775807 + 1
        "#]],
    );
    check(
        "select n / (n - 2) from t",
        expect![[r#"
            division by zero; in n / (n - 2)
              at "n / (n - 2)"
        "#]],
    );
    check(
        "select count(*) from t where n <> 2 and 10 / (n - 2) > 1",
        expect![[r#"
        +----------+
        | count(*) |
        +----------+
        | 1        |
        +----------+
    "#]],
    );
    check(
        "select case when n = 2 then 0 else 10 / (n - 2) end as q from t order by 1",
        expect![[r#"
        +-----+
        | q   |
        +-----+
        | -10 |
        | 0   |
        | 0   |
        | 10  |
        +-----+
    "#]],
    );
}

#[test]
fn aggregates() {
    check(
        "select n, count(*), count(name), sum(price), avg(price), min(name), max(price) from t group by n order by n",
        expect![[r#"
            +---+----------+-------------+------------+------------+-----------+------------+
            | n | count(*) | count(name) | sum(price) | avg(price) | min(name) | max(price) |
            +---+----------+-------------+------------+------------+-----------+------------+
            | 1 | 1        | 1           | 1.50       | 1.5        | one       | 1.50       |
            | 2 | 2        | 2           | 12.25      | 6.125      | two       | 10.00      |
            | 3 | 1        | 0           |            |            |           |            |
            +---+----------+-------------+------------+------------+-----------+------------+
        "#]],
    );
    check(
        "select count(distinct n), sum(n) filter (where n > 1), sum(price) from t where n > 5",
        expect![[r#"
        +-------------------+-----------------------------+------------+
        | count(DISTINCT n) | sum(n) FILTER (WHERE n > 1) | sum(price) |
        +-------------------+-----------------------------+------------+
        | 0                 |                             |            |
        +-------------------+-----------------------------+------------+
    "#]],
    );
    check(
        "select n + 1 as k, stddev(price) from t group by n + 1 having count(*) > 1",
        expect![[r#"
        +---+-------------------+
        | k | stddev(price)     |
        +---+-------------------+
        | 3 | 5.480077554195743 |
        +---+-------------------+
    "#]],
    );
    check(
        "select distinct n from t order by n desc",
        expect![[r#"
        +---+
        | n |
        +---+
        | 3 |
        | 2 |
        | 1 |
        +---+
    "#]],
    );
    check(
        "select n, name, sum(price) from t group by rollup (n, name) order by n, name",
        expect![[r#"
            +---+------+------------+
            | n | name | sum(price) |
            +---+------+------------+
            | 1 | one  | 1.50       |
            | 1 |      | 1.50       |
            | 2 | two  | 2.25       |
            | 2 | zwei | 10.00      |
            | 2 |      | 12.25      |
            | 3 |      |            |
            | 3 |      |            |
            |   |      | 13.75      |
            +---+------+------------+
        "#]],
    );
    check(
        "select distinct on (n) n, name from t order by n, name desc",
        expect![[r#"
        +---+------+
        | n | name |
        +---+------+
        | 1 | one  |
        | 2 | zwei |
        | 3 |      |
        +---+------+
    "#]],
    );
}

#[test]
fn joins() {
    check(
        "select t.n, name, flag from t join u on t.n = u.n order by name",
        expect![[r#"
        +---+------+------+
        | n | name | flag |
        +---+------+------+
        | 2 | two  | true |
        | 2 | zwei | true |
        +---+------+------+
    "#]],
    );
    check(
        "select t.n, name, flag from t left join u using (n) order by t.n, name",
        expect![[r#"
        +---+------+------+
        | n | name | flag |
        +---+------+------+
        | 1 | one  |      |
        | 2 | two  | true |
        | 2 | zwei | true |
        | 3 |      |      |
        +---+------+------+
    "#]],
    );
    check(
        "select t.n, u.n from t full join u on t.n = u.n order by t.n, u.n",
        expect![[r#"
        +---+---+
        | n | n |
        +---+---+
        | 1 |   |
        | 2 | 2 |
        | 2 | 2 |
        | 3 |   |
        |   | 4 |
        |   |   |
        +---+---+
    "#]],
    );
    check(
        "select count(*) from t, u",
        expect![[r#"
        +----------+
        | count(*) |
        +----------+
        | 12       |
        +----------+
    "#]],
    );
    check(
        "select a.n, b.name from t a join t b on a.n < b.n and b.price > 2 order by 1, 2",
        expect![[r#"
        +---+------+
        | n | name |
        +---+------+
        | 1 | two  |
        | 1 | zwei |
        +---+------+
    "#]],
    );
}

#[test]
fn subqueries() {
    check(
        "select name from t where n in (select n from u) order by name",
        expect![[r#"
        +------+
        | name |
        +------+
        | two  |
        | zwei |
        +------+
    "#]],
    );
    check(
        "select name from t where n not in (select n from u)",
        expect![[r#"
        +------+
        | name |
        +------+
        +------+
    "#]],
    );
    check(
        "select name from t where n not in (select n from u where n is not null) order by n",
        expect![[r#"
        +------+
        | name |
        +------+
        | one  |
        |      |
        +------+
    "#]],
    );
    check(
        "select n from t where exists (select * from u where u.n = t.n)",
        expect![[r#"
        +---+
        | n |
        +---+
        | 2 |
        | 2 |
        +---+
    "#]],
    );
    check(
        "select n from t where not exists (select * from u where u.n = t.n) order by n",
        expect![[r#"
        +---+
        | n |
        +---+
        | 1 |
        | 3 |
        +---+
    "#]],
    );
    check(
        "select n, (select flag from u where u.n = t.n) as flag from t order by n",
        expect![[r#"
        +---+------+
        | n | flag |
        +---+------+
        | 1 |      |
        | 2 | true |
        | 2 | true |
        | 3 |      |
        +---+------+
    "#]],
    );
    check(
        "select n, n in (select n from u) as inside from t order by n",
        expect![[r#"
        +---+--------+
        | n | inside |
        +---+--------+
        | 1 |        |
        | 2 | true   |
        | 2 | true   |
        | 3 |        |
        +---+--------+
    "#]],
    );
    check(
        "select (select n from t)",
        expect![[r#"
        a subquery used as a value returned more than one row
    "#]],
    );
    check(
        "select n from t where price > (select avg(price) from t x where x.n = t.n)",
        expect![[r#"
        +---+
        | n |
        +---+
        | 2 |
        +---+
    "#]],
    );
    check(
        "select n from t where n >= all (select n from u where n < 3) order by n",
        expect![[r#"
        +---+
        | n |
        +---+
        | 2 |
        | 2 |
        | 3 |
        +---+
    "#]],
    );
}

#[test]
fn windows() {
    check(
        "select n, name, row_number() over (partition by n order by name) as r, lag(name) over (order by n, name) as before,
             sum(n) over (order by n rows between 1 preceding and current row) as s, rank() over (order by n) as k
         from t order by n, name",
        expect![[r#"
            +---+------+---+--------+---+---+
            | n | name | r | before | s | k |
            +---+------+---+--------+---+---+
            | 1 | one  | 1 |        | 1 | 1 |
            | 2 | two  | 1 | one    | 3 | 2 |
            | 2 | zwei | 2 | two    | 4 | 2 |
            | 3 |      | 1 | zwei   | 5 | 4 |
            +---+------+---+--------+---+---+
        "#]],
    );
    // Over a table as it is, the rows behind the window come from the table.
    check(
        "select n, name, l from (select *, lag(n) over (order by n desc, name) as l from t) as w where n > 1 order by n, name",
        expect![[r#"
            +---+------+---+
            | n | name | l |
            +---+------+---+
            | 2 | two  | 3 |
            | 2 | zwei | 2 |
            | 3 |      |   |
            +---+------+---+
        "#]],
    );
    check(
        "select n, sum(price) over (partition by n) as s, first_value(name) over (order by price) as f from t order by n, s",
        expect![[r#"
        +---+-------+-----+
        | n | s     | f   |
        +---+-------+-----+
        | 1 | 1.50  | one |
        | 2 | 12.25 | one |
        | 2 | 12.25 | one |
        | 3 |       | one |
        +---+-------+-----+
    "#]],
    );
}

#[test]
fn a_decimal_is_compared_with_a_double_as_a_double() {
    check(
        "select x > 0.5 as above, x < 0.5000000000000002 as below, x = 0.5 as equal, 0.5 <= x as least
         from (values (5e-1), (0.5000000000000001e0), (0.4e0)) as v(x)",
        expect![[r#"
            +-------+-------+-------+-------+
            | above | below | equal | least |
            +-------+-------+-------+-------+
            | false | true  | true  | true  |
            | true  | true  | false | true  |
            | false | true  | false | false |
            +-------+-------+-------+-------+
        "#]],
    );
}

#[test]
fn set_operations_and_ctes() {
    check(
        "select n from t union select n from u order by n",
        expect![[r#"
        +---+
        | n |
        +---+
        | 1 |
        | 2 |
        | 3 |
        | 4 |
        |   |
        +---+
    "#]],
    );
    check(
        "select n from t union all select 1.5 order by 1",
        expect![[r#"
        +-----+
        | n   |
        +-----+
        | 1.0 |
        | 1.5 |
        | 2.0 |
        | 2.0 |
        | 3.0 |
        +-----+
    "#]],
    );
    check(
        "select n from t intersect select n from u",
        expect![[r#"
        +---+
        | n |
        +---+
        | 2 |
        +---+
    "#]],
    );
    check(
        "select n from t except select n from u order by n",
        expect![[r#"
        +---+
        | n |
        +---+
        | 1 |
        | 3 |
        +---+
    "#]],
    );
    check(
        "with a as (select n * 2 as m from t), b as (select max(m) as top from a) select m from a, b where m = top",
        expect![[r#"
        +---+
        | m |
        +---+
        | 6 |
        +---+
    "#]],
    );
    check(
        "select n from t except all select n from u order by n",
        expect![[r#"
            +---+
            | n |
            +---+
            | 1 |
            | 2 |
            | 3 |
            +---+
        "#]],
    );
}

#[test]
fn dates() {
    check(
        "select day, day + interval '1' month as next, day - interval '1 day' as eve, extract(year from day) as y,
             date_diff('day', day, date '2024-02-02') as days, date_trunc('month', day) as m, day + 3 as later, hour(at) as h
         from d order by day",
        expect![[r#"
            +------------+------------+------------+------+-------+------------+------------+----+
            | day        | next       | eve        | y    | days  | m          | later      | h  |
            +------------+------------+------------+------+-------+------------+------------+----+
            | 1969-12-31 | 1970-01-31 | 1969-12-30 | 1969 | 19756 | 1969-12-01 | 1970-01-03 | 23 |
            | 2024-01-31 | 2024-02-29 | 2024-01-30 | 2024 | 2     | 2024-01-01 | 2024-02-03 | 10 |
            +------------+------------+------------+------+-------+------------+------------+----+
        "#]],
    );
    check(
        "select at + interval '90 minutes' as t, day + interval '1 hour' as u, day - date '2024-01-01' as days from d order by 1",
        expect![[r#"
        +---------------------+---------------------+--------+
        | t                   | u                   | days   |
        +---------------------+---------------------+--------+
        | 1970-01-01T01:29:59 | 1969-12-31T01:00:00 | -19724 |
        | 2024-01-31T11:50:30 | 2024-01-31T01:00:00 | 30     |
        +---------------------+---------------------+--------+
    "#]],
    );
}

#[test]
fn functions() {
    check(
        "select upper(name) as u, length(name) as l, substring(name from 2 for 2) as s, coalesce(name, '?') as c,
             nullif(n, 2) as z, greatest(n, 2) as g, round(price, 1) as r, name || '!' as e, left(name, 2) as f from t order by n, name",
        expect![[r#"
            +------+---+----+------+---+---+-------+-------+----+
            | u    | l | s  | c    | z | g | r     | e     | f  |
            +------+---+----+------+---+---+-------+-------+----+
            | ONE  | 3 | ne | one  | 1 | 2 | 1.50  | one!  | on |
            | TWO  | 3 | wo | two  |   | 2 | 2.30  | two!  | tw |
            | ZWEI | 4 | we | zwei |   | 2 | 10.00 | zwei! | zw |
            |      |   |    | ?    | 3 | 3 |       |       |    |
            +------+---+----+------+---+---+-------+-------+----+
        "#]],
    );
    check(
        "select concat('a', null, 1, true), replace('aXb', 'X', '--'), position('b' in 'abc'), trim('  x '), abs(-2), sqrt(16)",
        expect![[r#"
        +----------------------------+---------------------------+------------------------+--------------+---------+----------+
        | concat('a', NULL, 1, true) | replace('aXb', 'X', '--') | POSITION('b' IN 'abc') | TRIM('  x ') | abs(-2) | sqrt(16) |
        +----------------------------+---------------------------+------------------------+--------------+---------+----------+
        | a1true                     | a--b                      | 2                      | x            | 2       | 4.0      |
        +----------------------------+---------------------------+------------------------+--------------+---------+----------+
    "#]],
    );
    check(
        "select case n when 1 then 'a' when 2 then 'b' end as c, n between 2 and 3 as b, n in (1, 3) as i, name is null as z from t order by n, name",
        expect![[r#"
        +---+-------+-------+-------+
        | c | b     | i     | z     |
        +---+-------+-------+-------+
        | a | false | true  | false |
        | b | true  | false | false |
        | b | true  | false | false |
        |   | true  | true  | true  |
        +---+-------+-------+-------+
    "#]],
    );
    check(
        "select cast('12' as integer) + 1, cast(2.5 as integer), cast(-2.5 as bigint), '7'::decimal(5,1), try_cast('x' as integer)",
        expect![[r#"
        +---------------------------+----------------------+----------------------+-------------------+--------------------------+
        | CAST('12' AS INTEGER) + 1 | CAST(2.5 AS INTEGER) | CAST(-2.5 AS BIGINT) | '7'::DECIMAL(5,1) | TRY_CAST('x' AS INTEGER) |
        +---------------------------+----------------------+----------------------+-------------------+--------------------------+
        | 13                        | 3                    | -3                   | 7.0               |                          |
        +---------------------------+----------------------+----------------------+-------------------+--------------------------+
    "#]],
    );
    check(
        "select cast('x' as integer)",
        expect![[r#"
            cannot cast 'x' to INTEGER
        "#]],
    );
}

#[test]
fn mistakes_are_explained() {
    check(
        "select nmae from t",
        expect![[r#"
        there is no column "nmae" here; did you mean "name"?
          at "nmae"
    "#]],
    );
    check(
        "select t.n from t join u on t.n = u.nn",
        expect![[r#"
        there is no column "u.nn" here; did you mean "n"?
          at "u.nn"
    "#]],
    );
    // The planner lets qualified names in ORDER BY pass.
    check(
        "select t.name from t order by t.nmae",
        expect![[r#"
        there is no column "t.nmae" here; did you mean "name"?
          at "t.nmae"
    "#]],
    );
    check(
        "select t.name from t order by v.name",
        expect![[r#"
        there is no column "v.name" here; did you mean "name"?
          at "v.name"
    "#]],
    );
    check(
        "select sum(n) over (order by interval '1' day) from t",
        expect![[r#"
        not supported: a window ordered by intervals, unless it has a frame of ROWS
    "#]],
    );
    check(
        "select n from tt",
        expect![[r#"
        there is no table "tt"; did you mean "t"?
          at "tt"
    "#]],
    );
    check(
        "select lenght(name) from t",
        expect![[r#"
        there is no function lenght; did you mean "length"?
          at "lenght"
    "#]],
    );
    check(
        "select n from t join u on true",
        expect![[r#"
        the column "n" is in more than one table; put the table's name before it
          at "n"
    "#]],
    );
    check(
        "select name + 1 from t",
        expect![[r#"
            + is not defined for VARCHAR and BIGINT
        "#]],
    );
    check(
        "select n, count(*) from t",
        expect![[r#"
            the column t.n must stand in GROUP BY or inside an aggregate
              at "n"
        "#]],
    );
    check(
        "select sum(name) from t",
        expect![[r#"
            sum takes a number, not VARCHAR
        "#]],
    );
    check(
        "selec 1",
        expect![[r#"
        expected a statement, found selec
          at "selec"
    "#]],
    );
    check(
        "select 1 from t where",
        expect![[r#"
        Expected: an expression, found: EOF
          at ""
    "#]],
    );
    check(
        "insert into t values (1)",
        expect![[r#"
        not supported: the statement INSERT
          at "insert"
    "#]],
    );
    check(
        "with recursive r as (select 1 as n union all select n + 1 from r where n < 5) select * from r",
        expect![[r#"
            +---+
            | n |
            +---+
            | 1 |
            | 2 |
            | 3 |
            | 4 |
            | 5 |
            +---+
        "#]],
    );
    check(
        "select unnest([1, 2])",
        expect![[r#"
            not supported: array literals
        "#]],
    );
    check(
        "create table t as select 1",
        expect![[r#"
        there is a table or a view "t" already
    "#]],
    );
    check(
        "drop view t",
        expect![[r#"
        "t" is a table: DROP TABLE drops it
          at "t"
    "#]],
    );
    check(
        "drop table if exists nothing, t2",
        expect![[r#"
        ++
        ++
    "#]],
    );
    check(
        "select * from 'no/such/file.parquet'",
        expect![[r#"
        no/such/file.parquet: No such file or directory (os error 2)
    "#]],
    );
}

#[test]
fn statements() {
    check(
        "show tables",
        expect![[r#"
        +------+-------+
        | name | kind  |
        +------+-------+
        | d    | table |
        | t    | table |
        | u    | table |
        +------+-------+
    "#]],
    );
    check(
        "describe t",
        expect![[r#"
        +-------------+--------------+------+
        | column_name | column_type  | null |
        +-------------+--------------+------+
        | n           | BIGINT       | NO   |
        | name        | VARCHAR      | YES  |
        | price       | DECIMAL(4,2) | YES  |
        +-------------+--------------+------+
    "#]],
    );
    check(
        "explain select n + 1 as m from t where n > 1",
        expect![[r#"
            +----------------------------------------+
            | explain                                |
            +----------------------------------------+
            | program {                              |
            |   input in0 "t": table("n": i64)       |
            |   column c0 "n": i64                   |
            |   column c3 "m": i64                   |
            |   place p0 "n + 1" 15 to 16            |
            |   func @query() -> (table(…)) {        |
            |     %0 = scan in0 (0 -> c0) : table(…) |
            |     %1 = filter %0 {                   |
            |       %2 = col c0 : i64                |
            |       %3 = literal 1 : i64             |
            |       %4 = gt %2, %3 : bool            |
            |       yield %4                         |
            |     } : table(…)                       |
            |     %5 = extend %1 (c3) {              |
            |       %6 = col c0 : i64 at p0          |
            |       %7 = literal 1 : i64 at p0       |
            |       %8 = add %6, %7 : i64 at p0      |
            |       yield %8                         |
            |     } : table(…)                       |
            |     %9 = project %5 (c3) : table(…)    |
            |     yield %9                           |
            |   }                                    |
            |   entry @query                         |
            |   result "m"                           |
            | }                                      |
            +----------------------------------------+
        "#]],
    );
    let engine = engine();
    engine.sql("create view v as select n, count(*) as c from t group by n").unwrap();
    let rows = engine.sql("select sum(c) as s from v").unwrap().collect().unwrap();
    assert_eq!(rows[0].num_rows(), 1);
    assert!(engine.sql("create view v as select 1").is_err());
    assert!(engine.sql("create or replace view v as select nothing from t").is_err());
    engine.sql("select c from v").unwrap();
    engine.sql("create or replace view v as select 1 as one").unwrap();
    engine.sql("select one from v").unwrap();
    engine.sql("drop view v").unwrap();
    assert!(matches!(engine.sql("select * from v").unwrap_err(), Error::Name(_)));
    let version = engine.catalog().version();
    assert!(engine.sql("create table w as select 1 / 0").is_err());
    assert_eq!(engine.catalog().version(), version);
}

#[test]
fn a_query_keeps_its_tables() {
    let engine = engine();
    let query = engine.sql("select count(*) as n from t").unwrap();
    engine.sql("drop table t").unwrap();
    assert_eq!(query.collect().unwrap()[0].num_rows(), 1);
}

#[test]
fn parameters() {
    use ir::value::Value;
    let engine = engine();
    let query = engine.sql("select name from t where n = $1 and price > $2").unwrap();
    assert!(query.collect().is_err());
    let rows = query.bind(&[Value::I32(2), Value::F64(3.0)]).unwrap().collect().unwrap();
    expect![[r#"
        +------+
        | name |
        +------+
        | zwei |
        +------+"#]]
    .assert_eq(&pretty_format_batches(&rows).unwrap().to_string());
    let query = engine.sql("select ? as x").unwrap();
    let rows = query.bind(&[Value::I64(5)]).unwrap().collect().unwrap();
    expect![[r#"
        +---+
        | x |
        +---+
        | 5 |
        +---+"#]]
    .assert_eq(&pretty_format_batches(&rows).unwrap().to_string());
}

#[test]
fn long_statements_do_not_overflow_the_stack() {
    let engine = engine();
    let sum = vec!["n"; 1000].join(" + ");
    let rows = engine.sql(&format!("select {sum} as s from t where n = 1")).unwrap().collect().unwrap();
    assert_eq!(rows[0].num_rows(), 1);
    let list: Vec<String> = (0..10_000).map(|i| i.to_string()).collect();
    engine.sql(&format!("select n from t where n in ({})", list.join(","))).unwrap().collect().unwrap();
    let ors = vec!["n = 7"; 2000].join(" or ");
    engine.sql(&format!("select n from t where {ors}")).unwrap().collect().unwrap();
    let nested = format!("select {}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(matches!(engine.sql(&nested).unwrap_err(), Error::Limit(_)));
    let many = format!("select {}", vec!["1"; 60_000].join("+"));
    assert!(matches!(engine.sql(&many).unwrap_err(), Error::Limit(_)));
}
