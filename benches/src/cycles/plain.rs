//! The cycles of the plain instructions of a call: those between events that have costs of
//! their own, as llvm-mca estimates them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use profile::{Decoded, Pieces};
use serde::{Deserialize, Serialize};

/// The cycles of the plain instructions of one call, compared with those of the ioctl. The
/// estimate for a piece is shared equally by its instructions. An instruction is common as far
/// as both calls execute it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plain {
    /// The cycles of the instructions that the ioctl executes, too.
    pub common: u64,
    /// The cycles of those that the ioctl does not execute.
    pub added: u64,
    /// The cycles of those that only the ioctl executes.
    pub removed: u64,
    /// The number of instructions that llvm-mca does not know, and that are left out.
    pub unknown: u64,
}

/// llvm-mca's estimates for pieces of a recording.
pub struct Estimates(BTreeMap<Vec<u32>, Estimate>);

#[derive(Clone, Copy, Default)]
struct Estimate {
    cycles: u64,
    unknown: u64,
}

/// The output of llvm-mca.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    code_regions: Vec<Region>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Region {
    name: String,
    summary_view: Summary,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Summary {
    instructions: u64,
    total_cycles: u64,
}

/// The name of a region with one instruction. Its estimate is the time to fill the pipeline
/// and to drain it, which no other region should count.
const FLOOR: &str = "floor";

impl Estimates {
    /// Estimates pieces of a recording on a processor, by its name in LLVM. Leaves its files
    /// in `scratch`.
    ///
    /// # Errors
    ///
    /// If llvm-mca fails.
    pub fn new<'a>(
        pieces: impl Iterator<Item = &'a Pieces>,
        code: &Decoded,
        llvm: &str,
        scratch: &Path,
    ) -> Result<Self> {
        let pieces: BTreeSet<_> = pieces.flat_map(|it| it.keys()).collect();
        let mut text = region(FLOOR, ["nop".to_owned()]);
        for (nth, piece) in pieces.iter().enumerate() {
            let lines = piece.iter().map(|place| assembly(code, *place));
            text += &region(&nth.to_string(), lines);
        }
        let [assembly, json] = ["pieces.s", "pieces.json"].map(|name| scratch.join(name));
        fs::write(&assembly, text).context("the pieces")?;
        kernel_patch::llvm_mca(llvm, &assembly, &json)?;
        let output: Output = serde_json::from_slice(&fs::read(&json).context("llvm-mca")?)?;
        // A region is missing if llvm-mca knows none of its instructions.
        let regions = output.code_regions.into_iter();
        let regions: BTreeMap<_, _> = regions.map(|it| (it.name, it.summary_view)).collect();
        let floor = regions.get(FLOOR).context("llvm-mca knows no nop")?;
        let estimate = |(nth, piece): (usize, &Vec<u32>)| {
            let length = piece.len() as u64;
            let region = regions.get(&nth.to_string()).copied().unwrap_or_default();
            let estimate = Estimate {
                cycles: region.total_cycles.saturating_sub(floor.total_cycles),
                unknown: length.saturating_sub(region.instructions),
            };
            (piece.clone(), estimate)
        };
        Ok(Self(pieces.into_iter().enumerate().map(estimate).collect()))
    }

    /// The cycles of a call with these pieces, compared with those of the ioctl.
    #[must_use]
    pub fn plain(&self, pieces: &Pieces, ioctl: Option<&Pieces>) -> Plain {
        let call = self.by_place(pieces);
        let ioctl = ioctl.map_or_else(|| call.clone(), |ioctl| self.by_place(ioctl));
        // What `these` take beyond `those`.
        let beyond = |these: &Cycles, those: &Cycles| -> f64 {
            let rest = these.iter().map(|(place, cycles)| {
                let also = those.get(place).copied().unwrap_or_default();
                (cycles - also).max(0.0)
            });
            rest.sum()
        };
        let added = beyond(&call, &ioctl);
        let all: f64 = call.values().sum();
        Plain {
            common: (all - added).round() as u64,
            added: added.round() as u64,
            removed: beyond(&ioctl, &call).round() as u64,
            unknown: pieces
                .iter()
                .map(|(piece, count)| self.of(piece).unknown * count)
                .sum(),
        }
    }

    fn of(&self, piece: &[u32]) -> Estimate {
        self.0.get(piece).copied().unwrap_or_default()
    }

    /// The cycles of each instruction of a call.
    fn by_place(&self, pieces: &Pieces) -> Cycles {
        let mut cycles = Cycles::new();
        for (piece, count) in pieces {
            let share = self.of(piece).cycles as f64 / piece.len() as f64;
            for place in piece {
                *cycles.entry(*place).or_default() += share * *count as f64;
            }
        }
        cycles
    }
}

/// The cycles of instructions, by place.
type Cycles = BTreeMap<u32, f64>;

/// An instruction in assembly. LLVM's models have no figure for endbr64, and assume 100
/// cycles. It marks the target of an indirect branch, and does nothing.
fn assembly(code: &Decoded, place: u32) -> String {
    match code.assembly(place) {
        mark if mark == "endbr64" => "nop".into(),
        other => other,
    }
}

fn region(name: &str, lines: impl IntoIterator<Item = String>) -> String {
    let mut text = format!("# LLVM-MCA-BEGIN {name}\n");
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    text + "# LLVM-MCA-END\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use profile::Code;

    #[test]
    fn only_the_instructions_that_differ_are_added_and_removed() {
        // mov %rax,%rbx; imul %rbx,%rbx; endbr64
        let code = [
            &[0x48, 0x89, 0xc3][..],
            &[0x48, 0x0f, 0xaf, 0xdb],
            &[0xf3, 0x0f, 0x1e, 0xfa],
        ];
        let code: Vec<_> = (0..)
            .zip(code)
            .map(|(pc, bytes)| Code {
                pc,
                bytes: bytes.into(),
            })
            .collect();
        let code = Decoded::new(&code);
        let chain = vec![1; 20];
        let ioctl = Pieces::from([(chain.clone(), 3), (vec![0, 2, 0], 1)]);
        let form = Pieces::from([(chain.clone(), 2), (vec![2; 12], 1)]);
        let scratch = tempfile::tempdir().unwrap();
        let pieces = [&ioctl, &form].into_iter();
        let estimates = Estimates::new(pieces, &code, "znver3", scratch.path()).unwrap();
        // Each multiplication waits for the one before, for three cycles.
        let multiplications = estimates.of(&chain).cycles;
        assert!((57..=63).contains(&multiplications), "{multiplications}");
        let base = estimates.plain(&ioctl, Some(&ioctl));
        assert_eq!((base.added, base.removed, base.unknown), (0, 0, 0));
        let plain = estimates.plain(&form, Some(&ioctl));
        assert_eq!(plain.common, 2 * multiplications);
        assert_eq!(base.common, plain.common + plain.removed);
        // The marks of branch targets cost next to nothing.
        assert!(plain.added < 5, "{plain:?}");
        assert!(plain.removed >= multiplications, "{plain:?}");
    }
}
