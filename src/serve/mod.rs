//! A model behind HTTP: embeddings, zero-shot, search, explanations, a page. Owns what travels on the wire, who may
//! ask, and how requests share the model; what is worked out is `eval`'s, `search`'s and `session`'s.

mod body;
mod counted;
mod embeddings;
mod engine;
mod explain;
mod fields;
mod guard;
mod health;
mod inputs;
mod metrics;
mod model;
mod options;
mod page;
mod queue;
mod refusal;
mod routes;
mod search;
mod searched;
mod server;
mod state;
mod token;
mod wire;
mod zero_shot;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::session::Session;

pub use options::{ServeOptions, ServedWith};
pub use searched::Searched;
pub use token::Token;

/// Serves `session` until Ctrl-C, SIGTERM or SIGHUP, then answers what was asked before. `listening` is told once
/// where.
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
    // Half of a request's time, so that the other half is left to work in.
    let (queue, jobs) = queue::queue(options.queue, options.timeout / 2);
    let state = Arc::new(state::Served::new(session, options, with, queue));
    let stop = server::Stop::listen()?;
    let batches = engine::Batches { most: state.options.max_batch, window: state.options.batch_window };
    let model = model::Model::new(session, state.options.max_batch)?;
    let metrics = Arc::clone(&state.metrics);
    let (at_work, model_ends) = std::sync::mpsc::channel();
    let server = server::start(listener, state, stop, model_ends)?;
    listening(address)?;
    // The model works on this thread: it is one of those that share the loops of the CPU's kernels.
    engine::run(&jobs, &model, batches, &metrics);
    drop(at_work);
    server.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the server ended unexpectedly")))
}
