//! What the user is told at the beginning, as nothing else would tell of it: a `.env` that the program reads by itself, and that nobody
//! watches.
//! Never lives here: what is watched (`sources`), and the words (`report`).

use super::project::local_needs;
use crate::config::{self, Config};
use crate::report::{Note, short};
use cargo_metadata::Metadata;
use std::path::{Path, PathBuf};

/// They read it when the program runs, from its working directory or above.
const AT_START: [&str; 4] = ["dotenvy", "dotenv", "dotenv-flow", "dotenvs"];
/// They read it when the program is compiled, from where the compiler runs or above, and do not tell the compiler.
const WHEN_COMPILED: [&str; 3] = ["dotenvy_macro", "dotenv_codegen", "dotenvy-macro"];

/// For a program that is started in `directory`.
pub fn dotenv(config: &Config, metadata: &Metadata, directory: &Path) -> Option<Note> {
    let needs = local_needs(metadata, &config.build.package_id);
    let one_of = |names: &[&str]| needs.iter().find(|need| names.contains(&need.as_str()));
    if let Some(name) = one_of(&WHEN_COMPILED) {
        let file = nearest(metadata.workspace_root.as_std_path())?;
        return (!is_covered(config, &file)).then(|| {
            let path = file.display().to_string();
            Note::DotenvCompiled { file: short(&file), path, by: name.clone() }
        });
    }
    let name = one_of(&AT_START)?;
    let file = nearest(directory)?;
    (!is_covered(config, &file)).then(|| {
        let manifest = &config.build.manifest_path;
        let from = manifest.parent().and_then(|folder| file.strip_prefix(folder).ok()).unwrap_or(&file);
        let (watch, manifest) = (from.display().to_string(), short(manifest));
        Note::DotenvUnwatched { file: short(&file), by: name.clone(), watch, manifest }
    })
}

fn nearest(directory: &Path) -> Option<PathBuf> {
    directory.ancestors().map(|folder| folder.join(".env")).find(|file| file.is_file())
}

/// Whether the user has said something of it, also that it does not count.
fn is_covered(config: &Config, file: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let real_file = real(file);
    let below = |path: &PathBuf| real_file.starts_with(real(path));
    let globs = config.watch.data.iter().map(|data| data.glob.as_str());
    let globs = config::glob_set(globs.chain(config.watch.ignore.iter().map(String::as_str)));
    config.program.env_file.iter().chain(&config.watch.extra).any(below)
        || globs.is_ok_and(|globs| globs.is_match(file) || globs.is_match(&real_file))
}
