//! Queries drawn at random: what compiled code gives, the interpreter gives for the program as it was imported.
//!
//! The draw is typed, so that every query has a meaning; operations that can raise are drawn too, and then both must raise.
//! `SEED=n cargo test --workspace --test differential` runs the one query that a failure names.

use arrow::util::display::{ArrayFormatter, FormatOptions};
use flare::{Engine, Error, Settings};

/// A generator of numbers (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// An integer expression over these tables.
    fn number(&mut self, tables: &[&str], depth: usize) -> String {
        let table = self.one(tables).to_string();
        if depth == 0 {
            return match self.below(4) {
                0 => self.one(&["0", "1", "2", "-3", "7"]).to_string(),
                _ => format!("{table}.{}", self.one(&["a", "b"])),
            };
        }
        let x = self.number(tables, depth - 1);
        let y = self.number(tables, depth - 1);
        match self.below(9) {
            0 => format!("({x} {} {y})", self.one(&["+", "-", "*"])),
            1 => format!("coalesce({x}, {y})"),
            2 => format!("nullif({x}, {y})"),
            3 => format!("case when {} then {x} else {y} end", self.condition(tables, depth - 1)),
            4 => format!("{}({x}, {y})", self.one(&["greatest", "least"])),
            5 => format!("({x} {} {y})", self.one(&["/", "%"])),
            6 => format!("cast(length({}) as integer)", self.text(tables, depth - 1)),
            7 => format!("case when {y} <> 0 then {x} / {y} end"),
            _ => format!("abs({x})"),
        }
    }

    fn text(&mut self, tables: &[&str], depth: usize) -> String {
        let table = self.one(tables).to_string();
        if depth == 0 {
            return if self.below(4) == 0 { "'b'".into() } else { format!("{table}.s") };
        }
        let x = self.text(tables, depth - 1);
        match self.below(5) {
            0 => format!("({x} || '{}')", self.one(&["", "a", "ß"])),
            1 => format!("{}({x})", self.one(&["upper", "lower", "reverse", "trim"])),
            2 => format!("substring({x}, 1, {})", self.below(3)),
            3 => format!("replace({x}, 'a', 'xy')"),
            _ => format!("coalesce({x}, 'none')"),
        }
    }

    fn condition(&mut self, tables: &[&str], depth: usize) -> String {
        let deeper = depth.saturating_sub(1);
        let x = self.number(tables, deeper);
        match self.below(if depth == 0 { 5 } else { 8 }) {
            0 => format!("{x} {} {}", self.one(&["=", "<>", "<", ">="]), self.number(tables, deeper)),
            1 => format!("{x} is {}null", self.one(&["", "not "])),
            2 => format!("{x} {}in (1, 2, {})", self.one(&["", "not "]), self.one(&["3", "null"])),
            3 => format!(
                "{} {}like '{}'",
                self.text(tables, deeper),
                self.one(&["", "not "]),
                self.one(&["a%", "%b%", "_"])
            ),
            4 => format!("{x} between {} and 3", self.number(tables, deeper)),
            5 => format!(
                "({} {} {})",
                self.condition(tables, deeper),
                self.one(&["and", "or"]),
                self.condition(tables, deeper)
            ),
            6 => format!("not ({})", self.condition(tables, deeper)),
            _ => {
                let table = self.one(tables).to_string();
                let inner =
                    format!("select q.a from t as q where q.b {} {table}.b", self.one(&["=", "<", "is distinct from"]));
                match self.below(3) {
                    0 => format!("{}exists ({inner})", self.one(&["", "not "])),
                    1 => format!("{table}.a {}in ({inner})", self.one(&["", "not "])),
                    _ => format!(
                        "{table}.a {} (select {}(z.a) from ({inner}) as z)",
                        self.one(&["=", "<="]),
                        self.one(&["min", "count"])
                    ),
                }
            }
        }
    }

    fn query(&mut self) -> String {
        let joined = self.below(2) == 1;
        let (from, tables): (String, &[&str]) = if joined {
            let kind = self.one(&["join", "left join", "right join", "full join"]);
            let on = self.one(&["x.a = y.a", "x.a = y.b and x.s <> y.s", "x.a = y.a and x.b > 1"]);
            (format!("t as x {kind} u as y on {on}"), &["x", "y"])
        } else {
            ("t as x".into(), &["x"])
        };
        let filter = match self.below(3) {
            0 => String::new(),
            _ => format!(" where {}", self.condition(tables, 2)),
        };
        match self.below(4) {
            0 => {
                let (key, arg) = (self.number(tables, 1), self.number(tables, 1));
                let f = self.one(&["sum", "min", "max", "avg", "count", "count(distinct", "stddev_pop", "median"]);
                let call = if f.contains('(') { format!("{f} {arg})") } else { format!("{f}({arg})") };
                let having = self.one(&["", " having count(*) > 1"]);
                format!("select {key} as k, count(*), {call} from {from}{filter} group by {key}{having}")
            }
            1 => {
                let (n, p) = (self.number(tables, 1), self.number(tables, 0));
                let f = self.one(&["sum", "count", "min", "max"]);
                let frame = self.one(&["", " rows between 1 preceding and 1 following", " groups 1 preceding"]);
                let order = "x.id, x.a, x.b, x.s";
                let rest = if joined { ", y.id" } else { "" };
                format!(
                    "select x.id, {f}({n}) over (partition by {p} order by {order}{rest}{frame}) from {from}{filter}"
                )
            }
            2 => {
                let op = self.one(&["union", "union all", "intersect", "except", "intersect all", "except all"]);
                let (a, b) = (self.number(tables, 1), self.number(&["z"], 1));
                format!("select {a} as v from {from}{filter} {op} select {b} from u as z")
            }
            _ => {
                let (a, s, c) = (self.number(tables, 2), self.text(tables, 2), self.condition(tables, 2));
                format!("select x.id, {a}, {s}, {c} from {from}{filter}")
            }
        }
    }
}

