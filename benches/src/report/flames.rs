//! Flame graphs and differential flame graphs.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use inferno::{differential, flamegraph};
use profile::Folded;
use roxmltree::{Document, ParsingOptions};

use super::functions::{by_function, change};
use crate::grid::Grid;
use crate::interface::INTERFACES;
use crate::record::{Profile, Run};

/// The graphs of one call.
pub struct Flames<'a> {
    pub name: &'a str,
    /// One for each interface.
    pub graphs: Vec<Graph<'a>>,
    /// One for each interface but the first, compared with the first.
    pub differences: Vec<Difference>,
}

/// The instructions of one call by one interface.
pub struct Graph<'a> {
    pub name: &'static str,
    pub profile: &'a Profile,
    /// The number of calls in total.
    pub of: u64,
    pub svg: String,
}

/// The difference between another interface and the first.
pub struct Difference {
    pub name: &'static str,
    /// The picture of the first, with the instructions that go away.
    pub gone: String,
    /// The picture of the other, with the instructions that are added.
    pub added: String,
    /// The functions whose number of instructions differs.
    pub functions: Grid,
}

/// The graphs of each recorded call.
///
/// # Errors
///
/// If a stack is malformed.
pub fn of(run: &Run) -> Result<Vec<Flames<'_>>> {
    let mut flames = Vec::new();
    for row in &run.rows {
        let mut graphs = Vec::new();
        for name in INTERFACES {
            if let Some(figure) = row.figures.get(name)
                && let Some(profile) = &figure.profile
                && !profile.stacks.is_empty()
            {
                graphs.push(Graph {
                    name,
                    profile,
                    of: figure.exact.as_ref().map_or(0, |count| count.calls),
                    svg: draw(&lines(&profile.stacks), false)?,
                });
            }
        }
        let differences = match &graphs[..] {
            [] => continue,
            [first, others @ ..] if first.name == "ioctl" => {
                let others = others.iter();
                others.map(|it| difference(first.profile, it)).collect()
            }
            _ => Ok(Vec::new()),
        };
        flames.push(Flames {
            name: &row.name,
            graphs,
            differences: differences?,
        });
    }
    Ok(flames)
}

fn difference(first: &Profile, other: &Graph<'_>) -> Result<Difference> {
    let (name, first, other) = (other.name, &first.stacks, &other.profile.stacks);
    let (a, b) = (aligned(first, other), aligned(other, first));
    let picture = |from, to, negated| -> Result<String> {
        let mut both = Vec::new();
        let (from, to) = (lines(from).join("\n"), lines(to).join("\n"));
        let options = differential::Options::default();
        differential::from_readers(options, from.as_bytes(), to.as_bytes(), &mut both)?;
        let both = String::from_utf8(both)?;
        draw(&both.lines().map(String::from).collect::<Vec<_>>(), negated)
    };
    Ok(Difference {
        name,
        gone: picture(&b, &a, true)?,
        added: picture(&a, &b, false)?,
        functions: functions(name, first, other),
    })
}

/// Removes the callers that `other` does not have. Functions that both sides call are then
/// in the same place in both pictures.
fn aligned(stacks: &Folded, other: &Folded) -> Folded {
    let theirs: BTreeSet<_> = other.keys().flat_map(|stack| stack.split(';')).collect();
    let mut aligned = Folded::new();
    for (stack, count) in stacks {
        let (callers, leaf) = stack.rsplit_once(';').unwrap_or(("", stack));
        let callers = callers.split(';').filter(|name| theirs.contains(name));
        let stack: Vec<_> = callers.chain([leaf]).collect();
        *aligned.entry(stack.join(";")).or_default() += count;
    }
    aligned
}

/// The functions whose own instructions differ, the largest difference first.
fn functions(name: &str, first: &Folded, other: &Folded) -> Grid {
    let mut grid = Grid::new(["function", "ioctl", name, "difference"]);
    for (function, counts @ [before, after]) in by_function(first, other) {
        if before != after {
            grid.push([function], change(counts));
        }
    }
    grid
}

fn lines(stacks: &Folded) -> Vec<String> {
    let line = |(stack, count): (&String, &u64)| format!("{stack} {count}");
    stacks.iter().map(line).collect()
}

/// The width of a graph, and the space above and below its frames that inferno keeps for
/// titles and scripts. The report has neither.
const WIDTH: usize = 1200;
const ABOVE: usize = 34;
const BELOW: usize = 33;

/// Draws a graph of a fixed width. It has no title, script or id, because one page has
/// several graphs. In a `negated` difference, instructions that go away count as fewer.
fn draw(lines: &[String], negated: bool) -> Result<String> {
    let mut options = flamegraph::Options::default();
    options.image_width = Some(WIDTH);
    options.count_name = "instructions".into();
    options.no_javascript = true;
    options.deterministic = true;
    options.negate_differentials = negated;
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
    let svg = String::from_utf8(svg)?;
    // It begins with a document type.
    let options = ParsingOptions {
        allow_dtd: true,
        ..Default::default()
    };
    let document = Document::parse_with_options(&svg, options)?;
    let height = document.root_element().attribute("height");
    let height: usize = height.context("a flame graph has no height")?.parse()?;
    let height = height.saturating_sub(ABOVE + BELOW);
    let frames = document
        .descendants()
        .find(|it| it.attribute("id") == Some("frames"));
    let frames = frames.context("a flame graph has no frames")?.children();
    let frames: String = frames.map(|frame| &svg[frame.range()]).collect();
    Ok(format!(
        "<svg class=\"flame\" role=\"img\" viewBox=\"0 {ABOVE} {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\">{frames}</svg>"
    ))
}
