//! Makes the object that was asked for, with GNU ld, and compares it with the program that was linked without it.
//! Never lives here: when it is used.

use super::super::{driver, report};
use super::{Wanted, absent, each_object, object, read_wanted, refuse, taken};
use object::read::elf::{FileHeader as _, SectionHeader as _, Sym as _};
use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind, elf};
use std::collections::{BTreeSet, HashSet};
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
/// What is run by the C library, or begins with one of these and a dot.
const RUN: [&str; 7] = [".preinit_array", ".init_array", ".fini_array", ".init", ".fini", ".ctors", ".dtors"];

/// Makes what was asked for when `program` was linked, the last one. Where that does not succeed, it is not asked for again.
pub fn make(folder: &Path, program: &Path) -> Option<()> {
    let folder = folder.join(super::FOLDER);
    let wanted = read_wanted(&folder)?;
    remove_others(&folder, &wanted.name);
    let made = report::temporary(&folder, "object");
    let checked = merge(&folder, &wanted, &made)
        .and_then(|()| mend(&made))
        .and_then(|()| check(&wanted, &made, program))
        .and_then(|lacks| fs::write(absent(&folder, &wanted.name), lacks).map_err(|error| error.to_string()))
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

fn merge(folder: &Path, wanted: &Wanted, made: &Path) -> Result<(), String> {
    let ld = find()?;
    let script = report::temporary(folder, "script");
    let list = report::temporary(folder, "arguments");
    let (Some(script_name), Some(made)) = (script.to_str(), made.to_str()) else {
        return Err("its folder's name is not UTF-8".to_owned());
    };
    let mut arguments = vec!["-r", "--gc-sections", "-z", "noexecstack", "-T", script_name, "-o", made];
    wanted.roots.iter().for_each(|root| arguments.extend(["-u", root]));
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

/// All that the program has of the dependencies must be in the object. Returns, in lines, what they define for C and it does not.
fn check(wanted: &Wanted, made: &Path, program: &Path) -> Result<String, String> {
    let (made, linked) = (read(made)?, read(program)?);
    let parse = |bytes| object::File::parse(bytes).map_err(|error| error.to_string());
    let (made, linked) = (parse(made.as_slice())?, parse(linked.as_slice())?);
    if let Some(section) = made.sections().find(runs_by_itself) {
        // Whoever no longer needs anything of that dependency would still have it run.
        return Err(format!("a dependency has code that is run without being called: {:?}", section.name()));
    }
    let has: HashSet<&str> = made.symbols().filter(|symbol| symbol.is_definition()).filter_map(name).collect();
    let mut of_dependencies: HashSet<String> = HashSet::new();
    let mut for_c: BTreeSet<String> = BTreeSet::new();
    for dependency in &wanted.dependencies {
        each_object(&read(Path::new(dependency))?, |object| {
            for symbol in object.symbols().filter(|symbol| symbol.is_definition()) {
                let is_global = symbol.is_global();
                let Some(name) = name(symbol).filter(|name| !has.contains(name)) else { continue };
                if is_global && !is_mangled(name) {
                    for_c.insert(name.to_owned());
                }
                of_dependencies.insert(name.to_owned());
            }
        });
    }
    let is_something = |symbol: &object::Symbol<'_, '_>| {
        symbol.is_definition() && matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Data | SymbolKind::Tls)
    };
    let mut needed = linked.symbols().filter(is_something).filter_map(name).peekable();
    if needed.peek().is_none() {
        return Err("the program's symbols are stripped".to_owned());
    }
    if let Some(name) = needed.find(|name| of_dependencies.contains(*name) && !wanted.own.contains(*name)) {
        return Err(format!("{name} is missing"));
    }
    let taken = taken(program).ok_or("the program's dynamic symbols cannot be read")?;
    let for_c = for_c.into_iter().filter(|name| !taken.contains(name));
    Ok(for_c.map(|name| format!("{name}\n")).collect())
}

fn name<'data>(symbol: object::Symbol<'data, '_>) -> Option<&'data str> {
    symbol.name().ok().filter(|name| !name.is_empty())
}

/// By Rust: no shared library has such a name by accident.
fn is_mangled(name: &str) -> bool {
    name.starts_with("_ZN") || name.starts_with("_R")
}

fn runs_by_itself(section: &object::Section<'_, '_>) -> bool {
    let name = section.name().unwrap_or_default();
    let is_run = |kind: &str| name.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    name != OF_STD && RUN.into_iter().any(is_run)
}
