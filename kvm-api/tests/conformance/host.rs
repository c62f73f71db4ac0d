//! The features of this host, and the features that it must have.

use std::env;

use kvm_api::syscall::{self, Syscall};
use kvm_api::{Backend, Form, Reason};
use libtest_mimic::{Failed, Trial};

use crate::interrupt::breakpoint_exit;
use crate::range_private::protected_vm;
use crate::{Needs, Stage};
use guests::TestVm;
use guests::programs;

/// The form that gives another view on the same kernel objects.
fn other(form: Form) -> Form {
    match form {
        Form::Ioctl => Form::Syscall,
        _ => Form::Ioctl,
    }
}

/// The features of this host: `Ok` for each, or the reason why it is missing.
pub struct Host {
    ioctl: Result<(), String>,
    syscall: Result<(), String>,
    long_mode: Result<(), String>,
    processor: Result<(), String>,
    breakpoints: Result<(), String>,
    private: Result<(), String>,
    expected: Vec<String>,
}

impl Host {
    /// Tries everything once.
    pub fn look() -> Self {
        let has = |form: Form| {
            let kvm = form.open().map_err(|error| error.to_string())?;
            match kvm.kvm_create_vm() {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("kvm_create_vm: {error}")),
            }
        };
        let expected = env::var("KVM_API_EXPECT").unwrap_or_default();
        Self {
            ioctl: has(Form::Ioctl),
            syscall: has(Form::Syscall),
            long_mode: runs(programs::HLT),
            processor: runs(programs::FLD1),
            breakpoints: any_backend().and_then(|kvm| match breakpoint_exit(&kvm) {
                Reason::Debug { .. } => Ok(()),
                other => Err(format!("a guest with a breakpoint exits with {other:?}")),
            }),
            private: match protected_vm() {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("KVM_CREATE_VM of such a type: {error}")),
            },
            expected: expected
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }

    fn form(&self, form: Form) -> &Result<(), String> {
        match form {
            Form::Ioctl => &self.ioctl,
            // A kernel with the flat calls has the other calls, too.
            _ => &self.syscall,
        }
    }

    /// Prints each missing feature with the reason: a trial prints only that it is ignored.
    pub fn report(&self) {
        for (name, found) in [
            ("ioctl", &self.ioctl),
            ("syscall", &self.syscall),
            ("longmode", &self.long_mode),
            ("processor", &self.processor),
            ("breakpoints", &self.breakpoints),
            ("private", &self.private),
        ] {
            if let Err(why) = found {
                eprintln!("no {name}: {why}");
            }
        }
    }

    /// A trial for each feature that must exist.
    pub fn trials(&self) -> Vec<Trial> {
        let promise = |name: &String| {
            let found = match name.as_str() {
                "ioctl" => self.ioctl.clone(),
                "syscall" => self.syscall.clone(),
                "longmode" => self.long_mode.clone(),
                "processor" => self.processor.clone(),
                "breakpoints" => self.breakpoints.clone(),
                "private" => self.private.clone(),
                _ => Err("KVM_API_EXPECT does not know this".into()),
            };
            Trial::test(format!("expected::{name}"), || found.map_err(Failed::from))
        };
        self.expected.iter().map(promise).collect()
    }

    /// A trial that runs `test` on a form, or is ignored with the reason.
    pub fn trial(&self, form: Form, name: &str, needs: Needs, test: fn(&Stage)) -> Trial {
        let name = format!("{}::{name}", form.name());
        let missing = match needs {
            _ if self.form(form).is_err() => Some(form.name()),
            Needs::LongMode if self.long_mode.is_err() => Some("longmode"),
            Needs::Breakpoints if self.breakpoints.is_err() => Some("breakpoints"),
            Needs::PrivateMemory if self.private.is_err() => Some("private"),
            Needs::Processor if self.processor.is_err() => Some("processor"),
            _ => None,
        };
        if let Some(missing) = missing {
            let kind = format!("no {missing}");
            return Trial::test(name, || Ok(()))
                .with_kind(kind)
                .with_ignored_flag(true);
        }
        let witness = match self.form(other(form)) {
            Ok(()) => other(form),
            Err(_) if form == Form::Ioctl => form,
            Err(_) => Form::Syscall,
        };
        Trial::test(name, move || {
            test(&Stage {
                kvm: form.open().map_err(|error| error.to_string())?,
                witness: witness.open().map_err(|error| error.to_string())?,
                form,
            });
            Ok(())
        })
    }
}

/// The first backend that can make a virtual machine.
fn any_backend() -> Result<Backend, String> {
    let backends = Form::ALL.into_iter().filter_map(|form| form.open().ok());
    let mut able = backends.filter(|kvm| kvm.kvm_create_vm().is_ok());
    able.next().ok_or_else(|| "no backend".into())
}

/// Whether a 64-bit guest reaches the halt at the end of `program`.
fn runs(program: &[u8]) -> Result<(), String> {
    let kvm = any_backend()?;
    let mut machine = TestVm::new(&*kvm);
    machine.load(program);
    machine.enter_long_mode();
    match machine.try_run() {
        Ok(Reason::Hlt) => Ok(()),
        Ok(other) => Err(format!("a 64-bit guest exits with {other:?}")),
        Err(error) => Err(format!("a 64-bit guest fails with {error}")),
    }
}

/// If a backend cannot be opened, its error names the kernel that it needs.
pub fn open_explains_itself() -> Result<(), Failed> {
    match Syscall::open() {
        Ok(_) => Ok(()),
        Err(error @ syscall::OpenError::Missing { .. }) => {
            let message = error.to_string();
            let release = nix::sys::utsname::uname()?;
            let release = release.release().to_string_lossy();
            for part in [&*release, "kernel-patch/", "kvm-amd", "kvm-intel"] {
                assert!(message.contains(part), "{message:?} does not say {part:?}");
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
