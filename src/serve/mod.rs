//! A model behind HTTP: embeddings, zero-shot, search, explanations, a page. Owns what travels on the wire, who may ask,
//! and how requests share the model; what is worked out is `eval`'s, `search`'s and `session`'s.

mod body;
mod embeddings;
mod engine;
mod explain;
mod fields;
mod guard;
mod health;
mod inputs;
mod metrics;
mod page;
mod queue;
mod refusal;
mod routes;
mod search;
mod server;
mod token;
mod zero_shot;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::eval::Classifier;
use crate::session::Session;

pub use search::Searched;
pub use token::Token;

/// How a model is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen.
    pub host: IpAddr,
    /// 0 takes one that is free.
    pub port: u16,
    /// What requests must bring; elsewhere than on the machine itself nothing is served without one.
    pub token: Option<Token>,
    /// What the model is called in answers.
    pub name: String,
    /// How long a batch waits for more.
    pub batch_window: Duration,
    /// Most images or texts that go through a tower together.
    pub max_batch: usize,
    /// Most that wait for the model; what comes on top is refused.
    pub queue: usize,
    /// Longest body of a request, in bytes.
    pub max_body: usize,
    /// How long a request may take, from its head to its answer.
    pub timeout: Duration,
}

/// What is served beside embeddings and explanations.
#[derive(Default)]
pub struct ServedWith {
    /// Classes, for `/zero-shot`.
    pub classifier: Option<Classifier>,
    /// An index, for `/search`.
    pub searched: Option<Searched>,
}

/// Serves `session` until Ctrl-C, SIGTERM or SIGHUP, then answers what was asked before. `listening` is told once where.
///
/// # Errors
/// The address cannot be listened on, or is open to others and there is no token.
pub fn serve(
    session: &Session,
    options: ServeOptions,
    with: ServedWith,
    listening: impl FnOnce(SocketAddr) -> Result<()>,
) -> Result<()> {
    ensure!(
        options.host.is_loopback() || options.token.is_some(),
        "--host {} is open to other machines; name a --token-file for that",
        options.host
    );
    let address = SocketAddr::new(options.host, options.port);
    let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
    let address = listener.local_addr().context("the address that was listened on")?;
    let (queue, engine) = queue::queue(options.queue);
    let state = Arc::new(routes::Served::new(session, options, with, queue));
    let stop = server::Stop::listen()?;
    let max_batch = state.options.max_batch;
    let batch_window = state.options.batch_window;
    let metrics = Arc::clone(&state.metrics);
    let server = server::start(listener, state, stop)?;
    listening(address)?;
    // The model works on this thread: it is one of those that share the loops of the CPU's kernels.
    engine.run(session, max_batch, batch_window, &metrics)?;
    server.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the server ended unexpectedly")))
}
