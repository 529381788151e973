//! Serves metrics over HTTP, for Prometheus on this machine. A few threads take one connection each, and ask through the control
//! socket as other clients do: nothing here touches the data path.

use super::process::Identity;
use crate::admin;
use crate::admin::metrics::{self, Text};
use crate::model::error::{Error, Result};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Connections at once; the kernel keeps a few more waiting.
const CONNECTIONS: usize = 4;
/// How long a request may take to arrive, and its answer to be received.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest request, in bytes, and the most lines in it.
const LONGEST: usize = 8 << 10;
const LINES: usize = 64;

/// A bound listener that does not answer yet.
pub(super) struct Exporter {
    listener: TcpListener,
}

/// The apparatus whose metrics are served.
struct Subject {
    who: Identity,
    /// Held while the metrics of the whole pool are gathered: that may wait for disks, and this apparatus's own metrics are available
    /// meanwhile.
    gathering: Mutex<()>,
}

impl Exporter {
    /// Binds the address.
    ///
    /// # Errors
    /// Fails when the address cannot be bound.
    pub(super) fn bind(address: SocketAddr) -> Result<Self> {
        TcpListener::bind(address)
            .map(|listener| Self { listener })
            .map_err(|error| {
                Error::because(format!("metrics at {address}"), error)
                    .hint("choose another port; port 0 takes a free one, which the log names")
            })
    }

    /// Answers requests from now on, until the process ends.
    ///
    /// # Errors
    /// Fails when a thread cannot be started.
    pub(super) fn start(self, who: Identity) -> Result<()> {
        let failed = |error| Error::because("metrics", error);
        let address = self.listener.local_addr().map_err(failed)?;
        let subject = Subject {
            who,
            gathering: Mutex::default(),
        };
        let (listener, subject) = (Arc::new(self.listener), Arc::new(subject));
        for _ in 0..CONNECTIONS {
            let (listener, subject) = (listener.clone(), subject.clone());
            let answer = move || answer_all(&listener, &subject);
            let thread = thread::Builder::new().name("metrics".into()).spawn(answer);
            thread.map_err(failed)?;
        }
        log::info!("metrics at http://{address}/metrics");
        Ok(())
    }
}

fn answer_all(listener: &TcpListener, subject: &Subject) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                // A client that left before the answer is no error.
                let _ = serve(Bounded::new(stream), subject);
            }
            Err(error) => {
                log::warn!("metrics: no connection can be accepted: {error}");
                thread::park_timeout(PATIENCE);
            }
        }
    }
}

/// A connection with a deadline, however slowly the other side writes or reads.
struct Bounded {
    stream: TcpStream,
    until: Instant,
}

impl Bounded {
    fn new(stream: TcpStream) -> Self {
        let until = Instant::now() + PATIENCE;
        Self { stream, until }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Some(left))
    }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// An HTTP response.
struct HttpResponse {
    status: &'static str,
    kind: &'static str,
    body: String,
}

impl HttpResponse {
    fn plain(status: &'static str, body: impl Into<String>) -> Self {
        let kind = "text/plain; charset=utf-8";
        let body = body.into() + "\n";
        Self { status, kind, body }
    }

    fn figures(text: Result<Text>) -> Self {
        match text {
            Ok(text) => Self {
                status: "200 OK",
                kind: "text/plain; version=0.0.4; charset=utf-8",
                body: text.finish(),
            },
            Err(error) => Self::plain("503 Service Unavailable", error.to_string()),
        }
    }
}

fn serve(mut connection: Bounded, subject: &Subject) -> io::Result<()> {
    let (answer, head_only) = match receive(&mut connection)? {
        Ok((method, path)) => match method.as_str() {
            "GET" | "HEAD" => (answer(&path, subject), method == "HEAD"),
            _ => (
                HttpResponse::plain("405 Method Not Allowed", "only GET and HEAD"),
                false,
            ),
        },
        Err(refused) => (refused, false),
    };
    // The answer may have taken a while, so the deadline starts anew.
    connection.until = Instant::now() + PATIENCE;
    let HttpResponse { status, kind, body } = answer;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nAllow: GET, HEAD\r\nConnection: close\r\n\r\n"
    );
    connection.write_all(head.as_bytes())?;
    if !head_only {
        connection.write_all(body.as_bytes())?;
    }
    connection.flush()
}

/// Reads the request. Returns its method and path, or the response to an invalid one.
fn receive(connection: &mut impl Read) -> io::Result<Result<(String, String), HttpResponse>> {
    let mut received = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let len = connection.read(&mut buffer)?;
        received.extend_from_slice(&buffer[..len]);
        let mut lines = [httparse::EMPTY_HEADER; LINES];
        let mut request = httparse::Request::new(&mut lines);
        match request.parse(&received) {
            Ok(httparse::Status::Complete(_)) => {
                let owned = |text: Option<&str>| text.unwrap_or_default().to_owned();
                return Ok(Ok((owned(request.method), owned(request.path))));
            }
            Ok(httparse::Status::Partial) if len == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(httparse::Status::Partial) if received.len() < LONGEST => (),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Ok(Err(HttpResponse::plain(
                    "431 Request Header Fields Too Large",
                    "the request is too long",
                )));
            }
            Err(error) => return Ok(Err(HttpResponse::plain("400 Bad Request", error.to_string()))),
        }
    }
}

fn answer(path: &str, subject: &Subject) -> HttpResponse {
    match path.split('?').next().unwrap_or_default() {
        "/metrics" => HttpResponse::figures(own(subject)),
        "/metrics/pool" => match subject.gathering.try_lock() {
            Ok(_turn) => HttpResponse::figures(whole_pool(subject)),
            Err(_) => HttpResponse::plain(
                "503 Service Unavailable",
                "another request for the pool's metrics is being answered",
            ),
        },
        _ => HttpResponse::plain(
            "404 Not Found",
            "/metrics: this apparatus\n/metrics/pool: the whole pool, as vctl metrics prints it",
        ),
    }
}

fn own(subject: &Subject) -> Result<Text> {
    let figures = subject.who.figures()?;
    let mut text = Text::default();
    metrics::of_apparatus(&mut text, &figures);
    Ok(text)
}

fn whole_pool(subject: &Subject) -> Result<Text> {
    metrics::of_pool(&subject.who.pool, &mut *admin::open(&subject.who.pool)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(bytes: &[u8]) -> Result<(String, String), &'static str> {
        receive(&mut &*bytes).unwrap().map_err(|answer| answer.status)
    }

    #[test]
    fn requests_are_read_and_what_is_none_is_refused() {
        let request = b"GET /metrics?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(received(request), Ok(("GET".into(), "/metrics?x=1".into())));
        assert_eq!(received(b"\x16\x03\x01\x02\x00"), Err("400 Bad Request"));
        let endless = vec![b'a'; 2 * LONGEST];
        let too_long = "431 Request Header Fields Too Large";
        assert_eq!(received(&[b"GET /", endless.as_slice()].concat()), Err(too_long));
        let many = "A: b\r\n".repeat(LINES + 1);
        assert_eq!(
            received(format!("GET / HTTP/1.1\r\n{many}").as_bytes()),
            Err(too_long)
        );
        let cut = receive(&mut &b"GET / HT"[..]).map(|_| ()).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }
}
