//! Names and types: from parsed SQL to a plan in which every name is resolved and every cast stands.
//!
//! DataFusion's planner binds, its `TypeCoercion` inserts casts; none of its other rules run. Where its types are not ours,
//! the difference is settled here, before its types are computed:
//! - every function is a stub with the type rules of [`crate::functions`];
//! - a division of decimals casts both sides to double;
//! - a decimal that meets a double becomes one ([`crate::doubles`]);
//! - an integer constant takes the type of the other side: `i32 + 1` is `i32`, `decimal * 2` multiplies by `decimal(1,0)`;
//! - `date - date` counts days, `date ± integer` adds days.
//!
//! DataFusion's types are seen here and in [`crate::import`] only.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, Schema, SchemaRef, TimeUnit};
use datafusion_common::config::ConfigOptions;
use datafusion_common::error::SchemaError;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, DataFusionError, ScalarValue, TableReference};
use datafusion_expr::expr::{AggregateFunction, Cast, ScalarFunction as ScalarCall};
use datafusion_expr::function::{AccumulatorArgs, PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion_expr::planner::{
    ContextProvider, ExprPlanner, PlannerResult, RawAggregateExpr, RawBinaryExpr, RawWindowExpr,
};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Expr, ExprSchemable, HigherOrderUDF, LogicalPlan,
    PartitionEvaluator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TableSource,
    Volatility, WindowFunctionDefinition, WindowUDF, WindowUDFImpl,
};
use datafusion_optimizer::analyzer::AnalyzerRule;
use datafusion_optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion_sql::planner::{NullOrdering, ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast::{self, BinaryOperator};
use ir::types::{RowType, ScalarType};

use crate::catalog::{Argument, Catalog, Relation, RowFunction};
use crate::doubles;
use crate::error::{Error, Result, suggest};
use crate::functions::{self, AGGREGATES, AggregateMake, SCALARS, WINDOWS, WindowKind};
use crate::import::expr::constant_of;
use crate::import::types::{from_arrow, to_arrow};
use crate::ingest::{self, Table};
use crate::sql::{self, Lines, ParsedQuery};
use crate::table_functions;

/// Views inside views inside views: this deep.
const MAX_VIEW_DEPTH: usize = 32;

/// A bound query.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Names resolved, casts in place.
    pub(crate) plan: LogicalPlan,
    /// The type of each parameter, where its use tells.
    pub(crate) parameters: Vec<Option<ScalarType>>,
}

/// Binds a query over a snapshot. `types` are the types of the parameters that are known.
pub(crate) fn bind(query: &ParsedQuery, text: &str, catalog: &Catalog, types: &[Option<ScalarType>]) -> Result<Bound> {
    let lines = Lines::new(text);
    let plan = plan(query, catalog, types, 0).map_err(|e| translate(e, &lines, catalog))?;
    let plan = doubles::coerce(plan)
        .and_then(|plan| TypeCoercion::new().analyze(plan, &OPTIONS))
        .map_err(|e| translate(e, &lines, catalog))?;
    let parameters = parameter_types(&plan, query.parameters);
    Ok(Bound { plan, parameters })
}

fn plan(
    query: &ParsedQuery,
    catalog: &Catalog,
    types: &[Option<ScalarType>],
    depth: usize,
) -> Result<LogicalPlan, DataFusionError> {
    let context = Context { catalog, depth };
    let options = ParserOptions::new()
        .with_parse_float_as_decimal(true)
        .with_collect_spans(depth == 0)
        .with_map_string_types_to_utf8view(false)
        .with_default_null_ordering(NullOrdering::NullsMax);
    let fields = types.iter().map(|t| t.map(|t| Arc::new(Field::new("", to_arrow(t), true)))).collect();
    let mut planner_context = PlannerContext::new();
    if types.iter().any(Option::is_some) {
        planner_context = planner_context.with_prepare_param_data_types(fields);
    }
    SqlToRel::new_with_options(&context, options)
        .sql_statement_to_plan_with_context(ast::Statement::Query(query.query.clone()), &mut planner_context)
}

