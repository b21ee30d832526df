//! Copies of the dependencies' rlibs without debug data, each made once.
//! Never lives here: what of an rlib is left out.

use super::{report, strip};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

pub const FOLDER: &str = "stripped";

/// Puts the copies in the rlibs' place, but for those of the workspace's own crates. An rlib whose copy cannot be made stays.
pub fn swap(folder: &Path, own: &[PathBuf], words: &mut [String]) {
    let folder = folder.join(FOLDER);
    let mut copies: HashMap<String, Option<PathBuf>> = HashMap::new();
    let mut missing = Vec::new();
    for word in words.iter().filter(|word| word.ends_with(".rlib")) {
        let path = Path::new(word);
        if copies.contains_key(word) || own.iter().any(|own| path.starts_with(own)) {
            continue;
        }
        let copy = name(path).map(|name| folder.join(name));
        if let Some(copy) = &copy
            && !copy.is_file()
        {
            missing.push((path.to_owned(), copy.clone()));
        }
        copies.insert(word.clone(), copy);
    }
    if !missing.is_empty() {
        let failed = make(&folder, &missing);
        for path in failed {
            copies.insert(path.to_string_lossy().into_owned(), None);
        }
    }
    for word in words {
        if let Some(Some(copy)) = copies.get(word)
            && let Some(copy) = copy.to_str()
        {
            copy.clone_into(word);
        }
    }
}

/// One of them may be why a link has failed.
pub fn forget(folder: &Path) {
    let _ = fs::remove_dir_all(folder.join(FOLDER));
}

/// Such that a copy is the right one by its name alone: whoever writes an rlib makes another file, at another time.
fn name(rlib: &Path) -> Option<String> {
    let file = fs::metadata(rlib).ok()?;
    let stem = rlib.file_stem()?.to_str()?;
    Some(format!("{stem}.{}-{}.{:09}-{}.rlib", file.size(), file.mtime(), file.mtime_nsec(), file.ino()))
}

/// Makes copies on all cores. Returns what it could not copy.
fn make(folder: &Path, missing: &[(PathBuf, PathBuf)]) -> Vec<PathBuf> {
    if !folder.is_dir() {
        // An error shows in each copy.
        let _ = fs::DirBuilder::new().mode(0o700).create(folder);
    }
    remove_stale(folder, missing);
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let work = || {
        while let Some((rlib, copy)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            if make_one(rlib, copy).is_none() {
                failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(rlib.clone());
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get()).min(missing.len());
    thread::scope(|scope| {
        for _ in 1..cores {
            // Where there is no thread to be had, the others do it all.
            thread::Builder::new().spawn_scoped(scope, work).ok();
        }
        work();
    });
    failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn make_one(rlib: &Path, copy: &Path) -> Option<()> {
    let stripped = strip::without_debug(&fs::read(rlib).ok()?)?;
    // Written to since it was named: the copy would be of neither.
    if Path::new(&name(rlib)?) != Path::new(copy.file_name()?) {
        return None;
    }
    report::replace(copy.parent()?, copy.file_name()?.to_str()?, &stripped).ok()
}

/// Copies of what an rlib was before.
fn remove_stale(folder: &Path, missing: &[(PathBuf, PathBuf)]) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let prefixes: Vec<String> =
        missing.iter().filter_map(|(rlib, _)| Some(format!("{}.", rlib.file_stem()?.to_str()?))).collect();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_stale = |prefix: &String| name.to_string_lossy().starts_with(prefix.as_str());
        if prefixes.iter().any(is_stale) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
