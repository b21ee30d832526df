//! No circles of imports: of two files, at most one needs the other, by however many steps. A file and the one of the folder it is in
//! are one subject in two files, and may know each other.
//! Never lives here: the other rules of the house (`tidy`).

use crate::tidy::files;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use syn::{Item, UseTree};

/// The names that lead to it: of `src/compile/watch.rs`, `compile` and `watch`.
type Module = Vec<String>;
type Imports = BTreeMap<Module, BTreeSet<Module>>;

fn module(folder: &str, path: &Path) -> Module {
    let below = path.strip_prefix(folder).unwrap().with_extension("");
    let mut names: Module = below.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    names.pop_if(|name| ["mod", "main", "lib"].contains(&name.as_str()));
    names
}

/// Of the files below that folder, from each other; those of tests are left out, and their modules within the others.
fn imports(folder: &str) -> Imports {
    let is_test = |module: &Module| module.iter().any(|name| name == "tests" || name.ends_with("_tests"));
    let mut texts: BTreeMap<Module, String> =
        files(folder).into_iter().map(|(path, text)| (module(folder, &path), text)).collect();
    texts.retain(|module, _| !is_test(module));
    let of_one = |(module, text): (&Module, &String)| {
        let mut paths = Vec::new();
        for item in syn::parse_file(text).unwrap().items {
            if let Item::Use(one) = item {
                flatten(&mut Vec::new(), &one.tree, &mut paths);
            }
        }
        let known = |mut path: Module| loop {
            if texts.contains_key(&path) {
                return path;
            }
            path.pop();
        };
        let imports = paths.into_iter().filter_map(|path| absolute(module, path, |path| texts.contains_key(path)));
        (module.clone(), imports.map(known).filter(|other| !is_around(module, other)).collect())
    };
    texts.iter().map(of_one).collect()
}

fn flatten(begin: &mut Module, tree: &UseTree, paths: &mut Vec<Module>) {
    match tree {
        UseTree::Path(path) => {
            begin.push(path.ident.to_string());
            flatten(begin, &path.tree, paths);
            begin.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(begin, tree, paths)),
        UseTree::Name(name) => paths.push([begin.as_slice(), &[name.ident.to_string()]].concat()),
        UseTree::Rename(name) => paths.push([begin.as_slice(), &[name.ident.to_string()]].concat()),
        UseTree::Glob(_) => paths.push(begin.clone()),
    }
}

/// A path as it is written in that module, from the crate's root; none of another crate.
fn absolute(module: &Module, path: Module, is_module: impl Fn(&Module) -> bool) -> Option<Module> {
    let ups = path.iter().take_while(|name| *name == "super").count();
    let rest = || path[ups..].iter().cloned();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some(module.iter().chain(&path[1..]).cloned().collect()),
        "super" => Some(module[..module.len() - ups].iter().cloned().chain(rest()).collect()),
        // A module below this one, or another crate.
        _ => Some(module.iter().cloned().chain(rest()).collect())
            .filter(|path: &Module| is_module(&path[..=module.len()].to_vec())),
    }
}

fn is_around(one: &Module, other: &Module) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// All that a module needs, by however many steps.
fn needs(imports: &Imports, module: &Module) -> BTreeSet<Module> {
    let (mut needs, mut waiting) = (BTreeSet::new(), vec![module]);
    while let Some(next) = waiting.pop() {
        for other in &imports[next] {
            if needs.insert(other.clone()) {
                waiting.push(other);
            }
        }
    }
    needs
}

#[test]
fn no_file_needs_one_that_needs_it() {
    for (folder, at_least) in [("src", 300), ("hotrun/src", 60), ("benches/save_to_live", 15), ("tests/it/harness", 1)]
    {
        let imports = imports(folder);
        let count: usize = imports.values().map(BTreeSet::len).sum();
        assert!(count >= at_least, "{folder}: {count} imports are seen");
        let in_circle: BTreeMap<String, Vec<String>> = imports
            .iter()
            .filter(|(module, _)| needs(&imports, module).contains(*module))
            .map(|(module, others)| (module.join("::"), others.iter().map(|other| other.join("::")).collect()))
            .collect();
        assert!(in_circle.is_empty(), "{folder}: files that need themselves, and what each imports: {in_circle:#?}");
    }
}
