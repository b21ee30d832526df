//! What a build may fail of that is no fault of the sources: a full disk, no descriptor or memory left, an incremental cache that is
//! damaged, a folder in which cargo cannot build. Nobody says so in words that help.
//! Never lives here: the sources' own faults, and building again.

use super::output::Told;
use crate::report::clean::plain;
use crate::report::{one_line, short, size};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Of an object in the cache that is cut or garbled, as the linkers word it.
const BROKEN: [&str; 12] = [
    "past the end",
    "truncated",
    "not recognized",
    "malformed",
    "unknown file type",
    "wrong format",
    "corrupt",
    "invalid",
    "not an ELF",
    "section header",
    "is empty",
    "parse",
];
/// Of a compiler that was killed by a fault of its own. The messages are cargo's.
const CRASHES: [&str; 5] = ["SIGILL", "SIGABRT", "SIGBUS", "SIGFPE", "SIGSEGV"];

/// Of a disk.
const FULL: [&str; 4] = ["No space left on device", "os error 28)", "Disk quota exceeded", "os error 122)"];
/// Of descriptors, threads, processes and memory, as compilers and linkers word it; the last are those of a compiler and of a linker that the
/// system has killed for what it took.
const NONE_LEFT: [&str; 10] = [
    "Too many open files",
    "os error 23)",
    "os error 24)",
    "Resource temporarily unavailable",
    "os error 11)",
    "annot allocate memory",
    "memory allocation of",
    "out of memory",
    "SIGKILL",
    "signal 9 [Killed]",
];
/// Of a linker for which there was no room in what it maps; where there is room, it is something else, as a map of a damaged file.
const BUS: [&str; 2] = ["signal 7 [Bus error]", "SIGBUS"];

/// A program and what is made on the way to it have room in it.
const LITTLE: u64 = 1 << 30;

/// What is tried, and what is advised, where a build of cargo's has failed for such a reason.
pub struct Repair {
    /// Where cargo builds: its target folder, and that in which it keeps what it needs itself.
    folders: [PathBuf; 2],
    /// Caches were removed, and no build has succeeded since.
    was_tried: bool,
}

impl Repair {
    pub fn new(folders: [PathBuf; 2]) -> Repair {
        Repair { folders, was_tried: false }
    }

    /// A build has.
    pub fn succeeded(&mut self) {
        self.was_tried = false;
    }

    /// What helps, where the build could not succeed in these folders, or the disk is full on which they are.
    pub fn advice(&self, messages: &[Told], manifest: &Path) -> Option<String> {
        let temporary = std::env::temp_dir();
        let disks = || self.folders.iter().chain([&temporary]).filter_map(|folder| free(folder));
        advice_on(messages, manifest, || disks().min_by_key(|free| (free.files.min(1), free.bytes)))
    }

    /// Removes incremental caches that are damaged: once, as it may be something else. Of which crates.
    pub fn forget_damaged(&mut self, messages: &[Told]) -> Option<String> {
        let damaged = damaged(messages);
        if self.was_tried || damaged.is_empty() {
            return None;
        }
        self.was_tried = true;
        damaged.iter().for_each(|name| self.folders.iter().for_each(|folder| forget(folder, name)));
        Some(damaged.into_iter().collect::<Vec<_>>().join(", "))
    }
}

fn advice_on(messages: &[Told], manifest: &Path, fullest: impl Fn() -> Option<Free>) -> Option<String> {
    let texts: Vec<String> = messages.iter().map(|told| plain(&told.words.rendered)).collect();
    let says = |words: &[&str]| texts.iter().any(|text| words.iter().any(|word| text.contains(word)));
    if says(&["failed to join paths from"]) {
        let folder = manifest.parent().unwrap_or(manifest);
        return Some(format!(
            "cargo cannot build in {}: no folder above a target folder may have a `:` in its name; rename it, or name another with \
             --target-dir",
            one_line(&folder.to_string_lossy())
        ));
    }
    if says(&FULL) {
        return Some(format!("the disk is full: {}; make room, and save again", fullest()?.words()));
    }
    // What is written through a map of memory can only end so.
    if says(&BUS) {
        let free = fullest().filter(Free::is_little)?;
        let help = "the linker ends so where the disk is full";
        return Some(format!("{help}: {}; make room, and save again", free.words()));
    }
    None
}

