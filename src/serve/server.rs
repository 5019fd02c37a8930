//! Sockets: who is let in, how long a head may take, and how the server stops.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::{Notify, Semaphore};

use super::counted::Counted;
use super::routes::router;
use super::state::Served;
use super::wire::Wire;
use crate::ops::with_nohup_kept;

/// Connections at once; more wait until one ends.
const CONNECTIONS: usize = 512;
/// How long the head of a request may take, and how long a connection may lie idle.
const HEAD: Duration = Duration::from_secs(10);
/// Longest head, and what is read ahead of a body.
const MOST_HEAD: usize = 64 << 10;
/// After an error of the system (no more files, say) the next try waits.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits for Ctrl-C, SIGTERM or SIGHUP.
pub(super) struct Stop(Arc<Notify>);

impl Stop {
    /// Listens from now on; the second signal ends the process at once.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn listen() -> Result<Self> {
        let (notify, asked) = (Arc::new(Notify::new()), AtomicBool::new(false));
        let stop = Self(Arc::clone(&notify));
        let handler = move || {
            if asked.swap(true, Ordering::SeqCst) {
                #[allow(clippy::exit)]
                std::process::exit(130);
            }
            tracing::info!("stopping as soon as what was asked is answered; press Ctrl-C again to stop at once");
            notify.notify_one();
        };
        with_nohup_kept(|| ctrlc::set_handler(handler)).map_err(|e| anyhow!("waiting for Ctrl-C: {e}"))?;
        Ok(stop)
    }
}

/// Serves on a thread of its own, which ends when all that was asked before the stop is answered. A model that is still
/// at work for nobody has until `--timeout` to end, which the other side of `model` going away tells; then the process
/// ends without it.
///
/// # Errors
/// The system allows no thread.
pub(super) fn start(
    listener: TcpListener,
    state: Arc<Served>,
    stop: Stop,
    model: Receiver<()>,
) -> Result<JoinHandle<Result<()>>> {
    listener.set_nonblocking(true).context("the listening socket")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(state.files_and_decoders() + 2)
        .build()
        .context("threads for the server")?;
    let timeout = state.options.timeout;
    let work = move || {
        let served = runtime.block_on(accept(listener, state, stop));
        // A decoder that is still at work has nobody to answer to.
        runtime.shutdown_background();
        if model.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the model is still at work on what nobody waits for; ending without it");
            #[allow(clippy::exit)]
            std::process::exit(1);
        }
        served
    };
    std::thread::Builder::new().name("server".into()).spawn(work).context("a thread for the server")
}

async fn accept(listener: TcpListener, state: Arc<Served>, stop: Stop) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener).context("the listening socket")?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let open = GracefulShutdown::new();
    let timeout = state.options.timeout;
    let router = router(state);
    let mut stopped = std::pin::pin!(stop.0.notified());
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        let mut next = std::pin::pin!(next);
        let arrived = std::future::poll_fn(|cx| {
            if stopped.as_mut().poll(cx).is_ready() {
                return std::task::Poll::Ready(None);
            }
            next.as_mut().poll(cx).map(Some)
        });
        let Some((accepted, place)) = arrived.await else { break };
        let (Ok((socket, _)), Ok(place)) = (accepted, place) else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Answers are short: they go at once.
        drop(socket.set_nodelay(true));
        let connection = open.watch(connection(Wire::new(socket, timeout), Counted::new(router.clone())));
        tokio::spawn(async move {
            // A client that went away, or sent no HTTP, was told what it could be told.
            drop(connection.await);
            drop(place);
        });
    }
    drop(listener);
    drop(router);
    if tokio::time::timeout(timeout + HEAD, open.shutdown()).await.is_err() {
        tracing::warn!("some clients did not take their answers in time");
    }
    Ok(())
}

fn connection(socket: Wire, requests: Counted) -> http1::Connection<Wire, Counted> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MOST_HEAD)
        .serve_connection(socket, requests)
}
