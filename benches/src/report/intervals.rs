//! The chart of intervals: the modelled cycles of each form as a share of the ioctl's.

use std::mem::replace;

use askama::Template;

use super::cycles::Cycles;
use crate::cycles::Interval;
use crate::layout::Layout;

/// A chart of intervals.
#[derive(Template)]
#[template(path = "intervals.svg")]
pub struct Intervals<'a> {
    /// Whether the picture brings its own style sheet.
    pub alone: bool,
    /// The share at the right end.
    widest: f64,
    layout: Layout<'a, Line<'a>>,
}

/// The interval of one form on one processor.
struct Line<'a> {
    /// The form, on its first line.
    form: &'static str,
    processor: &'a str,
    ratio: Interval,
    /// The ratio if all plain instructions are equally slow.
    equally: Interval,
}

/// Heights in pixels: of a line, and of the space below a group.
const LINE: usize = 16;
const GAP: usize = 12;
/// Where the names of the processors begin, where the shares begin, and where they end, in
/// per cent of the width.
const LEFT: f64 = 16.0;
const ZERO: f64 = 33.0;
const END: f64 = 77.0;

/// The lines below the chart.
const CAPTION: [&str; 3] = [
    "100 % are the cycles of the ioctl on the same processor, with the mitigations of its hosts.",
    "A bar reaches from the lowest to the highest share that the costs allow; its dark part, if \
     all plain instructions are equally slow.",
    "Modelled, not measured.",
];

impl<'a> Intervals<'a> {
    /// The chart, as part of a page.
    pub fn new(cycles: &'a Cycles<'_>) -> Self {
        let mut layout = Layout::new(LINE, GAP, CAPTION.map(String::from).into());
        for row in cycles.modelled.chunk_by(|a, b| a.row.name == b.row.name) {
            let mut last = "";
            let lines = row.iter().map(|it| {
                let is_first = replace(&mut last, it.form) != it.form;
                Line {
                    form: if is_first { it.form } else { "" },
                    processor: it.processor,
                    ratio: it.model.ratio(),
                    equally: it.model.equally_slow().ratio(),
                }
            });
            layout.push(&row[0].row.name, lines.collect());
        }
        let ends = layout.lines().map(|line: &Line<'_>| line.ratio.high);
        Self {
            alone: false,
            widest: ends.fold(1.0, f64::max),
            layout,
        }
    }

    /// Where the share of the ioctl stands.
    fn whole(&self) -> f64 {
        self.at(&1.0)
    }

    /// Where a share stands.
    fn at(&self, share: &f64) -> f64 {
        ZERO + (END - ZERO) * share / self.widest
    }

    fn width(&self, ratio: &Interval) -> f64 {
        // A narrow interval stays visible.
        (self.at(&ratio.high) - self.at(&ratio.low)).max(0.3)
    }

    /// The intervals in words, across all processors.
    pub fn label(&self) -> String {
        self.layout.label("Modelled shares of ioctl", |lines| {
            let mut forms: Vec<(&str, Interval)> = Vec::new();
            for (_, line) in lines {
                match forms.last_mut() {
                    Some((_, ratio)) if line.form.is_empty() => *ratio = ratio.hull(line.ratio),
                    _ => forms.push((line.form, line.ratio)),
                }
            }
            let forms = forms.iter();
            let forms = forms.map(|(form, ratio)| format!("{form} {}", percent(ratio)));
            forms.collect()
        })
    }
}

fn percent(&Interval { low, high }: &Interval) -> String {
    let [low, high] = [low, high].map(|share| format!("{:.0}", 100.0 * share));
    if low == high {
        format!("{low} %")
    } else {
        format!("{low} to {high} %")
    }
}
