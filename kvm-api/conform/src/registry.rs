//! All properties, and which of them a command line selects.

use anyhow::{Context, Result, ensure};
use kernel_patch::Variant;

use crate::cli::Options;
use crate::property::{Kernels, Property};
use crate::{
    access, bindings, errors, faults, fuzz, hook, module, races, selftests, sequences, suite,
    tracking,
};

/// All properties, those that take longest first.
pub const ALL: &[Property] = &[
    selftests::PROPERTY,
    sequences::PROPERTY,
    fuzz::PROPERTY,
    faults::PROPERTY,
    races::PROPERTY,
    bindings::PROPERTY,
    bindings::ON_VMX,
    suite::PROPERTY,
    suite::ON_SHADOW_PAGING,
    errors::PROPERTY,
    module::PROPERTY,
    access::PROPERTY,
    hook::PROPERTY,
    hook::IMA,
    tracking::PROPERTY,
];

/// The properties of which [`Options::case`] selects cases.
const NAMED_CASES: [&str; 4] = [
    suite::PROPERTY.name,
    suite::ON_SHADOW_PAGING.name,
    races::PROPERTY.name,
    selftests::PROPERTY.name,
];

/// The property of that name.
pub fn find(name: &str) -> Result<&'static Property> {
    let named = ALL.iter().find(|property| property.name == name);
    named.with_context(|| {
        let names: Vec<_> = ALL.iter().map(|it| it.name).collect();
        format!("no property {name:?}; there are {}", names.join(", "))
    })
}

/// The properties that `options` select, on the kernel that they select.
///
/// # Errors
///
/// If a selected property does not exist, or not on that kernel.
pub fn select(options: &Options) -> Result<Vec<&'static Property>> {
    let fits = |property: &Property| fits(property, options);
    let named = options.only.iter().map(|name| find(name));
    let named = named.collect::<Result<Vec<_>>>()?;
    for property in &named {
        ensure!(
            options.case.is_none() || NAMED_CASES.contains(&property.name),
            "the cases of {} have no names that --case could select",
            property.name
        );
        ensure!(
            fits(property),
            "{} is not tested on the {} kernel of Linux {}",
            property.name,
            options.variant().name(),
            options.base.version()
        );
    }
    let selected =
        |property: &Property| named.is_empty() || named.iter().any(|it| it.name == property.name);
    let properties = ALL.iter().filter(|it| selected(it) && fits(it));
    Ok(properties.collect())
}

/// Whether a property is tested on the kernel that `options` select.
fn fits(property: &Property, options: &Options) -> bool {
    match property.kernels {
        Kernels::All => true,
        Kernels::Both => !options.kcsan,
        Kernels::Usual => options.variant() == Variant::Module,
        Kernels::UsualOf(base) => options.variant() == Variant::Module && options.base == base,
        Kernels::Debug => options.debug,
    }
}

/// The properties that are left out only because they are about another release of Linux.
pub fn left_out(options: &Options) -> impl Iterator<Item = &'static Property> {
    ALL.iter().filter(|it| match it.kernels {
        Kernels::UsualOf(base) => options.variant() == Variant::Module && options.base != base,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;
    use crate::cli::Cli;

    /// Arguments that have a meaning, and random ones.
    fn word() -> impl Strategy<Value = String> {
        let known = prop::sample::select(vec![
            "suite",
            "fuzz",
            "--debug",
            "--kcsan",
            "--sample",
            "--only",
            "--seed",
            "7",
            "-7",
            "--cases",
            "0",
            "--json",
            "x",
            "--jobs",
            "2",
            "17",
            "--timeout",
            "--source",
            "--list",
            "99999999999999999999",
            "--help",
        ]);
        prop_oneof![
            4 => known.prop_map(str::to_owned),
            1 => "-{0,2}[a-z=:/,]{0,8}",
            1 => any::<String>(),
        ]
    }

    #[test]
    fn the_selftests_are_those_of_one_release() {
        let names = |line: &str| {
            let cli = Cli::parse_from(line.split(' '));
            let left_out = left_out(&cli.options).map(|it| it.name);
            (select(&cli.options).is_ok(), left_out.collect::<Vec<_>>())
        };
        assert_eq!(names("conform"), (true, vec![]));
        assert_eq!(names("conform --base 6.12"), (true, vec!["selftests"]));
        assert_eq!(names("conform --base 6.12 --debug"), (true, vec![]));
        assert!(!names("conform --base 6.12 --only selftests").0);
    }

    proptest! {
        /// Every command line is either parsed or refused.
        #[test]
        fn any_command_line(words in prop::collection::vec(word(), 0..8)) {
            let line = ["conform".to_owned()].into_iter().chain(words);
            if let Ok(cli) = Cli::try_parse_from(line) {
                let _ = select(&cli.options);
            }
        }
    }
}