fn parameter_types(plan: &LogicalPlan, count: usize) -> Vec<Option<ScalarType>> {
    let mut types = vec![None; count];
    if count == 0 {
        return types;
    }
    // The closures never fail, so neither does the walk.
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                if let Expr::Placeholder(p) = e
                    && let Some(slot) = placeholder_index(&p.id).and_then(|i| types.get_mut(i))
                    && let Some(field) = &p.field
                {
                    *slot = slot.or(from_arrow(field.data_type()));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    types
}

/// The position of a parameter, from 0: `$1` is 0.
pub(crate) fn placeholder_index(id: &str) -> Option<usize> {
    id.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

/// A table of ours, as DataFusion's plans carry it.
#[derive(Debug)]
pub(crate) struct Source {
    /// What the table is called in the statement.
    pub(crate) name: String,
    /// The table.
    pub(crate) table: Arc<Table>,
    schema: SchemaRef,
}

impl TableSource for Source {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// The working table of a recursive query: inside of the query its name stands for the rows that the last iteration added.
#[derive(Debug)]
pub(crate) struct WorkTable {
    /// The query's name.
    pub(crate) name: String,
    schema: SchemaRef,
}

impl TableSource for WorkTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

struct View {
    schema: SchemaRef,
    plan: LogicalPlan,
}

impl TableSource for View {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }
}

fn source(name: &str, table: Arc<Table>) -> Arc<dyn TableSource> {
    let fields: Vec<Field> =
        table.columns().iter().map(|c| Field::new(&c.name, to_arrow(c.ty.ty), c.ty.nullable)).collect();
    Arc::new(Source { name: name.to_string(), table, schema: Arc::new(Schema::new(fields)) })
}

struct Context<'a> {
    catalog: &'a Catalog,
    depth: usize,
}

static OPTIONS: LazyLock<ConfigOptions> = LazyLock::new(ConfigOptions::default);
static PLANNERS: LazyLock<Vec<Arc<dyn ExprPlanner>>> = LazyLock::new(|| vec![Arc::new(Planner)]);
static STUBS: LazyLock<Stubs> = LazyLock::new(Stubs::new);

/// The functions of the tables in [`crate::functions`], as DataFusion takes them, by name.
struct Stubs {
    scalars: HashMap<&'static str, Arc<ScalarUDF>>,
    aggregates: HashMap<&'static str, Arc<AggregateUDF>>,
    windows: HashMap<&'static str, Arc<WindowUDF>>,
}

impl Stubs {
    fn new() -> Self {
        let mut scalars = HashMap::new();
        for (row, f) in SCALARS.iter().enumerate() {
            let stub = Arc::new(ScalarUDF::from(ScalarStub { row, signature: any_arguments() }));
            scalars.extend(f.names.iter().map(|name| (*name, stub.clone())));
        }
        let mut aggregates = HashMap::new();
        for (row, f) in AGGREGATES.iter().enumerate() {
            let stub = Arc::new(AggregateUDF::from(AggregateStub { row, signature: any_arguments() }));
            aggregates.extend(f.names.iter().map(|name| (*name, stub.clone())));
        }
        let mut windows = HashMap::new();
        for (row, f) in WINDOWS.iter().enumerate() {
            let stub = Arc::new(WindowUDF::from(WindowStub { row, signature: any_arguments() }));
            windows.extend(f.names.iter().map(|name| (*name, stub.clone())));
        }
        Self { scalars, aggregates, windows }
    }
}

fn any_arguments() -> Signature {
    Signature::user_defined(Volatility::Immutable)
}

impl ContextProvider for Context<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>, DataFusionError> {
        if !matches!(name, TableReference::Bare { .. }) {
            return Err(external(Error::unsupported(format!("a name with a schema: {name}"))));
        }
        let name = name.table();
        match self.catalog.get(name) {
            Some(Relation::Table(table)) => Ok(source(name, table.clone())),
            Some(Relation::View(text)) => self.view(name, text),
            None => match ingest::open_by_extension(name) {
                Some(table) => Ok(source(name, Arc::new(table.map_err(external)?))),
                None => Err(external(self.catalog.unknown(name))),
            },
        }
    }

    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> Result<Arc<dyn TableSource>, DataFusionError> {
        let name = name.trim_matches('"').to_lowercase();
        let table = table_functions::open(&name, &args);
        Ok(source(&name, Arc::new(table.map_err(external)?)))
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> Result<Arc<dyn TableSource>, DataFusionError> {
        Ok(Arc::new(WorkTable { name: name.to_string(), schema }))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &PLANNERS
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        if let Some(function) = self.catalog.function(name) {
            let stub =
                RowStub { function: function.clone(), signature: Signature::variadic_any(Volatility::Immutable) };
            return Some(Arc::new(ScalarUDF::from(stub)));
        }
        STUBS.scalars.get(name).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        STUBS.aggregates.get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        STUBS.windows.get(name).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &OPTIONS
    }

    fn udf_names(&self) -> Vec<String> {
        let ours = STUBS.scalars.keys().map(ToString::to_string);
        ours.chain(self.catalog.function_names().map(str::to_string)).collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        vec![]
    }

    fn udaf_names(&self) -> Vec<String> {
        STUBS.aggregates.keys().map(ToString::to_string).collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        STUBS.windows.keys().map(ToString::to_string).collect()
    }
}

impl Context<'_> {
    fn view(&self, name: &str, text: &str) -> Result<Arc<dyn TableSource>, DataFusionError> {
        if self.depth >= MAX_VIEW_DEPTH {
            let message = format!("view \"{name}\" stands in more than {MAX_VIEW_DEPTH} views");
            return Err(external(Error::Limit(message)));
        }
        let query = sql::parse_query(text).map_err(external)?;
        let plan =
            plan(&query, self.catalog, &[], self.depth + 1).map_err(|e| e.context(format!("in view \"{name}\"")))?;
        Ok(Arc::new(View { schema: Arc::new(plan.schema().as_arrow().clone()), plan }))
    }
}

