//! The page of the ablation: a table and a plot.

use std::fmt::Write;

use serde_json::Value;

use super::Measured;
use super::cases::cases;

/// A case that takes less time without its rule by more than this share is told apart.
const NOISE: f64 = 0.03;

/// The table, in Markdown; rules without a switch are in it with their reasons.
pub(super) fn table(all: &[Measured]) -> String {
    let mut out = String::from(
        "| rule | what is run | on, ms | off, ms | off / on | of neighbouring runs | results |\n\
         | --- | --- | ---: | ---: | ---: | --- | --- |\n",
    );
    for case in cases() {
        let Some(m) = all.iter().find(|m| m.case.rule == case.rule) else {
            if case.switch.is_none() {
                let _ = writeln!(out, "| {} | {} | | | | | |", case.rule, case.shown);
            }
            continue;
        };
        let (low, high) = m.range();
        let equal = match (m.is_equal(), m.apart) {
            (true, 0.0) => "equal".to_string(),
            (true, apart) => format!("within {apart:.0e}"),
            (false, apart) => format!("**differ by {apart:.0e}**"),
        };
        let slower = if m.gain() < 1.0 - NOISE { " (slower)" } else { "" };
        let _ = writeln!(
            out,
            "| {} | {} | {:.1} | {:.1} | {:.2}{slower} | {low:.2} to {high:.2} | {equal} |",
            case.rule,
            case.shown,
            m.on.median(),
            m.off.median(),
            m.gain()
        );
    }
    out
}

/// The page: where it was measured, the plot and the table.
pub(super) fn page(all: &[Measured], result: &Value) -> String {
    let text = |key: &str| match &result[key] {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    format!(
        "# The border rules, on and off\n\n\
         Made by `cargo bench -p bench --bench ablation -- --threads {} --copies {} --reps {} --docs docs/src`.\n\n\
         {}, {} CPUs, {}, commit {}; {} copies of the flights of 2013, {} threads, medians of {} runs of each side, which took turns. \
         Other programs kept {} CPUs busy.\n\n\
         ![Time without each rule as a multiple of the time with it](ablation.svg)\n\n{}",
        text("threads"),
        text("copies"),
        text("reps"),
        text("cpu"),
        text("cpus"),
        text("date"),
        text("commit"),
        text("copies"),
        text("threads"),
        text("reps"),
        text("other_cpus"),
        table(all)
    )
}

const LEFT: f64 = 60.0;
const WIDTH: f64 = 560.0;
const BAR: f64 = 18.0;
const STEP: f64 = 28.0;
const TOP: f64 = 16.0;

/// A bar for each rule: the time without it as a multiple of the time with it, on a logarithmic scale from 1 on, and a line
/// for the range of neighbouring runs.
pub(super) fn plot(all: &[Measured]) -> String {
    let ends = |m: &Measured| {
        let (low, high) = m.range();
        (low.min(m.gain()).min(1.0), high.max(m.gain()).max(1.0))
    };
    let low = all.iter().map(|m| ends(m).0).fold(0.9, f64::min);
    let high = all.iter().map(|m| ends(m).1).fold(2.0, f64::max) * 1.05;
    let x = |value: f64| LEFT + (value / low).ln() / (high / low).ln() * WIDTH;
    let height = TOP + STEP * all.len() as f64 + 30.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n",
        LEFT + WIDTH + 70.0
    );
    let bottom = height - 30.0;
    for tick in [0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0].into_iter().filter(|t| (low..=high).contains(t))
    {
        let at = x(tick);
        let colour = if tick == 1.0 { "#444" } else { "#ccc" };
        let _ = writeln!(out, "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"{colour}\"/>");
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}×</text>", bottom + 18.0);
    }
    for (i, m) in all.iter().enumerate() {
        let y = TOP + STEP * i as f64 + (STEP - BAR) / 2.0;
        let (one, gain) = (x(1.0), x(m.gain()));
        let colour = if m.gain() < 1.0 - NOISE { "#c0504d" } else { "#4f81bd" };
        let (from, width) = (one.min(gain), (gain - one).abs().max(1.0));
        let middle = y + BAR / 2.0;
        let (a, b) = m.range();
        let _ = writeln!(out, "<text x=\"8\" y=\"{:.1}\">{}</text>", middle + 4.5, m.case.rule);
        let _ = writeln!(
            out,
            "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"><title>{}</title></rect>",
            m.case.shown
        );
        let _ = writeln!(
            out,
            "<line x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\" stroke=\"#000\"/>",
            x(a),
            x(b)
        );
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\">{:.2}</text>",
            x(b.max(m.gain()).max(1.0)) + 6.0,
            middle + 4.5,
            m.gain()
        );
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Times;

    fn measured(rule: &str, on: &[f64], off: &[f64]) -> Measured {
        let case = cases().into_iter().find(|c| c.rule == rule).unwrap();
        let times = |t: &[f64]| t.iter().copied().collect::<Times>();
        Measured { case, on: times(on), off: times(off), apart: 0.0 }
    }

    #[test]
    fn the_table_has_every_rule_and_says_which_is_slower() {
        let mut all = vec![measured("B7", &[2.0, 2.0], &[3.0, 5.0]), measured("M4", &[2.0], &[1.0])];
        all[0].apart = 2e-7;
        let table = table(&all);
        assert!(table.contains("| 2.0 | 4.0 | 2.00 | 1.50 to 2.50 | within 2e-7 |"), "{table}");
        assert!(table.contains("0.50 (slower)") && table.contains("| B2 | no switch"), "{table}");
    }

    #[test]
    fn the_plot_is_one_bar_a_rule() {
        let plot = plot(&[measured("B7", &[2.0], &[3.0]), measured("M4", &[2.0], &[1.9])]);
        assert_eq!(plot.matches("<rect").count(), 2);
        assert!(plot.starts_with("<svg") && plot.ends_with("</svg>\n") && !plot.contains("NaN"), "{plot}");
    }
}
