//! Passing file descriptors to another process through a socket.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

pub fn send<F: AsFd, const N: usize>(socket: &UnixStream, files: [F; N]) -> Result<()> {
    let files = files.each_ref().map(|file| file.as_fd().as_raw_fd());
    let (data, rights) = ([IoSlice::new(b"x")], [ControlMessage::ScmRights(&files)]);
    sendmsg::<()>(socket.as_raw_fd(), &data, &rights, MsgFlags::empty(), None)?;
    Ok(())
}

pub fn receive<const N: usize>(socket: &UnixStream) -> Result<[OwnedFd; N]> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; N]);
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_CMSG_CLOEXEC);
    let message = recvmsg::<()>(fd, &mut data, Some(&mut space), flags)?;
    let files = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(files) => <[RawFd; N]>::try_from(files).ok(),
        _ => None,
    });
    // SAFETY: the files came with this message, and have these new numbers.
    let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    let files = files.context("no file descriptors were received")?;
    Ok(files.map(owned))
}
