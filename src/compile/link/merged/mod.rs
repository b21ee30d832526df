//! The dependencies as one object, made once of those parts of them that the program needs: the linker has little left to look at that
//! is the same with every save. Where it lacks something, the program is linked without it, and a new one is asked for.
//! Never lives here: how the object is made (`make`).

mod make;

use super::{arguments, copies, report};
use object::read::archive::ArchiveFile;
use object::{Object as _, ObjectComdat as _, ObjectSymbol as _, ReadCache, SectionIndex, SymbolKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub use make::make;

const FOLDER: &str = "merged";
/// What an object is asked for with.
const WANTED: &str = "wanted.json";
/// Changes when objects are made in another way.
const VERSION: u32 = 1;
/// With one of these, more of the dependencies counts than what the program needs, or nothing tells afterwards what that was.
const OTHERWISE: [&str; 6] =
    ["--whole-archive", "--no-gc-sections", "--export-dynamic", "-export-dynamic", "--strip-all", "-static"];
/// The libraries of every program. Of another one, it depends on all that is linked whether it is needed, and for what.
const LIBRARIES: [&str; 9] = ["-lgcc_s", "-lgcc", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc", "-lgcc_eh"];

/// The object for one link's words, whether it is made or not.
pub struct Merged<'w> {
    folder: PathBuf,
    words: &'w [String],
    dependencies: Vec<&'w str>,
    name: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Wanted {
    name: String,
    dependencies: Vec<String>,
    /// The symbols that it is for.
    roots: BTreeSet<String>,
    /// What the program defines itself, alone or not.
    own: BTreeSet<String>,
    own_besides: BTreeSet<String>,
    /// One for the same symbols has failed the link.
    again: bool,
    /// How often it could not be made, for reasons that may pass.
    failures: u32,
}

impl Wanted {
    fn write(&self, folder: &Path) -> bool {
        serde_json::to_vec(self).is_ok_and(|text| report::replace(folder, WANTED, &text).is_ok())
    }
}

impl<'w> Merged<'w> {
    /// `None` where a program that is linked with it could be another one.
    pub fn of(folder: &Path, words: &'w [String]) -> Option<Merged<'w>> {
        // Archives that are never written again under their name.
        let copies = folder.join(copies::FOLDER);
        let all = words.iter().map(String::as_str);
        let dependencies: Vec<&str> = all.clone().filter(|word| Path::new(word).starts_with(&copies)).collect();
        let is_library = |word: &str| word.starts_with("-l") && !LIBRARIES.contains(&word);
        let is_otherwise = all.clone().any(|word| OTHERWISE.contains(&word) || is_library(word))
            || words.windows(2).any(|two| !two[0].ends_with("-dynamic-linker") && arguments::is_shared(&two[1]));
        if dependencies.is_empty() || is_otherwise || !all.clone().any(|word| word == "--gc-sections") {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (VERSION, &dependencies).hash(&mut hasher);
        let name = format!("{:016x}", hasher.finish());
        Some(Merged { folder: folder.join(FOLDER), words, dependencies, name })
    }

    /// The object, where it is made.
    pub fn made(&self) -> Option<Made<'_>> {
        let object = object(&self.folder, &self.name);
        let mut object = object.is_file().then(|| object.to_str()).flatten();
        object?;
        let swapped = self.words.iter().filter_map(|word| match self.dependencies.contains(&word.as_str()) {
            true => object.take().map(str::to_owned),
            false => Some(word.clone()),
        });
        Some(Made { merged: self, words: swapped.collect(), names: Names::read(&self.folder, &self.name)? })
    }

    /// Asks for one that has what these words need. Returns whether one can be had.
    pub fn want(&self) -> bool {
        if refusal(&self.folder, &self.name).is_file() {
            return false;
        }
        let mut needed = Needed::default();
        self.own().for_each(|path| needed.look(path));
        let before = read_wanted(&self.folder).filter(|wanted| wanted.name == self.name);
        if before.is_none() {
            remove_others(&self.folder, &self.name);
        }
        let before = before.unwrap_or_default();
        let roots: BTreeSet<String> = needed.roots().map(str::to_owned).chain(before.roots.iter().cloned()).collect();
        let again = self.made().is_some() && roots == before.roots;
        if again && before.again {
            refuse(&self.folder, &self.name, "the program cannot be linked with it");
            return false;
        }
        // An error shows when something is written there.
        DirBuilder::new().mode(0o700).create(&self.folder).ok();
        fs::remove_file(object(&self.folder, &self.name)).ok();
        let dependencies = self.dependencies.iter().map(ToString::to_string).collect();
        let failures = if roots == before.roots { before.failures } else { 0 };
        let Needed { defined: own, local: mut own_besides, shared, .. } = needed;
        own_besides.extend(shared);
        let wanted = Wanted { name: self.name.clone(), dependencies, roots, own, own_besides, again, failures };
        wanted.write(&self.folder)
    }

    /// What is linked beside the dependencies.
    fn own(&self) -> impl Iterator<Item = &Path> {
        self.words.iter().filter(|word| !self.dependencies.contains(&word.as_str())).map(Path::new)
    }
}

/// An object that may do for the link.
pub struct Made<'m> {
    merged: &'m Merged<'m>,
    /// Those of the link, with the object in the dependencies' place.
    pub words: Vec<String>,
    names: Names,
}

impl Made<'_> {
    /// Whether what was compiled since it was asked for needs nothing that it lacks, at a glance: to try and fail takes longer.
    pub fn suffices(&self) -> bool {
        let written = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
        let Ok(asked) = written(&self.merged.folder.join(WANTED)) else { return false };
        // What does not tell when it was written is none of this program's.
        let is_new = |path: &&Path| written(path).is_ok_and(|when| when >= asked);
        let mut needed = Needed::default();
        self.merged.own().filter(is_new).for_each(|path| needed.look(path));
        let Needed { defined, undefined, weak, .. } = &needed;
        let Names { lacking, offered, .. } = &self.names;
        // Of what it defines itself, there may be another in either, and which of them counts is for the whole link to say.
        let lacks = |name: &String| lacking.has(name);
        !undefined.iter().chain(weak).any(lacks) && !defined.iter().any(|name| lacks(name) || offered.has(name))
    }

    /// Whether the program takes nothing from a shared library, and does without nothing, that a dependency has and the object has not.
    pub fn is_right(&self, program: &Path) -> bool {
        let Names { lacking, taken: before, .. } = &self.names;
        taken(program).is_some_and(|taken| !taken.iter().any(|name| lacking.has(name) && !before.has(name)))
    }
}

/// What is known of an object when it is used.
struct Names {
    /// The dependencies define them and the object does not.
    lacking: Hashes,
    /// The object defines them for others.
    offered: Hashes,
    /// The program took them from elsewhere when it was linked with the dependencies.
    taken: Hashes,
}

impl Names {
    fn read(folder: &Path, name: &str) -> Option<Names> {
        let bytes = fs::read(names(folder, name)).ok()?;
        let (numbers, rest) = bytes.as_chunks();
        let mut numbers = numbers.iter().map(|number| u64::from_le_bytes(*number));
        // Each row has its length before it, so that a file that was cut is seen.
        let mut row = || {
            let length = numbers.next()?;
            let hashes: Vec<u64> = numbers.by_ref().take(usize::try_from(length).ok()?).collect();
            (hashes.len() as u64 == length).then_some(Hashes(hashes))
        };
        let (lacking, offered, taken) = (row()?, row()?, row()?);
        (rest.is_empty() && numbers.next().is_none()).then_some(Names { lacking, offered, taken })
    }

    fn write(&self, folder: &Path, name: &str) -> io::Result<()> {
        let rows = [&self.lacking, &self.offered, &self.taken];
        let numbers =
            rows.into_iter().flat_map(|Hashes(row)| [row.len() as u64].into_iter().chain(row.iter().copied()));
        fs::write(names(folder, name), numbers.flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
    }
}

/// Of names, in order: there are many, and each link looks for few.
struct Hashes(Vec<u64>);

impl Hashes {
    fn of<'n>(names: impl Iterator<Item = &'n str>) -> Hashes {
        let mut hashes: Vec<u64> = names.map(Hashes::hash).collect();
        hashes.sort_unstable();
        Hashes(hashes)
    }

    fn has(&self, name: &str) -> bool {
        self.0.binary_search(&Hashes::hash(name)).is_ok()
    }

    /// A program that hashes in another way does not find the object either, and makes both again.
    fn hash(name: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        hasher.finish()
    }
}

fn object(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.o"))
}

fn names(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.names"))
}

/// Says why there is none, and will be none.
fn refusal(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.refused"))
}

fn refuse(folder: &Path, name: &str, why: &str) {
    fs::remove_file(object(folder, name)).ok();
    // Without it, it is tried again.
    fs::write(refusal(folder, name), why).ok();
}

fn read_wanted(folder: &Path) -> Option<Wanted> {
    serde_json::from_slice(&fs::read(folder.join(WANTED)).ok()?).ok()
}

/// The symbols of a program that are not its own (elf(5), the dynamic symbols' table).
fn taken(program: &Path) -> Option<BTreeSet<String>> {
    let cache = ReadCache::new(File::open(program).ok()?);
    let file = object::File::parse(&cache).ok()?;
    let symbols = file.dynamic_symbols().filter(|symbol| symbol.is_undefined());
    symbols.map(|symbol| symbol.name().ok().map(str::to_owned)).collect()
}

/// What objects define, and what they need of others.
#[derive(Default)]
struct Needed {
    defined: BTreeSet<String>,
    undefined: BTreeSet<String>,
    weak: BTreeSet<String>,
    /// Defined in each that needs it.
    shared: BTreeSet<String>,
    local: BTreeSet<String>,
}

impl Needed {
    fn look(&mut self, path: &Path) {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("o" | "rlib" | "a"))
            && let Ok(bytes) = fs::read(path)
        {
            each_object(&bytes, |object| self.look_at(object));
        }
    }

    fn look_at(&mut self, object: &object::File<'_>) {
        let shared = shared_sections(object);
        let is_shared = |symbol: &object::Symbol<'_, '_>| symbol.section_index().is_some_and(|at| shared.contains(&at));
        for symbol in object.symbols() {
            let Ok(name) = symbol.name() else { continue };
            let set = match (defines(&symbol), symbol.is_global()) {
                (true, true) if is_shared(&symbol) => &mut self.shared,
                (true, true) => &mut self.defined,
                (true, false) => &mut self.local,
                // A weak one takes nothing out of an archive.
                (false, true) if symbol.is_weak() => &mut self.weak,
                (false, true) if symbol.is_undefined() => &mut self.undefined,
                (false, _) => continue,
            };
            set.insert(name.to_owned());
        }
    }

    fn roots(&self) -> impl Iterator<Item = &str> {
        self.undefined.difference(&self.defined).filter(|name| !self.shared.contains(*name)).map(String::as_str)
    }
}

/// Whether it is the name of something in that object. The crate's own `is_definition` leaves out what is thread-local, for one.
fn defines(symbol: &object::Symbol<'_, '_>) -> bool {
    !symbol.is_undefined() && !matches!(symbol.kind(), SymbolKind::Section | SymbolKind::File)
}

/// Of these a program has one, whichever object it is from (ELF, section groups: GRP_COMDAT).
fn shared_sections(object: &object::File<'_>) -> HashSet<SectionIndex> {
    object.comdats().flat_map(|comdat| comdat.sections()).collect()
}

/// Those for other dependencies.
fn remove_others(folder: &Path, name: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        if file != WANTED && !file.to_string_lossy().starts_with(name) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Those of an archive, or the one that the bytes are.
fn each_object(bytes: &[u8], mut look: impl FnMut(&object::File<'_>)) {
    let mut look = |data: &[u8]| {
        if let Ok(object) = object::File::parse(data) {
            look(&object);
        }
    };
    match ArchiveFile::parse(bytes) {
        Ok(archive) => {
            let members = archive.members().filter_map(|member| member.ok()?.data(bytes).ok());
            members.for_each(&mut look);
        }
        Err(_) => look(bytes),
    }
}