/// Whether what a compiler has ended with, in that folder, says nothing of the project: the machine had something not to give.
pub fn passes<'t>(mut texts: impl Iterator<Item = &'t str>, folder: &Path) -> bool {
    let says = |text: &str, words: &[&str]| words.iter().any(|word| text.contains(word));
    texts.any(|text| {
        let text = plain(text);
        says(&text, &FULL)
            || says(&text, &NONE_LEFT)
            || says(&text, &BUS) && free(folder).is_some_and(|free| free.is_little())
    })
}

/// The crates whose incremental cache is most likely why they could not be compiled or linked.
fn damaged(messages: &[Told]) -> BTreeSet<String> {
    messages.iter().filter_map(|told| crate_of(told, &plain(&told.words.rendered))).collect()
}

fn crate_of(told: &Told, text: &str) -> Option<String> {
    if text.contains("process didn't exit successfully") && CRASHES.iter().any(|signal| text.contains(signal)) {
        let (_, call) = text.split_once("--crate-name ")?;
        return call.contains("incremental=").then(|| call.split(' ').next().map(str::to_owned)).flatten();
    }
    let (_, target) = told.about.as_ref()?;
    let is_broken = |line: &str| line.contains(".rcgu.o") && BROKEN.iter().any(|word| line.contains(word));
    let first = text.lines().next().unwrap_or_default();
    let is_it = text.contains("internal compiler error")
        || text.contains("compiler unexpectedly panicked")
        || first.starts_with("error") && first.contains("incremental compilation")
        || first.contains("linking with") && text.lines().any(is_broken);
    is_it.then(|| target.name.replace('-', "_"))
}

/// Removes the caches of that crate, of whatever profile and platform, below cargo's folder.
fn forget(build_dir: &Path, name: &str) {
    let below =
        |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let profiles: Vec<PathBuf> = below(build_dir.to_path_buf()).collect();
    let profiles = profiles.iter().cloned().chain(profiles.iter().cloned().flat_map(below));
    let is_its = |path: &PathBuf| {
        let cache = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        cache.rsplit_once('-').is_some_and(|(of, _)| of == name)
    };
    for cache in profiles.flat_map(|profile| below(profile.join("incremental"))).filter(is_its) {
        // What cannot be removed is what the next build fails of.
        fs::remove_dir_all(cache).ok();
    }
}

/// What is left on the disk on which a folder is.
struct Free {
    path: PathBuf,
    bytes: u64,
    files: u64,
}

fn free(folder: &Path) -> Option<Free> {
    let path = folder.ancestors().find(|path| path.is_dir())?.to_path_buf();
    let disk = rustix::fs::statvfs(&path).ok()?;
    // Where files are not counted, none are left by that count.
    let files = if disk.f_files == 0 { u64::MAX } else { disk.f_favail };
    Some(Free { path, bytes: disk.f_bavail * disk.f_frsize, files })
}

impl Free {
    /// So little that what is linked may not have found room.
    fn is_little(&self) -> bool {
        self.files == 0 || self.bytes < LITTLE
    }

