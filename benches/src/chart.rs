//! A chart of shares of ioctl: for each case, one bar for each interface.
//!
//! It is an SVG picture of the width that it is given. The README shows it as a file of
//! its own, and the report as a part of its page.

use askama::Template;

use crate::interface::Column;
use crate::layout::Layout;
use crate::legend;
use crate::record::{CaseRow, Record};
use crate::table::value;

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
pub const WORK: [&str; 9] = [
    "vcpu_saved_restored",
    "debugger_step",
    "memory_mapped",
    "page_replaced",
    "dirty_log_switched",
    "dirty_pages_fetched",
    "kick",
    "interrupt_by_another_thread",
    "vcpu_changes_threads",
];

/// A chart of some cases.
#[derive(Template)]
#[template(path = "chart.svg")]
pub struct Chart<'a> {
    /// Whether the picture brings its own style sheet.
    pub alone: bool,
    /// The width of the bars for ioctl, in per cent of the picture.
    ioctl: f64,
    layout: Layout<'a, Bar>,
}

/// The figure of one interface.
struct Bar {
    name: &'static str,
    /// Whether an unpatched kernel has the interface.
    stock: bool,
    /// The figure, without its unit.
    figure: String,
    /// The share of ioctl.
    share: f64,
}

/// Heights in pixels: of a bar and its margin, and of the space below a group.
const BAR: usize = 18;
const GAP: usize = 10;
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
        let mut caption = vec![
            "100 % is ioctl. Shorter is better.".to_owned(),
            "Gray: in Linux. Blue: added by the patch series.".to_owned(),
        ];
        caption.extend(legend::caption(record.unit, run));
        let mut layout = Layout::new(BAR, GAP, caption);
        for row in rows.iter().filter_map(|name| run.row(name)) {
            let bars = bars(row);
            if bars.len() > 1 {
                layout.push(&row.name, bars);
            }
        }
        let largest = layout.lines().map(|bar| bar.share).fold(1.0, f64::max);
        (!layout.groups.is_empty()).then_some(Self {
            alone: false,
            ioctl: WIDEST / largest.min(LARGEST),
            layout,
        })
    }

    /// Where the bars for ioctl end.
    fn whole(&self) -> f64 {
        LEFT + self.ioctl
    }

    /// The width of a bar.
    fn width(&self, bar: &Bar) -> f64 {
        (self.ioctl * bar.share).clamp(0.0, WIDEST)
    }

    /// The figures in words.
    #[must_use]
    pub fn label(&self) -> String {
        self.layout.label("Shares of ioctl", |bars| {
            let others = bars.iter().skip(1);
            let others = others.map(|(_, it)| format!("{} {:.0} %", it.name, 100.0 * it.share));
            others.collect()
        })
    }
}

fn bars(row: &CaseRow) -> Vec<Bar> {
    let bar = |column: Column| {
        let name = column.name();
        Some(Bar {
            name,
            stock: column.is_stock(),
            figure: value(row, name)?,
            share: row.share(name, "ioctl")?,
        })
    };
    // The crate makes the same ioctls, and a process the same calls on a bound vCPU. The
    // tables have their figures.
    let columns = Column::ALL.into_iter();
    let columns = columns.filter(|it| ![Column::KvmIoctls, Column::Process].contains(it));
    columns.filter_map(bar).collect()
}
