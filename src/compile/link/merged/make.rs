//! Makes the object that was asked for, with GNU ld, and compares it with the program that was linked without it.
//! Never lives here: when it is used.

use super::super::{driver, report};
use super::{Absent, Wanted, each_object, object, read_wanted, refuse, taken};
use object::read::elf::{FileHeader as _, SectionHeader as _, Sym as _};
use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind, elf};
use std::collections::{HashMap, HashSet};
use std::fs;
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
/// In bytes.
const SMALL: u64 = 48;
/// What is run by the C library, or begins with one of these and a dot.
const RUN: [&str; 7] = [".preinit_array", ".init_array", ".fini_array", ".init", ".fini", ".ctors", ".dtors"];

/// Makes what was asked for when `program` was linked, the last one. Where that does not succeed, it is not asked for again.
pub fn make(folder: &Path, program: &Path) -> Option<()> {
    let folder = folder.join(super::FOLDER);
    let wanted = read_wanted(&folder)?;
    remove_others(&folder, &wanted.name);
    let made = report::temporary(&folder, "object");
    let checked = Symbols::of(&wanted.dependencies)
        .and_then(|symbols| merge(&folder, &wanted, &symbols, &made).map(|()| symbols))
        .and_then(|symbols| mend(&made).map(|()| symbols))
        .and_then(|symbols| check(&wanted, &symbols, &made, program))
        .and_then(|absent| absent.write(&folder, &wanted.name).map_err(|error| error.to_string()))
        .and_then(|()| fs::rename(&made, object(&folder, &wanted.name)).map_err(|error| error.to_string()));
    checked
        .inspect_err(|why| {
            fs::remove_file(&made).ok();
            refuse(&folder, &wanted.name, why);
        })
        .ok()
}

