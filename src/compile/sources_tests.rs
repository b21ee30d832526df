//! Looks at real files: what counts, what has changed, and what only seems to have.

use super::*;
use crate::config::DataAction;
use std::fs;

fn watch(root: &Path) -> config::Watch {
    let data = config::Data { glob: format!("{}/**/*.tera", root.display()), action: DataAction::None };
    config::Watch { extra: vec![root.join("migrations")], origin: String::new(), ignore: Vec::new(), data: vec![data] }
}

struct Project {
    folder: tempfile::TempDir,
    sources: Sources,
}

impl Project {
    /// A package with `src/main.rs`, `src/a.rs` and `notes.txt`, as if nothing had been built yet.
    fn new() -> Project {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("src")).unwrap();
        for (path, text) in [("src/main.rs", "mod a;"), ("src/a.rs", ""), ("notes.txt", "x"), (".gitignore", "/junk\n")]
        {
            fs::write(root.join(path), text).unwrap();
        }
        let mut sources = Sources {
            layout: Layout {
                root: root.clone(),
                target_dir: root.join("target"),
                build_dir: root.join("target"),
                env_file: Some(root.join(".env")),
            },
            packages: Packages::in_folder(&root),
            inputs: Inputs {
                settings: [root.join("Cargo.toml")].into_iter().collect(),
                coming: [root.join("build.rs")].into_iter().collect(),
                ..Inputs::default()
            },
            named: Named::new(&watch(&root)).unwrap(),
            survey: None,
            places: Places::default(),
            followed: None,
            seen: Seen::default(),
            build: DuringBuild::default(),
            is_partial: Cell::default(),
        };
        sources.look_at_all();
        let survey = sources.survey().unwrap().run();
        let _ = sources.surveyed(survey);
        sources.follow();
        Project { folder, sources }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(path)
    }

    fn write(&mut self, path: &str, text: &str) -> Found {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        self.sources.look(&[path])
    }

    /// A build succeeds with these inputs; returns what was touched meanwhile.
    fn built(&mut self, inputs: &[&str]) -> Vec<PathBuf> {
        let inputs = inputs.iter().map(|input| self.path(input)).collect();
        self.sources.built(inputs, &[])
    }
}

#[test]
fn a_save_that_changes_nothing_is_no_change() {
    let mut project = Project::new();
    assert!(project.write("src/main.rs", "mod a;").changed.is_empty());
    let found = project.write("src/main.rs", "mod a; fn main() {}");
    assert_eq!(found.changed, [project.path("src/main.rs")]);
    assert!(!found.emptied);
    assert!(project.sources.look(&found.changed).changed.is_empty(), "seen once");
    assert!(project.write("src/main.rs", "").emptied);
    fs::remove_file(project.path("src/main.rs")).unwrap();
    assert!(project.sources.look(&[project.path("src/main.rs")]).emptied, "gone for a moment");
}

#[test]
fn before_a_build_every_file_counts_and_after_it_those_that_were_named() {
    let mut project = Project::new();
    assert_eq!(project.write("notes.txt", "y").changed.len(), 1);
    assert!(project.write("junk", "ignored by git").changed.is_empty());
    assert!(project.write("target/x", "made by cargo").changed.is_empty());
    assert!(project.write("src/.#a.rs", "made by an editor").changed.is_empty());
    let _ = project.built(&["src/main.rs", "src/a.rs", "junk"]);
    assert!(project.write("notes.txt", "z").changed.is_empty());
    assert!(project.write("src/b.rs", "not a module yet").changed.is_empty());
    assert_eq!(project.write("junk", "named by include_str").changed.len(), 1);
    assert_eq!(project.write("Cargo.toml", "[package]").changed.len(), 1);
    assert_eq!(project.write("migrations/1.sql", "asked for").changed.len(), 1);
    project.sources.failed([]);
    assert_eq!(project.write("src/c.rs", "perhaps what is missing").changed.len(), 1);
    assert!(project.write("notes.txt", "the old program's log").changed.is_empty());
    assert_eq!(project.write("schema.sql", "a file that came").changed.len(), 1);
    assert!(project.write(".gitignore", "/junk\n*.log\n").changed.is_empty());
    assert!(project.write("a.log", "one that git ignores").changed.is_empty());
}

