//! What the C driver makes of its arguments, learnt once and filled in for each link.
//! Never lives here: what the arguments mean.

use super::arguments::Piece;
use super::{driver, report};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

const NAME: &str = "expansion.json";

/// The arguments of the linker, with places for what changes from link to link. A number is that of a piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Token {
    Plain(String),
    Inputs(usize),
    Folder(usize),
    Output,
}

/// The last expansion, and all that it depends on.
#[derive(Serialize, Deserialize)]
struct Stored {
    key: Vec<String>,
    tokens: Vec<Token>,
}

/// The arguments of the linker for these pieces. `Output` is where `place` says, not where the pieces do.
pub fn expand(folder: &Path, pieces: &[Piece], place: &str) -> Result<Vec<String>, String> {
    let key = key(driver::identity()?, pieces);
    let known = fs::read(folder.join(NAME)).ok().and_then(|text| serde_json::from_slice::<Stored>(&text).ok());
    if let Some(known) = known.filter(|known| known.key == key)
        && let Some(filled) = fill(&known.tokens, pieces, place)
    {
        return Ok(filled);
    }
    let said = driver::ask(&request(pieces))?;
    let tokens = learn(said, pieces)?;
    let filled =
        fill(&tokens, pieces, place).ok_or("what the C driver says of how it links does not fit its arguments")?;
    // Without it, the next link asks again.
    if let Ok(text) = serde_json::to_vec(&Stored { key, tokens }) {
        let _ = report::replace(folder, NAME, &text);
    }
    Ok(filled)
}

/// What was learnt has led to a failure, and may be why.
pub fn forget(folder: &Path) {
    let _ = fs::remove_file(folder.join(NAME));
}

/// The pieces without what changes, after whose answer it is.
fn key(mut key: Vec<String>, pieces: &[Piece]) -> Vec<String> {
    key.extend(pieces.iter().map(|piece| match piece {
        Piece::Plain(word) => format!("={word}"),
        Piece::Inputs(_) => "inputs".to_owned(),
        Piece::Folder(_) => "folder".to_owned(),
        Piece::Output(_) => "output".to_owned(),
    }));
    key
}

/// What the driver is asked about: the first of each row of inputs stands for all.
fn request(pieces: &[Piece]) -> Vec<String> {
    let mut words = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Plain(word) => words.push(word.clone()),
            Piece::Inputs(row) => words.extend(row.first().cloned()),
            Piece::Folder(path) => words.push(format!("-L{path}")),
            Piece::Output(path) => words.extend(["-o".to_owned(), path.clone()]),
        }
    }
    words
}

/// Finds in the driver's answer what changes: each piece exactly once.
fn learn(said: Vec<String>, pieces: &[Piece]) -> Result<Vec<Token>, String> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut said = said.into_iter();
    while let Some(word) = said.next() {
        match word.as_str() {
            // For link-time optimisation: wild says so when it meets an object that needs it.
            "-plugin" => {
                said.next();
            }
            _ if word.starts_with("-plugin-opt=") => {}
            // gcc tells its helper which linker to call.
            "-fuse-ld=lld" => {}
            "-o" => {
                let path = said.next();
                if path.as_deref() != super::arguments::output(pieces) || tokens.contains(&Token::Output) {
                    return Err("the C driver has an output of its own".to_owned());
                }
                tokens.extend([Token::Plain(word), Token::Output]);
            }
            _ => tokens.push(place_of(&word, pieces).unwrap_or(Token::Plain(word))),
        }
    }
    let places = pieces.iter().enumerate().filter_map(|(number, piece)| match piece {
        Piece::Plain(_) => None,
        Piece::Inputs(_) => Some(Token::Inputs(number)),
        Piece::Folder(_) => Some(Token::Folder(number)),
        Piece::Output(_) => Some(Token::Output),
    });
    for place in places {
        if tokens.iter().filter(|token| **token == place).count() != 1 {
            return Err("the C driver does not hand on its inputs as they are".to_owned());
        }
    }
    Ok(tokens)
}

