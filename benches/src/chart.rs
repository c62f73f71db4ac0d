//! A chart of shares of ioctl: for each case, one bar for each interface.
//!
//! It is an SVG picture of the width that it is given. The README shows it as a file of
//! its own, and the report as a part of its page.

use anyhow::{Context, Result};
use askama::Template;

use crate::case::ONE_CALL;
use crate::cases;
use crate::interface::Column;
use crate::legend;
use crate::record::{CaseRow, Record, Run};

/// The cases of the chart at the top of the README and of the report.
pub const FIRST: [&str; 4] = [
    "kvm_run_pio_out",
    "kvm_get_regs",
    "emulation_loop",
    "registers_read_written",
];

/// The other exits, in 64-bit mode.
pub const EXITS: [&str; 6] = [
    "kvm_run_pio_in",
    "kvm_run_mmio_write",
    "kvm_run_mmio_read",
    "kvm_run_hlt",
    "kvm_run_immediate_exit",
    "mmio_emulation_loop",
];
/// Larger work.
pub const WORK: [&str; 7] = [
    "vcpu_saved_restored",
    "debugger_step",
    "memory_mapped",
    "page_replaced",
    "dirty_pages_fetched",
    "kick",
    "interrupt_by_another_thread",
];

/// Describes a row in a few words.
#[must_use]
pub fn describe(row: &str) -> &'static str {
    cases::named(row).map_or(ONE_CALL, |case| case.work)
}

/// A chart of some cases.
#[derive(Template)]
#[template(path = "chart.svg")]
pub struct Chart<'a> {
    /// Whether the picture brings its own style sheet.
    alone: bool,
    /// The width of the bars for ioctl, in per cent of the picture.
    whole: f64,
    groups: Vec<Group<'a>>,
    caption: Vec<String>,
}

/// The bars of one case.
struct Group<'a> {
    name: &'a str,
    top: usize,
    bars: Vec<Bar>,
}

/// The figure of one interface.
struct Bar {
    name: &'static str,
    /// Whether an unpatched kernel has the interface.
    stock: bool,
    top: usize,
    /// The figure, without its unit.
    figure: String,
    /// The share of ioctl.
    share: f64,
}

/// Heights in pixels: of a group's two titles, of a bar and its margin, of the space
/// below a group, and of a line of the caption.
const TITLE: usize = 36;
const BAR: usize = 18;
const GAP: usize = 10;
const LINE: usize = 17;
/// Where bars begin, and how wide the longest is, in per cent of the width.
const LEFT: f64 = 22.0;
const WIDEST: f64 = 64.0;
/// The largest share that makes the other bars shorter. A longer bar is cut off.
const LARGEST: f64 = 1.5;
/// The narrowest bar that has room for its figure.
const ROOM: f64 = 16.0;

impl<'a> Chart<'a> {
    /// The chart of these rows of a record's first run, as part of a page. `None` if no
    /// row compares anything.
    #[must_use]
    pub fn new(record: &'a Record, rows: &[&str]) -> Option<Self> {
        let run = record.runs.first()?;
        let mut top = 0;
        let rows = rows.iter().filter_map(|name| run.row(name));
        let groups: Vec<_> = rows.filter_map(|row| group(row, &mut top)).collect();
        let caption = caption(record, run);
        let shares = groups.iter().flat_map(|it: &Group<'_>| &it.bars);
        let largest = shares.map(|bar| bar.share).fold(1.0, f64::max);
        let whole = WIDEST / largest.min(LARGEST);
        (!groups.is_empty()).then_some(Self {
            alone: false,
            whole,
            groups,
            caption,
        })
    }

    /// The same chart as a file.
    ///
    /// # Errors
    ///
    /// If the template cannot be filled in.
    pub fn file(mut self) -> Result<String> {
        self.alone = true;
        self.render().context("the chart")
    }

    fn height(&self) -> usize {
        let groups = self.groups.last().map_or(0, |it| it.top + it.height());
        groups + LINE * self.caption.len() + GAP
    }

    /// The width of a bar.
    fn width(&self, bar: &Bar) -> f64 {
        (self.whole * bar.share).clamp(0.0, WIDEST)
    }

    /// Where a bar ends.
    fn end(&self, bar: &Bar) -> f64 {
        LEFT + self.width(bar)
    }

    /// Whether a bar is shorter than its share.
    fn cut_off(&self, bar: &Bar) -> bool {
        bar.share > LARGEST
    }

    /// Where a line of the caption stands.
    fn line(&self, nth: &usize) -> usize {
        self.height() - GAP - LINE * (self.caption.len() - 1 - nth)
    }

    /// The figures in words, for those who do not see the picture.
    #[must_use]
    pub fn label(&self) -> String {
        let groups = self.groups.iter().map(|group| {
            let bars = group.bars.iter().skip(1);
            let bars = bars.map(|bar| format!("{} {:.0} %", bar.name, 100.0 * bar.share));
            format!("{}: {}", group.name, bars.collect::<Vec<_>>().join(", "))
        });
        let groups = groups.collect::<Vec<_>>().join("; ");
        format!("Shares of ioctl. {groups}")
    }
}

impl Group<'_> {
    fn height(&self) -> usize {
        TITLE + BAR * self.bars.len() + GAP
    }
}

fn group<'a>(row: &'a CaseRow, top: &mut usize) -> Option<Group<'a>> {
    let mut bars = Vec::new();
    for column in Column::ALL {
        let name = column.name();
        // The crate makes the same ioctls. The tables have its figures.
        if column == Column::KvmIoctls {
            continue;
        }
        let (Some(figure), Some(ratio)) = (row.figures.get(name), row.share(name, "ioctl")) else {
            continue;
        };
        bars.push(Bar {
            name,
            stock: column.is_stock(),
            top: *top + TITLE + BAR * bars.len(),
            figure: format!("{:.0}", figure.value()?),
            share: ratio,
        });
    }
    let group = Group {
        name: &row.name,
        top: *top,
        bars,
    };
    if group.bars.len() < 2 {
        return None;
    }
    *top += group.height();
    Some(group)
}

fn caption(record: &Record, run: &Run) -> Vec<String> {
    let mut lines = vec![
        "100 % is ioctl. Shorter is better.".to_owned(),
        "Gray: in Linux. Blue: added by the patch series.".to_owned(),
    ];
    lines.extend(legend::caption(record.unit, run));
    lines
}
