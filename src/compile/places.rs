//! Where the names of files and folders lead: a folder has one place and may have many names, by way of links and of `..`. The
//! kernel tells of places (inotify(7): one watch an inode, told by the path that was added last), people and compilers of names.
//! Never lives here: which names matter (`sources`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Where some names led when they were last followed.
#[derive(Debug, Default)]
pub struct Places {
    /// The folders to watch, each once, with their names.
    folders: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// Names of files that are not their places.
    files: HashMap<PathBuf, BTreeSet<PathBuf>>,
    /// Where the links are on the way.
    links: BTreeSet<PathBuf>,
    /// A folder that is mounted twice has two paths and one watch.
    inodes: HashMap<(u64, u64), PathBuf>,
}

impl Places {
    /// Follows these names. Of a folder that is not there, the nearest one above it is watched, in which it would come.
    pub fn of<'n>(folders: &BTreeSet<PathBuf>, files: impl IntoIterator<Item = &'n PathBuf>) -> Places {
        let (mut places, mut paths) = (Places::default(), Paths::default());
        for name in folders {
            let place = places.follow(name, &mut paths);
            match place.is_dir() {
                true => drop(places.folder(&place).insert(name.clone())),
                false => places.above(&place),
            }
        }
        for name in files {
            let place = places.follow(name, &mut paths);
            places.above(&place);
            if place != *name {
                places.files.entry(place).or_default().insert(name.clone());
            }
        }
        let above_links: Vec<PathBuf> = places.links.iter().cloned().collect();
        above_links.iter().for_each(|link| places.above(link));
        places
    }

    /// The folders to watch.
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        self.folders.keys().cloned().collect()
    }

    /// Whether it is a folder that is watched, or was one until it went.
    pub fn has_folder(&self, place: &Path) -> bool {
        self.folders.contains_key(place)
    }

    /// Whether a link is there by which a name leads elsewhere, or was.
    pub fn has_link(&self, place: &Path) -> bool {
        self.links.contains(place)
    }

    /// What the file or folder at that place is called.
    pub fn names(&self, place: &Path) -> BTreeSet<PathBuf> {
        let mut names = self.folders.get(place).cloned().unwrap_or_default();
        if let (Some(folder), Some(file)) = (place.parent(), place.file_name()) {
            names.extend(self.folders.get(folder).into_iter().flatten().map(|folder| folder.join(file)));
        }
        let by_link = names.iter().map(PathBuf::as_path).chain([place]).filter_map(|name| self.files.get(name));
        let by_link: Vec<PathBuf> = by_link.flatten().cloned().collect();
        names.extend(by_link);
        if names.is_empty() {
            names.insert(place.to_path_buf());
        }
        names
    }

    fn follow(&mut self, name: &Path, paths: &mut Paths) -> PathBuf {
        let Followed { place, links } = paths.follow(name, 0);
        self.links.extend(links);
        place
    }

    /// The nearest folder that is there.
    fn above(&mut self, place: &Path) {
        if let Some(folder) = place.ancestors().skip(1).find(|folder| folder.is_dir()) {
            self.folder(folder);
        }
    }

    fn folder(&mut self, place: &Path) -> &mut BTreeSet<PathBuf> {
        let inode = fs::metadata(place).map(|metadata| (metadata.dev(), metadata.ino()));
        let first = inode.ok().map(|inode| self.inodes.entry(inode).or_insert_with(|| place.to_path_buf()).clone());
        let first = first.unwrap_or_else(|| place.to_path_buf());
        let is_other = first != place;
        let names = self.folders.entry(first).or_default();
        if is_other {
            names.insert(place.to_path_buf());
        }
        names
    }
}

/// Paths that were followed already.
#[derive(Default)]
struct Paths(HashMap<PathBuf, Followed>);

/// Where a path leads, and by which links.
#[derive(Clone)]
struct Followed {
    place: PathBuf,
    links: Vec<PathBuf>,
}

impl Paths {
    fn follow(&mut self, path: &Path, depth: usize) -> Followed {
        if let Some(known) = self.0.get(path) {
            return known.clone();
        }
        let Some(above) = path.parent() else { return Followed { place: path.to_path_buf(), links: Vec::new() } };
        let mut above = self.follow(above, depth);
        let followed = match path.file_name() {
            // It ends in `..`.
            None => {
                above.place.pop();
                above
            }
            Some(name) => {
                let place = above.place.join(name);
                match fs::read_link(&place) {
                    Ok(target) if depth < MOST_LINKS => {
                        let mut there = self.follow(&above.place.join(target), depth + 1);
                        above.links.push(place);
                        there.links.extend(above.links);
                        there
                    }
                    // No link, or nothing there, or links that lead in a circle, as to whoever opens it.
                    Ok(_) | Err(_) => Followed { place, ..above },
                }
            }
        };
        self.0.insert(path.to_path_buf(), followed.clone());
        followed
    }
}