/// What operators and special syntax become, where it is not what DataFusion would make of them.
#[derive(Debug)]
struct Planner;

impl ExprPlanner for Planner {
    fn plan_binary_op(
        &self,
        mut e: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>, DataFusionError> {
        if matches!(e.op, BinaryOperator::And | BinaryOperator::Or) {
            return Ok(PlannerResult::Original(e));
        }
        let (Ok(left), Ok(right)) = (e.left.get_type(schema), e.right.get_type(schema)) else {
            return Ok(PlannerResult::Original(e));
        };
        let is_decimal = |t: &DataType| matches!(t, DataType::Decimal128(..));
        match e.op {
            BinaryOperator::Divide
                if (is_decimal(&left) || is_decimal(&right)) && left.is_numeric() && right.is_numeric() =>
            {
                e.left = cast(e.left, DataType::Float64);
                e.right = cast(e.right, DataType::Float64);
            }
            BinaryOperator::Minus if is_date(&left) && is_date(&right) => {
                return Ok(PlannerResult::Planned(call("date_diff", vec![text("day"), e.right, e.left])));
            }
            BinaryOperator::Plus if is_date(&left) && right.is_integer() => {
                return Ok(PlannerResult::Planned(call("add_days", vec![e.left, e.right])));
            }
            BinaryOperator::Plus if left.is_integer() && is_date(&right) => {
                return Ok(PlannerResult::Planned(call("add_days", vec![e.right, e.left])));
            }
            BinaryOperator::Minus if is_date(&left) && right.is_integer() => {
                let days = Expr::Negative(Box::new(e.right));
                return Ok(PlannerResult::Planned(call("add_days", vec![e.left, days])));
            }
            BinaryOperator::Plus | BinaryOperator::Minus if is_date(&left) && has_time(&e.right) => {
                e.left = cast(e.left, DataType::Timestamp(TimeUnit::Microsecond, None));
            }
            BinaryOperator::Minus if is_time(&left) && is_time(&right) => {
                let construct = "the difference of timestamps; use date_diff(unit, a, b)";
                return Err(external(Error::unsupported(construct)));
            }
            BinaryOperator::PGExp | BinaryOperator::BitwiseXor | BinaryOperator::PGBitwiseXor
                if left.is_numeric() && right.is_numeric() =>
            {
                return Ok(PlannerResult::Planned(call("power", vec![e.left, e.right])));
            }
            BinaryOperator::DuckIntegerDivide if left.is_integer() && right.is_integer() => {
                e.op = BinaryOperator::Divide
            }
            BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Modulo
                if let (Some(a), Some(b)) = (from_arrow(&left), from_arrow(&right))
                    && !(a.is_numeric() && b.is_numeric()) =>
            {
                let (a, b) = (functions::sql_type_name(a), functions::sql_type_name(b));
                return Err(external(Error::meaning(format!("{} is not defined for {a} and {b}", e.op))));
            }
            BinaryOperator::Spaceship => return Err(external(Error::unsupported("the operator <=>"))),
            _ => {
                fit_constant(&mut e.left, &right);
                fit_constant(&mut e.right, &left);
            }
        }
        Ok(PlannerResult::Original(e))
    }

    fn plan_extract(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>, DataFusionError> {
        Ok(PlannerResult::Planned(call("date_part", args)))
    }

    fn plan_substring(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>, DataFusionError> {
        Ok(PlannerResult::Planned(call("substring", args)))
    }

    fn plan_position(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>, DataFusionError> {
        Ok(PlannerResult::Planned(call("strpos", args)))
    }

    fn plan_aggregate(&self, mut e: RawAggregateExpr) -> Result<PlannerResult<RawAggregateExpr>, DataFusionError> {
        if !count_all(e.func.name(), &mut e.args) {
            return Ok(PlannerResult::Original(e));
        }
        let call = AggregateFunction::new_udf(e.func, e.args, e.distinct, e.filter, e.order_by, e.null_treatment);
        Ok(PlannerResult::Planned(Expr::AggregateFunction(call)))
    }

    fn plan_window(&self, mut e: RawWindowExpr) -> Result<PlannerResult<RawWindowExpr>, DataFusionError> {
        if let WindowFunctionDefinition::AggregateUDF(f) = &e.func_def {
            count_all(f.name(), &mut e.args);
        }
        Ok(PlannerResult::Original(e))
    }
}

/// `count(*)` and `count()` count rows: they get the constant 1 as their argument.
fn count_all(name: &str, args: &mut Vec<Expr>) -> bool {
    #[expect(deprecated, reason = "the planner gives a star as this variant still")]
    let star = matches!(args.as_slice(), [Expr::Wildcard { .. }] | []);
    if name == "count" && star {
        *args = vec![Expr::Literal(ScalarValue::Int64(Some(1)), None)];
        return true;
    }
    false
}

fn is_date(t: &DataType) -> bool {
    matches!(t, DataType::Date32)
}

fn is_time(t: &DataType) -> bool {
    matches!(t, DataType::Date32 | DataType::Timestamp(..))
}

/// Whether an interval has a part shorter than a day.
fn has_time(e: &Expr) -> bool {
    matches!(e, Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(i)), _) if i.nanoseconds != 0)
        || matches!(e, Expr::Literal(ScalarValue::IntervalDayTime(Some(i)), _) if i.milliseconds != 0)
}

fn cast(e: Expr, to: DataType) -> Expr {
    Expr::Cast(Cast::new(Box::new(e), to))
}

fn text(s: &str) -> Expr {
    Expr::Literal(ScalarValue::Utf8(Some(s.to_string())), None)
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    Expr::ScalarFunction(ScalarCall::new_udf(STUBS.scalars[name].clone(), args))
}

/// An integer constant beside an `i32` becomes one too if it fits; beside a decimal it becomes a decimal of its own digits.
fn fit_constant(e: &mut Expr, other: &DataType) {
    let Expr::Literal(literal @ ScalarValue::Int64(Some(_)), _) = e else { return };
    let ScalarValue::Int64(Some(n)) = *literal else { return };
    match other {
        DataType::Int32 => {
            if let Ok(n) = i32::try_from(n) {
                *literal = ScalarValue::Int32(Some(n));
            }
        }
        DataType::Decimal128(..) => {
            let digits = n.unsigned_abs().checked_ilog10().unwrap_or(0) + 1;
            *literal = ScalarValue::Decimal128(Some(i128::from(n)), digits as u8, 0);
        }
        _ => {}
    }
}

fn scalar_types(types: &[DataType]) -> Result<Vec<Option<ScalarType>>, DataFusionError> {
    let one = |t: &DataType| match t {
        DataType::Null => Ok(None),
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            Err(external(Error::unsupported("an interval as an argument")))
        }
        t => from_arrow(t).map(Some).ok_or_else(|| external(Error::unsupported(format!("the type {t}")))),
    };
    types.iter().map(one).collect()
}

fn arrow_types(types: &[ScalarType]) -> Vec<DataType> {
    types.iter().map(|t| to_arrow(*t)).collect()
}

/// A function of [`SCALARS`].
#[derive(Debug)]
pub(crate) struct ScalarStub {
    pub(crate) row: usize,
    signature: Signature,
}

/// A function of [`AGGREGATES`].
#[derive(Debug)]
pub(crate) struct AggregateStub {
    pub(crate) row: usize,
    signature: Signature,
}

/// A function of [`WINDOWS`].
#[derive(Debug)]
pub(crate) struct WindowStub {
    pub(crate) row: usize,
    signature: Signature,
}

/// A function of the host.
#[derive(Debug)]
pub(crate) struct RowStub {
    pub(crate) function: Arc<dyn RowFunction>,
    signature: Signature,
}

macro_rules! identity_by {
    ($stub:ty, $self:ident => $key:expr) => {
        impl PartialEq for $stub {
            fn eq(&self, other: &Self) -> bool {
                let key = |$self: &Self| $key;
                key(self) == key(other)
            }
        }
        impl Eq for $stub {}
        impl Hash for $stub {
            fn hash<H: Hasher>(&self, state: &mut H) {
                let $self = self;
                ($key).hash(state);
            }
        }
    };
}

identity_by!(ScalarStub, s => s.row);
identity_by!(AggregateStub, s => s.row);
identity_by!(WindowStub, s => s.row);
identity_by!(RowStub, s => Arc::as_ptr(&s.function).cast::<()>() as usize);

fn never_runs<T>(name: &str) -> Result<T, DataFusionError> {
    Err(DataFusionError::Internal(format!("{name} stands for an operation of our own and is not run here")))
}

impl ScalarUDFImpl for ScalarStub {
    fn name(&self) -> &str {
        SCALARS[self.row].names[0]
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        Ok(arrow_types(&SCALARS[self.row].cast_to(&scalar_types(types)?).map_err(external)?))
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType, DataFusionError> {
        let f = &SCALARS[self.row];
        let args = f.cast_to(&scalar_types(types)?).map_err(external)?;
        Ok(to_arrow(f.result(&args).map_err(external)?))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        never_runs(self.name())
    }
}

impl ScalarUDFImpl for RowStub {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType, DataFusionError> {
        never_runs(self.name())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef, DataFusionError> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let types = scalar_types(&types)?;
        let arguments: Vec<Argument> = types
            .iter()
            .zip(args.scalar_arguments)
            .map(|(ty, constant)| Argument { ty: *ty, constant: constant.and_then(constant_of) })
            .collect();
        let RowType { ty, nullable } = self.function.result(&arguments).map_err(|e| external(Error::meaning(e)))?;
        Ok(Arc::new(Field::new(self.name(), to_arrow(ty), nullable)))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        never_runs(self.name())
    }
}

impl AggregateUDFImpl for AggregateStub {
    fn name(&self) -> &str {
        AGGREGATES[self.row].names[0]
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        Ok(arrow_types(&AGGREGATES[self.row].cast_to(&scalar_types(types)?).map_err(external)?))
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType, DataFusionError> {
        let f = &AGGREGATES[self.row];
        let args = f.cast_to(&scalar_types(types)?).map_err(external)?;
        Ok(to_arrow(f.result(&args).map_err(external)?))
    }

    fn supports_within_group_clause(&self) -> bool {
        matches!(AGGREGATES[self.row].make, AggregateMake::Quantile(_) | AggregateMake::Mode)
    }

    fn is_nullable(&self) -> bool {
        !matches!(self.name(), "count" | "count_if" | "regr_count" | "grouping")
    }

    fn accumulator(&self, _args: AccumulatorArgs) -> Result<Box<dyn Accumulator>, DataFusionError> {
        never_runs(self.name())
    }
}

impl WindowUDFImpl for WindowStub {
    fn name(&self) -> &str {
        WINDOWS[self.row].names[0]
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        let f = &WINDOWS[self.row];
        let args = scalar_types(types)?;
        let (least, most) = match f.kind {
            WindowKind::RowNumber
            | WindowKind::Rank
            | WindowKind::DenseRank
            | WindowKind::PercentRank
            | WindowKind::CumeDist => (0, 0),
            WindowKind::Ntile | WindowKind::FirstValue | WindowKind::LastValue => (1, 1),
            WindowKind::Lag | WindowKind::Lead => (1, 3),
            WindowKind::NthValue => (2, 2),
        };
        if !(least..=most).contains(&args.len()) {
            let wanted = if least == most { least.to_string() } else { format!("{least} to {most}") };
            let message = format!("{} takes {wanted} arguments, not {}", f.names[0], args.len());
            return Err(external(Error::meaning(message)));
        }
        let argument = args.first().copied().flatten().unwrap_or(ScalarType::Text);
        let types: Vec<ScalarType> = (0..args.len())
            .map(|i| match (f.kind, i) {
                (WindowKind::Ntile, _) | (WindowKind::Lag | WindowKind::Lead | WindowKind::NthValue, 1) => {
                    ScalarType::I64
                }
                _ => argument,
            })
            .collect();
        Ok(arrow_types(&types))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef, DataFusionError> {
        let ty = match WINDOWS[self.row].kind {
            WindowKind::RowNumber | WindowKind::Rank | WindowKind::DenseRank | WindowKind::Ntile => DataType::Int64,
            WindowKind::PercentRank | WindowKind::CumeDist => DataType::Float64,
            WindowKind::Lag
            | WindowKind::Lead
            | WindowKind::FirstValue
            | WindowKind::LastValue
            | WindowKind::NthValue => match args.get_input_field(0).map(|f| f.data_type().clone()) {
                None | Some(DataType::Null) => DataType::Utf8,
                Some(t) => t,
            },
        };
        Ok(Arc::new(Field::new(args.name(), ty, true)))
    }

    fn partition_evaluator(
        &self,
        _args: PartitionEvaluatorArgs,
    ) -> Result<Box<dyn PartitionEvaluator>, DataFusionError> {
        never_runs(self.name())
    }
}

fn external(e: Error) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}

/// An error of DataFusion in our words, with its place.
pub(crate) fn translate(e: DataFusionError, lines: &Lines, catalog: &Catalog) -> Error {
    match e {
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let span = diagnostic.span.and_then(|s| span_of(s, lines));
            let error = match *inner {
                DataFusionError::Plan(message) if message.starts_with("Invalid function") => {
                    unknown_function(&message, catalog)
                }
                inner => translate(inner, lines, catalog),
            };
            error.at(span)
        }
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(error) => *error,
            Err(other) => Error::Bug(other.to_string()),
        },
        DataFusionError::Context(_, inner) => translate(*inner, lines, catalog),
        DataFusionError::Shared(inner) => Error::meaning(inner.message().to_string()),
        DataFusionError::Collection(errors) => match errors.into_iter().next() {
            Some(first) => translate(first, lines, catalog),
            None => Error::Bug("an empty list of errors".into()),
        },
        DataFusionError::SchemaError(error, _) => schema_error(*error, lines),
        DataFusionError::NotImplemented(message) => Error::unsupported(construct(&message)),
        DataFusionError::Plan(message)
        | DataFusionError::Execution(message)
        | DataFusionError::Configuration(message) => Error::meaning(in_our_words(&message)),
        DataFusionError::SQL(error, _) => Error::syntax(error.to_string()),
        DataFusionError::ArrowError(error, _) => Error::meaning(error.to_string()),
        DataFusionError::ResourcesExhausted(message) => Error::Limit(message),
        DataFusionError::Internal(message) if message.starts_with("Cannot run range queries on datatype") => {
            Error::unsupported("a window ordered by intervals, unless it has a frame of ROWS")
        }
        DataFusionError::Internal(message) | DataFusionError::Substrait(message) | DataFusionError::Ffi(message) => {
            Error::Bug(message)
        }
        other => Error::Bug(other.to_string()),
    }
}

/// What the binder does not know, by its name in SQL where the message holds the parser's tree.
fn construct(message: &str) -> String {
    let known = [
        ("Could not plan array literal", "array literals"),
        ("Empty tuple", "an empty list in parentheses, as in GROUP BY ()"),
        ("Struct not supported", "rows as values, as in (a, b) = (1, 2)"),
    ];
    if let Some((_, ours)) = known.iter().find(|(theirs, _)| message.starts_with(theirs)) {
        return (*ours).to_string();
    }
    let tree = message.strip_prefix("Unsupported ast node in sqltorel: ");
    if let Some(tree) = tree.or_else(|| message.strip_prefix("Unsupported ast node ")) {
        return words(tree);
    }
    match message.split_once(" not supported by ExprPlanner") {
        Some((name, _)) => words(name),
        None => message.to_string(),
    }
}

/// The name at the beginning of a tree that the parser prints, as SQL writes it: `MatchRecognize { … }` is `MATCH RECOGNIZE`.
fn words(tree: &str) -> String {
    let name = tree.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let mut words = String::new();
    for (i, c) in name.char_indices() {
        let begins = c.is_uppercase() && !name[..i].ends_with(|before: char| before.is_uppercase());
        if i > 0 && begins {
            words.push(' ');
        }
        words.extend(c.to_uppercase());
    }
    words
}

/// Messages that carry one of ours, or that say much.
fn in_our_words(message: &str) -> String {
    if let Some((_, ours)) = message.split_once("External error: ") {
        return ours.split(". No function matches").next().unwrap_or(ours).to_string();
    }
    if message.starts_with("Column in ") && message.contains("must be in GROUP BY") {
        let column = message.split("column \"").nth(1).and_then(|m| m.split('"').next()).unwrap_or_default();
        return format!("the column {column} must stand in GROUP BY or inside an aggregate");
    }
    if let Some(name) = message.strip_prefix("WITH query name ").and_then(|m| m.split('"').nth(1)) {
        return format!(
            "there are two queries of the name \"{name}\" in WITH, here or around it: give one another name"
        );
    }
    if let Some(columns) = message.strip_prefix("Too many columns! The subquery should only return one column: ") {
        return format!("a subquery that stands for a value gives one column, not {columns}");
    }
    message.to_string()
}

/// Functions that users of other systems look for first and that are not built.
const KNOWN_ELSEWHERE: &[&str] = &[
    "array_agg",
    "list",
    "bit_and",
    "bit_or",
    "bit_xor",
    "approx_count_distinct",
    "approx_quantile",
    "json_extract",
    "generate_series",
    "range",
    "random",
    "now",
    "age",
    "to_char",
    "to_date",
    "to_timestamp",
    "strptime",
    "make_timestamp",
    "md5",
    "regexp_extract",
    "skewness",
    "kurtosis",
    "cbrt",
    "sinh",
    "cosh",
];

fn unknown_function(message: &str, catalog: &Catalog) -> Error {
    let name = message.split('\'').nth(1).unwrap_or_default();
    if KNOWN_ELSEWHERE.contains(&name) {
        return Error::unsupported(format!("the function {name}"));
    }
    let mut known: Vec<&str> = functions::names().collect();
    known.extend(catalog.function_names());
    let help = suggest(name, known);
    Error::name(format!("there is no function {name}"), help)
}

/// The error for a column that is not among these.
pub(crate) fn unknown_column(column: &Column, known: &[Column], lines: &Lines) -> Error {
    let span = column.spans.first().and_then(|s| span_of(s, lines));
    let qualified: Vec<String> = known.iter().map(|c| c.flat_name()).collect();
    let help = suggest(&column.name, known.iter().map(|c| c.name.as_str()))
        .or_else(|| suggest(&column.flat_name(), qualified.iter().map(String::as_str)));
    Error::name(format!("there is no column \"{}\" here", column.flat_name()), help).at(span)
}

fn schema_error(error: SchemaError, lines: &Lines) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => unknown_column(&field, &valid_fields, lines),
        SchemaError::AmbiguousReference { field } => {
            let span = field.spans.first().and_then(|s| span_of(s, lines));
            Error::meaning(format!(
                "the column \"{}\" is in more than one table; put the table's name before it",
                field.name
            ))
            .at(span)
        }
        other @ (SchemaError::DuplicateQualifiedField { .. } | SchemaError::DuplicateUnqualifiedField { .. }) => {
            Error::meaning(other.to_string())
        }
    }
}

