//! Attention: recognized, by tiles and by definition it gives what the operations give that it stands for.

use std::fmt::Write as _;
use std::sync::Arc;

use ir::Program;
use ir::exec::run::{CompileOptions, Executable, Resources};
use ir::exec::{Datum, Inputs, Outputs};
use ir::opt::{OptOptions, optimize};
use ir::value::{TensorData, TensorValue};
use runtime::kernels::random::Philox;
use runtime::scheduler::WorkerPool;

/// What changes the scores before the softmax.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Term {
    None,
    /// Key ≤ query + offset; else the score is the number.
    Causal(i64, &'static str),
    /// Key ≠ query + 1, by indices.
    NotNext,
    /// An input of truth values of [batch, key].
    Mask(&'static str),
    /// An input of numbers of [head, query, key].
    Bias,
}

/// Scores, softmax and weighted sum of some sizes, as graph text.
#[derive(Clone, Debug)]
struct Case {
    ty: &'static str,
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    inner: usize,
    columns: usize,
    /// Labels of queries, keys, values and result, of b, h, q, k, d, e.
    labels: [&'static str; 4],
    term: Term,
    /// Whether the scale comes after what hides scores.
    scale_last: bool,
}

impl Case {
    fn new(batch: usize, heads: usize, [queries, keys, inner, columns]: [usize; 4]) -> Self {
        let labels = ["bhqd", "bhkd", "bhke", "bhqe"];
        let (ty, term, scale_last) = ("f32", Term::None, false);
        Case { ty, batch, heads, queries, keys, inner, columns, labels, term, scale_last }
    }

    fn shape(&self, labels: &str) -> Vec<usize> {
        let size = |l: char| match l {
            'b' => self.batch,
            'h' => self.heads,
            'q' => self.queries,
            'k' => self.keys,
            'd' => self.inner,
            _ => self.columns,
        };
        labels.chars().map(size).collect()
    }

    fn text(&self) -> String {
        let ty = self.ty;
        let shape = |labels: &str| format!("{:?}", self.shape(labels));
        let [q, k, v, out] = self.labels;
        let (scores, rows) = (shape("bhqk"), shape("qk"));
        let mut t = String::from("program {\n");
        for (i, (name, labels)) in ["q", "k", "v"].iter().zip([q, k, v]).enumerate() {
            let _ = writeln!(t, "  input in{i} \"{name}\": {ty}{}", shape(labels));
        }
        match self.term {
            Term::Mask(_) => _ = writeln!(t, "  input in3 \"term\": bool{}", shape("bk")),
            Term::Bias => _ = writeln!(t, "  input in3 \"term\": {ty}{}", shape("hqk")),
            Term::None | Term::Causal(..) | Term::NotNext => {}
        }
        let _ = writeln!(t, "  func @main() -> ({ty}{}) {{", shape(out));
        let _ = writeln!(t, "    %0 = input in0\n    %1 = input in1\n    %2 = input in2");
        let _ = writeln!(t, "    %3 = contract<\"{q},{k}->bhqk\"> %0, %1");
        let _ = writeln!(t, "    %4 = iota<0> : i64{rows}\n    %5 = iota<1> : i64{rows}");
        let (first, last) = if self.scale_last { ("1.0", "0.4") } else { ("0.4", "1.0") };
        let map = |t: &mut String, result: &str, x: &str, literal: &str| {
            let _ = writeln!(t, "    {result} = map {x} {scores} |{result}1: {ty}| {{");
            let _ = writeln!(t, "      {result}2 = literal {literal} : {ty}");
            let _ = writeln!(t, "      {result}3 = mul {result}1, {result}2\n      yield {result}3\n    }}");
        };
        map(&mut t, "%10", "%3", first);
        self.write_term(&mut t);
        map(&mut t, "%30", "%20", last);
        let _ = write!(
            t,
            "    %40 = reduce<max> %30 [3]
    %41 = view %40 (broadcast {scores} dims [0, 1, 2])
    %42 = map %30, %41 {scores} |%43: {ty}, %44: {ty}| {{
      %45 = sub %43, %44
      %46 = exp %45
      yield %46
    }}
    %47 = reduce<sum> %42 [3]
    %48 = view %47 (broadcast {scores} dims [0, 1, 2])
    %49 = map %42, %48 {scores} |%50: {ty}, %51: {ty}| {{
      %52 = div %50, %51
      yield %52
    }}
    %53 = contract<\"bhqk,{v}->{out}\"> %49, %2
    yield %53
  }}
  entry @main
  result \"out\"
}}
"
        );
        t
    }

    /// The scores %20 from %10.
    fn write_term(&self, t: &mut String) {
        let (ty, scores) = (self.ty, format!("{:?}", self.shape("bhqk")));
        let rows = format!("{:?}", self.shape("qk"));
        let compare = |t: &mut String, op: &str, offset: i64| {
            let _ = write!(
                t,
                "    %60 = map %5, %4 {rows} |%61: i64, %62: i64| {{
      %63 = literal {offset} : i64
      %64 = add %62, %63
      %65 = {op} %61, %64
      yield %65
    }}
    %66 = view %60 (broadcast {scores} dims [2, 3])
"
            );
        };
        let (operand, fill) = match self.term {
            Term::None => {
                let _ = writeln!(t, "    %20 = map %10 {scores} |%21: {ty}| {{\n      yield %21\n    }}");
                return;
            }
            Term::Causal(offset, fill) => {
                compare(t, "le", offset);
                ("bool", fill)
            }
            Term::NotNext => {
                compare(t, "ne", 1);
                ("bool", "-inf")
            }
            Term::Mask(fill) => {
                let _ = writeln!(t, "    %60 = input in3\n    %66 = view %60 (broadcast {scores} dims [0, 3])");
                ("bool", fill)
            }
            Term::Bias => {
                let _ = writeln!(t, "    %60 = input in3\n    %66 = view %60 (broadcast {scores} dims [1, 2, 3])");
                (ty, "0.0")
            }
        };
        let _ = writeln!(t, "    %20 = map %10, %66 {scores} |%21: {ty}, %22: {operand}| {{");
        let _ = writeln!(t, "      %23 = literal {fill} : {ty}");
        let op = if self.term == Term::Bias { "add %21, %22" } else { "select %22, %21, %23" };
        let _ = writeln!(t, "      %24 = {op}\n      yield %24\n    }}");
    }

    /// The derivative's program, with these of its results.
    fn derivative(&self, results: &[usize]) -> String {
        let ty = self.ty;
        let shape = |labels: &str| format!("{:?}", self.shape(labels));
        let [q, k, v, out] = self.labels;
        let mut t = String::from("program {\n");
        for (i, (name, labels)) in ["q", "k", "v", "d"].iter().zip(self.labels).enumerate() {
            let _ = writeln!(t, "  input in{i} \"{name}\": {ty}{}", shape(labels));
        }
        let (term, labels, fill) = match self.term {
            Term::None => ("", "", "-inf"),
            Term::Mask(fill) => ("bool", "bk", fill),
            Term::Bias => (ty, "hqk", "-inf"),
            Term::Causal(_, fill) => ("", "qk", fill),
            Term::NotNext => panic!("not of the derivative's tests"),
        };
        if !term.is_empty() {
            let _ = writeln!(t, "  input in4 \"term\": {term}{}", shape(labels));
        }
        let wanted: Vec<&str> = results.iter().map(|i| self.labels[*i]).collect();
        let types: Vec<String> = wanted.iter().map(|labels| format!("{ty}{}", shape(labels))).collect();
        let _ = writeln!(t, "  func @main() -> ({}) {{", types.join(", "));
        let _ = writeln!(t, "    %0 = input in0\n    %1 = input in1\n    %2 = input in2\n    %3 = input in3");
        if let Term::Causal(offset, _) = self.term {
            let rows = shape("qk");
            let _ = writeln!(t, "    %5 = iota<0> : i64{rows}\n    %6 = iota<1> : i64{rows}");
            let _ =
                writeln!(t, "    %4 = map %6, %5 {rows} |%61: i64, %62: i64| {{\n      %63 = literal {offset} : i64");
            let _ = writeln!(t, "      %64 = add %62, %63\n      %65 = le %61, %64\n      yield %65\n    }}");
        } else if !term.is_empty() {
            let _ = writeln!(t, "    %4 = input in4");
        }
        let (more, operand) = if labels.is_empty() { (String::new(), "") } else { (format!(",{labels}"), "%4, ") };
        let _ = writeln!(
            t,
            "    %10, %11, %12 = attend_grad<\"{q},{k},{v}{more}->{out}\"> %0, %1, %2, {operand}%3 scale 0.4 fill {fill}"
        );
        let yielded: Vec<String> = results.iter().map(|i| format!("%{}", 10 + i)).collect();
        let _ = writeln!(t, "    yield {}\n  }}\n  entry @main", yielded.join(", "));
        results.iter().for_each(|i| _ = writeln!(t, "  result \"{i}\""));
        t + "}\n"
    }

    /// The derivative interpreted, compiled on one thread and on four: all the same.
    fn check_derivative(&self, results: &[usize]) {
        let text = self.derivative(results);
        let program = Program::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let inputs = self.inputs();
        let want = program.interpret(&inputs).expect("it runs");
        let tolerance = if self.ty == "f32" { 2e-5 } else { 1e-12 };
        let program = Arc::new(program);
        let one = run(&program, &inputs, 1, None).expect("it runs");
        compare(&one, &want, tolerance, &format!("{self:?}, the derivative by tiles"));
        let four = run(&program, &inputs, 4, None).expect("it runs");
        compare(&four, &one, 0.0, &format!("{self:?}, the derivative on four threads"));
    }

    fn inputs(&self) -> Inputs {
        let mut inputs = Inputs::new();
        let mut set = |name: &str, ty: &str, labels: &str, stream: u64| {
            let shape = self.shape(labels);
            let n = shape.iter().product::<usize>() as u64;
            let v = (0..n).map(|i| Philox::new(3, stream).normal_f64(i));
            let data = match ty {
                "f32" => TensorData::F32(v.map(|x| x as f32).collect()),
                "f64" => TensorData::F64(v.collect()),
                // The keys of the first batch are all hidden.
                _ => TensorData::Bool(v.enumerate().map(|(i, x)| x > -0.5 && i >= self.keys).collect()),
            };
            inputs.set(name, Datum::Tensor(Arc::new(TensorValue::new(shape, data).expect("sizes agree"))));
        };
        for ((name, labels), stream) in ["q", "k", "v", "d"].into_iter().zip(self.labels).zip(0..) {
            set(name, self.ty, labels, stream);
        }
        match self.term {
            Term::Mask(_) => set("term", "bool", "bk", 9),
            Term::Bias => set("term", self.ty, "hqk", 9),
            Term::None | Term::Causal(..) | Term::NotNext => {}
        }
        inputs
    }

    /// Interpreted before and after the pass, compiled on one thread and on four: all the same.
    fn check(&self) {
        let before = Program::parse(&self.text()).unwrap_or_else(|e| panic!("{e}\n{}", self.text()));
        let inputs = self.inputs();
        let (after, report) = optimize(before.clone(), &OptOptions::default()).expect("it optimizes");
        let after = Arc::new(after);
        assert_eq!(report.rewrites("attention"), 1, "{self:?}\n{}", after.print());
        let want = before.interpret(&inputs).expect("it runs");
        let single = self.ty == "f32";
        let tolerance = if single { 1e-5 } else { 1e-13 };
        let defined = after.interpret(&inputs).expect("it runs");
        compare(&defined, &want, tolerance, &format!("{self:?}, by definition"));
        let one = run(&after, &inputs, 1, None).expect("it runs");
        compare(&one, &want, tolerance, &format!("{self:?}, by tiles"));
        let four = run(&after, &inputs, 4, None).expect("it runs");
        compare(&four, &one, 0.0, &format!("{self:?}, on four threads"));
    }
}

