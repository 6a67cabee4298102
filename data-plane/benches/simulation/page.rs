//! Reports as tables and charts, and the page that has them between marks.

use std::fmt::Write as _;

use super::chart::Chart;
use super::report::{Report, WINDOW_SECONDS, percentile};
use super::scenario::{Micros, SECOND, Scenario, Trouble};

/// Reports of one scenario, as a Markdown table.
pub fn table(reports: &[Report]) -> String {
    let has_trouble = reports.iter().any(|report| report.trouble_to_fair().is_some());
    let mut table = String::from("| algorithm | p50 ms | p90 | p99 | p99.9 | errors | retries | max/mean |");
    table.push_str(if has_trouble { " in trouble |\n" } else { "\n" });
    table.push_str(if has_trouble {
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    } else {
        "|---|--:|--:|--:|--:|--:|--:|--:|\n"
    });
    for report in reports {
        let times = report.times();
        let [p50, p90, p99, p999] =
            [5_000, 9_000, 9_900, 9_990].map(|part| milliseconds(percentile(&times, part)));
        write!(
            table,
            "| {} | {p50} | {p90} | {p99} | {p999} | {} | {} | {:.2} |",
            report.contender.name(),
            report.failed,
            report.retried,
            report.max_to_mean()
        )
        .expect("a string takes all");
        if let Some(part) = report.trouble_to_fair() {
            write!(table, " {part:.2} |").expect("a string takes all");
        }
        table.push('\n');
    }
    table
}

/// Three digits that count.
fn milliseconds(micros: Option<Micros>) -> String {
    let Some(micros) = micros else { return "-".to_owned() };
    let ms = micros as f64 / 1_000.0;
    if ms < 99.95 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

/// The tails of one scenario over time.
pub fn chart(scenario: &Scenario, reports: &[Report]) -> String {
    let in_ms = |value: Option<Micros>| value.map(|micros| micros as f64 / 1_000.0);
    let lines = reports
        .iter()
        .map(|report| (report.contender.name(), report.p99_over_time().into_iter().map(in_ms).collect()));
    let chart = Chart {
        title: scenario.title,
        step_seconds: WINDOW_SECONDS as f64,
        shaded: shaded(scenario),
        lines: lines.collect(),
    };
    chart.to_svg()
}

/// When anything is in trouble, to the second.
fn shaded(scenario: &Scenario) -> Vec<(f64, f64)> {
    let mut shaded: Vec<(f64, f64)> = Vec::new();
    let is_on = |trouble: Trouble, second: u64| trouble.is_on(second * SECOND);
    for second in 0..scenario.seconds {
        if scenario.targets.iter().any(|plan| is_on(plan.trouble, second)) {
            let at = second as f64;
            match shaded.last_mut() {
                Some((_, to)) if *to == at => *to += 1.0,
                Some(_) | None => shaded.push((at, at + 1.0)),
            }
        }
    }
    shaded
}

/// What the page has of a scenario.
pub fn block(scenario: &Scenario, reports: &[Report]) -> String {
    let mut block = table(reports);
    if scenario.has_chart {
        write!(block, "\n![{}: p99 over time](balancing/{}.svg)\n", scenario.title, scenario.name)
            .expect("a string takes all");
    }
    block
}

/// The page with `block` between the marks of `name`; `None` where it lacks them.
pub fn put(page: &str, name: &str, block: &str) -> Option<String> {
    let (start, end) = marks(name);
    let (before, rest) = page.split_once(&start)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{start}\n{block}{end}{after}"))
}

/// What is before and after a block.
pub fn marks(name: &str) -> (String, String) {
    (
        format!("<!-- simulation {name}: begin, written by the bench -->"),
        format!("<!-- simulation {name}: end -->"),
    )
}
