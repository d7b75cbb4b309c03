//! Scans: conditions that are tested by tiles, blocks that are skipped, groups that are indexed by their keys.

use std::sync::Arc;

use ir::Program;
use ir::exec::run::{CompileOptions, Executable, Resources, StageTime};
use ir::exec::{Inputs, column_value, table_of_values};
use ir::types::ScalarType as S;
use ir::value::Value;
use runtime::column::Table;
use runtime::scheduler::WorkerPool;

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Draw(u64);

impl Draw {
    /// A number below `n`.
    fn below(&mut self, n: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 1) as i64 % n
    }

    fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below(high - low)
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as i64) as usize]
    }
}

/// Columns by name, type and whether they have NULLs.
const COLUMNS: &[(&str, &str, S, bool)] = &[
    ("small", "i32", S::I32, false),
    ("wide", "i64", S::I64, true),
    ("day", "date", S::Date, false),
    ("later", "date", S::Date, true),
    ("price", "decimal(12,2)", S::Decimal { precision: 12, scale: 2 }, false),
    ("big", "decimal(30,2)", S::Decimal { precision: 30, scale: 2 }, true),
    ("flag", "bool", S::Bool, true),
    ("f", "f64", S::F64, true),
    ("code", "text", S::Text, true),
    ("words", "text", S::Text, false),
    ("id", "i64", S::I64, false),
];

/// Conditions are drawn over the columns before this one.
const ID: usize = 10;

fn value(column: usize, i: usize, rng: &mut Draw) -> Value {
    if COLUMNS[column].3 && rng.below(5) == 0 {
        return Value::Null;
    }
    match column {
        0 => Value::I32(rng.between(-3, 40) as i32),
        1 => Value::I64(rng.one(&[i64::MIN, -1, 0, 7, i64::MAX])),
        2 => Value::Date(9000 + (i / 100) as i32),
        3 => Value::Date(9000 + rng.below(40) as i32),
        4 => Value::Decimal(rng.between(-500, 90_000).into()),
        5 => Value::Decimal(i128::from(rng.between(-3, 4)) * 10i128.pow(25)),
        6 => Value::Bool(rng.below(2) == 1),
        7 => Value::F64(rng.one(&[f64::NAN, -0.0, 0.0, 1.5, f64::INFINITY, -2.5])),
        8 => Value::Text(rng.one(&["red", "green", "blue", "a colour with a long name"]).into()),
        ID => Value::I64((i as i64 * 7) % 6007 - 100),
        _ => Value::Text(format!("{} words of row {i} {}", ["many", "few"][i % 2], rng.below(1000)).into()),
    }
}

fn table(rows: usize) -> Table {
    let mut rng = Draw(7);
    let columns: Vec<Vec<Value>> =
        (0..COLUMNS.len()).map(|c| (0..rows).map(|i| value(c, i, &mut rng)).collect()).collect();
    let list: Vec<(&str, S, &[Value])> =
        COLUMNS.iter().zip(&columns).map(|(c, values)| (c.0, c.2, values.as_slice())).collect();
    table_of_values(&list, rows).expect("a table")
}

fn table_type() -> String {
    let column = |(i, c): (usize, &(&str, &str, S, bool))| format!("c{i}: {}{}", c.1, if c.3 { "?" } else { "" });
    COLUMNS.iter().enumerate().map(column).collect::<Vec<_>>().join(", ")
}

fn program(body: &str, more_columns: &str, result: &str) -> String {
    let input: Vec<String> =
        COLUMNS.iter().map(|c| format!("\"{}\": {}{}", c.0, c.1, if c.3 { "?" } else { "" })).collect();
    let columns: Vec<String> =
        COLUMNS.iter().enumerate().map(|(i, c)| format!("  column c{i} \"{}\": {}\n", c.0, c.1)).collect();
    let scan: Vec<String> = (0..COLUMNS.len()).map(|i| format!("{i} -> c{i}")).collect();
    format!(
        "program {{\n  input in0 \"t\": table({})\n{}{more_columns}  func @main() -> (table({result})) {{\n    \
         %0 = scan in0 ({}) : table({})\n{body}  }}\n  entry @main\n  result {}\n}}\n",
        input.join(", "),
        columns.concat(),
        scan.join(", "),
        table_type(),
        result.split(": ").skip(1).map(|_| "\"x\"").collect::<Vec<_>>().join(", ")
    )
}

