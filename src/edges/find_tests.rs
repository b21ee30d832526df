//! Workspaces on disk, sessions that are only listed, and which of them is meant from where.

use super::super::registry::tests::listed;
use super::*;
use std::fs;

/// Two projects that build to one folder: a workspace of two servers and a library, and a package of its own inside.
struct Ground {
    folder: tempfile::TempDir,
    sessions: Vec<Listed>,
}

fn ground() -> Ground {
    let folder = tempfile::tempdir().unwrap();
    let package = |path: &str, name: &str, more: &str| {
        fs::create_dir_all(folder.path().join(path).join("src")).unwrap();
        let text = format!("[package]\nname = \"{name}\"\nversion.workspace = true\n{more}");
        fs::write(folder.path().join(path).join("Cargo.toml"), text).unwrap();
    };
    for (path, name) in [("ws/api", "api"), ("ws/web", "web"), ("ws/lib", "lib")] {
        package(path, name, "");
    }
    fs::write(folder.path().join("ws/Cargo.toml"), "[workspace]\nmembers = [\"api\", \"web\", \"lib\"]\n").unwrap();
    package("ws/inner", "inner", "[workspace]\n");
    package("outside", "outside", "workspace = \"../ws\"\n");
    package("other", "other", "\n[dependencies]\nx = { workspace = true }\n");
    let shared = folder.path().join("shared");
    let of = |pid, root: &str, member: &str, package: &str| {
        let mut listed = listed(pid, &folder.path().join(root), member, package);
        listed.share(&shared);
        listed
    };
    let sessions = vec![
        of(1, "ws", "api", "api"),
        of(2, "ws", "web", "web"),
        of(3, "other", "", "other"),
        of(4, "ws/inner", "", "inner"),
    ];
    Ground { folder, sessions }
}

impl Ground {
    fn manifest(&self, path: &str) -> PathBuf {
        nearest(&self.folder.path().join(path)).unwrap()
    }

    /// Who is meant by those who stand there.
    fn ask_with(&self, path: &str, args: &cli::ControlArgs) -> Result<u32> {
        let manifest = args.manifest_path.clone().unwrap_or_else(|| self.manifest(path));
        let here = Here { root: root(&manifest), manifest };
        choose(&self.sessions, args, Some(&here)).map(|session| session.pid)
    }

    fn ask(&self, path: &str, package: Option<&str>) -> Result<u32> {
        self.ask_with(path, &cli::ControlArgs { package: package.map(str::to_owned), ..cli::ControlArgs::default() })
    }
}

#[test]
fn projects_that_share_a_target_folder_are_told_apart() {
    let ground = ground();
    for (path, pid) in
        [("ws/api", 1), ("ws/api/src", 1), ("ws/web", 2), ("other", 3), ("other/src", 3), ("ws/inner", 4)]
    {
        assert_eq!(ground.ask(path, None).unwrap(), pid, "{path}");
    }
    fs::create_dir(ground.folder.path().join("empty")).unwrap();
    fs::write(ground.folder.path().join("empty/Cargo.toml"), "").unwrap();
    let error = ground.ask("empty", None).unwrap_err();
    assert!(error.to_string().contains("no session runs on"), "{error}");
    assert!(error.to_string().contains("other (pid 3)"), "{error}");
}

#[test]
fn a_package_is_chosen_from_anywhere_in_its_workspace() {
    let ground = ground();
    for path in ["ws", "ws/api", "ws/web/src", "ws/lib", "outside"] {
        assert_eq!(ground.ask(path, Some("api")).unwrap(), 1, "{path}");
        assert_eq!(ground.ask(path, Some("web@0.1.0")).unwrap(), 2, "{path}");
    }
    for path in ["other", "ws/inner"] {
        assert!(ground.ask(path, Some("api")).is_err(), "{path}: it is another's");
    }
    // A member without a session does not lend itself to another's.
    let error = ground.ask("ws/lib", None).unwrap_err().to_string();
    assert!(error.contains("api (pid 1), web (pid 2)") && error.contains("-p NAME"), "{error}");
}

