//! The socket of a connection, which ends where its client does not read.

use std::io::{Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Bytes that a client must take before its time starts anew.
const STEP: usize = 64 << 10;

/// A socket whose writes fail where the client takes less than [`STEP`] bytes of an answer within `patience`.
pub(super) struct Wire {
    socket: TokioIo<TcpStream>,
    patience: Duration,
    /// Runs from the first write that had to wait, until all is written or `STEP` more bytes are.
    waits: Option<Pin<Box<Sleep>>>,
    taken: usize,
}

impl Wire {
    pub fn new(socket: TcpStream, patience: Duration) -> Self {
        Self { socket: TokioIo::new(socket), patience, waits: None, taken: 0 }
    }

    /// What came of a write, or that the client's time is over.
    fn bounded(&mut self, cx: &mut Context<'_>, written: Poll<Result<usize, Error>>) -> Poll<Result<usize, Error>> {
        if let Poll::Ready(written) = written {
            self.taken += written.as_ref().map_or(0, |&bytes| bytes);
            if self.taken >= STEP {
                (self.waits, self.taken) = (None, 0);
            }
            return Poll::Ready(written);
        }
        if self.waits.is_none() {
            self.taken = 0;
        }
        let waits = self.waits.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.patience)));
        waits.as_mut().poll(cx).map(|()| Err(Error::new(ErrorKind::TimedOut, "the client does not read")))
    }
}

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize, Error>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.bounded(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.bounded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// Comes after the last byte of what there was to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        (self.waits, self.taken) = (None, 0);
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
