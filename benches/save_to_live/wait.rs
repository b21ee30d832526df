//! The clock, and waiting for what does not tell: asked again and again, with a limit, until it is so or the user has
//! enough.

use crate::Result;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on these signals make the next wait an error, so that everything is ended on the way out.
pub fn heed_signals() -> Result<()> {
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED))?;
    }
    Ok(())
}

#[allow(clippy::disallowed_methods)] // Time is what is measured here.
pub fn now() -> Instant {
    Instant::now()
}

/// The length of a measurement, or of the interval between two questions.
#[allow(clippy::disallowed_methods)] // Nothing that could tell is waited for in this way.
pub fn pause(time: Duration) -> Result<()> {
    std::thread::sleep(time);
    if INTERRUPTED.load(Ordering::Relaxed) {
        return Err("interrupted".into());
    }
    Ok(())
}

/// Asks at these intervals until there is an answer; `None` when there was none before the limit.
pub fn until<T>(limit: Duration, interval: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let end = now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        if now() >= end {
            return Ok(None);
        }
        pause(interval)?;
    }
}