/// A place of DataFusion's as bytes of the text.
pub(crate) fn span_of(span: datafusion_common::Span, lines: &Lines) -> Option<Range<usize>> {
    let range = lines.offset(span.start.line, span.start.column)?..lines.offset(span.end.line, span.end.column)?;
    Some(lines.balanced(range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::ColumnDef;
    use crate::sql::Statement;
    use ScalarType as S;

    /// `name type, …`: `?` behind a type allows NULL.
    fn table(columns: &str) -> Relation {
        let column = |c: &str| {
            let (name, ty) = c.trim().split_once(' ').unwrap();
            let (ty, nullable) = ty.strip_suffix('?').map_or((ty, false), |t| (t, true));
            let ty = match ty {
                "i32" => S::I32,
                "i64" => S::I64,
                "f32" => S::F32,
                "f64" => S::F64,
                "date" => S::Date,
                "timestamp" => S::Timestamp,
                "text" => S::Text,
                "decimal" => S::Decimal { precision: 15, scale: 2 },
                other => panic!("{other}"),
            };
            ColumnDef { name: name.to_string(), ty: ty.nullable(nullable) }
        };
        Relation::Table(Arc::new(Table::empty(columns.split(',').map(column).collect()).unwrap()))
    }

    pub(crate) fn tpch() -> Catalog {
        let tables = [
            (
                "part",
                "p_partkey i64, p_name text, p_mfgr text, p_brand text, p_type text, p_size i32, p_container text, p_retailprice decimal, p_comment text",
            ),
            (
                "supplier",
                "s_suppkey i64, s_name text, s_address text, s_nationkey i32, s_phone text, s_acctbal decimal, s_comment text",
            ),
            ("partsupp", "ps_partkey i64, ps_suppkey i64, ps_availqty i32, ps_supplycost decimal, ps_comment text"),
            (
                "customer",
                "c_custkey i64, c_name text, c_address text, c_nationkey i32, c_phone text, c_acctbal decimal, c_mktsegment text, c_comment text",
            ),
            (
                "orders",
                "o_orderkey i64, o_custkey i64, o_orderstatus text, o_totalprice decimal, o_orderdate date, o_orderpriority text, o_clerk text, o_shippriority i32, o_comment text",
            ),
            (
                "lineitem",
                "l_orderkey i64, l_partkey i64, l_suppkey i64, l_linenumber i32, l_quantity decimal, l_extendedprice decimal, l_discount decimal, l_tax decimal, l_returnflag text, l_linestatus text, l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct text, l_shipmode text, l_comment text",
            ),
            ("nation", "n_nationkey i32, n_name text, n_regionkey i32, n_comment text"),
            ("region", "r_regionkey i32, r_name text, r_comment text"),
        ];
        tables.iter().fold(Catalog::default(), |c, (name, columns)| c.with_relation(name, table(columns)))
    }

    fn flights() -> Catalog {
        let tables = [
            (
                "flights",
                "year i64, month i64, day i64, dep_time f64?, sched_dep_time i64, arr_delay f64?, carrier text, flight i64, tailnum text?, origin text, dest text, distance i64, hour i64, minute i64",
            ),
            ("weather", "origin text, year i64, month i64, day i64, hour i64, temp f64?, wind_speed f64?, visib f64"),
            ("planes", "tailnum text, year f64?"),
            ("airports", "faa text, lat f64, alt i64"),
            ("airlines", "carrier text, name text"),
            ("preds", "carrier_id i32, month i32, p f32, label f32"),
        ];
        tables.iter().fold(Catalog::default(), |c, (name, columns)| c.with_relation(name, table(columns)))
    }

    fn program(text: &str, catalog: &Catalog) -> Result<crate::import::Imported> {
        let Statement::Query(query) = sql::parse(text)? else { panic!("not a query: {text}") };
        let bound = bind(&query, text, catalog, &[])?;
        let types: Vec<S> = bound.parameters.iter().map(|t| t.unwrap_or(S::Text)).collect();
        crate::import::import(&bound, &types, &query.shown_names, text, 1)
    }

    fn peers(path: &str) -> String {
        let path = format!("{}/../bench/peers/{path}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    #[test]
    fn the_tpch_queries_become_programs() {
        let catalog = tpch();
        for n in 1..=22 {
            let text = peers(&format!("tpch/queries/q{n:02}.sql"));
            let imported = program(&text, &catalog).unwrap_or_else(|e| panic!("Q{n}: {e} at {:?}", e.span()));
            assert!(!imported.columns.is_empty());
            ir::graph::verify::verify(&imported.program).unwrap_or_else(|e| panic!("Q{n}: {e}"));
        }
    }

    #[test]
    fn the_pipelines_become_programs() {
        let preds = table("nationkey i32, revenue f32, p f32");
        for (file, catalog) in [
            ("flights_features", flights()),
            ("flights_agg", flights()),
            ("tpch_infer_features", tpch()),
            ("tpch_infer_agg", tpch().with_relation("preds", preds)),
            ("tpch_train_features", tpch()),
        ] {
            let text = peers(&format!("pipelines/{file}.sql"));
            let imported = program(&text, &catalog).unwrap_or_else(|e| panic!("{file}: {e} at {:?}", e.span()));
            ir::graph::verify::verify(&imported.program).unwrap_or_else(|e| panic!("{file}: {e}"));
        }
    }
}
