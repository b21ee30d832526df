//! The memory of a thread that waits at a gate (process_vm_readv(2)). The caller sees to it that it does.
//! Never lives here: what stands there.

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use std::io::{IoSlice, IoSliceMut};

/// # Errors
/// EFAULT for an address that is none; EPERM where it is not allowed.
pub fn read(thread: i32, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    let from = [RemoteIoVec { base: address as usize, len: length }];
    let read = process_vm_readv(Pid::from_raw(thread), &mut [IoSliceMut::new(&mut bytes)], &from)?;
    if read == length { Ok(bytes) } else { Err(Errno::EFAULT) }
}

pub fn write(thread: i32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let to = [RemoteIoVec { base: address as usize, len: bytes.len() }];
    let written = process_vm_writev(Pid::from_raw(thread), &[IoSlice::new(bytes)], &to)?;
    if written == bytes.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// What the kernel says of a process that may not be looked into.
pub fn forbidden(error: Errno) -> bool {
    matches!(error, Errno::EPERM | Errno::EACCES | Errno::ENOSYS)
}
