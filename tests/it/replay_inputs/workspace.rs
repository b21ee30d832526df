//! Crates of a workspace and beside it: what an edit of one of them compiles.

use super::{MAIN, Served, has, library, says, workspace};
use crate::harness::Project;
use crate::harness::plain::plain;
use std::fs::File;
use std::process::Command;

#[test]
fn an_edit_compiles_the_crates_that_are_affected_in_order() {
    let crates = [
        ("leaf", "", has("\"leaf\".into()")),
        ("middle", "[dependencies]\nleaf = { path = \"../leaf\" }", has("format!(\"{} in middle\", leaf::word())")),
        ("side", "", has("\"side\".into()")),
    ];
    let crates: Vec<_> = crates.iter().map(|(name, manifest, text)| (*name, *manifest, text.as_str())).collect();
    let dependencies = "middle = { path = \"middle\" }\nside = { path = \"side\" }";
    let word = "format!(\"{} and {}\", middle::word(), side::word())";
    let mut served = Served::start(workspace("replay-order", word, dependencies, &crates));
    assert_eq!(served.word(), "leaf in middle and side");
    served.edit();

    served.project().edit("leaf/src/lib.rs", "\"leaf\"", "\"new leaf\"");
    let built = served.next();
    let names: Vec<&str> = built.crates.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!((built.by.as_str(), names), ("replay", vec!["leaf", "middle", "replay_order"]));
    assert_eq!(served.word(), "new leaf in middle and side");
    let ms = |number: usize, what: &str| built.crates[number][what].as_f64().unwrap();
    assert!(ms(2, "began") >= ms(0, "ended") && ms(2, "began") >= ms(1, "ended"), "{:?}", built.crates);

    served.project().edit("side/src/lib.rs", "\"side\"", "\"new side\"");
    served.by_replay(&["side", "replay_order"], "new leaf in middle and new side");
    served.project().edit("middle/src/lib.rs", "in middle", "in new middle");
    served.by_replay(&["middle", "replay_order"], "new leaf in new middle and new side");
    served.edit();
}

