//! The dependencies as one object: a program that is linked with it is the one that is linked without it.

use super::{Crate, LIBRARY, PROGRAM, TABLES, assert_frame};
use crate::harness::command;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

/// A program of these texts.
fn of(library: &str, program: &str) -> Crate {
    let made = Crate::new();
    write_library(&made, library);
    fs::write(made.path("program.rs"), program).unwrap();
    made
}

fn write_library(made: &Crate, text: &str) {
    fs::write(made.path("greeting.rs"), text).unwrap();
    let library = made.rustc().args(["--crate-type", "rlib", "-g", "greeting.rs"]).output().unwrap();
    assert!(library.status.success(), "{}", String::from_utf8_lossy(&library.stderr));
}

/// Links with these arguments more. Returns whether the dependencies were merged, and whether that is asked for.
#[track_caller]
fn link(made: &Crate, more: &[&str]) -> (bool, bool) {
    let _ = fs::remove_file(made.path("program"));
    let said = made.linked().args(more).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    made.assert_clean();
    let report: Value = serde_json::from_slice(&fs::read(made.path("kept/report.json")).unwrap()).unwrap();
    assert_eq!(report["linker"], "wild", "{report}");
    (report["merged"].as_bool().unwrap(), report["wants_merged"].as_bool().unwrap())
}

const WANTS: (bool, bool) = (false, true);
const MERGED: (bool, bool) = (true, false);
const NEITHER: (bool, bool) = (false, false);

/// Whether the object was made.
fn merge(made: &Crate) -> bool {
    merging(made).output().unwrap().status.success()
}

fn merging(made: &Crate) -> Command {
    let mut merge = command();
    merge.arg("--merge").arg(made.path("program")).env("CARGO_HOTRUN_LINK", made.path("kept"));
    merge
}

fn kept(made: &Crate, extension: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(made.path("kept/merged")).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|is| is == extension)).collect()
}

fn refusal(made: &Crate) -> String {
    fs::read_to_string(&kept(made, "refused")[0]).unwrap()
}

#[track_caller]
fn assert_says(made: &Crate, expected: &str) {
    let output = made.run();
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
}

