//! Joins of every kind, compiled against the graph interpreter: keys of every type, alone and together, as an index, as a word, and
//! compared; duplicates, NULLs, skew, empty sides; whatever the number of threads and the rows of a morsel.

use std::fmt::Write as _;
use std::sync::Arc;

use ir::exec::run::{CompileOptions, Executable, Resources};
use ir::exec::{Inputs, column_value, table_of_values};
use ir::graph::Program;
use ir::types::ScalarType;
use ir::value::Value;
use runtime::column::Table;
use runtime::scheduler::WorkerPool;

const KINDS: [&str; 8] = ["inner", "left", "right", "full", "semi", "anti", "mark c6", "single"];

/// Numbers of keys, `None` for NULL.
type Keys = Vec<Option<i64>>;

fn value(ty: ScalarType, key: Option<i64>) -> Value {
    let Some(x) = key else { return Value::Null };
    match ty {
        ScalarType::Bool => Value::Bool(x % 2 != 0),
        ScalarType::I32 => Value::I32(x as i32),
        ScalarType::Date => Value::Date(x as i32),
        ScalarType::I64 => Value::I64(x),
        ScalarType::Timestamp => Value::Timestamp(x),
        ScalarType::F32 => Value::F32(x as f32),
        ScalarType::F64 => Value::F64(x as f64),
        ScalarType::Decimal { .. } => Value::Decimal(x.into()),
        ScalarType::Text => Value::Text(format!("{}{x}", ["", "a longer text for the key "][x as usize % 2]).into()),
    }
}

/// A table with a column for each type of key, and the rows' numbers.
fn table(types: &[ScalarType], keys: &Keys) -> Table {
    let columns: Vec<Vec<Value>> = (0i64..)
        .zip(types)
        // Other columns repeat less than the first.
        .map(|(i, ty)| keys.iter().map(|k| value(*ty, k.map(|k| if i == 0 { k } else { k / (i + 1) }))).collect())
        .collect();
    let numbers: Vec<Value> = (0..keys.len() as i64).map(Value::I64).collect();
    let names = ["a", "b"];
    let mut list: Vec<(&str, ScalarType, &[Value])> =
        types.iter().zip(&columns).zip(names).map(|((ty, c), name)| (name, *ty, &c[..])).collect();
    list.push(("n", ScalarType::I64, &numbers));
    table_of_values(&list, keys.len()).expect("a table")
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Shape<'a> {
    kind: &'a str,
    types: &'a [ScalarType],
    nullable: bool,
    null_equal: bool,
    residual: bool,
}

/// `in0` joined with `in1`.
fn program(shape: Shape<'_>) -> String {
    let Shape { kind, types, nullable, null_equal, residual } = shape;
    let mark = |nullable: bool| if nullable { "?" } else { "" };
    let columns = |first: usize, number: usize, outer: bool| -> String {
        let mut list: Vec<String> =
            (first..).zip(types).map(|(c, ty)| format!("c{c}: {ty}{}", mark(nullable || outer))).collect();
        list.push(format!("c{number}: i64{}", mark(outer)));
        list.join(", ")
    };
    let names = ["a", "b"];
    let input: Vec<String> =
        types.iter().zip(names).map(|(ty, name)| format!("\"{name}\": {ty}{}", mark(nullable))).collect();
    let input = input.join(", ");
    let mut head = format!(
        "program {{\n  input in0 \"l\": table({input}, \"n\": i64)\n  input in1 \"r\": table({input}, \"n\": i64)\n"
    );
    for side in 0..2 {
        for (i, ty) in types.iter().enumerate() {
            let _ = writeln!(head, "  column c{} \"k\": {ty}", side * 3 + i);
        }
        let _ = writeln!(head, "  column c{} \"n\": i64", side * 3 + 2);
    }
    head += "  column c6 \"m\": bool\n";
    let scan = |first: usize, number: usize| -> String {
        let mut list: Vec<String> = (0..types.len()).map(|i| format!("{i} -> c{}", first + i)).collect();
        list.push(format!("{} -> c{number}", types.len()));
        list.join(", ")
    };
    let unknown = nullable && !null_equal;
    let out = match kind {
        "inner" => format!("{}, {}", columns(0, 2, false), columns(3, 5, false)),
        "left" | "single" => format!("{}, {}", columns(0, 2, false), columns(3, 5, true)),
        "right" => format!("{}, {}", columns(0, 2, true), columns(3, 5, false)),
        "full" => format!("{}, {}", columns(0, 2, true), columns(3, 5, true)),
        "semi" | "anti" => columns(0, 2, false),
        _ => format!("{}, c6: bool{}", columns(0, 2, false), mark(unknown)),
    };
    let (left, right) = (columns(0, 2, false), columns(3, 5, false));
    let mut body = format!(
        "  func @main() -> (table({out})) {{\n    %0 = scan in0 ({}) : table({left})\n    %1 = scan in1 ({}) : \
         table({right})\n    %2 = join<{kind}> %0, %1 {{\n",
        scan(0, 2),
        scan(3, 5)
    );
    let mut next = 3;
    let mut all: Option<(usize, bool)> = None;
    let mut add = |body: &mut String, lines: &[String], unknown: bool| {
        for line in lines {
            let _ = writeln!(body, "      %{next} = {line}");
            next += 1;
        }
        all = Some(match all {
            None => (next - 1, unknown),
            Some((before, was)) => {
                let _ = writeln!(body, "      %{next} = and %{before}, %{} : bool{}", next - 1, mark(was || unknown));
                next += 1;
                (next - 1, was || unknown)
            }
        });
        next
    };
    let mut at = 3;
    for (i, ty) in types.iter().enumerate() {
        let (l, r) = (format!("col c{i} : {ty}{}", mark(nullable)), format!("col c{} : {ty}{}", i + 3, mark(nullable)));
        let op = if null_equal { "is_not_distinct" } else { "eq" };
        let equal = format!("{op} %{at}, %{} : bool{}", at + 1, mark(unknown));
        at = add(&mut body, &[l, r, equal], unknown);
    }
    if residual {
        let (l, r) = ("col c2 : i64".to_string(), "col c5 : i64".to_string());
        add(&mut body, &[l, r, format!("lt %{at}, %{} : bool", at + 1)], false);
    }
    let (last, _) = all.expect("a key");
    let _ = writeln!(body, "      yield %{last}\n    }} : table({out})\n    yield %2\n  }}\n  entry @main");
    let count = out.matches(':').count();
    let names: Vec<String> = (0..count).map(|i| format!("\"x{i}\"")).collect();
    head + &body + &format!("  result {}\n}}", names.join(", "))
}

