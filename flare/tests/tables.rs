//! Tables from files and batches: types, NULLs, and what is said of input that cannot be read.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date64Array, Decimal128Array, DictionaryArray, Float32Array, Int8Array, Int64Array,
    ListArray, StringArray, StringViewArray, TimestampNanosecondArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::Int32Type;
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use expect_test::{Expect, expect};
use flare::{Engine, Error};
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

fn write(folder: &TempDir, name: &str, batch: &RecordBatch) -> PathBuf {
    let path = folder.path().join(name);
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    path
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, a)| (name, a, true))).unwrap()
}

#[track_caller]
fn check(engine: &Engine, text: &str, expected: Expect) {
    let batches = engine.sql(text).and_then(|q| q.collect()).unwrap_or_else(|e| panic!("{e}"));
    expected.assert_eq(&(pretty_format_batches(&batches).unwrap().to_string() + "\n"));
}

fn all_types() -> RecordBatch {
    batch(vec![
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ("i8", Arc::new(Int8Array::from(vec![-1, 1]))),
        ("u32", Arc::new(UInt32Array::from(vec![u32::MAX, 0]))),
        ("u64", Arc::new(UInt64Array::from(vec![Some(7), None]))),
        ("f32", Arc::new(Float32Array::from(vec![0.5, f32::NAN]))),
        ("dec", Arc::new(Decimal128Array::from(vec![Some(-1234), None]).with_precision_and_scale(7, 2).unwrap())),
        ("date", Arc::new(Date64Array::from(vec![86_400_000, -1]))),
        ("at", Arc::new(TimestampNanosecondArray::from(vec![1_500, -1]).with_timezone("+02:00"))),
        ("view", Arc::new(StringViewArray::from(vec![Some("a text longer than twelve bytes"), None]))),
        ("dict", Arc::new(vec![Some("x"), Some("y")].into_iter().collect::<DictionaryArray<Int32Type>>())),
    ])
}

