//! Lines over time as SVG: small, without scripts, readable on white and on black.

use std::fmt::Write as _;

/// In pixels.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 46.0;

/// Between black and white: seen on both.
const GREY: &str = "#808080";

/// Lines that are told apart by most eyes, on white and on black. Source: Okabe and Ito 2008, the middling ones.
const COLOURS: [&str; 6] = ["#e69f00", "#009e73", "#cc79a7", "#8c6bd1", "#d55e00", "#2b8fd6"];

/// A picture of lines.
#[derive(Debug)]
pub struct Chart<'a> {
    /// What stands above it.
    pub title: &'a str,
    /// Seconds between two points of a line.
    pub step_seconds: f64,
    /// Stretches of seconds that are shaded.
    pub shaded: Vec<(f64, f64)>,
    /// Names and values, in milliseconds above 0.
    pub lines: Vec<(&'a str, Vec<Option<f64>>)>,
}

impl Chart<'_> {
    /// Draws it; heights are logarithmic.
    pub fn to_svg(&self) -> String {
        let points = self.lines.iter().map(|(_, values)| values.len()).max().unwrap_or(0).max(2);
        let seconds = points as f64 * self.step_seconds;
        let values = || self.lines.iter().flat_map(|(_, values)| values.iter().flatten().copied());
        let least = ticks().rfind(|tick| values().all(|value| value >= *tick)).unwrap_or(1.0);
        let most = ticks().find(|tick| values().all(|value| value <= *tick)).unwrap_or(100_000.0);
        let x = |second: f64| LEFT + second / seconds * (WIDTH - LEFT - RIGHT);
        let y = |ms: f64| {
            let part = (ms / least).ln() / (most / least).ln().max(1e-9);
            HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
        };
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"{GREY}\">\n\
             <title>{title}</title>\n<text x=\"{LEFT}\" y=\"16\" font-weight=\"bold\">{title}</text>\n",
            title = self.title
        );
        for (from, to) in &self.shaded {
            add(
                &mut svg,
                format_args!(
                    "<rect x=\"{:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\" fill-opacity=\"0.15\"/>",
                    x(*from),
                    x(*to) - x(*from),
                    bottom - TOP
                ),
            );
        }
        for tick in ticks().filter(|tick| (least..=most).contains(tick)) {
            add(
                &mut svg,
                format_args!(
                    "<path d=\"M{LEFT} {0:.1}H{right}\" stroke=\"{GREY}\" stroke-opacity=\"0.35\"/><text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{tick}</text>",
                    y(tick),
                    LEFT - 6.0,
                    y(tick) + 4.0
                ),
            );
        }
        for second in (0_u32..).map(|at| f64::from(at) * 10.0).take_while(|second| *second <= seconds) {
            add(
                &mut svg,
                format_args!(
                    "<path d=\"M{0:.1} {bottom}v5\" stroke=\"{GREY}\"/><text x=\"{0:.1}\" y=\"{1}\" text-anchor=\"middle\">{second}</text>",
                    x(second),
                    bottom + 18.0
                ),
            );
        }
        add(
            &mut svg,
            format_args!(
                "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"{GREY}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">time of arrival, s</text>\n\
             <text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">p99, ms (logarithmic)</text>",
                f64::midpoint(LEFT, right),
                HEIGHT - 8.0,
                f64::midpoint(TOP, bottom)
            ),
        );
        let share = (WIDTH - LEFT - RIGHT) / self.lines.len().max(1) as f64;
        for (at, ((name, values), colour)) in self.lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let mut path = String::new();
            let mut is_down = false;
            for (point, value) in values.iter().enumerate() {
                let Some(value) = value else {
                    is_down = false;
                    continue;
                };
                let second = (point as f64 + 0.5) * self.step_seconds;
                let letter = if is_down { 'L' } else { 'M' };
                write!(path, "{letter}{:.1} {:.1}", x(second), y(*value)).expect("a string takes all");
                is_down = true;
            }
            let legend = LEFT + at as f64 * share;
            add(
                &mut svg,
                format_args!(
                    "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" stroke-linejoin=\"round\"/>\n\
                 <path d=\"M{legend:.1} 33h14\" stroke=\"{colour}\" stroke-width=\"4\"/><text x=\"{:.1}\" y=\"37\" font-size=\"10\">{name}</text>",
                    legend + 18.0
                ),
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn add(svg: &mut String, part: std::fmt::Arguments<'_>) {
    writeln!(svg, "{part}").expect("a string takes all");
}

/// 1, 2, 5, 10, and so on to 100,000.
fn ticks() -> impl DoubleEndedIterator<Item = f64> {
    let decades = [1.0, 10.0, 100.0, 1_000.0, 10_000.0];
    decades.into_iter().flat_map(|decade| [1.0, 2.0, 5.0].map(|one| one * decade)).chain([100_000.0])
}
