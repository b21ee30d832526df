//! After any sequence of edits, the program that is served is the one that a clean build by cargo gives.
//! `REPLAY_CASES` sets how many sequences are tried, `REPLAY_SEED` which.

use super::{add_crate, is, ready};
use crate::harness::plain::{Plain, plain, project};
use crate::harness::{Project, get};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

const EDITS: usize = 12;

/// All that the program's answer is made of, and what is broken.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    numbers: BTreeMap<Place, u8>,
    module: Module,
    loud: bool,
    broken: Option<Crate>,
}

/// Where a number stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Program,
    Module,
    Upper,
    /// In a file that `upper` includes.
    Text,
    Lower,
    /// In a generic function of `lower`, which is compiled with those that call it.
    Inlined,
    Macro,
    /// In a file that the build script reads.
    Script,
}

const PLACES: [Place; 8] = [
    Place::Program,
    Place::Module,
    Place::Upper,
    Place::Text,
    Place::Lower,
    Place::Inlined,
    Place::Macro,
    Place::Script,
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Module {
    Absent,
    Near,
    Far,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Crate {
    Program,
    Upper,
    Lower,
    Macro,
}

#[derive(Debug, Clone, PartialEq)]
enum Change {
    /// One of few numbers, so that many an edit brings an earlier text back, or the present one.
    Number(Place, u8),
    Module(Module),
    Loud(bool),
    Break(Crate),
}

/// How an editor saves.
#[derive(Debug, Clone, Copy)]
enum Save {
    InPlace,
    ByRename,
    /// By rename of a file with a date long ago.
    DatedBack,
}

/// When the second change comes.
#[derive(Debug, Clone, Copy)]
enum Second {
    AtOnce,
    /// What was changed is changed back.
    AtOnceBack,
    WhileTheFirstIsBuilt,
    /// While the next replay is being prepared, where the first went through cargo.
    WhenTheFirstServes,
}

#[derive(Debug, Clone)]
struct Edit {
    first: Change,
    second: Option<(Second, Change)>,
    save: Save,
    /// What is broken is mended, too.
    mends: bool,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        12 => (prop::sample::select(&PLACES[..6]), 0..4u8).prop_map(|(place, number)| Change::Number(place, number)),
        2 => (prop::sample::select(&PLACES[6..]), 0..4u8).prop_map(|(place, number)| Change::Number(place, number)),
        2 => prop::sample::select(&[Module::Absent, Module::Near, Module::Far][..]).prop_map(Change::Module),
        1 => any::<bool>().prop_map(Change::Loud),
        3 => prop::sample::select(&[Crate::Program, Crate::Upper, Crate::Lower, Crate::Macro][..])
            .prop_map(Change::Break),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let when = vec![Second::AtOnce, Second::AtOnceBack, Second::WhileTheFirstIsBuilt, Second::WhenTheFirstServes];
    let second = prop::option::weighted(0.35, (prop::sample::select(when), change()));
    let save = prop::sample::select(&[Save::InPlace, Save::ByRename, Save::DatedBack][..]);
    (change(), second, save, prop::bool::weighted(0.8)).prop_map(|(first, second, save, mends)| Edit {
        first,
        second,
        save,
        mends,
    })
}

impl Model {
    fn new() -> Model {
        let numbers = PLACES.into_iter().map(|place| (place, 0)).collect();
        Model { numbers, module: Module::Near, loud: false, broken: None }
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Number(place, number) => drop(self.numbers.insert(*place, *number)),
            Change::Module(module) => self.module = *module,
            Change::Loud(loud) => self.loud = *loud,
            Change::Break(broken) => self.broken = Some(*broken),
        }
    }

    fn answer(&self) -> String {
        let number = |place: Place| self.numbers[&place];
        let module = match self.module {
            Module::Absent => "none".to_owned(),
            Module::Near => format!("near {}", number(Place::Module)),
            Module::Far => format!("far {}", number(Place::Module)),
        };
        let [program, upper, text] = [Place::Program, Place::Upper, Place::Text].map(number);
        let [lower, inlined, made, script] = [Place::Lower, Place::Inlined, Place::Macro, Place::Script].map(number);
        let loud = self.loud;
        format!("{program}+{inlined} {module} {upper} {text} {lower} u+{inlined} {made} {script} {loud}")
    }

    /// Every file that edits are about.
    fn files(&self) -> BTreeMap<&'static str, String> {
        let number = |place: Place| self.numbers[&place];
        let module = match self.module {
            Module::Absent => "\"none\"",
            Module::Near => "near::word()",
            Module::Far => "far::word()",
        };
        let word = format!(
            "fn word() -> String {{ format!(\"{{}} {{}} {{}} {{}} {{}} {{}}\", lower::inlined({}), {module}, upper::all(), \
             maker::number!(), env!(\"SCRIPT\"), cfg!(feature = \"loud\")) }}",
            number(Place::Program)
        );
        // Without a socket, when it is asked by the test itself.
        let at_start =
            "fn at_start() { if std::env::args().len() > 1 { println!(\"{}\", word()); std::process::exit(0) } }";
        let mut main = plain("1", &[&word, at_start]);
        let inner = format!("pub fn word() -> String {{ format!(\"{{}} {}\", NAME) }}\n", number(Place::Module));
        let mut files = BTreeMap::new();
        let (near, far) = ("const NAME: &str = \"near\";\n", "const NAME: &str = \"far\";\n");
        match self.module {
            Module::Absent => {}
            Module::Near => {
                main += "mod near;\n";
                files.insert("src/near.rs", near.to_owned() + &inner);
            }
            Module::Far => {
                main += "mod far;\n";
                files.insert("src/far/mod.rs", far.to_owned() + &inner);
            }
        }
        let broken = |one: Crate| if self.broken == Some(one) { "fn broken() -> u32 { \"text\" }\n" } else { "" };
        files.insert("src/main.rs", main + broken(Crate::Program));
        let upper = "mod part;\npub fn all() -> String { format!(\"{} {} {} {}\", part::NUMBER, include_str!(\"../text.txt\"), \
                     lower::NUMBER, lower::inlined('u')) }\n";
        files.insert("upper/src/lib.rs", upper.to_owned() + broken(Crate::Upper));
        files.insert("upper/src/part.rs", format!("pub const NUMBER: u8 = {};\n", number(Place::Upper)));
        files.insert("upper/text.txt", number(Place::Text).to_string());
        let lower = format!(
            "pub const NUMBER: u8 = {};\n#[inline]\npub fn inlined<T: std::fmt::Display>(of: T) -> String {{ \
             format!(\"{{of}}+{}\") }}\n",
            number(Place::Lower),
            number(Place::Inlined)
        );
        files.insert("lower/src/lib.rs", lower + broken(Crate::Lower));
        let maker = format!(
            "#[proc_macro]\npub fn number(_: proc_macro::TokenStream) -> proc_macro::TokenStream {{ \"{}\".parse().unwrap() }}\n",
            number(Place::Macro)
        );
        files.insert("maker/src/lib.rs", maker + broken(Crate::Macro));
        files.insert("script.txt", number(Place::Script).to_string());
        files
    }
}