fn engine(settings: Settings) -> Engine {
    let engine = Engine::with_settings(settings);
    for text in [
        "create table t as select * from (values (1, 1, 2, 'a'), (2, 2, null, 'bab'), (3, null, 3, null), (4, 2, 2, 'ß'),
             (5, 0, -1, ''), (6, 5, 1, 'ab'), (7, 1, 2, 'a')) as v(id, a, b, s)",
        "create table u as select * from (values (1, 2, 2, 'b'), (2, 2, 1, 'a'), (3, null, null, 'x'), (4, 7, 3, null)) as v(id, a, b, s)",
    ] {
        engine.sql(text).unwrap();
    }
    engine
}

/// The rows as sorted texts, or the kind of the error.
fn outcome(engine: &Engine, text: &str) -> Result<Vec<String>, String> {
    let batches = engine.sql(text).and_then(|q| q.collect()).map_err(|e| match e {
        Error::Run(_) => "raises".to_string(),
        other => format!("{other:?}"),
    })?;
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = vec![];
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
        for r in 0..batch.num_rows() {
            let cells: Vec<String> = columns.iter().map(|c| c.value(r).to_string()).collect();
            rows.push(cells.join(" | "));
        }
    }
    rows.sort();
    Ok(rows)
}

#[test]
fn compiled_and_interpreted_queries_agree() {
    let reference = engine(Settings { interpret: true, passes: Some(vec![]), threads: 1, ..Settings::default() });
    let compiled = engine(Settings { threads: 2, morsel_rows: Some(2), ..Settings::default() });
    let optimized = engine(Settings { interpret: true, threads: 1, ..Settings::default() });
    let only = std::env::var("SEED").ok().and_then(|s| s.parse::<u64>().ok());
    let seeds = only.map_or(0..250, |seed| seed..seed + 1);
    let (mut failures, mut raised) = (String::new(), 0);
    for seed in seeds.clone() {
        let text = Draw(seed.wrapping_mul(0x1234_5678_9abc_def1)).query();
        let expected = outcome(&reference, &text);
        raised += u64::from(expected == Err("raises".to_string()));
        for (name, other) in [("compiled", &compiled), ("optimized", &optimized)] {
            let found = outcome(other, &text);
            if found != expected {
                failures += &format!("SEED={seed} {name}: {text}\n    expected {expected:?}\n       found {found:?}\n");
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
    // A draw that always raises would test nothing.
    assert!(only.is_some() || raised * 3 < seeds.end, "{raised} of {} queries raise", seeds.end);
}
