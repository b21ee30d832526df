//! Why cargo gave up, of what it has said: never nothing, and nothing twice.
//! Never lives here: what the compilers say, and whether a build has failed.

use super::output::Told;
use crate::report::clean;

/// What cargo adds to the errors of compilers that were told already: a build script that failed beside them, a compiler that was
/// killed. That a crate could not be compiled is their news.
pub fn beside_compilers(lines: Vec<Told>) -> Vec<Told> {
    let mut kept = Vec::new();
    for block in blocks(lines) {
        let first = clean::plain(&block[0].words.rendered);
        let repeats = first.starts_with("error: could not compile") && !block.iter().any(is_caused_by);
        if first.starts_with("error") && !repeats {
            kept.extend(block);
        }
    }
    kept
}

/// Whether cargo has said what is wrong.
pub fn is_among(lines: &[Told]) -> bool {
    lines.iter().any(|line| is_error(&clean::plain(&line.words.rendered)))
}

/// Whether a line of cargo's begins the reason for which it gives up.
pub fn is_error(plain: &str) -> bool {
    plain.starts_with("error")
}

/// For a cargo that has said nothing of it.
pub fn unsaid(what: &str) -> Told {
    Told::text(format!("error: {what}"))
}

fn is_caused_by(line: &Told) -> bool {
    clean::plain(&line.words.rendered).starts_with("Caused by:")
}

/// Each with all that follows until the next error or warning; what stands before the first is none.
fn blocks(lines: Vec<Told>) -> Vec<Vec<Told>> {
    let mut blocks: Vec<Vec<Told>> = Vec::new();
    for line in lines {
        let plain = clean::plain(&line.words.rendered);
        if plain.starts_with("error") || plain.starts_with("warning") {
            blocks.push(vec![line]);
        } else if let Some(block) = blocks.last_mut() {
            block.push(line);
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<Told> {
        text.lines().map(|line| Told::text(line.to_owned())).collect()
    }

    #[test]
    fn what_compilers_have_said_is_not_said_again_and_the_rest_is() {
        let lines = "\
            warning: unused manifest key: x\n\
            error: could not compile `a` (lib) due to 1 previous error\n\
            warning: build failed, waiting for other jobs to finish...\n\
            \u{1b}[1merror\u{1b}[0m: failed to run custom build command for `b v0.1.0 (/b)`\n\
            \n\
            Caused by:\n  process didn't exit successfully: `/t/build-script-build` (exit status: 101)\n\
            error: could not compile `c` (lib)\n\
            \n\
            Caused by:\n  process didn't exit successfully: `rustc` (signal: 9, SIGKILL: kill)";
        let kept: Vec<String> =
            beside_compilers(told(lines)).into_iter().map(|line| clean::plain(&line.words.rendered)).collect();
        assert_eq!(kept.len(), 8, "{kept:#?}");
        assert!(kept[0].contains("`b v0.1.0 (/b)`") && kept[4].contains("`c`"), "{kept:#?}");
    }

    #[test]
    fn a_warning_is_no_reason() {
        assert!(!is_among(&told("warning: x\n  |")));
        assert!(is_among(&told("warning: x\n\u{1b}[1m\u{1b}[91merror\u{1b}[0m: no such package")));
    }
}
