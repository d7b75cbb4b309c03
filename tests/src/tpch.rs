//! The 22 queries of TPC-H: their texts with the validation parameters, and the parameters drawn by seed with the
//! answers that another engine gave to them (`bench/peers/tpch/parameters.py` made both).

use std::fs;
use std::path::PathBuf;

use crate::oracle::{Answer, parse_answer};

/// Query numbers.
pub const QUERIES: std::ops::RangeInclusive<u32> = 1..=22;

/// One draw of a query's parameters.
#[derive(Debug, Clone)]
pub struct Case {
    /// The seed it was drawn with.
    pub seed: u32,
    /// Names and values, in the order of the specification.
    pub parameters: Vec<(String, String)>,
    /// The query with these parameters.
    pub sql: String,
    /// The expected answer at SF 0.01.
    pub answer: Answer,
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// The folder with the queries, the answers and the peers' scripts.
pub fn peers() -> PathBuf {
    workspace().join("bench/peers/tpch")
}

/// The text of a query with the validation parameters. Q11's FRACTION is 0.0001 divided by the scale factor; as in
/// `peers.py` the text is changed above SF 1 only.
pub fn query(number: u32, scale_factor: f64) -> Result<String, String> {
    let text = read(peers().join(format!("queries/q{number:02}.sql")))?;
    let mut text = text.trim().to_owned();
    if number == 11 && scale_factor > 1.0 {
        text = text.replace("* 0.0001\n", &format!("* {:.10}\n", 0.0001 / scale_factor));
    }
    Ok(text)
}

/// The text of a query with its parameters written `:NAME`.
pub fn template(number: u32) -> Result<String, String> {
    read(data().join(format!("q{number:02}.sql")))
}

/// Puts parameters into a template. A name that has no value is an error.
pub fn fill(template: &str, parameters: &[(String, String)]) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(':') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit()).unwrap_or(rest.len());
        let name = &rest[..end];
        let value = parameters.iter().find(|(known, _)| known == name);
        out.push_str(&value.ok_or_else(|| format!("no value for the parameter {name:?}"))?.1);
        rest = &rest[end..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The draws of a query with their answers at SF 0.01.
pub fn cases(number: u32) -> Result<Vec<Case>, String> {
    let template = template(number)?;
    let path = data().join(format!("q{number:02}.csv"));
    let text = read(path.clone())?;
    text.split("# seed ")
        .skip(1)
        .map(|block| parse_case(block, &template).map_err(|e| format!("{}: {e}", path.display())))
        .collect()
}

/// Positions of the columns that the query's ORDER BY names, in its order: what two answers must share row by row.
pub fn order_keys(number: u32) -> &'static [usize] {
    match number {
        1 | 9 => &[0, 1],
        2 => &[0, 2, 1, 3],
        3 => &[1, 2],
        4 | 8 | 12 | 15 | 20 | 22 => &[0],
        5 | 11 => &[1],
        7 => &[0, 1, 2],
        10 => &[2],
        13 | 21 => &[1, 0],
        16 => &[3, 0, 1, 2],
        18 => &[4, 3],
        _ => &[],
    }
}

fn parse_case(block: &str, template: &str) -> Result<Case, String> {
    let (head, rows) = block.split_once('\n').ok_or("a seed without an answer")?;
    let mut fields = head.split("; ");
    let seed = fields.next().unwrap_or_default();
    let seed = seed.parse().map_err(|_| format!("{seed:?} is no seed"))?;
    let parameters = fields
        .map(|field| match field.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!("seed {seed}: {field:?} is not NAME=value")),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let sql = fill(template, &parameters)?;
    let answer = parse_answer(rows.trim_end()).map_err(|e| format!("seed {seed}: {e}"))?;
    Ok(Case { seed, parameters, sql, answer })
}

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/tpch")
}

