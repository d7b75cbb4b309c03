use std::fmt::Write;

use expect_test::{Expect, expect};

use super::*;

/// Prints what was read: one line a fact, each place as the text that it covers.
fn show(text: &str) -> String {
    let statements = match parse(text) {
        Ok(statements) => statements,
        Err(error) => {
            let mut out = format!("error: {error}\n   at: {}\n", mark(text, error.span()));
            if let Some((span, label)) = error.related() {
                writeln!(out, "  and: {} ({label})", mark(text, span)).unwrap();
            }
            if let Some(help) = error.help() {
                writeln!(out, " help: {help}").unwrap();
            }
            return out;
        }
    };
    let mut out = String::new();
    for statement in &statements {
        show_statement(text, statement, &mut out);
    }
    out
}

/// The text around a place, with the place between angle brackets.
fn mark(text: &str, span: Span) -> String {
    let before: String = text[..span.start].chars().rev().take(12).collect();
    let before: String = before.chars().rev().collect();
    let after: String = text[span.end..].chars().take(8).collect();
    format!("{before}⟨{}⟩{after}", span.of(text)).replace('\n', "⏎")
}

fn show_statement(text: &str, statement: &Statement, out: &mut String) {
    match &statement.kind {
        StatementKind::Sql(sql) => {
            assert_eq!(sql.source(), statement.span.of(text));
            show_sql(text, sql, out);
        }
        StatementKind::CreateModel(model) => {
            let CreateModel { name, or_replace, if_not_exists, transform, options, query } = &**model;
            writeln!(out, "create model {} or_replace={or_replace} if_not_exists={if_not_exists}", name.value).unwrap();
            for item in transform.iter().flatten() {
                match &item.kind {
                    TransformKind::Wildcard { except } => {
                        let names: Vec<&str> = except.iter().map(|n| n.value.as_str()).collect();
                        writeln!(out, "  all columns except {names:?}").unwrap();
                    }
                    TransformKind::Column { name, value } => {
                        writeln!(out, "  {} = {}", name.value, show_value(text, value)).unwrap();
                    }
                }
            }
            for option in &options.given {
                writeln!(out, "  option {} = {:?} <{}>", option.name, option.value, option.value_span.of(text))
                    .unwrap();
            }
            match query {
                Some(query) => show_sql(text, query, out),
                None => writeln!(out, "  no query").unwrap(),
            }
        }
        StatementKind::Explain { analyze, level, statement } => {
            writeln!(out, "explain analyze={analyze} {level:?}").unwrap();
            show_statement(text, statement, out);
        }
        StatementKind::Set { name, value, .. } => {
            writeln!(out, "set {} {value:?}", name.value).unwrap();
        }
        StatementKind::ShowModels => out.push_str("show models\n"),
        StatementKind::DescribeModel(name) => writeln!(out, "describe {}", name.value).unwrap(),
        StatementKind::DropModel { name, if_exists } => {
            writeln!(out, "drop {} if_exists={if_exists}", name.value).unwrap();
        }
        StatementKind::ExportModel { name, path } => {
            writeln!(out, "export {} to {path}", name.value).unwrap();
        }
        StatementKind::ImportModel { name, path } => {
            writeln!(out, "import {} from {path}", name.value).unwrap();
        }
    }
}

fn show_sql(text: &str, sql: &Sql, out: &mut String) {
    let rendered = sql.text();
    writeln!(out, "sql {}", rendered.text).unwrap();
    check_places(text, &rendered);
    for call in sql.calls() {
        writeln!(
            out,
            "  {:?} model={} threshold={:?} <{}>",
            call.table,
            call.model.value,
            call.threshold,
            call.span.of(text)
        )
        .unwrap();
        assert_eq!(
            call.model.span.of(text).to_lowercase().replace(['"', '`', '\''], ""),
            call.model.value.to_lowercase()
        );
        if let Some(input) = sql.input(call) {
            writeln!(out, "    reads {}", input.text).unwrap();
            check_places(text, &input);
        }
        for argument in call.arguments() {
            let name = argument.name.as_ref().map_or(String::new(), |n| format!("{} => ", n.value));
            writeln!(out, "    given {name}<{}>", argument.span.of(text)).unwrap();
        }
    }
}

/// Every word of a rendered text either is the caller's at the place it maps to, or stands for text of the wrapper.
fn check_places(text: &str, rendered: &Rendered) {
    for (at, c) in rendered.text.char_indices() {
        let span = rendered.locate(Span { start: at, end: at + c.len_utf8() });
        assert!(text.get(span.start..span.end).is_some(), "{span:?} in {text}");
    }
}

fn show_value(text: &str, value: &FeatureValue) -> String {
    match value {
        FeatureValue::Expression { sql, span } => {
            assert_eq!(span.of(text), sql);
            sql.clone()
        }
        FeatureValue::Feature { function, input, .. } => format!("{function:?} of ({})", show_value(text, input)),
    }
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&show(text));
}

