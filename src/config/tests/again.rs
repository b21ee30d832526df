//! Which package and target are meant when the manifests have changed.

use super::super::{Build, Target};
use super::{MAIN, Project, manifest};

fn bin(name: &str) -> Target {
    Target::Bin(name.to_owned())
}

/// One member `api`, with a workspace around it.
fn workspace() -> Project {
    Project::new(&[
        ("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\n"),
        ("crates/api/Cargo.toml", &manifest("api")),
        ("crates/api/src/main.rs", MAIN),
    ])
}

fn edit(project: &Project, file: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(project.path(file)).unwrap();
    assert!(text.contains(from), "{text}");
    project.write(file, &text.replace(from, to));
}

/// What is chosen after the change, and what is wrong with it.
fn again(project: &Project, flags: &[&str], change: impl FnOnce()) -> (Build, String) {
    let config = project.load(flags);
    change();
    let again = config.choice.again(&project.metadata(), &config.build).unwrap();
    (again.build, again.trouble.map_or(String::new(), |error| error.to_string()))
}

#[test]
fn the_package_is_found_again_by_its_place_or_by_its_name() {
    for flags in [&[][..], &["-p", "api"], &["-p", "api@1.0.0"], &["--manifest-path", "crates/api/Cargo.toml"]] {
        let project = workspace();
        let file = "crates/api/Cargo.toml";
        let (build, trouble) =
            again(&project, flags, || edit(&project, file, "version = \"1.0.0\"", "version = \"2.0.0\""));
        assert_eq!((build.package.as_str(), &build.target, trouble.as_str()), ("api", &bin("api"), ""), "{flags:?}");
        assert!(build.package_id.repr.contains("2.0.0"), "{}", build.package_id);

        let project = workspace();
        let (build, trouble) = again(&project, flags, || edit(&project, file, "name = \"api\"", "name = \"web\""));
        assert_eq!((build.package.as_str(), &build.target, trouble.as_str()), ("web", &bin("web"), ""), "{flags:?}");

        let project = workspace();
        let (build, trouble) = again(&project, flags, || {
            std::fs::rename(project.path("crates/api"), project.path("crates/moved")).unwrap();
        });
        assert_eq!((build.package.as_str(), &build.target, trouble.as_str()), ("api", &bin("api"), ""), "{flags:?}");
        assert_eq!(build.manifest_path, project.path("crates/moved/Cargo.toml"), "{flags:?}");
    }
}

#[test]
fn what_is_new_beside_it_does_not_make_it_doubtful() {
    let project = workspace();
    let (build, trouble) = again(&project, &[], || {
        project.write("crates/other/Cargo.toml", &manifest("other"));
        project.write("crates/other/src/main.rs", MAIN);
        project.write("crates/api/src/bin/admin.rs", MAIN);
    });
    assert_eq!((build.package.as_str(), &build.target, trouble.as_str()), ("api", &bin("api"), ""));
    let (build, _) = again(&project, &["-p", "api", "--bin", "admin"], || {
        edit(&project, "crates/api/Cargo.toml", "[package]\n", "[package]\ndefault-run = \"api\"\n");
    });
    assert_eq!(build.target, bin("admin"), "as the user said");
    let project = workspace();
    let (build, _) = again(&project, &[], || {
        project.write("crates/api/src/bin/admin.rs", MAIN);
        edit(&project, "crates/api/Cargo.toml", "[package]\n", "[package]\ndefault-run = \"admin\"\n");
    });
    assert_eq!(build.target, bin("admin"), "as the manifest says");
}

#[test]
fn what_was_asked_for_and_is_gone_is_named_with_what_there_is() {
    let project = workspace();
    let rename = || edit(&project, "crates/api/Cargo.toml", "name = \"api\"", "name = \"web\"");
    let (build, trouble) = again(&project, &["--bin", "api"], rename);
    assert_eq!(
        (build.package.as_str(), &build.target),
        ("web", &bin("api")),
        "as before, in the package that is there"
    );
    assert!(trouble.contains("`--bin`: found \"api\"; package `web` has no bin of that name"), "{trouble}");

    let project = workspace();
    let config = project.load(&[]);
    std::fs::remove_dir_all(project.path("crates/api")).unwrap();
    project.write("crates/lib/Cargo.toml", &manifest("lib"));
    project.write("crates/lib/src/lib.rs", "");
    let error = config.choice.again(&project.metadata(), &config.build).unwrap_err().to_string();
    assert!(error.contains("package `api` is not in the workspace any more, and nothing to run"), "{error}");
    assert!(error.contains("\n    help: "), "{error}");
}
