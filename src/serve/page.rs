//! The page at `/`: three files that are part of the program, so that nothing is fetched from anywhere.

use axum::http::header;
use axum::response::{IntoResponse, Response};

const HTML: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/page.js");
const WORDS: &str = include_str!("page/words.js");
/// A square with a ring: browsers ask for one.
const ICON: &str = include_str!("page/icon.svg");

pub(super) async fn html() -> Response {
    file("text/html; charset=utf-8", HTML)
}

pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", STYLE)
}

pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", SCRIPT)
}

pub(super) async fn words() -> Response {
    file("text/javascript; charset=utf-8", WORDS)
}

pub(super) async fn icon() -> Response {
    file("image/svg+xml", ICON)
}

fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