#[test]
fn a_macro_and_what_it_needs_go_through_cargo() {
    let spelling = "
        #[proc_macro]
        pub fn spelled(_: proc_macro::TokenStream) -> proc_macro::TokenStream {
            format!(\"{:?}\", format!(\"{} spelled\", grammar::word())).parse().unwrap()
        }";
    let manifest = "[lib]\nproc-macro = true\n[dependencies]\ngrammar = { path = \"../grammar\" }";
    let leaf = has("spelling::spelled!().into()");
    let crates = [
        ("grammar", "", &*has("\"word\".into()")),
        ("spelling", manifest, spelling),
        ("leaf", "[dependencies]\nspelling = { path = \"../spelling\" }", &*leaf),
    ];
    let word = "format!(\"{} {}\", leaf::word(), spelling::spelled!())";
    let dependencies = "leaf = { path = \"leaf\" }\nspelling = { path = \"spelling\" }";
    let mut served = Served::start(workspace("replay-macro", word, dependencies, &crates));
    served.edit();
    served.project().edit("spelling/src/lib.rs", "{} spelled", "{} misspelled");
    served.through_cargo("spelling/src/lib.rs changed", "word misspelled word misspelled");
    served.edit();
    served.project().edit("grammar/src/lib.rs", "\"word\"", "\"verb\"");
    served.through_cargo("grammar/src/lib.rs changed", "verb misspelled verb misspelled");
    served.edit();
    served.project().edit("leaf/src/lib.rs", "spelled!()", "spelled!().to_uppercase()");
    served.by_replay(&["leaf", "replay_macro"], "VERB MISSPELLED verb misspelled");
}

#[test]
fn a_crate_that_a_macro_and_the_program_need_is_right_in_both() {
    let spelling = "
        #[proc_macro]
        pub fn spelled(_: proc_macro::TokenStream) -> proc_macro::TokenStream {
            format!(\"{:?}\", grammar::word()).parse().unwrap()
        }";
    let manifest = "[lib]\nproc-macro = true\n[dependencies]\ngrammar = { path = \"../grammar\" }";
    let crates = [("grammar", "", &*has("\"noun\".into()")), ("spelling", manifest, spelling)];
    let word = "format!(\"{} {}\", grammar::word(), spelling::spelled!())";
    let dependencies = "grammar = { path = \"grammar\" }\nspelling = { path = \"spelling\" }";
    let mut served = Served::start(workspace("replay-both", word, dependencies, &crates));
    assert_eq!(served.word(), "noun noun");
    for word in ["verb", "name"] {
        served.project().write("grammar/src/lib.rs", &has(&format!("{word:?}.into()")));
        served.through_cargo("grammar/src/lib.rs changed", &format!("{word} {word}"));
        served.edit();
    }
}

#[test]
fn a_crate_outside_of_the_workspace_goes_through_cargo() {
    let outer = Project::new("replay-outer", "", "fn main() {}");
    outer.write("src/lib.rs", &has("\"far\".into()"));
    let dependency = format!("replay-outer = {{ path = {:?} }}", outer.root());
    let mut served = Served::start(workspace("replay-inner", "replay_outer::word()", &dependency, &[]));
    served.edit();
    outer.edit("src/lib.rs", "far", "farther");
    served.through_cargo("src/lib.rs changed", "farther");
    served.edit();
    assert_eq!(served.word(), "farther");
}

/// Somebody builds in a terminal meanwhile, and cargo compiles anew what the program is linked with.
#[test]
fn what_cargo_has_built_meanwhile_is_noticed() {
    let outer = Project::new("replay-rebuilt", "", "fn main() {}");
    outer.write("src/lib.rs", &has("\"far\".into()"));
    let dependency = format!("replay-rebuilt = {{ path = {:?} }}", outer.root());
    let crates = [("leaf", "", &*has("\"near\".into()"))];
    let word = "format!(\"{} {}\", leaf::word(), replay_rebuilt::word())";
    let project = workspace("replay-meanwhile", word, &format!("leaf = {{ path = \"leaf\" }}\n{dependency}"), &crates);
    let mut served = Served::start(project);
    let build = |served: &Served| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--offline"]).current_dir(served.project().root());
        let output = cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTC_WORKSPACE_WRAPPER").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    // What cargo compiles of the workspace without this command lies beside what is used here.
    build(&served);
    served.edit();
    // The same content at another time, which is no change for the session, and one for cargo.
    let file = File::options().append(true).open(outer.path("src/lib.rs")).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    served.plain.fence();
    build(&served);
    assert_eq!(served.plain.session.count("building"), 2);
    served.version();
    served.through_cargo("libreplay_rebuilt", "near far");
    served.edit();
    served.project().edit("leaf/src/lib.rs", "near", "nearer");
    served.by_replay(&["leaf", "replay_meanwhile"], "nearer far");
}

/// A crate that comes into the workspace, and leaves it.
#[test]
fn a_dependency_that_comes_or_goes_is_right() {
    let project = workspace("replay-comes", "\"alone\".into()", "", &[]);
    library(&project, "leaf", "", &has("\"leaf\".into()"));
    let mut served = Served::start(project);
    served.edit();
    // Nothing uses it yet: it may be the same program.
    served.project().edit("Cargo.toml", "[dependencies]\n", "[dependencies]\nleaf = { path = \"leaf\" }\n");
    served.built();
    served.project().write(MAIN, &plain("with", &[&says("leaf::word()")]));
    served.next();
    assert_eq!(served.word(), "leaf");
    served.project().edit("leaf/src/lib.rs", "\"leaf\"", "\"new leaf\"");
    served.next();
    assert_eq!(served.word(), "new leaf");
}
