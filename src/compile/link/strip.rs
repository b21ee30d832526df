//! An archive without the debug data of its objects, made from its bytes.
//! Never lives here: files.

use object::LittleEndian as LE;
use object::endian::U64;
use object::read::archive::{ArchiveFile, ArchiveKind};
use object::read::elf::FileHeader as _;
use object::{elf, pod};
use std::collections::HashMap;

/// Where rustc keeps what only a compiler reads.
const METADATA: &[u8] = b"lib.rmeta";
const MAGIC: &[u8] = b"!<arch>\n";
const HEADER: usize = 60;

/// The archive without debug data, or `None` where it is better left as it is. Members that are not understood stay as
/// they are.
pub fn without_debug(archive: &[u8]) -> Option<Vec<u8>> {
    let file = ArchiveFile::parse(archive).ok()?;
    if file.is_thin() || !matches!(file.kind(), ArchiveKind::Gnu | ArchiveKind::Unknown) {
        return None;
    }
    let mut names = Vec::new();
    let mut members = Vec::new();
    // Which member was where.
    let mut numbers = HashMap::new();
    for member in file.members() {
        let member = member.ok()?;
        if member.name() == METADATA {
            continue;
        }
        let data = member.data(archive).ok()?;
        // The header stands before the data.
        numbers.insert(member.file_range().0.checked_sub(HEADER as u64)?, members.len());
        let content = object_without_debug(data).unwrap_or_else(|| data.to_vec());
        members.push((format!("/{}", names.len()), content));
        names.extend_from_slice(member.name());
        names.extend_from_slice(b"/\n");
    }
    let mut symbols = Vec::new();
    for symbol in file.symbols().ok()?.into_iter().flatten() {
        let symbol = symbol.ok()?;
        // One of the metadata goes with it.
        if let Some(number) = numbers.get(&symbol.offset().0) {
            symbols.push((symbol.name(), *number));
        }
    }
    write(&members, &names, &symbols)
}

/// ar(5), as GNU and System V have it: the symbols' member, the long names', then the members, each at an even place.
fn write(members: &[(String, Vec<u8>)], names: &[u8], symbols: &[(&[u8], usize)]) -> Option<Vec<u8>> {
    let even = |size: usize| size + size % 2;
    let table = 4 + symbols.iter().map(|(name, _)| 4 + name.len() + 1).sum::<usize>();
    let mut place = MAGIC.len() + HEADER + even(table) + HEADER + even(names.len());
    let mut places = Vec::new();
    for (_, content) in members {
        places.push(u32::try_from(place).ok()?);
        place += HEADER + even(content.len());
    }
    let mut index = u32::try_from(symbols.len()).ok()?.to_be_bytes().to_vec();
    for (_, number) in symbols {
        index.extend_from_slice(&places.get(*number)?.to_be_bytes());
    }
    for (name, _) in symbols {
        index.extend_from_slice(name);
        index.push(0);
    }
    let mut out = Vec::with_capacity(place);
    out.extend_from_slice(MAGIC);
    let special = [("/", index.as_slice()), ("//", names)];
    let ordinary = members.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
    for (name, content) in special.into_iter().chain(ordinary) {
        let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 644, content.len());
        // A name or a size too long for its column.
        if header.len() != HEADER {
            return None;
        }
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
        if content.len() % 2 == 1 {
            out.push(b'\n');
        }
    }
    Some(out)
}