fn manifest(base: &str, loud: bool) -> String {
    base.replace("default = []", if loud { "default = [\"loud\"]" } else { "default = []" })
}

fn workspace() -> (Project, String) {
    let project = project("replay-property", "");
    add_crate(&project, "maker", "[lib]\nproc-macro = true", "");
    add_crate(&project, "upper", "[dependencies]\nlower.path = \"../lower\"", "");
    add_crate(&project, "lower", "", "");
    project.edit("Cargo.toml", "\n[dependencies]\n", "\n[features]\ndefault = []\nloud = []\n\n[dependencies]\n");
    project.write(
        "build.rs",
        "fn main() { println!(\"cargo::rerun-if-changed=script.txt\"); \
         println!(\"cargo::rustc-env=SCRIPT={}\", std::fs::read_to_string(\"script.txt\").unwrap()); }\n",
    );
    let manifest = project.read("Cargo.toml");
    (project, manifest)
}

/// A session, with what is expected of it.
struct Tried {
    plain: Plain,
    manifest: String,
    model: Model,
    /// What may serve while the newest sources do not compile.
    good: Vec<String>,
    /// The next save of sources that can be replayed is replayed.
    ready: bool,
    /// That means all crates. Else cargo has not compiled the libraries since the manifest changed, and is to do so first.
    whole: bool,
    dates: u64,
    replayed: usize,
}

