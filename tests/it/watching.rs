//! Saves that are easily overlooked: folders with two names, links that lead elsewhere, files that git ignores, packages that are
//! renamed; and those that a build makes itself.

use crate::harness::plain::{Plain, plain, project};
use crate::harness::{Project, get};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

const MAIN: &str = "src/main.rs";

fn word(plain: &Plain) -> String {
    let answer = get(plain.address, "/").unwrap();
    answer.lines().find_map(|line| line.strip_prefix("word: ")).unwrap().to_owned()
}

/// A server that answers with that expression.
fn saying(name: &str, expression: &str) -> Project {
    let project = project(name, "");
    project.write(MAIN, &plain("1", &[&format!("fn word() -> String {{ {expression}.to_string() }}")]));
    project
}

/// With a path dependency of that name, in the folder `part`.
fn with_part(project: &Project, lib: &str) {
    let name = format!("{}-part", project.name);
    project
        .write("part/Cargo.toml", &format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n"));
    project.write("part/src/lib.rs", lib);
    project.edit(
        "Cargo.toml",
        "[dependencies]\n",
        &format!("[dependencies]\npart = {{ path = \"part\", package = {name:?} }}\n"),
    );
}

/// Makes a workspace of it, in whose root no package is and nothing else of it.
fn into_workspace(project: &Project) {
    fs::create_dir_all(project.path("crates/server")).unwrap();
    fs::rename(project.path("src"), project.path("crates/server/src")).unwrap();
    if project.path("part").exists() {
        fs::rename(project.path("part"), project.path("crates/part")).unwrap();
    }
    let manifest = project.read("Cargo.toml").replace("path = \"part\"", "path = \"../part\"");
    let (manifest, rest) = manifest.split_once("[workspace]").unwrap();
    project.write("crates/server/Cargo.toml", manifest);
    let of_all = rest.replace("[package.", "[workspace.");
    project.write("Cargo.toml", &format!("[workspace]\nmembers = [\"crates/*\"]\nresolver = \"3\"\n{of_all}"));
}

/// Waits for the next generation, and for what it says.
fn says(plain: &mut Plain, expected: &str) {
    plain.next();
    assert_eq!(word(plain), expected);
}

/// As a file that was there long before anything was built.
fn write_old(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::File::options().append(true).open(path).unwrap().set_modified(UNIX_EPOCH).unwrap();
}

/// As `ln -sfn` does it.
fn point(link: &Path, target: &str) {
    let beside = link.with_file_name("link.tmp");
    symlink(target, &beside).unwrap();
    fs::rename(beside, link).unwrap();
}

#[test]
fn one_folder_by_two_spellings_is_watched_for_both() {
    let expression = "format!(\"{}{}\", include_str!(\"../migrations/x.sql\"), part::Y)";
    let project = saying("watching-spellings", expression);
    with_part(&project, "pub const Y: &str = include_str!(\"../../migrations/y.sql\");\n");
    project.write("migrations/x.sql", "x1");
    project.write("migrations/y.sql", "y1");
    let mut plain = Plain::start(project);
    for (file, text, expected) in [("x", "x2", "x2y1"), ("y", "y2", "x2y2"), ("x", "x3", "x3y2"), ("y", "y3", "x3y3")] {
        plain.project.write_by_rename(&format!("migrations/{file}.sql"), text);
        says(&mut plain, expected);
        assert_eq!(plain.causes().last(), Some(&format!("migrations/{file}.sql changed").as_str()));
    }
}

/// The kernel tells of it by one of the two.
#[test]
fn one_folder_that_is_mounted_twice_is_watched_for_both() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may mount");
        return;
    }
    let project = saying("watching-mounted", "format!(\"{}{}\", include_str!(\"../a/x\"), include_str!(\"../b/y\"))");
    for file in ["a/x", "a/y", "b/hidden"] {
        project.write(file, "1");
    }
    let [a, b] = ["a", "b"].map(|folder| project.path(folder));
    let mut plain = Plain::begin_with(project, &[], |command| mount_twice(command, a, b));
    says(&mut plain, "11");
    for (file, expected) in [("x", "21"), ("y", "22")] {
        plain.project.write(&format!("a/{file}"), "2");
        says(&mut plain, expected);
    }
}

