//! What is served where.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};

use super::refusal::Refusal;
use super::state::Served;
use super::{embeddings, explain, guard, health, page, search, zero_shot};

pub(super) fn router(state: Arc<Served>) -> Router {
    let nowhere =
        || async { Refusal::new(StatusCode::NOT_FOUND, "there is nothing here; docs/serve.md lists the paths") };
    let method = || async { Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method") };
    Router::new()
        .route("/health", get(health::health))
        .route("/metrics", get(health::metrics))
        .route("/", get(page::html))
        .route("/style.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/words.js", get(page::words))
        .route("/icon.svg", get(page::icon))
        .route("/zero-shot", post(zero_shot::zero_shot))
        .route("/search", post(search::search))
        .route("/explain", post(explain::explain_pair))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .fallback(nowhere)
        .method_not_allowed_fallback(method)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&state), guard::guard))
        .with_state(state)
}
