//! The command as the linker of a real rustc: what it links by itself, and when it leaves that to the C driver.

mod merged;

use crate::harness::command;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const LIBRARY: &str = "pub fn greet(name: &str) -> String { format!(\"hello {name}\") }
#[inline(never)] pub fn fall() { panic!(\"fallen\") }";
const PROGRAM: &str = "
    #[inline(never)]
    fn down() { std::hint::black_box(greeting::fall()) }
    fn main() {
        println!(\"{}\", greeting::greet(\"wild\"));
        if std::env::args().count() > 1 { down() }
    }";

/// A library with what is in no symbol table: a row between a start and a stop, what is thread-local, the way of a panic.
const TABLES: &str = "
    #[used] #[unsafe(link_section = \"numbers\")] static A: u32 = 11;
    pub struct Last(pub u32);
    impl Drop for Last { fn drop(&mut self) { println!(\"dropped {}\", self.0) } }
    thread_local! { pub static LOCAL: std::cell::RefCell<Vec<Last>> = const { std::cell::RefCell::new(Vec::new()) }; }
    #[inline(never)] pub fn fall(deep: u32) { let _held = Last(deep); if deep == 0 { panic!(\"fallen\") } else { fall(deep - 1) } }
    pub fn numbers() -> Vec<u32> {
        unsafe extern \"C\" { #[link_name = \"__start_numbers\"] static START: u32; #[link_name = \"__stop_numbers\"] static STOP: u32; }
        let range = (&raw const START)..(&raw const STOP);
        let length = (range.end as usize - range.start as usize) / 4;
        let mut all = unsafe { std::slice::from_raw_parts(range.start, length) }.to_vec();
        all.sort();
        all
    }";

/// A program and the library it is linked with, as cargo would have them compiled.
struct Crate {
    folder: tempfile::TempDir,
}

impl Crate {
    fn new() -> Crate {
        let made = Crate { folder: tempfile::tempdir().unwrap() };
        fs::write(made.path("greeting.rs"), LIBRARY).unwrap();
        fs::write(made.path("program.rs"), PROGRAM).unwrap();
        fs::create_dir(made.path("kept")).unwrap();
        fs::set_permissions(made.path("kept"), fs::Permissions::from_mode(0o700)).unwrap();
        let library = made.rustc().args(["--crate-type", "rlib", "-g", "greeting.rs"]).output().unwrap();
        assert!(library.status.success(), "{library:?}");
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn rustc(&self) -> Command {
        let mut rustc = Command::new("rustc");
        rustc.args(["--edition", "2024", "-L", "."]).current_dir(self.folder.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WILD_")) {
            rustc.env_remove(name);
        }
        rustc
    }

    /// The compilation of the program, with the command as its linker.
    fn linked(&self) -> Command {
        let mut rustc = self.rustc();
        let linker = command().get_program().to_str().unwrap().to_owned();
        rustc.args(["-C", &format!("linker={linker}"), "-C", "linker-flavor=gcc", "-C", "debuginfo=line-tables-only"]);
        rustc.args(["--extern", "greeting=libgreeting.rlib", "program.rs"]);
        rustc.env("CARGO_HOTRUN_LINK", self.path("kept")).env("CARGO_HOTRUN_OWN", "/nowhere");
        rustc
    }

    fn run(&self) -> Output {
        Command::new(self.path("program")).output().unwrap()
    }

    /// The linker, and why.
    fn report(&self) -> (String, Option<String>) {
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(self.path("kept/report.json")).unwrap()).unwrap();
        (report["linker"].as_str().unwrap().to_owned(), report["reason"].as_str().map(str::to_owned))
    }

    fn copies(&self) -> Vec<PathBuf> {
        let entries =
            fs::read_dir(self.path("kept/stripped")).map(|entries| entries.map(|entry| entry.unwrap().path()));
        entries.map(Iterator::collect).unwrap_or_default()
    }

    /// Nothing of a link is left beside the program.
    fn assert_clean(&self) {
        let names: Vec<String> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("linking") || name.contains(".delete"))
            .collect();
        assert_eq!(names, Vec::<String>::new());
        let kept = fs::read_dir(self.path("kept")).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(kept.into_iter().all(|name| !name.to_string_lossy().starts_with('.')));
    }
}

#[track_caller]
fn assert_links(made: &Crate, rustc: &mut Command, linker: &str) {
    let _ = fs::remove_file(made.path("program"));
    let said = rustc.output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(String::from_utf8_lossy(&made.run().stdout), "hello wild\n");
    let report = made.report();
    assert_eq!(report.0, linker, "{report:?}");
    made.assert_clean();
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn it_links_by_itself_and_the_program_runs() {
    let made = Crate::new();
    assert_links(&made, &mut made.linked(), "wild");
    let copies = made.copies();
    assert!(copies.iter().any(|copy| copy.to_string_lossy().contains("libgreeting.")), "{copies:?}");
    let small = size(&made.path("program"));
    assert_links(&made, &mut made.linked(), "wild");
    assert_eq!(made.copies().len(), copies.len());
    // With the debug data of the dependencies.
    assert_links(&made, made.linked().env_remove("CARGO_HOTRUN_OWN"), "wild");
    assert!(size(&made.path("program")) > small * 2);
    // With that of one of them.
    fs::remove_dir_all(made.path("kept/stripped")).unwrap();
    assert_links(
        &made,
        made.linked().env("CARGO_HOTRUN_OWN", format!("/nowhere:{}", made.folder.path().display())),
        "wild",
    );
    assert!(made.copies().iter().all(|copy| !copy.to_string_lossy().contains("libgreeting.")));
}

#[track_caller]
fn assert_frame(said: &str, function: &str, line: &str) {
    let mut lines = said.lines().skip_while(|line| !line.ends_with(function));
    assert!(lines.nth(1).is_some_and(|place| place.contains(line)), "{function} at {line}: {said}");
}

#[test]
fn a_backtrace_names_the_lines_of_ones_own_code() {
    let made = Crate::new();
    assert_links(&made, &mut made.linked(), "wild");
    let fallen = Command::new(made.path("program")).arg("fall").env("RUST_BACKTRACE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&fallen.stderr);
    assert_frame(&said, "program::down", "program.rs:3:");
    assert_frame(&said, "program::main", "program.rs:6:");
    assert!(said.contains("greeting::fall"), "{said}");
    // Unless it was stripped.
    assert_links(&made, made.linked().env_remove("CARGO_HOTRUN_OWN"), "wild");
    let fallen = Command::new(made.path("program")).arg("fall").env("RUST_BACKTRACE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&fallen.stderr);
    assert_frame(&said, "greeting::fall", "greeting.rs:2:");
}

#[test]
fn the_driver_links_what_is_not_known() {
    let made = Crate::new();
    fs::write(made.path("versions"), "{ global: main; };").unwrap();
    let others = [
        "link-arg=-Wl,--defsym=elsewhere=main",
        "link-arg=-Wl,--version-script=versions",
        "link-arg=-fuse-ld=bfd",
        "link-arg=-Wl,-z,max-page-size=65536",
        "link-arg=-Wl,--wrap=malloc_that_nobody_calls",
    ];
    for other in others {
        assert_links(&made, made.linked().args(["-C", other]), "driver");
        assert!(made.report().1.unwrap().contains("left to the C driver"), "{:?}", made.report());
    }
    for (name, value) in [("WILD_VALIDATE_OUTPUT", "0"), ("LD_RUN_PATH", "/x")] {
        assert_links(&made, made.linked().env(name, value), "driver");
        assert!(made.report().1.unwrap().contains(name));
    }
    assert_links(&made, &mut made.linked(), "wild");
}

#[test]
fn other_ways_to_link_a_program() {
    let made = Crate::new();
    for (option, value) in [
        ("relocation-model", "static"),
        ("target-feature", "+crt-static"),
        ("link-arg", "-rdynamic"),
        ("strip", "debuginfo"),
        ("strip", "symbols"),
        ("link-dead-code", "yes"),
        ("rpath", "yes"),
        ("relro-level", "off"),
    ] {
        let _ = fs::remove_file(made.path("program"));
        let said = made.linked().args(["-C", &format!("{option}={value}")]).output().unwrap();
        assert!(said.status.success(), "{option}: {}", String::from_utf8_lossy(&said.stderr));
        assert_eq!(String::from_utf8_lossy(&made.run().stdout), "hello wild\n", "{option}={value}");
        eprintln!("{option}={value}: {:?}", made.report());
    }
}

/// More arguments than fit come in a file.
#[test]
fn a_long_command_line_is_read_from_its_file() {
    let made = Crate::new();
    let mut archive = made.path(&"long".repeat(50));
    fs::create_dir(&archive).unwrap();
    archive.push("nothing.a");
    fs::write(&archive, "!<arch>\n").unwrap();
    let args = format!("-Clink-arg={}\n", archive.display()).repeat(12_000);
    assert!(args.len() > 2 << 20);
    fs::write(made.path("args"), args).unwrap();
    let mut rustc = made.linked();
    rustc.arg("@args");
    assert_links(&made, &mut rustc, "wild");
}

#[test]
fn a_link_error_is_the_drivers_own_and_leaves_nothing() {
    let made = Crate::new();
    fs::write(
        made.path("program.rs"),
        "unsafe extern \"C\" { fn that_nobody_defines(); } fn main() { unsafe { that_nobody_defines() } }",
    )
    .unwrap();
    let said = made.linked().output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success());
    assert!(text.contains("undefined symbol: that_nobody_defines") || text.contains("undefined reference"), "{text}");
    assert!(!text.contains("wild:") && !text.contains("panicked"), "{text}");
    assert_eq!(made.report().0, "driver");
    assert!(made.report().1.unwrap().contains("that_nobody_defines"), "{:?}", made.report());
    assert!(!made.path("program").exists());
    made.assert_clean();
}

#[test]
fn what_is_kept_is_mended() {
    let made = Crate::new();
    assert_links(&made, &mut made.linked(), "wild");
    let expansion = made.path("kept/expansion.json");
    let good = fs::read_to_string(&expansion).unwrap();

    // Not read: learnt again.
    for broken in ["", "{", "[]", "{\"key\":[],\"tokens\":[]}"] {
        fs::write(&expansion, broken).unwrap();
        assert_links(&made, &mut made.linked(), "wild");
        assert_eq!(fs::read_to_string(&expansion).unwrap(), good);
    }
    // Read, but it leads nowhere.
    for (from, to) in [("crt1.o", "crt9.o"), ("--gc-sections", "--what"), ("{\"Inputs\":1}", "{\"Inputs\":99}")] {
        let broken = good.replace(from, to);
        assert_ne!(broken, good, "{from}");
        fs::write(&expansion, &broken).unwrap();
        let _ = fs::remove_file(made.path("program"));
        let said = made.linked().output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        assert_eq!(String::from_utf8_lossy(&made.run().stdout), "hello wild\n");
        assert_links(&made, &mut made.linked(), "wild");
        assert_eq!(fs::read_to_string(&expansion).unwrap(), good);
    }
    // A copy that is cut, at any place.
    for rlib in ["libgreeting.", "libcore-", "libstd-"] {
        for part in [0, 7, 100, 5_000] {
            let copies = made.copies();
            let copy = copies.iter().find(|copy| copy.to_string_lossy().contains(rlib)).unwrap();
            let whole = fs::read(copy).unwrap();
            fs::write(copy, &whole[..part.min(whole.len() / 2)]).unwrap();
            let _ = fs::remove_file(made.path("program"));
            let said = made.linked().output().unwrap();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
            assert_eq!(String::from_utf8_lossy(&made.run().stdout), "hello wild\n");
            assert_links(&made, &mut made.linked(), "wild");
            assert_eq!(fs::read(copy).unwrap(), whole, "{rlib} {part}");
        }
    }
}

#[test]
fn a_dependency_that_changes_is_copied_again() {
    let made = Crate::new();
    assert_links(&made, &mut made.linked(), "wild");
    let of_library = |made: &Crate| {
        made.copies().into_iter().filter(|copy| copy.to_string_lossy().contains("libgreeting.")).collect::<Vec<_>>()
    };
    let before = of_library(&made);
    fs::write(made.path("greeting.rs"), LIBRARY.replace("hello", "good day,")).unwrap();
    assert!(made.rustc().args(["--crate-type", "rlib", "-g", "greeting.rs"]).status().unwrap().success());
    assert!(made.linked().status().unwrap().success());
    assert_eq!(String::from_utf8_lossy(&made.run().stdout), "good day, wild\n");
    let after = of_library(&made);
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_ne!(before, after);
}

#[test]
fn a_folder_that_others_can_write_to_is_not_believed() {
    let made = Crate::new();
    fs::set_permissions(made.path("kept"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(made.linked().status().unwrap().success());
    assert_eq!(String::from_utf8_lossy(&made.run().stdout), "hello wild\n");
    assert_eq!(fs::read_dir(made.path("kept")).unwrap().count(), 0);
    fs::remove_dir(made.path("kept")).unwrap();
    assert!(made.linked().status().unwrap().success());
}

/// What a linker can get wrong without an error: what runs before `main`, what stands between a section's start and stop, which
/// of two weak and strong definitions counts, what is thread-local, and how a panic finds its way.
#[test]
fn a_program_behaves_as_when_the_driver_links_it() {
    let made = Crate::new();
    let library = "
        pub static BEFORE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        extern \"C\" fn before() { BEFORE.fetch_add(5, std::sync::atomic::Ordering::SeqCst); }
        #[used] #[unsafe(link_section = \".init_array\")] static INIT: extern \"C\" fn() = before;";
    let program = "
        #[used] #[unsafe(link_section = \"numbers\")] static B: u32 = 22;
        #[unsafe(no_mangle)] pub extern \"C\" fn twice(n: i32) -> i32 { n * 2 }
        unsafe extern \"C\" { fn dlsym(handle: *mut u8, name: *const std::ffi::c_char) -> *mut u8; fn cos(x: f64) -> f64; }
        fn main() {
            println!(\"before {}\", greeting::BEFORE.load(std::sync::atomic::Ordering::SeqCst));
            println!(\"numbers {:?}\", greeting::numbers());
            println!(\"caught {}\", std::panic::catch_unwind(|| greeting::fall(3)).is_err());
            std::thread::spawn(|| greeting::LOCAL.with_borrow_mut(|all| all.push(greeting::Last(7)))).join().unwrap();
            println!(\"exported {}\", unsafe { dlsym(std::ptr::null_mut(), c\"twice\".as_ptr()) }.is_null());
            println!(\"cos {}\", unsafe { cos(std::hint::black_box(0.0)) });
            println!(\"{:?}\", std::net::TcpListener::bind(\"127.0.0.1:0\").is_ok());
            println!(\"{:?}\", (twice as *const () as usize) % 2);
        }";
    fs::write(made.path("greeting.rs"), format!("{TABLES}{library}")).unwrap();
    fs::write(made.path("program.rs"), program).unwrap();
    assert!(made.rustc().args(["--crate-type", "rlib", "-g", "greeting.rs"]).status().unwrap().success());
    for extra in [&[][..], &["-C", "link-arg=-rdynamic"], &["-C", "relocation-model=static"], &["-C", "opt-level=2"]] {
        let said = |rustc: &mut Command, linker| {
            let compiled = rustc.args(extra).output().unwrap();
            assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
            assert_eq!(made.report().0, linker);
            let output = made.run();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let wild = said(&mut made.linked(), "wild");
        let driver = said(made.linked().env("WILD_VALIDATE_OUTPUT", "0"), "driver");
        assert_eq!(wild, driver, "{extra:?}");
        assert!(wild.1.contains("before 5\n") && wild.1.contains("caught true\n"), "{wild:?}");
    }
}

/// The program of the link before may be running, or kept by another name.
#[test]
fn the_program_before_stays_as_it_was() {
    let made = Crate::new();
    assert_links(&made, &mut made.linked(), "wild");
    fs::hard_link(made.path("program"), made.path("before")).unwrap();
    let before = fs::read(made.path("before")).unwrap();
    fs::write(made.path("program.rs"), PROGRAM.replace("\"wild\"", "\"other\"")).unwrap();
    assert!(made.linked().status().unwrap().success());
    assert_eq!(String::from_utf8_lossy(&made.run().stdout), "hello other\n");
    assert!(fs::read(made.path("before")).unwrap() == before);
    made.assert_clean();
}