fn run(program: &Arc<Program>, inputs: &Inputs, threads: usize, limit: Option<usize>) -> Result<Outputs, ir::Error> {
    let exe = Executable::compile(Arc::clone(program), inputs, &CompileOptions::default())?;
    exe.run(inputs, &Resources::new(Arc::new(WorkerPool::new(threads)), limit))
}

fn compare(a: &Outputs, b: &Outputs, tolerance: f64, what: &str) {
    let tensor = |o: &Outputs, i: usize| match &o.tensor(i).expect("a tensor").data {
        TensorData::F32(v) => v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(),
        TensorData::F64(v) => v.clone(),
        other => panic!("{other:?}"),
    };
    let numbers = |o: &Outputs| (0..o.list.len()).flat_map(|i| tensor(o, i)).collect::<Vec<_>>();
    let (a, b) = (numbers(a), numbers(b));
    assert_eq!(a.len(), b.len(), "{what}");
    for (i, (x, y)) in a.iter().zip(&b).enumerate() {
        let same = x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= tolerance * (1.0 + y.abs());
        assert!(same, "{what}: element {i} is {x}, not {y}");
    }
}

#[test]
fn any_sizes() {
    for sizes in [[1, 1, 1, 1], [1, 40, 8, 8], [9, 5, 3, 2], [33, 17, 4, 5], [130, 70, 2, 3], [5, 300, 2, 1]] {
        for ty in ["f32", "f64"] {
            Case { ty, ..Case::new(2, 3, sizes) }.check();
        }
    }
    Case::new(0, 3, [2, 3, 4, 5]).check();
    // Enough work for several threads.
    Case::new(2, 4, [128, 128, 40, 40]).check();
}