#[test]
fn a_file_that_becomes_an_input_is_looked_at_again() {
    let mut project = Project::new();
    let _ = project.built(&["src/main.rs"]);
    // Known as it was at the start; changed while it was no input.
    assert!(project.write("src/a.rs", "second").changed.is_empty());
    project.sources.build.began(SystemTime::now());
    assert_eq!(project.built(&["src/main.rs", "src/a.rs"]), Vec::<PathBuf>::new());
    assert_eq!(project.write("src/a.rs", "").changed.len(), 1, "back to how it was at the start");

    project.sources.build.began(SystemTime::now());
    assert!(project.write("src/new.rs", "saved while it is compiled for the first time").changed.is_empty());
    let missed = project.built(&["src/main.rs", "src/a.rs", "src/new.rs"]);
    assert_eq!(missed, [project.path("src/new.rs")]);
}

#[test]
fn a_build_script_that_comes_is_found_by_its_name() {
    let mut project = Project::new();
    let _ = project.built(&["src/main.rs"]);
    assert!(project.write("build.rs", "fn main() {}").settings);
    assert!(project.write("other.rs", "fn main() {}").changed.is_empty());
}

#[test]
fn what_the_running_program_reads_starts_it_again() {
    let mut project = Project::new();
    project.sources.inputs.settings.insert(project.path(".env"));
    let _ = project.built(&["src/main.rs"]);
    assert!(project.write(".env", "KEY=value").start_anyway);
    assert!(project.write("migrations/1.sql", "create table").start_anyway);
    assert!(!project.write("src/main.rs", "fn main() {}").start_anyway);
}

#[test]
fn a_file_that_went_or_came_has_changed() {
    let mut project = Project::new();
    let _ = project.built(&["src/main.rs", "src/a.rs"]);
    let path = project.path("src/a.rs");
    fs::remove_file(&path).unwrap();
    assert_eq!(project.sources.look(std::slice::from_ref(&path)).changed.len(), 1);
    assert!(project.sources.look(std::slice::from_ref(&path)).changed.is_empty());
    assert_eq!(project.write("src/a.rs", "").changed.len(), 1, "empty, and yet it is back");
}

#[test]
fn lost_events_are_made_up_for() {
    let mut project = Project::new();
    let _ = project.built(&["src/main.rs", "src/a.rs"]);
    fs::write(project.path("src/a.rs"), "fn new() {}").unwrap();
    fs::write(project.path("notes.txt"), "no input").unwrap();
    assert_eq!(project.sources.look_again().changed, [project.path("src/a.rs")]);
    assert_eq!(project.sources.look_again(), Found::default());
}

/// Another file each time: on some kernels the times of two writes may be the same.
fn rewrite(project: &mut Project, path: &str) {
    let path = project.path(path);
    fs::copy(&path, path.with_extension("new")).unwrap();
    fs::rename(path.with_extension("new"), &path).unwrap();
    // Twice, as every file is looked at.
    for _ in 0..2 {
        assert_eq!(project.sources.look(std::slice::from_ref(&path)), Found::default());
    }
}

#[test]
fn what_was_written_during_a_build_and_is_as_it_was_is_known() {
    let mut project = Project::new();
    let _ = project.built(&["src/main.rs"]);
    let files = ["Cargo.toml", "Cargo.lock", ".env"];
    for path in files {
        fs::write(project.path(path), "").unwrap();
        project.sources.inputs.settings.insert(project.path(path));
        project.sources.seen.remember(project.path(path));
    }
    let nothing = BTreeSet::new();
    rewrite(&mut project, "src/main.rs");
    project.sources.build.began(SystemTime::now());
    assert_eq!(project.sources.rewritten(false), nothing);
    for path in files.into_iter().chain(["src/main.rs", "src/a.rs", "notes.txt"]) {
        rewrite(&mut project, path);
    }
    let expected = ["src/main.rs", "Cargo.toml"].map(|path| project.path(path));
    assert_eq!(project.sources.rewritten(false), expected.into());
    assert_eq!(project.sources.rewritten(false), nothing);
    // What this program does to a file itself is nothing that the user has done.
    let main = project.path("src/main.rs");
    assert!(project.sources.date_anew(&[main.clone()].into()));
    assert_eq!(project.sources.look(std::slice::from_ref(&main)), Found::default());
    assert_eq!(project.sources.rewritten(false), nothing);
    // What a build has read that has failed it does not say.
    project.sources.failed([]);
    rewrite(&mut project, "src/a.rs");
    assert_eq!(project.sources.rewritten(false), [project.path("src/a.rs")].into());
}

