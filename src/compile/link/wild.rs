//! The linker in this program.
//! Never lives here: whether it may be used, and what is done when it fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Links, and looks at what came out. The words are all of the linker's arguments; `output` is the one of `-o`.
pub fn link(words: &[String], output: &Path) -> Result<(), String> {
    let panicked = Arc::new(Mutex::new(None));
    let heard = Arc::clone(&panicked);
    // A panic of the linker is one more reason to call the driver, and nothing the user has to read twice.
    panic::set_hook(Box::new(move |info| {
        if let Ok(mut heard) = heard.lock() {
            heard.get_or_insert_with(|| info.to_string());
        }
    }));
    let linked = panic::catch_unwind(AssertUnwindSafe(|| run(words)));
    let _ = panic::take_hook();
    linked.unwrap_or_else(|_| {
        let said = panicked.lock().ok().and_then(|mut said| said.take());
        Err(format!("wild panicked: {}", said.unwrap_or_default()))
    })?;
    check(output)
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn run(words: &[String]) -> Result<(), String> {
    // To write to the pages of a mapped file takes longer than to write the file at once.
    let all = || ["ld", "--no-mmap-output-file"].into_iter().chain(words.iter().map(String::as_str));
    let warned = Arc::new(Mutex::new(None));
    let heard = Arc::clone(&warned);
    let failed = |error: libwild::error::Error| format!("wild: {}", error.to_string());
    let mut args = libwild::Args::new(all).map_err(failed)?;
    args.on_warning(Box::new(move |warning| {
        if let Ok(mut heard) = heard.lock() {
            heard.get_or_insert_with(|| warning.to_string());
        }
    }));
    args.parse(all).map_err(failed)?;
    // This process ends with the link: to free what it has used, piece by piece, would take longer. It runs in a pool of as many
    // threads as there are processors, and looks for no jobserver, which would be somebody else's.
    let (linker, args) = (Box::leak(Box::new(libwild::Linker::new())), Box::leak(Box::new(args)));
    std::mem::forget(linker.run(args).map_err(failed)?);
    // What is not wholly understood is not wholly sound.
    match warned.lock().ok().and_then(|mut warned| warned.take()) {
        Some(warning) => Err(format!("wild: {warning}")),
        None => Ok(()),
    }
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn run(_: &[String]) -> Result<(), String> {
    Err("wild does not link for this machine".to_owned())
}

/// A glance only: a linker that has reported success has written more than a header.
fn check(output: &Path) -> Result<(), String> {
    let wrong = |what: &str| format!("what wild wrote {what}");
    let file = fs::File::open(output).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let metadata = file.metadata().map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let mut head = [0; 20];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut head, 0).map_err(|_| wrong("is empty"))?;
    // elf(5): 64 bits, little-endian; a program is of type 2 or, where it can be loaded anywhere, 3.
    let is_program = head.starts_with(b"\x7fELF\x02\x01") && matches!(head[16], 2 | 3) && head[17] == 0;
    if !metadata.is_file() || !is_program {
        return Err(wrong("is no program"));
    }
    if metadata.permissions().mode() & 0o100 == 0 {
        return Err(wrong("cannot be run"));
    }
    Ok(())
}
