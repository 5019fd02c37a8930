//! Charts as SVG text. Colours are variables of the page's style, so that they follow light, dark and print.

use crate::html::escape;

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

/// The range of a chart.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    fn of(lines: &[Line]) -> Option<Self> {
        let all = || lines.iter().flat_map(|l| &l.points).filter(|p| p.0.is_finite() && p.1.is_finite());
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
pub(super) fn chart(title: &str, x_name: &str, lines: &[Line]) -> String {
    let Some(scale) = Scale::of(lines) else { return String::new() };
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(title),
        escape(title)
    );
    for i in 0..=4 {
        let share = f64::from(i) / 4.0;
        let y = scale.y.0 + share * (scale.y.1 - scale.y.0);
        let x = scale.x.0 + share * (scale.x.1 - scale.x.0);
        let (_, at_y) = scale.at((x, y));
        let (at_x, _) = scale.at((x, y));
        svg.push_str(&format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at_y:.1}\" y2=\"{at_y:.1}\"/>\
             <text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text><text class=\"x\" x=\"{at_x:.1}\" y=\"{}\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 5.0,
            at_y + 4.0,
            number(y),
            HEIGHT - 9.0,
            number(x)
        ));
    }
    for line in lines {
        let points: Vec<(f64, f64)> = line.points.iter().filter(|p| p.1.is_finite()).map(|p| scale.at(*p)).collect();
        let path: String = points.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
        let class = if line.reference { "mark reference" } else { "mark" };
        svg.push_str(&format!(
            "<polyline class=\"{class} c{}\" points=\"{}\"><title>{}</title></polyline>",
            line.color % COLORS,
            path.trim_end(),
            escape(&line.name)
        ));
        // Few points are points, not only corners.
        if points.len() <= 30 && !line.reference {
            points.iter().for_each(|(x, y)| {
                svg.push_str(&format!(
                    "<circle class=\"dot c{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"/>",
                    line.color % COLORS
                ));
            });
        }
    }
    svg.push_str("</svg><p class=\"legend\">");
    for line in lines {
        let class = if line.reference { " reference" } else { "" };
        svg.push_str(&format!("<span class=\"key{class} c{}\"></span>{} ", line.color % COLORS, escape(&line.name)));
    }
    svg.push_str(&format!("<span class=\"axis\">→ {}</span></p></figure>", escape(x_name)));
    svg
}

/// How many colours the style has.
pub(super) const COLORS: usize = 8;

/// Similarities as squares, from the lowest to the highest; the diagonal is framed.
pub(super) fn heat_map(title: &str, rows: &[Vec<f64>]) -> String {
    let all = || rows.iter().flatten().copied().filter(|v| v.is_finite());
    if rows.is_empty() || all().next().is_none() {
        return String::new();
    }
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let side = 300.0 / rows.len() as f64;
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg class=\"heat\" viewBox=\"0 0 300 300\" role=\"img\" aria-label=\"{}\">",
        escape(title),
        escape(title)
    );
    for (i, row) in rows.iter().enumerate() {
        for (k, value) in row.iter().enumerate() {
            let share = (value - low) / (high - low).max(1e-9);
            let class = if i == k { "mark own" } else { "mark" };
            svg.push_str(&format!(
                "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{side:.2}\" height=\"{side:.2}\" \
                 fill-opacity=\"{share:.2}\"/>",
                k as f64 * side,
                i as f64 * side
            ));
        }
    }
    svg.push_str(&format!(
        "</svg><p class=\"legend\">image ↓ report →, cosine from {} (pale) to {} (full); own pairs framed</p></figure>",
        number(low),
        number(high)
    ));
    svg
}

/// A bar with an interval and a level to read it against.
pub(super) struct Bar {
    pub name: String,
    pub value: f64,
    pub interval: Option<(f64, f64)>,
    pub chance: Option<f64>,
}

/// Bars from 0 to `most`.
pub(super) fn bars(title: &str, bars: &[Bar], most: f64) -> String {
    let shown: Vec<&Bar> = bars.iter().filter(|b| b.value.is_finite()).collect();
    if shown.is_empty() {
        return String::new();
    }
    let height = 22.0 * shown.len() as f64 + 6.0;
    let x = |v: f64| 170.0 + (v / most).clamp(0.0, 1.0) * 230.0;
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 470 {height}\" role=\"img\" aria-label=\"{}\">",
        escape(title),
        escape(title)
    );
    for (i, bar) in shown.iter().enumerate() {
        let y = 4.0 + 22.0 * i as f64;
        let name: String = bar.name.chars().take(26).collect();
        svg.push_str(&format!(
            "<text class=\"y\" x=\"164\" y=\"{:.1}\">{}</text><rect class=\"mark bar\" x=\"170\" y=\"{y:.1}\" \
             width=\"{:.1}\" height=\"15\"/><text class=\"v\" x=\"408\" y=\"{:.1}\">{}</text>",
            y + 12.0,
            escape(&name),
            x(bar.value) - 170.0,
            y + 12.0,
            number(bar.value)
        ));
        if let Some((low, high)) = bar.interval {
            let middle = y + 7.5;
            svg.push_str(&format!(
                "<line class=\"whisker\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>",
                x(low),
                x(high)
            ));
        }
        if let Some(chance) = bar.chance {
            let at = x(chance);
            svg.push_str(&format!(
                "<line class=\"level\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
                y - 1.0,
                y + 16.0
            ));
        }
    }
    svg.push_str("</svg><p class=\"legend\">line: 95 % interval; broken: chance</p></figure>");
    svg
}