impl Tried {
    fn start() -> Tried {
        let (project, manifest) = workspace();
        let model = Model::new();
        model.files().iter().for_each(|(path, text)| project.write(path, text));
        let good = vec![model.answer()];
        Tried { plain: ready(project), manifest, model, good, ready: true, whole: true, dates: 0, replayed: 0 }
    }

    fn edit(&mut self, edit: &Edit) {
        let begin = self.plain.session.log.len();
        let mut model = self.model.clone();
        if edit.mends {
            model.broken = None;
        }
        let before = model.clone();
        model.change(&edit.first);
        let module = self.model.module;
        let mut replayable = self.save(model.clone(), edit.save);
        let mut came = self.model.module != module;
        if let Some((when, second)) = &edit.second {
            match when {
                Second::AtOnce | Second::AtOnceBack => {}
                Second::WhileTheFirstIsBuilt => self.plain.mark(),
                Second::WhenTheFirstServes => drop(self.settle()),
            }
            match when {
                Second::AtOnceBack => model = before,
                _ => model.change(second),
            }
            let module = self.model.module;
            replayable &= self.save(model, edit.save);
            came |= self.model.module != module;
        }
        let state = self.settle();
        self.judge(begin, replayable, came, &state);
    }

    /// Writes what differs, new files first. Says whether replay can compile it.
    fn save(&mut self, model: Model, save: Save) -> bool {
        let (before, after) = (self.model.files(), model.files());
        let mut replayable = true;
        // The program last: it names the modules.
        let (mut differing, main): (Vec<_>, Vec<_>) = after
            .iter()
            .filter(|(path, text)| before.get(*path) != Some(text))
            .partition(|(path, _)| **path != "src/main.rs");
        differing.extend(main);
        for (path, text) in differing {
            replayable &=
                path.starts_with("src") || self.whole && (path.starts_with("upper") || path.starts_with("lower"));
            self.write(path, text, save);
        }
        for path in before.keys().filter(|path| !after.contains_key(*path)) {
            fs::remove_file(self.plain.project.path(path)).unwrap();
        }
        if model.loud != self.model.loud {
            replayable = false;
            self.write("Cargo.toml", &manifest(&self.manifest, model.loud), save);
        }
        self.model = model;
        if self.model.broken.is_none() {
            self.good.push(self.model.answer());
        }
        replayable
    }