fn read(path: PathBuf) -> Result<String, String> {
    fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parameters of the specification's validation runs, clauses 2.4.1.4 to 2.4.22.4.
    fn validation(number: u32) -> Vec<(String, String)> {
        let text = match number {
            1 => "DELTA=90",
            2 => "SIZE=15;TYPE=BRASS;REGION=EUROPE",
            3 => "SEGMENT=BUILDING;DATE=1995-03-15",
            4 => "DATE=1993-07-01",
            5 => "REGION=ASIA;DATE=1994-01-01",
            6 => "DATE=1994-01-01;DISCOUNT=0.06;QUANTITY=24",
            7 => "NATION1=FRANCE;NATION2=GERMANY",
            8 => "NATION=BRAZIL;REGION=AMERICA;TYPE=ECONOMY ANODIZED STEEL",
            9 => "COLOR=green",
            10 => "DATE=1993-10-01",
            11 => "NATION=GERMANY;FRACTION=0.0001",
            12 => "SHIPMODE1=MAIL;SHIPMODE2=SHIP;DATE=1994-01-01",
            13 => "WORD1=special;WORD2=requests",
            14 => "DATE=1995-09-01",
            15 => "DATE=1996-01-01",
            16 => {
                "BRAND=Brand#45;TYPE=MEDIUM POLISHED;SIZE1=49;SIZE2=14;SIZE3=23;SIZE4=45;SIZE5=19;SIZE6=3;SIZE7=36;SIZE8=9"
            }
            17 => "BRAND=Brand#23;CONTAINER=MED BOX",
            18 => "QUANTITY=300",
            19 => "QUANTITY1=1;QUANTITY2=10;QUANTITY3=20;BRAND1=Brand#12;BRAND2=Brand#23;BRAND3=Brand#34",
            20 => "COLOR=forest;DATE=1994-01-01;NATION=CANADA",
            21 => "NATION=SAUDI ARABIA",
            22 => "I1=13;I2=31;I3=23;I4=29;I5=30;I6=18;I7=17",
            other => panic!("there is no query {other}"),
        };
        text.split(';')
            .filter_map(|field| field.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn templates_with_the_validation_parameters_are_the_standard_texts() {
        for number in QUERIES {
            let filled = fill(&template(number).unwrap(), &validation(number)).unwrap();
            let standard = query(number, 1.0).unwrap();
            let standard: Vec<_> = standard.lines().filter(|line| !line.starts_with("--")).collect();
            assert_eq!(filled.trim().lines().collect::<Vec<_>>(), standard, "q{number:02}");
        }
    }

    #[test]
    fn every_query_has_five_draws_that_return_rows() {
        for number in QUERIES {
            let cases = cases(number).unwrap();
            assert_eq!(cases.iter().map(|case| case.seed).collect::<Vec<_>>(), [1, 2, 3, 4, 5], "q{number:02}");
            for case in &cases {
                assert!(!case.sql.contains(':'), "q{number:02}: {}", case.sql);
                assert!(!case.answer.rows.is_empty(), "q{number:02} seed {}", case.seed);
                for row in &case.answer.rows {
                    assert_eq!(row.len(), case.answer.names.len(), "q{number:02} seed {}: {row:?}", case.seed);
                }
            }
            for (case, next) in cases.iter().zip(&cases[1..]) {
                assert_ne!(case.parameters, next.parameters, "q{number:02}");
            }
        }
    }

    #[test]
    fn a_parameter_without_a_value_is_named() {
        assert_eq!(
            fill("x > :QUANTITY2 + 1", &[("QUANTITY".into(), "3".into())]),
            Err("no value for the parameter \"QUANTITY2\"".to_owned())
        );
    }

    #[test]
    fn the_fraction_of_q11_follows_the_scale_factor() {
        assert!(query(11, 0.01).unwrap().contains("* 0.0001\n"));
        assert!(query(11, 10.0).unwrap().contains("* 0.0000100000\n"));
    }
}
