//! What every request passes: who may ask, how long it may take, what becomes of a bug, and what is counted.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::refusal::Refusal;
use super::state::Served;

/// Paths as counts and logs name them; a path that is none of these may hold anything.
const ROUTES: [&str; 11] = [
    "/",
    "/style.css",
    "/page.js",
    "/words.js",
    "/icon.svg",
    "/v1/embeddings",
    "/zero-shot",
    "/search",
    "/explain",
    "/health",
    "/metrics",
];

/// The route of `path`, in words of ours.
fn route(path: &str) -> &'static str {
    ROUTES.into_iter().find(|route| *route == path).unwrap_or("other")
}

/// What needs no token: none of it tells of the data.
const OPEN: [&str; 6] = ["/", "/style.css", "/page.js", "/words.js", "/icon.svg", "/health"];

/// Said with every answer: nothing is kept by browsers and proxies, framed, or guessed at.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
];

pub(super) async fn guard(State(state): State<Arc<Served>>, request: Request, next: Next) -> Response {
    let (begun, route) = (Instant::now(), route(request.uri().path()));
    let answered = match may_ask(&state, &request) {
        Ok(()) => answer(&state, request, next).await,
        Err(refusal) => {
            drop(tokio::time::timeout(state.options.timeout, state.bodies.read_on(request)).await);
            Err(refusal)
        }
    };
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    let (status, took) = (response.status(), begun.elapsed());
    state.metrics.request(route, status, took);
    // The route is a word of ours, so that nothing of what was asked gets into logs.
    tracing::debug!("{route}: {} in {} ms", status.as_u16(), took.as_millis());
    response
}

/// On a task of its own: a panic ends that, and becomes an answer. A request that nobody waits for is given up.
async fn answer(state: &Served, request: Request, next: Next) -> Result<Response, Refusal> {
    let task = Task(tokio::spawn(next.run(request)));
    let mut task = std::pin::pin!(task);
    let ended = tokio::time::timeout(
        state.options.timeout,
        std::future::poll_fn(|cx| std::pin::Pin::new(&mut task.0).poll(cx)),
    );
    match ended.await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(_)) => Err(Refusal::failed()),
        Err(_) => {
            let seconds = state.options.timeout.as_secs_f64();
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, format!("the request took longer than {seconds} s")))
        }
    }
}

struct Task(tokio::task::JoinHandle<Response>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn may_ask(state: &Served, request: &Request) -> Result<(), Refusal> {
    let headers = request.headers();
    let sent = text(headers, header::AUTHORIZATION).and_then(|value| {
        let (scheme, word) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(word.trim())
    });
    let token = state.options.token.as_ref();
    let has_token = token.zip(sent).is_some_and(|(token, sent)| token.is(sent));
    if state.options.host.is_loopback() {
        from_here(headers, has_token)?;
    }
    if has_token || token.is_none() || OPEN.contains(&request.uri().path()) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "needs the token, as `Authorization: Bearer TOKEN`"))
}

/// Refuses what a page of the web makes a browser on this machine ask: under a name of its own that leads here
/// (DNS rebinding), or from a page of another origin. Who has the token was given it, and may come from any page: a
/// proxy in front shows pages of ours under its own origin.
fn from_here(headers: &HeaderMap, has_token: bool) -> Result<(), Refusal> {
    let refused =
        |what: &str| Err(Refusal::new(StatusCode::FORBIDDEN, format!("{what}; ask as 127.0.0.1 or localhost")));
    let Some(host) = text(headers, header::HOST) else { return refused("the request names no host") };
    if !is_local(host) {
        return refused("the host that the request names is not this machine");
    }
    if has_token {
        return Ok(());
    }
    let same_origin = |origin: &str| origin.strip_prefix("http://").is_some_and(|origin| origin == host);
    if headers.contains_key(header::ORIGIN) && !text(headers, header::ORIGIN).is_some_and(same_origin) {
        return refused("the request comes from a page of another origin");
    }
    match text(headers, HeaderName::from_static("sec-fetch-site")) {
        Some("cross-site" | "same-site") => refused("the request comes from a page of another origin"),
        _ => Ok(()),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the authority `host` is this machine, whatever its port: tunnels have others.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for host in ["localhost", "LOCALHOST:8417", "127.0.0.1", "127.0.0.1:80", "127.8.9.1:1", "[::1]", "[::1]:8417"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8417",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "0.0.0.0",
            "192.168.1.2:8417",
            "127.0.0.1:80:80",
            "[::2]",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let asked = |pairs: &[(&'static str, &'static str)]| {
            let of = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
            from_here(&pairs.iter().map(of).collect(), false)
        };
        let host = ("host", "127.0.0.1:8417");
        assert!(asked(&[host]).is_ok());
        assert!(asked(&[host, ("origin", "http://127.0.0.1:8417"), ("sec-fetch-site", "same-origin")]).is_ok());
        for bad in [
            &[][..],
            &[("host", "evil.example:8417")],
            &[host, ("origin", "http://evil.example")],
            &[host, ("origin", "http://127.0.0.1:3000")],
            &[host, ("origin", "https://127.0.0.1:8417")],
            &[host, ("origin", "null")],
            &[host, ("sec-fetch-site", "cross-site")],
        ] {
            assert_eq!(asked(bad).unwrap_err().status, StatusCode::FORBIDDEN, "{bad:?}");
        }
    }
}
