//! Which columns a plan needs: from its result down to its tables.
//!
//! What is not needed is not imported, so that only columns that a statement reads are loaded from files. A node's needs are
//! looked up by its address; the plan does not move while it is imported.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, JoinType};
use datafusion_expr::logical_plan::{Distinct, Join};
use datafusion_expr::{Expr, LogicalPlan};

use crate::binder::Source;
use crate::ingest::Table;

/// The needs of every node of a plan, and of every table.
#[derive(Default)]
pub(crate) struct Needs {
    outputs: HashMap<usize, BTreeSet<usize>>,
    tables: Vec<(Arc<Table>, BTreeSet<usize>)>,
    /// Names that subqueries read from rows outside.
    outer: HashSet<String>,
}

impl Needs {
    /// The needs of a plan all of whose columns are the result.
    pub(crate) fn of(plan: &LogicalPlan) -> Self {
        let mut needs = Self::default();
        // The closures never fail.
        let _ = plan.apply_with_subqueries(|node| {
            node.apply_expressions(|e| {
                e.apply(|e| {
                    if let Expr::OuterReferenceColumn(_, column) = e {
                        needs.outer.insert(column.name.clone());
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        });
        needs.visit(plan, all(plan));
        needs
    }

    /// Whether output `i` of a node is used.
    pub(crate) fn output(&self, plan: &LogicalPlan, i: usize) -> bool {
        self.outputs.get(&address(plan)).is_none_or(|o| o.contains(&i))
    }

    /// The columns of a table that are read, in the table's order; at least one, if it has any.
    pub(crate) fn columns(&self, table: &Arc<Table>) -> Vec<usize> {
        let found = self.tables.iter().find(|(t, _)| Arc::ptr_eq(t, table));
        found.map(|(_, columns)| columns.iter().copied().collect()).unwrap_or_default()
    }

    /// All tables and the columns of them that are read.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (&Arc<Table>, Vec<usize>)> {
        self.tables.iter().map(|(t, columns)| (t, columns.iter().copied().collect()))
    }

    fn visit(&mut self, plan: &LogicalPlan, mut needed: BTreeSet<usize>) {
        let fields = plan.schema().fields();
        needed.extend((0..fields.len()).filter(|i| self.outer.contains(fields[*i].name())));
        self.outputs.entry(address(plan)).or_default().extend(&needed);
        match plan {
            LogicalPlan::Projection(p) => {
                let used: Vec<&Expr> = needed.iter().map(|i| &p.expr[*i]).collect();
                let below = self.columns_in(used, p.input.schema());
                self.visit(&p.input, below);
            }
            LogicalPlan::Filter(f) => {
                needed.extend(self.columns_in([&f.predicate], f.input.schema()));
                self.visit(&f.input, needed);
            }
            LogicalPlan::Window(w) => {
                let width = w.input.schema().fields().len();
                needed.retain(|i| *i < width);
                needed.extend(self.columns_in(&w.window_expr, w.input.schema()));
                self.visit(&w.input, needed);
            }
            LogicalPlan::Aggregate(a) => {
                let below = self.columns_in(a.group_expr.iter().chain(&a.aggr_expr), a.input.schema());
                self.visit(&a.input, below);
            }
            LogicalPlan::Sort(s) => {
                needed.extend(self.columns_in(s.expr.iter().map(|k| &k.expr), s.input.schema()));
                self.visit(&s.input, needed);
            }
            LogicalPlan::Join(j) => self.join(j, needed),
            LogicalPlan::TableScan(t) => {
                let source: &dyn std::any::Any = t.source.as_ref();
                if let Some(source) = source.downcast_ref::<Source>() {
                    let position = |i: usize| t.projection.as_ref().map_or(i, |p| p[i]);
                    let columns: BTreeSet<usize> = needed.into_iter().map(position).collect();
                    self.read(&source.table, columns);
                }
            }
            LogicalPlan::Subquery(s) => self.visit(&s.subquery, needed),
            LogicalPlan::SubqueryAlias(a) => self.visit(&a.input, needed),
            LogicalPlan::Limit(l) => self.visit(&l.input, needed),
            LogicalPlan::Distinct(Distinct::On(on)) => {
                let keys = on.sort_expr.iter().flatten().map(|k| &k.expr);
                let below = self.columns_in(on.on_expr.iter().chain(&on.select_expr).chain(keys), on.input.schema());
                self.visit(&on.input, below);
            }
            LogicalPlan::Distinct(Distinct::All(_))
            | LogicalPlan::Union(_)
            | LogicalPlan::Values(_)
            | LogicalPlan::EmptyRelation(_)
            | LogicalPlan::Repartition(_)
            | LogicalPlan::Statement(_)
            | LogicalPlan::Explain(_)
            | LogicalPlan::Analyze(_)
            | LogicalPlan::Extension(_)
            | LogicalPlan::Dml(_)
            | LogicalPlan::Ddl(_)
            | LogicalPlan::Copy(_)
            | LogicalPlan::DescribeTable(_)
            | LogicalPlan::Unnest(_)
            | LogicalPlan::RecursiveQuery(_) => {
                for input in plan.inputs() {
                    self.visit(input, all(input));
                }
                let mut exprs = vec![];
                // The closure never fails.
                let _ = plan.apply_expressions(|e| {
                    exprs.push(e.clone());
                    Ok(TreeNodeRecursion::Continue)
                });
                self.columns_in(&exprs, plan.schema());
            }
        }
    }

    fn join(&mut self, j: &Join, needed: BTreeSet<usize>) {
        let width = j.left.schema().fields().len();
        let (mut left, mut right) = (BTreeSet::new(), BTreeSet::new());
        match j.join_type {
            JoinType::RightSemi | JoinType::RightAnti => right = needed,
            JoinType::Inner
            | JoinType::Left
            | JoinType::Right
            | JoinType::Full
            | JoinType::LeftSemi
            | JoinType::LeftAnti
            | JoinType::LeftMark
            | JoinType::RightMark => {
                for i in needed {
                    if i < width {
                        left.insert(i)
                    } else {
                        right.insert(i - width)
                    };
                }
            }
        }
        let used: Vec<&Expr> = j.on.iter().flat_map(|(a, b)| [a, b]).chain(&j.filter).collect();
        left.extend(self.columns_in(used.iter().copied(), j.left.schema()));
        right.extend(self.columns_in(used, j.right.schema()));
        right.retain(|i| *i < j.right.schema().fields().len());
        self.visit(&j.left, left);
        self.visit(&j.right, right);
    }

    fn read(&mut self, table: &Arc<Table>, mut columns: BTreeSet<usize>) {
        if columns.is_empty() {
            // Rows are counted by some column: the narrowest kind there is.
            let narrow = table.columns().iter().position(|c| c.ty.ty != ir::types::ScalarType::Text);
            columns.extend(narrow.or((!table.columns().is_empty()).then_some(0)));
        }
        match self.tables.iter_mut().find(|(t, _)| Arc::ptr_eq(t, table)) {
            Some((_, all)) => all.extend(columns),
            None => self.tables.push((table.clone(), columns)),
        }
    }

    /// The positions of the columns that expressions read; visits the subqueries in them.
    fn columns_in<'e>(&mut self, exprs: impl IntoIterator<Item = &'e Expr>, schema: &DFSchema) -> BTreeSet<usize> {
        let mut columns = BTreeSet::new();
        for e in exprs {
            // The closure never fails.
            let _ = e.apply(|e| {
                match e {
                    Expr::Column(c) => columns.extend(schema.maybe_index_of_column(c)),
                    Expr::Exists(s) => self.visit(&s.subquery.subquery, BTreeSet::new()),
                    Expr::InSubquery(s) => self.visit(&s.subquery.subquery, all(&s.subquery.subquery)),
                    Expr::SetComparison(s) => self.visit(&s.subquery.subquery, all(&s.subquery.subquery)),
                    Expr::ScalarSubquery(s) => self.visit(&s.subquery, all(&s.subquery)),
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            });
        }
        columns
    }
}

fn all(plan: &LogicalPlan) -> BTreeSet<usize> {
    (0..plan.schema().fields().len()).collect()
}

fn address(plan: &LogicalPlan) -> usize {
    std::ptr::from_ref(plan) as usize
}