    fn words(&self) -> String {
        let files = if self.files == 0 { ", and no file can be made" } else { "" };
        format!("{} are free in {}{files}", size(self.bytes), short(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::output::Words;

    fn told(text: &str) -> Told {
        let target = serde_json::json!({
            "name": "my-api", "kind": ["bin"], "crate_types": ["bin"], "src_path": "/p/src/main.rs", "required-features": []
        });
        let about = (cargo_metadata::PackageId { repr: "my-api".into() }, serde_json::from_value(target).unwrap());
        Told { about: Some(about), words: Words::text(text.to_owned()) }
    }

    #[test]
    fn a_damaged_cache_is_told_from_the_sources_faults() {
        let crash = "  process didn't exit successfully: `rustc --crate-name lib_a -C incremental=/t/i x` (signal: 7, SIGBUS: access)";
        for (text, name) in [
            (
                "error: linking with `cc` failed\n  = note: rust-lld: error: /t/a.rcgu.o: section header table goes past the end",
                "my_api",
            ),
            ("error: internal compiler error: unexpected panic", "my_api"),
            ("error: could not copy incremental compilation artifact", "my_api"),
            (crash, "lib_a"),
        ] {
            assert_eq!(damaged(&[told(text)]), BTreeSet::from([name.to_owned()]), "{text}");
        }
        for text in [
            "error: linking with `cc` failed\n  = note: undefined reference to `f'\n  >>> referenced by /t/a.rcgu.o:(main)",
            "error[E0308]: mismatched types",
            "warning: corrupt incremental compilation artifact found; it was deleted",
            "  process didn't exit successfully: `rustc --crate-name a -C incremental=/t/i` (signal: 9, SIGKILL: kill)",
            "  process didn't exit successfully: `/t/build-script-build` (signal: 6, SIGABRT: abort)",
        ] {
            assert_eq!(damaged(&[told(text)]), BTreeSet::new(), "{text}");
        }
    }

    #[test]
    fn what_the_machine_could_not_give_is_told_from_what_the_project_is() {
        let folder = tempfile::tempdir().unwrap();
        let is_passing = |text: &str| passes(["error: aborting", text].into_iter(), folder.path());
        for text in [
            "error: failed to write /t/x.rmeta: No space left on device (os error 28)",
            "thread 'rustc' panicked: Os { code: 11, kind: WouldBlock, message: \"Resource temporarily unavailable\" }",
            "error: couldn't create a temp dir: \u{1b}[1mToo many open files\u{1b}[0m (os error 24) at path",
            "memory allocation of 1073741824 bytes failed",
            "collect2: fatal error: ld terminated with signal 9 [Killed]",
            "cc: error: vfork: Cannot allocate memory",
            "signal 9 (SIGKILL)",
        ] {
            assert!(is_passing(text), "{text}");
        }
        for text in [
            "error: internal compiler error: unexpected panic",
            "error: linking with `cc` failed: exit status: 1",
            "signal 11 (SIGSEGV)",
            "error: couldn't read `src/a.rs`: No such file or directory (os error 2)",
        ] {
            assert!(!is_passing(text), "{text}");
        }
    }

    #[test]
    fn only_the_caches_of_that_crate_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let caches = [
            "debug/incremental/api-1a",
            "x86/debug/incremental/api-2b",
            "debug/incremental/api-test-3c",
            "debug/deps/api-1",
        ];
        caches.iter().for_each(|cache| fs::create_dir_all(folder.path().join(cache)).unwrap());
        forget(folder.path(), "api");
        let left: Vec<bool> = caches.iter().map(|cache| folder.path().join(cache).exists()).collect();
        assert_eq!(left, [false, false, true, true]);
    }

    #[test]
    fn a_full_disk_is_named_with_what_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = Path::new("/p/Cargo.toml");
        let repair = Repair::new(["target", "build"].map(|name| folder.path().join(name)));
        let advice = |text: &str| repair.advice(&[told(text)], manifest);
        let full = advice("error: write: No space left on device (os error 28)").unwrap();
        assert!(full.contains("disk is full") && full.contains(" free in "), "{full}");
        assert!(full.contains(&folder.path().display().to_string()), "{full}");
        // Where there is room, that is no sign of it.
        for (bytes, is_full) in [(LITTLE - 1, true), (LITTLE, false)] {
            let killed = [told("ld terminated with signal 7 [Bus error]")];
            let advice = advice_on(&killed, manifest, || Some(Free { path: "/t".into(), bytes, files: 9 }));
            assert_eq!(advice.is_some_and(|advice| advice.contains("disk is full")), is_full);
        }
        assert!(advice("failed to join paths from `$LD_LIBRARY_PATH`").unwrap().contains("cannot build in /p"));
        assert_eq!(advice("error[E0308]: mismatched types"), None);
    }
}
