//! The chart of intervals: the modelled cycles of each form as a share of the ioctl's.

use anyhow::{Context, Result};
use askama::Template;

use super::cycles::Cycles;
use crate::cycles::Interval;

/// A chart of intervals.
#[derive(Template)]
#[template(path = "intervals.svg")]
pub struct Intervals<'a> {
    /// Whether the picture brings its own style sheet.
    alone: bool,
    /// The share at the right end.
    widest: f64,
    groups: Vec<Group<'a>>,
    caption: [String; 3],
}

/// The intervals of one row.
struct Group<'a> {
    name: &'a str,
    top: usize,
    lines: Vec<Line<'a>>,
}

/// The interval of one form on one processor.
struct Line<'a> {
    /// The form, on its first line.
    form: &'static str,
    processor: &'a str,
    top: usize,
    ratio: Interval,
    /// The ratio if all plain instructions are equally slow.
    equally: Interval,
}

/// Heights in pixels: of a group's two titles, of a line, of the space below a group, and
/// of a line of the caption.
const TITLE: usize = 36;
const LINE: usize = 16;
const GAP: usize = 12;
const TEXT: usize = 17;
/// Where the names of the processors begin, where the shares begin, and where they end, in
/// per cent of the width.
const LEFT: f64 = 16.0;
const ZERO: f64 = 33.0;
const END: f64 = 77.0;

impl<'a> Intervals<'a> {
    /// The chart, as part of a page.
    pub fn new(cycles: &'a Cycles<'_>) -> Self {
        let mut groups: Vec<Group<'_>> = Vec::new();
        let mut top = 0;
        let mut form = "";
        for it in &cycles.modelled {
            let name = &*it.row.name;
            if groups.last().is_none_or(|group| group.name != name) {
                if !groups.is_empty() {
                    top += GAP;
                }
                let lines = Vec::new();
                groups.push(Group { name, top, lines });
                top += TITLE;
                form = "";
            }
            let group = groups.last_mut().expect("there is a group");
            group.lines.push(Line {
                form: if form == it.form { "" } else { it.form },
                processor: it.processor,
                top,
                ratio: it.model.ratio(),
                equally: it.model.equally_slow().ratio(),
            });
            form = it.form;
            top += LINE;
        }
        let lines = groups.iter().flat_map(|group| &group.lines);
        let widest = lines.map(|line| line.ratio.high).fold(1.0, f64::max);
        Self {
            alone: false,
            widest,
            groups,
            caption: [
                "100 % are the cycles of the ioctl on the same processor, with the mitigations of \
                 its hosts."
                    .into(),
                "A bar reaches from the lowest to the highest share that the costs allow; its dark \
                 part, if all plain instructions are equally slow."
                    .into(),
                "Modelled, not measured.".into(),
            ],
        }
    }

    /// The same chart as a file.
    pub fn file(mut self) -> Result<String> {
        self.alone = true;
        self.render().context("the chart of intervals")
    }

    fn height(&self) -> usize {
        let last = self.groups.iter().flat_map(|group| group.lines.last());
        let lines = last.map(|line| line.top + LINE).max().unwrap_or_default();
        lines + GAP + TEXT * self.caption.len() + GAP
    }

    /// Where a share stands.
    fn at(&self, share: &f64) -> f64 {
        ZERO + (END - ZERO) * share / self.widest
    }

    fn width(&self, ratio: &Interval) -> f64 {
        // A narrow interval stays visible.
        (self.at(&ratio.high) - self.at(&ratio.low)).max(0.3)
    }

    /// Where a line of the caption stands.
    fn line(&self, nth: &usize) -> usize {
        self.height() - GAP - TEXT * (self.caption.len() - 1 - nth)
    }

    /// The intervals in words, across all processors, for those who do not see the picture.
    pub fn label(&self) -> String {
        let groups = self.groups.iter().map(|group| {
            let mut forms: Vec<(&str, Interval)> = Vec::new();
            for line in &group.lines {
                match forms.last_mut() {
                    Some((_, ratio)) if line.form.is_empty() => *ratio = ratio.hull(line.ratio),
                    _ => forms.push((line.form, line.ratio)),
                }
            }
            let forms = forms.iter();
            let forms = forms.map(|(form, ratio)| format!("{form} {}", percent(ratio)));
            format!("{}: {}", group.name, forms.collect::<Vec<_>>().join(", "))
        });
        let groups = groups.collect::<Vec<_>>().join("; ");
        format!("Modelled shares of ioctl. {groups}")
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
