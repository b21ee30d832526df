//! Which package and target a directory, flags and manifests lead to.

use super::super::Target;
use super::{MAIN, Project, manifest, workspace};

#[test]
fn the_package_and_the_target_are_chosen() {
    let plain = workspace("", "");
    let bin = |name: &str| Target::Bin(name.to_owned());
    let example = |name: &str| Target::Example(name.to_owned());
    for (directory, flags, package, target) in [
        ("", &["-p", "worker"][..], "worker", bin("worker")),
        ("", &["-p", "worker@1.0.0"], "worker", bin("worker")),
        ("", &["--bin", "admin"], "api", bin("admin")),
        ("", &["--example", "tiny"], "api", example("tiny")),
        ("", &["--example", "show"], "core-lib", example("show")),
        ("crates/worker", &[], "worker", bin("worker")),
        ("crates/worker/src", &[], "worker", bin("worker")),
        ("", &["--manifest-path", "crates/worker/Cargo.toml"], "worker", bin("worker")),
        ("crates/worker", &["-p", "api", "--bin", "api"], "api", bin("api")),
        ("crates/core", &["--example", "show"], "core-lib", example("show")),
    ] {
        let config = plain.load_in(directory, flags).unwrap();
        assert_eq!((config.build.package.as_str(), &config.build.target), (package, &target), "{directory} {flags:?}");
        assert!(config.build.package_id.repr.contains("crates"), "{}", config.build.package_id);
    }
    for (directory, flags, part) in [
        ("", &[][..], "several packages could be run: `api`, `worker`\n    help: choose one with `-p NAME`, or write"),
        (
            "crates/api",
            &[],
            "package `api` has several binaries: `admin`, `api`\n    help: choose one with `--bin NAME`",
        ),
        (
            "crates/core",
            &[],
            "package `core-lib` has no binary\n    help: run an example with `--example NAME`: `show`",
        ),
        (
            "crates/core",
            &["--bin", "api"],
            "`--bin`: found \"api\"; package `core-lib` has no bin of that name, but pack",
        ),
        ("", &["--bin", "amdin"], "`--bin`: found \"amdin\"; no default member of the workspace has the bin; did you"),
        ("", &["--bin", "xyzzy"], "`--bin`: found \"xyzzy\"; no default member"),
        ("", &["-p", "wroker"], "did you mean `worker`?"),
    ] {
        let shown = plain.refusal(directory, flags);
        assert!(shown.contains(part), "{directory} {flags:?}\n{shown}");
    }
}

#[test]
fn manifests_choose_too() {
    let chosen = |project: &Project, directory: &str, flags: &[&str]| {
        let build = project.load_in(directory, flags).unwrap().build;
        (build.package, build.target)
    };
    let bin = |package: &str, name: &str| (package.to_owned(), Target::Bin(name.to_owned()));

    let shared = workspace("[workspace.metadata.hotrun]\nbin = 'admin'\n", "");
    assert_eq!(chosen(&shared, "", &[]), bin("api", "admin"));
    // Meant for `api`: in another package it says nothing.
    assert_eq!(chosen(&shared, "crates/worker", &[]), bin("worker", "worker"));
    assert_eq!(chosen(&shared, "", &["-p", "worker"]), bin("worker", "worker"));
    assert_eq!(chosen(&shared, "", &["--bin", "worker"]), bin("worker", "worker"));

    let typo = workspace("[workspace.metadata.hotrun]\nbin = 'amdin'\n", "");
    for directory in ["", "crates/api"] {
        let shown = typo.refusal(directory, &[]);
        assert!(shown.contains("/Cargo.toml:5:7: `bin` in [workspace.metadata.hotrun]: found \"amdin\""), "{shown}");
        assert!(shown.contains("did you mean `admin`?"), "{shown}");
    }

    let own = workspace("[workspace.metadata.hotrun]\nbin = 'worker'\n", "[package.metadata.hotrun]\nbin = 'admin'\n");
    assert_eq!(chosen(&own, "crates/api", &[]), bin("api", "admin"));
    assert_eq!(chosen(&own, "crates/api", &["--bin", "api"]), bin("api", "api"));

    let of_cargo = workspace("default-members = ['crates/api']\n", "");
    of_cargo.write("crates/api/Cargo.toml", &(manifest("api").trim().to_owned() + "\ndefault-run = 'api'\n"));
    assert_eq!(chosen(&of_cargo, "", &[]), bin("api", "api"));
    let shown = of_cargo.refusal("", &["--bin", "worker"]);
    assert!(shown.contains("choose it with `-p worker`"), "{shown}");
}

#[test]
fn a_root_package_without_a_binary_stands_for_its_members() {
    let files = |main: &'static str| {
        let root = manifest("root") + "[workspace]\nmembers = ['api']\ndefault-members = ['.', 'api']\n";
        Project::new(&[
            ("Cargo.toml", &root),
            (main, MAIN),
            ("src/lib.rs", ""),
            ("api/Cargo.toml", &manifest("api")),
            ("api/src/main.rs", MAIN),
        ])
    };
    assert_eq!(files("src/unused.rs").load(&[]).build.package, "api");
    let with_main = files("src/main.rs");
    assert_eq!(with_main.load(&[]).build.package, "root");
    assert_eq!(with_main.load(&["--bin", "api"]).build.package, "api");
}

#[test]
fn nothing_to_run() {
    let library = Project::new(&[("Cargo.toml", &manifest("shop")), ("src/lib.rs", "")]);
    assert!(
        library.refusal("", &[]).starts_with("nothing to run: package `shop` has no binary\n    help: a server is")
    );
    let two = Project::new(&[
        ("Cargo.toml", "[workspace]\nmembers = ['a', 'b']\nresolver = '3'\n"),
        ("a/Cargo.toml", &manifest("a")),
        ("a/src/lib.rs", ""),
        ("b/Cargo.toml", &manifest("b")),
        ("b/src/lib.rs", ""),
    ]);
    assert!(two.refusal("", &[]).starts_with("nothing to run: no default member"));
}