#[test]
fn what_is_written_by_every_build_is_known_to_be_until_it_is_another() {
    let mut project = Project::new();
    let inputs = ["src/main.rs", "src/a.rs"];
    let _ = project.built(&inputs);
    let [main, a] = inputs.map(|path| project.path(path));
    let mut next = |written: &[&str], again: bool| {
        project.sources.build.began(SystemTime::now());
        written.iter().for_each(|path| rewrite(&mut project, path));
        project.sources.rewritten(again)
    };
    assert_eq!(next(&["src/a.rs"], false), [a.clone()].into());
    assert_eq!(next(&["src/a.rs", "src/main.rs"], true), [main.clone()].into());
    assert_eq!(next(&["src/a.rs"], true), BTreeSet::new());
    assert_eq!(next(&["src/a.rs", "src/main.rs"], false), [main].into());
    assert_eq!(project.write("src/a.rs", "new").changed.len(), 1);
    project.sources.build.began(SystemTime::now());
    rewrite(&mut project, "src/a.rs");
    assert_eq!(project.sources.rewritten(false), [a].into());
}

#[test]
fn a_large_file_that_is_dated_anew_has_not_changed() {
    let mut project = Project::new();
    let large = project.path("large.bin");
    fs::File::create(&large).unwrap().set_len(super::super::stamp::MOST_HASHED + 1).unwrap();
    let _ = project.built(&["src/main.rs", "large.bin"]);
    assert!(project.sources.date_anew(&[large.clone()].into()));
    assert_eq!(project.sources.look(std::slice::from_ref(&large)), Found::default());
    fs::File::options().append(true).open(&large).unwrap().set_len(super::super::stamp::MOST_HASHED + 2).unwrap();
    assert_eq!(project.sources.look(std::slice::from_ref(&large)).changed, [large]);
}

#[test]
fn what_a_symlink_points_to_is_an_input_too() {
    let mut project = Project::new();
    fs::write(project.path("shared.rs"), "1").unwrap();
    std::os::unix::fs::symlink(project.path("shared.rs"), project.path("src/link.rs")).unwrap();
    let _ = project.built(&["src/main.rs", "src/link.rs"]);
    assert_eq!(project.write("shared.rs", "2").changed, [project.path("src/link.rs")]);
}

#[test]
fn data_files_are_not_sources() {
    let mut project = Project::new();
    let found = project.write("page.tera", "<p>");
    assert_eq!(found.data, [(project.path("page.tera"), DataAction::None)]);
    assert!(found.changed.is_empty());
}

#[test]
fn folders_are_watched_not_files_and_another_crate_is_another_program() {
    let mut project = Project::new();
    fs::create_dir_all(project.path("other/src")).unwrap();
    fs::write(project.path("other/Cargo.toml"), "").unwrap();
    fs::create_dir_all(project.path("target/debug")).unwrap();
    let _ = project.built(&["src/main.rs"]);
    let folders = project.sources.folders();
    assert!(folders.contains(&project.path("src")) && folders.contains(&project.path("")));
    assert!(!folders.iter().any(|folder| folder.starts_with(project.path("target"))));
    assert!(!folders.iter().any(|folder| folder.starts_with(project.path("other"))));
}

/// As long as ago as a build may have taken.
fn a_while_ago() -> SystemTime {
    SystemTime::now() - std::time::Duration::from_secs(60)
}

#[test]
fn what_was_saved_while_a_build_failed_may_be_what_it_lacks() {
    let mut project = Project::new();
    let _ = project.built(&["src/main.rs"]);
    project.sources.build.began(a_while_ago());
    assert!(project.write("src/a.rs", "no module yet, as far as is known").changed.is_empty());
    assert!(project.write("src/new.rs", "nor this").changed.is_empty());
    assert!(project.write("out.log", "of nobody").changed.is_empty());
    fs::create_dir_all(project.path("junk")).unwrap();
    fs::write(project.path("junk/out.css"), "ignored by git, and not watched").unwrap();
    project.sources.failed(["error: couldn't read `src/../junk/out.css`: No such file or directory"]);
    let expected = ["junk/out.css", "out.log", "src/a.rs", "src/new.rs"].map(|path| project.path(path));
    assert_eq!(project.sources.came_meanwhile(), expected);
    assert_eq!(project.sources.came_meanwhile(), Vec::<PathBuf>::new(), "once");
}