/// Draws a condition; gives the value's number and whether it can be NULL.
fn condition(rng: &mut Draw, depth: usize, next: &mut usize, out: &mut String) -> (usize, bool) {
    let mut put = |next: &mut usize, text: String| {
        *next += 1;
        out.push_str(&format!("      %{next} = {text}\n"));
        *next
    };
    let null = |nullable: bool| if nullable { "?" } else { "" };
    if depth > 0 && rng.below(3) > 0 {
        let (a, na) = condition(rng, depth - 1, next, out);
        let mut put = |next: &mut usize, text: String| {
            *next += 1;
            out.push_str(&format!("      %{next} = {text}\n"));
            *next
        };
        if rng.below(4) == 0 {
            return (put(next, format!("not %{a} : bool{}", null(na))), na);
        }
        let (c, nc) = condition(rng, depth - 1, next, out);
        *next += 1;
        let op = rng.one(&["and", "or"]);
        out.push_str(&format!("      %{next} = {op} %{a}, %{c} : bool{}\n", null(na || nc)));
        return (*next, na || nc);
    }
    let column = rng.below(ID as i64) as usize;
    let (_, ty, _, nullable) = COLUMNS[column];
    let x = put(next, format!("col c{column} : {ty}{}", null(nullable)));
    if rng.below(8) == 0 {
        let op = rng.one(&["is_null", "is_not_null"]);
        return (put(next, format!("{op} %{x} : bool")), false);
    }
    let literal = match column {
        0 => rng.between(-5, 45).to_string(),
        1 => rng.one(&["-9223372036854775808", "9223372036854775807", "0", "7"]).to_string(),
        2 => {
            // Two columns, sometimes.
            if rng.below(3) == 0 {
                let y = put(next, "col c3 : date?".into());
                let op = rng.one(&["eq", "ne", "lt", "le", "gt", "ge"]);
                return (put(next, format!("{op} %{x}, %{y} : bool?")), true);
            }
            rng.one(&["\"1994-08-23\"", "\"1994-09-12\"", "\"2013-01-01\""]).to_string()
        }
        3 => "\"1994-09-01\"".to_string(),
        4 => format!("{}.{:02}", rng.between(-3, 900), rng.below(100)),
        5 => "10000000000000000000000.00".to_string(),
        6 => return (x, true),
        7 => rng.one(&["0.0", "1.5", "nan", "inf"]).to_string(),
        8 => rng.one(&["\"green\"", "\"b\"", "\"a colour with a long name\""]).to_string(),
        _ => {
            let pattern = rng.one(&["\"%words%7\"", "\"few%\"", "\"m_ny words of row 1%\""]);
            let y = put(next, format!("literal {pattern} : text"));
            return (put(next, format!("like %{x}, %{y} : bool")), false);
        }
    };
    let y = put(next, format!("literal {literal} : {ty}"));
    let op = rng.one(&["eq", "ne", "lt", "le", "gt", "ge"]);
    let (a, c) = if rng.below(4) == 0 { (y, x) } else { (x, y) };
    (put(next, format!("{op} %{a}, %{c} : bool{}", null(nullable))), nullable)
}

fn rows_of(table: &Table) -> Vec<Vec<Value>> {
    (0..table.rows()).map(|r| table.columns().iter().map(|c| column_value(&c.1, r)).collect()).collect()
}

/// Rows as text: NaN equals itself there.
fn shown(rows: &[Vec<Value>]) -> Vec<String> {
    rows.iter().map(|r| format!("{r:?}")).collect()
}

fn run(program: &Arc<Program>, inputs: &Inputs, morsel: usize) -> (Vec<Vec<Value>>, Vec<StageTime>, String) {
    let exe = Executable::compile(Arc::clone(program), inputs, &CompileOptions::default()).expect("compiles");
    let mut resources = Resources::new(Arc::new(WorkerPool::new(2)), None);
    resources.morsel_rows = morsel;
    let (outputs, times) = exe.run_timed(inputs, &resources).expect("runs");
    (rows_of(outputs.table(0).expect("a table")), times, exe.module().to_string())
}

