//! The optimizer: one ordered list of passes, and the driver that runs them.
//!
//! What holds:
//! - A pass takes a program and gives a program with the same results: the same bits, or equal in real arithmetic where its
//!   row says so ([`Exactness::Real`]; such passes are off under [`OptOptions::strict`]). A program that raised may come to
//!   raise nothing (what is not used is not computed); the reverse never happens.
//! - A pass asks `Context::spend` before each rewrite and does without it when told so: `IR_FUEL=n` finds by halving the
//!   rewrite that breaks a program.
//! - After each pass the verifier runs in debug builds and wherever [`OptOptions::verify`] asks for it.
//!
//! To add a pass: its file, and one row in [`PASSES`].

mod aggregate;
mod algebra;
pub mod attention;
mod batch_parts;
mod clean;
mod cross_inline;
mod cross_late;
mod cross_logit;
mod cross_onehot;
mod cross_scale;
mod cross_unused;
mod elementwise;
mod features;
mod fold;
mod guard;
mod join_order;
pub mod levels;
mod live;
mod monotone;
mod pushdown;
mod reduce;
mod rows;
mod share;
mod share_groups;
mod statistics;
mod unnest;

use std::time::{Duration, Instant};

use crate::entity::PlaceId;
use crate::error::{Error, Result};
use crate::graph::Program;
use crate::graph::verify::{Stage, verify_at};
use crate::plan::border::RULES;

pub use statistics::Statistics;

/// How exact a pass is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exactness {
    /// The results keep every bit.
    Bit,
    /// The results are equal in real arithmetic; rounding may differ.
    Real,
}

