//! All properties, and which of them a command line selects.

use anyhow::{Context, Result, ensure};
use kernel_patch::Variant;

use crate::cli::Options;
use crate::property::{Kernels, Property};
use crate::{
    access, bindings, errors, faults, fuzz, hook, module, races, selftests, sequences, suite,
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
    errors::PROPERTY,
    module::PROPERTY,
    access::PROPERTY,
    hook::PROPERTY,
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
    let fits = |property: &Property| match property.kernels {
        Kernels::All => true,
        Kernels::Both => !options.kcsan,
        Kernels::Usual => options.variant() == Variant::Module,
        Kernels::Debug => options.debug,
    };
    let named = options.only.iter().map(|name| find(name));
    let named = named.collect::<Result<Vec<_>>>()?;
    for property in &named {
        ensure!(
            fits(property),
            "{} is not tested on the {} kernel",
            property.name,
            options.variant().name()
        );
    }
    let selected =
        |property: &Property| named.is_empty() || named.iter().any(|it| it.name == property.name);
    let properties = ALL.iter().filter(|it| selected(it) && fits(it));
    Ok(properties.collect())
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
            "calls",
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
    fn a_former_name_selects_the_property() {
        let cli = Cli::parse_from(["conform", "--only", "calls"]);
        let names: Vec<_> = select(&cli.options)
            .unwrap()
            .iter()
            .map(|it| it.name)
            .collect();
        assert_eq!(names, ["suite"]);
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