#[test]
fn conditions_by_tiles_keep_the_rows_that_the_interpreter_keeps() {
    let inputs = Inputs::new().table("t", Arc::new(table(5000)));
    let mut rng = Draw(11);
    let mut by_tiles = 0;
    for _ in 0..60 {
        let (mut body, mut next) = (String::new(), 1);
        let (result, _) = condition(&mut rng, 3, &mut next, &mut body);
        let text = format!(
            "    %1 = filter %0 {{\n{body}      yield %{result}\n    }} : table({})\n    yield %1\n",
            table_type()
        );
        let text = program(&text, "", &table_type());
        let p = Arc::new(Program::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")));
        let expected = rows_of(p.interpret(&inputs).expect("interprets").table(0).expect("a table"));
        for morsel in [3, 64 << 10] {
            let (rows, _, module) = run(&p, &inputs, morsel);
            assert_eq!(shown(&rows), shown(&expected), "{text}");
            by_tiles += usize::from(module.contains("mask_to_selection"));
        }
    }
    assert!(by_tiles >= 60, "{by_tiles} of 120 filters went by tiles");
}

#[test]
fn blocks_that_their_statistics_rule_out_are_skipped() {
    let rows = 200_000;
    let inputs = Inputs::new().table("t", Arc::new(table(rows)));
    // Row 100 000 has day 10 000.
    for (day, op, skipped) in
        [("1997-05-19", "ge", 65_536), ("1997-05-19", "lt", 65_536 + 3392), ("2013-01-01", "gt", rows)]
    {
        let body = format!(
            "    %1 = filter %0 {{\n      %2 = col c2 : date\n      %3 = literal \"{day}\" : date\n      \
             %4 = {op} %2, %3 : bool\n      yield %4\n    }} : table({})\n    \
             %5 = group %1 () (c20 = count_all(), c21 = sum(c0)) : table(c20: i64, c21: i64?)\n    yield %5\n",
            table_type()
        );
        let text = program(&body, "  column c20 \"n\": i64\n  column c21 \"s\": i64\n", "c20: i64, c21: i64?");
        let p = Arc::new(Program::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")));
        let expected = rows_of(p.interpret(&inputs).expect("interprets").table(0).expect("a table"));
        let (found, times, _) = run(&p, &inputs, 64 << 10);
        assert_eq!(found, expected);
        assert_eq!(times.iter().map(|t| t.skipped).sum::<usize>(), skipped, "{op} {day}");
    }
}

#[test]
fn small_keys_are_an_index_and_proven_sums_are_narrow() {
    let inputs = Inputs::new().table("t", Arc::new(table(5000)));
    let result = "c8: text?, c6: bool?, c0: i32, c20: i64, c21: decimal(38,2), c22: f64, c23: i64, c24: decimal(38,2)?";
    let columns = "  column c20 \"n\": i64\n  column c21 \"s\": decimal(38,2)\n  column c22 \"m\": f64\n  \
                   column c23 \"k\": i64\n  column c24 \"b\": decimal(38,2)\n";
    let body = format!(
        "    %1 = group %0 (c8, c6, c0) (c20 = count_all(), c21 = sum(c4), c22 = avg(c4), c23 = count(c3), \
         c24 = sum(c5)) : table({result})\n    yield %1\n"
    );
    let text = program(&body, columns, result);
    let p = Arc::new(Program::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")));
    let expected = rows_of(p.interpret(&inputs).expect("interprets").table(0).expect("a table"));
    for morsel in [3, 64, 64 << 10] {
        let (rows, _, module) = run(&p, &inputs, morsel);
        assert_eq!(rows, expected, "morsels of {morsel}");
        let pipeline = module.split("func @").find(|f| f.starts_with("pipeline")).expect("a pipeline");
        assert!(pipeline.contains("group_table_insert_direct"), "{pipeline}");
        // Of the exact sums only that of the wide decimals is in 128 bits.
        assert_eq!(pipeline.matches("add.i128").count(), 1, "{pipeline}");
    }
    // Keys of a wide range are hashed.
    let body = "    %1 = group %0 (c1) (c20 = count_all()) : table(c1: i64?, c20: i64)\n    yield %1\n";
    let text = program(body, "  column c20 \"n\": i64\n", "c1: i64?, c20: i64");
    let p = Arc::new(Program::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")));
    let expected = rows_of(p.interpret(&inputs).expect("interprets").table(0).expect("a table"));
    let (rows, _, module) = run(&p, &inputs, 64);
    assert_eq!(rows, expected);
    assert!(!module.contains("insert_direct"));
}

#[test]
fn close_keys_are_a_window() {
    let inputs = Inputs::new().table("t", Arc::new(table(9000)));
    let result = "c10: i64, c20: i64, c21: decimal(38,2)";
    let body = format!("    %1 = group %0 (c10) (c20 = count_all(), c21 = sum(c4)) : table({result})\n    yield %1\n");
    let text = program(&body, "  column c20 \"n\": i64\n  column c21 \"s\": decimal(38,2)\n", result);
    let p = Arc::new(Program::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")));
    let expected = rows_of(p.interpret(&inputs).expect("interprets").table(0).expect("a table"));
    assert_eq!(expected.len(), 6007);
    for morsel in [3, 1000, 64 << 10] {
        let (rows, _, module) = run(&p, &inputs, morsel);
        assert_eq!(rows, expected, "morsels of {morsel}");
        assert!(module.contains("group_table_insert_direct"));
    }
}

#[test]
fn keys_that_others_decide_do_not_tell_groups_apart() {
    let result = "c9: text, c3: date?, c10: i64, c20: i64";
    // Once every key of c10 has one row, then some have two.
    for (rows, decided) in [(5000, true), (9000, false)] {
        let inputs = Inputs::new().table("t", Arc::new(table(rows)));
        let body = format!("    %1 = group %0 (c9, c3, c10) (c20 = count_all()) : table({result})\n    yield %1\n");
        let text = program(&body, "  column c20 \"n\": i64\n", result);
        let p = Arc::new(Program::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")));
        let expected = rows_of(p.interpret(&inputs).expect("interprets").table(0).expect("a table"));
        for morsel in [3, 64 << 10] {
            let (rows, _, module) = run(&p, &inputs, morsel);
            assert_eq!(rows, expected, "morsels of {morsel}");
            assert_eq!(!module.contains("text_hash"), decided, "{module}");
        }
    }
}

/// Rows with keys of few values, and integers without NULLs.
fn measures(rows: usize) -> Table {
    let mut rng = Draw(13);
    let decimal = S::Decimal { precision: 6, scale: 2 };
    let mut column =
        |f: &mut dyn FnMut(usize, &mut Draw) -> Value| -> Vec<Value> { (0..rows).map(|i| f(i, &mut rng)).collect() };
    let list = [
        (
            "a",
            S::Text,
            column(&mut |i, rng| Value::Text(rng.one(&["x", "y", "z"][..1 + (i > 2500) as usize * 2]).into())),
        ),
        ("b", S::Text, column(&mut |_, rng| Value::Text(rng.one(&["one", "another"]).into()))),
        ("q", decimal, column(&mut |_, rng| Value::Decimal(rng.between(-500, 90_000).into()))),
        ("d", decimal, column(&mut |_, rng| Value::Decimal(rng.between(0, 11).into()))),
        ("n", S::I32, column(&mut |_, rng| Value::I32(rng.between(100_000, 100_100) as i32))),
        ("day", S::Date, column(&mut |i, _| Value::Date(9000 + (i / 100) as i32))),
    ];
    let list: Vec<(&str, S, &[Value])> = list.iter().map(|(name, ty, v)| (*name, *ty, v.as_slice())).collect();
    table_of_values(&list, rows).expect("a table")
}

#[test]
fn few_groups_are_summed_by_blocks() {
    let inputs = Inputs::new().table("t", Arc::new(measures(5000)));
    let out = "c20: i64, c21: decimal(38,2), c22: decimal(38,4), c23: decimal(38,6), c24: i64, c25: decimal(38,2)";
    for (keys, day, mark) in [("c0, c1", "1994-08-25", ""), ("c0, c1", "1994-10-12", ""), ("", "1900-01-01", "?")] {
        // Without keys a sum may be that of no rows.
        let sums = out.replace("),", &format!("){mark},")).replace("c24: i64", &format!("c24: i64{mark}"));
        let result = format!("{}{sums}{mark}", keys.replace("c0, c1", "c0: text, c1: text, "));
        let text = format!(
            "program {{
  input in0 \"t\": table(\"a\": text, \"b\": text, \"q\": decimal(6,2), \"d\": decimal(6,2), \"n\": i32, \"day\": date)
  column c0 \"a\": text
  column c1 \"b\": text
  column c2 \"q\": decimal(6,2)
  column c3 \"d\": decimal(6,2)
  column c4 \"n\": i32
  column c5 \"day\": date
  column c10 \"less\": decimal(13,4)
  column c11 \"taxed\": decimal(20,6)
  column c12 \"m\": i32
  column c20 \"rows\": i64
  column c21 \"sq\": decimal(38,2)
  column c22 \"sl\": decimal(38,4)
  column c23 \"st\": decimal(38,6)
  column c24 \"sm\": i64
  column c25 \"sd\": decimal(38,2)
  func @main() -> (table({result})) {{
    %0 = scan in0 (0 -> c0, 1 -> c1, 2 -> c2, 3 -> c3, 4 -> c4, 5 -> c5)
    %1 = filter %0 {{
      %2 = col c5
      %3 = literal \"{day}\" : date
      %4 = ge %2, %3
      yield %4
    }}
    %5 = extend %1 (c10, c11, c12) {{
      %6 = col c2
      %7 = literal 1 : decimal(1,0)
      %8 = col c3
      %9 = sub %7, %8
      %10 = mul %6, %9
      %11 = add %7, %8
      %12 = mul %10, %11
      %13 = col c4
      %14 = literal 3 : i32
      %15 = mul %13, %14
      %16 = sub %14, %15
      yield %10, %12, %16
    }}
    %17 = group %5 ({keys}) (c20 = count_all(), c21 = sum(c2), c22 = sum(c10), c23 = sum(c11), c24 = sum(c12), c25 = sum(c3))
    yield %17
  }}
  entry @main
  result {}
}}
",
            result.split(": ").skip(1).map(|_| "\"x\"").collect::<Vec<_>>().join(", ")
        );
        let p = Arc::new(Program::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")));
        let expected = rows_of(p.interpret(&inputs).expect("interprets").table(0).expect("a table"));
        for morsel in [3, 1000, 64 << 10] {
            let (rows, _, module) = run(&p, &inputs, morsel);
            assert_eq!(rows, expected, "{keys} from {day} in morsels of {morsel}");
            assert_eq!(module.matches("call runtime slot_sums_").count(), 5, "{module}");
            // The third product goes on from the second.
            assert_eq!(module.matches("call runtime words_scale_").count(), 3, "{module}");
        }
    }
}

#[test]
fn products_of_one_group_are_summed_in_one_pass() {
    let inputs = Inputs::new().table("t", Arc::new(measures(5000)));
    // Most rows, about 8, 2 and 1 of 100, and none; tiles of few go by rows.
    for n in [100_090, 100_007, 100_001, 100_000, 99_999] {
        let text = format!(
            "program {{
  input in0 \"t\": table(\"a\": text, \"b\": text, \"q\": decimal(6,2), \"d\": decimal(6,2), \"n\": i32, \"day\": date)
  column c2 \"q\": decimal(6,2)
  column c3 \"d\": decimal(6,2)
  column c4 \"n\": i32
  column c10 \"less\": decimal(13,4)
  column c11 \"m\": i64
  column c12 \"square\": decimal(12,4)
  column c20 \"rows\": i64
  column c21 \"sl\": decimal(38,4)
  column c22 \"sm\": i64
  column c23 \"ss\": decimal(38,4)
  func @main() -> (table(c20: i64, c21: decimal(38,4)?, c22: i64?, c23: decimal(38,4)?)) {{
    %0 = scan in0 (2 -> c2, 3 -> c3, 4 -> c4)
    %1 = filter %0 {{
      %2 = col c4
      %3 = literal {n} : i32
      %4 = le %2, %3
      yield %4
    }}
    %5 = extend %1 (c10, c11, c12) {{
      %6 = col c2
      %7 = literal 1 : decimal(1,0)
      %8 = col c3
      %9 = sub %7, %8
      %10 = mul %6, %9
      %13 = col c4
      %14 = cast<i64> %13
      %15 = literal 3 : i64
      %16 = sub %15, %14
      %17 = mul %14, %16
      %18 = mul %6, %6
      yield %10, %17, %18
    }}
    %19 = group %5 () (c20 = count_all(), c21 = sum(c10), c22 = sum(c11), c23 = sum(c12))
    yield %19
  }}
  entry @main
  result \"rows\", \"sl\", \"sm\", \"ss\"
}}
"
        );
        let p = Arc::new(Program::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}")));
        let expected = rows_of(p.interpret(&inputs).expect("interprets").table(0).expect("a table"));
        for morsel in [3, 1000, 64 << 10] {
            let (rows, _, module) = run(&p, &inputs, morsel);
            assert_eq!(rows, expected, "n up to {n} in morsels of {morsel}");
            assert_eq!(module.matches("call runtime product_sums_").count(), 3, "{module}");
            assert_eq!(module.matches("call runtime slot_").count(), 0, "{module}");
        }
    }
}
