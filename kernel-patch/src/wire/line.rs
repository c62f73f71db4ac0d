//! All ports of a machine over one serial line, for an emulator without other ports. The
//! bytes travel in frames, each of which names its port.

use std::io::{self, BufReader, ErrorKind, Read, Write};

use crate::wire::job::port;

/// The maximum size of a frame.
const MOST: usize = 4096;

/// The variable that names the line to the machine's first process. The kernel takes it
/// from its command line.
pub(crate) const VARIABLE: &str = "KERNEL_PATCH_LINE";

/// Writes bytes for a port to the line.
pub(crate) fn send(line: &mut impl Write, name: &str, bytes: &[u8]) -> io::Result<()> {
    let port = port::ALL.iter().position(|it| *it == name);
    let port = port.expect("the port is one of them") as u8;
    for bytes in bytes.chunks(MOST) {
        line.write_all(&[port])?;
        line.write_all(&(bytes.len() as u16).to_le_bytes())?;
        line.write_all(bytes)?;
    }
    line.flush()
}

/// Forwards the frames of the line to the ports' sinks, until the line ends. Goes on
/// reading after a sink has failed, so that the machine does not block. Drops an incomplete
/// frame, which a machine leaves that goes down.
pub(crate) fn receive(
    line: impl Read,
    sinks: &mut [&mut (dyn Write + Send); port::ALL.len()],
) -> io::Result<()> {
    let mut line = BufReader::new(line);
    let mut bytes = [0; MOST];
    let mut result = Ok(());
    loop {
        let mut head = [0; 3];
        if !whole(&mut line, &mut head)? {
            return result;
        }
        let [port, low, high] = head;
        let length = usize::from(u16::from_le_bytes([low, high]));
        let (Some(sink), Some(bytes)) = (sinks.get_mut(usize::from(port)), bytes.get_mut(..length))
        else {
            let what = format!("a frame of port {port} with {length} bytes");
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        };
        if !whole(&mut line, bytes)? {
            return result;
        }
        result = result.and(sink.write_all(bytes).and_then(|()| sink.flush()));
    }
}

/// Fills `bytes`. Returns whether there were enough.
fn whole(line: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match line.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(line: &[u8]) -> (io::Result<()>, [Vec<u8>; 4]) {
        let mut out: [Vec<u8>; 4] = Default::default();
        let [a, b, c, d] = &mut out;
        let result = receive(line, &mut [a, b, c, d]);
        (result, out)
    }

    #[test]
    fn each_port_gets_its_bytes() {
        let long = vec![7; 2 * MOST + 1];
        let mut line = Vec::new();
        send(&mut line, port::STDOUT, b"to ").unwrap();
        send(&mut line, port::FILES, &long).unwrap();
        send(&mut line, port::STDOUT, b"all").unwrap();
        send(&mut line, port::EXIT, b"").unwrap();
        let (result, [stdout, stderr, files, exit]) = received(&line);
        result.unwrap();
        assert_eq!(stdout, b"to all");
        assert_eq!(files, long);
        assert!(stderr.is_empty() && exit.is_empty());
    }

    #[test]
    fn an_incomplete_frame_is_dropped() {
        let mut line = Vec::new();
        send(&mut line, port::STDERR, b"whole").unwrap();
        send(&mut line, port::EXIT, b"not").unwrap();
        for end in [line.len() - 1, line.len() - 4] {
            let (result, [_, stderr, _, exit]) = received(&line[..end]);
            result.unwrap();
            assert_eq!((&stderr[..], &exit[..]), (&b"whole"[..], &b""[..]));
        }
    }

    #[test]
    fn an_invalid_frame_is_an_error() {
        for line in [[4, 0, 0], [0, 1, 0x10]] {
            assert_eq!(
                received(&line).0.unwrap_err().kind(),
                ErrorKind::InvalidData
            );
        }
    }
}