fn rows(table: &Table) -> Vec<String> {
    (0..table.rows())
        .map(|r| table.columns().iter().map(|c| format!("{:?} ", column_value(&c.1, r))).collect())
        .collect()
}

fn run(program: &Arc<Program>, inputs: &Inputs, threads: usize, morsel: usize) -> Result<Vec<String>, String> {
    let exe =
        Executable::compile(Arc::clone(program), inputs, &CompileOptions::default()).map_err(|e| e.to_string())?;
    let mut resources = Resources::new(Arc::new(WorkerPool::new(threads)), None);
    resources.morsel_rows = morsel;
    let outputs = exe.run(inputs, &resources).map_err(|e| e.to_string())?;
    Ok(rows(outputs.table(0).expect("a table")))
}

fn check(shape: Shape<'_>, left: &Keys, right: &Keys) {
    let text = program(shape);
    let program = Arc::new(ir::text::parse(&text).unwrap_or_else(|e| panic!("{shape:?}: {e}\n{text}")));
    program.verify().unwrap_or_else(|e| panic!("{shape:?}: {e}\n{text}"));
    let inputs =
        Inputs::new().table("l", Arc::new(table(shape.types, left))).table("r", Arc::new(table(shape.types, right)));
    let expected = program.interpret(&inputs).map(|o| rows(o.table(0).expect("a table")));
    let sorted = |mut rows: Vec<String>| {
        rows.sort();
        rows
    };
    for morsel in [3, 1 << 16] {
        let one = run(&program, &inputs, 1, morsel);
        let three = run(&program, &inputs, 3, morsel);
        assert_eq!(one, three, "{shape:?} by one thread and by three");
        match (&expected, one) {
            (Ok(expected), Ok(found)) => assert_eq!(sorted(found), sorted(expected.clone()), "{shape:?}\n{text}"),
            (Err(_), Err(_)) => {}
            (expected, found) => panic!("{shape:?}: expected {expected:?}, found {found:?}"),
        }
    }
}

/// Keys by a rule.
fn keys(rows: i64, rule: impl Fn(i64) -> Option<i64>) -> Keys {
    (0..rows).map(rule).collect()
}

