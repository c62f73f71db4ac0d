//! The corpus, meaningful sequences: the files of `corpus/`, with a [`Step`] a
//! line.

use super::step::Step;

/// The files, and their weights, which are small for slow ones.
const FILES: [(&str, &str, usize); 11] = [
    ("registers", include_str!("../../corpus/registers"), 48),
    ("msrs", include_str!("../../corpus/msrs"), 48),
    ("state", include_str!("../../corpus/state"), 48),
    ("files", include_str!("../../corpus/files"), 48),
    ("bound", include_str!("../../corpus/bound"), 48),
    ("run", include_str!("../../corpus/run"), 8),
    ("memory", include_str!("../../corpus/memory"), 1),
    ("ranges", include_str!("../../corpus/ranges"), 1),
    ("aliases", include_str!("../../corpus/aliases"), 1),
    ("process", include_str!("../../corpus/process"), 1),
    ("machines", include_str!("../../corpus/machines"), 1),
];

/// Every sequence of the corpus, repeated by its weight.
pub fn all() -> Vec<Vec<Step>> {
    FILES
        .iter()
        .flat_map(|(name, text, times)| vec![parse(name, text); *times])
        .collect()
}

fn parse(name: &str, text: &str) -> Vec<Step> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| {
            Step::parse(line).unwrap_or_else(|| panic!("corpus/{name}: not a step: {line}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::rows::ROWS;
    use super::super::step::Target;
    use super::*;

    #[test]
    fn each_call_is_there() {
        let steps: Vec<_> = all().concat();
        for (row, call) in ROWS.iter().enumerate() {
            let there = steps.iter().any(|step| step.target == Target::Call(row));
            assert!(there, "{}", call.name);
        }
    }
}