fn place_of(word: &str, pieces: &[Piece]) -> Option<Token> {
    pieces.iter().enumerate().find_map(|(number, piece)| match piece {
        Piece::Inputs(row) => (row.first()? == word).then_some(Token::Inputs(number)),
        Piece::Folder(path) => (word.strip_prefix("-L")? == path).then_some(Token::Folder(number)),
        Piece::Plain(_) | Piece::Output(_) => None,
    })
}

/// `None` where the tokens are not of these pieces.
fn fill(tokens: &[Token], pieces: &[Piece], place: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    for token in tokens {
        match token {
            Token::Plain(word) => words.push(word.clone()),
            Token::Output => words.push(place.to_owned()),
            Token::Inputs(number) => match pieces.get(*number)? {
                Piece::Inputs(row) => words.extend(row.iter().cloned()),
                Piece::Plain(_) | Piece::Folder(_) | Piece::Output(_) => return None,
            },
            Token::Folder(number) => match pieces.get(*number)? {
                Piece::Folder(path) => words.push(format!("-L{path}")),
                Piece::Plain(_) | Piece::Inputs(_) | Piece::Output(_) => return None,
            },
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn pieces(objects: &[&str], rlibs: &[&str], folder: &str, output: &str) -> Vec<Piece> {
        vec![
            Piece::Plain("-m64".to_owned()),
            Piece::Inputs(strings(objects)),
            Piece::Plain("-Wl,-Bstatic".to_owned()),
            Piece::Inputs(strings(rlibs)),
            Piece::Folder(folder.to_owned()),
            Piece::Output(output.to_owned()),
        ]
    }

    #[test]
    fn what_was_learnt_from_one_link_serves_the_next() {
        let first = pieces(&["a.o", "b.o"], &["x.rlib"], "/1", "out1");
        assert_eq!(request(&first), ["-m64", "a.o", "-Wl,-Bstatic", "x.rlib", "-L/1", "-o", "out1"]);
        let said = strings(&[
            "-plugin",
            "/p.so",
            "-plugin-opt=x",
            "-fuse-ld=lld",
            "-pie",
            "-o",
            "out1",
            "crt1.o",
            "-L/1",
            "-L/lib",
            "a.o",
            "-Bstatic",
            "x.rlib",
            "crtn.o",
        ]);
        let tokens = learn(said, &first).unwrap();
        let second = pieces(&["c.o"], &["x.rlib", "y.rlib"], "/2", "out2");
        assert_eq!(
            fill(&tokens, &second, "place").unwrap(),
            ["-pie", "-o", "place", "crt1.o", "-L/2", "-L/lib", "c.o", "-Bstatic", "x.rlib", "y.rlib", "crtn.o"]
        );
        assert_eq!(key(vec![], &first), key(vec![], &second));
        assert_ne!(key(vec![], &first), key(vec!["other".to_owned()], &first));
        assert_eq!(fill(&tokens, &second[..3], "place"), None);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_refused() {
        let asked = pieces(&["a.o"], &["x.rlib"], "/1", "out");
        let others: [&[&str]; 6] = [
            &["-o", "out", "-L/1", "a.o"],
            &["-o", "out", "-L/1", "a.o", "x.rlib", "a.o"],
            &["-o", "else", "-L/1", "a.o", "x.rlib"],
            &["-o", "out", "-o", "out", "-L/1", "a.o", "x.rlib"],
            &["-o", "out", "a.o", "x.rlib"],
            &["-L/1", "a.o", "x.rlib", "-o"],
        ];
        for said in others {
            assert!(learn(strings(said), &asked).is_err(), "{said:?}");
        }
        assert!(learn(strings(&["-o", "out", "-L/1", "a.o", "x.rlib"]), &asked).is_ok());
    }
}
