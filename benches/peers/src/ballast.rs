//! Memory for a server to be heavy with: `BALLAST_MB` of it, resident and in use. What has a page table of half a gigabyte
//! is what fork(2) has to copy.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const PAGE: usize = 4096 / size_of::<AtomicU64>();

static BALLAST: OnceLock<Vec<AtomicU64>> = OnceLock::new();

/// Allocates it and writes to every page.
pub fn take_on() {
    let megabytes: usize = std::env::var("BALLAST_MB").ok().and_then(|said| said.parse().ok()).unwrap_or(0);
    let words = megabytes * 1024 * 1024 / size_of::<AtomicU64>();
    BALLAST.get_or_init(|| (0..words).map(|word| AtomicU64::new(word as u64)).collect());
}

/// Writes to one page, another one each time, as a server writes to its cache when it answers.
pub fn touch() {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let Some(ballast) = BALLAST.get().filter(|ballast| !ballast.is_empty()) else { return };
    // A prime number of pages further: neighbours share a page of the page table.
    let word = NEXT.fetch_add(7919 * PAGE, Ordering::Relaxed) % ballast.len();
    ballast[word].fetch_add(1, Ordering::Relaxed);
}