#[test]
fn types_of_files_and_batches() {
    let folder = TempDir::new().unwrap();
    let engine = Engine::new();
    engine.register_arrow("a", &[all_types()]).unwrap();
    engine.register_parquet("p", write(&folder, "p.parquet", &all_types())).unwrap();
    let expected = expect![[r#"
        +------+----+------------+-----+-----+--------+------------+----------------------------+---------------------------------+------+
        | bool | i8 | u32        | u64 | f32 | dec    | date       | at                         | view                            | dict |
        +------+----+------------+-----+-----+--------+------------+----------------------------+---------------------------------+------+
        | true | -1 | 4294967295 | 7   | 0.5 | -12.34 | 1970-01-02 | 1970-01-01T00:00:00.000001 | a text longer than twelve bytes | x    |
        |      | 1  | 0          |     | NaN |        | 1969-12-31 | 1969-12-31T23:59:59.999999 |                                 | y    |
        +------+----+------------+-----+-----+--------+------------+----------------------------+---------------------------------+------+
    "#]];
    check(&engine, "select * from a", expected);
    let a = engine.sql("select * from a").unwrap().collect().unwrap();
    let p = engine.sql("select * from p").unwrap().collect().unwrap();
    assert_eq!(pretty_format_batches(&a).unwrap().to_string(), pretty_format_batches(&p).unwrap().to_string());
    check(
        &engine,
        "describe p",
        expect![[r#"
        +-------------+--------------+------+
        | column_name | column_type  | null |
        +-------------+--------------+------+
        | bool        | BOOLEAN      | YES  |
        | i8          | INTEGER      | NO   |
        | u32         | BIGINT       | NO   |
        | u64         | BIGINT       | YES  |
        | f32         | REAL         | NO   |
        | dec         | DECIMAL(7,2) | YES  |
        | date        | DATE         | NO   |
        | at          | TIMESTAMP    | NO   |
        | view        | VARCHAR      | YES  |
        | dict        | VARCHAR      | NO   |
        +-------------+--------------+------+
    "#]],
    );
}

#[test]
fn files_are_read_where_they_are_named() {
    let folder = TempDir::new().unwrap();
    let engine = Engine::new();
    let parquet = write(&folder, "x.parquet", &batch(vec![("n", Arc::new(Int64Array::from(vec![1, 2, 3])))]));
    let csv = folder.path().join("x.csv");
    std::fs::write(&csv, "n,name\n2,two\n3,three\n").unwrap();
    let (parquet, csv) = (parquet.display(), csv.display());
    check(
        &engine,
        &format!("select p.n, name from '{parquet}' p join read_csv('{csv}') c on p.n = c.n order by p.n"),
        expect![[r#"
            +---+-------+
            | n | name  |
            +---+-------+
            | 2 | two   |
            | 3 | three |
            +---+-------+
        "#]],
    );
    check(
        &engine,
        &format!("select count(*) as n from read_parquet('{parquet}')"),
        expect![[r#"
        +---+
        | n |
        +---+
        | 3 |
        +---+
    "#]],
    );
}

#[test]
fn what_cannot_be_read_is_named_and_nothing_is_lost() {
    let folder = TempDir::new().unwrap();
    let engine = Engine::new();
    engine.register_arrow("t", &[batch(vec![("n", Arc::new(Int64Array::from(vec![1])))])]).unwrap();
    let version = engine.catalog().version();
    let say = |result: flare::Result<()>| {
        let e = result.unwrap_err().to_string();
        e.replace(&format!("{}/", folder.path().display()), "")
    };

    let path = folder.path().join("no.parquet");
    expect!["no.parquet: No such file or directory (os error 2)"].assert_eq(&say(engine.register_parquet("x", &path)));
    std::fs::write(&path, b"this is no parquet file").unwrap();
    expect!["no.parquet: Invalid Parquet file. Corrupt footer"].assert_eq(&say(engine.register_parquet("x", &path)));
    let whole = std::fs::read(write(&folder, "whole.parquet", &all_types())).unwrap();
    for cut in [4, whole.len() / 2, whole.len() - 9] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(matches!(engine.register_parquet("x", &path), Err(Error::Input(_))));
    }

    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1)])]));
    let path = write(
        &folder,
        "list.parquet",
        &batch(vec![("n", Arc::new(Int64Array::from(vec![1]))), ("list", list.clone())]),
    );
    expect!["list.parquet, column list: the type List(Int32) is not supported"]
        .assert_eq(&say(engine.register_parquet("x", path)));
    expect!["x, column list: the type List(Int32) is not supported"]
        .assert_eq(&say(engine.register_arrow("x", &[batch(vec![("list", list)])])));
    let large = batch(vec![("u", Arc::new(UInt64Array::from(vec![u64::MAX])))]);
    expect!["x, column u: the value 18446744073709551615 is out of range"]
        .assert_eq(&say(engine.register_arrow("x", &[large])));
    expect!["x: there is no record batch"].assert_eq(&say(engine.register_arrow("x", &[])));
    expect![[r#"there is a table or a view "t" already"#]].assert_eq(&say(engine.register_arrow("t", &[all_types()])));

    assert_eq!(engine.catalog().version(), version);
    assert!(engine.sql("select n from t").unwrap().collect().is_ok());
}

#[test]
fn damaged_pages_and_changed_files_fail_the_query_only() {
    let folder = TempDir::new().unwrap();
    let engine = Engine::new();
    let texts: Vec<String> = (0..2000).map(|i| format!("text {i}")).collect();
    let good = batch(vec![
        ("n", Arc::new(Int64Array::from_iter_values(0..2000))),
        ("text", Arc::new(StringArray::from_iter_values(&texts))),
    ]);
    let path = write(&folder, "damaged.parquet", &good);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4..400].fill(0xff);
    std::fs::write(&path, &bytes).unwrap();
    engine.register_parquet("damaged", &path).unwrap();
    assert!(matches!(engine.sql("select n, text from damaged"), Err(Error::Input(_))));

    let path = write(&folder, "changed.parquet", &good);
    engine.register_parquet("changed", &path).unwrap();
    engine.sql("select n from changed").unwrap();
    write(&folder, "changed.parquet", &all_types());
    engine.sql("select n from changed").unwrap();
    let error = engine.sql("select text from changed").unwrap_err().to_string();
    assert!(error.ends_with("the file has changed since it was registered; register it again"), "{error}");
}

#[test]
fn only_columns_that_are_read_are_loaded() {
    let folder = TempDir::new().unwrap();
    let engine = Engine::new();
    engine.register_parquet("p", write(&folder, "p.parquet", &all_types())).unwrap();
    engine.sql("with q as (select *, i8 + 1 as next from p) select next from q where dec is null").unwrap();
    let catalog = engine.catalog();
    let Some(flare::catalog::Relation::Table(table)) = catalog.get("p") else { panic!() };
    let loaded: Vec<&str> = table
        .columns()
        .iter()
        .enumerate()
        .filter(|(i, _)| table.loaded(*i).is_some())
        .map(|(_, c)| c.name.as_str())
        .collect();
    assert_eq!(loaded, ["i8", "dec"]);
}

#[test]
fn engines_and_queries_go_to_other_threads() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Engine>();
    is_send_and_sync::<flare::Query>();
    let engine = Engine::new();
    engine.register_arrow("t", &[batch(vec![("n", Arc::new(Int64Array::from_iter_values(0..1000)))])]).unwrap();
    std::thread::scope(|scope| {
        for i in 0..4 {
            let engine = engine.clone();
            scope.spawn(move || {
                engine.sql(&format!("create table t{i} as select n from t where n % 4 = {i}")).unwrap();
            });
        }
    });
    check(
        &engine,
        "select count(*) as n from t0, (select 1) a",
        expect![[r#"
        +-----+
        | n   |
        +-----+
        | 250 |
        +-----+
    "#]],
    );
    assert_eq!(engine.catalog().relations().count(), 5);
}

#[test]
fn options_of_csv_files_go_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.txt");
    std::fs::write(&path, "1;'a;b';NA\n2;;5\n").unwrap();
    let path = path.display();
    let engine = Engine::new();
    let count = |options: &str, condition: &str| {
        let text = format!("select count(*) from read_csv('{path}', {options}) where {condition}");
        let batches = engine.sql(&text).and_then(|q| q.collect()).unwrap_or_else(|e| panic!("{text}: {e}"));
        batches[0].column(0).as_any().downcast_ref::<arrow::array::Int64Array>().unwrap().value(0)
    };
    let all = "delim = ';', header = false, nullstr = 'NA', quote = ''''";
    assert_eq!(count(all, "column1 = 'a;b' and column2 is null"), 1);
    assert_eq!(count(all, "column1 = '' and column2 = 5"), 1);
    assert_eq!(count("sep => ';', header => true, quote => ''''", "\"1\" = 2"), 1);
    assert_eq!(count("delim = ',', quote = '', header = false", "column0 like '%;%'"), 2);
    for (options, message) in [
        ("delm = ';'", "read_csv has no option delm"),
        ("delim = ';;'", "the option delim of read_csv takes one character of ASCII"),
        ("header = 'x'", "the option header of read_csv takes true or false"),
        ("nullstr = true", "the option nullstr of read_csv takes a text"),
        ("';'", "takes a path in quotes, then options"),
    ] {
        let error = engine.sql(&format!("select * from read_csv('{path}', {options})")).and_then(|q| q.collect());
        let error = error.err().unwrap_or_else(|| panic!("{options}"));
        assert!(error.to_string().contains(message), "{options}: {error}");
    }
}