#[test]
fn a_script_is_cut_at_semicolons_that_are_not_in_strings_comments_or_names() {
    check(
        "-- first; comment\nSELECT 'a;b', \"c;d\" /* ; ' */ FROM t;; SELECT $$x;y$$ ;\n-- end;",
        expect![[r#"
            sql SELECT 'a;b', "c;d" /* ; ' */ FROM t
            sql SELECT $$x;y$$
        "#]],
    );
}

#[test]
fn an_empty_script_has_no_statements() {
    assert!(parse("").unwrap().is_empty());
    assert!(parse(" ; -- nothing\n ;").unwrap().is_empty());
}

#[test]
fn statements_about_models() {
    check(
        "SHOW MODELS; DESCRIBE MODEL late; desc model \"Late\"; DROP MODEL IF EXISTS Late; DROP MODEL late;
         EXPORT MODEL late TO 'out/late'; IMPORT MODEL late FROM 'out/late'",
        expect![[r#"
            show models
            describe late
            describe Late
            drop late if_exists=true
            drop late if_exists=false
            export late to out/late
            import late from out/late
        "#]],
    );
}

#[test]
fn tables_may_be_called_model() {
    check(
        "DESCRIBE model; DROP TABLE model; SELECT model.x, ml.y FROM model, ml",
        expect![[r#"
        sql DESCRIBE model
        sql DROP TABLE model
        sql SELECT model.x, ml.y FROM model, ml
    "#]],
    );
}

#[test]
fn settings() {
    check(
        "SET threads = 4; SET memory_limit = '4GB'; set optimizer to off; SET a.b = true; SET x = -1.5",
        expect![[r#"
            set threads Number(4.0)
            set memory_limit Text("4GB")
            set optimizer Text("off")
            set a.b Bool(true)
            set x Number(-1.5)
        "#]],
    );
}

#[test]
fn explain_takes_a_level_with_parentheses_or_without() {
    check(
        "EXPLAIN SELECT 1; EXPLAIN ANALYZE SELECT 1; EXPLAIN (GRAPH) SELECT 1; EXPLAIN CLIF SELECT 1;
         EXPLAIN ANALYZE (ASM) SELECT 1; EXPLAIN (ANALYZE, kernel) SELECT 1; EXPLAIN (SELECT 1);
         EXPLAIN PLAN CREATE MODEL m OPTIONS (model_type='linear_reg') AS SELECT 1 AS label",
        expect![[r#"
            explain analyze=false None
            sql SELECT 1
            explain analyze=true None
            sql SELECT 1
            explain analyze=false Some(Graph)
            sql SELECT 1
            explain analyze=false Some(Clif)
            sql SELECT 1
            explain analyze=true Some(Asm)
            sql SELECT 1
            explain analyze=true Some(Kernel)
            sql SELECT 1
            explain analyze=false None
            sql (SELECT 1)
            explain analyze=false Some(Plan)
            create model m or_replace=false if_not_exists=false
              option model_type = Text("linear_reg") <'linear_reg'>
            sql SELECT 1 AS label
        "#]],
    );
    check(
        "EXPLAIN (GRPH) SELECT 1",
        expect![[r#"
        error: there is no level of EXPLAIN 'GRPH'
           at: EXPLAIN (⟨GRPH⟩) SELECT
         help: did you mean 'GRAPH'?
    "#]],
    );
    check(
        "EXPLAIN",
        expect![[r#"
        error: expected a statement, found the end
           at: EXPLAIN⟨⟩
    "#]],
    );
    check(
        "EXPLAIN EXPLAIN SELECT 1",
        expect![[r#"
        error: expected a statement to explain, found EXPLAIN
           at: EXPLAIN ⟨EXPLAIN⟩ SELECT 
    "#]],
    );
}

#[test]
fn create_model_with_every_clause() {
    check(
        "CREATE OR REPLACE MODEL Late
         TRANSFORM (
           ML.STANDARD_SCALER(distance) OVER(),
           ML.STANDARD_SCALER(ML.IMPUTER(temp, 'mean') OVER()) OVER () AS temp,
           ML.MIN_MAX_SCALER(hour + minute / 60.0) OVER() AS t, -- a comment, with a comma
           ml.one_hot_encoder(f.carrier) over() carrier,
           ML.BUCKETIZE(alt, [-10, 0, 100.5]) AS alt_band,
           ML.IMPUTER(\"Wind Speed\", 'MEDIAN') OVER(),
           month, hour % 12 AS h12, f(a, b) g, * EXCEPT (x, Y), *
         )
         OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['late'], hidden_units = [64, 64], activation_fn = 'RELU',
                  batch_size = 1024, learn_rate = 1e-3, max_iterations = 3, optimizer = \"adam\", early_stop = FALSE,
                  data_split_method = 'custom', data_split_col = 'is_test', seed = 7)
         AS SELECT * FROM flights",
        expect![[r#"
            create model late or_replace=true if_not_exists=false
              distance = StandardScaler of (distance)
              temp = StandardScaler of (Imputer { strategy: Mean } of (temp))
              t = MinMaxScaler of (hour + minute / 60.0)
              carrier = OneHotEncoder of (f.carrier)
              alt_band = Bucketize { boundaries: [-10.0, 0.0, 100.5] } of (alt)
              Wind Speed = Imputer { strategy: Median } of ("Wind Speed")
              month = month
              h12 = hour % 12
              g = f(a, b)
              all columns except ["x", "y"]
              all columns except []
              option model_type = Text("dnn_classifier") <'dnn_classifier'>
              option input_label_cols = Array([Text("late")]) <['late']>
              option hidden_units = Array([Number(64.0), Number(64.0)]) <[64, 64]>
              option activation_fn = Text("RELU") <'RELU'>
              option batch_size = Number(1024.0) <1024>
              option learn_rate = Number(0.001) <1e-3>
              option max_iterations = Number(3.0) <3>
              option optimizer = Text("adam") <"adam">
              option early_stop = Bool(false) <FALSE>
              option data_split_method = Text("custom") <'custom'>
              option data_split_col = Text("is_test") <'is_test'>
              option seed = Number(7.0) <7>
            sql SELECT * FROM flights
        "#]],
    );
}

#[test]
fn options_may_stand_before_transform_and_the_query_may_be_missing_with_a_path() {
    check(
        "CREATE MODEL IF NOT EXISTS m OPTIONS (model_type='linear_reg', input_label_cols='y', hidden_units = ARRAY[8]) TRANSFORM (x, y) AS (SELECT x, y FROM t);
         CREATE MODEL n OPTIONS (path='n.safetensors');
         CREATE MODEL o OPTIONS (model_type='logistic_reg', data_split_method='random', data_split_eval_fraction=.2) AS WITH a AS (SELECT 1 AS label) SELECT * FROM a",
        expect![[r#"
            create model m or_replace=false if_not_exists=true
              x = x
              y = y
              option model_type = Text("linear_reg") <'linear_reg'>
              option input_label_cols = Text("y") <'y'>
              option hidden_units = Array([Number(8.0)]) <ARRAY[8]>
            sql (SELECT x, y FROM t)
            create model n or_replace=false if_not_exists=false
              option path = Text("n.safetensors") <'n.safetensors'>
              no query
            create model o or_replace=false if_not_exists=false
              option model_type = Text("logistic_reg") <'logistic_reg'>
              option data_split_method = Text("random") <'random'>
              option data_split_eval_fraction = Number(0.2) <.2>
            sql WITH a AS (SELECT 1 AS label) SELECT * FROM a
        "#]],
    );
}

#[test]
fn options_come_back_typed() {
    let statements = parse(
        "CREATE MODEL m OPTIONS (model_type='DNN_Regressor', input_label_cols='y', hidden_units=[8, 4], batch_size=32, \
         learn_rate=0.5, early_stop=true) AS SELECT 1 AS y",
    )
    .unwrap();
    let StatementKind::CreateModel(model) = &statements[0].kind else {
        panic!("{statements:?}");
    };
    let options = &model.options;
    assert_eq!(options.word("model_type").as_deref(), Some("dnn_regressor"));
    assert_eq!(options.texts("input_label_cols"), Some(vec!["y"]));
    assert_eq!(options.sizes("hidden_units"), Some(vec![8, 4]));
    assert_eq!(options.integer("batch_size"), Some(32));
    assert_eq!(options.number("learn_rate"), Some(0.5));
    assert_eq!(options.bool("early_stop"), Some(true));
    assert_eq!(options.integer("seed"), None);
}

#[test]
fn model_functions_become_table_names() {
    check(
        "SELECT p.carrier, count(*) FROM ML.PREDICT(MODEL late, TABLE flights) AS p JOIN airlines a ON a.carrier = p.carrier",
        expect![[r#"
            sql SELECT p.carrier, count(*) FROM "ML.PREDICT(late)" AS p JOIN airlines a ON a.carrier = p.carrier
              "ML.PREDICT(late)" model=late threshold=None <ML.PREDICT(MODEL late, TABLE flights)>
                reads SELECT * FROM flights
        "#]],
    );
    check(
        "SELECT * FROM ml . predict ( model Late , ( SELECT * FROM flights WHERE ')' <> '(' ) , STRUCT ( 0.55 AS threshold ) )",
        expect![[r#"
            sql SELECT * FROM "ML.PREDICT(late)"
              "ML.PREDICT(late)" model=late threshold=Some(0.55) <ml . predict ( model Late , ( SELECT * FROM flights WHERE ')' <> '(' ) , STRUCT ( 0.55 AS threshold ) )>
                reads ( SELECT * FROM flights WHERE ')' <> '(' )
        "#]],
    );
    check(
        "SELECT * FROM ML.EVALUATE(MODEL m), ML.EVALUATE(MODEL m, TABLE t), ML.EVALUATE(MODEL m, STRUCT(0.3 AS threshold)), ML.TRAINING_INFO(MODEL m), ML.WEIGHTS(MODEL `M`)",
        expect![[r#"
            sql SELECT * FROM "ML.EVALUATE(m)", "ML.EVALUATE(m) #2", "ML.EVALUATE(m) #3", "ML.TRAINING_INFO(m)", "ML.WEIGHTS(M)"
              "ML.EVALUATE(m)" model=m threshold=None <ML.EVALUATE(MODEL m)>
              "ML.EVALUATE(m) #2" model=m threshold=None <ML.EVALUATE(MODEL m, TABLE t)>
                reads SELECT * FROM t
              "ML.EVALUATE(m) #3" model=m threshold=Some(0.3) <ML.EVALUATE(MODEL m, STRUCT(0.3 AS threshold))>
              "ML.TRAINING_INFO(m)" model=m threshold=None <ML.TRAINING_INFO(MODEL m)>
              "ML.WEIGHTS(M)" model=M threshold=None <ML.WEIGHTS(MODEL `M`)>
        "#]],
    );
    check(
        "CREATE TABLE p AS SELECT * FROM ML.PREDICT(MODEL m, TABLE 'x.parquet')",
        expect![[r#"
            sql CREATE TABLE p AS SELECT * FROM "ML.PREDICT(m)"
              "ML.PREDICT(m)" model=m threshold=None <ML.PREDICT(MODEL m, TABLE 'x.parquet')>
                reads SELECT * FROM 'x.parquet'
        "#]],
    );
}

#[test]
fn model_functions_in_subqueries_and_inside_of_each_other() {
    check(
        "SELECT * FROM (SELECT x FROM ML.PREDICT(MODEL a, (SELECT *, 1 AS one FROM ML.PREDICT(MODEL b, TABLE t) WHERE y > 0))) q
         WHERE x IN (SELECT x FROM ML.PREDICT(MODEL b, TABLE u)) -- done",
        expect![[r#"
            sql SELECT * FROM (SELECT x FROM "ML.PREDICT(a)") q
                     WHERE x IN (SELECT x FROM "ML.PREDICT(b) #2")
              "ML.PREDICT(b)" model=b threshold=None <ML.PREDICT(MODEL b, TABLE t)>
                reads SELECT * FROM t
              "ML.PREDICT(a)" model=a threshold=None <ML.PREDICT(MODEL a, (SELECT *, 1 AS one FROM ML.PREDICT(MODEL b, TABLE t) WHERE y > 0))>
                reads (SELECT *, 1 AS one FROM "ML.PREDICT(b)" WHERE y > 0)
              "ML.PREDICT(b) #2" model=b threshold=None <ML.PREDICT(MODEL b, TABLE u)>
                reads SELECT * FROM u
        "#]],
    );
}

#[test]
fn inputs_keep_the_tables_of_the_with_clauses_around_them() {
    check(
        "WITH a AS (SELECT * FROM t), b(x) AS (SELECT * FROM ML.PREDICT(MODEL m, TABLE a))
         SELECT * FROM ML.PREDICT(MODEL n, (WITH c AS (SELECT 1) SELECT * FROM b, c)) JOIN ML.WEIGHTS(MODEL n) ON true",
        expect![[r#"
            sql WITH a AS (SELECT * FROM t), b(x) AS (SELECT * FROM "ML.PREDICT(m)")
                     SELECT * FROM "ML.PREDICT(n)" JOIN "ML.WEIGHTS(n)" ON true
              "ML.PREDICT(m)" model=m threshold=None <ML.PREDICT(MODEL m, TABLE a)>
                reads WITH a AS (SELECT * FROM t) SELECT * FROM a
              "ML.PREDICT(n)" model=n threshold=None <ML.PREDICT(MODEL n, (WITH c AS (SELECT 1) SELECT * FROM b, c))>
                reads WITH a AS (SELECT * FROM t), b(x) AS (SELECT * FROM "ML.PREDICT(m)") SELECT * FROM (WITH c AS (SELECT 1) SELECT * FROM b, c)
              "ML.WEIGHTS(n)" model=n threshold=None <ML.WEIGHTS(MODEL n)>
        "#]],
    );
    check(
        "WITH a AS (SELECT 1 AS x) SELECT * FROM (WITH b AS (SELECT * FROM a) SELECT * FROM ML.PREDICT(MODEL n, TABLE b))",
        expect![[r#"
            sql WITH a AS (SELECT 1 AS x) SELECT * FROM (WITH b AS (SELECT * FROM a) SELECT * FROM "ML.PREDICT(n)")
              "ML.PREDICT(n)" model=n threshold=None <ML.PREDICT(MODEL n, TABLE b)>
                reads WITH a AS (SELECT 1 AS x) SELECT * FROM (WITH b AS (SELECT * FROM a) SELECT * FROM b)
        "#]],
    );
    check(
        "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r WHERE x < 3) SELECT * FROM (SELECT * FROM ML.PREDICT(MODEL n, TABLE r))",
        expect![[r#"
            sql WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r WHERE x < 3) SELECT * FROM (SELECT * FROM "ML.PREDICT(n)")
              "ML.PREDICT(n)" model=n threshold=None <ML.PREDICT(MODEL n, TABLE r)>
                reads WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r WHERE x < 3) SELECT * FROM r
        "#]],
    );
}

#[test]
fn calls_are_expanded_in_place() {
    let text = "WITH é AS (SELECT 1 AS x) SELECT p.* FROM ML.PREDICT(MODEL a, (SELECT * FROM ML.PREDICT(MODEL b, TABLE é))) AS p, ML.WEIGHTS(MODEL a) WHERE nope";
    let statements = parse(text).unwrap();
    let StatementKind::Sql(sql) = &statements[0].kind else {
        panic!("{statements:?}");
    };
    let rendered = sql
        .expand(|call| -> Result<Expansion, ()> {
            Ok(if call.has_input() {
                Expansion::Around { before: "(SELECT *, f(x) AS y FROM ".to_string(), after: ")".to_string() }
            } else {
                Expansion::Table("weights".to_string())
            })
        })
        .unwrap();
    assert_eq!(
        rendered.text,
        "WITH é AS (SELECT 1 AS x) SELECT p.* FROM (SELECT *, f(x) AS y FROM (SELECT * FROM (SELECT *, f(x) AS y FROM é))) AS p, weights WHERE nope"
    );
    let at = rendered.text.find("nope").unwrap();
    let span = rendered.locate(Span { start: at, end: at + 4 });
    assert_eq!(span.of(text), "nope");
    let column = rendered.text[..at].chars().count() as u64 + 1;
    assert_eq!(rendered.locate_line_column(1, column), span);
    let at = rendered.text.find("f(x)").unwrap();
    let span = rendered.locate(Span { start: at, end: at + 4 });
    assert!(span.of(text).starts_with("ML.PREDICT(MODEL a"));
}

#[test]
fn scalar_predictions_are_cut_out() {
    check(
        "SELECT predict('late', a, f(b, 1)) > 0.5 FROM t",
        expect![[r#"
        sql SELECT "predict(late)" > 0.5 FROM t
          "predict(late)" model=late threshold=None <predict('late', a, f(b, 1))>
            given <a>
            given <f(b, 1)>
    "#]],
    );
    check(
        "SELECT a, PREDICT('m', y => predict('n', b), x => 1) FROM t GROUP BY predict('m')",
        expect![[r#"
        sql SELECT a, "predict(m)" FROM t GROUP BY "predict(m) #2"
          "predict(n)" model=n threshold=None <predict('n', b)>
            given <b>
          "predict(m)" model=m threshold=None <PREDICT('m', y => predict('n', b), x => 1)>
            given y => <predict('n', b)>
            given x => <1>
          "predict(m) #2" model=m threshold=None <predict('m')>
    "#]],
    );
    check(
        "SELECT predict(a) FROM t",
        expect![[r#"
        sql SELECT predict(a) FROM t
    "#]],
    );
    check(
        "SELECT * FROM predict('m', a)",
        expect![[r#"
        error: predict belongs in an expression
           at: LECT * FROM ⟨predict('m', a)⟩
         help: it returns one value; for a table write SELECT * FROM ML.PREDICT(MODEL m, TABLE t) or ML.PREDICT(MODEL m, (SELECT …))
    "#]],
    );
    check(
        "SELECT predict('m', a, x => b)",
        expect![[r#"
        error: expected all arguments with a name, or none, found b
           at: m', a, x => ⟨b⟩)
         help: write predict('m', a, b) or predict('m', x => a, y => b)
    "#]],
    );
    check(
        "SELECT predict('m', x => a, x => b)",
        expect![[r#"
        error: the argument 'x' is given twice
           at: m', x => a, ⟨x⟩ => b)
          and: redict('m', ⟨x⟩ => a, x (first given here)
         help: remove one of the two
    "#]],
    );
    check(
        "SELECT predict('m', a b)",
        expect![[r#"
        sql SELECT "predict(m)"
          "predict(m)" model=m threshold=None <predict('m', a b)>
            given <a b>
    "#]],
    );
    check(
        "SELECT predict('m' || 'n', a)",
        expect![[r#"
        error: expected a comma or the closing parenthesis, found ||
           at: predict('m' ⟨||⟩ 'n', a)
    "#]],
    );
}

#[test]
fn an_item_alone_in_its_list_is_named() {
    let expanded = |text: &str| {
        let statements = parse(text).unwrap();
        let StatementKind::Sql(sql) = &statements[0].kind else { panic!("a query") };
        let call = |call: &ModelCall| {
            let arguments = (0..call.arguments().len()).map(Given::Argument).collect();
            Ok::<_, SqlError>(Expansion::Call { function: "f".into(), arguments })
        };
        sql.expand(call).unwrap().text
    };
    assert_eq!(expanded("SELECT predict('m', a), b FROM t"), "SELECT \"f\"(a) AS predict, b FROM t");
    assert_eq!(expanded("SELECT b, predict('m', a) p FROM t"), "SELECT b, \"f\"(a) p FROM t");
    assert_eq!(expanded("SELECT g(b, predict('m', a))"), "SELECT g(b, \"f\"(a))");
    assert_eq!(expanded("SELECT a FROM t ORDER BY b, predict('m', a)"), "SELECT a FROM t ORDER BY b, \"f\"(a)");
}

#[test]
fn errors_in_sql_point_at_the_place() {
    check(
        "SELECT 1;\nSELECT 'größe', FROM t WHERE",
        expect![[r#"
        error: expected an expression, found the end
           at: FROM t WHERE⟨⟩
    "#]],
    );
    check(
        "SELECT a b c FROM t",
        expect![[r#"
        error: expected the end of the statement, found c
           at: SELECT a b ⟨c⟩ FROM t
    "#]],
    );
    check(
        "SELEC 1",
        expect![[r#"
        error: expected an SQL statement, found SELEC
           at: ⟨SELEC⟩ 1
    "#]],
    );
    check(
        "SELECT (1",
        expect![[r#"
        error: this parenthesis is not closed
           at: SELECT ⟨(⟩1
    "#]],
    );
    check(
        "SELECT 1; SELECT 'open",
        expect![[r#"
            error: this text is not closed
               at: T 1; SELECT ⟨'open⟩
        "#]],
    );
    check(
        "SELECT \"open",
        expect![[r#"
            error: this quoted name is not closed
               at: SELECT ⟨"open⟩
        "#]],
    );
    check(
        "SELECT 1 /* open",
        expect![[r#"
            error: this comment is not closed
               at: SELECT 1 ⟨/* open⟩
        "#]],
    );
    check(
        "SELECT * FROM ML.PREDICT(MODEL m, TABLE t) WHERE x = = 1",
        expect![[r#"
            error: expected an expression, found =
               at: ) WHERE x = ⟨=⟩ 1
        "#]],
    );
    check(
        "SELECT * FROM ML.PREDICT(MODEL m, (SELECT x FRM t WHERE)) p",
        expect![[r#"
        error: expected ), found t
           at: ELECT x FRM ⟨t⟩ WHERE))
    "#]],
    );
}

#[test]
fn errors_in_calls_of_model_functions() {
    check(
        "SELECT * FROM ML.PREDICT('late', TABLE t)",
        expect![[r#"
        error: expected MODEL, found 'late'
           at:  ML.PREDICT(⟨'late'⟩, TABLE 
         help: write ML.PREDICT(MODEL m, TABLE t) or ML.PREDICT(MODEL m, (SELECT …))
    "#]],
    );
    check(
        "SELECT * FROM ML.PREDICT(MODEL late)",
        expect![[r#"
        error: expected a comma and the input, found the end
           at: T(MODEL late⟨⟩)
         help: write ML.PREDICT(MODEL m, TABLE t) or ML.PREDICT(MODEL m, (SELECT …))
    "#]],
    );
    check(
        "SELECT * FROM ML.PREDICT(MODEL late, t)",
        expect![[r#"
        error: expected TABLE and a name, or a query in parentheses, found t
           at: MODEL late, ⟨t⟩)
         help: write ML.PREDICT(MODEL m, TABLE t) or ML.PREDICT(MODEL m, (SELECT …))
    "#]],
    );
    check(
        "SELECT * FROM ML.PREDICT(MODEL late, SELECT 1)",
        expect![[r#"
        error: expected TABLE and a name, or a query in parentheses, found SELECT
           at: MODEL late, ⟨SELECT⟩ 1)
         help: write ML.PREDICT(MODEL m, TABLE t) or ML.PREDICT(MODEL m, (SELECT …))
    "#]],
    );
    check(
        "SELECT * FROM ML.PREDICT(MODEL late, TABLE t",
        expect![[r#"
        error: this parenthesis is not closed
           at: M ML.PREDICT⟨(⟩MODEL la
    "#]],
    );
    check(
        "SELECT * FROM ML.PREDICT(MODEL late, TABLE t, 0.5)",
        expect![[r#"
        error: expected STRUCT, found 0.5
           at: e, TABLE t, ⟨0.5⟩)
         help: write ML.PREDICT(MODEL m, TABLE t) or ML.PREDICT(MODEL m, (SELECT …))
    "#]],
    );
    check(
        "SELECT * FROM ML.PREDICT(MODEL late, TABLE t, STRUCT(0.5 AS treshold))",
        expect![[r#"
        error: there is no setting 'treshold'
           at: RUCT(0.5 AS ⟨treshold⟩))
         help: did you mean 'threshold'?
    "#]],
    );
    check(
        "SELECT * FROM ML.PREDICT(MODEL late, TABLE t, STRUCT(1.5 AS threshold))",
        expect![[r#"
        error: threshold takes a probability from 0 to 1, not 1.5
           at: E t, STRUCT(⟨1.5⟩ AS thre
    "#]],
    );
    check(
        "SELECT * FROM ML.PREDICT(MODEL late, (DROP TABLE t))",
        expect![[r#"
        error: expected SELECT, VALUES, or a subquery in the query body, found DROP
           at: ODEL late, (⟨DROP⟩ TABLE t
    "#]],
    );
    check(
        "SELECT * FROM ML.PERDICT(MODEL late, TABLE t)",
        expect![[r#"
        error: there is no model function 'ML.PERDICT'
           at: LECT * FROM ⟨ML.PERDICT⟩(MODEL l
         help: did you mean 'ML.PREDICT'?
    "#]],
    );
    check(
        "SELECT * FROM ML.ROC_CURVE(MODEL late)",
        expect![[r#"
        error: there is no model function 'ML.ROC_CURVE'
           at: LECT * FROM ⟨ML.ROC_CURVE⟩(MODEL l
         help: known: ML.PREDICT, ML.EVALUATE, ML.TRAINING_INFO, ML.WEIGHTS
    "#]],
    );
    check(
        "SELECT * FROM ML.TRAINING_INFO(MODEL late, TABLE t)",
        expect![[r#"
        error: expected the closing parenthesis, found ,
           at: O(MODEL late⟨,⟩ TABLE t
         help: write ML.TRAINING_INFO(MODEL m)
    "#]],
    );
    check(
        "SELECT ML.PREDICT(MODEL late, TABLE t) FROM t",
        expect![[r#"
        error: ML.PREDICT belongs in FROM
           at: SELECT ⟨ML.PREDICT(MODEL late, TABLE t)⟩ FROM t
         help: it returns a table: SELECT * FROM ML.PREDICT(MODEL m, TABLE t) or ML.PREDICT(MODEL m, (SELECT …)); for one value a row write predict('late', …)
    "#]],
    );
    check(
        "SELECT ML.STANDARD_SCALER(x) OVER() FROM t",
        expect![[r#"
        error: ML.STANDARD_SCALER belongs in the TRANSFORM of CREATE MODEL
           at: SELECT ⟨ML.STANDARD_SCALER⟩(x) OVER
         help: its statistics are those of the training rows: CREATE MODEL m TRANSFORM (ML.STANDARD_SCALER(x) OVER(), …)
    "#]],
    );
}

#[test]
fn errors_in_create_model() {
    check(
        "CREATE MODEL",
        expect![[r#"
        error: expected the model's name, found the end
           at: CREATE MODEL⟨⟩
    "#]],
    );
    check(
        "CREATE MODEL m",
        expect![[r#"
        error: expected TRANSFORM (…), OPTIONS (…) or AS and a query, found the end
           at: EATE MODEL m⟨⟩
    "#]],
    );
    check(
        "CREATE MODEL m AS SELECT 1",
        expect![[r#"
        error: the option 'model_type' is missing: it says what is trained
           at: REATE MODEL ⟨m⟩ AS SELE
         help: add model_type = … to OPTIONS
    "#]],
    );
    check(
        "CREATE MODEL m OPTIONS (model_type='linear_reg')",
        expect![[r#"
        error: expected TRANSFORM (…), OPTIONS (…) or AS and a query, found the end
           at: linear_reg')⟨⟩
    "#]],
    );
    check(
        "CREATE MODEL m OPTIONS (model_type='linear_reg') AS DROP TABLE t",
        expect![[r#"
        error: expected a query, found DROP
           at: ar_reg') AS ⟨DROP⟩ TABLE t
    "#]],
    );
    check(
        "CREATE MODEL m OPTIONS (model_type='linear_reg') AS SELECT 1 FRM",
        expect![[r#"
        create model m or_replace=false if_not_exists=false
          option model_type = Text("linear_reg") <'linear_reg'>
        sql SELECT 1 FRM
    "#]],
    );
    check(
        "CREATE MODEL m OPTIONS (model_type='linear_reg'",
        expect![[r#"
        error: this parenthesis is not closed
           at: L m OPTIONS ⟨(⟩model_ty
    "#]],
    );
    check(
        "CREATE MODEL m OPTIONS (seed=1) OPTIONS (seed=2) AS SELECT 1",
        expect![[r#"
        error: OPTIONS is given twice
           at: NS (seed=1) ⟨OPTIONS⟩ (seed=2
          and: ATE MODEL m ⟨OPTIONS⟩ (seed=1 (first given here)
         help: remove one of the two
    "#]],
    );
    check(
        "CREATE MODEL m REMOTE AS SELECT 1",
        expect![[r#"
        error: expected TRANSFORM (…), OPTIONS (…) or AS and a query, found REMOTE
           at: ATE MODEL m ⟨REMOTE⟩ AS SELE
    "#]],
    );
}

#[test]
fn errors_in_options() {
    let create = |options: &str| format!("CREATE MODEL m OPTIONS ({options}) AS SELECT 1 AS label");
    let check = |options: &str, expected: Expect| check(&create(options), expected);
    check(
        "model_typ = 'linear_reg'",
        expect![[r#"
        error: there is no model option 'model_typ'
           at:  m OPTIONS (⟨model_typ⟩ = 'line
         help: did you mean 'model_type'?
    "#]],
    );
    check(
        "colour = 'red'",
        expect![[r#"
        error: there is no model option 'colour'
           at:  m OPTIONS (⟨colour⟩ = 'red'
         help: known: model_type, input_label_cols, hidden_units, activation_fn, batch_size, learn_rate, max_iterations, optimizer, early_stop, data_split_method, data_split_col, data_split_eval_fraction, seed, path
    "#]],
    );
    check(
        "dropout = 0.5",
        expect![[r#"
        error: the option 'dropout' is not supported
           at:  m OPTIONS (⟨dropout⟩ = 0.5) 
         help: leave it out
    "#]],
    );
    check(
        "learn_rate_strategy = 'constant'",
        expect![[r#"
        error: the option 'learn_rate_strategy' is not supported
           at:  m OPTIONS (⟨learn_rate_strategy⟩ = 'cons
         help: give learn_rate
    "#]],
    );
    check(
        "model_type = 'liner_reg'",
        expect![[r#"
        error: the option 'model_type' takes 'dnn_classifier', 'dnn_regressor', 'linear_reg', 'logistic_reg', not 'liner_reg'
           at: odel_type = ⟨'liner_reg'⟩) AS SEL
         help: did you mean 'linear_reg'?
    "#]],
    );
    check(
        "model_type = linear_reg",
        expect![[r#"
        error: the option 'model_type' takes 'dnn_classifier', 'dnn_regressor', 'linear_reg', 'logistic_reg', not the bare word linear_reg (put it in quotes)
           at: odel_type = ⟨linear_reg⟩) AS SEL
    "#]],
    );
    check(
        "model_type = 3",
        expect![[r#"
        error: the option 'model_type' takes 'dnn_classifier', 'dnn_regressor', 'linear_reg', 'logistic_reg', not 3
           at: odel_type = ⟨3⟩) AS SEL
    "#]],
    );
    check(
        "batch_size = 0",
        expect![[r#"
        error: the option 'batch_size' takes a whole number from 1 on, not 0
           at: atch_size = ⟨0⟩) AS SEL
    "#]],
    );
    check(
        "batch_size = 1.5",
        expect![[r#"
        error: the option 'batch_size' takes a whole number from 1 on, not 1.5
           at: atch_size = ⟨1.5⟩) AS SEL
    "#]],
    );
    check(
        "learn_rate = -0.1",
        expect![[r#"
        error: the option 'learn_rate' takes a number above 0, not -0.1
           at: earn_rate = ⟨-0.1⟩) AS SEL
    "#]],
    );
    check(
        "data_split_eval_fraction = 1",
        expect![[r#"
        error: the option 'data_split_eval_fraction' takes a number between 0 and 1, not 1
           at: _fraction = ⟨1⟩) AS SEL
    "#]],
    );
    check(
        "hidden_units = [64, 'x']",
        expect![[r#"
        error: the option 'hidden_units' takes a list of whole numbers from 1 on, as [64, 64], not [64, 'x']
           at: den_units = ⟨[64, 'x']⟩) AS SEL
    "#]],
    );
    check(
        "hidden_units = [64, [3]]",
        expect![[r#"
        error: expected a single value, found [
           at: nits = [64, ⟨[⟩3]]) AS 
    "#]],
    );
    check(
        "hidden_units = []",
        expect![[r#"
        error: the option 'hidden_units' takes a list of whole numbers from 1 on, as [64, 64], not []
           at: den_units = ⟨[]⟩) AS SEL
    "#]],
    );
    check(
        "early_stop = NULL",
        expect![[r#"
        error: expected a text in quotes, a number, TRUE, FALSE or a list, found NULL
           at: arly_stop = ⟨NULL⟩) AS SEL
    "#]],
    );
    check(
        "seed = 1, SEED = 2",
        expect![[r#"
        error: the option 'seed' is given twice
           at:  (seed = 1, ⟨SEED⟩ = 2) AS
          and:  m OPTIONS (⟨seed⟩ = 1, SE (first given here)
         help: remove one of the two
    "#]],
    );
    check(
        "seed 1",
        expect![[r#"
        error: expected = and a value, found 1
           at: TIONS (seed ⟨1⟩) AS SEL
    "#]],
    );
    check(
        "seed =",
        expect![[r#"
        error: expected a whole number from 0 on, found the end
           at: IONS (seed =⟨⟩) AS SEL
    "#]],
    );
    check(
        "seed = 1 2",
        expect![[r#"
        error: expected a comma or the closing parenthesis, found 2
           at: S (seed = 1 ⟨2⟩) AS SEL
    "#]],
    );
    check(
        "seed = 1,",
        expect![[r#"
        error: expected an option's name, found the end
           at: S (seed = 1,⟨⟩) AS SEL
    "#]],
    );
    check(
        "model_type='linear_reg', data_split_method='custom'",
        expect![[r#"
        error: the option 'data_split_col' is missing: this split needs a column
           at: plit_method=⟨'custom'⟩) AS SEL
         help: add data_split_col = … to OPTIONS
    "#]],
    );
    check(
        "model_type='linear_reg', data_split_col='x'",
        expect![[r#"
        error: the option 'data_split_method' is missing: the column splits the rows only with 'custom' or 'seq'
           at: inear_reg', ⟨data_split_col⟩='x') AS
         help: add data_split_method = … to OPTIONS
    "#]],
    );
}

#[test]
fn errors_in_transform() {
    let create = |items: &str| {
        format!("CREATE MODEL m TRANSFORM ({items}) OPTIONS (model_type='linear_reg') AS SELECT 1 AS label")
    };
    let check = |items: &str, expected: Expect| check(&create(items), expected);
    check(
        "",
        expect![[r#"
        error: expected a column, an expression or *, found the end
           at:  TRANSFORM (⟨⟩) OPTION
    "#]],
    );
    check(
        "a,, b",
        expect![[r#"
        error: expected a column, an expression or *, found the end
           at: RANSFORM (a,⟨⟩, b) OPT
    "#]],
    );
    check(
        "a + 1",
        expect![[r#"
            error: expected AS and a name, found no name for 'a + 1'
               at:  TRANSFORM (⟨a + 1⟩) OPTION
             help: only a column alone has a name of its own
        "#]],
    );
    check(
        "a, b AS a",
        expect![[r#"
        error: the column 'a' of TRANSFORM is given twice
           at: RM (a, b AS ⟨a⟩) OPTION
          and:  TRANSFORM (⟨a⟩, b AS a (first given here)
         help: remove one of the two
    "#]],
    );
    check(
        "a AS",
        expect![[r#"
        error: expected an identifier after AS, found the end
           at: NSFORM (a AS⟨⟩) OPTION
    "#]],
    );
    check(
        "a +* 2 AS b",
        expect![[r#"
        error: expected an expression, found *
           at: ANSFORM (a +⟨*⟩ 2 AS b)
    "#]],
    );
    check(
        "t.*",
        expect![[r#"
        error: 't.*' in TRANSFORM is not supported
           at:  TRANSFORM (⟨t.*⟩) OPTION
         help: write a column, an expression AS name, or *
    "#]],
    );
    check(
        "ML.STANDARD_SCALER(a)",
        expect![[r#"
        error: expected OVER(), found the end
           at: RD_SCALER(a)⟨⟩) OPTION
         help: write ML.STANDARD_SCALER(x) OVER()
    "#]],
    );
    check(
        "ML.STANDARD_SCALER() OVER()",
        expect![[r#"
        error: expected a column, found the end
           at: DARD_SCALER(⟨⟩) OVER()
         help: write ML.STANDARD_SCALER(x) OVER()
    "#]],
    );
    check(
        "ML.STANDARD_SCALER(a + 1) OVER()",
        expect![[r#"
            error: expected AS and a name, found no name for 'ML.STANDARD_SCALER(a + 1) OVER()'
               at:  TRANSFORM (⟨ML.STANDARD_SCALER(a + 1) OVER()⟩) OPTION
             help: only a column alone has a name of its own
        "#]],
    );
    check(
        "ML.STANDARD_SCALER(a, 2) OVER()",
        expect![[r#"
        error: this argument of ML.STANDARD_SCALER is not supported
           at: D_SCALER(a, ⟨2⟩) OVER()
         help: write ML.STANDARD_SCALER(x) OVER()
    "#]],
    );
    check(
        "ML.STANDARD_SCALER(a) OVER(PARTITION BY b)",
        expect![[r#"
        error: a window with ML.STANDARD_SCALER is not supported
           at: LER(a) OVER(⟨PARTITION BY b⟩)) OPTIO
         help: write OVER(): the statistics are those of all training rows
    "#]],
    );
    check(
        "ML.STANDARD_SCALER(a) OVER() * 2 AS b",
        expect![[r#"
        error: expected AS and a name, found *
           at: R(a) OVER() ⟨*⟩ 2 AS b)
    "#]],
    );
    check(
        "2 * ML.STANDARD_SCALER(a) OVER() AS b",
        expect![[r#"
        error: ML.STANDARD_SCALER inside of an expression is not supported
           at: NSFORM (2 * ⟨ML.STANDARD_SCALER⟩(a) OVER
         help: let it be the whole item, or the first argument of another ML function
    "#]],
    );
    check(
        "ML.STANDART_SCALER(a) OVER()",
        expect![[r#"
        error: there is no function of TRANSFORM 'ML.STANDART_SCALER'
           at:  TRANSFORM (⟨ML.STANDART_SCALER⟩(a) OVER
         help: did you mean 'ML.STANDARD_SCALER'?
    "#]],
    );
    check(
        "ML.IMPUTER(a) OVER()",
        expect![[r#"
        error: expected 'mean', 'median' or 'most_frequent' as the second argument of ML.IMPUTER, found the end
           at: ML.IMPUTER(a⟨⟩) OVER()
         help: write ML.IMPUTER(x, 'mean') OVER()
    "#]],
    );
    check(
        "ML.IMPUTER(a, 'average') OVER()",
        expect![[r#"
        error: ML.IMPUTER takes 'mean', 'median' or 'most_frequent', not 'average'
           at: .IMPUTER(a, ⟨'average'⟩) OVER()
    "#]],
    );
    check(
        "ML.IMPUTER(a, 'meen') OVER()",
        expect![[r#"
        error: ML.IMPUTER takes 'mean', 'median' or 'most_frequent', not 'meen'
           at: .IMPUTER(a, ⟨'meen'⟩) OVER()
         help: did you mean 'mean'?
    "#]],
    );
    check(
        "ML.BUCKETIZE(a, [3, 1])",
        expect![[r#"
        error: ML.BUCKETIZE takes ascending boundaries, as [0, 10, 20], not [3, 1]
           at: UCKETIZE(a, ⟨[3, 1]⟩)) OPTIO
    "#]],
    );
    check(
        "ML.BUCKETIZE(a, 3)",
        expect![[r#"
        error: ML.BUCKETIZE takes ascending boundaries, as [0, 10, 20], not 3
           at: UCKETIZE(a, ⟨3⟩)) OPTIO
    "#]],
    );
    check(
        "sum(a) OVER () AS b",
        expect![[r#"
        error: a window function in TRANSFORM is not supported
           at: ORM (sum(a) ⟨OVER⟩ () AS b
         help: compute it in the query after AS, as a column
    "#]],
    );
    check(
        "(SELECT 1) AS b",
        expect![[r#"
        error: a subquery in TRANSFORM is not supported
           at: TRANSFORM ((⟨SELECT⟩ 1) AS b
         help: compute it in the query after AS, as a column
    "#]],
    );
}

#[test]
fn deep_nesting_is_refused_not_overflowed() {
    let many = 10_000;
    let parentheses = format!("SELECT {}1{}", "(".repeat(many), ")".repeat(many));
    assert!(matches!(parse(&parentheses), Err(SqlError::TooDeep { .. })));
    let lists = "[".repeat(many);
    assert!(parse(&format!("CREATE MODEL m OPTIONS (hidden_units = {lists}) AS SELECT 1")).is_err());
    let nested = format!(
        "CREATE MODEL m TRANSFORM ({}x{}) OPTIONS (model_type='linear_reg') AS SELECT 1",
        "ML.STANDARD_SCALER(".repeat(many),
        ") OVER()".repeat(many)
    );
    assert!(matches!(parse(&nested), Err(SqlError::TooDeep { .. })));
    assert!(parse(&format!("{} SELECT 1", "EXPLAIN ANALYZE ".repeat(many))).is_err());
}

#[test]
fn long_chains_are_read() {
    let chain = format!("SELECT * FROM ML.WEIGHTS(MODEL m) WHERE x = 1{}", " OR x = 1".repeat(20_000));
    assert!(parse(&chain).is_ok());
}

#[test]
fn no_text_makes_the_parser_panic() {
    // Every prefix and every text with one token left out of a script that has all the forms in it.
    let script = "WITH a AS (SELECT 'x;' AS x) SELECT * FROM ML.PREDICT(MODEL m, (SELECT * FROM a), STRUCT(0.5 AS threshold)) p;
        CREATE OR REPLACE MODEL m TRANSFORM (ML.IMPUTER(x, 'mean') OVER(), ML.BUCKETIZE(y, [1, 2]) AS z, * EXCEPT (é))
        OPTIONS (model_type = 'linear_reg', hidden_units = [1]) AS SELECT 1; EXPLAIN ANALYZE (GRAPH) SELECT 1; SET x = 1;
        SHOW MODELS; DROP MODEL IF EXISTS m; EXPORT MODEL m TO 'd'; /* c */ -- d";
    for (end, _) in script.char_indices() {
        check_spans(&script[..end]);
        check_spans(&script[end..]);
    }
    let words: Vec<&str> = script.split_inclusive([' ', '(', ')', ',', '.']).collect();
    for left_out in 0..words.len() {
        let mut rest = words.clone();
        rest.remove(left_out);
        check_spans(&rest.concat());
    }
}

/// Parses, and checks that all places lie in the text.
fn check_spans(text: &str) {
    match parse(text) {
        Ok(statements) => {
            for statement in statements {
                assert!(text.get(statement.span.start..statement.span.end).is_some());
            }
        }
        Err(error) => {
            let span = error.span();
            assert!(text.get(span.start..span.end).is_some(), "{error:?} in {text}");
        }
    }
}

#[test]
fn a_statement_is_complete_at_its_semicolon() {
    assert!(is_complete(""));
    assert!(is_complete("SELECT 1;"));
    assert!(is_complete("SELECT 1; -- done"));
    assert!(!is_complete("SELECT 1"));
    assert!(!is_complete("SELECT ';"));
    assert!(!is_complete("SELECT 1 -- ;"));
    assert!(!is_complete("SELECT 1 /* ;"));
    assert!(!is_complete("SELECT \";"));
}

#[test]
fn nearest_names() {
    assert_eq!(nearest("hiden_units", &["hidden_units", "seed"]), Some("hidden_units"));
    assert_eq!(nearest("SEED", &["hidden_units", "seed"]), Some("seed"));
    assert_eq!(nearest("xyz", &["hidden_units", "seed"]), None);
    assert_eq!(edits("kitten", "sitting"), 3);
    assert_eq!(edits("", "abc"), 3);
    assert_eq!(edits("größe", "grösse"), 2);
}

#[test]
fn every_option_is_documented_and_in_bigquerys_case() {
    for option in OPTIONS {
        assert!(!option.doc.is_empty());
        assert_eq!(option.name, option.name.to_lowercase());
    }
}
