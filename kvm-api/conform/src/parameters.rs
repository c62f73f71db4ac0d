//! The parameters of the calls, as the tables of `kvm-sys` declare them in C.

use kvm_sys::Call;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub name: &'static str,
    /// Its type in C, for example `const struct kvm_regs *`.
    pub declared: &'static str,
}

impl Parameter {
    /// The parameters of a call. The first is the file descriptor, if the call takes
    /// one.
    pub fn of(call: &Call) -> impl Iterator<Item = Self> + use<> {
        let declarations = call.parameters.split(", ").filter(|it| *it != "void");
        declarations.map(|declaration| {
            let start = declaration.rfind([' ', '*']).map_or(0, |at| at + 1);
            let (declared, name) = declaration.split_at(start);
            Self {
                name,
                declared: declared.trim_end(),
            }
        })
    }

    /// The type that the parameter points to, without `struct`; `None` for a number.
    pub fn target(&self) -> Option<&'static str> {
        let target = self.declared.strip_suffix('*')?.trim_end();
        let target = target.strip_prefix("const ").unwrap_or(target);
        Some(target.strip_prefix("struct ").unwrap_or(target))
    }

    pub fn is_structure(&self) -> bool {
        self.declared.contains("struct ")
    }

    /// Whether the parameter points to memory that the kernel does not write.
    pub fn is_const(&self) -> bool {
        self.declared.starts_with("const ")
    }

    /// The size of a number in bytes; `None` for a pointer and a descriptor.
    pub fn bytes(&self) -> Option<usize> {
        match self.declared {
            "unsigned int" | "__u32" => Some(4),
            "unsigned long" | "__u64" | "size_t" => Some(8),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use kvm_sys::FlatCall;

    use super::*;

    #[test]
    fn declarations_are_split() {
        let parameters: Vec<_> = Parameter::of(&FlatCall::kvm_set_regs).collect();
        let [fd, regs] = parameters[..] else {
            panic!("{parameters:?}");
        };
        assert_eq!((fd.name, fd.declared), ("fd", "int"));
        assert_eq!((fd.target(), fd.bytes()), (None, None));
        assert_eq!((regs.name, regs.target()), ("regs", Some("kvm_regs")));
        assert!(regs.is_const() && regs.is_structure());
    }

    /// Each parameter is a descriptor, a number of known size, or a pointer.
    #[test]
    fn each_type_is_known() {
        for parameter in kvm_sys::calls().flat_map(Parameter::of) {
            let number = parameter.bytes().is_some();
            let known = number || parameter.target().is_some() || parameter.declared == "int";
            assert!(known, "{parameter:?}");
        }
    }
}