#[test]
fn a_log_that_a_failing_build_names_anew_each_time_is_not_built_for_ever() {
    let mut project = Project::new();
    let _ = project.built(&["src/main.rs"]);
    let mut again = Vec::new();
    for number in 0..6 {
        project.sources.build.began(a_while_ago());
        fs::create_dir_all(project.path("junk")).unwrap();
        fs::write(project.path(&format!("junk/{number}.log")), "x").unwrap();
        project.sources.failed([format!("see \"junk/{number}.log\"").as_str()]);
        again.push(project.sources.came_meanwhile().len());
    }
    assert_eq!(again, [1, 1, 1, 0, 0, 0]);
    // Until something else is saved.
    assert_eq!(project.write("src/main.rs", "fn main() {}").changed.len(), 1);
    project.sources.build.began(a_while_ago());
    fs::write(project.path("junk/6.log"), "x").unwrap();
    project.sources.failed(["see \"junk/6.log\""]);
    assert_eq!(project.sources.came_meanwhile().len(), 1);
    // One of the same name that is written while cargo runs is no reason to end it.
    project.sources.build.cargo_runs = Some(a_while_ago());
    assert!(project.write("junk/6.log", "y").changed.is_empty());
    project.sources.build.cargo_runs = None;
    assert_eq!(project.write("junk/6.log", "z").changed.len(), 1);
}

#[test]
fn a_new_input_that_nobody_watched_and_that_was_written_during_the_build_is_built_again() {
    let mut project = Project::new();
    fs::create_dir_all(project.path("junk")).unwrap();
    fs::write(project.path("junk/out.css"), "1").unwrap();
    project.sources.build.began(a_while_ago());
    let inputs = ["src/main.rs", "junk/out.css"];
    assert_eq!(project.built(&inputs), [project.path("junk/out.css")]);
    project.sources.build.began(a_while_ago());
    assert_eq!(project.built(&inputs), Vec::<PathBuf>::new(), "it is watched by now");
}

#[test]
fn folders_that_build_scripts_name_are_seen_as_cargo_sees_them() {
    let mut project = Project::new();
    fs::create_dir_all(project.path("junk/deep")).unwrap();
    fs::write(project.path("junk/deep/.hidden"), "1").unwrap();
    let _ = project.built(&["src/main.rs", "junk"]);
    assert!(project.sources.folders().contains(&project.path("junk/deep")));
    assert_eq!(project.write("junk/deep/.hidden", "2").changed.len(), 1);
    assert_eq!(project.write("junk/new", "git ignores it").changed.len(), 1);
}

/// Another folder may stand there by now, which nobody watches yet.
#[test]
fn where_events_were_lost_all_folders_are_watched_anew() {
    let mut project = Project::new();
    let _ = project.built(&["src/main.rs"]);
    assert!(project.sources.lost().folders.contains(&project.path("src")));
}

#[test]
fn folders_that_come_where_only_one_file_is_meant_are_passed_over() {
    let mut project = Project::new();
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().canonicalize().unwrap();
    fs::write(root.join("shared.txt"), "1").unwrap();
    let inputs = vec![project.path("src/main.rs"), root.join("shared.txt")];
    let _ = project.sources.built(inputs, &[]);
    assert!(project.sources.folders().contains(&root));
    fs::create_dir(root.join("others")).unwrap();
    assert_eq!(project.sources.look(&[root.join("others")]).folders, Vec::<PathBuf>::new());
    fs::create_dir(project.path("src/more")).unwrap();
    assert_eq!(project.sources.look(&[project.path("src/more")]).folders, [project.path("src/more")]);
}

/// As when the folder of all projects is renamed: nothing in the project's own has changed.
#[test]
fn a_folder_above_the_project_that_is_moved_and_made_again_is_looked_into_anew() {
    let above = tempfile::tempdir().unwrap();
    let above = above.path().canonicalize().unwrap();
    let mut project = Project::new();
    let (old, root) = (project.path(""), above.join("all/of/them"));
    fs::create_dir_all(root.parent().unwrap()).unwrap();
    fs::rename(&old, &root).unwrap();
    project.sources.layout.root = root.clone();
    project.sources.packages = Packages::in_folder(&root);
    project.sources.follow();
    for folder in ["", "all", "all/of", "all/of/them", "all/of/them/src"] {
        assert!(project.sources.folders().contains(&above.join(folder)), "{folder}");
    }
    let all = above.join("all");
    fs::rename(&all, above.join("moved")).unwrap();
    assert_eq!(project.sources.look(std::slice::from_ref(&all)).folders, std::slice::from_ref(&all));
    project.sources.follow();
    assert!(project.sources.folders().contains(&above) && !project.sources.folders().contains(&all));
    fs::create_dir_all(root.join("src")).unwrap();
    assert_eq!(project.sources.look(std::slice::from_ref(&all)).folders, [all]);
    project.sources.follow();
    assert!(project.sources.folders().contains(&root.join("src")));
}