    fn write(&mut self, path: &str, text: &str, save: Save) {
        let project = &self.plain.project;
        let target = project.path(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        match save {
            Save::InPlace => project.write(path, text),
            Save::ByRename => project.write_by_rename(path, text),
            Save::DatedBack => {
                self.dates += 1;
                project.write("new.tmp", text);
                let file = File::options().append(true).open(project.path("new.tmp")).unwrap();
                file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000 + self.dates)).unwrap();
                fs::rename(project.path("new.tmp"), target).unwrap();
            }
        }
    }

    /// Waits until all edits so far have had their effect, and the programs before have gone.
    fn settle(&mut self) -> Value {
        let state = self.plain.settle();
        // All that was told until then.
        self.plain.fence();
        let served = |event: &&Value| is(event, "serving") && event["generation"] != state["generation"];
        let old: Vec<Value> =
            session_log(&self.plain).iter().filter(served).map(|event| event["generation"].clone()).collect();
        for generation in old {
            self.plain
                .session
                .see("the end of the old one", |event| is(event, "drained") && event["generation"] == generation);
        }
        state
    }

    fn judge(&mut self, begin: usize, replayable: bool, came: bool, state: &Value) {
        let log = &self.plain.session.log[begin..];
        // Only cargo counts the crates it has finished.
        let by_cargo = log.iter().rposition(|event| is(event, "progress"));
        if replayable && self.ready {
            let told: Vec<String> = log.iter().map(Value::to_string).collect();
            // A file that nobody knew is cargo's where its coming was told before that of who names it, or after.
            let new = ["a new source was saved while it was compiled", "src/near.rs changed", "src/far/mod.rs changed"];
            let whys = whys_of_cargo(log);
            let is_expected = came && !whys.is_empty() && whys.iter().all(|why| new.contains(why));
            assert!(by_cargo.is_none() || is_expected, "by cargo:\n{}", told.join("\n"));
            self.replayed += log.iter().filter(|event| is(event, "timings")).count();
        }
        let answer = answer(&self.plain);
        let trouble = &state["trouble"];
        if self.model.broken.is_some() {
            assert!(trouble.as_str().is_some_and(|trouble| trouble.contains("build")), "{state}");
            assert!(self.good.contains(&answer), "{answer} is none of {:?}", self.good);
            self.ready &= by_cargo.is_none();
            return;
        }
        assert!(trouble.is_null(), "{state}; {}", self.plain.session.stderr());
        let told =
            || self.plain.session.log.iter().rev().take(60).rev().map(Value::to_string).collect::<Vec<_>>().join("\n");
        assert_eq!(answer, self.model.answer(), "{}", told());
        self.good = vec![answer];
        if let Some(position) = by_cargo {
            // The next save may have been replayed already.
            let is_later = |event: &Value| is(event, "replay-ready") || event["built-by"] == "replay";
            let told = self.plain.session.log[begin + position..].iter().find(|event| is_later(event)).cloned();
            let told = told.unwrap_or_else(|| self.plain.session.wait("replay-ready", is_later));
            if is(&told, "replay-ready") {
                self.whole = told["crates"] == 3;
            }
            self.ready = true;
        }
    }

    /// What cargo alone builds of the sources, in a folder where it has never built before.
    fn assert_clean_build_answers_the_same(&self) {
        let target = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut cargo = Command::new("cargo");
        cargo.arg("build").current_dir(self.plain.project.root()).env("CARGO_TARGET_DIR", target.path());
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let program =
            Command::new(target.path().join("debug").join(&self.plain.project.name)).arg("say").output().unwrap();
        assert_eq!(String::from_utf8(program.stdout).unwrap().trim_end(), answer(&self.plain));
    }
}

/// Why builds that came to an end went through cargo, without those of which the only reason is that the one before failed.
fn whys_of_cargo(log: &[Value]) -> Vec<&str> {
    let mut failed = false;
    let mut whys = Vec::new();
    for event in log.iter().filter(|event| is(event, "build-failed") || is(event, "timings")) {
        let why = event["why-cargo"].as_str();
        whys.extend(why.filter(|why| !(failed && *why == "cargo's last build failed")));
        failed = why.is_some() && is(event, "build-failed");
    }
    whys
}

fn session_log(plain: &Plain) -> &[Value] {
    &plain.session.log
}

fn answer(plain: &Plain) -> String {
    let answer = get(plain.address, "/").unwrap();
    answer.lines().find_map(|line| line.strip_prefix("word: ")).unwrap().to_owned()
}

fn number(name: &str) -> Option<u32> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn what_is_served_is_what_a_clean_build_gives() {
    let (cases, seed) = (number("REPLAY_CASES").unwrap_or(3), number("REPLAY_SEED").unwrap_or(1));
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    // The session goes on from case to case, so a shorter sequence would prove nothing.
    let config = Config { cases, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let tried = RefCell::new(Tried::start());
    let result = runner.run(&prop::collection::vec(edit(), EDITS), |edits| {
        let tried = &mut *tried.borrow_mut();
        for edit in &edits {
            eprintln!("{edit:?}");
            tried.edit(edit);
        }
        let mended = Edit { first: Change::Number(Place::Program, 9), second: None, save: Save::InPlace, mends: true };
        tried.edit(&mended);
        tried.assert_clean_build_answers_the_same();
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let replayed = tried.borrow().replayed;
    eprintln!("{replayed} programs by replay");
    assert!(replayed >= cases as usize * EDITS / 4, "{replayed} programs by replay");
}