/// For the command alone, and what it starts.
fn mount_twice(command: &mut std::process::Command, folder: PathBuf, other: PathBuf) {
    use nix::mount::{MsFlags, mount};
    use std::os::unix::process::CommandExt;
    let nothing: Option<&str> = None;
    let enter = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
        mount(Some(&folder), &other, nothing, MsFlags::MS_BIND, nothing)?;
        Ok(())
    };
    // SAFETY: three system calls, with paths that are short enough to need no memory (nix keeps them on the stack).
    unsafe { command.pre_exec(enter) };
}

#[test]
fn one_folder_from_three_depths_of_modules_is_watched_for_all() {
    let project = saying("watching-depths", "part::all()");
    let module = |depth: &str, inner: &str| {
        format!("{inner}\npub const TEXT: &str = include_str!(\"{depth}texts/{}.txt\");\n", depth.len() / 3)
    };
    let all = "pub fn all() -> String { [TEXT, a::TEXT, a::b::TEXT].concat() }";
    with_part(&project, &module("../../", &format!("pub mod a; {all}")));
    project.write("part/src/a/mod.rs", &module("../../../", "pub mod b;"));
    project.write("part/src/a/b/mod.rs", &module("../../../../", ""));
    for depth in ["2", "3", "4"] {
        project.write(&format!("texts/{depth}.txt"), depth);
    }
    let mut plain = Plain::start(project);
    for (depth, expected) in [("2", "x34"), ("3", "xx4"), ("4", "xxx")] {
        plain.project.write(&format!("texts/{depth}.txt"), "x");
        says(&mut plain, expected);
    }
}

#[test]
fn sources_behind_a_link_to_a_folder_that_sorts_before_it_are_watched() {
    let project = saying("watching-linked-src", "late::WORD");
    fs::rename(project.path("src"), project.path("asrc")).unwrap();
    symlink("asrc", project.path("src")).unwrap();
    let main = project.read(MAIN);
    project.write("asrc/main.rs", &format!("{main}\nmod late;\n"));
    // Not even the first build succeeds.
    let mut plain = Plain::begin(project, &[]);
    plain.wait_for("build-failed");
    plain.project.write("asrc/late.rs", "pub const WORD: &str = \"one\";\n");
    says(&mut plain, "one");
    plain.project.write("src/late.rs", "pub const WORD: &str = \"two\";\n");
    says(&mut plain, "two");
    plain.project.write_by_rename("asrc/late.rs", "pub const WORD: &str = \"three\";\n");
    says(&mut plain, "three");
}

#[test]
fn a_link_that_leads_elsewhere_is_a_change_and_its_new_target_is_watched() {
    let project =
        saying("watching-links", "format!(\"{}{}{}\", include_str!(\"../text\"), linked::WORD, folder::WORD)");
    let main = project.read(MAIN);
    project.write(MAIN, &format!("{main}\nmod linked;\nmod folder;\n"));
    for folder in ["text.d", "mod.d", "folders/1", "folders/2"] {
        fs::create_dir_all(project.path(folder)).unwrap();
    }
    let module = |word: &str| format!("pub const WORD: &str = {word:?};\n");
    for version in ["1", "2"] {
        write_old(&project.path(&format!("text.d/{version}")), version);
        write_old(&project.path(&format!("mod.d/{version}.rs")), &module(version));
        write_old(&project.path(&format!("folders/{version}/mod.rs")), "mod inner; pub use inner::WORD;\n");
        write_old(&project.path(&format!("folders/{version}/inner.rs")), &module(version));
    }
    symlink("text.d/1", project.path("text")).unwrap();
    symlink("../mod.d/1.rs", project.path("src/linked.rs")).unwrap();
    symlink("../folders/1", project.path("src/folder")).unwrap();
    let mut plain = Plain::start(project);
    assert_eq!(word(&plain), "111");
    point(&plain.project.path("text"), "text.d/2");
    says(&mut plain, "211");
    plain.project.write("text.d/2", "x");
    says(&mut plain, "x11");
    plain.project.write("text.d/1", "of no link any more");
    point(&plain.project.path("src/linked.rs"), "../mod.d/2.rs");
    says(&mut plain, "x21");
    plain.project.write_by_rename("mod.d/2.rs", &module("y"));
    says(&mut plain, "xy1");
    point(&plain.project.path("src/folder"), "../folders/2");
    says(&mut plain, "xy2");
    plain.project.write("folders/2/inner.rs", &module("z"));
    says(&mut plain, "xyz");
    // A file takes the link's place, and a link a file's.
    plain.project.write_by_rename("text", "file");
    says(&mut plain, "fileyz");
    plain.project.write("text.d/3", "file");
    point(&plain.project.path("text"), "text.d/3");
    plain.mark();
    plain.project.write("text.d/3", "link");
    says(&mut plain, "linkyz");
}

