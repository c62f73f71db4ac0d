//! Passing file descriptors to another process through a socket.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Sends files.
pub fn send<F: AsFd, const N: usize>(socket: &UnixStream, files: [F; N]) -> Result<()> {
    let files = files.each_ref().map(|file| file.as_fd().as_raw_fd());
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &[ControlMessage::ScmRights(&files)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

/// Receives files.
pub fn receive<const N: usize>(socket: &UnixStream) -> Result<[OwnedFd; N]> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; N]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut data,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let files = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(files) => <[RawFd; N]>::try_from(files).ok(),
        _ => None,
    });
    // SAFETY: the files came with this message, and have these new numbers.
    let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(files
        .context("no file descriptors were received")?
        .map(owned))
}
