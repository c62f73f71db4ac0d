//! Documents name patches of the series by their numbers, which change when a patch is
//! inserted. The numbers have to belong to the patches that the documents mean.

use std::fs;
use std::path::{Path, PathBuf};

use kernel_patch::Base;

const COVER_LETTER: &str = "0000-cover-letter.patch";

/// The patches of each form that the README and docs/forms.md name: the first and the last,
/// and those that stand apart.
const FORMS: &[&str] = &[
    "Split requests that need no ioctl out of the ioctl handlers",
    "selftests: Add a test for KVM's system calls",
    "Split checking and loading out of getting and setting state",
    "selftests: Test getting and setting parts of a vCPU's state",
    "Split out what get and set the state that migrates a vCPU",
    MIGRATED,
    "Split the checks of a memory region and of invalidating a slot",
    "selftests: Test guest memory by ranges",
    NO_HOLE,
    "selftests: Test flags and private memory of ranges",
    "Make the fd of a vCPU a directory of its state",
    "selftests: Add a test for the files of a vCPU",
    "Add files for the rest of a vCPU's state",
    "Let generic x86 code switch back to the host's state",
    "selftests: Add a test for bound vCPUs",
    PROCESS_ENDS,
    "selftests: Add a test for a VM bound to its address space",
    STATUS,
];

const NO_HOLE: &str = "Let KVM use guest memory while a range of it is replaced";
const MIGRATED: &str = "Get and set all state that migrates a vCPU";
const ENTRY_POINTS: &str = "Add entry points of system calls for KVM";
const MEMORY: &str = "Allocate guest memory and set memory aliases by system call";
const FILES: &str = "Make the fd of a vCPU a directory of its state";
const DESTROY: &str = "Do not destroy a VM while the task has a vCPU loaded";
const SIGNAL_MASK: &str = "Take vcpu->mutex in the compat ioctl that sets the signal mask";
const BOUND_CALLS: &str = "Add system calls for bound vCPUs";
const PROCESS_ENDS: &str = "Do not let a user worker keep its process alive";
const STATUS: &str = "Show the VM and the vCPU that are bound to a task";
const BOUND_VM: &str = "Bind a VM to an address space";

/// The documents that name patches of the default base by number, and the ends of the
/// subjects of these patches, in the order of the text.
const NAMED: [(&str, &[&str]); 3] = [
    ("README.md", FORMS),
    (
        "docs/decisions.md",
        &["Let generic x86 code switch back to the host's state"],
    ),
    ("docs/forms.md", FORMS),
];

/// The ends of the subjects of the patches that the cover letter of a base names by
/// number, in the order of the text.
fn named_in_cover_letter(base: Base) -> Vec<&'static str> {
    let calls = match base {
        Base::V6_12 => vec![
            "Split requests that need no ioctl out of the ioctl handlers",
            "Split MSR and CPUID requests out of the ioctl handlers",
        ],
        Base::V7_3 => vec!["Split requests that need no ioctl out of the ioctl handlers"],
    };
    let gaps = match base {
        Base::V6_12 => "Publish the fd of a vCPU when its creation has finished",
        Base::V7_3 => "Hold a new vCPU's mutex until its creation has finished",
    };
    [
        &[
            "Document what changes for users of the ioctls",
            PROCESS_ENDS,
            gaps,
            DESTROY,
            SIGNAL_MASK,
            PROCESS_ENDS,
        ],
        &calls[..],
        &[
            ENTRY_POINTS,
            "Serve KVM's system calls",
            MEMORY,
            "Wire up KVM's system calls",
        ],
        &FORMS[2..FORMS.len() - 3],
        &[
            gaps,
            SIGNAL_MASK,
            "Do not forget the CPU on which WBINVD was emulated",
            "Do not look for a bound vCPU where it was left",
        ],
        &FORMS[FORMS.len() - 3..],
        &[
            ENTRY_POINTS,
            ENTRY_POINTS,
            ENTRY_POINTS,
            FILES,
            BOUND_CALLS,
            MEMORY,
            "Get and set any parts of a vCPU's state by one system call",
            MIGRATED,
            "Map guest memory by ranges of addresses",
            NO_HOLE,
            "Map ranges of guest_memfd",
            FILES,
            DESTROY,
            "Take vCPUs by helpers that respect a binding",
            "Keep a bound vCPU loaded while its task is in userspace",
            BOUND_VM,
            "Borrow a bound VM's file beside KVM's own worker",
            ENTRY_POINTS,
            BOUND_CALLS,
            "Kick a vCPU",
            ENTRY_POINTS,
            BOUND_VM,
        ],
    ]
    .concat()
}

struct Patch {
    text: String,
    subject: String,
}

/// The file `name` of the series of a base.
fn path(base: Base, name: &str) -> String {
    format!("kernel-patch/linux-{}/patches/{name}", base.version())
}

/// The series in its order, without the cover letter.
fn series(base: Base) -> Vec<Patch> {
    let mut paths = files(&root().join(path(base, "")), "patch");
    paths.sort_unstable();
    let patches = paths.iter().skip(1).map(|path| {
        let text = fs::read_to_string(path).unwrap();
        let header = text.split_once("\nSubject: ").unwrap().1;
        let header = header.replace("\n ", " ");
        let (_, subject) = header.lines().next().unwrap().split_once("] ").unwrap();
        let subject = subject.to_owned();
        Patch { text, subject }
    });
    patches.collect()
}

