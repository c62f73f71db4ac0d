//! Bars for the parts of a run up to an exit.

use askama::Template;

use crate::interface::INTERFACES;
use crate::parts::Part;
use crate::record::{CaseRow, Profile};

/// The bars of one kind of exit.
///
/// The picture is as wide as its place, and its text is as large as the page's.
#[derive(Template)]
#[template(path = "bars.svg")]
pub struct Bars<'a> {
    pub name: &'a str,
    /// The name of each interface, and its profile.
    pub profiles: Vec<(&'static str, &'a Profile)>,
    /// The instructions of the longest bar.
    longest: u64,
}

/// A part of a bar.
struct Segment {
    part: Part,
    count: u64,
    /// The share of the bar, in per cent.
    share: f64,
    /// Where it starts, and how wide it is, in per cent of the picture.
    x: f64,
    width: f64,
}

/// The height of a bar, and of a bar with its title, in pixels.
const BAR: usize = 24;
const BLOCK: usize = 52;
/// The width that a number needs, in per cent of the picture.
const FITS: f64 = 7.0;

/// The bars of a row, if it has parts.
pub fn bars(row: &CaseRow) -> Option<Bars<'_>> {
    let profile = |name| Some((name, row.profile(name)?));
    let mut profiles: Vec<_> = INTERFACES.into_iter().filter_map(profile).collect();
    profiles.retain(|(_, profile)| !profile.parts.is_empty());
    Some(Bars {
        name: &row.name,
        longest: profiles.iter().map(|(_, it)| it.instructions).max()?,
        profiles,
    })
}

impl Bars<'_> {
    /// The figures in words, for those who do not see the picture.
    fn label(&self) -> String {
        let bars = self.profiles.iter();
        let bars = bars.map(|(name, it)| format!("{name} {}", it.instructions));
        bars.collect::<Vec<_>>().join(", ")
    }

    fn segments(&self, profile: &Profile) -> Vec<Segment> {
        let mut x = 0.0;
        let counts = profile.parts.iter().filter(|(_, count)| **count > 0);
        let segments = counts.map(|(part, count)| {
            let width = 100.0 * *count as f64 / self.longest as f64;
            x += width;
            Segment {
                part: *part,
                count: *count,
                share: 100.0 * *count as f64 / profile.instructions as f64,
                x: x - width,
                width,
            }
        });
        segments.collect()
    }
}