#[test]
fn any_order_of_dimensions() {
    for labels in [["bqhd", "bkhd", "bkhe", "bqhe"], ["hdbq", "khbd", "ekbh", "heqb"], ["qbdh", "dbhk", "bhek", "ebqh"]]
    {
        for term in [Term::None, Term::Causal(0, "-inf"), Term::Mask("-inf"), Term::Bias] {
            Case { labels, term, ..Case::new(2, 3, [7, 11, 4, 5]) }.check();
        }
    }
    // One head of keys and values for all queries.
    for term in [Term::None, Term::Causal(1, "-inf"), Term::Bias] {
        Case { labels: ["bqhd", "bkd", "bke", "bqhe"], term, ..Case::new(2, 3, [7, 11, 4, 5]) }.check();
    }
}

#[test]
fn masks_and_biases() {
    for (queries, keys) in [(6, 6), (40, 300), (110, 90), (3, 5)] {
        let case = Case::new(2, 2, [queries, keys, 3, 4]);
        for offset in [0, 3, -2, keys as i64 - queries as i64] {
            // With a negative offset the first queries see nothing.
            Case { term: Term::Causal(offset, "-inf"), ..case.clone() }.check();
            Case { term: Term::Causal(offset, "-2.5"), ..case.clone() }.check();
        }
        for term in [Term::NotNext, Term::Mask("-inf"), Term::Mask("-1e9"), Term::Bias] {
            for ty in ["f32", "f64"] {
                Case { term, ty, ..case.clone() }.check();
            }
        }
        // What comes after the mask scales the number for what is hidden too.
        Case { term: Term::Mask("-2.0"), scale_last: true, ..case.clone() }.check();
        Case { term: Term::Causal(0, "-inf"), scale_last: true, ..case }.check();
    }
}

