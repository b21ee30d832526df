//! Which arguments of a linker are known to mean to wild what they mean to the linker in whose place it links.
//! Never lives here: how they came about.

use super::arguments::{is_input, is_shared};

/// What rustc and the C drivers pass for an ordinary program, in one word.
const ALONE: &[&str] = &[
    "-pie",
    "-no-pie",
    "-static",
    "-Bstatic",
    "-Bdynamic",
    "--as-needed",
    "--no-as-needed",
    "--push-state",
    "--pop-state",
    "--start-group",
    "--end-group",
    "--whole-archive",
    "--no-whole-archive",
    "--eh-frame-hdr",
    "--gc-sections",
    "--no-gc-sections",
    "--build-id",
    "--build-id=sha1",
    "--build-id=none",
    "--hash-style=gnu",
    "--hash-style=both",
    "--hash-style=sysv",
    "--no-dynamic-linker",
    "--no-add-needed",
    "--export-dynamic",
    "-export-dynamic",
    "--strip-debug",
    "--strip-all",
    "--enable-new-dtags",
    "-O0",
    "-O1",
    "-O2",
    "--sysroot=/",
    "--sysroot=",
];
/// After `-z`.
const KEYWORDS: &[&str] =
    &["now", "lazy", "relro", "norelro", "noexecstack", "nostart-stop-gc", "origin", "nodelete", "defs"];
/// With a value that can be anything, in the next word.
const WITH_VALUE: &[&str] = &["-dynamic-linker", "--dynamic-linker", "-rpath", "--rpath"];
#[cfg(target_arch = "x86_64")]
const MACHINES: &[&str] = &["elf_x86_64"];
#[cfg(target_arch = "aarch64")]
const MACHINES: &[&str] = &["aarch64linux", "aarch64elf"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINES: &[&str] = &[];

/// `Err` names the first argument that is not known.
pub fn check(words: &[String]) -> Result<(), String> {
    let mut words = words.iter().map(String::as_str);
    let mut machine = false;
    while let Some(word) = words.next() {
        let known = match word {
            "-z" => words.next().is_some_and(|keyword| KEYWORDS.contains(&keyword)),
            "-m" => {
                machine = true;
                words.next().is_some_and(|machine| MACHINES.contains(&machine))
            }
            "-o" => words.next().is_some(),
            "" => false,
            _ if WITH_VALUE.contains(&word) => words.next().is_some_and(|value| !value.starts_with('@')),
            _ if ALONE.contains(&word) => true,
            _ => joined(word, &mut machine),
        };
        if !known {
            return Err(format!("the linker argument {word} is left to the C driver"));
        }
    }
    // Without one, wild links for the machine it runs on.
    if machine { Ok(()) } else { Err("the C driver does not say for which machine it links".to_owned()) }
}

fn joined(word: &str, machine: &mut bool) -> bool {
    if let Some(keyword) = word.strip_prefix("-z") {
        return KEYWORDS.contains(&keyword);
    }
    if let Some(name) = word.strip_prefix("-m") {
        *machine = true;
        return MACHINES.contains(&name);
    }
    if word.starts_with("-rpath=") || word.starts_with("--rpath=") {
        return true;
    }
    if let Some(value) = word.strip_prefix("-L").or_else(|| word.strip_prefix("-l")) {
        return !value.is_empty() && !value.starts_with('=') && !value.starts_with("$SYSROOT");
    }
    // A response file would bring arguments that nobody has looked at.
    let is_path = !word.starts_with(['-', '@']);
    is_path && (is_input(word) || is_shared(word))
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    fn checked(words: &[&str]) -> Result<(), String> {
        check(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_gcc_and_clang_pass_for_a_program_is_known() {
        let gcc = [
            "--build-id",
            "--eh-frame-hdr",
            "-m",
            "elf_x86_64",
            "--hash-style=gnu",
            "--as-needed",
            "-dynamic-linker",
            "/lib64/ld-linux-x86-64.so.2",
            "-pie",
            "-o",
            "/o/app",
            "/usr/lib/Scrt1.o",
            "-L/o/rustcX/raw-dylibs",
            "a.o",
            "--as-needed",
            "-Bstatic",
            "/d/libx.rlib",
            "-Bdynamic",
            "-lgcc_s",
            "-lc",
            "/d/libstd-1.so",
            "/d/libz.so.1",
            "-z",
            "noexecstack",
            "--gc-sections",
            "-z",
            "relro",
            "-z",
            "now",
            "-O1",
            "-rpath",
            "$ORIGIN/../lib",
            "crtn.o",
        ];
        assert_eq!(checked(&gcc), Ok(()));
        let clang = ["-pie", "--hash-style=both", "-melf_x86_64", "-zrelro", "--sysroot=/", "-o", "x", "-rpath=/x"];
        assert_eq!(checked(&clang), Ok(()));
    }

    #[test]
    fn anything_else_is_not() {
        let others: [&[&str]; 27] = [
            &["-shared"],
            &["-r"],
            &["-T", "x.ld"],
            &["-Tx.ld"],
            &["--script=x"],
            &["--version-script=x"],
            &["--version-script", "x"],
            &["--dynamic-list=x"],
            &["-plugin", "x"],
            &["--wrap=malloc"],
            &["--defsym=a=b"],
            &["-z", "stack-size=1"],
            &["-z"],
            &["-zseparate-code"],
            &["-m", "elf_i386"],
            &["-maarch64linux"],
            &["--sysroot=/x"],
            &["@more"],
            &["-rpath", "@more"],
            &["x.ld"],
            &["libfoo.la"],
            &["-flavor"],
            &["--icf=all"],
            &["-u", "x"],
            &["--no-undefined"],
            &[""],
            &["--threads=1"],
        ];
        for words in others {
            let all: Vec<&str> = ["-m", "elf_x86_64"].into_iter().chain(words.iter().copied()).collect();
            assert!(checked(&all).is_err(), "{words:?}");
        }
        assert!(checked(&["-o", "x"]).is_err(), "no machine");
    }
}
