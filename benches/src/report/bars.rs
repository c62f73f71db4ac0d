//! Bars for the parts of a run up to an exit.

use std::fmt::Write;

use crate::interface::INTERFACES;
use crate::parts::Part;
use crate::record::{Profile, Row};

/// The bars of one kind of exit.
pub struct Bars<'a> {
    /// The case's name.
    pub name: &'a str,
    /// The picture. It has no width of its own, and its text is as large as the
    /// page's.
    pub svg: String,
    /// The same in numbers: each interface's name, and its profile.
    pub profiles: Vec<(&'static str, &'a Profile)>,
}

/// The height of a bar, and of all that belongs to it.
const BAR: u32 = 24;
const BLOCK: u32 = 52;
/// How much of the width, in per cent, a number needs.
const FITS: f64 = 7.0;

/// The bars of a row, if it has parts.
pub fn bars(row: &Row) -> Option<Bars<'_>> {
    let profile = |name| Some((name, row.figures.get(name)?.profile.as_ref()?));
    let mut profiles: Vec<_> = INTERFACES.into_iter().filter_map(profile).collect();
    profiles.retain(|(_, profile)| !profile.parts.is_empty());
    let most = profiles.iter().map(|(_, it)| it.instructions).max()?;
    let mut svg = format!(
        "<svg class=\"bars\" role=\"img\" width=\"100%\" height=\"{}\" aria-label=\"{}: {}\">",
        BLOCK * profiles.len() as u32,
        row.name,
        profiles
            .iter()
            .map(|(name, it)| format!("{name} {}", it.instructions))
            .collect::<Vec<_>>()
            .join(", ")
    );
    for (nth, (name, profile)) in (0..).zip(&profiles) {
        bar(&mut svg, nth * BLOCK, name, profile, most);
    }
    svg.push_str("</svg>");
    let name = &row.name;
    Some(Bars {
        name,
        svg,
        profiles,
    })
}

fn bar(svg: &mut String, top: u32, name: &str, profile: &Profile, most: u64) {
    let percent = |count: f64| 100.0 * count / most as f64;
    let (text, y) = (top + 14, top + 20);
    let _ = write!(
        svg,
        "<text x=\"0\" y=\"{text}\">{name}</text>\
         <text x=\"100%\" y=\"{text}\" text-anchor=\"end\">{}</text>",
        profile.instructions
    );
    let mut before = 0.0;
    for part in Part::ALL {
        let count = profile.parts.get(&part).copied().unwrap_or_default();
        if count == 0 {
            continue;
        }
        let (x, width) = (percent(before), percent(count as f64));
        let class = class(&part);
        let _ = write!(
            svg,
            "<g><title>{}: {count}, {:.1} %</title>\
             <rect class=\"{class}\" x=\"{x:.3}%\" y=\"{y}\" width=\"{width:.3}%\" \
             height=\"{BAR}\"/>",
            part.title(),
            100.0 * count as f64 / profile.instructions as f64,
        );
        if width > FITS {
            let (middle, base) = (x + width / 2.0, y + 17);
            let _ = write!(
                svg,
                "<text class=\"in\" x=\"{middle:.3}%\" y=\"{base}\" text-anchor=\"middle\">{count}</text>"
            );
        }
        svg.push_str("</g>");
        before += count as f64;
    }
}

/// The part's colour, by the class in the style sheet.
pub fn class(part: &Part) -> &'static str {
    match part {
        Part::Floor => "floor",
        Part::Entry => "entry",
        Part::RunLoop => "run-loop",
        Part::State => "state",
        Part::Guest => "guest",
        Part::Return => "return",
    }
}
