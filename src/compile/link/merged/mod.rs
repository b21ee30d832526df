//! The dependencies as one object, made once of those parts of them that the program needs: the linker has little left to look at that
//! is the same with every save. Where it lacks something, the program is linked without it, and a new one is asked for.
//! Never lives here: how the object is made (`make`).

mod make;

use super::{copies, report};
use object::read::archive::ArchiveFile;
use object::{Object as _, ObjectSymbol as _, ReadCache};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub use make::make;

const FOLDER: &str = "merged";
/// What an object is asked for with.
const WANTED: &str = "wanted.json";
/// Changes when objects are made in another way.
const VERSION: u32 = 1;
/// With one of these, more of the dependencies counts than what the program needs, or nothing tells afterwards what that was.
const OTHERWISE: [&str; 5] =
    ["--whole-archive", "--no-gc-sections", "--export-dynamic", "-export-dynamic", "--strip-all"];

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
    /// What the program has of its own.
    own: BTreeSet<String>,
    /// One for the same symbols has failed.
    again: bool,
}

impl<'w> Merged<'w> {
    /// `None` where a program that is linked with it could be another one.
    pub fn of(folder: &Path, words: &'w [String]) -> Option<Merged<'w>> {
        // Archives that are never written again under their name.
        let copies = folder.join(copies::FOLDER);
        let all = words.iter().map(String::as_str);
        let dependencies: Vec<&str> = all.clone().filter(|word| Path::new(word).starts_with(&copies)).collect();
        let is_otherwise = all.clone().any(|word| OTHERWISE.contains(&word));
        if dependencies.is_empty() || is_otherwise || !all.clone().any(|word| word == "--gc-sections") {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (VERSION, &dependencies).hash(&mut hasher);
        let name = format!("{:016x}", hasher.finish());
        Some(Merged { folder: folder.join(FOLDER), words, dependencies, name })
    }

    /// The words with the object in the dependencies' place, where there is one.
    pub fn words(&self) -> Option<Vec<String>> {
        let object = object(&self.folder, &self.name);
        let is_whole = object.is_file() && absent(&self.folder, &self.name).is_file();
        let mut object = is_whole.then(|| object.to_str()).flatten();
        object?;
        let swapped = self.words.iter().filter_map(|word| match self.dependencies.contains(&word.as_str()) {
            true => object.take().map(str::to_owned),
            false => Some(word.clone()),
        });
        Some(swapped.collect())
    }

    /// What the program takes from a shared library, or does without, must not be what a dependency has and the object has not.
    pub fn check(&self, program: &Path) -> Result<(), String> {
        let absent = fs::read_to_string(absent(&self.folder, &self.name));
        let absent = absent.map_err(|error| format!("the list of what the object lacks: {error}"))?;
        let absent: BTreeSet<&str> = absent.lines().collect();
        let taken = taken(program).ok_or("its dynamic symbols cannot be read")?;
        match taken.iter().find(|name| absent.contains(name.as_str())) {
            Some(name) => Err(format!("{name} is in a dependency")),
            None => Ok(()),
        }
    }

    /// Asks for one that has what these words need. Returns whether one can be had.
    pub fn want(&self) -> bool {
        if refusal(&self.folder, &self.name).is_file() {
            return false;
        }
        let mut needed = Needed::default();
        let own = self.words.iter().filter(|word| !self.dependencies.contains(&word.as_str()));
        own.for_each(|word| needed.look(Path::new(word)));
        let before = read_wanted(&self.folder).filter(|wanted| wanted.name == self.name).unwrap_or_default();
        let roots: BTreeSet<String> = needed.roots().map(str::to_owned).chain(before.roots.iter().cloned()).collect();
        let again = self.words().is_some() && roots == before.roots;
        if again && before.again {
            refuse(&self.folder, &self.name, "the program cannot be linked with it");
            return false;
        }
        // An error shows when something is written there.
        DirBuilder::new().mode(0o700).create(&self.folder).ok();
        fs::remove_file(object(&self.folder, &self.name)).ok();
        let dependencies = self.dependencies.iter().map(ToString::to_string).collect();
        let own = needed.defined.into_iter().chain(needed.local).collect();
        let wanted = Wanted { name: self.name.clone(), dependencies, roots, own, again };
        serde_json::to_vec(&wanted).is_ok_and(|text| report::replace(&self.folder, WANTED, &text).is_ok())
    }
}

fn object(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.o"))
}

/// The names that dependencies define and the object does not.
fn absent(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.absent"))
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
        for symbol in object.symbols() {
            let Ok(name) = symbol.name() else { continue };
            let set = match (symbol.is_definition(), symbol.is_global()) {
                (true, true) => &mut self.defined,
                (true, false) => &mut self.local,
                // A weak one takes nothing out of an archive.
                (false, true) if symbol.is_undefined() && !symbol.is_weak() => &mut self.undefined,
                (false, _) => continue,
            };
            set.insert(name.to_owned());
        }
    }

    fn roots(&self) -> impl Iterator<Item = &str> {
        self.undefined.difference(&self.defined).map(String::as_str)
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
