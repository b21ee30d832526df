//! Makes the object that was asked for, with GNU ld, and compares it with the program that was linked without it.
//! Never lives here: when it is used.

use super::super::driver;
use super::{Hashes, Names, Wanted, defines, each_object, object, read_wanted, refuse, shared_sections, taken};
use crate::process::private;
use object::read::elf::{FileHeader as _, SectionHeader as _, Sym as _};
use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind, elf};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// Sections of one kind become one, but for those of groups. All tables of unwinding are kept, as no symbol leads to them.
const SCRIPT: &str = "SECTIONS {
 .text 0 : { *(.text .text.*) }
 .rodata 0 : { *(.rodata .rodata.*) }
 .data.rel.ro 0 : { *(.data.rel.ro .data.rel.ro.*) }
 .data 0 : { *(.data .data.*) }
 .bss 0 : { *(.bss .bss.*) }
 .tdata 0 : { *(.tdata .tdata.*) }
 .tbss 0 : { *(.tbss .tbss.*) }
 .gcc_except_table 0 : { *(.gcc_except_table .gcc_except_table.*) }
 .eh_frame 0 : { KEEP(*(.eh_frame)) }
 /DISCARD/ : { *(.llvmbc .llvmcmd) }
}
";
/// What the standard library runs before `main`, in every program.
const OF_STD: &str = ".init_array.00099";
/// After as many failures the reason is not one that passes.
const TRIES: u32 = 3;
/// In bytes.
const SMALL: u64 = 48;
/// What is run by the C library, or begins with one of these and a dot.
const RUN: [&str; 7] = [".preinit_array", ".init_array", ".fini_array", ".init", ".fini", ".ctors", ".dtors"];

/// Why there is no object.
enum Failure {
    ForGood(String),
    /// There may have been no memory, no space, no process.
    MayPass,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Failure {
        Failure::MayPass
    }
}

/// Makes what was asked for when `program` was linked, the last one. What cannot be had is not asked for again.
pub fn make(folder: &Path, program: &Path) -> Option<()> {
    let folder = folder.join(super::FOLDER);
    let mut wanted = read_wanted(&folder)?;
    // In the temporary folder, which whoever ends this process clears.
    let temporary = private::temporary_folder(".tmp").ok()?;
    let made = temporary.path().join("object");
    let checked = find().and_then(|ld| {
        let symbols = Symbols::of(&wanted.dependencies)?;
        merge(&ld, temporary.path(), &wanted, &symbols, &made)?;
        mend(&made)?;
        check(&wanted, &symbols, &made, program)
    });
    match checked {
        Ok(names) => {
            names.write(&folder, &wanted.name).ok()?;
            return fs::rename(&made, object(&folder, &wanted.name)).ok();
        }
        Err(Failure::ForGood(why)) => refuse(&folder, &wanted.name, &why),
        Err(Failure::MayPass) if wanted.failures + 1 >= TRIES => {
            refuse(&folder, &wanted.name, "it could not be made several times")
        }
        Err(Failure::MayPass) => {
            wanted.failures += 1;
            wanted.write(&folder);
        }
    }
    None
}

/// What dependencies define.
#[derive(Default)]
struct Symbols {
    /// For others, with their sizes, and whether all have them.
    global: HashMap<String, (u64, bool)>,
    /// More than once: which of them a program has depends on the order in which they are found.
    twice: HashSet<String>,
    local: HashSet<String>,
}

impl Symbols {
    fn of(dependencies: &[String]) -> Result<Symbols, Failure> {
        let mut symbols = Symbols::default();
        for dependency in dependencies {
            each_object(&fs::read(dependency)?, |object| symbols.look_at(object));
        }
        Ok(symbols)
    }

