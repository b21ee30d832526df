//! What is said outside of a session's notices: answers, warnings, and the error that ends the command. Together with the renderers of
//! notices it is the one way to the user: names, paths and reasons in it come from outside, and none of them may steer the terminal.
//! Never lives here: the words.

use super::clean;
use std::fmt::Display;
use std::io::{self, Write};

/// On standard output.
pub fn line(text: impl Display) {
    part(format!("{text}\n"));
}

/// The same, and the line goes on.
pub fn part(text: impl Display) {
    put(io::stdout(), &clean::plain(&text.to_string()));
}

/// One line of JSON, for programs; some of them are run by hand.
pub fn json(text: &str) {
    put(io::stdout(), &format!("{}\n", clean::json(text)));
}

pub fn warning(text: impl Display) {
    put(io::stderr(), &clean::plain(&format!("warning: {text}\n")));
}

pub fn error(text: impl Display) {
    put(io::stderr(), &clean::plain(&format!("error: {text}\n")));
}

/// Help, version, or what is wrong with the arguments: in clap's colours, unless a colour may have been typed. What was typed stays on its
/// line. Returns the exit code.
pub fn of_clap(error: &clap::Error) -> i32 {
    let wanted = if error.use_stderr() { console::colors_enabled_stderr() } else { console::colors_enabled() };
    let typed = |arg: std::ffi::OsString| arg.to_string_lossy().chars().any(char::is_control);
    let text = if wanted && !std::env::args_os().any(typed) {
        clean::clean(&error.render().ansi().to_string())
    } else {
        let args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
        clean::plain(&args.fold(error.render().to_string(), |text, arg| typed_on_one_line(text, &arg)))
    };
    if error.use_stderr() {
        put(io::stderr(), &text)
    } else {
        put(io::stdout(), &text)
    }
    error.exit_code()
}

/// An argument is shown whole, or its name or its value alone.
fn typed_on_one_line(text: String, arg: &str) -> String {
    let (name, value) = arg.split_once('=').unwrap_or((arg, ""));
    let parts = [arg, name, value].into_iter().filter(|part| part.contains(['\n', '\r']));
    parts.fold(text, |text, part| text.replace(part, &clean::one_line(part)))
}

fn put(mut out: impl Write, text: &str) {
    // Whoever has stopped to read does not miss it.
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}