/// The compiler names them with the links and without `..`, cargo the other way round. And what replay has compiled, cargo compiles
/// when it is asked, though no file has changed that it knows of.
#[test]
fn what_is_reached_by_dots_and_by_links_is_replayed_and_never_stale_for_cargo() {
    let project = saying("watching-replayed", "format!(\"{}{}\", include_str!(\"../text\"), part::WORD)");
    with_part(&project, "pub const WORD: &str = include_str!(\"../../texts/word\");\n");
    project.write("texts/word", "a");
    for version in ["1", "2", "3"] {
        write_old(&project.path(&format!("texts/{version}")), version);
    }
    symlink("texts/1", project.path("text")).unwrap();
    let mut plain = Plain::begin(project, &["--timings"]);
    says(&mut plain, "1a");
    plain.session.wait_replay_ready();
    let replayed = |plain: &mut Plain, expected: &str| {
        says(plain, expected);
        let generation = plain.generation;
        let timings = |event: &serde_json::Value| event["event"] == "timings" && event["generation"] == generation;
        let timings = plain.session.see("timings", timings);
        assert_eq!(timings["built-by"], "replay", "{timings}");
    };
    plain.project.write("texts/word", "b");
    replayed(&mut plain, "1b");
    point(&plain.project.path("text"), "texts/2");
    replayed(&mut plain, "2b");
    plain.project.write("texts/2", "x");
    replayed(&mut plain, "xb");
    point(&plain.project.path("text"), "texts/3");
    replayed(&mut plain, "3b");
    plain.session.signal(nix::sys::signal::Signal::SIGUSR1);
    plain.session.wait("what cargo gives", |event| event["event"] == "serving" || event["event"] == "unchanged");
    plain.settle();
    assert_eq!(word(&plain), "3b");
}

/// As the README says it: cargo knows nothing of such a folder but by a build script.
#[test]
fn a_folder_that_a_macro_reads_counts_with_the_line_that_the_readme_has() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let line = readme.lines().find(|line| line.contains("rerun-if-changed=migrations")).unwrap();
    let project = saying("watching-macro", "watching_macro_macros::count!()");
    project.write("build.rs", &format!("fn main() {{\n{line}\n}}\n"));
    let manifest = "[package]\nname = \"watching-macro-macros\"\nedition = \"2024\"\n[lib]\nproc-macro = true\n";
    project.write("macros/Cargo.toml", manifest);
    let count = "#[proc_macro]\npub fn count(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n    \
        std::fs::read_dir(\"migrations\").unwrap().count().to_string().parse().unwrap()\n}\n";
    project.write("macros/src/lib.rs", count);
    project.edit("Cargo.toml", "[dependencies]\n", "[dependencies]\nwatching-macro-macros.path = \"macros\"\n");
    project.write("migrations/1.sql", "");
    let mut plain = Plain::start(project);
    assert_eq!(word(&plain), "1");
    plain.project.write("migrations/2.sql", "");
    says(&mut plain, "2");
}

