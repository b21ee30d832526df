//! Dynamic libraries that are built with a program: which ones it is started with, by what the files themselves name (elf(5),
//! DT_NEEDED).
//! Never lives here: where copies of them are kept (`store`). Libraries that a program opens by itself are its own affair.

use object::elf::{DT_NEEDED, FileHeader32, FileHeader64};
use object::read::elf::FileHeader;
use object::{Endianness, FileKind, Object, ObjectSection, ObjectSymbol, ReadCache};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Those of the program, and of its libraries, that stand in these folders; the first folder counts, as for the dynamic linker.
pub fn built(program: &Path, folders: &[PathBuf]) -> BTreeMap<OsString, PathBuf> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![program.to_path_buf()];
    while let Some(path) = waiting.pop() {
        for name in needed(&path) {
            if found.contains_key(&name) {
                continue;
            }
            if let Some(library) = folders.iter().map(|folder| folder.join(&name)).find(|file| file.is_file()) {
                waiting.push(library.clone());
                found.insert(name, library);
            }
        }
    }
    found
}

/// What a program, or a library, has of constant texts.
pub fn texts(path: &Path) -> Option<Vec<u8>> {
    let data = ReadCache::new(File::open(path).ok()?);
    let file = object::File::parse(&data).ok()?;
    Some(file.section_by_name(".rodata")?.data().ok()?.to_vec())
}

/// What is no such file needs nothing.
fn needed(path: &Path) -> Vec<OsString> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    // Only what is asked for is read: a program may have a hundred megabytes.
    let data = ReadCache::new(file);
    match FileKind::parse(&data) {
        Ok(FileKind::Elf64) => names::<FileHeader64<Endianness>>(&data),
        Ok(FileKind::Elf32) => names::<FileHeader32<Endianness>>(&data),
        _ => None,
    }
    .unwrap_or_default()
}

/// Whether a program uses what its libraries call so, or has it in itself. One that cannot be read does not.
pub fn names_symbol(program: &Path, name: &str) -> bool {
    let Ok(file) = File::open(program) else { return false };
    let data = ReadCache::new(file);
    let Ok(elf) = object::File::parse(&data) else { return false };
    elf.dynamic_symbols().chain(elf.symbols()).any(|symbol| symbol.name() == Ok(name))
}

fn names<Elf: FileHeader>(data: &ReadCache<File>) -> Option<Vec<OsString>> {
    let header = Elf::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let table = header.sections(endian, data).ok()?.dynamic_table(endian, data).ok()?;
    let needed = table.iter().filter(|entry| entry.tag == DT_NEEDED);
    let names = needed.filter_map(|entry| Some(OsStr::from_bytes(table.string(entry).ok()?).to_owned()));
    Some(names.collect())
}
