//! The last step of a compilation, the link: this program in the C driver's place. rustc starts it with `-C linker`, and
//! it links by itself where it is sure to do what the driver would have done. Otherwise it becomes the driver.
//! Never lives here: which crates are compiled, and when.

mod arguments;
mod copies;
mod driver;
mod expansion;
mod known;
mod merged;
mod report;
mod strip;
mod wild;

use nix::unistd::Uid;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub use report::{Linker, Report, forget as forget_report, read as read_report};

/// A folder of ours alone, for what is kept between links. Where it is named, this process is the linker.
pub const FOLDER: &str = "CARGO_HOTRUN_LINK";
/// Folders, as in `PATH`, whose rlibs keep their debug data. Unset: all keep it.
pub const OWN: &str = "CARGO_HOTRUN_OWN";
/// Has the allocator of the linker take memory in large pieces (glibc manual, "Memory Allocation Tunables"): it is used for a moment.
/// Not in large pages: where a hypervisor takes back what is free (page reporting of a balloon), to get one takes longer than
/// to get the small ones that are needed. What compiles has an allocator of its own.
pub const MEMORY: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.top_pad=8388608");
/// The first argument of a process that makes what the next link is faster with; after it comes the program that was linked last.
pub const MERGE: &str = "--merge";
/// Would change what wild does; nobody has set them for this.
const WILD_SETTINGS: &str = "WILD_";
/// What GNU ld would read, and wild does not.
const RUN_PATH: &str = "LD_RUN_PATH";

/// How a link was done.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    merged: bool,
    wants_merged: bool,
}

/// Links with the arguments of a C driver when this process was started for it; `None` for a user's start.
pub fn hidden_entry(args: impl Iterator<Item = OsString>) -> Option<i32> {
    let folder = PathBuf::from(std::env::var_os(FOLDER)?);
    let args: Vec<OsString> = args.collect();
    #[allow(clippy::disallowed_methods)] // A process of its own, without the loop.
    let began = Instant::now();
    if let [first, program] = args.as_slice()
        && first.as_os_str() == MERGE
    {
        let made = is_owned(&folder).then(|| merged::make(&folder, Path::new(program))).flatten();
        return Some(i32::from(made.is_none()));
    }
    if !is_owned(&folder) {
        return Some(become_driver(&args));
    }
    report::forget(&folder);
    let write = |linker, reason, done: Done| {
        let took = began.elapsed();
        let Done { merged, wants_merged } = done;
        report::write(&folder, &Report { linker, took, reason, merged, wants_merged });
    };
    match link(&folder, &args) {
        Ok(done) => {
            write(Linker::Wild, None, done);
            Some(0)
        }
        Err(reason) => {
            write(Linker::Driver, Some(reason), Done::default());
            Some(become_driver(&args))
        }
    }
}

/// What is kept in the folder is believed, so nobody else may write there; in another's, nothing is written either.
fn is_owned(folder: &Path) -> bool {
    fs::symlink_metadata(folder)
        .is_ok_and(|kept| kept.is_dir() && kept.uid() == Uid::effective().as_raw() && kept.mode() & 0o022 == 0)
}

fn link(folder: &Path, args: &[OsString]) -> Result<Done, String> {
    let is_setting = |name: &OsString| name.to_string_lossy().starts_with(WILD_SETTINGS) || name == RUN_PATH;
    if let Some((name, _)) = std::env::vars_os().find(|(name, _)| is_setting(name)) {
        return Err(format!("{} is set", name.display()));
    }
    let pieces = arguments::read(args)?;
    let output = arguments::output(&pieces).ok_or("there is no output")?;
    if fs::symlink_metadata(output).is_ok_and(|there| !there.is_file()) {
        return Err(format!("{output} is no file"));
    }
    // Beside the output, so that a half file is never at its name; by one name, so that a killed link leaves one at most.
    let place = format!("{output}.linking");
    let mut words = expansion::expand(folder, &pieces, &place)?;
    known::check(&words)?;
    if let Some(own) = std::env::var_os(OWN) {
        let own: Vec<PathBuf> = std::env::split_paths(&own).filter(|own| !own.as_os_str().is_empty()).collect();
        copies::swap(folder, &own, &mut words);
    }
    let place = Path::new(&place);
    let put = link_words(folder, &words, place)
        .and_then(|done| fs::rename(place, output).map(|()| done).map_err(|error| format!("{output}: {error}")));
    if put.is_err() {
        // Most often the program's own fault (a symbol that nobody defines); but it may be one of these.
        let _ = fs::remove_file(place);
        expansion::forget(folder);
        copies::forget(folder);
    }
    put
}

fn link_words(folder: &Path, words: &[String], place: &Path) -> Result<Done, String> {
    let link = |words: &[String]| {
        let _ = fs::remove_file(place);
        wild::link(words, place)
    };
    let merged = merged::Merged::of(folder, words);
    if let Some(made) = merged.as_ref().and_then(merged::Merged::made)
        && made.suffices()
        && link(&made.words).is_ok()
        && made.is_right(place)
    {
        return Ok(Done { merged: true, wants_merged: false });
    }
    link(words)?;
    Ok(Done { merged: false, wants_merged: merged.is_some_and(|merged| merged.want()) })
}

/// What rustc would have done; but for `MEMORY`, which may be the user's.
fn become_driver(args: &[OsString]) -> i32 {
    let error = Command::new(driver::NAME).args(args).env_remove(FOLDER).env_remove(OWN).exec();
    crate::report::say::error(format_args!("{}: {error}", driver::NAME));
    127
}
