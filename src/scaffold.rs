//! Makes a new project from a template: the folder, its manifest with a dependency that resolves on this machine, and the
//! sources. Never lives here: what a template says; those are crates of their own in `templates/`.

use crate::error::{Error, Result, Tried};
use include_dir::{Dir, include_dir};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Which server the project begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Template {
    /// The standard library only: a thread for each connection.
    Std,
    /// axum on tokio.
    Axum,
    /// As `std`, without the library: a server that knows nothing of hot upgrade.
    Plain,
}

#[derive(Debug)]
pub struct Created {
    pub path: PathBuf,
    pub name: String,
    /// How the manifest names the library, where it does: `path = "…"` or `version = "…"`.
    pub dependency: Option<String>,
}

/// Makes the project at `path`, which must not exist or be an empty folder. Without a name it is called like the folder.
/// What was made is removed again when something fails.
pub fn new(path: &Path, template: Template, name: Option<&str>) -> Result<Created> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => folder_name(path)?,
    };
    check_name(&name)?;
    let undo = prepare(path)?;
    let dependency = dependency();
    match fill(path, template, &name, &dependency) {
        Ok(()) => {
            let dependency = (template != Template::Plain).then_some(dependency);
            Ok(Created { path: path.to_owned(), name, dependency })
        }
        Err(error) => {
            undo.run(path);
            Err(error)
        }
    }
}

static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/templates");

/// Where the library stood when this command was built.
const LIBRARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/hotrun");

enum Undo {
    /// The folder, or the first of its parents that was missing, is ours.
    Remove(PathBuf),
    /// The folder was there and empty.
    Empty,
}

impl Undo {
    /// Best effort: the failure that led here is the one to report.
    fn run(self, path: &Path) {
        match self {
            Undo::Remove(made) => {
                let _ = fs::remove_dir_all(made);
            }
            Undo::Empty => {
                for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                    let made = entry.path();
                    let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                    let _ = if is_folder { fs::remove_dir_all(made) } else { fs::remove_file(made) };
                }
            }
        }
    }
}

fn folder_name(path: &Path) -> Result<String> {
    // `.` and `..` have a name only once they are made absolute, and they exist then.
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match absolute.file_name().and_then(|name| name.to_str()) {
        Some(name) => Ok(name.to_owned()),
        None => Err(Error::usage(format!("{} gives the project no name", path.display())).help("say it with --name")),
    }
}

/// Cargo's rules for a package that is a program; what cargo would only warn of in the way of clashes is refused too.
fn check_name(name: &str) -> Result<()> {
    let mut rest = name.chars();
    let first_is_fine = rest.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let why = if name.is_empty() {
        "it is empty"
    } else if !first_is_fine {
        "it must begin with a letter or `_`"
    } else if !rest.all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        "only letters, digits, `-` and `_` of ASCII are allowed"
    } else if name.chars().all(|c| c == '_') {
        "it has no letter"
    } else if KEYWORDS.contains(&name) {
        "it is a keyword of Rust"
    } else if ["deps", "examples", "build", "incremental"].contains(&name) {
        "cargo has a folder of that name beside the program"
    } else if ["alloc", "core", "proc_macro", "proc-macro", "std", "test"].contains(&name) {
        "a crate of Rust itself has that name"
    } else if ["axum", "futures-util", "hotrun", "tokio"].contains(&name) {
        "the project depends on a crate of that name"
    } else {
        return Ok(());
    };
    Err(Error::usage(format!("`{name}` cannot be the name of a package: {why}")).help("choose another with --name"))
}

const KEYWORDS: [&str; 53] = [
    "Self", "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro",
    "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super",
    "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield", "_",
];

/// Makes sure of an empty folder at `path`, and says what to take back if the rest fails.
fn prepare(path: &Path) -> Result<Undo> {
    match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(Undo::Empty),
            Some(_) => Err(Error::usage(format!("{} is there already and not empty", path.display()))
                .help("choose a new folder, or an empty one")),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // A link that leads nowhere is there, and somebody's.
            let is_missing = |part: &&Path| !part.as_os_str().is_empty() && part.symlink_metadata().is_err();
            let made = path.ancestors().take_while(is_missing).last().map(Path::to_owned);
            fs::create_dir_all(path).tried(format!("make the folder {}", path.display())).inspect_err(|_| {
                made.iter().for_each(|made| drop(fs::remove_dir_all(made)));
            })?;
            Ok(made.map_or(Undo::Empty, Undo::Remove))
        }
        Err(error) => Err(Error::usage(format!("use {} as the project's folder: {error}", path.display()))),
    }
}

