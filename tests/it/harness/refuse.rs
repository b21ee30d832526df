//! A system that refuses calls, as a container does: a seccomp filter on the command, which all that it starts inherits. Or rights, by
//! setpriv(1).

use nix::errno::Errno;
use nix::libc;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// From its start on, the command and its children get that error for that call.
pub fn refuse(command: &mut Command, call: libc::c_long, error: Errno) {
    install(command, &[is(0, call as u32)], error);
}

/// As `refuse`, for setsockopt(2) of that option of sockets.
pub fn refuse_option(command: &mut Command, option: i32, error: Errno) {
    let level = is(1, libc::SOL_SOCKET as u32);
    install(command, &[is(0, libc::SYS_setsockopt as u32), level, is(2, option as u32)], error);
}

/// Runs it with what setpriv(1) makes of those words.
pub fn with_rights(command: &mut Command, words: &[&str]) {
    let plain = std::mem::replace(command, Command::new("setpriv"));
    command.args(words).arg("--").arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(plain.get_current_dir().unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// What has to hold: of `struct seccomp_data`, the word there has that value (seccomp(2)).
struct Is {
    offset: u32,
    value: u32,
}

/// The number of the call is the first thing there, its arguments begin at the third word; of the second argument on only the lower half
/// is looked at. All of this is compiled for one architecture, on which that stands first.
fn is(nth: u32, value: u32) -> Is {
    Is { offset: if nth == 0 { 0 } else { 16 + 8 * nth }, value }
}

fn install(command: &mut Command, all: &[Is], error: Errno) {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = Vec::new();
    for (nth, Is { offset, value }) in all.iter().enumerate() {
        let rest = 2 * (all.len() - nth - 1) as u8;
        filter.push(op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, *offset));
        filter.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, rest + 1, *value));
    }
    filter.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | error as u32));
    filter.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: two system calls with structures that outlive them; no memory is allocated between fork and exec.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: see there.
    unsafe { command.pre_exec(install) };
}