fn root() -> PathBuf {
    kernel_patch::workspace_dir().unwrap()
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|it| it.unwrap().path());
    let paths = paths.filter(|it| it.extension().is_some_and(|it| it == extension));
    paths.collect()
}

/// The numbers after the word "patch" or "patches", in "patch 3", "patches 1 to 8" and
/// "patches 3, 28 and 30".
fn numbers(text: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    let mut follows = false;
    for word in text.split_whitespace() {
        // The option --patch is another word.
        let bare = word.trim_matches(|it: char| !it.is_alphanumeric() && it != '-');
        match bare.parse() {
            Ok(number) if follows => {
                numbers.push(number);
                follows = !word.ends_with(['.', ':']);
            }
            _ => {
                let continues = follows && ["to", "and"].contains(&bare);
                follows = continues || ["patch", "patches"].contains(&&*bare.to_lowercase());
            }
        }
    }
    numbers
}

/// The text of a document. The numbers in the README's table have their word in its head.
fn text(document: &str) -> String {
    let text = fs::read_to_string(root().join(document)).unwrap();
    if document != "README.md" {
        return text;
    }
    let rows = text.lines().skip_while(|it| !it.ends_with("| patches |"));
    let rows = rows.take_while(|it| it.starts_with('|'));
    let cells = rows.filter_map(|it| it.trim_end_matches(" |").rsplit_once("| "));
    cells
        .map(|(_, cell)| format!("patches {cell} ;\n"))
        .collect()
}

#[test]
fn numbers_belong_to_the_patches_that_documents_mean() {
    let default = Base::default();
    for (document, subjects) in NAMED {
        assert_names(default, document, subjects);
    }
    for base in Base::ALL {
        let letter = path(base, COVER_LETTER);
        assert_names(base, &letter, &named_in_cover_letter(base));
    }
}

/// The patches of `base` that `document` names have these `subjects`.
fn assert_names(base: Base, document: &str, subjects: &[&str]) {
    let series = series(base);
    let numbers = numbers(&text(document));
    for (number, subject) in numbers.iter().zip(subjects) {
        let found = number.checked_sub(1).and_then(|it| series.get(it));
        let found = found.map_or("missing", |it| &it.subject);
        assert!(
            found.ends_with(&format!(": {subject}")),
            "{document} means {subject:?} by patch {number}, which is {found:?}"
        );
    }
    let count = subjects.len();
    assert_eq!(numbers.len(), count, "{document} names {numbers:?}");
}

/// A document that begins to name a patch by number needs a row in [`NAMED`].
#[test]
fn other_documents_name_no_patch_by_number() {
    let mut documents = files(&root().join("docs"), "md");
    documents.push(root().join("CONTRIBUTING.md"));
    for path in documents {
        if NAMED.iter().all(|(document, _)| !path.ends_with(document)) {
            let numbers = numbers(&fs::read_to_string(&path).unwrap());
            assert_eq!(numbers, [0; 0], "{}", path.display());
        }
    }
}

#[test]
fn the_cover_letter_lists_the_series() {
    for base in Base::ALL {
        let series = series(base);
        let letter = text(&path(base, COVER_LETTER));
        let count = series.len();
        assert!(letter.contains(&format!("Subject: [PATCH 00/{count}] ")));
        let list: String = series
            .iter()
            .map(|it| format!("  {}\n", it.subject))
            .collect();
        assert!(
            letter.contains(&format!(" ({count}):\n{list}\n")),
            "the list of {base:?} should be\n{list}"
        );
    }
}

#[test]
fn checkpatchs_exceptions_are_about_files_of_their_patches() {
    for base in Base::ALL {
        let series = series(base);
        let text = text(&path(base, "checkpatch.exceptions"));
        let lines = text
            .lines()
            .filter(|it| !it.is_empty() && !it.starts_with('#'));
        for line in lines {
            let words: Vec<_> = line.split_whitespace().collect();
            let number: usize = words[0].parse().unwrap();
            let patch = &series[number - 1];
            let changes = patch.text.contains(&format!(" b/{}\n", words[2]));
            assert!(
                changes,
                "{base:?}, {line}: the patch is {:?}",
                patch.subject
            );
        }
    }
}

/// The README of Linux 7.3 pairs the numbers that a patch has on both bases.
#[test]
fn the_table_of_numbers_pairs_the_same_patches() {
    let range = |cell: &str| {
        let (first, last) = cell.split_once(" to ").unwrap_or((cell, cell));
        Some(first.parse::<usize>().ok()?..last.parse::<usize>().ok()? + 1)
    };
    let [old, new] = Base::ALL.map(series);
    let readme = text("kernel-patch/linux-7.3/README.md");
    let mut pairs = 0;
    for row in readme.lines().filter_map(|it| it.strip_suffix(" | |")) {
        let (a, b) = row.trim_start_matches("| ").split_once(" | ").unwrap();
        let (Some(a), Some(b)) = (range(a), range(b)) else {
            continue;
        };
        assert_eq!(a.len(), b.len(), "{row}");
        for (a, b) in a.zip(b) {
            assert_eq!(old[a - 1].subject, new[b - 1].subject, "{row}");
            pairs += 1;
        }
    }
    assert!(pairs > 0, "there is no table");
}

#[test]
fn numbers_are_found() {
    let text = "Patches 1 and 2 add 3 calls. Patch 4, and patches 5,\n6 to 8: 9 (patch 10).";
    assert_eq!(numbers(text), [1, 2, 4, 5, 6, 8, 10]);
}
