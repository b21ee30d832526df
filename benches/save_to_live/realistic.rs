//! Text of a server of the size that people have: the axum template with eight modules of handlers around it, which have state, JSON
//! in and out, and tracing. In one crate, or each module a library of its own below a thin binary.

use crate::Result;
use std::fmt::Write;
use std::fs;
use std::path::Path;

const MODULES: [&str; 8] = ["accounts", "billing", "catalog", "carts", "orders", "reviews", "search", "shipping"];
/// In each module.
const HANDLERS: usize = 18;
/// What the modules need beyond the template.
const NEEDS: &str = "axum = \"0.8\"\nserde = { version = \"1\", features = [\"derive\"] }\ntracing = \"0.1\"\n";

/// Around the server that stands in `package` already.
pub fn in_one_crate(package: &Path) -> Result<()> {
    let manifest = package.join("Cargo.toml");
    let needs = NEEDS.replace("axum = \"0.8\"\n", "");
    edit(&manifest)?.replaced("[dependencies]\n", &format!("[dependencies]\n{needs}tracing-subscriber = \"0.3\"\n"))?;
    for module in MODULES {
        fs::write(package.join(format!("src/{module}.rs")), source(module)?)?;
    }
    let modules = MODULES.map(|module| format!("mod {module};\n")).concat();
    serve(package, &modules)
}

/// The library that is edited where each module is one.
pub const LIBRARY: &str = "crates/orders/src/lib.rs";

pub fn in_libraries(root: &Path, package: &Path) -> Result<()> {
    fs::write(root.join("Cargo.toml"), "[workspace]\nmembers = [\"crates/*\"]\nresolver = \"3\"\n")?;
    for module in MODULES {
        let folder = root.join("crates").join(module);
        fs::create_dir_all(folder.join("src"))?;
        let manifest = format!(
            "[package]\nname = \"{module}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{NEEDS}"
        );
        fs::write(folder.join("Cargo.toml"), manifest)?;
        let version = "const VERSION: &str = \"1\";\npub fn version() -> &'static str { VERSION }\n";
        fs::write(folder.join("src/lib.rs"), source(module)? + version)?;
    }
    let manifest = package.join("Cargo.toml");
    let text = fs::read_to_string(&manifest)?;
    let (member, _) = text.split_once("# A project of its own").ok_or("the template's manifest is another one")?;
    fs::write(&manifest, member)?;
    let needs = MODULES.map(|module| format!("{module} = {{ path = \"../{module}\" }}\n")).concat();
    edit(&manifest)?.replaced("[dependencies]\n", &format!("[dependencies]\n{needs}tracing-subscriber = \"0.3\"\n"))?;
    edit(&package.join("src/main.rs"))?.replaced("version: {VERSION}", "version: {VERSION}.{Library}")?;
    serve(package, SHOWN)
}

/// The server's version is its own and that of the library.
const SHOWN: &str = "struct Library;
impl std::fmt::Display for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(orders::version()) }
}
";

/// Has the modules' routes served by the template's server.
fn serve(package: &Path, before: &str) -> Result<()> {
    let routes = MODULES.map(|module| format!("        .merge({module}::routes())\n")).concat();
    edit(&package.join("src/main.rs"))?
        .replaced("const VERSION", &format!("{before}\nconst VERSION"))?
        .replaced("    let up = hotrun", "    tracing_subscriber::fmt().init();\n    let up = hotrun")?
        .replaced("get(slow));", &format!("get(slow))\n{routes};"))?;
    Ok(())
}

/// A file in which a place is replaced.
struct Edited<'a>(&'a Path, String);

fn edit(path: &Path) -> Result<Edited<'_>> {
    Ok(Edited(path, fs::read_to_string(path)?))
}

impl Edited<'_> {
    fn replaced(mut self, from: &str, to: &str) -> Result<Self> {
        if !self.1.contains(from) {
            return Err(format!("no {from:?} in {}", self.0.display()).into());
        }
        self.1 = self.1.replace(from, to);
        fs::write(self.0, &self.1)?;
        Ok(self)
    }
}

fn source(module: &str) -> Result<String> {
    let mut text = format!("//! Part of a generated server: {module}.\n{HEAD}");
    for nth in 0..HANDLERS {
        text += &HANDLER.replace("%N%", &nth.to_string());
    }
    text += "pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {\n    let router = Router::new();\n";
    for nth in 0..HANDLERS {
        writeln!(text, "    let router = router.route(\"/{module}/{nth}\", post(handle_{nth}));")?;
    }
    Ok(text + "    router.with_state(Shared::default())\n}\n")
}

const HEAD: &str = r#"
use axum::extract::State;
use axum::{Json, Router, routing::post};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tracing::{info, warn};

#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<HashMap<u64, Record>>>);

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record { id: u64, name: String, tags: Vec<String>, parent: Option<u64>, totals: HashMap<String, f64> }

#[derive(Debug, Deserialize)]
pub struct Change { id: Option<u64>, name: Option<String>, #[serde(default)] tags: Vec<String> }
"#;

const HANDLER: &str = r#"
async fn handle_%N%(State(shared): State<Shared>, Json(change): Json<Change>) -> Json<Record> {
    let Ok(mut records) = shared.0.lock() else { warn!("lock"); return Json(Record::default()) };
    let record = records.entry(change.id.unwrap_or(%N%)).or_default();
    if let Some(name) = change.name { info!(name, from = record.name, "rename %N%"); record.name = name; }
    record.tags.extend(change.tags.into_iter().filter(|tag| tag.len() > %N%));
    *record.totals.entry(format!("handled-%N%")).or_default() += 1.0;
    Json(record.clone())
}
"#;
