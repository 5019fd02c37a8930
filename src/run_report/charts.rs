//! Charts as SVG. Colours are variables of the page's style, so that they follow light, dark and print.

use maud::{Markup, html};

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 52.0;
const BOTTOM: f64 = 26.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 10.0;

/// A line of a chart.
pub(super) struct Line {
    pub name: String,
    /// Points from left to right.
    pub points: Vec<(f64, f64)>,
    /// Number of its colour, from 0.
    pub color: usize,
    /// Thin and broken: a level to read others against.
    pub reference: bool,
}

/// Whether a number has a place in a drawing: differences of larger ones are not finite.
fn drawn(value: f64) -> bool {
    value.abs() < 1e100
}

/// The range of a chart.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    fn of(lines: &[Line]) -> Option<Self> {
        let all = || lines.iter().flat_map(|l| &l.points).filter(|p| drawn(p.0) && drawn(p.1));
        let range = |pick: fn(&(f64, f64)) -> f64| {
            let low = all().map(pick).fold(f64::INFINITY, f64::min);
            let high = all().map(pick).fold(f64::NEG_INFINITY, f64::max);
            let room = if high > low { 0.0 } else { 0.5 * low.abs().max(1e-6) };
            (low - room, high + room)
        };
        all().next()?;
        Some(Self { x: range(|p| p.0), y: range(|p| p.1) })
    }

    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let across = (x - self.x.0) / (self.x.1 - self.x.0);
        let up = (y - self.y.0) / (self.y.1 - self.y.0);
        (LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP))
    }
}

/// A number with three digits that count.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if !v.is_finite() => "–".into(),
        v if v == v.round() && v < 1e6 => format!("{value:.0}"),
        v if !(1e-3..1e5).contains(&v) => format!("{value:.1e}"),
        v if v < 1.0 => format!("{value:.3}"),
        v if v < 100.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

/// A chart with its title; empty where no line has a point.
pub(super) fn chart(title: &str, x_name: &str, lines: &[Line]) -> Markup {
    let Some(scale) = Scale::of(lines) else { return html! {} };
    html! {
        figure {
            figcaption { (title) }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(title) {
                @for quarter in 0..=4 { (grid(&scale, f64::from(quarter) / 4.0)) }
                @for line in lines { (curve(&scale, line)) }
            }
            p.legend {
                @for line in lines {
                    span class={ "key" @if line.reference { " reference" } " " (color(line)) } {}
                    (line.name) " "
                }
                span.axis { "→ " (x_name) }
            }
        }
    }
}

/// A level with its number, and the number below it, at a share of both axes.
fn grid(scale: &Scale, share: f64) -> Markup {
    let x = scale.x.0 + share * (scale.x.1 - scale.x.0);
    let y = scale.y.0 + share * (scale.y.1 - scale.y.0);
    let (at_x, at_y) = scale.at((x, y));
    html! {
        line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(tenths(at_y)) y2=(tenths(at_y)) {}
        text.y x=(LEFT - 5.0) y=(tenths(at_y + 4.0)) { (number(y)) }
        text.x x=(tenths(at_x)) y=(HEIGHT - 9.0) { (number(x)) }
    }
}

fn curve(scale: &Scale, line: &Line) -> Markup {
    let points: Vec<(f64, f64)> =
        line.points.iter().filter(|p| drawn(p.0) && drawn(p.1)).map(|p| scale.at(*p)).collect();
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    // Few points are points, not only corners.
    let dots: &[(f64, f64)] = if points.len() <= 30 && !line.reference { &points } else { &[] };
    html! {
        polyline class={ "mark" @if line.reference { " reference" } " " (color(line)) } points=(path.join(" ")) {
            title { (line.name) }
        }
        @for (x, y) in dots { circle class={ "dot " (color(line)) } cx=(tenths(*x)) cy=(tenths(*y)) r="2.6" {} }
    }
}

/// The style's class of a line's colour.
fn color(line: &Line) -> String {
    const COLORS: usize = 8;
    format!("c{}", line.color % COLORS)
}

/// A place in a drawing.
fn tenths(value: f64) -> String {
    format!("{value:.1}")
}

/// Similarities as squares, from the lowest to the highest; the diagonal is framed.
pub(super) fn heat_map(title: &str, rows: &[Vec<f64>]) -> Markup {
    let all = || rows.iter().flatten().copied().filter(|v| drawn(*v));
    if rows.is_empty() || all().next().is_none() {
        return html! {};
    }
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let side = 300.0 / rows.len() as f64;
    let size = format!("{side:.2}");
    let share = |value: f64| format!("{:.2}", ((value - low) / (high - low).max(1e-9)).clamp(0.0, 1.0));
    html! {
        figure {
            figcaption { (title) }
            svg.heat viewBox="0 0 300 300" role="img" aria-label=(title) {
                @for (i, row) in rows.iter().enumerate() {
                    @for (k, value) in row.iter().enumerate() {
                        rect.mark.own[i == k] x=(tenths(k as f64 * side)) y=(tenths(i as f64 * side)) width=(size)
                            height=(size) fill-opacity=(share(*value)) {}
                    }
                }
            }
            p.legend {
                "image ↓ report →, cosine from " (number(low)) " (pale) to " (number(high)) " (full); own pairs framed"
            }
        }
    }
}

/// A bar with an interval and a level to read it against.
pub(super) struct Bar {
    pub name: String,
    pub value: f64,
    pub interval: Option<(f64, f64)>,
    pub chance: Option<f64>,
}

/// Bars from 0 to `most`.
pub(super) fn bars(title: &str, bars: &[Bar], most: f64) -> Markup {
    let shown: Vec<&Bar> = bars.iter().filter(|b| drawn(b.value)).collect();
    if shown.is_empty() {
        return html! {};
    }
    let height = 22.0 * shown.len() as f64 + 6.0;
    // What is no number stands at 0.
    let share = |v: f64| if v.is_finite() { (v / most).clamp(0.0, 1.0) } else { 0.0 };
    let x = |v: f64| 170.0 + share(v) * 230.0;
    html! {
        figure {
            figcaption { (title) }
            svg viewBox={ "0 0 470 " (height) } role="img" aria-label=(title) {
                @for (i, bar) in shown.iter().enumerate() { (row(bar, 4.0 + 22.0 * i as f64, x)) }
            }
            p.legend { "line: 95 % interval; broken: chance" }
        }
    }
}

/// One bar with its top at `y`; `x` places a value.
fn row(bar: &Bar, y: f64, x: impl Fn(f64) -> f64) -> Markup {
    let name: String = bar.name.chars().take(26).collect();
    let middle = tenths(y + 7.5);
    html! {
        text.y x="164" y=(tenths(y + 12.0)) { (name) }
        rect.mark.bar x="170" y=(tenths(y)) width=(tenths(x(bar.value) - 170.0)) height="15" {}
        text.v x="408" y=(tenths(y + 12.0)) { (number(bar.value)) }
        @if let Some((low, high)) = bar.interval {
            line.whisker x1=(tenths(x(low))) x2=(tenths(x(high))) y1=(middle) y2=(middle) {}
        }
        @if let Some(chance) = bar.chance {
            line.level x1=(tenths(x(chance))) x2=(tenths(x(chance))) y1=(tenths(y - 1.0)) y2=(tenths(y + 16.0)) {}
        }
    }
}