#[test]
fn derivatives_of_any_sizes_orders_and_terms() {
    for sizes in [[1, 1, 1, 1], [1, 40, 8, 8], [9, 5, 3, 2], [130, 70, 2, 3], [5, 600, 2, 1]] {
        for ty in ["f32", "f64"] {
            Case { ty, ..Case::new(2, 3, sizes) }.check_derivative(&[0, 1, 2]);
        }
    }
    for labels in [["bqhd", "bkhd", "bkhe", "bqhe"], ["hdbq", "khbd", "ekbh", "heqb"]] {
        for term in [Term::None, Term::Causal(0, "-inf"), Term::Causal(-2, "-2.5"), Term::Mask("-1e9"), Term::Bias] {
            Case { labels, term, ty: "f64", ..Case::new(2, 3, [7, 11, 4, 5]) }.check_derivative(&[0, 1, 2]);
        }
    }
    // With a mask that hides all keys of a batch, and some of the results only.
    let case = Case { term: Term::Mask("-inf"), ty: "f64", ..Case::new(2, 2, [6, 6, 3, 4]) };
    for results in [&[0, 1, 2][..], &[0], &[1], &[2], &[0, 2]] {
        case.check_derivative(results);
    }
    // Enough work for several threads.
    Case::new(2, 4, [128, 128, 40, 40]).check_derivative(&[0, 1, 2]);
}

#[test]
fn a_bias_that_is_scaled_is_not_taken_apart() {
    let case = Case { term: Term::Bias, scale_last: true, ..Case::new(1, 1, [4, 4, 2, 2]) };
    let program = Program::parse(&case.text()).expect("a program");
    let (_, report) = optimize(program, &OptOptions::default()).expect("it optimizes");
    assert_eq!(report.rewrites("attention"), 0);
}

#[test]
fn exactness_and_switch_are_respected() {
    let program = || Program::parse(&Case::new(1, 2, [4, 4, 2, 2]).text()).expect("a program");
    for options in [
        OptOptions { strict: true, ..OptOptions::default() },
        OptOptions { off: vec!["attention".into()], ..OptOptions::default() },
        OptOptions { fuel: Some(0), ..OptOptions::default() },
    ] {
        let (after, report) = optimize(program(), &options).expect("it optimizes");
        assert_eq!((report.rewrites("attention"), after.print().contains("attend<")), (0, false));
    }
}

#[test]
fn scores_are_not_in_memory() {
    // 16 heads of 512 × 512 scores would be 16 MB, their mask another 256 KB; the operands are 128 KB.
    let limit = Some(200 << 10);
    for term in [Term::None, Term::Causal(0, "-inf")] {
        let case = Case { term, ..Case::new(4, 4, [512, 512, 1, 1]) };
        let program = Program::parse(&case.text()).expect("a program");
        let inputs = case.inputs();
        let (after, _) = optimize(program.clone(), &OptOptions::default()).expect("it optimizes");
        run(&Arc::new(after), &inputs, 2, limit).expect("it fits");
        let off = OptOptions { off: vec!["attention".into()], ..OptOptions::default() };
        let (without, _) = optimize(program, &off).expect("it optimizes");
        let error = run(&Arc::new(without), &inputs, 2, limit).expect_err("the scores do not fit");
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