/// One row of the list of passes.
pub struct Pass {
    /// Its name: what switches, reports and tests call it. That of a rule across the border between a query and a model begins
    /// with `cross_`.
    pub name: &'static str,
    /// What it does, in a line.
    pub doc: &'static str,
    /// How exact it is.
    pub exactness: Exactness,
    /// What holds after it, and after every pass behind it.
    pub stage: Stage,
    run: fn(&Program, &mut Context<'_>) -> Result<Program>,
}

/// The passes, in the order in which they run. A name may stand more than once.
pub static PASSES: &[Pass] = &[
    LEVELS,
    FOLD,
    GUARD,
    SHARE,
    UNNEST,
    PUSHDOWN,
    CROSS_LATE,
    CROSS_UNUSED,
    CROSS_SCALE,
    JOIN_ORDER,
    AGGREGATE,
    CROSS_INLINE,
    CROSS_LOGIT,
    ALGEBRA,
    REORDER,
    ATTENTION,
    BATCH_PARTS,
    ELEMENTWISE,
    CROSS_ONEHOT,
    FOLD,
    SHARE,
    SHARE_GROUPS,
    CLEAN,
    REDUCE,
];

const LEVELS: Pass = Pass {
    name: "levels",
    doc: "computes recursions over child indices for several nodes of one height at once",
    exactness: Exactness::Real,
    stage: Stage::Built,
    run: levels::run,
};

const UNNEST: Pass = Pass {
    name: "unnest",
    doc: "makes dependent joins plain joins, so that no subquery runs once a row",
    exactness: Exactness::Bit,
    stage: Stage::Unnested,
    run: unnest::run,
};

const PUSHDOWN: Pass = Pass {
    name: "pushdown",
    doc: "moves filters and limits down to where rows come from, and makes joins sharper by what is filtered above them",
    exactness: Exactness::Bit,
    stage: Stage::Built,
    run: pushdown::run,
};

const CROSS_LATE: Pass = Pass {
    name: "cross_late",
    doc: "M7: runs models after the conditions, limits and top-k sorts that do not read their answers",
    exactness: Exactness::Bit,
    stage: Stage::Built,
    run: cross_late::run,
};

const CROSS_LOGIT: Pass = Pass {
    name: "cross_logit",
    doc: "M4: makes conditions on a model's answer conditions on what its last function is computed from",
    exactness: Exactness::Bit,
    stage: Stage::Built,
    run: cross_logit::run,
};

const CROSS_UNUSED: Pass = Pass {
    name: "cross_unused",
    doc: "M1: drops features whose weights are all zero from what models read",
    exactness: Exactness::Real,
    stage: Stage::Built,
    run: cross_unused::run,
};

const CROSS_SCALE: Pass = Pass {
    name: "cross_scale",
    doc: "B7: puts the scaling of features into the weights of the model's first product",
    exactness: Exactness::Real,
    stage: Stage::Built,
    run: cross_scale::run,
};

const CROSS_INLINE: Pass = Pass {
    name: "cross_inline",
    doc: "M5: computes models of few operations as expressions of their row",
    exactness: Exactness::Real,
    stage: Stage::Built,
    run: cross_inline::run,
};

const AGGREGATE: Pass = Pass {
    name: "aggregate",
    doc: "makes aggregates over distinct arguments groups of groups",
    exactness: Exactness::Bit,
    stage: Stage::Built,
    run: aggregate::run,
};

const JOIN_ORDER: Pass = Pass {
    name: "join_order",
    doc: "puts inner joins into the order that handles fewest rows by the inputs' statistics, the smaller table being stored",
    exactness: Exactness::Real,
    stage: Stage::Built,
    run: join_order::run,
};

const REDUCE: Pass = Pass {
    name: "reduce",
    doc: "looks rows up among a small partner's keys before they are stored or grouped",
    exactness: Exactness::Bit,
    stage: Stage::Built,
    run: reduce::run,
};

const ALGEBRA: Pass = Pass {
    name: "algebra",
    doc: "makes chains of views one, takes transposes into products, drops maps that change nothing, and asks a ReLU's result for its argument's sign",
    exactness: Exactness::Bit,
    stage: Stage::Built,
    run: algebra::run,
};

const REORDER: Pass = Pass {
    name: "reorder",
    doc: "multiplies three matrices in the cheaper order, and drops additions of zero",
    exactness: Exactness::Real,
    stage: Stage::Built,
    run: algebra::reorder,
};

const ATTENTION: Pass = Pass {
    name: "attention",
    doc: "makes the softmax of scores, times values, one operation that runs by tiles and never has all scores in memory",
    exactness: Exactness::Real,
    stage: Stage::Built,
    run: attention::run,
};

const BATCH_PARTS: Pass = Pass {
    name: "batch_parts",
    doc: "runs the part of a training step that goes row by row over parts of the batch, and adds what is summed over it",
    exactness: Exactness::Real,
    stage: Stage::Built,
    run: batch_parts::run,
};

const CROSS_ONEHOT: Pass = Pass {
    name: "cross_onehot",
    doc: "makes products with one-hot rows gathers, and those of their gradients scatters, where there are enough categories",
    exactness: Exactness::Real,
    stage: Stage::Built,
    run: cross_onehot::run,
};

const ELEMENTWISE: Pass = Pass {
    name: "elementwise",
    doc: "makes maps that read maps one map, so that what is between them is never stored",
    exactness: Exactness::Bit,
    stage: Stage::Built,
    run: elementwise::run,
};

const FOLD: Pass = Pass {
    name: "fold",
    doc: "computes what is constant: scalar operations over literals, identities that keep every bit, branches with a known condition, filters that keep all or nothing",
    exactness: Exactness::Bit,
    stage: Stage::Built,
    run: fold::run,
};

const GUARD: Pass = Pass {
    name: "guard",
    doc: "evaluates both sides of AND and OR where neither can raise, so that predicates fall into their parts",
    exactness: Exactness::Bit,
    stage: Stage::Built,
    run: guard::run,
};

const SHARE: Pass = Pass {
    name: "share",
    doc: "computes equal things once: within a region, and in a region what is known around it",
    exactness: Exactness::Bit,
    stage: Stage::Built,
    run: share::run,
};

const SHARE_GROUPS: Pass = Pass {
    name: "share_groups",
    doc: "computes equal groups once, also where their columns have other ids",
    exactness: Exactness::Bit,
    stage: Stage::Built,
    run: share_groups::run,
};

const CLEAN: Pass = Pass {
    name: "clean",
    doc: "removes values and columns that nothing uses, down to the scans, and functions that nothing calls",
    exactness: Exactness::Bit,
    stage: Stage::Built,
    run: clean::run,
};

/// What the optimizer is asked to do.
#[derive(Clone, Debug)]
pub struct OptOptions {
    /// Only passes that keep every bit.
    pub strict: bool,
    /// Passes that are switched off, by name; the plan's rules ([`crate::plan::border::RULES`]) may stand here too.
    pub off: Vec<String>,
    /// If given, only these passes run, in this order.
    pub only: Option<Vec<String>>,
    /// How many rewrites may happen in all.
    pub fuel: Option<u64>,
    /// Passes whose result is printed into the report, by name; `all` for every one.
    pub print: Vec<String>,
    /// Verify after each pass.
    pub verify: bool,
    /// What is known of the inputs.
    pub statistics: Statistics,
}

impl Default for OptOptions {
    /// Everything on but what `IR_OFF` names; fuel from `IR_FUEL`, printing from `IR_PRINT` (names, separated by commas), verifying in debug builds.
    fn default() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let print = variable("IR_PRINT").unwrap_or_default();
        Self {
            strict: false,
            off: switched_off(),
            only: None,
            fuel: variable("IR_FUEL").and_then(|n| n.parse().ok()),
            print: names(&print),
            verify: cfg!(debug_assertions),
            statistics: Statistics::new(),
        }
    }
}