/// Pairs of sides, with whether there are NULLs.
fn sides() -> Vec<(Keys, Keys, bool)> {
    let some = |rows: i64, rule: fn(i64) -> i64| keys(rows, |i| Some(rule(i)));
    vec![
        // Unique on the right, found by half.
        (some(40, |i| i % 25), some(12, |i| 11 - i), false),
        // Duplicates on both sides.
        (some(30, |i| i % 7 - 3), some(20, |i| i % 5 - 2), false),
        // Skew.
        (some(20, |i| if i % 10 == 0 { i } else { 4 }), some(40, |i| if i % 20 == 0 { i } else { 4 }), false),
        // Few keys far apart, so that no index is made of them.
        (some(20, |i| i % 9 * 100_000_003), some(15, |i| i % 6 * 100_000_003), false),
        // NULLs.
        (keys(25, |i| (i % 4 != 0).then_some(i % 6)), keys(14, |i| (i % 5 != 0).then_some(i % 7)), true),
        (keys(6, |_| None), keys(5, |i| (i == 3).then_some(1)), true),
        // Empty sides.
        (some(8, |i| i), vec![], false),
        (vec![], some(8, |i| i), false),
        (vec![], vec![], false),
    ]
}

fn every_shape(types: &[ScalarType]) {
    for (left, right, has_nulls) in sides() {
        // What does not fit 32 bits is left to wider keys.
        let wide = left.iter().chain(&right).flatten().any(|k| i32::try_from(*k).is_err());
        if wide && types.iter().any(|t| matches!(t, ScalarType::I32 | ScalarType::Date)) {
            continue;
        }
        for kind in KINDS {
            for (residual, null_equal) in [(false, false), (true, false), (false, true)] {
                for nullable in [has_nulls, true] {
                    check(Shape { kind, types, nullable, null_equal, residual }, &left, &right);
                }
            }
        }
    }
}

#[test]
fn integers() {
    every_shape(&[ScalarType::I32]);
    every_shape(&[ScalarType::I64]);
}

#[test]
fn other_keys() {
    every_shape(&[ScalarType::Text]);
    every_shape(&[ScalarType::Decimal { precision: 12, scale: 2 }]);
}

#[test]
fn two_keys() {
    every_shape(&[ScalarType::I64, ScalarType::I32]);
    every_shape(&[ScalarType::I64, ScalarType::Text]);
}

#[test]
fn keys_of_all_types_join() {
    let decimal = |precision| ScalarType::Decimal { precision, scale: 0 };
    use ScalarType::{Bool, Date, F32, F64, Timestamp};
    for ty in [Bool, Date, Timestamp, F32, F64, decimal(18), decimal(30)] {
        for kind in ["inner", "left", "semi", "anti"] {
            let shape = Shape { kind, types: &[ty], nullable: true, null_equal: false, residual: false };
            check(shape, &keys(40, |i| (i % 6 != 1).then_some(i % 9)), &keys(20, |i| (i % 7 != 1).then_some(i % 4)));
        }
    }
}

/// How a plan finds partners is seen in its text.
fn plan(types: &[ScalarType], kind: &str, left: &Keys, right: &Keys) -> String {
    let shape = Shape { kind, types, nullable: false, null_equal: false, residual: false };
    let program = Arc::new(ir::text::parse(&program(shape)).expect("parses"));
    let inputs = Inputs::new().table("l", Arc::new(table(types, left))).table("r", Arc::new(table(types, right)));
    Executable::compile(program, &inputs, &CompileOptions::default()).expect("compiles").plan().to_string()
}

#[test]
fn bounds_choose_between_index_word_and_comparison() {
    let near = keys(50, |i| Some(i * 3 + 100));
    let far = keys(50, |i| Some(i * 100_000_003));
    let one = [ScalarType::I64];
    assert!(plan(&one, "inner", &near, &near).contains("1 keys as an index over 148 words"));
    assert!(plan(&one, "inner", &near, &far).contains("1 keys as a word"));
    assert!(plan(&one, "anti", &far, &near).contains("set of 1 keys over 148 words"));
    assert!(plan(&one, "right", &near, &far).contains("1 keys as an index over 148 words"));
    let text = [ScalarType::Text];
    assert!(plan(&text, "inner", &near, &near).contains("join table, 1 keys,"));
    // Few texts are codes, here of two dictionaries.
    let (few, fewer) = (keys(50, |i| Some(i % 7)), keys(40, |i| Some(i % 5 + 3)));
    assert!(plan(&text, "left", &few, &fewer).contains("1 keys as an index over 5 words"));
    assert!(plan(&text, "semi", &few, &fewer).contains("set of 1 keys over 5 words"));
    let both = [ScalarType::I64, ScalarType::Text];
    // The second column halves the numbers: 2 to 3, of which the index has 2.
    assert!(plan(&both, "inner", &few, &fewer).contains("2 keys as an index over 15 words"));
    let (two, far) = ([ScalarType::I64, ScalarType::I64], keys(50, |i| Some(i * 1_000_003)));
    assert!(plan(&two, "inner", &near, &near).contains("2 keys as an index over 10952 words"));
    assert!(plan(&two, "inner", &near, &far).contains("2 keys as a word"));
}