#[test]
fn the_root_of_a_workspace_stands_for_its_only_session() {
    let mut ground = ground();
    let error = ground.ask("ws", None).unwrap_err();
    assert_eq!(error.exit(), crate::error::Exit::Usage);
    let error = error.to_string();
    assert!(error.contains("api (pid 1), web (pid 2)") && error.contains("-p NAME or --pid PID"), "{error}");
    ground.sessions.remove(0);
    assert_eq!(ground.ask("ws", None).unwrap(), 2);
}

#[test]
fn two_sessions_of_one_package_are_told_apart_by_what_differs() {
    let mut ground = ground();
    let mut twin = listed(9, &ground.folder.path().join("other"), "", "other");
    twin.share(&ground.folder.path().join("apart"));
    ground.sessions.push(twin);
    let error = ground.ask("other", None).unwrap_err().to_string();
    assert!(error.contains("other (pid 3, building to ") && error.contains("other (pid 9, building to "), "{error}");
    assert!(error.contains("--pid PID") && !error.contains("-p NAME"), "{error}");
    let target_dir = Some(ground.folder.path().join("apart"));
    assert_eq!(ground.ask_with("other", &cli::ControlArgs { target_dir, ..cli::ControlArgs::default() }).unwrap(), 9);
    assert_eq!(ground.ask_with("other", &cli::ControlArgs { pid: Some(3), ..cli::ControlArgs::default() }).unwrap(), 3);
}

#[test]
fn a_process_is_named_from_anywhere() {
    let ground = ground();
    let by = |pid| cli::ControlArgs { pid: Some(pid), ..cli::ControlArgs::default() };
    assert_eq!(ground.ask_with("other", &by(1)).unwrap(), 1);
    assert_eq!(choose(&ground.sessions, &by(2), None).unwrap().pid, 2);
    let error = choose(&ground.sessions, &by(77), None).unwrap_err().to_string();
    assert!(error.contains("no session runs as process 77"), "{error}");
    let error = choose(&ground.sessions, &cli::ControlArgs::default(), None).unwrap_err().to_string();
    assert!(error.contains("no Cargo.toml here") && error.contains("api (pid 1)"), "{error}");
    // With a project, both have to be right.
    let manifest_path = Some(ground.manifest("other"));
    assert!(ground.ask_with("ws", &cli::ControlArgs { manifest_path, ..by(1) }).is_err());
}

#[test]
fn a_manifest_that_cannot_be_read_does_not_matter() {
    let ground = ground();
    for path in ["ws/api", "ws", "other"] {
        let manifest = ground.folder.path().join(path).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, format!("{text}\n[package\nname = ?\n")).unwrap();
    }
    assert_eq!(ground.ask("ws/api", None).unwrap(), 1);
    assert_eq!(ground.ask("ws/lib", Some("web")).unwrap(), 2);
    assert_eq!(ground.ask("other", None).unwrap(), 3);
    // Nor one that an editor has just taken away.
    let manifest = ground.manifest("other");
    fs::remove_file(&manifest).unwrap();
    let of = |manifest: PathBuf| cli::ControlArgs { manifest_path: Some(manifest), ..cli::ControlArgs::default() };
    assert_eq!(ground.ask_with("ws", &of(manifest.clone())).unwrap(), 3);
    let error = ground.ask_with("ws", &of(manifest.with_file_name("None.toml"))).unwrap_err();
    assert!(error.to_string().contains("None.toml is not there"), "{error}");
}

#[test]
fn a_project_is_known_through_links() {
    let ground = ground();
    let link = ground.folder.path().join("link");
    std::os::unix::fs::symlink(ground.folder.path().join("ws"), &link).unwrap();
    assert_eq!(ground.ask("link/api", None).unwrap(), 1);
    assert_eq!(ground.ask("link/lib", Some("web")).unwrap(), 2);
    let manifest = ground.folder.path().join("Api.toml");
    std::os::unix::fs::symlink(ground.folder.path().join("ws/api/Cargo.toml"), &manifest).unwrap();
    let args = cli::ControlArgs { manifest_path: Some(manifest), ..cli::ControlArgs::default() };
    assert_eq!(ground.ask_with("other", &args).unwrap(), 1);
}
