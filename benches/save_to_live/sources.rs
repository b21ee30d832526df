//! Text of the eight-crate workspace: seven libraries of a few hundred lines and a server above them.
//!
//! ```text
//!                  ┌─ store ◄─┐
//! kinds ◄─ model ◄─┼─ rules ◄─┼─ service ◄─ views ◄─ server
//!                  └─ audit ◄─┘
//! ```

use crate::Result;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The one that all others need.
pub const LEAF: &str = "kinds";

/// Each with those it needs; the last is what the server needs.
const LIBRARIES: [(&str, &[&str]); 7] = [
    (LEAF, &[]),
    ("model", &["kinds"]),
    ("store", &["model"]),
    ("rules", &["model"]),
    ("audit", &["model"]),
    ("service", &["store", "rules", "audit"]),
    ("views", &["service"]),
];

/// Types in each library.
const TYPES: usize = 9;

/// Around the server that stands in `package` already.
pub fn make_workspace(root: &Path, package: &Path) -> Result<()> {
    fs::write(root.join("Cargo.toml"), "[workspace]\nmembers = [\"crates/*\"]\nresolver = \"3\"\n")?;
    for (name, needs) in LIBRARIES {
        let folder = root.join("crates").join(name);
        fs::create_dir_all(folder.join("src"))?;
        let needs_lines = needs.iter().map(|need| format!("{need} = {{ path = \"../{need}\" }}\n")).collect::<String>();
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{needs_lines}"
        );
        fs::write(folder.join("Cargo.toml"), manifest)?;
        fs::write(folder.join("src/lib.rs"), library(name, needs)?)?;
    }
    let manifest = fs::read_to_string(package.join("Cargo.toml"))?;
    let (member, _) = manifest.split_once("# A project of its own").ok_or("the template's manifest is another one")?;
    let member = member.replacen("[dependencies]\n", "[dependencies]\nviews = { path = \"../views\" }\n", 1);
    fs::write(package.join("Cargo.toml"), member)?;
    let main = package.join("src/main.rs");
    let text = fs::read_to_string(&main)?.replace("version: {VERSION}", "version: {VERSION}.{Leaf}");
    fs::write(main, text + SHOWN)?;
    Ok(())
}

/// The server's version is its own and that of the leaf, which is asked through all layers.
const SHOWN: &str = "
struct Leaf;

impl std::fmt::Display for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(views::version())
    }
}
";

/// What such a crate has: types with derives, generic functions, collections, formatting, and calls of what it needs.
fn library(name: &str, needs: &[&str]) -> Result<String> {
    let mut text =
        format!("//! Part of a generated workspace: {name}.\n\nuse std::collections::BTreeMap;\nuse std::fmt;\n\n");
    match needs.first() {
        None => text += "const VERSION: &str = \"1\";\n\npub fn version() -> &'static str {\n    VERSION\n}\n",
        Some(need) => writeln!(text, "pub fn version() -> &'static str {{\n    {need}::version()\n}}")?,
    }
    for nth in 0..TYPES {
        let below = needs.iter().map(|need| format!("        total += {need}::Record{nth}::sample(seed).weight();\n"));
        text += &TYPE.replace("%N%", &nth.to_string()).replace("%BELOW%", &below.collect::<String>());
    }
    Ok(text)
}

const TYPE: &str = r#"
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record%N% {
    pub name: String,
    pub tags: Vec<String>,
    pub counts: BTreeMap<String, u64>,
    pub parent: Option<Box<Record%N%>>,
}

impl Record%N% {
    pub fn sample(seed: u64) -> Self {
        let tags: Vec<String> = (0..seed % 5).map(|n| format!("tag-{n}")).collect();
        let counts = tags.iter().enumerate().map(|(n, tag)| (tag.clone(), n as u64 + seed)).collect();
        Record%N% { name: format!("record-{seed}"), tags, counts, parent: None }
    }

    pub fn weight(&self) -> u64 {
        let above = self.parent.as_ref().map_or(0, |parent| parent.weight());
        self.counts.values().sum::<u64>() + self.tags.len() as u64 + above
    }

    pub fn total(seed: u64) -> u64 {
        let mut total = Self::sample(seed).weight();
%BELOW%        total += 1;
        total
    }

    pub fn merge(&mut self, other: &Self) {
        for (key, count) in &other.counts {
            *self.counts.entry(key.clone()).or_default() += count;
        }
        self.tags.extend(other.tags.iter().filter(|tag| tag.len() > 3).cloned());
        self.tags.sort();
        self.tags.dedup();
    }

    pub fn find<F: Fn(&str) -> bool>(&self, wanted: F) -> Option<(&str, u64)> {
        self.counts.iter().find(|(key, _)| wanted(key)).map(|(key, count)| (key.as_str(), *count))
    }
}

impl fmt::Display for Record%N% {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.tags.join(", "))?;
        self.counts.iter().try_for_each(|(key, count)| write!(f, " {key}={count}"))
    }
}
"#;