/// Without `..`, where that is the same file: rustc leaves it in the names of files that a source names, and so does cargo outside
/// of the package.
pub fn plain(path: PathBuf) -> PathBuf {
    if !path.components().any(|part| part == Component::ParentDir) {
        return path;
    }
    let plain = lexical(&path);
    // Behind a symlink it is another.
    let same = path.canonicalize().is_ok_and(|real| plain.canonicalize().is_ok_and(|other| real == other));
    if same { plain } else { path }
}

/// Without `..`, each of which takes back the name before it.
pub fn lexical(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(files: &[&str], links: &[(&str, &str)]) -> Tree {
            let tree = Tree(tempfile::tempdir().unwrap());
            for file in files {
                fs::create_dir_all(tree.path(file).parent().unwrap()).unwrap();
                fs::write(tree.path(file), file).unwrap();
            }
            for (link, target) in links {
                fs::create_dir_all(tree.path(link).parent().unwrap()).unwrap();
                symlink(target, tree.path(link)).unwrap();
            }
            tree
        }

        fn path(&self, path: &str) -> PathBuf {
            let root = self.0.path().canonicalize().unwrap();
            if path.is_empty() { root } else { root.join(path) }
        }

        fn all<'p>(&self, paths: impl IntoIterator<Item = &'p &'p str>) -> BTreeSet<PathBuf> {
            paths.into_iter().map(|path| self.path(path)).collect()
        }
    }

    #[test]
    fn a_folder_by_two_spellings_is_watched_once_and_has_both_names() {
        let tree = Tree::new(&["migrations/x.sql", "a/src/main.rs", "b/src/lib.rs"], &[("linked", "migrations")]);
        let names = ["a/src/../../migrations", "b/src/../../migrations", "linked"];
        let places = Places::of(&tree.all(&names), []);
        assert_eq!(places.folders(), tree.all(&["", "migrations"]));
        let expected = names.map(|name| tree.path(name).join("x.sql"));
        assert_eq!(places.names(&tree.path("migrations/x.sql")), expected.into());
        assert_eq!(places.names(&tree.path("migrations/new.sql")).len(), 3, "a file that is not there yet");
        assert_eq!(places.names(&tree.path("a/src/main.rs")), tree.all(&["a/src/main.rs"]), "nobody's name");
    }

    #[test]
    fn every_link_on_the_way_is_watched_and_what_it_leads_to() {
        // As Kubernetes projects a volume.
        let links = [("config/..data", "..2026"), ("config/k.txt", "..data/k.txt"), ("src/k.txt", "../config/k.txt")];
        let tree = Tree::new(&["config/..2026/k.txt"], &links);
        let name = tree.path("src/k.txt");
        let places = Places::of(&tree.all(&["src"]), [&name]);
        assert_eq!(places.folders(), tree.all(&["src", "config", "config/..2026"]));
        for (link, _) in links {
            assert!(places.has_link(&tree.path(link)), "{link}");
        }
        assert_eq!(places.names(&tree.path("config/..2026/k.txt")), [name].into());
    }

    #[test]
    fn where_nothing_is_the_folder_above_is_watched() {
        let tree = Tree::new(&["src/main.rs"], &[("src/gone", "../elsewhere/deep"), ("src/self", "self")]);
        let names = tree.all(&["far/away", "src/gone"]);
        let places = Places::of(&names, [&tree.path("dist/out.css"), &tree.path("src/self")]);
        assert_eq!(places.folders(), tree.all(&["", "src"]));
        assert!(places.has_link(&tree.path("src/gone")));
    }

    #[test]
    fn a_file_is_named_without_dots_unless_that_is_another_one() {
        let tree = Tree::new(&["src/x", "texts/a", "far/src/x", "far/texts/a"], &[("linked", "far/src")]);
        let plain = |path: &str| plain(tree.path(path));
        assert_eq!(plain("src/../texts/a"), tree.path("texts/a"));
        assert_eq!(plain("src/./../src/../texts/a"), tree.path("texts/a"));
        for other in ["linked/../texts/a", "src/../texts/none", "texts/a", "src/..a"] {
            assert_eq!(plain(other), tree.path(other));
        }
    }
}
