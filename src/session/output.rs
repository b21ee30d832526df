//! Where what is told goes, and how it looks there, as the user wants it.
//! Never lives here: telling it.

use crate::config::{Color, Config, Format};
use crate::report::{Background, Json, Text};
use std::io;

pub fn reporter(config: &Config) -> io::Result<Background> {
    match config.output.format {
        Format::Json => Background::new(Json::stdout()),
        Format::Human => Background::new(Text::stderr(config.output.quiet, color(config))),
    }
}

/// Whether lines and diagnostics are wanted in colour; where a diagnostic is shown without, the report takes it out.
pub fn color(config: &Config) -> bool {
    match config.output.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => config.output.format == Format::Human && console::colors_enabled_stderr(),
    }
}
