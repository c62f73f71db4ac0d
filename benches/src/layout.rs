//! The layout of a chart: groups of lines, each group under its title, and a caption below.

use crate::case::{Case, ONE_CALL};
use crate::cases;

/// The height of a group's title, which has two lines, and of a line of the caption, in
/// pixels.
const TITLE: usize = 36;
const TEXT: usize = 17;

/// The groups of a chart, one below the other.
pub struct Layout<'a, L> {
    pub groups: Vec<Group<'a, L>>,
    caption: Vec<String>,
    /// Heights in pixels: of a line, of the space below a group, and of all groups.
    line: usize,
    gap: usize,
    height: usize,
}

/// The lines of one case.
pub struct Group<'a, L> {
    pub name: &'a str,
    pub top: usize,
    pub bottom: usize,
    /// Where each line begins, and the line.
    pub lines: Vec<(usize, L)>,
}

impl<'a, L> Layout<'a, L> {
    /// A chart without groups. Its lines and the space below a group have these heights.
    pub fn new(line: usize, gap: usize, caption: Vec<String>) -> Self {
        Self {
            groups: Vec::new(),
            caption,
            line,
            gap,
            height: 0,
        }
    }

    /// Adds a group below the others.
    pub fn push(&mut self, name: &'a str, lines: Vec<L>) {
        let top = self.height;
        let bottom = top + TITLE + self.line * lines.len();
        self.height = bottom + self.gap;
        let tops = (top + TITLE..bottom).step_by(self.line);
        self.groups.push(Group {
            name,
            top,
            bottom,
            lines: tops.zip(lines).collect(),
        });
    }

    /// The lines of all groups.
    pub fn lines(&self) -> impl Iterator<Item = &L> {
        let lines = self.groups.iter().flat_map(|group| &group.lines);
        lines.map(|(_, line)| line)
    }

    /// The height of the chart.
    pub fn height(&self) -> usize {
        self.height + TEXT * self.caption.len() + self.gap
    }

    /// Where each line of the caption stands, and its text.
    pub fn caption(&self) -> Vec<(usize, &str)> {
        let lines = (self.height + TEXT..).step_by(TEXT);
        lines.zip(self.caption.iter().map(String::as_str)).collect()
    }

    /// The chart in words, for those who do not see the picture.
    pub fn label(&self, title: &str, words: impl Fn(&[(usize, L)]) -> Vec<String>) -> String {
        let groups = self.groups.iter();
        let groups = groups.map(|it| format!("{}: {}", it.name, words(&it.lines).join(", ")));
        format!("{title}. {}", groups.collect::<Vec<_>>().join("; "))
    }
}

impl<L> Group<'_, L> {
    /// The work of the case in a few words.
    pub fn work(&self) -> String {
        cases::named(self.name).map_or(ONE_CALL.into(), Case::describe)
    }
}
