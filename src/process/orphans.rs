//! Processes whose parent has ended come to this one (prctl(2), PR_SET_CHILD_SUBREAPER), wherever they have gone, and are reaped here when
//! they end.
//! Never lives here: whose they were, and what becomes of them (`kin`).

use super::kin::{self, Process};
use super::now;
use nix::libc;
use nix::sys::prctl;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use signal_hook::consts::SIGCHLD;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

/// As the first thread's, by itself.
const STACK: usize = 8 << 20;
const THAT_IS_ALL: u8 = b'.';

/// How long those are waited for that were killed, as a part of their group, and have still to end.
const ENDING: Duration = Duration::from_millis(300);

/// Does the work in a thread of its own, and reaps meanwhile. To be called by the first thread, which must never start a child: the kernel
/// gives orphans to the first thread that a process has (its `find_new_reaper`), and with `__WNOTHREAD` none but that thread's children
/// are waited for (wait(2)). So nobody here takes the end of a child from whoever has started it and waits for it.
///
/// # Errors
/// Where there is no thread to be had.
pub fn adopt<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    prctl::set_child_subreaper(true)?;
    let (mut woken, wake) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGCHLD, wake.try_clone()?)?;
    thread::scope(|scope| {
        let worker =
            thread::Builder::new().name("session".into()).stack_size(STACK).spawn_scoped(scope, move || {
                let _end = AtLast(wake);
                work()
            })?;
        let mut bytes = [0; 64];
        loop {
            let heard = match woken.read(&mut bytes) {
                Ok(length) => &bytes[..length],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Cannot be; the work is done all the same.
                Err(_) => &[THAT_IS_ALL],
            };
            reap();
            if heard.is_empty() || heard.contains(&THAT_IS_ALL) {
                break;
            }
        }
        // It has told of its panic itself.
        Ok(worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Says that the work is done, however it ends.
struct AtLast(UnixStream);

impl Drop for AtLast {
    fn drop(&mut self) {
        // The other end is open as long as this thread is waited for.
        self.0.write_all(&[THAT_IS_ALL]).ok();
    }
}

fn reap() {
    let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let flags = flags | WaitIdOptions::from_bits_retain(libc::__WNOTHREAD as u32);
    // ECHILD: there are none.
    while matches!(waitid(WaitId::All, flags), Ok(Some(_)) | Err(rustix::io::Errno::INTR)) {}
}

/// Those that are still there, and do not end within a moment, as a user would know them.
pub fn left() -> Vec<String> {
    let mut kin: Vec<Process> = kin::adopted().into_iter().filter_map(Process::of).collect();
    let until = now() + ENDING;
    kin.retain(|kin| !kin.ends_within(until.saturating_duration_since(now())));
    kin.iter().map(|kin| kin::name(kin.pid)).collect()
}