/// The passes and rules that the environment switches off: `IR_OFF`, names separated by commas.
pub fn switched_off() -> Vec<String> {
    names(&std::env::var("IR_OFF").unwrap_or_default())
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|n| !n.is_empty()).map(String::from).collect()
}

/// What the optimizer did.
#[derive(Clone, Debug, Default)]
pub struct OptReport {
    /// One entry for each pass that ran, in order.
    pub passes: Vec<PassReport>,
}

/// What one pass did.
#[derive(Clone, Debug)]
pub struct PassReport {
    /// Its name.
    pub name: &'static str,
    /// How many rewrites it made.
    pub rewrites: u64,
    /// How long it took, verification not counted.
    pub time: Duration,
    /// Where it fired and what it saved, for EXPLAIN.
    pub notes: Vec<Note>,
    /// The program after it, if that was asked for.
    pub text: Option<String>,
}

/// A line of EXPLAIN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// What happened.
    pub text: String,
    /// Where in the source, where it is known.
    pub place: Option<PlaceId>,
}

impl OptReport {
    /// How many rewrites a pass made in all.
    pub fn rewrites(&self, name: &str) -> u64 {
        self.passes.iter().filter(|p| p.name == name).map(|p| p.rewrites).sum()
    }

    /// All notes, with the names of their passes.
    pub fn notes(&self) -> impl Iterator<Item = (&'static str, &Note)> {
        self.passes.iter().flat_map(|p| p.notes.iter().map(|n| (p.name, n)))
    }

    /// What passes did at the border of query and model.
    pub fn border(&self) -> impl Iterator<Item = &str> {
        self.notes().filter(|(pass, _)| pass.starts_with("cross_")).map(|(_, note)| note.text.as_str())
    }

    /// How long all passes took.
    pub fn time(&self) -> Duration {
        self.passes.iter().map(|p| p.time).sum()
    }
}

/// What a pass may ask and tell.
pub(crate) struct Context<'a> {
    fuel: &'a mut Option<u64>,
    rewrites: u64,
    notes: Vec<Note>,
    /// What is known of the inputs.
    pub(crate) statistics: &'a Statistics,
}

impl Context<'_> {
    /// Whether one more rewrite may happen; if so it is counted.
    pub(crate) fn spend(&mut self) -> bool {
        match self.fuel {
            Some(0) => return false,
            Some(n) => *n -= 1,
            None => {}
        }
        self.rewrites += 1;
        true
    }

    /// Counts rewrites that belong to one for which fuel was spent.
    pub(crate) fn count(&mut self, more: u64) {
        self.rewrites += more;
    }

    /// A line for EXPLAIN.
    pub(crate) fn note(&mut self, place: Option<PlaceId>, text: impl Into<String>) {
        self.notes.push(Note { text: text.into(), place });
    }
}

