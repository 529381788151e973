//! Figures over HTTP, for Prometheus on this machine. A few threads of their own take one connection each, and ask through the control
//! socket as everybody does: nothing here touches the data path.

use super::process::Identity;
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::metrics::{self, Text};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Connections at once; the kernel keeps a few more waiting.
const CONNECTIONS: usize = 4;
/// For a request to arrive, and for its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest request, in bytes, and most lines in it.
const LONGEST: usize = 8 << 10;
const LINES: usize = 64;

/// Listens, and does not answer yet.
pub(super) struct Exporter {
    listener: TcpListener,
}

/// Whose figures they are.
struct Subject {
    who: Identity,
    /// One look at the whole pool at a time: it may wait for disks, and this apparatus's own figures are to be had then too.
    looking: Mutex<()>,
}

impl Exporter {
    /// # Errors
    /// When the address cannot be had.
    pub(super) fn bind(address: SocketAddr) -> Result<Self> {
        TcpListener::bind(address)
            .map(|listener| Self { listener })
            .map_err(|error| {
                Error::because(format!("metrics at {address}"), error)
                    .hint("choose another port; port 0 takes any that is free, and the log says which")
            })
    }

    /// Answers from now on, until the process ends.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub(super) fn start(self, who: Identity) -> Result<()> {
        let failed = |error| Error::because("metrics", error);
        let address = self.listener.local_addr().map_err(failed)?;
        let subject = Subject {
            who,
            looking: Mutex::default(),
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
                // Whoever went away before the answer does not want it.
                let _ = serve(Bounded::new(stream), subject);
            }
            Err(error) => {
                log::warn!("metrics: no connection can be taken: {error}");
                thread::park_timeout(PATIENCE);
            }
        }
    }
}

/// A connection that ends in time, however slowly the other side speaks or listens.
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

/// What is answered.
struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
}

impl Answer {
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
    let (answer, head_only) = match hear(&mut connection)? {
        Ok((method, path)) => match method.as_str() {
            "GET" | "HEAD" => (answer(&path, subject), method == "HEAD"),
            _ => (
                Answer::plain("405 Method Not Allowed", "only GET and HEAD"),
                false,
            ),
        },
        Err(refused) => (refused, false),
    };
    // It may have taken a while to find the answer.
    connection.until = Instant::now() + PATIENCE;
    let Answer { status, kind, body } = answer;
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

/// Method and path of the request, or what to answer to one that cannot be read.
fn hear(connection: &mut impl Read) -> io::Result<Result<(String, String), Answer>> {
    let mut said = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let len = connection.read(&mut buffer)?;
        said.extend_from_slice(&buffer[..len]);
        let mut lines = [httparse::EMPTY_HEADER; LINES];
        let mut request = httparse::Request::new(&mut lines);
        match request.parse(&said) {
            Ok(httparse::Status::Complete(_)) => {
                let owned = |text: Option<&str>| text.unwrap_or_default().to_owned();
                return Ok(Ok((owned(request.method), owned(request.path))));
            }
            Ok(httparse::Status::Partial) if len == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(httparse::Status::Partial) if said.len() < LONGEST => (),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Ok(Err(Answer::plain(
                    "431 Request Header Fields Too Large",
                    "the request is too long",
                )));
            }
            Err(error) => return Ok(Err(Answer::plain("400 Bad Request", error.to_string()))),
        }
    }
}

fn answer(path: &str, subject: &Subject) -> Answer {
    match path.split('?').next().unwrap_or_default() {
        "/metrics" => Answer::figures(own(subject)),
        "/metrics/pool" => match subject.looking.try_lock() {
            Ok(_turn) => Answer::figures(whole_pool(subject)),
            Err(_) => Answer::plain("503 Service Unavailable", "the pool is being looked at already"),
        },
        _ => Answer::plain(
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
    metrics::of_pool(&subject.who.pool, &mut *ops::open(&subject.who.pool)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(bytes: &[u8]) -> Result<(String, String), &'static str> {
        hear(&mut &*bytes).unwrap().map_err(|answer| answer.status)
    }

    #[test]
    fn requests_are_read_and_what_is_none_is_refused() {
        let request = b"GET /metrics?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(heard(request), Ok(("GET".into(), "/metrics?x=1".into())));
        assert_eq!(heard(b"\x16\x03\x01\x02\x00"), Err("400 Bad Request"));
        let endless = vec![b'a'; 2 * LONGEST];
        let too_long = "431 Request Header Fields Too Large";
        assert_eq!(heard(&[b"GET /", endless.as_slice()].concat()), Err(too_long));
        let many = "A: b\r\n".repeat(LINES + 1);
        assert_eq!(
            heard(format!("GET / HTTP/1.1\r\n{many}").as_bytes()),
            Err(too_long)
        );
        let cut = hear(&mut &b"GET / HT"[..]).map(|_| ()).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }
}