#[test]
fn the_next_program_is_linked_with_it() {
    let made = Crate::new();
    assert_eq!(link(&made, &[]), WANTS);
    assert!(merge(&made));
    fs::write(made.path("program.rs"), PROGRAM.replace("\"wild\"", "\"other\"")).unwrap();
    assert_eq!(link(&made, &[]), MERGED);
    assert_says(&made, "hello other\n");
    let fallen = Command::new(made.path("program")).arg("fall").env("RUST_BACKTRACE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&fallen.stderr);
    assert!(said.contains("greeting::fall"), "{said}");
    assert_frame(&said, "program::down", "program.rs:3:");
}

#[test]
fn what_it_lacks_is_linked_without_it_and_the_next_has_it() {
    let library =
        format!("{LIBRARY}\n#[inline(never)] pub fn part(name: &str) -> String {{ format!(\"good bye {{name}}\") }}");
    let made = of(&library, PROGRAM);
    assert_eq!(link(&made, &[]), WANTS);
    assert!(merge(&made));
    let parting = PROGRAM.replace("greet(", "part(");
    fs::write(made.path("program.rs"), &parting).unwrap();
    assert_eq!(link(&made, &[]), WANTS);
    assert_says(&made, "good bye wild\n");
    assert!(merge(&made));
    for (program, says) in [(parting.as_str(), "good bye wild\n"), (PROGRAM, "hello wild\n")] {
        fs::write(made.path("program.rs"), program).unwrap();
        assert_eq!(link(&made, &[]), MERGED);
        assert_says(&made, says);
    }
}

/// Each is another instance of a function of which the dependencies have some.
#[test]
fn a_text_of_another_length_lacks_nothing() {
    let library =
        format!("{LIBRARY}\npub fn part(name: &str) -> String {{ format!(\"good bye {{name}}, good bye\") }}");
    let program =
        |text: &str| format!("fn main() {{ println!(\"{{}}\", format!(\"{text}\", greeting::greet(\"wild\"))) }}");
    let made = of(&library, &program("{}, hello"));
    assert_eq!(link(&made, &[]), WANTS);
    assert!(merge(&made));
    fs::write(made.path("program.rs"), program("good bye {}, good bye")).unwrap();
    assert_eq!(link(&made, &[]), MERGED);
    assert_says(&made, "good bye hello wild, good bye\n");
}

#[test]
fn another_dependency_is_another_object() {
    let made = Crate::new();
    assert_eq!(link(&made, &[]), WANTS);
    assert!(merge(&made));
    let before = kept(&made, "o");
    write_library(&made, &LIBRARY.replace("hello", "good day,"));
    assert_eq!(link(&made, &[]), WANTS);
    assert_says(&made, "good day, wild\n");
    assert!(merge(&made));
    assert_eq!(link(&made, &[]), MERGED);
    assert_says(&made, "good day, wild\n");
    let after = kept(&made, "o");
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_ne!(before, after);
}

#[test]
fn it_behaves_as_the_dependencies_do() {
    let program = "
        #[used] #[unsafe(link_section = \"numbers\")] static B: u32 = 22;
        fn main() {
            println!(\"arguments {}\", std::env::args().count());
            println!(\"numbers {:?}\", greeting::numbers());
            println!(\"caught {}\", std::panic::catch_unwind(|| greeting::fall(3)).is_err());
            std::thread::spawn(|| greeting::LOCAL.with_borrow_mut(|all| all.push(greeting::Last(7)))).join().unwrap();
            println!(\"{:?}\", std::net::TcpListener::bind(\"127.0.0.1:0\").is_ok());
        }";
    for more in [&[][..], &["-C", "relocation-model=static"], &["-C", "opt-level=2"]] {
        let made = of(TABLES, program);
        assert_eq!(link(&made, more), WANTS, "{more:?}");
        let without = made.run();
        assert!(merge(&made), "{more:?} {}", refusal(&made));
        assert_eq!(link(&made, more), MERGED, "{more:?}");
        let with = made.run();
        assert_eq!((with.status, &with.stdout), (without.status, &without.stdout), "{more:?}");
        let said = String::from_utf8_lossy(&with.stdout);
        assert!(said.contains("numbers [11, 22]\n") && said.contains("caught true\n"), "{said}");
    }
}

/// Both are in a dependency, where nothing needs them at first.
#[test]
fn what_a_dependency_has_is_not_taken_from_elsewhere() {
    let library = format!(
        "{LIBRARY}\n
        std::arch::global_asm!(\".section .text.hypot, \\\"ax\\\"\", \".globl hypot\", \".type hypot, @function\", \"hypot: ret\");
        std::arch::global_asm!(\".section .text.maybe, \\\"ax\\\"\", \".globl maybe\", \".type maybe, @function\", \"maybe: ret\");"
    );
    let program = |declared: &str, value: &str| {
        format!("{declared}\nfn main() {{ greeting::greet(\"\"); println!(\"{{}}\", {value}) }}")
    };
    let shared = "unsafe extern \"C\" { fn hypot(x: f64, y: f64) -> f64; }";
    let weak = "std::arch::global_asm!(\".weak maybe\"); unsafe extern \"C\" { static maybe: u8; }";
    for (declared, value, before, says) in [
        (shared, "unsafe { hypot(std::hint::black_box(3.0), 4.0) }", "std::hint::black_box(1.0)", "3\n"),
        (weak, "std::hint::black_box(&raw const maybe).is_null()", "std::hint::black_box(true)", "false\n"),
    ] {
        let made = of(&library, &program("", before));
        assert_eq!(link(&made, &[]), WANTS);
        assert!(merge(&made));
        assert_eq!(link(&made, &[]), MERGED);
        fs::write(made.path("program.rs"), program(declared, value)).unwrap();
        assert_eq!(link(&made, &[]), WANTS, "{value}");
        assert_says(&made, says);
    }
    // In an object that seems to have been there before.
    let made = of(&library, &program("", "std::hint::black_box(1.0)"));
    let object = format!(
        "#![no_std]\n{shared}\n#[unsafe(no_mangle)] extern \"C\" fn far() -> f64 {{ unsafe {{ hypot(3.0, 4.0) }} }}"
    );
    fs::write(made.path("far.rs"), object).unwrap();
    assert!(made.rustc().args(["--crate-type=lib", "--emit=obj", "far.rs"]).status().unwrap().success());
    let far = File::options().append(true).open(made.path("far.o")).unwrap();
    far.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    assert_eq!(link(&made, &[]), WANTS);
    assert!(merge(&made));
    let declared = "unsafe extern \"C\" { fn far() -> f64; }";
    fs::write(made.path("program.rs"), program(declared, "unsafe { far() }")).unwrap();
    assert_eq!(link(&made, &["-C", "link-arg=far.o"]), WANTS);
    assert_says(&made, "3\n");
}

#[test]
fn where_it_could_be_another_program_there_is_none() {
    let runs = format!(
        "{LIBRARY}\nextern \"C\" fn before() {{}}\n#[used] #[unsafe(link_section = \".init_array\")] static INIT: extern \"C\" fn() = before;"
    );
    let made = of(&runs, PROGRAM);
    assert_eq!(link(&made, &[]), WANTS);
    assert!(!merge(&made));
    assert!(refusal(&made).contains(".init_array"), "{}", refusal(&made));
    // What no `#[used]` keeps is of a library that is linked as it is needed.
    let set = format!("{LIBRARY}\nstd::arch::global_asm!(\".section numbers, \\\"aR\\\"; one: .long 1; .text\");");
    let other = of(&set, PROGRAM);
    assert_eq!(link(&other, &[]), WANTS);
    assert!(!merge(&other));
    assert!(refusal(&other).contains("numbers"), "{}", refusal(&other));
    // It is not tried again.
    assert_eq!(link(&made, &[]), NEITHER);
    assert_says(&made, "hello wild\n");
    let others = ["strip=symbols", "link-arg=-rdynamic", "link-dead-code=yes", "link-arg=-lresolv"];
    for more in others.map(|other| ["-C", other]) {
        let made = Crate::new();
        assert_eq!(link(&made, &more), NEITHER, "{more:?}");
        assert_says(&made, "hello wild\n");
    }
    // It needs to see what the program has of the dependencies.
    let made = Crate::new();
    assert_eq!(link(&made, &[]), WANTS);
    assert!(Command::new("strip").arg(made.path("program")).status().unwrap().success());
    assert!(!merge(&made));
    assert!(refusal(&made).contains("stripped"), "{}", refusal(&made));
}

/// The reason may pass, or not.
#[test]
fn where_it_cannot_be_made_it_is_given_up() {
    let script = |made: &Crate, name: &str, text: &str| {
        fs::write(made.path(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(made.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let merge = |made: &Crate, ld: &str| {
        fs::create_dir_all(made.path("bin")).unwrap();
        script(made, "bin/cc", &format!("echo {ld}"));
        let path = format!("{}:{}", made.path("bin").display(), std::env::var("PATH").unwrap());
        assert!(!merging(made).env("PATH", path).output().unwrap().status.success());
    };
    for ld in ["no-such-ld", "true"] {
        let made = Crate::new();
        assert_eq!(link(&made, &[]), WANTS);
        merge(&made, ld);
        assert!(refusal(&made).contains("is not GNU ld"), "{}", refusal(&made));
        assert_eq!(link(&made, &[]), NEITHER);
    }
    // Killed when it is to link, or before it has said what it is.
    for text in ["case $1 in --version) echo GNU ld;; *) kill -9 $$;; esac", "kill -9 $$"] {
        let made = Crate::new();
        script(&made, "ld", text);
        let ld = made.path("ld");
        for expected in [WANTS, WANTS, WANTS, NEITHER] {
            assert_eq!(link(&made, &[]), expected, "{text}");
            merge(&made, ld.to_str().unwrap());
        }
    }
}

/// The shared libraries that it is started with.
fn libraries(made: &Crate) -> Vec<String> {
    let said = Command::new("readelf").arg("-d").arg(made.path("program")).output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    text.lines().filter(|line| line.contains("(NEEDED)")).map(str::to_owned).collect()
}

#[test]
fn what_is_needed_no_more_calls_for_nothing() {
    let with = "unsafe extern \"C\" { fn cos(x: f64) -> f64; }
        fn main() { println!(\"{} {}\", greeting::greet(\"\"), unsafe { cos(std::hint::black_box(0.0)) }) }";
    let without = "fn main() { println!(\"{} {}\", greeting::greet(\"\"), std::hint::black_box(1.0)) }";
    let made = of(LIBRARY, without);
    assert_eq!(link(&made, &[]), WANTS);
    let few = libraries(&made);
    let made = of(LIBRARY, with);
    assert_eq!(link(&made, &[]), WANTS);
    assert!(libraries(&made).len() > few.len());
    assert!(merge(&made));
    fs::write(made.path("program.rs"), without).unwrap();
    assert_eq!(link(&made, &[]), MERGED);
    assert_eq!(libraries(&made), few);
}

#[test]
fn what_is_defined_twice_is_left_to_the_order_of_the_link() {
    let defines = |kind: &str, is: u32| {
        let lines = format!(".section .text.twice, \\\"ax\\\"; {kind} twice; twice: mov eax, {is}; ret; .text");
        format!("std::arch::global_asm!(\"{lines}\");\nunsafe extern \"C\" {{ safe fn twice() -> i32; }}")
    };
    let library = format!("{LIBRARY}\n{}\npub fn used() -> i32 {{ twice() }}", defines(".globl", 1));
    let used = "fn main() { println!(\"{}{}\", greeting::greet(\"\"), greeting::used()) }";
    let made = of(&library, &format!("{}\n{used}", defines(".weak", 2)));
    assert_eq!(link(&made, &[]), WANTS);
    assert_says(&made, "hello 1\n");
    assert!(!merge(&made));
    assert!(refusal(&made).contains("twice is defined more than once"), "{}", refusal(&made));
    // An own one that comes later.
    let made = of(&library, used);
    assert_eq!(link(&made, &[]), WANTS);
    assert!(merge(&made));
    fs::write(made.path("program.rs"), format!("{}\n{used}", defines(".weak", 2))).unwrap();
    assert_eq!(link(&made, &[]), WANTS);
    assert_says(&made, "hello 1\n");
    // It is the linker that must see it.
    let unused = "fn main() { println!(\"{}{}\", greeting::greet(\"\"), 1) }";
    let made = of(&library, unused);
    assert_eq!(link(&made, &[]), WANTS);
    assert!(merge(&made));
    fs::write(made.path("program.rs"), format!("{}\n{unused}", defines(".globl", 2))).unwrap();
    let said = made.linked().output().unwrap();
    assert!(!said.status.success());
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(text.contains("duplicate symbol") || text.contains("multiple definition"), "{text}");
}

#[test]
fn what_is_kept_of_it_is_mended() {
    let made = Crate::new();
    assert_eq!(link(&made, &[]), WANTS);
    assert!(merge(&made));
    let object = kept(&made, "o").remove(0);
    let whole = fs::read(&object).unwrap();
    for (part, wanted) in [(0, "{"), (7, ""), (100, "[]"), (whole.len() / 2, "{}"), (whole.len() / 3, "")] {
        fs::write(&object, &whole[..part]).unwrap();
        if !wanted.is_empty() {
            fs::write(made.path("kept/merged/wanted.json"), wanted).unwrap();
        }
        assert_eq!(link(&made, &[]), WANTS, "{part}");
        assert_says(&made, "hello wild\n");
        assert!(merge(&made));
        assert_eq!(link(&made, &[]), MERGED);
        assert_says(&made, "hello wild\n");
    }
    let names = kept(&made, "names").remove(0);
    let whole = fs::read(&names).unwrap();
    for broken in [None, Some(0), Some(8), Some(whole.len() - 8), Some(whole.len() - 1)] {
        match broken {
            None => fs::remove_file(&names).unwrap(),
            Some(part) => fs::write(&names, &whole[..part]).unwrap(),
        }
        assert_eq!(link(&made, &[]), WANTS, "{broken:?}");
        assert!(merge(&made));
        assert_eq!(link(&made, &[]), MERGED);
    }
    let all = fs::read_dir(made.path("kept/merged")).unwrap().count();
    assert_eq!(all, 3);
    // One that fails again and again is given up.
    for expected in [WANTS, NEITHER, NEITHER] {
        merge(&made);
        if let Some(object) = kept(&made, "o").first() {
            fs::write(object, "broken").unwrap();
        }
        assert_eq!(link(&made, &[]), expected);
        assert_says(&made, "hello wild\n");
    }
    assert!(refusal(&made).contains("cannot be linked"));
    // Nothing was asked for.
    let made = Crate::new();
    assert_eq!(link(&made, &[]), WANTS);
    assert!(merge(&made));
    fs::write(made.path("kept/merged/wanted.json"), "").unwrap();
    assert!(!merge(&made));
    assert_eq!(link(&made, &[]), MERGED);
}