/// A folder of versions, the link to the current one, and links to the files through it.
#[test]
fn files_behind_two_links_as_kubernetes_makes_them_are_watched() {
    let project =
        saying("watching-data", "format!(\"{}{}\", include_str!(\"../config/a\"), include_str!(\"../config/b\"))");
    for version in ["1", "2", "3"] {
        fs::create_dir_all(project.path(&format!("config/..{version}"))).unwrap();
        write_old(&project.path(&format!("config/..{version}/a")), version);
        write_old(&project.path(&format!("config/..{version}/b")), "b");
    }
    symlink("..1", project.path("config/..data")).unwrap();
    for file in ["a", "b"] {
        symlink(format!("..data/{file}"), project.path(&format!("config/{file}"))).unwrap();
    }
    let mut plain = Plain::start(project);
    for version in ["2", "3"] {
        point(&plain.project.path("config/..data"), &format!("..{version}"));
        says(&mut plain, &format!("{version}b"));
        fs::remove_dir_all(plain.project.path(&format!("config/..{}", version.parse::<u32>().unwrap() - 1))).unwrap();
    }
    plain.project.write("config/..3/b", "c");
    says(&mut plain, "3c");
}

#[test]
fn an_ignored_file_that_a_failed_build_has_asked_for_counts_when_it_comes() {
    let project = saying(
        "watching-ignored",
        "format!(\"{}{}{}\", include_str!(\"../static/out.css\"), schema::WORD, include_str!(\"../dist/deep/index.html\"))",
    );
    project.write(".gitignore", "/target\n*.css\n/src/schema.rs\n/dist\n");
    let mut plain = Plain::begin(project, &[]);
    plain.wait_for("build-failed");
    plain.project.write("static/other.css", "not asked for");
    plain.fence();
    assert_eq!(plain.causes().len(), 1);
    plain.project.write("static/out.css", "css");
    plain.wait_for("build-failed");
    plain.project.write("dist/deep/index.html", "html");
    plain.wait_for("build-failed");
    let main = plain.project.read(MAIN);
    plain.project.write_by_rename(MAIN, &format!("{main}\nmod schema;\n"));
    plain.wait_for("build-failed");
    plain.project.write("src/schema.rs", "pub const WORD: &str = \"schema\";\n");
    says(&mut plain, "cssschemahtml");
    // And when it goes and comes again.
    fs::remove_dir_all(plain.project.path("dist")).unwrap();
    plain.wait_for("build-failed");
    plain.project.write("dist/deep/index.html", "again");
    says(&mut plain, "cssschemaagain");
}

#[test]
fn data_in_ignored_and_in_hidden_folders_signals() {
    let project = project("watching-ignored-data", "");
    let data = "data = { \"run/flags/**\" = \"signal:CONT\", \".private/*.toml\" = \"signal:CONT\", \"link/**\" = \"signal:CONT\", ";
    project.edit("Cargo.toml", "data = { ", data);
    project.write(".gitignore", "/target\n/run\n");
    project.write("run/flags/deep/a", "1");
    project.write(".private/b.toml", "1");
    project.write("elsewhere/c", "1");
    project.write("elsewhere-too/c", "2");
    symlink("elsewhere", project.path("link")).unwrap();
    let mut plain = Plain::start(project);
    let mut signalled = |what: &str, change: &dyn Fn(&Project)| {
        change(&plain.project);
        let text = format!("{what} changed");
        plain.session.wait(&text, |event| event["text"].as_str().is_some_and(|said| said.starts_with(&text)));
    };
    signalled("run/flags/deep/a", &|project| project.write("run/flags/deep/a", "2"));
    signalled("run/flags/new/er/b", &|project| project.write("run/flags/new/er/b", "1"));
    signalled(".private/b.toml", &|project| project.write_by_rename(".private/b.toml", "2"));
    signalled("link/c", &|project| point(&project.path("link"), "elsewhere-too"));
    signalled("link/c", &|project| project.write("elsewhere-too/c", "3"));
    plain.fence();
    assert_eq!(plain.causes(), ["first build"]);
}