/// The object with its debug sections empty. None is taken away: symbols, groups and relocations name sections by number,
/// and these stay right. `None` where it is no object of the kind that rustc makes, or has nothing to lose.
fn object_without_debug(data: &[u8]) -> Option<Vec<u8>> {
    let header = elf::FileHeader64::<LE>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    if header.e_type.get(endian) != elf::ET_REL || header.e_phnum.get(endian) != 0 {
        return None;
    }
    let table = header.sections(endian, data).ok()?;
    let mut sections: Vec<elf::SectionHeader64<LE>> = table.iter().copied().collect();
    // More sections than the header can count: the first one's size is their number.
    if header.e_shnum.get(endian) == 0 || usize::from(header.e_shnum.get(endian)) != sections.len() {
        return None;
    }
    let mut is_debug = Vec::with_capacity(sections.len());
    for section in table.iter() {
        let name = table.section_name(endian, section).ok()?;
        // One that is loaded is the program's own, whatever its name.
        let loaded = section.sh_flags.get(endian).contains(elf::SHF_ALLOC);
        let kind = section.sh_type.get(endian);
        let content = kind == elf::SHT_PROGBITS || kind == elf::SHT_X86_64_UNWIND;
        is_debug.push(content && !loaded && (name.starts_with(b".debug_") || name.starts_with(b".zdebug_")));
    }
    let is_of_debug = |section: &elf::SectionHeader64<LE>| {
        let kind = section.sh_type.get(endian);
        let target = usize::try_from(section.sh_info.get(endian)).unwrap_or(usize::MAX);
        (kind == elf::SHT_RELA || kind == elf::SHT_REL) && is_debug.get(target) == Some(&true)
    };
    let empty: Vec<bool> = table.iter().zip(&is_debug).map(|(section, debug)| *debug || is_of_debug(section)).collect();
    if !empty.contains(&true) {
        return None;
    }
    let mut out = data.get(..size_of::<elf::FileHeader64<LE>>())?.to_vec();
    let mut order: Vec<usize> = (1..sections.len()).collect();
    order.sort_by_key(|number| sections[*number].sh_offset.get(endian));
    for number in order {
        let section = &mut sections[number];
        if empty[number] {
            section.sh_size = U64::new(endian, 0);
            // Flags that promise how the content is made; and a group keeps its members.
            let lost = elf::SHF_COMPRESSED | elf::SHF_MERGE | elf::SHF_STRINGS;
            if is_debug[number] {
                let flags = section.sh_flags.get(endian);
                section.sh_flags = U64::new(endian, elf::SectionFlags(flags.0 & !lost.0));
                section.sh_entsize = U64::new(endian, 0);
            }
            section.sh_offset = U64::new(endian, out.len() as u64);
            continue;
        }
        let nothing = section.sh_type.get(endian) == elf::SHT_NOBITS;
        let alignment = usize::try_from(section.sh_addralign.get(endian)).ok()?.max(1);
        if !alignment.is_power_of_two() || alignment > 1 << 16 {
            return None;
        }
        out.resize(out.len().next_multiple_of(alignment), 0);
        let from = usize::try_from(section.sh_offset.get(endian)).ok()?;
        section.sh_offset = U64::new(endian, out.len() as u64);
        if !nothing {
            let size = usize::try_from(section.sh_size.get(endian)).ok()?;
            out.extend_from_slice(data.get(from..from.checked_add(size)?)?);
        }
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let mut header = *header;
    header.e_shoff = U64::new(endian, out.len() as u64);
    out[..size_of::<elf::FileHeader64<LE>>()].copy_from_slice(pod::bytes_of(&header));
    out.extend_from_slice(pod::bytes_of_slice(&sections));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::read::elf::SectionHeader as _;
    use proptest::prelude::*;
    use std::path::PathBuf;
    use std::process::Command;

    /// The standard library's rlibs: real ones, with debug data.
    fn rlibs() -> Vec<PathBuf> {
        let said = Command::new("rustc").args(["--print", "target-libdir"]).output().unwrap().stdout;
        let folder = PathBuf::from(String::from_utf8(said).unwrap().trim());
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "rlib")).collect()
    }

    type Contents = Vec<(Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>)>;

    /// The members, and their sections that are not of debug data.
    fn contents(archive: &[u8]) -> Contents {
        let members = ArchiveFile::parse(archive).unwrap().members().map(Result::unwrap);
        let members = members.filter(|member| member.name() != METADATA);
        let sections = |data: &[u8]| {
            let Ok(header) = elf::FileHeader64::<LE>::parse(data) else { return vec![(vec![], data.to_vec())] };
            let table = header.sections(LE, data).unwrap();
            let all = table.iter().map(|section| {
                let name = table.section_name(LE, section).unwrap();
                (name.to_vec(), section.data(LE, data).unwrap().to_vec())
            });
            all.filter(|(name, _)| !name.starts_with(b".debug_") && !name.starts_with(b".rela.debug_")).collect()
        };
        members.map(|member| (member.name().to_vec(), sections(member.data(archive).unwrap()))).collect()
    }

    /// Each symbol of the index, and the name of the member where it is.
    fn symbols(archive: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let file = ArchiveFile::parse(archive).unwrap();
        let symbols = file.symbols().unwrap().into_iter().flatten().map(Result::unwrap);
        let named =
            symbols.map(|symbol| (symbol.name().to_vec(), file.member(symbol.offset()).unwrap().name().to_vec()));
        named.filter(|(_, member)| member != METADATA).collect()
    }

    #[test]
    fn all_but_the_debug_data_of_real_archives_stays() {
        let mut smaller = 0;
        for path in rlibs() {
            let before = std::fs::read(&path).unwrap();
            let after = without_debug(&before).unwrap();
            assert_eq!(contents(&after), contents(&before), "{}", path.display());
            assert_eq!(symbols(&after), symbols(&before), "{}", path.display());
            smaller += before.len() - after.len();
            assert_eq!(contents(&without_debug(&after).unwrap()), contents(&before), "{}", path.display());
        }
        assert!(smaller > 1_000_000, "{smaller}");
    }

    #[test]
    fn what_is_no_archive_stays() {
        assert_eq!(without_debug(b""), None);
        assert_eq!(without_debug(b"!<thin>\n"), None);
        assert_eq!(without_debug(b"\x7fELF"), None);
    }

    proptest! {
        /// A damaged archive may be refused, or copied with its damage; it must not end the linker.
        #[test]
        fn no_damage_is_a_crash(places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40), cut in any::<prop::sample::Index>()) {
            let small = rlibs().into_iter().min_by_key(|path| path.metadata().unwrap().len()).unwrap();
            let mut archive = std::fs::read(small).unwrap();
            for (place, byte) in places {
                let place = place.index(archive.len());
                archive[place] = byte;
            }
            let _ = without_debug(&archive);
            archive.truncate(cut.index(archive.len()));
            let _ = without_debug(&archive);
        }
    }
}