    fn look_at(&mut self, object: &object::File<'_>) {
        let shared = shared_sections(object);
        for symbol in object.symbols().filter(defines) {
            let (is_global, size) = (symbol.is_global(), symbol.size());
            let is_shared = symbol.section_index().is_some_and(|section| shared.contains(&section));
            let Some(name) = name(symbol) else { continue };
            if !is_global {
                self.local.insert(name.to_owned());
                continue;
            }
            let before = self.global.insert(name.to_owned(), (size, is_shared));
            if before.is_some_and(|(_, was_shared)| !(was_shared && is_shared)) {
                self.twice.insert(name.to_owned());
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.global.contains_key(name) || self.local.contains(name)
    }

    /// The small ones of which the program has another instance: the next edit may well need them (which instance of
    /// `fmt::Arguments::new` it is depends on the length of a text).
    fn instances(&self, wanted: &Wanted) -> impl Iterator<Item = &str> {
        let names = wanted.roots.iter().chain(&wanted.own).chain(&wanted.own_besides);
        let present: HashSet<&str> = names.filter_map(|name| function(name)).collect();
        let small = self.global.iter().filter(|(_, (size, _))| *size <= SMALL).map(|(name, _)| name.as_str());
        small.filter(move |name| function(name).is_some_and(|function| present.contains(function)))
    }
}

/// The name of a generic function without that of the instance (rustc's legacy mangling, `17h` and 16 digits).
fn function(name: &str) -> Option<&str> {
    let (function, instance) = name.strip_suffix('E')?.split_at_checked(name.len().checked_sub(20)?)?;
    (name.starts_with("_ZN") && instance.starts_with("17h")).then_some(function)
}

fn merge(ld: &str, folder: &Path, wanted: &Wanted, symbols: &Symbols, made: &Path) -> Result<(), Failure> {
    let (script, list) = (folder.join("script"), folder.join("arguments"));
    let script_name = script.to_str().ok_or(Failure::MayPass)?;
    let made = made.to_str().ok_or(Failure::MayPass)?;
    let mut arguments = vec!["-r", "--gc-sections", "-z", "noexecstack", "-T", script_name, "-o", made];
    // One that is nowhere would stay in the object, and call for a library that nothing needs.
    let roots = wanted.roots.iter().map(String::as_str).filter(|root| symbols.global.contains_key(*root));
    roots.chain(symbols.instances(wanted)).for_each(|root| arguments.extend(["-u", root]));
    arguments.push("--start-group");
    arguments.extend(wanted.dependencies.iter().map(String::as_str));
    arguments.push("--end-group");
    let arguments: String = arguments.into_iter().map(quoted).collect();
    fs::write(&script, SCRIPT).and_then(|()| fs::write(&list, arguments))?;
    let mut command = Command::new(ld);
    command.arg(format!("@{}", list.display())).env("LC_ALL", "C").stdin(Stdio::null());
    let said = command.output()?;
    match said.status.success() {
        true if said.stderr.is_empty() => Ok(()),
        // A warning is of something that is not as it was thought to be.
        true => Err(Failure::ForGood(format!("{ld}: {}", String::from_utf8_lossy(&said.stderr)))),
        false => Err(Failure::MayPass),
    }
}

/// The linker of the C driver, where it is GNU ld: no other is known to understand the script.
fn find() -> Result<String, Failure> {
    let ask = |command: &mut Command| match command.env("LC_ALL", "C").stdin(Stdio::null()).output() {
        Ok(said) if said.status.success() => String::from_utf8(said.stdout).map_err(|_| Failure::MayPass),
        // The C driver hands on a name that it does not find.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Ok(_) | Err(_) => Err(Failure::MayPass),
    };
    let name = ask(Command::new(driver::NAME).arg("-print-prog-name=ld"))?.trim().to_owned();
    let version = ask(Command::new(&name).arg("--version"))?;
    let is_it = version.starts_with("GNU ld");
    if is_it { Ok(name) } else { Err(Failure::ForGood(format!("{name} is not GNU ld"))) }
}

/// GNU ld makes local what only left out parts have needed of others, and no other linker understands that.
fn mend(made: &Path) -> Result<(), Failure> {
    let mut bytes = fs::read(made)?;
    let places = undefined_locals(&bytes);
    for place in places.ok_or_else(|| Failure::ForGood("what GNU ld has made is not understood".to_owned()))? {
        // elf(5), Elf64_Sym: the name's place, and the section's number.
        bytes[place..][..4].fill(0);
        bytes[place..][6..8].copy_from_slice(&elf::SHN_ABS.0.to_le_bytes());
    }
    Ok(fs::write(made, bytes)?)
}

/// Where these symbols stand.
fn undefined_locals(bytes: &[u8]) -> Option<Vec<usize>> {
    let header = elf::FileHeader64::<LittleEndian>::parse(bytes).ok()?;
    let sections = header.sections(LittleEndian, bytes).ok()?;
    let symbols = sections.symbols(LittleEndian, bytes, elf::SHT_SYMTAB).ok()?;
    let table = sections.section(symbols.section()).ok()?.sh_offset(LittleEndian);
    let is_one = |symbol: &elf::Sym64<LittleEndian>| {
        symbol.st_bind() == elf::STB_LOCAL && symbol.st_shndx(LittleEndian) == elf::SHN_UNDEF
    };
    // The first of all symbols stands for none.
    let numbers = symbols.enumerate().skip(1).filter(|(_, symbol)| is_one(symbol)).map(|(number, _)| number.0);
    let size = size_of::<elf::Sym64<LittleEndian>>();
    numbers.map(|number| Some(usize::try_from(table).ok()? + number * size)).collect()
}

/// As in a file of arguments (ld(1), `@file`).
fn quoted(argument: &str) -> String {
    format!("\"{}\"\n", argument.replace('\\', "\\\\").replace('"', "\\\""))
}

/// All that the program has of the dependencies must be in the object, and nothing that would make it another program. Returns
/// what it does not have of them.
fn check(wanted: &Wanted, symbols: &Symbols, made: &Path, program: &Path) -> Result<Names, Failure> {
    let (made, linked) = (fs::read(made)?, fs::read(program)?);
    let parse = |bytes| object::File::parse(bytes).map_err(|error| Failure::ForGood(error.to_string()));
    let (made, linked) = (parse(made.as_slice())?, parse(linked.as_slice())?);
    if let Some(section) = made.sections().find(|section| counts_by_itself(section, &made, wanted)) {
        // Whoever no longer needs anything of that dependency would still have it.
        let name = section.name().unwrap_or_default();
        return Err(Failure::ForGood(format!("a dependency has what counts without being called: {name}")));
    }
    let has: HashSet<&str> = made.symbols().filter(defines).filter_map(name).collect();
    let is_offered = |symbol: &object::Symbol<'_, '_>| defines(symbol) && symbol.is_global();
    let offered: HashSet<&str> = made.symbols().filter(is_offered).filter_map(name).collect();
    if let Some(name) = offered.iter().find(|name| symbols.twice.contains(**name) || wanted.own.contains(**name)) {
        return Err(Failure::ForGood(format!("{name} is defined more than once")));
    }
    let is_something = |symbol: &object::Symbol<'_, '_>| {
        defines(symbol) && matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data | SymbolKind::Tls)
    };
    let mut needed = linked.symbols().filter(is_something).filter_map(name).peekable();
    if needed.peek().is_none() {
        return Err(Failure::ForGood("the program's symbols are stripped".to_owned()));
    }
    let is_own = |name: &str| wanted.own.contains(name) || wanted.own_besides.contains(name);
    if let Some(name) = needed.find(|name| symbols.has(name) && !has.contains(name) && !is_own(name)) {
        return Err(Failure::ForGood(format!("{name} is missing")));
    }
    let taken = taken(program).ok_or(Failure::MayPass)?;
    let lacking = symbols.global.keys().map(String::as_str).filter(|name| !offered.contains(name));
    Ok(Names {
        lacking: Hashes::of(lacking),
        offered: Hashes::of(offered.iter().copied()),
        taken: Hashes::of(taken.iter().map(String::as_str)),
    })
}

fn name<'data>(symbol: object::Symbol<'data, '_>) -> Option<&'data str> {
    symbol.name().ok().filter(|name| !name.is_empty())
}

/// What is run before `main` or after it, and what is found between the start and the stop of its section (ld(1), `__start_` and
/// `__stop_` symbols) unless the program names it, as it does with Rust's `#[used]`.
fn counts_by_itself(section: &object::Section<'_, '_>, made: &object::File<'_>, wanted: &Wanted) -> bool {
    let name = section.name().unwrap_or_default();
    let is_run = |kind: &str| name.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    if RUN.into_iter().any(is_run) {
        return !(name == OF_STD && section.size() == size_of::<u64>() as u64);
    }
    let is_named = |symbol: object::Symbol<'_, '_>| self::name(symbol).is_some_and(|name| wanted.roots.contains(name));
    let is_set = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty();
    let inside = |symbol: &object::Symbol<'_, '_>| defines(symbol) && symbol.section_index() == Some(section.index());
    let mut inside = made.symbols().filter(inside).peekable();
    is_set && (inside.peek().is_none() || !inside.all(is_named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_the_name_of_its_function() {
        let first = "_ZN4core3fmt9Arguments3new17had4b0795bab4b60cE";
        let second = "_ZN4core3fmt9Arguments3new17h0123456789abcdefE";
        assert_eq!(function(first), Some("_ZN4core3fmt9Arguments3new"));
        assert_eq!(function(first), function(second));
        for other in [
            "",
            "E",
            "_ZN3foo3barE",
            "malloc",
            "_RNvXsf_NtCsgEmfK2I1SDS_4core3fmtbNtB5_5Debug3fmt",
            "_ZN\u{e9}\u{e9}7h0123456789abcdefE",
        ] {
            assert_eq!(function(other), None, "{other}");
        }
    }

    #[test]
    fn a_file_of_arguments_has_them_as_they_are() {
        assert_eq!(quoted("/a b/\"c\\d"), "\"/a b/\\\"c\\\\d\"\n");
    }
}
