//! How cargo would start the program: the environment that it makes, and the runner that it is configured with. Nobody knows that but
//! cargo, so cargo is asked: it builds by `cargo run`, and is caught in the moment in which it has become the program.
//! Never lives here: the catching (`process`), and starting the program.

use crate::config;
use crate::process::{Caught, LIBRARY_PATH, Setting, is_passing};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The only argument of a program that is caught: what cargo becomes last is told by it from what it becomes on its way.
pub const SIGN: &str = "--cargo-hotrun-catches-this";

/// Whether those are the arguments of the program, and not those of cargo, or of rustup which becomes cargo.
pub fn is_program(args: &[OsString]) -> bool {
    matches!(args, [.., before, last] if last == SIGN && before != "--")
}

/// What cargo would have done, as far as it can be read.
pub fn setting(caught: Caught) -> Option<Setting> {
    let Caught { mut args, env, given } = caught;
    if env.is_empty() {
        return None;
    }
    // The sign, and the program.
    args.truncate(args.len().saturating_sub(2));
    let libraries = libraries(env.get(OsStr::new(LIBRARY_PATH)), given.get(OsStr::new(LIBRARY_PATH)));
    let gone = given.keys().filter(|name| !env.contains_key(*name)).map(|name| (name.clone(), None));
    let set = env.iter().filter(|(name, value)| given.get(*name) != Some(value));
    let set = set.map(|(name, value)| (name.clone(), Some(value.clone())));
    let env = gone.chain(set).collect();
    Some(Setting { runner: args, env, libraries })
}

/// What is known of it without cargo: for systems where nothing can be caught. `libraries` are folders that build scripts have named.
pub fn without_cargo(build: &config::Build, libraries: &[PathBuf]) -> Setting {
    let manifest = &build.manifest_path;
    let mut env = vec![
        ("CARGO_MANIFEST_PATH".into(), Some(manifest.clone().into())),
        ("CARGO_PKG_NAME".into(), Some(build.package.clone().into())),
    ];
    if let Some(folder) = manifest.parent() {
        env.push(("CARGO_MANIFEST_DIR".into(), Some(folder.into())));
    }
    if !libraries.is_empty() {
        let before = std::env::var_os(LIBRARY_PATH).unwrap_or_default();
        env.push((LIBRARY_PATH.into(), Some(Setting::library_path(libraries.iter().cloned(), &before))));
    }
    Setting { runner: Vec::new(), env, libraries: libraries.to_vec() }
}

/// The folders that cargo has put in front, but for the toolchain's, whose libraries have names that no other toolchain's have.
fn libraries(now: Option<&OsString>, before: Option<&OsString>) -> Vec<PathBuf> {
    let before: Vec<PathBuf> = before.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
    let folders: Vec<PathBuf> = now.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
    let of_toolchain = |folder: &Path| folder.components().any(|part| part.as_os_str() == "rustlib");
    folders.into_iter().filter(|folder| !before.contains(folder) && !of_toolchain(folder)).collect()
}

/// A script in cargo's place may start cargo as its child, which nobody would catch: then the program would run.
///
/// # Errors
/// It cannot be looked at now.
pub fn is_script(program: &Path) -> io::Result<bool> {
    let found = if program.components().count() > 1 {
        Some(program.to_path_buf())
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| is_executable(file))
    };
    let mut begin = [0; 4];
    match found.map(|found| File::open(found)?.read_exact(&mut begin)) {
        Some(Ok(())) => Ok(&begin != b"\x7fELF"),
        Some(Err(error)) if is_passing(&error) => Err(error),
        Some(Err(_)) | None => Ok(true),
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(Into::into).collect()
    }

    #[test]
    fn the_program_is_told_from_what_cargo_becomes_on_its_way() {
        for (args, program) in [
            (&["/t/bin/cargo", "run", "--bin", "api", "--", SIGN][..], false),
            (&["/home/x/target/debug/api", SIGN], true),
            (&["/bin/sh", "/p/runner.sh", "-x", "target/debug/api", SIGN], true),
            (&["cargo", "build"], false),
            (&[SIGN], false),
            (&[], false),
        ] {
            assert_eq!(is_program(&words(args)), program, "{args:?}");
        }
    }

    #[test]
    fn what_cargo_has_changed_is_what_the_program_gets() {
        let env = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let caught = Caught {
            args: words(&["/bin/sh", "run.sh", "target/debug/api", SIGN]),
            env: env(&[("A", "1"), ("B", "2"), (LIBRARY_PATH, "/t/debug:/t/debug/deps:/s/lib/rustlib/x/lib:/own")]),
            given: env(&[("A", "1"), ("B", "1"), ("C", "3"), (LIBRARY_PATH, "/own")]),
        };
        let unread = Caught { env: env(&[]), ..caught.clone() };
        assert_eq!(setting(unread), None);
        let setting = setting(caught.clone()).unwrap();
        assert_eq!(setting.runner, words(&["/bin/sh", "run.sh"]));
        assert_eq!(setting.libraries, [PathBuf::from("/t/debug"), PathBuf::from("/t/debug/deps")]);
        let library_path = caught.env.get(OsStr::new(LIBRARY_PATH)).cloned();
        assert_eq!(
            setting.env,
            [("C".into(), None), ("B".into(), Some("2".into())), (LIBRARY_PATH.into(), library_path)]
        );
    }

    #[test]
    fn a_script_is_told_from_a_program() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("cargo");
        assert!(is_script(&script).unwrap(), "there is none");
        std::fs::write(&script, "#!/bin/sh\nexec cargo \"$@\"\n").unwrap();
        assert!(is_script(&script).unwrap());
        assert!(!is_script(&std::env::current_exe().unwrap()).unwrap());
    }
}
