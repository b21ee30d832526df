//! Messages between processes of this program, and the descriptors that travel with them (unix(7), SCM_RIGHTS).
//! Never lives here: what is said.

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The most descriptors that one message carries; the kernel's limit is 253 (unix(7), SCM_MAX_FD).
pub const MOST: usize = 252;

/// Sends one message with at most `MOST` descriptors. Never raises SIGPIPE.
///
/// # Errors
/// Where the other end is closed; where there is no room now, if `at_once`.
pub fn send(channel: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>], at_once: bool) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !with.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let flags = SendFlags::NOSIGNAL | if at_once { SendFlags::DONTWAIT } else { SendFlags::empty() };
    sendmsg(channel, &[IoSlice::new(bytes)], &mut with, flags)?;
    Ok(())
}

/// One message and the descriptors that come with it; no bytes at the end of the channel.
pub fn receive(channel: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut with = RecvAncillaryBuffer::new(&mut space);
    let received =
        retry_on_intr(|| recvmsg(&channel, &mut [IoSliceMut::new(&mut bytes)], &mut with, RecvFlags::CMSG_CLOEXEC));
    let length = match received {
        Err(Errno::CONNRESET) => {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "it was killed before it could start"));
        }
        other => other?.bytes,
    };
    let fds = with.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok((bytes[..length].to_vec(), fds.flatten().collect()))
}
