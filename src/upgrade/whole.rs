//! Whether a file is a whole program: a linker that was killed, a full disk or a copy that was cut leave one that is empty or short.
//! Never lives here: what becomes of one that is not.

use object::elf::{FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache, ReadRef};
use std::fs::File;
use std::io;

/// How files begin that are run where a system was told how (the kernel's binfmt_misc): of Windows, and WebAssembly.
const FOREIGN: [&[u8]; 2] = [b"MZ", b"\0asm"];

/// # Errors
/// What is wrong with it. A file without a header would be run by a shell (exec(3), ENOEXEC), line by line; only a runner may know what to
/// make of it.
pub fn check(file: &File, has_runner: bool) -> io::Result<()> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Err(io::Error::other("it is empty"));
    }
    let data = ReadCache::new(file.try_clone()?);
    let begins = |with: &[u8]| data.read_bytes_at(0, with.len() as u64).is_ok_and(|bytes| bytes == with);
    if begins(b"\x7fELF") {
        let end = match data.read_bytes_at(4, 1) {
            Ok([1]) => end::<FileHeader32<Endianness>>(&data),
            Ok(_) | Err(()) => end::<FileHeader64<Endianness>>(&data),
        };
        return match end {
            Some(end) if end <= length => Ok(()),
            Some(end) => Err(io::Error::other(format!("it has {length} bytes of at least {end}"))),
            None => Err(io::Error::other(format!("its {length} bytes have no whole header"))),
        };
    }
    if has_runner || FOREIGN.iter().any(|begin| begins(begin)) {
        return Ok(());
    }
    Err(io::Error::other("it does not begin as a program does"))
}

/// How long it is at least, by what its header says of its parts (elf(5)). The last one is most often the table of the sections.
fn end<Elf: FileHeader<Endian = Endianness>>(data: &ReadCache<File>) -> Option<u64> {
    let header = Elf::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let table = |at: u64, count: u16, each: u16| at.checked_add(u64::from(count) * u64::from(each));
    let sections = table(header.e_shoff(endian).into(), header.e_shnum(endian), header.e_shentsize(endian))?;
    let parts = table(header.e_phoff(endian).into(), header.e_phnum(endian), header.e_phentsize(endian))?;
    if parts > data.len().ok()? {
        return Some(parts.max(sections));
    }
    let mut end = sections.max(parts);
    for part in header.program_headers(endian, data).ok()? {
        end = end.max(part.p_offset(endian).into().checked_add(part.p_filesz(endian).into())?);
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn said(bytes: &[u8], has_runner: bool) -> String {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        check(&file, has_runner).map_or_else(|error| error.to_string(), |()| "whole".to_owned())
    }

    #[test]
    fn this_program_is_whole_and_no_beginning_of_it_is() {
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        check(&program, false).unwrap();
        let length = program.metadata().unwrap().len();
        let copy = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(std::env::current_exe().unwrap(), copy.path()).unwrap();
        for cut in [length - 1, length / 2, 4096, 65, 64, 63, 20, 5, 4, 3, 1, 0] {
            let file = File::options().write(true).read(true).open(copy.path()).unwrap();
            file.set_len(cut).unwrap();
            for has_runner in [false, true] {
                let is_whole = check(&file, has_runner).is_ok();
                // Too short to be told from what only a runner knows.
                assert_eq!(is_whole, has_runner && (1..4).contains(&cut), "{cut} of {length}");
            }
        }
    }

    #[test]
    fn what_a_shell_would_run_is_no_program() {
        assert_eq!(said(b"", true), "it is empty");
        assert_eq!(said(b"echo 1\n", false), "it does not begin as a program does");
        assert_eq!(said(b"echo 1\n", true), "whole");
        assert_eq!(said(b"MZ\x90", false), "whole");
        assert!(said(&[b"\x7fELF\x02\x01\x01", &[0xff; 100][..]].concat(), false).contains("bytes"));
    }
}