/// Runs the passes over a program.
///
/// # Errors
/// A pass that is named but does not exist; a pass that broke the program (a bug of ours).
pub fn optimize(program: Program, options: &OptOptions) -> Result<(Program, OptReport)> {
    let is_pass = |name: &String| PASSES.iter().any(|p| p.name == name);
    let is_rule = |name: &String| RULES.iter().any(|r| r.name == name);
    let off = options.off.iter().find(|n| !is_pass(n) && !is_rule(n));
    if let Some(name) = off.or(options.only.iter().flatten().find(|n| !is_pass(n))) {
        return Err(Error::Input(format!("there is no pass `{name}`")));
    }
    let list: Vec<&Pass> = match &options.only {
        Some(names) => names.iter().filter_map(|n| PASSES.iter().find(|p| p.name == *n)).collect(),
        None => PASSES.iter().collect(),
    };
    let mut fuel = options.fuel;
    let mut program = program;
    let mut report = OptReport::default();
    let mut stage = Stage::Built;
    for pass in list {
        let real = pass.exactness == Exactness::Real && options.strict;
        if real || options.off.iter().any(|n| n == pass.name) {
            continue;
        }
        let mut cx = Context { fuel: &mut fuel, rewrites: 0, notes: vec![], statistics: &options.statistics };
        let start = Instant::now();
        program = (pass.run)(&program, &mut cx).map_err(|e| broken(pass, e))?;
        let time = start.elapsed();
        let (rewrites, notes) = (cx.rewrites, cx.notes);
        stage = stage.max(pass.stage);
        if options.verify {
            verify_at(&program, stage).map_err(|e| broken(pass, e))?;
        }
        let wanted = options.print.iter().any(|n| n == pass.name || n == "all");
        let text = wanted.then(|| program.print());
        tracing::debug!(pass = pass.name, rewrites, micros = time.as_micros() as u64);
        report.passes.push(PassReport { name: pass.name, rewrites, time, notes, text });
    }
    Ok((program, report))
}

fn broken(pass: &Pass, e: Error) -> Error {
    match e {
        Error::Bug(message) | Error::Type(message) => Error::Bug(format!("after the pass {}: {message}", pass.name)),
        e => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "program {
  func @main() -> (i32, i32) {
    %0 = literal 1 : i32
    %1 = add %0, %0
    %2 = add %1, %1
    yield %1, %2
  }
  entry @main
  result \"a\"
  result \"b\"
}
";

    fn fold(fuel: Option<u64>) -> (String, u64) {
        let options = OptOptions { only: Some(vec!["fold".into()]), fuel, ..OptOptions::default() };
        let (program, report) = optimize(Program::parse(TEXT).unwrap(), &options).unwrap();
        (program.print(), report.rewrites("fold"))
    }

    #[test]
    fn fuel_limits_rewrites() {
        for fuel in 0..4 {
            let (text, rewrites) = fold(Some(fuel));
            assert_eq!(rewrites, fuel.min(2));
            assert_eq!(text.matches("add").count() as u64, 2 - rewrites);
        }
        assert_eq!(fold(None).1, 2);
    }

    #[test]
    fn passes_are_switched_and_printed_by_name() {
        let off = OptOptions { off: vec!["fold".into()], print: vec!["all".into()], ..OptOptions::default() };
        let (_, report) = optimize(Program::parse(TEXT).unwrap(), &off).unwrap();
        assert!(report.passes.iter().all(|p| p.name != "fold" && p.text.is_some()));
        let unknown = OptOptions { off: vec!["flod".into()], ..OptOptions::default() };
        let error = optimize(Program::parse(TEXT).unwrap(), &unknown).unwrap_err();
        assert_eq!(error.to_string(), "there is no pass `flod`");
    }

    #[test]
    fn docs_are_one_sentence() {
        for p in PASSES {
            assert!(!p.doc.is_empty() && !p.doc.ends_with('.') && !p.doc.contains('\n'), "{}", p.name);
        }
    }
}