/// Nothing may be published yet, so the path where this command was built from comes first.
fn dependency() -> String {
    let is_library = fs::read_to_string(Path::new(LIBRARY).join("Cargo.toml"))
        .ok()
        .and_then(|text| text.parse::<toml_edit::DocumentMut>().ok())
        .is_some_and(|manifest| manifest.get("package").and_then(|it| it.get("name")?.as_str()) == Some("hotrun"));
    if is_library {
        format!("path = {}", quoted(LIBRARY))
    } else {
        format!("version = {}", quoted(env!("CARGO_PKG_VERSION")))
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn fill(path: &Path, template: Template, name: &str, dependency: &str) -> Result<()> {
    let folder = match template {
        Template::Std => "std",
        Template::Axum => "axum",
        Template::Plain => "plain",
    };
    let Some(source) = TEMPLATES.get_dir(folder) else {
        return Err(Error::failure(format!("this build of cargo-hotrun lacks the template `{folder}`")));
    };
    copy(source, source.path(), path, &|manifest| manifest.replace("{{name}}", name).replace("{{hotrun}}", dependency))
}

/// A manifest cannot keep its name inside the package, nor can an ignore file that should not be obeyed there.
fn copy(source: &Dir<'_>, root: &Path, target: &Path, in_manifest: &dyn Fn(&str) -> String) -> Result<()> {
    for dir in source.dirs() {
        let to = target.join(dir.path().strip_prefix(root).unwrap_or(dir.path()));
        fs::create_dir(&to).tried(format!("make the folder {}", to.display()))?;
        copy(dir, root, target, in_manifest)?;
    }
    for file in source.files() {
        let relative = file.path().strip_prefix(root).unwrap_or(file.path());
        let (to, content) = match (relative.to_str(), file.contents_utf8()) {
            (Some("Cargo.toml.in"), Some(text)) => (target.join("Cargo.toml"), in_manifest(text).into_bytes()),
            (Some("gitignore.in"), _) => (target.join(".gitignore"), file.contents().to_vec()),
            _ => (target.join(relative), file.contents().to_vec()),
        };
        // The folder was empty: what is there now is somebody else's, and may be a link.
        let new = File::options().write(true).create_new(true).open(&to);
        new.and_then(|mut file| file.write_all(&content)).tried(format!("write {}", to.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_through_a_link_that_has_come_meanwhile() {
        let (project, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = elsewhere.path().join("file");
        fs::write(&file, "other").unwrap();
        for (link, target) in [("Cargo.toml", &file), ("src", &elsewhere.path().to_path_buf())] {
            std::os::unix::fs::symlink(target, project.path().join(link)).unwrap();
            let error = fill(project.path(), Template::Plain, "api", "").unwrap_err().to_string();
            assert!(error.contains(link), "{error}");
            fs::remove_file(project.path().join(link)).unwrap();
            Undo::Empty.run(project.path());
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "other");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    }

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_project_of_each_template() {
        for template in [Template::Std, Template::Axum, Template::Plain] {
            let dir = dir();
            let path = dir.path().join("deep/er/my-server");
            let made = new(&path, template, None).unwrap();
            assert_eq!((made.name.as_str(), &made.path), ("my-server", &path));
            let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap();
            assert!(!manifest.contains("{{"), "{manifest}");
            let manifest: toml_edit::DocumentMut = manifest.parse().unwrap();
            assert_eq!(manifest["package"]["name"].as_str(), Some("my-server"));
            let library = manifest["dependencies"].get("hotrun").and_then(|it| it.get("path").or(it.get("version")));
            assert_eq!(library.is_some(), template != Template::Plain, "{:?}", made.dependency);
            assert_eq!(library.is_some(), made.dependency.is_some());
            let source = fs::read_to_string(path.join("src/main.rs")).unwrap();
            assert!(source.contains("const VERSION: &str = \"1\";"));
            assert_eq!(fs::read_to_string(path.join(".gitignore")).unwrap(), "/target\n");
            let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, [".gitignore", "Cargo.toml", "src"]);
        }
    }

    #[test]
    fn an_empty_folder_may_be_there_a_full_one_not() {
        let dir = dir();
        new(dir.path(), Template::Std, Some("api")).unwrap();
        let before = fs::read(dir.path().join("Cargo.toml")).unwrap();
        let error = new(dir.path(), Template::Axum, Some("api")).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        assert_eq!(fs::read(dir.path().join("Cargo.toml")).unwrap(), before);
        assert!(new(&dir.path().join("Cargo.toml"), Template::Std, Some("api")).is_err());
    }

    #[test]
    fn names() {
        for name in ["a", "my-server", "my_server2", "_x", "Api"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in
            ["", "1a", "-a", "a.b", "a b", "ü", "_", "fn", "gen", "test", "std", "build", "hotrun", "a/b", "a\"b"]
        {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_bad_name_leaves_nothing_behind() {
        let dir = dir();
        let path = dir.path().join("my.server");
        let error = new(&path, Template::Std, None).unwrap_err();
        assert!(error.to_string().contains("--name"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn what_was_made_is_taken_back() {
        let dir = dir();
        let path = dir.path().join("a/b");
        let undo = prepare(&path).unwrap();
        fs::write(path.join("file"), "x").unwrap();
        undo.run(&path);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let undo = prepare(dir.path()).unwrap();
        fs::create_dir(dir.path().join("src")).unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        undo.run(dir.path());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn paths_are_quoted_for_toml() {
        for path in ["/a b/c", "/a\"b\\c", "/tab\there", "/ü"] {
            let manifest: toml_edit::DocumentMut = format!("path = {}", quoted(path)).parse().unwrap();
            assert_eq!(manifest["path"].as_str(), Some(path));
        }
    }
}