#[test]
fn the_folder_of_a_workspace_member_may_be_renamed_and_renamed_back() {
    let project = saying("watching-renamed", "part::WORD");
    with_part(&project, "pub const WORD: &str = \"one\";\n");
    // With all that cargo finds by its name, so that none of it is waited for.
    project.write("part/build.rs", "fn main() { println!(\"cargo::rerun-if-changed=build.rs\"); }\n");
    project.write("part/src/main.rs", "fn main() {}\n");
    project.edit("part/Cargo.toml", "[package]\n", "[package]\nautobins = false\n");
    into_workspace(&project);
    let mut plain = Plain::start(project);
    for (member, lib, word) in [("part", "other", "two"), ("part", "other", "three")] {
        let [own, other] = [member, "other"].map(|folder| plain.project.path("crates").join(folder));
        fs::rename(&own, &other).unwrap();
        plain.wait_for("build-failed");
        // What happened until now is looked at twice, and is over.
        plain.fence();
        plain.project.write(&format!("crates/{lib}/src/lib.rs"), &format!("pub const WORD: &str = {word:?};\n"));
        fs::rename(&other, &own).unwrap();
        plain.session.wait("the member that came back", |event| event["event"] == "serving");
        assert_eq!(self::word(&plain), word);
    }
}

/// Its name is part of what cargo calls it by.
#[test]
fn a_package_may_be_renamed_in_its_manifest_and_renamed_back() {
    let project = saying("watching-named", "1");
    into_workspace(&project);
    let mut plain = Plain::start(project);
    let manifest = "crates/server/Cargo.toml";
    let ended =
        |event: &serde_json::Value| ["build-failed", "serving", "unchanged"].iter().any(|name| event["event"] == *name);
    plain.project.edit(manifest, "name = \"watching-named\"", "name = \"watching-renamed\"");
    plain.session.wait("the renamed one", ended);
    plain.settle();
    plain.project.edit(manifest, "name = \"watching-renamed\"", "name = \"watching-named\"");
    plain.session.wait("the one of old", ended);
    let state = plain.settle();
    assert_eq!(state["trouble"], serde_json::Value::Null, "{state}");
    assert_eq!(word(&plain), "1");
}

/// Each build is the reason of the next one.
#[test]
fn a_time_stamp_that_a_build_script_writes_into_a_source_is_not_built_for_ever() {
    let project = saying("watching-stamp", "stamp::WORD");
    let script = "fn main() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    std::fs::write(\"src/stamp.tmp\", format!(\"pub const WORD: &str = \\\"{now}\\\";\\n\")).unwrap();
    std::fs::rename(\"src/stamp.tmp\", \"src/stamp.rs\").unwrap();
}
";
    project.write("build.rs", script);
    let main = project.read(MAIN);
    project.write(MAIN, &format!("{main}\nmod stamp;\n"));
    let mut plain = Plain::begin(project, &[]);
    let told = |event: &serde_json::Value| {
        event["text"].as_str().is_some_and(|text| text.contains("src/stamp.rs is written anew"))
    };
    let text = plain.session.wait("advice", told);
    assert!(text["text"].as_str().unwrap().contains("build script of watching-stamp"), "{text}");
    let state = plain.settle();
    assert_eq!(state["trouble"], serde_json::Value::Null, "{state}");
    let builds = plain.causes().len();
    assert!(builds <= 4, "{:?} {}", plain.causes(), plain.session.stderr());
    let stamp = word(&plain);
    // A save of somebody's is one build, in which the stamp is written once more.
    let main = plain.project.read(MAIN);
    plain.project.write_by_rename(MAIN, &format!("{main}// saved\n"));
    plain.session.wait("a build", |event| event["event"] == "serving");
    plain.settle();
    assert_ne!(word(&plain), stamp);
    assert_eq!(plain.causes()[builds..], ["src/main.rs changed"]);
    assert_eq!(plain.session.log.iter().filter(|event| told(event)).count(), 1);
    // What somebody else writes into that file is built.
    plain.project.write("src/stamp.rs", "pub const WORD: &str = \"by hand\";\n");
    plain.session.wait("a build", |event| event["cause"] == "src/stamp.rs changed");
}