/// Those for other dependencies, and what was left by one that was killed.
fn remove_others(folder: &Path, name: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        if file != super::WANTED && !file.to_string_lossy().starts_with(name) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// What dependencies define.
#[derive(Default)]
struct Symbols {
    /// For others, with their sizes.
    global: HashMap<String, u64>,
    local: HashSet<String>,
}

impl Symbols {
    fn of(dependencies: &[String]) -> Result<Symbols, String> {
        let mut symbols = Symbols::default();
        for dependency in dependencies {
            each_object(&read(Path::new(dependency))?, |object| {
                for symbol in object.symbols().filter(|symbol| symbol.is_definition()) {
                    let (is_global, size) = (symbol.is_global(), symbol.size());
                    match name(symbol) {
                        Some(name) if is_global => drop(symbols.global.insert(name.to_owned(), size)),
                        Some(name) => drop(symbols.local.insert(name.to_owned())),
                        None => {}
                    }
                }
            });
        }
        Ok(symbols)
    }

    fn has(&self, name: &str) -> bool {
        self.global.contains_key(name) || self.local.contains(name)
    }

    /// The small ones of which the program has another instance: the next edit may well need them (which instance of
    /// `fmt::Arguments::new` it is depends on the length of a text).
    fn instances(&self, wanted: &Wanted) -> impl Iterator<Item = &str> {
        let present: HashSet<&str> = wanted.roots.iter().chain(&wanted.own).filter_map(|name| function(name)).collect();
        let small = self.global.iter().filter(|(_, size)| **size <= SMALL).map(|(name, _)| name.as_str());
        small.filter(move |name| function(name).is_some_and(|function| present.contains(function)))
    }
}

/// The name of a generic function without that of the instance (rustc's legacy mangling, `17h` and 16 digits).
fn function(name: &str) -> Option<&str> {
    let (function, instance) = name.strip_suffix('E')?.split_at_checked(name.len().checked_sub(20)?)?;
    (name.starts_with("_ZN") && instance.starts_with("17h")).then_some(function)
}

fn merge(folder: &Path, wanted: &Wanted, symbols: &Symbols, made: &Path) -> Result<(), String> {
    let ld = find()?;
    let script = report::temporary(folder, "script");
    let list = report::temporary(folder, "arguments");
    let (Some(script_name), Some(made)) = (script.to_str(), made.to_str()) else {
        return Err("its folder's name is not UTF-8".to_owned());
    };
    let mut arguments = vec!["-r", "--gc-sections", "-z", "noexecstack", "-T", script_name, "-o", made];
    let roots = wanted.roots.iter().map(String::as_str).chain(symbols.instances(wanted));
    roots.for_each(|root| arguments.extend(["-u", root]));
    arguments.push("--start-group");
    arguments.extend(wanted.dependencies.iter().map(String::as_str));
    arguments.push("--end-group");
    let arguments: String = arguments.into_iter().map(quoted).collect();
    let said = fs::write(&script, SCRIPT).and_then(|()| fs::write(&list, arguments)).and_then(|()| {
        Command::new(&ld).arg(format!("@{}", list.display())).env("LC_ALL", "C").stdin(Stdio::null()).output()
    });
    fs::remove_file(&script).ok();
    fs::remove_file(&list).ok();
    let said = said.map_err(|error| format!("{ld}: {error}"))?;
    // A warning is of something that is not as it was thought to be.
    if said.status.success() && said.stderr.is_empty() {
        return Ok(());
    }
    Err(format!("{ld}: {}: {}", said.status, String::from_utf8_lossy(&said.stderr)))
}

/// GNU ld makes local what only left out parts have needed of others, and no other linker understands that.
fn mend(made: &Path) -> Result<(), String> {
    let mut bytes = read(made)?;
    for place in undefined_locals(&bytes).ok_or("what GNU ld has made is not understood")? {
        // elf(5), Elf64_Sym: the name's place, and the section's number.
        bytes[place..][..4].fill(0);
        bytes[place..][6..8].copy_from_slice(&elf::SHN_ABS.0.to_le_bytes());
    }
    fs::write(made, bytes).map_err(|error| error.to_string())
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

/// The linker of the C driver, where it is GNU ld: no other is known to understand the script.
fn find() -> Result<String, String> {
    let ask = |command: &mut Command| {
        let said = command.env("LC_ALL", "C").stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        String::from_utf8(said.stdout).map_err(|error| error.to_string())
    };
    let name = ask(Command::new(driver::name()).arg("-print-prog-name=ld"))?.trim().to_owned();
    let version = ask(Command::new(&name).arg("--version"))?;
    if version.starts_with("GNU ld") { Ok(name) } else { Err(format!("{name} is not GNU ld")) }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// As in a file of arguments (ld(1), `@file`).
fn quoted(argument: &str) -> String {
    format!("\"{}\"\n", argument.replace('\\', "\\\\").replace('"', "\\\""))
}

/// All that the program has of the dependencies must be in the object. Returns what it does not have of them.
fn check(wanted: &Wanted, symbols: &Symbols, made: &Path, program: &Path) -> Result<Absent, String> {
    let (made, linked) = (read(made)?, read(program)?);
    let parse = |bytes| object::File::parse(bytes).map_err(|error| error.to_string());
    let (made, linked) = (parse(made.as_slice())?, parse(linked.as_slice())?);
    if let Some(section) = made.sections().find(runs_by_itself) {
        // Whoever no longer needs anything of that dependency would still have it run.
        return Err(format!("a dependency has code that is run without being called: {:?}", section.name()));
    }
    let has: HashSet<&str> = made.symbols().filter(|symbol| symbol.is_definition()).filter_map(name).collect();
    let is_something = |symbol: &object::Symbol<'_, '_>| {
        symbol.is_definition() && matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data | SymbolKind::Tls)
    };
    let mut needed = linked.symbols().filter(is_something).filter_map(name).peekable();
    if needed.peek().is_none() {
        return Err("the program's symbols are stripped".to_owned());
    }
    if let Some(name) = needed.find(|name| symbols.has(name) && !has.contains(name) && !wanted.own.contains(*name)) {
        return Err(format!("{name} is missing"));
    }
    let taken = taken(program).ok_or("the program's dynamic symbols cannot be read")?;
    // These the program takes from elsewhere, as it was linked with the dependencies.
    let others = symbols.global.keys().map(String::as_str);
    Ok(Absent::of(others.filter(|name| !has.contains(name) && !taken.contains(*name))))
}

fn name<'data>(symbol: object::Symbol<'data, '_>) -> Option<&'data str> {
    symbol.name().ok().filter(|name| !name.is_empty())
}

fn runs_by_itself(section: &object::Section<'_, '_>) -> bool {
    let name = section.name().unwrap_or_default();
    let is_run = |kind: &str| name.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    name != OF_STD && RUN.into_iter().any(is_run)
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
